"""The archive on an S3 server that is slow, silent, full, killed or refuses us: nothing acknowledged is lost, nobody waits for ever."""

from __future__ import annotations

import hashlib
import http.server
import logging
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from pydicom.dataset import Dataset

from insitu.archive import bucket
from insitu.archive.blobs import blob_store, s3, s3_reading
from insitu.archive.blobs.s3 import S3BlobStore
from insitu.archive.blobs.synchronous import is_synchronous, make_synchronous
from insitu.archive.leftovers import GRACE
from insitu.archive.reindex import reindex
from insitu.archive.scrub import scrub
from insitu.archive.statistics import condition
from insitu.archive.store import Archive, Stored
from insitu.database import Database
from insitu.errors import Invalid, NotFound, Unavailable
from insitu.health import ObjectStore as Probe
from insitu.settings import Settings
from tests.disks import small_disk
from tests.object_store import ObjectStore

from .conftest import VisibleStore
from .index_dump import complete, dump

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]
PATIENCE = 2.0  # seconds given to a server that is silent


@pytest.fixture
def kind() -> str:
    """Everything here is on an object store."""
    return "object store"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ObjectStore]:
    """A server of the test's own, which may be harmed."""
    with ObjectStore(tmp_path / "server") as server:
        yield server


@pytest.fixture
def impatient(server: ObjectStore, tmp_path: Path) -> S3BlobStore:
    """A store on it that does not wait for long."""
    return server.blobs(tmp_path / "spool", patience=PATIENCE)


def own(server: ObjectStore, home: Path, **settings: object) -> Settings:
    """Settings with the server's keys in their home."""
    (home / "secrets").mkdir(parents=True, exist_ok=True)
    for file in server.secrets.iterdir():
        (home / "secrets" / file.name).write_text(file.read_text())
    return Settings(home=home, quiet_time=0, object_store=server.url, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [10, 12_000_000])
def test_a_silent_server_is_given_up_in_time_and_used_again(
    server: ObjectStore, impatient: S3BlobStore, size: int
) -> None:
    impatient.put("objects/r/before", b"x")
    writer = impatient.create("objects/r/one")
    writer.write(b"y" * size)
    server.stop()
    for ask in (writer.commit, lambda: impatient.read("objects/r/before"), lambda: impatient.open("objects/r/before"),
                lambda: impatient.delete("objects/r/before"), lambda: impatient.exists("objects/r/before")):  # fmt: skip
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"does not answer.*waited for in vain"):
            ask()
        assert time.monotonic() - began < 4 * PATIENCE
    server.go_on()
    impatient.put("objects/r/two", b"z" * size)
    assert impatient.read("objects/r/two") == b"z" * size


def test_a_server_that_is_gone_is_told_at_once_and_used_again(server: ObjectStore, impatient: S3BlobStore) -> None:
    impatient.put("objects/r/one", b"x")
    server.kill()
    began = time.monotonic()
    for ask in (lambda: impatient.put("objects/r/two", b"y"), lambda: impatient.read("objects/r/one"),
                lambda: list(impatient.list()), impatient.sweep):  # fmt: skip
        with pytest.raises(Unavailable, match=r"does not answer.*cannot be connected to"):
            ask()
    assert time.monotonic() - began < 2 * PATIENCE
    server.start()
    assert impatient.read("objects/r/one") == b"x"
    assert [blob.key for blob in impatient.list()] == ["objects/r/one"]


def test_a_server_killed_while_it_takes_an_object_shows_nothing_of_it(
    server: ObjectStore, impatient: S3BlobStore
) -> None:
    impatient.put("objects/r/before", b"x")
    data = os.urandom(60_000_000)
    writer = impatient.create("objects/r/large")
    writer.write(data)
    killed = threading.Timer(0.1, server.kill)
    killed.start()
    with pytest.raises(Unavailable):
        writer.commit()
    killed.join()
    server.start()
    assert [blob.key for blob in impatient.list()] == ["objects/r/before"]
    assert not impatient.exists("objects/r/large")
    impatient.put("objects/r/large", data)
    assert hashlib.sha256(impatient.read("objects/r/large")).digest() == hashlib.sha256(data).digest()


def test_parts_that_nobody_put_together_are_swept_after_a_day(
    server: ObjectStore, impatient: S3BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = impatient._client()
    upload = client._create_multipart_upload(server.bucket, "objects/r/half", {})
    client._upload_part(server.bucket, "objects/r/half", b"x" * 6_000_000, None, upload, 1)
    assert impatient.sweep() == 0
    monkeypatch.setattr(s3, "UNFINISHED_AFTER", -s3.UNFINISHED_AFTER)
    assert impatient.sweep() == 1
    assert impatient.sweep() == 0
    assert client._list_multipart_uploads(server.bucket).uploads == []


CHILD = """
import os, sys
from pathlib import Path
from insitu.archive.blobs import blob_store
from insitu.archive.incoming import Incoming
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.settings import Settings
settings = Settings(home=Path(sys.argv[1]), quiet_time=0, object_store=sys.argv[2])
archive = Archive(Database(sys.argv[3]), blob_store(settings), settings)
receipt = archive.open_receipt(channel="import")
Incoming._index = Incoming._index_in_one = lambda self: (print(self.key, flush=True), sys.stdin.read())
incoming = archive.begin(receipt)
incoming.write(Path(sys.argv[4]).read_bytes())
incoming.commit()
"""


def test_an_object_whose_row_never_came_is_removed_by_a_scrub_and_never_counts(
    server: ObjectStore, database: Database, database_dsn: str, tmp_path: Path, make: Make, encode: Encode
) -> None:
    settings = own(server, tmp_path / "home")
    blobs = blob_store(settings)
    made = make()
    file = tmp_path / "object.dcm"
    file.write_bytes(encode(made))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(settings.home), server.url, database_dsn, str(file)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    key = child.stdout.readline().strip()
    assert blobs.exists(key), "an object is indexed before it is durable"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert scrub(database, blobs).unreferenced == [key]
    assert blobs.exists(key)
    report = scrub(database, blobs, now=time.time() + GRACE + 60)
    assert (report.removed, report.healthy) == ([key], True)
    assert not blobs.exists(key)
    archive = Archive(database, blobs, settings)
    incoming = archive.begin(archive.open_receipt(channel="import"))
    incoming.write(file.read_bytes())
    assert incoming.commit().success
    archive.close()


def test_the_bucket_alone_gives_back_an_equal_index(
    server: ObjectStore, database: Database, empty_database: Database, tmp_path: Path, make: Make, encode: Encode
) -> None:
    settings = own(server, tmp_path / "home")
    archive = Archive(database, blob_store(settings), settings)
    receipt = archive.open_receipt(channel="stow", principal="anna")
    first = make()
    for number in range(30):
        made = make(StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID,
                    InstanceNumber=number)  # fmt: skip
        with archive.begin(receipt) as incoming:
            incoming.write(encode(made))
            assert incoming.commit().success
    with archive.begin(receipt) as incoming:
        incoming.write(b"no DICOM")
        assert not incoming.commit().success
    archive.close_receipt(receipt)
    complete(database, settings)
    archive.close()
    rebuilt = own(server, tmp_path / "another home")
    reindex(empty_database, blob_store(rebuilt), rebuilt)
    assert dump(empty_database) == dump(database)


def test_a_frame_of_an_object_of_two_gigabytes_is_read_without_fetching_it(
    server: ObjectStore, impatient: S3BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2_000_000_000
    impatient.put("objects/r/large", b"x")
    mark = random.Random(1).randbytes(524_288)
    with server.files()["objects/r/large"].open("r+b") as file:  # sparse, where its server keeps it
        file.truncate(size)
        file.seek(1_234_567_890)
        file.write(mark)
    fetched = 0
    fetch = impatient.fetch

    def counted(*arguments: object) -> tuple[bytes, int]:
        nonlocal fetched
        found = fetch(*arguments)  # type: ignore[arg-type]
        fetched += len(found[0])
        assert len(found[0]) <= s3_reading.LARGEST
        return found

    monkeypatch.setattr(impatient, "fetch", counted)
    with impatient.open("objects/r/large") as stream:
        assert stream.seek(0, os.SEEK_END) == size
        stream.seek(1_234_567_890)
        assert stream.read(len(mark)) == mark
    assert fetched < s3_reading.FIRST + 2 * len(mark)


def test_the_server_that_our_keys_do_not_open_and_the_bucket_that_is_not_there_are_named(
    server: ObjectStore, impatient: S3BlobStore, tmp_path: Path
) -> None:
    impatient.put("objects/r/one", b"x")
    elsewhere = S3BlobStore(f"{server.server}/elsewhere", tmp_path / "spool", secrets=server.secrets)
    for ask in (lambda: elsewhere.put("a/b", b"x"), lambda: elsewhere.exists("a/b"), lambda: elsewhere.read("a/b"),
                lambda: list(elsewhere.list()), lambda: elsewhere.move("a/b", "a/c"), elsewhere.sweep):  # fmt: skip
        with pytest.raises(Unavailable, match=r"no such bucket: 'elsewhere'.*object_store"):
            ask()
    access, secret = server.keys
    for name in (s3.ACCESS_KEY, s3.SECRET_KEY):
        kept = (server.secrets / name).read_text()
        (server.secrets / name).write_text("wrong-but-not-to-be-told")
        wrong = server.blobs(tmp_path / "spool")
        (server.secrets / name).write_text(kept)
        for ask in (lambda w=wrong: w.put("objects/r/two", b"x"), lambda w=wrong: w.read("objects/r/one"),
                    lambda w=wrong: list(w.list())):  # fmt: skip
            with pytest.raises(Unavailable, match=r"refuses us.*object-store-access-key") as caught:
                ask()
            told = f"{caught.value} {caught.value.__cause__!r}"
            assert not any(word in told for word in (access, secret, "wrong-but-not-to-be-told"))


def test_missing_keys_and_authorities_are_named(server: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"nowhere/object-store-access-key.*No such file"):
        S3BlobStore(server.url, tmp_path, secrets=tmp_path / "nowhere")
    no_authority = tmp_path / "ca.pem"
    no_authority.write_text("nothing")
    with pytest.raises(Invalid, match=r"ca\.pem.*object_store_ca"):
        S3BlobStore("https://127.0.0.1:1/images", tmp_path, secrets=server.secrets, ca=no_authority)


def test_a_full_disk_of_the_server_is_told_and_heals(tmp_path: Path) -> None:
    with small_disk(tmp_path / "server", 24) as disk, ObjectStore(tmp_path / "server") as server:
        blobs = server.blobs(tmp_path / "spool")
        blobs.put("objects/r/one", b"x" * 100_000)
        disk.fill()
        for size in (1_000_000, 9_000_000):
            writer = blobs.create("objects/r/two")
            writer.write(b"y" * size)
            with pytest.raises(Unavailable) as caught:
                writer.commit()
            assert "Make room" in str(caught.value) or "log of the object store" in str(caught.value)
        assert blobs.read("objects/r/one") == b"x" * 100_000
        assert not blobs.exists("objects/r/two")
        disk.free()
        blobs.put("objects/r/two", b"y" * 1_000_000)
        assert blobs.read("objects/r/two") == b"y" * 1_000_000


def test_tls_is_checked_against_the_authorities_of_the_settings(tmp_path: Path) -> None:
    server = ObjectStore(tmp_path / "server")
    server.certificate = _certificate(tmp_path)
    other = _certificate(tmp_path / "other")
    with server:
        server.blobs(tmp_path / "spool", ca=server.certificate[0]).put("objects/r/one", b"x")
        for ca in (None, other[0]):
            with pytest.raises(Unavailable, match=r"certificate of the object store is not accepted.*object_store_ca"):
                server.blobs(tmp_path / "spool", ca=ca).put("objects/r/two", b"x")


def _certificate(folder: Path) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    certificate, key = folder / "server.pem", folder / "server.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    ssl.create_default_context(cafile=certificate)
    return certificate, key


class _Odd(http.server.BaseHTTPRequestHandler):
    """Answers everything in one way: a stand-in for servers and proxies that are not in order."""

    status, body, count = 503, b"", 0

    def answer(self) -> None:
        """Take the request's body and refuse it."""
        type(self).count += 1
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _error(code: str) -> bytes:
    return (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message><Resource>/r</Resource></Error>".encode()
    )


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (507, _error("InsufficientStorage"), "is full.*InsufficientStorage.*Make room"),
        (507, b"", "is full|no.*understood"),
        (403, _error("QuotaExceeded"), "is full.*QuotaExceeded"),
        (503, _error("SlowDown"), "too busy.*SlowDown.*Try again"),
        (503, b"", "too busy, or not up"),
        (502, b"<html>Bad gateway</html>", "too busy, or not up"),
        (403, _error("RequestTimeTooSkewed"), "time.*NTP"),
        (403, _error("AccessDenied"), "refuses us.*AccessDenied"),
        (500, _error("InternalError"), "did not do it.*InternalError.*log of the object store"),
        (400, _error("InvalidArgument"), "did not do it.*InvalidArgument"),
        (200, b"no XML", "not understood|did not say"),
        (301, _error("PermanentRedirect"), "did not do it|not understood|does not answer"),
    ],
)
def test_what_a_server_refuses_is_told_with_the_reason_and_what_to_do(
    tmp_path: Path, server: ObjectStore, status: int, body: bytes, words: str
) -> None:
    odd = type("Odd", (_Odd,), {"status": status, "body": body})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), odd) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        blobs = S3BlobStore(f"http://127.0.0.1:{listener.server_port}/images", tmp_path, secrets=server.secrets)
        began = time.monotonic()
        if status == 200:
            with pytest.raises(Unavailable, match=words):
                blobs.move("objects/r/one", "objects/r/two")
        else:
            with pytest.raises(Unavailable, match=words):
                blobs.put("objects/r/one", b"x")
        assert time.monotonic() - began < 5
        assert odd.count <= 4, "it is asked again and again"
        listener.shutdown()


def test_an_object_that_the_server_cannot_give_out_is_unreadable_and_does_not_end_a_scrub(
    database: Database, archive: Archive, blobs: VisibleStore, make: Make, encode: Encode, store: Store
) -> None:
    receipt = archive.open_receipt(channel="import")
    for made in (make(), make()):
        store(receipt, encode(made))
    with database.transaction() as connection:
        rows = connection.execute("SELECT blob_key, sop_instance_uid FROM instance ORDER BY id").fetchall()
    fetch = blobs.fetch

    def broken(key: str, offset: int, length: int | None) -> tuple[bytes, int]:
        if key == rows[0]["blob_key"]:
            raise OSError(5, "the object store cannot give it out (InternalError)", key)
        return fetch(key, offset, length)

    blobs.fetch = broken  # type: ignore[method-assign]
    report = scrub(database, blobs)
    assert report.finished
    assert report.unreadable == [rows[0]["sop_instance_uid"]]
    assert (report.missing, report.changed) == ([], [])


def test_a_scrub_of_a_store_that_goes_away_finds_nothing_missing(
    server: ObjectStore, database: Database, tmp_path: Path, make: Make, encode: Encode
) -> None:
    settings = own(server, tmp_path / "home")
    archive = Archive(database, blob_store(settings), settings)
    receipt = archive.open_receipt(channel="import")
    for _ in range(3):
        with archive.begin(receipt) as incoming:
            incoming.write(encode(make()))
            assert incoming.commit().success
    server.kill()
    with pytest.raises(Unavailable):
        scrub(database, archive.blobs)
    with pytest.raises(Unavailable):
        reindex(database, archive.blobs, settings)
    with database.transaction() as connection:
        assert connection.execute("SELECT count(*) AS n FROM damage").fetchone() == {"n": 0}
        assert connection.execute("SELECT count(*) AS n FROM instance").fetchone() == {"n": 3}
    server.start()
    report = scrub(database, archive.blobs)
    assert (report.objects, report.healthy, report.finished) == (3, True, True)
    archive.close()


def test_the_bucket_of_a_new_installation_is_made_and_that_of_a_full_one_is_not(
    server: ObjectStore, database: Database, tmp_path: Path, make: Make, encode: Encode,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    settings = own(server, tmp_path / "home").model_copy(update={"object_store": f"{server.server}/new-one"})
    bucket.prepare(settings, database)
    bucket.prepare(settings, database)
    archive = Archive(database, blob_store(settings), settings)
    with archive.begin(archive.open_receipt(channel="import")) as incoming:
        incoming.write(encode(make()))
        assert incoming.commit().success
    archive.close()
    mistaken = settings.model_copy(update={"object_store": f"{server.server}/mistaken"})
    with pytest.raises(Invalid, match=r"the index knows objects.*mistaken"):
        bucket.prepare(mistaken, database)
    assert not (server.root / "mistaken").exists()
    server.kill()
    with caplog.at_level(logging.WARNING):
        bucket.prepare(mistaken, database)
    assert "not known yet" in caplog.text


def test_health_tells_a_store_that_works_is_silent_or_gone(server: ObjectStore, tmp_path: Path) -> None:
    probe = Probe(own(server, tmp_path / "home", database_patience=4))
    found = probe.look()
    assert (found.state, found.says) == ("ok", "takes objects")
    assert found.facts["write_seconds"] < 2
    server.stop()
    for _ in range(3):
        began = time.monotonic()
        found = probe.look()
        assert time.monotonic() - began < 6
        assert found.state == "away"
        assert "answer" in found.says
    server.go_on()
    deadline = time.monotonic() + 30
    while probe.look().state != "ok":
        assert time.monotonic() < deadline
    server.kill()
    assert "cannot be connected to" in probe.look().says
    found = Probe(own(server, tmp_path / "home").model_copy(update={"home": tmp_path / "bare"})).look()
    assert found.state == "away"
    assert "object-store-access-key" in found.says


def test_the_condition_of_the_archive_does_not_claim_to_know_the_room_of_an_object_store(
    database: Database, settings: Settings
) -> None:
    with database.transaction() as connection:
        found = condition(connection, settings)
    assert (found["disk_bytes"], found["disk_free_bytes"]) == (None, None)
    assert found["object_store"] == settings.object_store


def test_a_dead_spool_is_told_as_the_local_disk(server: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match=r"disk does not take an object.*spool.*disk of the home"):
        server.blobs(tmp_path / "spool").create("objects/r/one")


def test_nothing_lies_on_the_local_disk_once_objects_are_stored_or_forgotten(
    server: ObjectStore, impatient: S3BlobStore, tmp_path: Path
) -> None:
    for end in ("commit", "abort"):
        writer = impatient.create(f"objects/r/{end}")
        writer.write(b"x" * 100_000)
        assert list((tmp_path / "spool").iterdir()) == [], "a killed process would leave it behind"
        getattr(writer, end)()
    descriptors = {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)}
    assert not [each for each in descriptors if "spool" in each]
    with pytest.raises(NotFound):
        impatient.read("objects/r/abort")


def _is_open(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


def test_what_the_server_acknowledges_is_synced_where_its_folder_was_made_synchronous(tmp_path: Path) -> None:
    server = ObjectStore(tmp_path / "server")
    done = subprocess.run(
        [sys.executable, "-m", "insitu.archive.blobs.synchronous", server.root],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        assert "Mount its file system with the option sync" in done.stderr
        pytest.skip("the file system of the temporary folder cannot be made synchronous")
    with server:
        blobs = server.blobs(tmp_path / "spool")
        blobs.put("objects/r/small", b"x")
        writer = blobs.create("objects/r/large")
        writer.write(bytes(11_000_000))
        writer.commit()
        blobs.move("objects/r/small", "conflicts/q/small")
        written = server.files()
        assert set(written) == {"objects/r/large", "conflicts/q/small"}
        for file in written.values():
            assert is_synchronous(file), f"a power failure can take {file}"
            assert is_synchronous(file.parent), f"a power failure can take the name of {file}"


def test_a_folder_that_cannot_be_made_synchronous_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"), pytest.raises(Invalid, match=r"Mount its file system with the option sync"):
        make_synchronous(tmp_path / "disk")  # a file system in memory has no such attribute
    with pytest.raises(Invalid, match="no such folder"):
        make_synchronous(tmp_path / "nowhere")


def test_nothing_acknowledged_is_lost_while_the_server_is_killed_again_and_again(
    server: ObjectStore, database: Database, database_dsn: str, tmp_path: Path, make: Make, encode: Encode
) -> None:
    settings = own(server, tmp_path / "home")
    archive = Archive(database, server.blobs(tmp_path / "spool", patience=PATIENCE), settings)
    acknowledged: dict[str, str] = {}
    stop = threading.Event()

    def send() -> None:
        receipt = None
        while not stop.is_set():
            made = make()
            file = encode(made)
            try:
                receipt = receipt or archive.open_receipt(channel="import")
                with archive.begin(receipt) as incoming:
                    incoming.write(file)
                    assert incoming.commit().success
            except Unavailable:
                time.sleep(0.05)
                continue
            acknowledged[made.SOPInstanceUID] = hashlib.sha256(file).hexdigest()

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for _ in range(4):
        time.sleep(1)
        server.kill()
        time.sleep(0.3)
        server.start()
    time.sleep(1)
    stop.set()
    for sender in senders:
        sender.join(60)
    archive.close()
    with psycopg.connect(database_dsn) as connection:
        rows = dict(connection.execute("SELECT sop_instance_uid, blob_key FROM instance").fetchall())
    assert len(acknowledged) > 20
    for uid, digest in acknowledged.items():
        assert hashlib.sha256(archive.blobs.read(rows[uid])).hexdigest() == digest
    report = scrub(database, archive.blobs)
    assert report.healthy, report
