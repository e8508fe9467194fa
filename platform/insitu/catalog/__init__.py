"""Metadata search over series."""
