"""Launchers: where the steps of an execution are carried out."""
