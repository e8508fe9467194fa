"""The DICOM storage service."""
