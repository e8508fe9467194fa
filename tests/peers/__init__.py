"""Servers of others that tests and measurements talk to: Orthanc and DCMTK's, from Debian packages, on loopback only."""
