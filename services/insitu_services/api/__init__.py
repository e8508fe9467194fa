"""The HTTP server: DICOMweb, API, run gateway, web pages."""
