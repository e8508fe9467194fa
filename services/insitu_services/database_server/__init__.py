"""The PostgreSQL server that comes with the platform: its settings, and its start in a cluster.

Not here: when it is started on one machine (supervisor).
"""
