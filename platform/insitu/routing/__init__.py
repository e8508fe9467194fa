"""Rules: what happens to a complete series, and why."""
