"""The local platform as one process tree: `insitu up`.

Not here: what the processes do (api, receiver, dispatcher) and how the state is shown (insitu.cli.status).
"""
