"""The invariants: what must hold after every fault. It reads the index and the files itself and trusts nothing of the write path.

Every function gives a list of sentences, each something that is wrong. Not here: mending and sending again (rounds).
"""

from __future__ import annotations

import hashlib
import struct
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from insitu.archive.blobs import FileBlobStore
from insitu.archive.leftovers import GRACE
from insitu.archive.reindex import reindex
from insitu.archive.scrub import scrub
from insitu.database import Database

from .ledger import Ledger
from .objects import Item, Key
from .senders import CONTEXT
from .site import PATIENCE, Site

# Everything the blobs must give back; keys of rows differ, and receipts that brought nothing may be missing in the index.
EQUAL = {
    "receipt": "SELECT * FROM receipt r WHERE EXISTS (SELECT 1 FROM instance i WHERE i.receipt = r.id)",
    "study": "SELECT study_instance_uid, patient_id, attributes, created_at FROM study",
    "series": "SELECT s.series_instance_uid, t.study_instance_uid, s.modality, s.attributes, s.created_at, s.state,"
    " s.revision, s.last_received_at, s.execution FROM series s JOIN study t ON t.id = s.study",
    "instance": "SELECT i.sop_instance_uid, s.series_instance_uid, i.sop_class_uid, i.transfer_syntax_uid, i.digest,"
    " i.blob_key, i.size, i.dataset_offset, i.receipt, i.received_at, i.instance_number, i.image_rows, i.image_columns,"
    " i.number_of_frames FROM instance i JOIN series s ON s.id = i.series",
    # Not since when: of two first objects that came within a millisecond the index goes by the commit, a rebuild by arrival.
    "series_project": "SELECT s.series_instance_uid, p.project, p.added_by"
    " FROM series_project p JOIN series s ON s.id = p.series",
    "series_revision": "SELECT s.series_instance_uid, r.revision, r.completed_at, r.instances, r.bytes, r.content_digest"
    " FROM series_revision r JOIN series s ON s.id = r.series",
    "series_source": "SELECT s.series_instance_uid, x.receipt FROM series_source x JOIN series s ON s.id = x.series",
    "conflict": "SELECT sop_instance_uid, digest, transfer_syntax_uid, blob_key, receipt, at FROM conflict",
    "quarantine": "SELECT reason, blob_key, size, receipt, at FROM quarantine",
    "deletion": "SELECT id, at, actor, reason, rule, study_instance_uid, series_instance_uid, sop_instance_uid, studies,"
    " series, instances, bytes, keys FROM deletion",
}


def split(content: bytes) -> tuple[str, bytes]:
    """Transfer syntax and data set of a DICOM file (PS3.10 7.1).

    Raises
    ------
    ValueError
        It is none, or not a whole one.
    """
    if content[128:132] != b"DICM" or content[132:140] != b"\2\0\0\0UL\4\0":
        raise ValueError("no DICOM file")
    end = 144 + struct.unpack_from("<I", content, 140)[0]
    at, syntax = 144, ""
    while at < end:
        element, vr = struct.unpack_from("<2xH2s", content, at)
        long = vr in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        length = struct.unpack_from("<I", content, at + 8)[0] if long else struct.unpack_from("<H", content, at + 6)[0]
        at += 12 if long else 8
        if element == 0x0010:
            syntax = content[at : at + length].rstrip(b"\0 ").decode()
        at += length
    if not syntax or at != end or len(content) < end:
        raise ValueError("no whole file meta information")
    return syntax, content[end:]


def acknowledged(site: Site, ledger: Ledger, items: Iterable[Item] | None = None, fetched: int = 0) -> list[str]:
    """Whether what was acknowledged is there byte for byte, and what is visible was sent and is whole.

    Parameters
    ----------
    site : Site
    ledger : Ledger
    items : iterable of Item, optional
        Only these and others under their UIDs; everything by default.
    fetched : int
        So many of them are fetched through WADO-RS as well, from the end.
    """
    sops = set(ledger.by_sop) if items is None else {item.sop for item in items}
    with site.server.connect(site.name) as connection:
        rows = connection.execute(
            "SELECT i.*, s.series_instance_uid, t.study_instance_uid FROM instance i JOIN series s ON s.id = i.series"
            " JOIN study t ON t.id = s.study WHERE %(all)s OR i.sop_instance_uid = ANY(%(sops)s)",
            {"all": items is None, "sops": list(sops)},
        ).fetchall()
        conflicts = connection.execute(
            "SELECT * FROM conflict WHERE %(all)s OR sop_instance_uid = ANY(%(sops)s)",
            {"all": items is None, "sops": list(sops)},
        ).fetchall()
        aside = connection.execute("SELECT blob_key, size FROM quarantine").fetchall()
    wrong: list[str] = []
    held: set[Key] = set()
    for row in rows:
        key = (row["sop_instance_uid"], row["transfer_syntax_uid"], bytes(row["digest"]))
        wrong += _foreign(ledger, key, row)
        wrong += _blob(site, row["blob_key"], key, row["size"], row["dataset_offset"])
        held.add(key)
    for row in conflicts:
        key = (row["sop_instance_uid"], row["transfer_syntax_uid"], bytes(row["digest"]))
        wrong += _foreign(ledger, key, None)
        wrong += _blob(site, row["blob_key"], key, None, None)
        held.add(key)
    expected = [key for sop in sops for key in ledger.by_sop[sop]]
    wrong += [
        f"LOST: object {key[0]} was acknowledged and is not in the index"
        for key in expected
        if key in ledger.acknowledged and key not in held
    ]
    told_aside = [key for key in expected if key in ledger.aside]
    if told_aside:
        kept = _kept_aside(site, aside, wrong)
        wrong += [
            f"LOST: object {key[0]} is not in quarantine, as its sender was told"
            for key in told_aside
            if key[2] not in kept
        ]
    chosen = [row for row in rows if row["sop_instance_uid"] in sops][-fetched:] if fetched else []
    for row in chosen:
        wrong += _fetch(site, row)
    return wrong


def _foreign(ledger: Ledger, key: Key, row: dict[str, Any] | None) -> list[str]:
    """What is wrong about an object's identity: nobody sent it, or it stands in another series or study."""
    item = ledger.sent.get(key)
    if item is None:
        return [f"an object is visible that nobody sent: {key[0]}"]
    if row is not None and (row["series_instance_uid"], row["study_instance_uid"]) != (item.series, item.study):
        return [f"object {key[0]} stands in another series or study"]
    return []


def _blob(site: Site, blob_key: str, key: Key, size: int | None, offset: int | None) -> list[str]:
    path = site.settings.blobs / blob_key
    try:
        content = path.read_bytes()
        syntax, data = split(content)
    except FileNotFoundError:
        return [f"LOST: the blob of {key[0]} is not there: {blob_key}"]
    except ValueError as error:
        return [f"LOST: the blob of {key[0]} is no whole object ({error}): {blob_key}"]
    found = []
    if hashlib.sha256(data).digest() != key[2]:
        found.append(f"LOST: the blob of {key[0]} has other bytes than were sent: {blob_key}")
    if syntax != key[1]:
        found.append(f"the blob of {key[0]} has transfer syntax {syntax}, sent was {key[1]}")
    if size is not None and (size != len(content) or offset != len(content) - len(data)):
        found.append(f"size or offset of {key[0]} in the index are not those of its blob")
    return found


def _kept_aside(site: Site, rows: list[dict[str, Any]], wrong: list[str]) -> set[bytes]:
    """Digests of the data sets in quarantine."""
    digests = set()
    for row in rows:
        try:
            content = (site.settings.blobs / row["blob_key"]).read_bytes()
        except FileNotFoundError:
            wrong.append(f"LOST: the blob of an entry in quarantine is not there: {row['blob_key']}")
            continue
        if len(content) != row["size"]:
            wrong.append(f"an entry in quarantine has another size than its blob: {row['blob_key']}")
        try:
            digests.add(hashlib.sha256(split(content)[1]).digest())
        except ValueError:
            digests.add(hashlib.sha256(content).digest())
    return digests


def _fetch(site: Site, row: dict[str, Any]) -> list[str]:
    """What is wrong about an object as WADO-RS gives it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = httpx.get(
            f"{site.url}/dicom-web/studies/{row['study_instance_uid']}/series/{row['series_instance_uid']}"
            f"/instances/{row['sop_instance_uid']}",
            headers={
                "Authorization": f"Bearer {site.token}",
                "Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*',
            },
            timeout=PATIENCE,
            trust_env=False,
            verify=CONTEXT,
        )
        if answer.status_code != 503 or time.monotonic() > deadline:
            break
        time.sleep(0.1)  # "try again": just after its database came back
    if answer.status_code != 200:
        return [f"object {row['sop_instance_uid']} cannot be fetched: {answer.status_code} {answer.text[:200]}"]
    boundary = answer.headers["content-type"].partition("boundary=")[2].strip('"').split(";")[0].strip('"')
    body = answer.content.partition(b"\r\n\r\n")[2].rpartition(f"\r\n--{boundary}--".encode())[0]
    try:
        syntax, data = split(body)
    except ValueError as error:
        return [f"object {row['sop_instance_uid']} is fetched as no whole object: {error}"]
    if (syntax, hashlib.sha256(data).digest()) != (row["transfer_syntax_uid"], bytes(row["digest"])):
        return [f"LOST: object {row['sop_instance_uid']} is fetched with other bytes than were sent"]
    return []


def events(site: Site) -> list[str]:
    """Whether every series is dirty, waits for its completion, or is complete in a revision that contains what it holds."""
    with site.server.connect(site.name) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        series = connection.execute(
            "SELECT s.*, r.content_digest, EXISTS (SELECT 1 FROM series_event e WHERE e.series = s.id) AS dirty"
            " FROM series s LEFT JOIN series_revision r ON r.series = s.id AND r.revision = s.revision"
        ).fetchall()
        content: dict[int, list[tuple[bytes, bytes]]] = {}
        for row in connection.execute("SELECT series, sop_instance_uid, digest FROM instance").fetchall():
            content.setdefault(row["series"], []).append((row["sop_instance_uid"].encode(), bytes(row["digest"])))
        orphans = connection.execute("SELECT study_instance_uid FROM study t WHERE NOT EXISTS"
                                     " (SELECT 1 FROM series s WHERE s.study = t.id)").fetchall()  # fmt: skip
    wrong = [f"a study without a series is visible: {row['study_instance_uid']}" for row in orphans]
    for row in series:
        uid = row["series_instance_uid"]
        inside = content.get(row["id"])
        if not inside:
            wrong.append(f"a series without an object is visible: {uid}")
        elif not row["dirty"] and row["state"] == "receiving" and row["complete_after"] is None:
            wrong.append(f"series {uid} has objects, and nothing will ever complete it")
        elif not row["dirty"] and row["state"] == "complete":
            digest = hashlib.sha256(b"".join(name + b"\0" + each for name, each in sorted(inside))).digest()
            if row["content_digest"] is None or bytes(row["content_digest"]) != digest:
                wrong.append(f"series {uid} is complete in a revision that does not contain all of its objects")
    return wrong


def completes(site: Site, *, patient: bool) -> list[str]:
    """Whether the dispatcher completes every series by itself.

    Parameters
    ----------
    site : Site
    patient : bool
        Wait until the leases of killed processes end (30 s); otherwise they are ended here, as nobody is left to renew them.
    """
    if not patient:
        with site.server.connect(site.name) as connection:
            connection.execute(
                "UPDATE association SET leased_until = clock_timestamp() - interval '1 minute' WHERE closed_at IS NULL"
            )
    deadline = time.monotonic() + PATIENCE
    while True:
        with site.server.connect(site.name) as connection:
            left = connection.execute(
                "SELECT (SELECT count(*) FROM series WHERE state <> 'complete') + (SELECT count(*) FROM series_event) AS n"
            ).fetchone()
        if left == {"n": 0}:
            return events(site)
        if time.monotonic() > deadline:
            return [f"{left['n'] if left else '?'} series or events wait for the dispatcher for ever"]
        time.sleep(0.05)


def leftovers(site: Site) -> list[str]:
    """Scrub as of tomorrow; afterwards there is no file that nothing refers to, and nothing was missed."""
    database = Database(site.dsn)
    try:
        report = scrub(database, FileBlobStore(site.settings.blobs), now=time.time() + GRACE + 3600)
    finally:
        database.close()
    wrong = [f"LOST: scrub misses {name}" for name in report.missing]
    wrong += [f"LOST: scrub finds {name} changed" for name in report.changed]
    with site.server.connect(site.name) as connection:
        rows = connection.execute(
            "SELECT blob_key FROM instance UNION ALL SELECT blob_key FROM conflict UNION ALL SELECT blob_key FROM quarantine"
        ).fetchall()
    referred = {row["blob_key"] for row in rows}
    there = {
        path.relative_to(site.settings.blobs).as_posix()
        for folder in ("objects", "conflicts", "quarantine")
        for path in _files(site.settings.blobs / folder)
    }
    wrong += [f"LOST: a blob that the index refers to is gone after scrub: {key}" for key in sorted(referred - there)]
    wrong += [f"scrub leaves a blob that nothing refers to: {key}" for key in sorted(there - referred)]
    wrong += [f"scrub leaves a temporary file: {path.name}" for path in _files(site.settings.blobs / "incoming")]
    return wrong


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


def rebuilds(site: Site) -> list[str]:
    """Whether an empty database gets an equal index from the blobs. After `completes` and `leftovers`."""
    name = f"rebuilt_{uuid.uuid4().hex}"
    with site.server.connect("postgres") as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_crash")
    wrong = []
    try:
        database = Database(site.server.dsn(name))
        try:
            report = reindex(database, FileBlobStore(site.settings.blobs), site.settings)
        finally:
            database.close()
        if report.unreadable or report.changed or report.surplus or report.without_receipt:
            wrong.append(f"reindex finds fault: {report}")
        for table, statement in EQUAL.items():
            before, after = _rows(site, site.name, statement), _rows(site, name, statement)
            wrong += [f"reindex does not give back a row of {table}: {row}" for row in sorted(before - after)[:3]]
            wrong += [f"reindex gives a row of {table} that was not there: {row}" for row in sorted(after - before)[:3]]
    finally:
        with site.server.connect("postgres") as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    return wrong


def _rows(site: Site, database: str, statement: str) -> set[str]:
    with site.server.connect(database) as connection:
        return {repr(sorted(row.items())) for row in connection.execute(statement).fetchall()}


def everything(site: Site, ledger: Ledger, *, patient: bool = False) -> list[str]:
    """All of it, on the whole site: nothing may be on its way in."""
    wrong = acknowledged(site, ledger, fetched=20)
    wrong += events(site)
    wrong += completes(site, patient=patient)
    wrong += leftovers(site)
    wrong += acknowledged(site, ledger)
    return wrong + rebuilds(site)
