"""Algorithm packages: manifest, selector, registry."""
