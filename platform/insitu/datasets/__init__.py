"""Named, versioned lists of series."""
