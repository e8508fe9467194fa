"""The run gateway as a process of its own, for a cluster: so the steps of runs reach a port behind which there is nothing else.

Not here: its routes (insitu_services.api.gateway), which on one machine the api serves.
"""
