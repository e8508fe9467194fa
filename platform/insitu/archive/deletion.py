"""Deleting with a reason: a study, a series or an instance goes from the index, then from the blobs, and never comes back by itself.

What is to go is written down first (a row, then a durable entry of the journal). From that entry on the deletion stands: a process
that is killed later leaves work for `finish`, and a rebuilt index leaves these blobs out. An object that arrives afterwards under the
same UID is a new object. Not here: who may delete (insitu.projects.permissions) and what rules delete (insitu.archive.retention).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from insitu.audit import trail
from insitu.database import Connection, Database, Row
from insitu.errors import Conflict, Invalid, NotFound, Unavailable

from . import derivation, journal, links
from .blobs import BlobStore
from .receipts import ordered_uuid, time_of
from .store import Archive

SHORTEST_REASON = 3
LONGEST_REASON = 500
TRIES = 3  # of a transaction that PostgreSQL breaks off in favour of another
SETTLED_AFTER = 60.0  # seconds after which a deletion that is under way counts as left behind by its process


@dataclass(frozen=True)
class Deleted:
    """What went, or would go.

    Attributes
    ----------
    studies, series, instances : int
        Removed from the archive; a study counts where nothing of it is left.
    bytes : int
        Size of the removed objects.
    unlinked : int
        Series that stay because other projects hold them, and left only the caller's projects.
    """

    studies: int = 0
    series: int = 0
    instances: int = 0
    bytes: int = 0
    unlinked: int = 0

    def __add__(self, other: Deleted) -> Deleted:
        """Both together."""
        return Deleted(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Target:
    """What is asked for: a study, a series or an instance; those above it, where they are given, must be right.

    Raises
    ------
    Invalid
        None of them is given.
    """

    study: str | None = None
    series: str | None = None
    instance: str | None = None

    def __post_init__(self) -> None:
        """Refuse to aim at everything."""
        if not (self.study or self.series or self.instance):
            raise Invalid("The deletion names nothing", remedy="Name a study, a series or an instance by its UID")

    @property
    def kind(self) -> str:
        """The level, as the audit trail calls it."""
        return "instance" if self.instance else "series" if self.series else "study"

    @property
    def uid(self) -> str:
        """UID of what is asked for."""
        return self.instance or self.series or self.study or ""


@dataclass(frozen=True)
class Selection:
    """What a deletion would touch.

    Attributes
    ----------
    target : Target
        With the UIDs above it filled in.
    going : list of dict
        Instances that go: blob_key, size, sop_instance_uid, series, execution.
    aside : list of str
        Keys of second objects under their UIDs (conflicts), which go with them.
    shared : list of dict
        Series other projects hold too, which only leave the caller's projects.
    count : Deleted
    projects : list of str
        Projects that lose something.
    emptied : list of str
        Series of which nothing stays: what the journal tells of them from before is of no matter any more.
    """

    target: Target
    going: list[Row]
    aside: list[str]
    shared: list[Row]
    count: Deleted
    projects: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)


def preview(
    database: Database,
    *,
    study: str | None = None,
    series: str | None = None,
    instance: str | None = None,
    projects: frozenset[str] | None,
) -> Deleted:
    """What `delete` with the same arguments would remove. Raises what it would raise; changes nothing."""
    with database.transaction() as connection:
        selection = _select(connection, Target(study, series, instance), projects)
        _refuse(connection, selection)
    return selection.count


def delete(
    archive: Archive,
    actor: str,
    *,
    study: str | None = None,
    series: str | None = None,
    instance: str | None = None,
    reason: str,
    projects: frozenset[str] | None,
    rule: str | None = None,
) -> Deleted:
    """Delete a study, a series or an instance, for good.

    Parameters
    ----------
    archive : Archive
    actor : str
        Who deletes, as it stands in the audit trail.
    study, series, instance : str, optional
        UIDs; the lowest one given is deleted.
    reason : str
        Why: 3 to 500 characters, without patient data.
    projects : frozenset of str or None
        The projects in which the caller may delete: only their series go, and of a series that other projects hold too only the links
        to them. None: everything goes.
    rule : str, optional
        Rule of the retention that asks for it.

    Returns
    -------
    Deleted

    Raises
    ------
    Invalid
        There is no reason, or nothing is named.
    NotFound
        There is no such thing, or none in these projects.
    Conflict
        The study is held, a run that has not ended needs or makes a series of it, or an instance is shared with other projects.
    Unavailable
        Disk or database do not answer. Either nothing happened, or the deletion stands and is finished later by itself.
    """
    reason = reason.strip()
    if not SHORTEST_REASON <= len(reason) <= LONGEST_REASON:
        raise Invalid(
            "A deletion needs a reason",
            value=reason[:80],
            why=f"it has {SHORTEST_REASON} to {LONGEST_REASON} characters",
        )
    identifier = ordered_uuid()
    try:
        selection = _decide(archive, identifier, actor, Target(study, series, instance), reason, projects, rule)
        if selection.going:
            _settle(archive.database, archive.blobs, identifier)
    except psycopg.OperationalError as error:
        raise Unavailable("The database does not answer", why=type(error).__name__, remedy="Try again") from error
    except OSError as error:  # of an object that stays, from which its series is described anew
        raise Unavailable("The disk does not answer", why=error.strerror or str(error), remedy="Try again") from error
    archive.wake()
    return selection.count


def finish(database: Database, blobs: BlobStore, *, older_than: float = SETTLED_AFTER) -> int:
    """Finish what processes that were killed began; how many deletions.

    Parameters
    ----------
    older_than : float
        Seconds; younger ones may still be in the hands of their process.
    """
    with database.transaction() as connection:
        left = connection.execute(
            "SELECT id FROM deletion WHERE keys IS NOT NULL AND at < clock_timestamp() - make_interval(secs => %s)"
            " ORDER BY at",
            (older_than,),
        ).fetchall()
    for row in left:
        if blobs.exists(journal.key(row["id"])):
            _settle(database, blobs, row["id"])
        else:  # it was never decided, and nobody was told so
            with database.transaction() as connection:
                connection.execute("DELETE FROM deletion WHERE id = %s", (row["id"],))
    return len(left)


def listed(connection: Connection, *, study: str | None = None, limit: int = 100, offset: int = 0) -> list[Row]:
    """Deletions, the newest first: when, by whom, why, what was asked for and what went."""
    where = " WHERE study_instance_uid = %(study)s" if study else ""
    return connection.execute(
        "SELECT id::text, at, actor, reason, rule, study_instance_uid, series_instance_uid, sop_instance_uid, studies,"
        " series, instances, bytes, keys IS NULL AS done FROM deletion"
        f"{where} ORDER BY at DESC, id LIMIT %(limit)s OFFSET %(offset)s",
        {"study": study, "limit": limit, "offset": offset},
    ).fetchall()


def insert(connection: Connection, entry: dict[str, Any], keys: Sequence[str] | None) -> None:
    """Write the row of a deletion from its entry in the journal; nothing happens where it is there."""
    connection.execute(
        "INSERT INTO deletion (id, at, actor, reason, rule, study_instance_uid, series_instance_uid, sop_instance_uid,"
        " patient, studies, series, instances, bytes, keys) VALUES (%(id)s, %(at)s, %(actor)s, %(reason)s, %(rule)s,"
        " %(study_instance_uid)s, %(series_instance_uid)s, %(sop_instance_uid)s, decode(%(patient)s, 'hex'), %(studies)s,"
        " %(series)s, %(instances)s, %(bytes)s, %(rows)s) ON CONFLICT DO NOTHING",
        {**entry, "rows": None if keys is None else list(keys)},
    )


def _select(
    connection: Connection, target: Target, projects: frozenset[str] | None, *, lock: bool = False
) -> Selection:
    conditions, values = [], []
    for condition, value in (
        ("t.study_instance_uid = %s", target.study),
        ("s.series_instance_uid = %s", target.series),
        ("s.id = (SELECT i.series FROM instance i WHERE i.sop_instance_uid = %s)", target.instance),
    ):
        if value:
            conditions.append(condition)
            values.append(value)
    found = connection.execute(
        "SELECT s.id, s.series_instance_uid, s.execution, s.study, t.study_instance_uid,"
        " ARRAY(SELECT p.project FROM series_project p WHERE p.series = s.id ORDER BY p.project) AS projects"
        f" FROM series s JOIN study t ON t.id = s.study WHERE {' AND '.join(conditions)} ORDER BY s.id"
        + (" FOR UPDATE OF s" if lock else ""),
        values,
    ).fetchall()
    mine = [row for row in found if projects is None or not projects.isdisjoint(row["projects"])]
    if not mine:
        raise NotFound(f"There is no such {target.kind}", value=target.uid)
    shared = [row for row in mine if projects is not None and not projects.issuperset(row["projects"])]
    whole = [row for row in mine if row not in shared]
    going = connection.execute(
        "SELECT i.blob_key, i.size, i.sop_instance_uid, s.series_instance_uid, s.execution FROM instance i"
        " JOIN series s ON s.id = i.series WHERE i.series = ANY(%s)"
        + (" AND i.sop_instance_uid = %s" if target.instance else ""),
        ([row["id"] for row in whole], *([target.instance] if target.instance else [])),
    ).fetchall()
    aside = connection.execute(
        "SELECT blob_key FROM conflict WHERE sop_instance_uid = ANY(%s)", ([row["sop_instance_uid"] for row in going],)
    ).fetchall()
    instances = {row["id"]: 0 for row in whole}
    remaining = connection.execute(
        "SELECT s.study, s.id, count(i.id) AS n FROM series s LEFT JOIN instance i ON i.series = s.id WHERE s.study = %s"
        " GROUP BY s.study, s.id",
        (mine[0]["study"],),
    ).fetchall()
    emptied = {row["id"] for row in remaining if row["id"] in instances and (not target.instance or row["n"] <= 1)}
    count = Deleted(
        studies=int(bool(whole) and all(row["id"] in emptied for row in remaining)), series=len(emptied),
        instances=len(going), bytes=sum(row["size"] for row in going), unlinked=len(shared),
    )  # fmt: skip
    filled = Target(
        mine[0]["study_instance_uid"],
        mine[0]["series_instance_uid"] if target.kind != "study" else None,
        target.instance,
    )
    names = [row["series_instance_uid"] for row in whole if row["id"] in emptied]
    losing = sorted({name for row in mine for name in row["projects"] if projects is None or name in projects})
    return Selection(filled, going, [row["blob_key"] for row in aside], shared, count, losing, names)


def _refuse(connection: Connection, selection: Selection) -> None:
    target = selection.target
    if target.instance and selection.shared:
        raise Conflict(
            "Other projects hold this instance too",
            value=target.instance,
            why="a project can only leave whole series to the others",
            remedy="Delete the series, which takes it out of your projects, or ask the site admin",
        )
    uids = sorted({row["series_instance_uid"] for row in selection.going})
    makers = sorted({row["execution"] for row in selection.going if row["execution"]})
    refuse(connection, str(target.study), uids, makers)


def refuse(connection: Connection, study: str, series: list[str], makers: list[str]) -> None:
    """Refuse to take away what is held, or what a run that has not ended needs.

    Parameters
    ----------
    study : str
        Study Instance UID.
    series : list of str
        Series Instance UIDs that lose something.
    makers : list of str
        Executions whose results they are.

    Raises
    ------
    Conflict
    """
    held = connection.execute("SELECT reason, placed_by FROM hold WHERE study_instance_uid = %s", (study,)).fetchone()
    if held is not None:
        raise Conflict(
            "This study is held, nothing of it may go",
            value=study,
            why=f"{held['placed_by']} placed a hold: {held['reason']}",
            remedy="Whoever manages the archive can release the hold",
        )
    active = connection.execute(
        "SELECT e.id FROM execution e JOIN run r ON r.identity = e.run"
        " WHERE e.state IN ('requested', 'submitted', 'running') AND (e.id = ANY(%s) OR EXISTS (SELECT 1"
        " FROM jsonb_array_elements(r.inputs) i WHERE i ->> 'series_instance_uid' = ANY(%s))) ORDER BY e.id LIMIT 1",
        (makers, series),
    ).fetchone()
    if active is not None:
        raise Conflict(
            "A run that has not ended needs what is to go",
            value=active["id"],
            why="its input or its results would be lost",
            remedy=f"Wait for it, or cancel it: insitu run cancel {active['id']}",
        )


def checked_reason(reason: str) -> str:
    """The reason without surrounding space.

    Raises
    ------
    Invalid
        It has fewer than 3 or more than 500 characters.
    """
    reason = reason.strip()
    if not SHORTEST_REASON <= len(reason) <= LONGEST_REASON:
        raise Invalid(
            "This needs a reason",
            value=reason[:80],
            why=f"a reason has {SHORTEST_REASON} to {LONGEST_REASON} characters",
        )
    return reason


def _decide(
    archive: Archive,
    identifier: uuid.UUID,
    actor: str,
    target: Target,
    reason: str,
    projects: frozenset[str] | None,
    rule: str | None,
) -> Selection:
    """Write down what is to go, or take shared series out of the caller's projects; the entry in the journal decides."""
    with archive.database.transaction() as connection:
        selection = _select(connection, target, projects, lock=True)
        _refuse(connection, selection)
        for series in selection.shared:
            for project in series["projects"]:
                if projects is not None and project in projects:
                    links.unlink(connection, archive.settings, series["id"], project, actor)
        keys = [row["blob_key"] for row in selection.going] + selection.aside
        count = asdict(selection.count)
        unlinked = count.pop("unlinked")
        patient = connection.execute(
            "SELECT encode(sha256(convert_to(patient_id, 'UTF8')), 'hex') AS digest FROM study"
            " WHERE study_instance_uid = %s AND patient_id <> ''",
            (selection.target.study,),
        ).fetchone()
        entry = {
            "id": str(identifier), "at": time_of(identifier).isoformat(), "actor": actor, "reason": reason, "rule": rule,
            "study_instance_uid": selection.target.study, "series_instance_uid": selection.target.series,
            "sop_instance_uid": selection.target.instance, "patient": patient and patient["digest"], **count,
            "keys": keys, "emptied": selection.emptied,
        }  # fmt: skip
        if selection.going:
            insert(connection, entry, keys)
        trail.record(
            connection, actor, "delete" if selection.going else "unlink", selection.target.kind, selection.target.uid,
            project=selection.projects[0] if len(selection.projects) == 1 else None,
            detail={
                "study": selection.target.study, "reason": reason, "rule": rule, "projects": selection.projects,
                "unlinked": unlinked, **count, **({"deletion": str(identifier)} if selection.going else {}),
            },
        )  # fmt: skip
    if selection.going:
        # Where this fails nobody knows whether the entry is there: `finish` looks, and the caller is told to try again.
        journal.append(archive.blobs, "deletion", identifier=identifier, **entry)
    return selection


def _settle(database: Database, blobs: BlobStore, identifier: uuid.UUID) -> None:
    """Carry out a deletion that stands: rows, then blobs. May be repeated from any point."""
    keys: list[str] = []
    for attempt in range(TRIES):
        try:
            with database.transaction() as connection:
                row = connection.execute("SELECT keys FROM deletion WHERE id = %s FOR UPDATE", (identifier,)).fetchone()
                if row is None or row["keys"] is None:
                    return
                keys = row["keys"]
                remove_rows(connection, blobs, keys)
            break
        except psycopg.errors.DeadlockDetected:
            if attempt == TRIES - 1:
                raise
    for key in keys:
        blobs.delete(key)
    with database.transaction() as connection:
        connection.execute("UPDATE deletion SET keys = NULL WHERE id = %s", (identifier,))


def remove_rows(connection: Connection, blobs: BlobStore, keys: Sequence[str], *, results: bool = True) -> None:
    """Remove from the index what stands for these blobs, and what hangs on it; what is left is made to agree again.

    With `results` they are no results of their runs any more.
    """
    keys = list(keys)
    series = connection.execute(
        # In this order, as the dispatcher locks them. It waits for objects that are just being added to them.
        "SELECT id, study FROM series WHERE id IN (SELECT series FROM instance WHERE blob_key = ANY(%s))"
        " ORDER BY id FOR UPDATE",
        (keys,),
    ).fetchall()
    studies = sorted({row["study"] for row in series})
    connection.execute("SELECT 1 FROM study WHERE id = ANY(%s) ORDER BY id FOR UPDATE", (studies,))
    connection.execute("DELETE FROM conflict WHERE blob_key = ANY(%s)", (keys,))
    gone = connection.execute(
        "DELETE FROM instance WHERE blob_key = ANY(%s) RETURNING sop_instance_uid", (keys,)
    ).fetchall()
    if results:
        _forget_results(connection, [row["sop_instance_uid"] for row in gone])
    for row in series:
        left = connection.execute(
            "SELECT receipt FROM instance WHERE series = %s ORDER BY id DESC LIMIT 1", (row["id"],)
        ).fetchone()
        if left is None:
            connection.execute("DELETE FROM series_event WHERE series = %s", (row["id"],))
            connection.execute("DELETE FROM series WHERE id = %s", (row["id"],))
        else:
            derivation.derive_series(connection, blobs, row["id"])
            links.record(connection, blobs, row["id"])
            # What is left is another content: it becomes a revision of its own.
            connection.execute(
                "INSERT INTO series_event (series, receipt) VALUES (%s, %s)", (row["id"], left["receipt"])
            )
    for study in studies:
        if connection.execute("SELECT 1 FROM series WHERE study = %s LIMIT 1", (study,)).fetchone():
            derivation.derive_study(connection, blobs, study)
        else:
            connection.execute("DELETE FROM study WHERE id = %s", (study,))


def _forget_results(connection: Connection, instances: list[str]) -> None:
    """A deleted result is no result of its run any more; the run's history says so."""
    connection.execute(
        "WITH gone AS (DELETE FROM execution_result WHERE sop_instance_uid = ANY(%s) RETURNING execution, kind)"
        " INSERT INTO execution_event (execution, stage, detail)"
        " SELECT execution, 'result-deleted', %s || jsonb_build_object('objects', count(*)) FROM gone GROUP BY execution",
        (instances, Jsonb({"at": datetime.now(UTC).isoformat()})),
    )
