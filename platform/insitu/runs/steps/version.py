"""The version of what fetch and publish make of the same files; part of every run's identity."""

# Raise it when a change makes other results of the same algorithm output.
PUBLISH_VERSION = "1"
