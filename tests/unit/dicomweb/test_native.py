"""The Native DICOM Model, judged by DCMTK's dcm2xml: the same attributes, both ways."""

from __future__ import annotations

import io
import subprocess
from email import message_from_bytes
from xml.etree import ElementTree

import pydicom
import pytest

from insitu.archive import metadata
from insitu_services.api.dicomweb import native
from insitu_services.api.dicomweb.negotiation import BadRequest
from tests.tools import need_program

XML = 'multipart/related; type="application/dicom+xml"'


def rich(make) -> pydicom.Dataset:
    """An object with every kind of value that has a form of its own in XML."""
    dataset = make(1, SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^Tarou^M^Dr^Jr=山田^太郎=やまだ^たろう",
                   ImageType=["ORIGINAL", "", "AXIAL"], FrameIncrementPointer=[0x00181063, 0x00181065],
                   WindowCenter=[1.5, 2], WindowWidth=["1", "2"], ImageComments="a <b> & c\nd", AccessionNumber="")  # fmt: skip
    block = dataset.private_block(0x0099, "INSITU TEST", create=True)
    block.add_new(1, "LO", "private")
    block.add_new(0x10, "SH", "more")
    inner = pydicom.Dataset()
    inner.CodeValue, inner.RealWorldValueSlope = "x", 0.1
    dataset.ReferencedImageSequence = [inner, pydicom.Dataset()]
    return dataset


def by_dcmtk(dataset: pydicom.Dataset, folder) -> dict:
    """The attributes as dcm2xml gives them."""
    need_program("dcm2xml", "dcmtk")
    path = folder / "x.dcm"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    done = subprocess.run(["dcm2xml", "-nat", "+Xn", str(path)], capture_output=True, check=True, timeout=60)
    return native.from_xml(done.stdout.replace(b"uuid=", b"uri="))


def without_bulk(document: dict) -> dict:
    """Without values that are told by address, which is the server's own."""
    return {tag: attribute for tag, attribute in document.items() if "BulkDataURI" not in attribute}


def test_metadata_as_xml_is_what_dcmtk_makes_of_the_object(site, make, tmp_path):
    dataset = rich(make)
    site.take(dataset)
    answer = site.get("/studies/1.2.3/metadata", headers={"Accept": XML})
    assert answer.status_code == 200
    assert 'type="application/dicom+xml"' in answer.headers["Content-Type"]
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    (part,) = message_from_bytes(head + answer.content).get_payload()
    content = part.get_payload(decode=True)
    assert part.get_content_type() == "application/dicom+xml"
    assert part["Content-Length"] == str(len(content))
    root = ElementTree.fromstring(content)  # noqa: S314 - our own
    assert root.tag == "{http://dicom.nema.org/PS3.19/models/NativeDICOM}NativeDicomModel"
    private = [e.attrib for e in root if e.get("privateCreator")]
    assert [(a["tag"], a["privateCreator"]) for a in private] == [
        ("00990001", "INSITU TEST"),
        ("00990010", "INSITU TEST"),
    ]
    assert without_bulk(native.from_xml(content)) == without_bulk(by_dcmtk(dataset, tmp_path))
    assert native.from_xml(content) == site.get("/studies/1.2.3/metadata").json()[0]


def test_xml_or_json_comes_by_weight_and_no_result_is_204_in_xml(site, make):
    site.take(make(1))
    for accept, kind in ((f"{XML}; q=0.5, application/dicom+json", "application/dicom+json"),
                         (f"application/dicom+json; q=0.5, {XML}", "multipart/related"), ("*/*", "application/dicom+json")):  # fmt: skip
        for path in ("/studies", "/instances", "/studies/1.2.3/metadata"):
            assert site.get(path, headers={"Accept": accept}).headers["Content-Type"].startswith(kind), (path, accept)
    empty = site.get("/studies?PatientID=nobody", headers={"Accept": XML})
    assert (empty.status_code, empty.content) == (204, b"")
    stored = site.store(site.file(make(2)), headers={"Accept": "application/dicom+xml"})
    assert stored.headers["Content-Type"] == "application/dicom+xml"
    assert stored.headers["Content-Location"] == f"{site.url}/dicom-web/studies/1.2.3"
    assert len(native.from_xml(stored.content)["00081199"]["Value"]) == 1


@pytest.mark.parametrize("name", ["CT_small.dcm", "test-SR.dcm", "rtplan.dcm", "reportsi.dcm", "693_J2KI.dcm"])
def test_real_objects_survive_the_way_through_xml(sample, name):
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, sample(name), enforce_file_format=True)
    document = metadata._document(pydicom.dcmread(io.BytesIO(buffer.getvalue()), stop_before_pixels=True), "/bulk/")
    assert len(document) > 10
    assert native.from_xml(native.to_xml(document)) == document


def test_a_character_xml_cannot_hold_is_replaced_and_the_document_stays_readable():
    document = {"00204000": {"vr": "LT", "Value": ["a\x0bb"]}}
    assert native.from_xml(native.to_xml(document)) == {"00204000": {"vr": "LT", "Value": ["a\ufffdb"]}}


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><NativeDicomModel>&b;</NativeDicomModel>'
DEEP = b"<NativeDicomModel>" + b'<DicomAttribute tag="00081140" vr="SQ"><Item number="1">' * 9000
WORD = b'<NativeDicomModel><DicomAttribute tag="00280010" vr="US"><Value>x</Value></DicomAttribute></NativeDicomModel>'
NAMELESS = b'<NativeDicomModel><DicomAttribute tag="zz" vr="US"/></NativeDicomModel>'


@pytest.mark.parametrize("text", [BOMB, DEEP, WORD, NAMELESS, b"", b"<a/>", b"\xff\xfe<", b"<NativeDicomModel>"])
def test_what_is_no_document_is_refused(text):
    with pytest.raises(BadRequest):
        native.from_xml(text)
