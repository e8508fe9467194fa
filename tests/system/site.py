"""The local platform of the system tests as a site: its command line, and its processes to be signalled."""

from __future__ import annotations

import subprocess

import httpx
import psutil

from insitu import processes
from tests.site import Site
from tests.system.running import Running


class LocalSite(Site):
    """The API of a running platform with the admin's token, and its DICOM port."""

    def __init__(self, running: Running) -> None:
        self.running = running
        http = httpx.Client(
            base_url=running.http_url,
            headers={"Authorization": f"Bearer {running.admin_token}"},
            timeout=60,
            trust_env=False,
        )
        super().__init__(http, ("127.0.0.1", running.dicom_port))

    def insitu(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line on the site's home."""
        return self.running.insitu(*arguments)

    def signal(self, name: str, number: int) -> None:
        """Signal a supervised process and its children; wait for it first, where it is being started again."""

        def pid() -> int | None:
            record = next(item for item in self.running.state.processes if item.name == name)
            return record.pid if processes.alive(record.pid, record.ticks) else None

        found: int = self.until(f"a running {name}", pid, lambda answer: answer is not None)
        try:
            family = [*psutil.Process(found).children(recursive=True), psutil.Process(found)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
