"""`python -m tests.conformance`: run the suite against our server and Orthanc, and write docs/conformance-dicomweb.md."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import uuid
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "dicomweb"))

from insitu import postgres
from insitu.database import Database, migrate
from insitu_dicomweb_check.check import REGISTER
from insitu_dicomweb_check.command import chosen
from insitu_dicomweb_check.runner import Report, run
from insitu_dicomweb_check.server import Server
from tests.peers import orthanc

from . import page
from .servers import Service, our_server, package_version


def check(service: Service) -> Report:
    """All checks against a service."""
    server = Server(service.url, service.headers)
    try:
        return run(server, chosen(()), settle=service.settle, progress=lambda outcome: print(".", end="", flush=True))
    finally:
        server.close()
        print()


def check_ours() -> Report:
    """Start a PostgreSQL and our server, and check it."""
    root = Path(tempfile.mkdtemp(prefix="insitu-conformance-"))
    root.chmod(0o755)  # PostgreSQL runs as another user where this is root
    data, socket, password = root / "data", root / "socket", uuid.uuid4().hex
    try:
        postgres.prepare(data, socket, root, password)
        with (root / "log").open("w") as log:
            process = subprocess.Popen(
                postgres.command(data, socket, root), stdout=log, stderr=log, **postgres.identity()
            )
        try:
            postgres.wait_ready(socket, password)
            dsn = f"host={socket} user=postgres password={password} dbname=postgres"
            migrate(dsn)
            database = Database(dsn, minimum=1, maximum=8)
            with our_server(database, root / "home") as service:
                report = check(service)
            database.close()
            return report
        finally:
            process.terminate()
            process.wait(timeout=60)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def check_orthanc() -> Report:
    """Start Orthanc and check it."""
    with tempfile.TemporaryDirectory() as folder, orthanc.orthanc(Path(folder)) as running:
        return check(Service(running.dicomweb))


def main() -> int:
    """Write the page; the exit status."""
    if not orthanc.installed():
        print("Orthanc is needed for the page (Debian packages orthanc, orthanc-dicomweb and gcc)", file=sys.stderr)
        return 2
    print(f"{len(REGISTER)} checks each, of Insitu and Orthanc")
    reports = {"Insitu": check_ours(), "Orthanc": check_orthanc()}
    versions = {
        "Insitu": f"Insitu {version('insitu')}",
        "Orthanc": f"Debian orthanc {package_version('orthanc')}, orthanc-dicomweb {package_version('orthanc-dicomweb')}",
    }
    page.PAGE.write_text(page.write(reports, versions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
