"""A release on PostgreSQL and S3 of the site's own, by TLS, and DICOM over TLS: prepared with what the guide says and nothing else."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage, Verification

from insitu import postgres
from tests.helm import merge
from tests.object_store import ObjectStore
from tests.site import phantom
from tests.unit.receiver.certificates import Authority, Issued

from .cluster import ROOT, Cluster, Namespace
from .images import Images
from .release import released
from .replicas import MODEST, RULED, bare, retrieve, ruled
from .site import INSTALL_SECONDS, ClusterSite, settled

ROLES = ("owner", "api", "receiver", "dispatcher", "cli")
NAME = "insitu.hospital.example"
START_SECONDS = 60.0
PORT = 15432  # of PostgreSQL, in the node's network


def statements(passwords: dict[str, str]) -> list[str]:
    """What the guide tells the site's database administrator to enter."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    block = re.search(r"```sql\n(CREATE ROLE insitu_owner.*?)```", text, re.DOTALL)
    assert block
    found = []
    for statement in filter(None, map(str.strip, block[1].split(";"))):
        role = re.match(r"CREATE ROLE (\w+)", statement)
        found.append(statement.replace("'...'", f"'{passwords[role[1]]}'") if role else statement)
    return found


def programs() -> Path:
    """Folder of a PostgreSQL that knows TLS, which the one that comes with the platform does not."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if not found:
        pytest.skip("needs postgres (Debian package postgresql)")
    return found[-1].parent


@contextmanager
def database(cluster: Cluster, address: str, issued: Issued) -> Iterator[dict[str, str]]:
    """A PostgreSQL server on the node that takes connections by TLS alone; the passwords by role."""
    folder = Path(tempfile.mkdtemp(prefix="insitu-external-"))  # a folder of pytest's is closed to PostgreSQL's user
    folder.chmod(0o755)
    data, server_files = folder / "data", ("server.crt", "server.key", "password")
    data.mkdir(mode=0o700)
    superuser = secrets.token_hex(16)
    (folder / "server.crt").write_bytes(issued.certificate.read_bytes())
    (folder / "server.key").write_bytes(issued.key.read_bytes())
    (folder / "password").write_text(superuser)
    user = postgres.run_as()
    for path in (folder, data, *(folder / name for name in server_files)):
        if path.is_file():
            path.chmod(0o600)
        if user:
            os.chown(path, user.pw_uid, user.pw_gid)
    identity = postgres.identity()
    subprocess.run(
        [programs() / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256",
         f"--pwfile={folder / 'password'}"],
        check=True, capture_output=True, **identity,
    )  # fmt: skip
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("hostssl all all 0.0.0.0/0 scram-sha-256\n")
    chosen = {
        "listen_addresses": address, "port": PORT, "max_connections": 200, "ssl": "on",
        "ssl_cert_file": folder / "server.crt", "ssl_key_file": folder / "server.key", "unix_socket_directories": folder,
    }  # fmt: skip
    line = [
        programs() / "postgres",
        "-D",
        data,
        *(part for name, value in chosen.items() for part in ("-c", f"{name}={value}")),
    ]
    with cluster.network(), (folder / "log").open("w") as log:
        server = subprocess.Popen(line, stdout=log, stderr=log, **identity)
    try:
        passwords = {role: secrets.token_hex(16) for role in (*(f"insitu_{name}" for name in ROLES), "airflow")}
        deadline = time.monotonic() + START_SECONDS
        while psycopg.pq.PGconn.ping(f"host={folder} port={PORT}".encode()) != psycopg.pq.Ping.OK:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        with psycopg.connect(
            host=str(folder), port=PORT, user="postgres", password=superuser, dbname="postgres", autocommit=True
        ) as connection:
            for statement in statements(passwords):
                connection.execute(statement.encode())
        yield passwords
    finally:
        server.send_signal(signal.SIGINT)  # without waiting for its clients
        server.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def secret(namespace: Namespace, name: str, values: dict[str, str | Path], kind: str = "generic") -> None:
    """Make a Secret as the site does."""
    if kind == "tls":
        namespace.kubectl("create", "secret", "tls", name, f"--cert={values['tls.crt']}", f"--key={values['tls.key']}")
        return
    options = [
        f"--from-file={key}={value}" if isinstance(value, Path) else f"--from-literal={key}={value}"
        for key, value in values.items()
    ]
    namespace.kubectl("create", "secret", kind, name, *options)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The hospital's authority."""
    return Authority(tmp_path_factory.mktemp("authority"), "hospital")


@pytest.fixture(scope="module")
def site(
    cluster: Cluster, images: Images, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterSite]:
    """The platform on the site's own servers."""
    (node, *_) = cluster.get("nodes")["items"]
    address = next(entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP")
    server = authority.issue("servers", hosts=f"IP:{address}")
    store = ObjectStore(tmp_path_factory.mktemp("s3"))
    store.host, store.certificate = address, (server.certificate, server.key)
    values = {
        "database": {
            "bundled": {"enabled": False},
            "external": {"host": address, "port": PORT, "existingSecret": "postgresql", "cidrs": [f"{address}/32"]},
        },
        "objectStore": {
            "bundled": {"enabled": False},
            "external": {"url": store.url, "existingSecret": "s3", "cidrs": [f"{address}/32"]},
        },
        "certificateAuthorities": {"configMap": "hospital-ca"},
        "receiver": {"tls": {"enabled": True, "existingSecret": "dicom", "clientAuthoritiesSecret": "clients"}},
    }
    with (
        database(cluster, address, server) as passwords,
        released(cluster, merge(merge(settled(images), MODEST), values)) as release,
    ):
        with cluster.network():
            store.start()
        try:
            namespace = release.namespace
            keys = {f"database-{name}": passwords[f"insitu_{name}"] for name in ROLES}
            secret(namespace, "postgresql", keys | {"database-airflow": passwords["airflow"]})
            access, key = store.keys
            secret(namespace, "s3", {"object-store-access-key": access, "object-store-secret-key": key})
            issued = authority.issue("receiver", hosts=f"DNS:{NAME}")
            secret(namespace, "dicom", {"tls.crt": issued.certificate, "tls.key": issued.key}, "tls")
            secret(namespace, "clients", {"ca.crt": authority.certificate})
            namespace.kubectl("create", "configmap", "hospital-ca", f"--from-file=ca.crt={authority.certificate}")
            release.apply("install", "--wait", "--timeout", f"{INSTALL_SECONDS}s", timeout=INSTALL_SECONDS + 30)
            yield ruled(ClusterSite(release, images))
        finally:
            store.kill()


def associate(site: ClusterSite, authority: Authority, client: Issued | None, called: str = "INSITU") -> Association:
    """An association by TLS, with a client's certificate or without."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(Verification)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    service = site.namespace.get("service", "insitu-receiver")["spec"]
    port = next(entry["port"] for entry in service["ports"] if entry["name"] == "dicom-tls")
    with site.network():
        return entity.associate(service["clusterIP"], port, ae_title=called, tls_args=(context, NAME))


def test_a_study_comes_by_dicom_tls_into_the_sites_own_servers_and_is_computed(
    site: ClusterSite, authority: Authority, tmp_path: Path
) -> None:
    sent = phantom(tmp_path)
    association = associate(site, authority, authority.issue("scanner"), RULED)
    assert association.is_established
    assert association.send_c_echo().Status == 0
    for file in sent.files:
        assert association.send_c_store(dcmread(file)).Status == 0
    association.release()
    site.complete(sent.series)
    (run,) = site.until("a run", lambda: site.runs_of(sent.series), bool)
    ended = site.finished(run["execution"])
    assert ended["state"] == "succeeded", ended["reason"]
    expected = dict(bare(file.read_bytes()) for file in sent.files)
    assert retrieve(site.http, sent).datasets == expected
    assert not site.namespace.get("statefulsets")["items"]


def test_dicom_tls_takes_no_client_without_a_certificate_of_its_authority(
    site: ClusterSite, authority: Authority, tmp_path: Path
) -> None:
    assert not associate(site, authority, None).is_established
    stranger = Authority(tmp_path, "stranger").issue("other")
    assert not associate(site, authority, stranger).is_established


def test_helm_test_passes(site: ClusterSite) -> None:
    said = site.release.helm("test", "--logs", "--timeout", "300s")
    assert "FAILED" not in said
