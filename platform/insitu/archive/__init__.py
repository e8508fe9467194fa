"""The research PACS: the one write path, blobs, index, completeness, retrieval, integrity."""
