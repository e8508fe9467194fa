"""What piled up while the dispatcher was away is worked off in batches, without its memory growing (OPS-6)."""

from __future__ import annotations

import resource
import uuid
from pathlib import Path

import pytest

from insitu.archive import completeness
from insitu.database import Database
from insitu.settings import Settings

EVENTS = 200_000


@pytest.mark.timeout(300)
def test_two_hundred_thousand_waiting_events_cost_no_memory(database: Database, tmp_path: Path) -> None:
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO series_event (series, receipt) SELECT n %% 1000, %s::uuid FROM generate_series(1, %s) AS n",
            (str(uuid.uuid4()), EVENTS),
        )
    settings = Settings(home=tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batches = 0
    while True:
        with database.transaction() as connection:
            if not completeness.absorb(connection, settings):
                break
        batches += 1
    assert batches >= EVENTS // completeness.EVENTS_AT_ONCE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    with database.transaction() as connection:
        assert connection.execute("SELECT 1 FROM series_event LIMIT 1").fetchone() is None
