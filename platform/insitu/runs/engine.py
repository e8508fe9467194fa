"""The workflow engine as the dispatcher sees it: Airflow's REST API (v2), DAG runs posted with the execution's id.

Not here: what the DAG does (dags/algorithm_run.py, insitu_operators).
"""

from __future__ import annotations

import time

import httpx

from insitu.errors import Unavailable

DAG = "algorithm_run"
TOKEN_SECONDS = 600.0  # a token is asked for again after this time; Airflow's own are valid for a day


class Engine:
    """Client of one Airflow API server.

    Parameters
    ----------
    url : str
        Base URL, for example `http://127.0.0.1:8793`.
    user, password : str
        An account of Airflow's simple auth manager.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=15, trust_env=False)
        self._login = {"username": user, "password": password}
        self._token: tuple[str, float] | None = None

    def _headers(self) -> dict[str, str]:
        if self._token is None or time.monotonic() - self._token[1] > TOKEN_SECONDS:
            answer = self._client.post("/auth/token", json=self._login)
            answer.raise_for_status()
            self._token = (answer.json()["access_token"], time.monotonic())
        return {"Authorization": f"Bearer {self._token[0]}"}

    def _call(self, method: str, path: str, **options: object) -> httpx.Response:
        try:
            answer = self._client.request(method, path, headers=self._headers(), **options)  # type: ignore[arg-type]
            if answer.status_code == 401:  # Airflow was set up anew
                self._token = None
                answer = self._client.request(method, path, headers=self._headers(), **options)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            raise Unavailable(
                "Airflow does not answer", why=type(error).__name__, remedy="Look at `insitu status`"
            ) from error
        return answer

    def start(self, execution: str) -> bool:
        """Post the DAG run of an execution; False if it was already there (409).

        Raises
        ------
        Unavailable
            Airflow does not answer, or does not know the DAG yet.
        """
        body = {"dag_run_id": execution, "logical_date": None, "conf": {"execution": execution}}
        answer = self._call("POST", f"/api/v2/dags/{DAG}/dagRuns", json=body)
        if answer.status_code == 409:
            return False
        if answer.status_code >= 400:
            raise Unavailable("Airflow did not take the run", value=str(answer.status_code), why=answer.text[:300])
        return True

    def state(self, execution: str) -> str | None:
        """State of the DAG run: queued, running, success, failed; None if Airflow does not know it."""
        answer = self._call("GET", f"/api/v2/dags/{DAG}/dagRuns/{execution}")
        if answer.status_code == 404:
            return None
        if answer.status_code >= 400:
            raise Unavailable("Airflow did not answer for a run", value=str(answer.status_code), why=answer.text[:300])
        return str(answer.json()["state"])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
