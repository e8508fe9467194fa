"""Runs: identity, executions, states, admission, reconciliation."""
