"""Talking to other systems as their client: DIMSE as a service class user, and DICOMweb."""
