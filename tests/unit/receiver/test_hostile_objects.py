"""Bad objects by C-STORE: the status the sender gets, the line in the log, what quarantine holds, and nothing in the index."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import generate_uid

from .conftest import Receiver
from .test_receiver import EXPLICIT, data_set, made, objects, scripted_store

IMPLICIT, BIG_ENDIAN, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50"
SECRET = "Secretname^Secret"
Change = Callable[[Dataset], None]


def encoded(dataset: Dataset, folder: Path) -> bytes:
    """The data set as bytes, in its transfer syntax."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset)
    file = folder / "encoded.dcm"
    file.write_bytes(buffer.getvalue())
    return data_set(file)


def without(keyword: str) -> Change:
    """Leave an attribute out."""
    return lambda dataset: delattr(dataset, keyword)


def with_value(keyword: str, value: str) -> Change:
    """Give an attribute another value."""

    def change(dataset: Dataset) -> None:
        dataset[keyword].validation_mode = 0
        dataset.add_new(dataset[keyword].tag, dataset[keyword].VR, value)

    return change


@pytest.fixture(scope="module")
def stored(module_receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Receiver, Path]]:
    """A receiver with one good object, and the file of that."""
    file = made(tmp_path_factory.mktemp("made"), 1)[0]
    named = dcmread(file)
    named.PatientName, named.PatientID = SECRET, "SECRETID"
    named.save_as(file)
    assert scripted_store(module_receiver, data_set(file), str(named.SOPInstanceUID)) == (0, "")
    yield module_receiver, file
    log = module_receiver.log.read_text()
    assert "secret" not in log.lower()
    assert "an association failed" not in log
    assert len(module_receiver.workers()) == 2


def assert_quarantined(receiver: Receiver, payload: bytes, uid: str, status: int, words: str, **said: str) -> None:
    """The object is refused with this status and comment, logged and quarantined with the reason, and not in the index."""
    mark, before = len(receiver.log.read_text()), receiver.count("instance")
    got, comment = scripted_store(receiver, payload, uid, **said)
    assert got == status, (hex(got), comment)
    with receiver.database.transaction() as connection:
        row = connection.execute("SELECT * FROM quarantine ORDER BY at DESC LIMIT 1").fetchone()
    assert row is not None
    assert words in row["reason"]
    assert comment
    assert row["reason"].startswith(comment.strip()[:60])  # an error comment holds 64 characters
    assert (receiver.home / "blobs" / row["blob_key"]).read_bytes().endswith(payload)
    lines = [json.loads(line) for line in receiver.log.read_text()[mark:].splitlines()]
    (line,) = [each for each in lines if each["message"].startswith("an object was quarantined")]
    assert (line["level"], line["blob_key"]) == ("warning", row["blob_key"])
    assert words in line["message"]
    assert receiver.count("instance") == before
    assert len(objects(receiver)) == before


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (without("StudyInstanceUID"), 0xC000, "Study Instance UID is missing"),
        (without("SeriesInstanceUID"), 0xC000, "Series Instance UID is missing"),
        (without("SOPInstanceUID"), 0xC000, "SOP Instance UID is missing"),
        (with_value("StudyInstanceUID", ""), 0xC000, "Study Instance UID is empty"),
        (with_value("SeriesInstanceUID", "1." + "2" * 70), 0xC000, "Series Instance UID is longer than 64"),
        (with_value("SeriesInstanceUID", "1.2.x"), 0xC000, "Series Instance UID is malformed"),
        (with_value("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"), 0xA900, "the sender said SOP Class UID"),
        (without("PixelData"), 0xC000, "no pixel data"),
        (with_value("PatientID", "SECRETOTHER"), 0xC000, "known under another Patient ID"),
        (with_value("StudyInstanceUID", "1.2.3.4.5"), 0xC000, "its series is known under another study"),
    ],
)
def test_the_sender_of_a_bad_object_is_told_and_a_person_finds_it(
    stored: tuple[Receiver, Path], tmp_path: Path, change: Change, status: int, words: str
) -> None:
    receiver, file = stored
    dataset = dcmread(file)
    dataset.SOPInstanceUID = generate_uid()
    uid = str(dataset.SOPInstanceUID)
    change(dataset)
    assert_quarantined(receiver, encoded(dataset, tmp_path), uid, status, words)


def test_bytes_that_are_no_object_of_the_agreed_transfer_syntax_are_refused(stored: tuple[Receiver, Path]) -> None:
    receiver, file = stored
    uid, content = str(dcmread(file).SOPInstanceUID), data_set(file)
    mismatch = "transfer syntax does not match"
    assert_quarantined(receiver, content, uid, 0xC000, mismatch, syntax=IMPLICIT)
    assert_quarantined(receiver, content, uid, 0xC000, mismatch, syntax=BIG_ENDIAN)
    assert_quarantined(receiver, content, uid, 0xC000, mismatch, syntax=JPEG)
    assert_quarantined(receiver, content, uid, 0xC000, "cannot be inflated", syntax="1.2.840.10008.1.2.1.99")
    text = b"To whom it may concern: this is a letter and no image."
    assert_quarantined(receiver, text, uid, 0xC000, "transfer syntax")
    assert_quarantined(receiver, file.read_bytes(), uid, 0xC000, "transfer syntax")  # a whole file for a data set
    assert_quarantined(receiver, b"\0" * 100, uid, 0xC000, "")


def test_no_object_cut_at_a_boundary_of_an_element_becomes_an_image(stored: tuple[Receiver, Path]) -> None:
    receiver, file = stored
    content, uid = data_set(file), str(dcmread(file).SOPInstanceUID)
    at, starts = 0, []
    while at < len(content):
        starts.append(at)
        vr, length = content[at + 4 : at + 6], struct.unpack_from("<H", content, at + 6)[0]
        at += 8 + length
        if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            at = starts[-1] + 12 + struct.unpack_from("<I", content, starts[-1] + 8)[0]
    assert len(starts) > 20
    mark, before = len(receiver.log.read_text()), receiver.count("quarantine")
    refused = 0
    size = content.index(struct.pack("<HH2s", 0x0028, 0x0010, b"US"))
    uids = content.index(struct.pack("<HH2s", 0x0020, 0x000E, b"UI"))
    for start in starts[1:]:
        for cut in (start, start + 5):
            # A header alone, cut between its UIDs and the size of its image, cannot be told from one made so: under a new
            # UID it would be taken. Here its UID is known and its bytes differ, so it is kept aside as a conflict.
            status, comment = scripted_store(receiver, content[:cut], uid)
            taken = cut == start and uids < cut <= size
            assert (status == 0) == taken, (cut, hex(status), comment)
            assert comment or taken
            refused += not taken
    assert receiver.count("instance") == 1
    assert len(objects(receiver)) == 1
    assert receiver.count("quarantine") - before == refused > 40
    assert receiver.log.read_text()[mark:].count('"an object was quarantined: ') == refused


ITEM, ITEM_END, SEQUENCE_END = ((0xFFFE, number) for number in (0xE000, 0xE00D, 0xE0DD))


def nested(depth: int) -> bytes:
    """Sequences of undefined length in one another."""
    begin = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", *ITEM, 0xFFFFFFFF)
    end = struct.pack("<HHI", *ITEM_END, 0) + struct.pack("<HHI", *SEQUENCE_END, 0)
    return begin * depth + end * depth


def short(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """An element whose length has 16 bits."""
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


TAKEN = {
    "a group length that lies": short(8, 0, b"UL", struct.pack("<I", 0x7FFFFFF0)),
    "sequences 100 deep": nested(100),
    "an element nobody knows, of a VR nobody knows": short(0x29, 0x1010, b"ZZ", b"ab"),
}
LYING = {
    "sequences 129 deep": (nested(129), "nested deeper than 128"),
    "a length of 4 GB": (struct.pack("<HH2sHI", 0x29, 0x1010, b"OB", 0, 0xFFFFFFFE) + b"xx", "truncated"),
    "an item of 4 GB": (
        struct.pack("<HH2sHIHHI", 0x40, 0xA730, b"SQ", 0, 0xFFFFFFFF, *ITEM, 0xFFFFFFFE), "truncated",
    ),
    "two series": (short(0x20, 0x0E, b"UI", b"1.2.3.44"), "Series Instance UID stands more than once"),
    "two patients": (short(0x10, 0x20, b"LO", b"0815"), "Patient ID stands more than once"),
    "the end of an item": (struct.pack("<HHI", *ITEM_END, 0), "stands outside a sequence"),
}  # fmt: skip


def inserted(file: Path, more: bytes) -> tuple[bytes, str]:
    """The data set of the file under a UID of its own with bytes before its pixel data, and that UID."""
    content, uid = data_set(file), str(dcmread(file).SOPInstanceUID)
    other = generate_uid(entropy_srcs=[uid, repr(more)])[: len(uid)].ljust(len(uid), "1")
    at = content.rindex(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    return (content[:at] + more + content[at:]).replace(uid.encode(), other.encode()), other


def test_what_is_odd_but_whole_is_taken_without_a_word(stored: tuple[Receiver, Path]) -> None:
    receiver, file = stored
    mark, before = len(receiver.log.read_text()), receiver.count("quarantine")
    for name, more in TAKEN.items():
        content, uid = inserted(file, more)
        assert scripted_store(receiver, content, uid) == (0, ""), name
        with receiver.database.transaction() as connection:
            row = connection.execute("SELECT blob_key FROM instance WHERE sop_instance_uid = %s", (uid,)).fetchone()
        assert row is not None, name
        assert (receiver.home / "blobs" / row["blob_key"]).read_bytes().endswith(content), name
    assert receiver.count("quarantine") == before
    assert {json.loads(line)["level"] for line in receiver.log.read_text()[mark:].splitlines()} <= {"info"}


@pytest.mark.parametrize("name", LYING)
def test_what_lies_about_its_lengths_or_says_two_things_at_once_is_put_aside(
    stored: tuple[Receiver, Path], name: str
) -> None:
    receiver, file = stored
    more, words = LYING[name]
    content, uid = inserted(file, more)
    assert_quarantined(receiver, content, uid, 0xC000, words)


CHARACTER_SETS = {
    "ISO 2022": ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", 0),
    "GB18030": ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), 0),
    "UTF-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), 0),
    "bytes that are no UTF-8": ("ISO_IR 192", b"M\xfcller^J\xf6rg", 0),
    "one nobody knows": ("ISO_IR 4711", b"Muller^Joerg", 0),
    "one with control characters": ("ISO\1_IR 192", b"Muller^Joerg", 0xC000),
}


@pytest.mark.parametrize("name", CHARACTER_SETS)
def test_a_character_set_right_or_wrong_keeps_every_byte(
    stored: tuple[Receiver, Path], tmp_path: Path, name: str
) -> None:
    receiver, file = stored
    character_set, person, status = CHARACTER_SETS[name]
    dataset = dcmread(file)
    dataset.SOPInstanceUID, dataset.PatientID = generate_uid(), "SECRETID"
    dataset.pop("SpecificCharacterSet", None)
    dataset.pop("PatientName", None)
    plain = encoded(dataset, tmp_path)
    at = plain.index(struct.pack("<HH", 0x0010, 0x0020))
    text = character_set.encode() + b" " * (len(character_set) % 2)
    content = (
        short(8, 5, b"CS", text) + plain[:at] + short(0x10, 0x10, b"PN", person + b" " * (len(person) % 2)) + plain[at:]
    )
    if status:
        assert_quarantined(receiver, content, dataset.SOPInstanceUID, status, "Specific Character Set is malformed")
        return
    mark = len(receiver.log.read_text())
    assert scripted_store(receiver, content, dataset.SOPInstanceUID) == (0, "")
    with receiver.database.transaction() as connection:
        row = connection.execute(
            "SELECT blob_key FROM instance WHERE sop_instance_uid = %s", (dataset.SOPInstanceUID,)
        ).fetchone()
    assert row is not None
    assert (receiver.home / "blobs" / row["blob_key"]).read_bytes().endswith(content)
    assert {json.loads(line)["level"] for line in receiver.log.read_text()[mark:].splitlines()} <= {"info"}


@pytest.mark.parametrize(("policy", "status", "kept"), [("keep", 0, 2), ("refuse", 0x0111, 0)])
def test_another_object_or_syntax_under_a_known_uid_never_takes_its_place(
    policy: str, status: int, kept: int, start: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = start(known_uid_policy=policy, receiver_processes="1")
    file = made(tmp_path, 1)[0]
    first, uid = data_set(file), str(dcmread(file).SOPInstanceUID)
    assert scripted_store(receiver, first, uid) == (0, "")
    assert scripted_store(receiver, first, uid) == (0, "")  # the very same
    mark = len(receiver.log.read_text())
    changed = dcmread(file)
    changed.SeriesDescription = "another"
    other = encoded(changed, tmp_path)
    recoded = dcmread(file)
    recoded.file_meta.TransferSyntaxUID = IMPLICIT
    buffer = io.BytesIO()
    dcmwrite(buffer, recoded, implicit_vr=True, little_endian=True)
    (tmp_path / "recoded.dcm").write_bytes(buffer.getvalue())
    implicit = data_set(tmp_path / "recoded.dcm")
    for content, syntax in ((other, EXPLICIT), (implicit, IMPLICIT), (implicit, IMPLICIT)):
        got, comment = scripted_store(receiver, content, uid, syntax=syntax)
        assert (got, bool(comment)) == (status, bool(status))
    with receiver.database.transaction() as connection:
        row = connection.execute("SELECT blob_key FROM instance").fetchone()
    assert row is not None
    assert (receiver.home / "blobs" / row["blob_key"]).read_bytes().endswith(first)
    assert (receiver.count("conflict"), receiver.count("quarantine")) == (kept, 0)
    said = "kept as a conflict" if kept else "refused"
    lines = [json.loads(line) for line in receiver.log.read_text()[mark:].splitlines()]
    words = [line for line in lines if line["message"] == f"another object under a known SOP Instance UID was {said}"]
    assert [line["level"] for line in words] == ["warning"] * 3
    assert all(line["receipt"] and uid not in json.dumps(line) for line in words)


def test_an_unknown_sop_class_is_refused_in_its_context_and_taken_by_switch(
    start: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = start(accept_unknown_sop_classes="true")
    private = "1.2.826.0.1.3680043.2.1143.99.1"
    dataset = dcmread(made(tmp_path, 1)[0])
    dataset.SOPClassUID = private
    payload = encoded(dataset, tmp_path)
    uid = str(dataset.SOPInstanceUID)
    assert scripted_store(receiver, payload, uid, abstract=private, syntax=EXPLICIT) == (0, "")
    with receiver.database.transaction() as connection:
        row = connection.execute("SELECT sop_class_uid FROM instance").fetchone()
    assert row == {"sop_class_uid": private}
