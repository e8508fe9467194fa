"""Ends well without having written anything."""
