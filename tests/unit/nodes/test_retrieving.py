"""ING-8: studies of other nodes are found and fetched, whole and as they lie there, by C-GET, C-MOVE and DICOMweb."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

from insitu.errors import Conflict, Invalid, NotFound, Unavailable
from insitu.nodes import retrievals
from insitu_services.dispatcher.exchange import Exchange
from insitu_services.dispatcher.retrievals import RetrievalCarrier
from insitu_services.peers import finding
from insitu_services.peers.finding import Query
from tests.peers import orthanc
from tests.peers.dcmtk import Dcmqrscp, dcmqrscp
from tests.tools import need_orthanc, needs_program

from .conftest import PATIENCE, Site, encoded, image, until

needs_dcmtk = needs_program("dcmqrscp", "dcmtk")

STUDY, OTHER = "1.2.826.0.1.3680043.9.1", "1.2.826.0.1.3680043.9.2"


def objects(*, compressed: bool = False) -> list[pydicom.Dataset]:
    """Two studies of two patients: the first has two series, one of them compressed where that is wanted."""
    first, second = generate_uid(), generate_uid()
    made = [image(StudyInstanceUID=STUDY, SeriesInstanceUID=first, InstanceNumber=n) for n in (1, 2, 3)]
    for number in (1, 2):
        small = image(StudyInstanceUID=STUDY, SeriesInstanceUID=second, InstanceNumber=number)
        if compressed:
            small.compress(RLELossless, generate_instance_uid=False)
        made.append(small)
    made.append(
        image(
            StudyInstanceUID=OTHER, PatientID="4712", PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 192",
            StudyDate="20240301", AccessionNumber="B2",
        )
    )  # fmt: skip
    return made


def write(folder: Path, datasets: list[pydicom.Dataset]) -> list[Path]:
    """The objects as files."""
    folder.mkdir(parents=True)
    for dataset in datasets:
        (folder / f"{dataset.SOPInstanceUID}.dcm").write_bytes(encoded(dataset))
    return sorted(folder.iterdir())


@contextmanager
def fetching(site: Site, *, peak: bool = False) -> Iterator[None]:
    """The retrievals of the dispatcher at work."""
    stopping = threading.Event()
    fetcher = RetrievalCarrier(site.settings, site.database, site.archive, stopping)
    exchange = Exchange(site.settings, site.database, {"retrieval": fetcher.carry}, stopping, is_peak=lambda: peak)
    exchange.start()
    try:
        yield
    finally:
        exchange.stop()


def start(site: Site, study: str = STUDY, **options: Any) -> str:
    """Queue a retrieval."""
    values = {"project": "alpha", "off_peak": False, "requested_by": "anna"} | options
    with site.database.transaction() as connection:
        made = retrievals.create(connection, "pacs", study=study, **values)
    site.archive.wake()
    return made


def row_of(site: Site, identifier: str) -> dict[str, Any]:
    """The retrieval as it is."""
    with site.database.transaction() as connection:
        return retrievals.get(connection, identifier, None)


def ended(site: Site, identifier: str) -> dict[str, Any]:
    """The retrieval, once it has ended."""
    found: dict[str, Any] = until(
        lambda: (row := row_of(site, identifier))["state"] != "queued" and row, "the retrieval has ended"
    )
    return found


def here(site: Site, study: str = STUDY) -> dict[str, pydicom.Dataset]:
    """The objects of a study in the archive, in project alpha."""
    with site.database.transaction() as connection:
        rows = connection.execute(
            "SELECT i.blob_key FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study"
            " JOIN series_project p ON p.series = s.id AND p.project = 'alpha' WHERE t.study_instance_uid = %s",
            (study,),
        ).fetchall()
    found = {}
    for row in rows:
        with site.archive.blobs.open(row["blob_key"]) as stream:
            dataset = pydicom.dcmread(stream)
        found[str(dataset.SOPInstanceUID)] = dataset
    return found


def same(found: dict[str, pydicom.Dataset], expected: list[pydicom.Dataset]) -> bool:
    """Whether these are the objects of the first study, in the transfer syntaxes they had."""
    wanted = {str(each.SOPInstanceUID): each for each in expected if each.StudyInstanceUID == STUDY}
    return set(found) == set(wanted) and all(
        each == wanted[uid] and each.file_meta.TransferSyntaxUID == wanted[uid].file_meta.TransferSyntaxUID
        for uid, each in found.items()
    )


@contextmanager
def receiving(site: Site, dsn: str, folder: Path) -> Iterator[int]:
    """A receiver of the archive; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INSITU_")} | {
        "INSITU_DATABASE_DSN": dsn, "INSITU_HOME": str(site.settings.home), "INSITU_DICOM": f"127.0.0.1:{port}",
        "INSITU_RECEIVER_PROCESSES": "1",
    }  # fmt: skip
    log = folder / "receiver.log"
    with log.open("w") as stream:
        receiver = subprocess.Popen([sys.executable, "-m", "insitu_services.receiver"], env=environment, stderr=stream)
    try:
        until(lambda: '"ready"' in log.read_text(), "the receiver is ready")
        yield port
    finally:
        receiver.send_signal(signal.SIGTERM)
        receiver.wait(PATIENCE)


@pytest.fixture
def pacs(site: Site, tmp_path: Path) -> Iterator[tuple[Dcmqrscp, list[pydicom.Dataset]]]:
    """DCMTK's PACS, entered as node `pacs`."""
    made = objects()
    with dcmqrscp(tmp_path / "pacs", write(tmp_path / "files", made)) as running:
        site.node("pacs", ae_title="QRSCP", host="127.0.0.1", port=running.port)
        yield running, made


@needs_dcmtk
def test_a_study_of_a_pacs_is_not_found_by_what_is_known_of_it(site: Site, pacs: Any) -> None:
    with site.database.transaction() as connection:
        from insitu.nodes import registry

        node = registry.find(connection, "pacs")

    def found(**keys: str) -> set[str]:
        return {each["StudyInstanceUID"] for each in finding.studies(node, site.settings, Query(**keys), by_web=False)}

    assert found(patient_id="4711") == {STUDY}
    assert found(accession="B2") == {OTHER}
    assert found(dates="20240101-20240331") == {STUDY, OTHER}
    assert found(dates="20240201-") == {OTHER}
    assert found(study=OTHER) == {OTHER}
    assert found(patient_id="nobody") == set()
    (only,) = finding.studies(node, site.settings, Query(study=OTHER), by_web=False)
    assert (only["PatientName"], only["StudyDate"]) == ("Müller^Jörg", "20240301")
    contents = finding.contents(node, site.settings, STUDY, None, by_web=False)
    assert contents is not None
    assert set(contents) == {str(each.SOPInstanceUID) for each in pacs[1] if each.StudyInstanceUID == STUDY}


@pytest.mark.parametrize(
    "keys", [{}, {"modality": "CT"}, {"patient_id": "*"}, {"accession": "a\\b"}, {"study": "1.2*"}]
)
def test_a_whole_pacs_is_listed_by_a_search_without_a_limit(keys: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Query(**keys)


@needs_dcmtk
def test_a_study_fetched_by_c_get_is_not_the_one_that_lies_there(site: Site, pacs: Any) -> None:
    with fetching(site):
        row = ended(site, start(site))
    assert (row["state"], row["expected"], row["present"]) == ("done", 5, 5), row
    assert same(here(site), pacs[1])
    with site.database.transaction() as connection:
        receipt = connection.execute("SELECT * FROM receipt").fetchall()
    assert [(each["channel"], each["calling_ae"], each["principal"]) for each in receipt] == [
        ("retrieve", "QRSCP", "anna")
    ]


@needs_dcmtk
def test_a_second_retrieval_fetches_again_what_is_here(site: Site, pacs: Any) -> None:
    mine = [each for each in pacs[1] if each.StudyInstanceUID == STUDY]
    with site.database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('beta')")
    site.store(mine[0], mine[3], project="beta")
    with fetching(site):
        row = ended(site, start(site))
        assert (row["state"], row["present"]) == ("done", 5), row
        again = ended(site, start(site))
    assert again["state"] == "done"
    assert same(here(site), pacs[1])
    with site.database.transaction() as connection:
        counts = connection.execute(
            "SELECT r.channel, count(*) AS n FROM instance i JOIN receipt r ON r.id = i.receipt GROUP BY 1 ORDER BY 1"
        ).fetchall()
        receipts = connection.execute("SELECT count(*) AS n FROM receipt WHERE channel = 'retrieve'").fetchone()
    assert [(each["channel"], each["n"]) for each in counts] == [("import", 2), ("retrieve", 3)]
    assert receipts == {"n": 1}, "the second retrieval found nothing to fetch"


@needs_dcmtk
def test_a_study_fetched_by_c_move_does_not_come_through_our_own_receiver(
    site: Site, database_dsn: str, tmp_path: Path
) -> None:
    with receiving(site, database_dsn, tmp_path) as port:
        made = objects()
        files = write(tmp_path / "files", made)
        with dcmqrscp(tmp_path / "pacs", files, peers={"INSITU": port}) as running, fetching(site):
            site.node("pacs", ae_title="QRSCP", host="127.0.0.1", port=running.port, retrieve_by="move")
            series = str(made[0].SeriesInstanceUID)
            row = ended(site, start(site, series=series))
            assert (row["state"], row["expected"], row["present"]) == ("done", 3, 3), row
            assert len(here(site)) == 3
            site.settings = site.settings.model_copy(update={"ae_title": "STRANGER"})
        with dcmqrscp(tmp_path / "again", files) as running, fetching(site):
            site.node("pacs", ae_title="QRSCP", host="127.0.0.1", port=running.port, retrieve_by="move")
            identifier = start(site, OTHER)
            row = until(lambda: (r := row_of(site, identifier))["reason"] and r, "the refusal is told")
            assert "does not know our AE title" in row["reason"]


@needs_dcmtk
def test_a_pacs_that_is_away_or_a_study_it_does_not_have_is_asked_for_without_end(
    site: Site, pacs: Any, tmp_path: Path, unused_port: int
) -> None:
    site.settings = site.settings.model_copy(update={"transfer_attempts": 2})
    with fetching(site):
        row = ended(site, start(site, "1.2.3.4"))
        assert (row["state"], row["reason"]) == ("failed", "The node has no such study.")
        site.node("pacs", ae_title="QRSCP", host="127.0.0.1", port=unused_port)
        row = ended(site, start(site))
    assert row["state"] == "failed"
    assert "refused" in row["reason"]
    assert "Given up after 2 attempts" in row["reason"]


@needs_dcmtk
def test_an_off_peak_retrieval_begins_by_day_or_never(site: Site, pacs: Any) -> None:
    with fetching(site, peak=True):
        waiting = start(site, OTHER, off_peak=True)
        assert ended(site, start(site))["state"] == "done", "what is asked for now is not held up"
        assert row_of(site, waiting)["state"] == "queued"
    with fetching(site, peak=False):
        assert ended(site, waiting)["state"] == "done"


@needs_dcmtk
def test_a_cancelled_retrieval_is_fetched(site: Site, pacs: Any) -> None:
    identifier = start(site)
    assert start(site) == identifier, "the same that waits already is not queued twice"
    with site.database.transaction() as connection:
        retrievals.cancel(connection, identifier, "anna")
        with pytest.raises(Conflict):
            retrievals.cancel(connection, identifier, "anna")
    with fetching(site):
        assert ended(site, start(site, OTHER))["state"] == "done"
        assert row_of(site, identifier)["state"] == "cancelled"
        assert here(site) == {}
        with site.database.transaction() as connection:
            retrievals.retry(connection, identifier)
        assert ended(site, identifier)["state"] == "done"
    with site.database.transaction() as connection, pytest.raises(NotFound):
        retrievals.get(connection, identifier, frozenset({"beta"}))


def test_a_retrieval_is_queued_that_can_never_begin(site: Site) -> None:
    site.node("pacs", ae_title="QRSCP")
    with pytest.raises(Invalid, match="host and port"):
        start(site, way="get")
    with pytest.raises(Invalid, match="DICOMweb"):
        start(site)
    site.node("pacs", ae_title="QRSCP", host="127.0.0.1", port=1)
    with pytest.raises(Invalid, match="no such project"):
        start(site, project="missing")


def test_orthanc_as_a_dicomweb_service_gives_or_gets_other_objects(site: Site, tmp_path: Path) -> None:
    need_orthanc()
    made = objects(compressed=True)
    small = image(StudyInstanceUID=STUDY, SeriesInstanceUID=made[0].SeriesInstanceUID, InstanceNumber=9)
    small.compress(JPEG2000Lossless, generate_instance_uid=False)
    made.append(small)
    with orthanc.orthanc(tmp_path / "orthanc") as running:
        for each in made:
            httpx.post(
                f"{running.url}/instances", content=encoded(each), timeout=PATIENCE, trust_env=False
            ).raise_for_status()
        node = site.node("pacs", url=running.dicomweb)
        studies = finding.studies(node, site.settings, Query(dates="20240101-20240331"), by_web=True)
        assert {each["StudyInstanceUID"] for each in studies} == {STUDY, OTHER}
        (only,) = finding.studies(node, site.settings, Query(patient_id="4712"), by_web=True)
        assert only["PatientName"] == "Müller^Jörg"
        with fetching(site):
            row = ended(site, start(site))
            assert (row["state"], row["expected"], row["present"]) == ("done", 6, 6), row
            assert same(here(site), made)
            missing = ended(site, start(site, "1.2.3.4"))
            assert (missing["state"], missing["reason"]) == ("failed", "The node has no such study.")
        broken = node.model_copy(update={"url": f"{running.url}/nothing"})
        with pytest.raises(Unavailable, match="404"):
            finding.studies(broken, site.settings, Query(patient_id="4712"), by_web=True)

        # and back again: what is here goes to it by STOW-RS
        study, uids = site.study(18)
        for syntax in (RLELossless, JPEG2000Lossless):
            small = image(StudyInstanceUID=study)
            small.compress(syntax, generate_instance_uid=False)
            site.store(small)
            uids.append(str(small.SOPInstanceUID))
        with site.exchanging():
            sent = site.ended(site.send(study, "pacs"))
        assert (sent["way"], sent["state"], sent["sent"]) == ("stow", "done", 20), sent
        listed = httpx.get(f"{running.url}/instances?expand", timeout=PATIENCE, trust_env=False).json()
        there = {each["MainDicomTags"]["SOPInstanceUID"] for each in listed}
        assert set(uids) <= there


def test_orthanc_by_dimse_gives_or_gets_other_objects_whichever_side_asks(
    site: Site, database_dsn: str, tmp_path: Path
) -> None:
    need_orthanc()
    made = objects(compressed=True)
    asked, uids = site.study(2)
    with receiving(site, database_dsn, tmp_path) as port:
        with orthanc.orthanc(tmp_path / "orthanc", modalities={"insitu": (site.settings.ae_title, port)}) as running:
            for each in made:
                httpx.post(
                    f"{running.url}/instances", content=encoded(each), timeout=PATIENCE, trust_env=False
                ).raise_for_status()
            values = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": running.dicom_port, "projects": ("alpha",)}
            site.node("pacs", **values)
            with fetching(site), site.exchanging():
                # we fetch: the first series by C-GET, the second, which is compressed, by C-MOVE to our receiver
                row = ended(site, start(site, series=str(made[0].SeriesInstanceUID)))
                assert (row["way"], row["state"], row["present"]) == ("get", "done", 3), row
                row = ended(site, start(site, series=str(made[3].SeriesInstanceUID), way="move"))
                assert (row["way"], row["state"], row["present"]) == ("move", "done", 2), row
                assert same(here(site), made)
                # we send, it asks and fetches by C-MOVE, it sends
                sent = site.ended(site.send(STUDY, "pacs"))
                assert (sent["way"], sent["state"], sent["sent"]) == ("dimse", "done", 5), sent
            found = running.request(
                "POST", "/modalities/insitu/query", {"Level": "Study", "Query": {"StudyInstanceUID": asked}}
            )
            assert isinstance(found, dict)
            running.request("POST", f"/queries/{found['ID']}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
            listed = httpx.get(f"{running.url}/instances?expand", timeout=PATIENCE, trust_env=False).json()
            there = {each["MainDicomTags"]["SOPInstanceUID"]: each["ID"] for each in listed}
            assert set(uids) <= set(there)
            other = str(made[-1].SOPInstanceUID)
            running.request("POST", "/modalities/insitu/store", {"Resources": [there[other]], "Synchronous": True})
    with site.database.transaction() as connection:
        row = connection.execute(
            "SELECT r.calling_ae FROM instance i JOIN receipt r ON r.id = i.receipt WHERE i.sop_instance_uid = %s",
            (other,),
        ).fetchone()
    assert row == {"calling_ae": "ORTHANC"}
