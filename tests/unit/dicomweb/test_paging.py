"""Pages and counts of searches stay right while others store, and never pretend to know a number."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pydicom
import pytest

from insitu_services.api.dicomweb import qido
from insitu_services.api.dicomweb.query import place_text


def uid(study: dict) -> str:
    """Study Instance UID of a result."""
    return study["0020000D"]["Value"][0]


def follow(site, address: str, key: str) -> list[str]:
    """The UIDs of all pages, by the links from each to the next."""
    found = []
    while address:
        response = site.get(address)
        assert response.status_code == 200, response.text
        found += [result[key]["Value"][0] for result in response.json()]
        link = response.headers.get("Link", "")
        address = link.partition("/dicom-web")[2].partition(">")[0]
    return found


@pytest.fixture
def many(site, make):
    """Thirty studies of two series, dates out of order."""
    site.take(
        *(
            make(1, StudyInstanceUID=f"1.2.{n}", SeriesInstanceUID=f"1.2.{n}.{s}", PatientID=f"P{n % 4}",
                 StudyDate=f"202401{1 + n * 7 % 28:02d}")
            for n in range(30)
            for s in (1, 2)
        ),
    )  # fmt: skip
    return site


def test_following_the_links_finds_everything_once_at_every_level(many):
    assert len(set(follow(many, "/studies?limit=7", "0020000D"))) == 30
    assert len(follow(many, "/studies?limit=7", "0020000D")) == 30
    dated = follow(many, "/studies?limit=4&StudyDate=20240101-20240131", "0020000D")
    assert (len(dated), len(set(dated))) == (30, 30)
    series = follow(many, "/series?limit=11", "0020000E")
    assert (len(series), len(set(series))) == (60, 60)
    instances = follow(many, "/instances?limit=13", "00080018")
    assert (len(instances), len(set(instances))) == (60, 60)


def test_studies_come_newest_date_first_where_dates_are_asked_for(many):
    found = many.found("/studies", StudyDate="20240110-20240120", includefield="StudyDate")
    dates = [study["00080020"]["Value"][0] for study in found]
    assert dates == sorted(dates, reverse=True)
    assert all("20240110" <= date <= "20240120" for date in dates)


def test_nothing_is_missed_by_links_or_offsets_while_others_store(many, make):
    before = {f"1.2.{n}" for n in range(30)}
    stop, stored = threading.Event(), []

    def write() -> None:
        number = 0
        while not stop.is_set() and number < 400:
            study = f"1.9.{number}"
            many.take(make(1, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1"), with_metadata=False)
            stored.append(study)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not stored:
            assert writer.is_alive()
        linked = follow(many, "/studies?limit=3", "0020000D")
        paged, offset = [], 0
        while page := many.found("/studies", limit=3, offset=offset):
            paged += [uid(study) for study in page]
            offset += 3
    finally:
        stop.set()
        writer.join(60)
    assert before <= set(linked)
    assert len(linked) == len(set(linked))
    assert before <= set(paged)


def test_what_stays_is_found_once_while_others_store_and_delete(many, make):
    """Studies 1.2.0 to 1.2.14 stay; the others go, one after the other, and new ones come."""
    kept = {f"1.2.{n}" for n in range(15)}
    begun, stop = threading.Event(), threading.Event()

    def churn() -> None:
        for number in range(15):
            if stop.is_set():
                return
            study = f"1.9.{number}"
            many.take(make(1, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1"), with_metadata=False)
            gone = f"{many.url}/dicom-web/studies/1.2.{29 - number}"
            answer = httpx.delete(gone, params={"reason": "a test"}, headers=many.headers, timeout=60)
            assert answer.status_code == 204, answer.text
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        churning = pool.submit(churn)
        try:
            assert begun.wait(60)
            rounds = 0
            while rounds < 1 or (not churning.done() and rounds < 4):
                for address, key, wanted in (
                    ("/studies?limit=2", "0020000D", kept),
                    ("/studies?limit=4&StudyDate=20240101-20240131", "0020000D", kept),
                    ("/series?limit=5", "0020000E", {f"{study}.{n}" for study in kept for n in (1, 2)}),
                ):
                    found = follow(many, address, key)
                    assert len(found) == len(set(found)), "an object stands on two pages"
                    assert wanted <= set(found), "an object that was there all the time is on no page"
                rounds += 1
        finally:
            stop.set()
        churning.result()
    assert len(many.found("/studies")) == int(many.get("/studies").headers["X-Total-Count"])


def test_a_count_is_exact_or_absent(many, monkeypatch):
    assert many.get("/studies?limit=5").headers["X-Total-Count"] == "30"
    monkeypatch.setattr(qido, "COUNTED", 10)
    response = many.get("/studies?limit=5")
    assert "X-Total-Count" not in response.headers
    assert "additional results" in response.headers["Warning"]
    exact = many.get("/studies?limit=5", headers={"Prefer": "count=exact"})
    assert (exact.headers["X-Total-Count"], exact.headers["Preference-Applied"]) == ("30", "count=exact")
    assert "There are 25 additional results" in exact.headers["Warning"]
    assert many.get("/studies?limit=5&offset=20").headers["X-Total-Count"] == "30"


def test_a_page_keeps_to_what_the_caller_may_see(many, make):
    many.project("heart")
    many.project("brain")
    many.take(make(1, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.9", PatientID="P3"), project="heart")
    many.take(make(1, StudyInstanceUID="1.8.1", SeriesInstanceUID="1.8.1.1"), project="heart")
    many.take(make(1, StudyInstanceUID="1.8.2", SeriesInstanceUID="1.8.2.1"), project="brain")
    many.become(heart="reader")
    assert set(follow(many, "/studies?limit=1", "0020000D")) == {"1.8.1", "1.2.3"}
    # a study that two of his projects hold stands once, in the order of arrival and of dates, merged from their lists
    many.take(make(1, StudyInstanceUID="1.8.2", SeriesInstanceUID="1.8.2.2"), project="heart")
    many.become(heart="reader", brain="reader")
    for keys in ("", "&StudyDate=19000101-20991231", "&PatientID=*", "&StudyDate=-20991231&ModalitiesInStudy=CT"):
        found = follow(many, f"/studies?limit=1{keys}", "0020000D")
        assert (len(found), set(found)) == (3, {"1.8.1", "1.8.2", "1.2.3"}), keys
    assert many.get("/studies?limit=1").headers["X-Total-Count"] == "3"


@pytest.mark.parametrize(
    "after", ["nonsense", "", place_text((1, 2)), place_text(("x",)), place_text((1 << 70,)), place_text((None,))]
)
def test_a_place_that_no_answer_gave_is_refused(many, after):
    response = many.get("/studies", params={"after": after or "!"})
    assert (response.status_code, response.json()["status"]) == (400, 400)


def test_names_are_found_by_their_begin_whatever_their_case_and_script(site, make):
    site.take(
        make(1, StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", SpecificCharacterSet="ISO_IR 192",
             PatientName="Ärmel^Jürgen"),
        make(1, StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", SpecificCharacterSet="ISO_IR 192",
             PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう"),
        make(1, StudyInstanceUID="1.3", SeriesInstanceUID="1.3.1", PatientName="ARMELL"),
        make(1, StudyInstanceUID="1.4", SeriesInstanceUID="1.4.1", PatientName="Per%cent_^A"),
        make(1, StudyInstanceUID="1.5", SeriesInstanceUID="1.5.1", PatientName="PerXcentY^A"),
    )  # fmt: skip
    wanted = {
        "ärmel*": {"1.1"}, "ÄRMEL^JÜRGEN": {"1.1"}, "Ärmel": set(), "山田*": {"1.2"}, "山田^太郎": {"1.2"},
        "やまだ*": {"1.2"}, "yamada^tarou": {"1.2"}, "*rmel*": {"1.1", "1.3"}, "arm?ll": {"1.3"}, "a*^": {"1.3"},
        "*er%cent_^a": {"1.4"}, "?er?CENT?^*": {"1.4", "1.5"}, "*tarou^^": {"1.2"}, "*やまだ*": {"1.2"}, "*太郎": {"1.2"},
    }  # fmt: skip
    found = {name: {uid(study) for study in site.found("/studies", PatientName=name)} for name in wanted}
    assert found == wanted


def test_only_what_is_asked_for_inside_a_sequence_comes(site, make):
    item = pydicom.Dataset()
    item.CodeValue, item.CodeMeaning, item.CodingSchemeDesignator = "T-1", "Head", "SRT"
    site.take(make(1, AnatomicRegionSequence=[item]))
    (whole,) = site.found("/instances", includefield="AnatomicRegionSequence")
    (part,) = site.found("/instances", includefield="AnatomicRegionSequence.CodeValue")
    (matched,) = site.found("/instances", **{"AnatomicRegionSequence.CodeMeaning": "Head"})
    assert len(whole["00082218"]["Value"][0]) == 3
    assert part["00082218"]["Value"] == [{"00080100": {"vr": "SH", "Value": ["T-1"]}}]
    assert re.fullmatch("00080104", "".join(matched["00082218"]["Value"][0]))
    assert site.found("/studies", **{"AnatomicRegionSequence.CodeMeaning": "Foot"}) == []
