"""An installed algorithm as a row, enough for runs that are never carried out."""

import pytest
from psycopg.types.json import Jsonb

from insitu.database import Database

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def algorithm(database: Database) -> str:
    """Digest of an installed algorithm; the projects `inbox` and `trial` exist."""
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('inbox'), ('trial')")
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES (%s, 'tissue', '1.0.0', %s, '/nowhere', 'test')",
            (DIGEST, Jsonb({})),
        )
    return DIGEST
