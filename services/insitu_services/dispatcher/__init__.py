"""The loop that turns events into runs."""
