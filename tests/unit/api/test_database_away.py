"""What a caller is told whose statement the database did not finish (OPS-6)."""

from __future__ import annotations

import psycopg
from fastapi import FastAPI
from fastapi.testclient import TestClient

from insitu_services.api import problems


def test_a_database_that_goes_away_in_mid_request_asks_to_try_again() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    def cut_off() -> None:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    answer = TestClient(app).get("/")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"
    assert answer.json()["title"] == "The database does not answer"
