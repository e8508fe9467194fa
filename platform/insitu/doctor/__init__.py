"""What would keep the platform from working, on one machine (machine) or on Kubernetes (examination), each with its remedy.

Not here: the command (insitu.cli.doctor), and how a running platform tells its own state (insitu.health).
"""
