"""What a platform needs beside its processes: secrets, roles and databases, schema, bucket, people, shipped packages.

`insitu up` does it at its start (supervisor.bootstrap), a cluster by `python -m insitu_services.prepare`.
Not here: the PostgreSQL server itself (database_server).
"""
