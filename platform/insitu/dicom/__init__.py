"""DICOM without a database: attributes, codes, geometry, writing SEG and SR, UIDs, checking."""
