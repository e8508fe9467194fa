"""WADO-RS: objects, metadata, frames and bulk data as stored and as asked for."""

from __future__ import annotations

import email
import io
import json
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.data import get_charset_files
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from insitu.archive import metadata
from insitu.dicom import decoders
from insitu.dicom.syntaxes import LOSSY
from insitu_services import frames as frames_of

ANY = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
OCTETS = 'multipart/related; type="application/octet-stream"'


def address(dataset: pydicom.Dataset, rest: str = "") -> str:
    """Path of an instance."""
    series = f"/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
    return f"{series}/instances/{dataset.SOPInstanceUID}{rest}"


def parts(response) -> list[tuple[str, bytes]]:
    """Content type and content of each part, read by Python's own e-mail parser."""
    assert response.status_code == 200, response.text
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + response.content)
    boundary = message.get_param("boundary")
    body = response.content
    found = []
    for piece in body.split(f"--{boundary}".encode())[1:-1]:
        lines, _, content = piece.partition(b"\r\n\r\n")
        headers = email.message_from_bytes(lines.strip(b"\r\n") + b"\r\n\r\n")
        found.append((headers["Content-Type"], content[:-2]))
    return found


def frames(site, dataset, numbers: str, accept: str) -> list[tuple[str, bytes]]:
    """Frames with their content types."""
    return parts(site.get(address(dataset, f"/frames/{numbers}"), headers={"Accept": accept}))


NATIVE = [
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "rtdose_expb.dcm",
    "liver_1frame.dcm",
    "image_dfl.dcm",
    "SC_rgb_small_odd.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
]


def test_native_frames_are_little_endian_pixels_whatever_the_object_is_in(site, sample):
    for name in NATIVE:
        dataset = sample(name)
        site.take(dataset)
        number = int(dataset.get("NumberOfFrames") or 1)
        ((kind, frame),) = frames(site, dataset, str(number), OCTETS)
        assert kind == f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"
        pixels = dataset.pixel_array
        last = pixels[-1] if number > 1 else pixels
        if dataset.BitsAllocated == 1:
            expected = np.packbits(last.ravel().astype(bool), bitorder="little").tobytes()
        elif dataset.PhotometricInterpretation == "YBR_FULL_422":
            expected = dataset.PixelData  # pydicom would give it unpacked
        else:
            expected = last.astype(last.dtype.newbyteorder("<")).tobytes()
        assert frame == expected


def test_one_bit_frames_that_do_not_begin_with_a_byte_are_cut_out_right(site, make):
    pixels = np.random.default_rng(1).integers(0, 2, (3, 3, 5), np.uint8)
    bits = np.packbits(pixels.ravel(), bitorder="little").tobytes()
    dataset = make(1, Rows=3, Columns=5, NumberOfFrames=3, BitsAllocated=1, BitsStored=1, HighBit=0,
                   PixelRepresentation=0, PixelData=bits)  # fmt: skip
    site.take(dataset)
    got = [
        np.unpackbits(np.frombuffer(f, np.uint8), bitorder="little")[:15]
        for _, f in frames(site, dataset, "1,2,3", ANY)
    ]
    assert np.array_equal(np.array(got).reshape(3, 3, 5), pixels)


COMPRESSED = ["JPEG2000.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm",
              "MR_small_jp2klossless.dcm", "SC_rgb_rle_2frame.dcm", "examples_ybr_color.dcm", "rtdose_rle.dcm",
              "SC_rgb_jpeg_gdcm.dcm", "693_J2KI.dcm"]  # fmt: skip


def test_compressed_frames_come_as_stored_or_decoded(site, sample):
    for name in COMPRESSED:
        dataset = sample(name)
        site.take(dataset)
        number = int(dataset.get("NumberOfFrames") or 1)
        stored = list(generate_frames(dataset.PixelData, number_of_frames=number))
        numbers = ",".join(str(n) for n in range(1, number + 1))
        syntax = dataset.file_meta.TransferSyntaxUID
        as_stored = frames(site, dataset, numbers, ANY)
        assert [frame for _, frame in as_stored] == stored
        assert {kind for kind, _ in as_stored} == {f"application/octet-stream; transfer-syntax={syntax}"}
        ((kind, frame),) = frames(site, dataset, str(number), 'multipart/related; type="image/*"')
        assert kind.startswith("image/")
        assert frame == stored[-1]
        ((kind, _),) = frames(site, dataset, str(number), "*/*")  # the default of PS3.18 8.7.3.3
        assert kind.startswith("image/" if syntax in LOSSY else "application/octet-stream")
        ((kind, frame),) = frames(site, dataset, str(number), OCTETS)
        assert kind == f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"
        pixels = dataset.pixel_array
        last = pixels[-1] if number > 1 else pixels
        assert len(frame) == last.nbytes
        if "YBR" not in dataset.PhotometricInterpretation:
            assert frame == last.tobytes()


@pytest.mark.parametrize("offset_table", [True, False])
def test_frames_in_several_fragments_are_put_together(site, make, sample, offset_table):
    source = sample("examples_ybr_color.dcm")
    pictures = list(generate_frames(source.PixelData, number_of_frames=30))[:3]
    dataset = make(1, Rows=source.Rows, Columns=source.Columns, SamplesPerPixel=3, PlanarConfiguration=0,
                   PhotometricInterpretation="YBR_FULL_422", BitsAllocated=8, BitsStored=8, HighBit=7,
                   PixelRepresentation=0, NumberOfFrames=3)  # fmt: skip
    dataset.PixelData = encapsulate(pictures, fragments_per_frame=4, has_bot=offset_table)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    site.take(dataset)
    got = [frame for _, frame in frames(site, dataset, "3,1", ANY)]
    assert [frame.rstrip(b"\0") for frame in got] == [pictures[2].rstrip(b"\0"), pictures[0].rstrip(b"\0")]


def test_frames_that_are_not_there_or_not_acceptable_are_refused(site, make, sample):
    image, report = make(1), sample("test-SR.dcm")
    site.take(image, report)
    for numbers, status in (("2", 404), ("1,7", 404), ("0", 400), ("one", 400), ("1,", 400)):
        assert site.get(address(image, f"/frames/{numbers}")).status_code == status, numbers
    assert site.get(address(image, "/frames/1"), headers={"Accept": "image/jpeg"}).status_code == 406
    assert site.get(address(report, "/frames/1")).status_code == 404


def test_a_frame_no_decoder_takes_is_refused_with_the_reason_but_comes_as_stored(site, sample):
    dataset = sample("JPEG-lossy.dcm")  # twelve bits
    site.take(dataset)
    response = site.get(address(dataset, "/frames/1"), headers={"Accept": OCTETS})
    assert response.status_code == 406
    assert "12-bit" in response.json()["why"]
    assert site.get(address(dataset, "/rendered")).status_code == 406
    assert len(frames(site, dataset, "1", ANY)) == 1


def test_metadata_names_every_attribute_but_no_pixel_and_no_bulk(site, sample):
    dataset = sample("examples_palette.dcm")
    site.take(dataset)
    (document,) = site.get(address(dataset, "/metadata")).json()
    names = {f"{int(e.tag):08X}" for e in dataset}
    assert names == set(document)
    assert document["7FE00010"]["BulkDataURI"] == site.url + "/dicom-web" + address(dataset, "/bulkdata/7FE00010")
    ((_, pixels),) = parts(site.get(address(dataset, "/bulkdata/7FE00010"), headers={"Accept": OCTETS}))
    assert pixels == dataset.PixelData[: dataset.Rows * dataset.Columns]


def test_an_empty_name_among_others_keeps_its_place_in_the_metadata(site, make):
    site.take(make(1, OtherPatientNames=["A^B", "", "C"]))
    (document,) = site.get("/studies/1.2.3/metadata").json()
    assert document["00101001"] == {"vr": "PN", "Value": [{"Alphabetic": "A^B"}, None, {"Alphabetic": "C"}]}


def test_metadata_of_a_big_study_is_one_query_and_never_opens_an_object(site, make, monkeypatch):
    site.take(*(make(n, SeriesInstanceUID=f"1.2.3.{n % 3}") for n in range(1, 61)))
    asked = []
    database = site.context.database
    original = type(database).transaction

    def counting(self):
        asked.append(1)
        return original(self)

    monkeypatch.setattr(type(database), "transaction", counting)
    monkeypatch.setattr(metadata, "instance_metadata", lambda *_: pytest.fail("an object was opened"))
    response = site.get("/studies/1.2.3/metadata")
    documents = response.json()
    assert len({d["00080018"]["Value"][0] for d in documents}) == 60
    assert len(asked) <= 3  # who asks; the study; the wake of nobody
    assert [d["00200013"]["Value"][0] for d in site.get("/studies/1.2.3/series/1.2.3.1/metadata").json()] == list(
        range(1, 61, 3)
    )


def test_metadata_is_there_before_the_dispatcher_has_made_it(site, make):
    image = make(1)
    site.take(image, with_metadata=False)
    early = site.get(address(image, "/metadata")).json()
    with site.context.database.transaction() as connection:
        for row in connection.execute("SELECT id FROM series").fetchall():
            metadata.project_series(connection, site.context.archive.blobs, row["id"])
    assert early == site.get(address(image, "/metadata")).json()


def test_names_in_every_character_set_of_pydicom_read_right(site):
    expected = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, path in enumerate(get_charset_files("chr*.dcm")):
            dataset = pydicom.dcmread(path)
            if "PatientName" not in dataset:
                continue
            for keyword in ("Rows", "Columns"):  # of pixels that these files lack, which the archive would refuse
                dataset.pop(keyword, None)
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"1.9.{number}", f"1.9.{number}.1"
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.9.{number}.1.1"
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
            name = pydicom.dcmread(path).PatientName
            expected[f"1.9.{number}"] = {
                key: value
                for key, value in (
                    ("Alphabetic", name.alphabetic), ("Ideographic", name.ideographic), ("Phonetic", name.phonetic)
                )
                if value
            }  # fmt: skip
            site.take(dataset, with_metadata=False)
        assert len(expected) > 8
        found = {s["0020000D"]["Value"][0]: s["00100010"]["Value"][0] for s in site.found("/studies")}
        assert found == expected
        for study, name in expected.items():
            response = site.get(f"/studies/{study}/metadata")
            (document,) = json.loads(response.content.decode("utf-8"))
            assert document["00100010"]["Value"] == [name]
            assert document.get("00080005", {"Value": ["ISO_IR 192"]})["Value"] == ["ISO_IR 192"]


OBJECTS = 'multipart/related; type="application/dicom"'


def test_objects_come_in_explicit_little_endian_unless_another_syntax_is_named_or_they_have_lost_already(site, sample):
    for name in ("MR_small_RLE.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"):
        dataset = sample(name)
        site.take(dataset)
        stored_syntax = dataset.file_meta.TransferSyntaxUID
        explicit = f"{OBJECTS}; transfer-syntax={ExplicitVRLittleEndian}"
        for accept in (OBJECTS, "*/*", explicit):  # PS3.18 8.7.3.4
            answer = site.get(address(dataset), headers={"Accept": accept})
            ((kind, changed),) = parts(answer)
            assert kind == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
            assert f"Content-Length: {len(changed)}\r\n".encode() in answer.content
            read = pydicom.dcmread(io.BytesIO(changed))
            assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
            assert read.SOPInstanceUID == dataset.SOPInstanceUID
            assert np.array_equal(read.pixel_array, dataset.pixel_array)
        ((kind, stored),) = parts(site.get(address(dataset), headers={"Accept": f"{OBJECTS}; transfer-syntax=*"}))
        assert kind == f"application/dicom; transfer-syntax={stored_syntax}"
        assert pydicom.dcmread(io.BytesIO(stored)) == dataset
    lossy = sample("SC_rgb_jpeg_gdcm.dcm")
    lossy.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    site.take(lossy)
    ((kind, stored),) = parts(site.get(address(lossy), headers={"Accept": OBJECTS}))
    assert kind == "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50"
    one = site.get(address(lossy), headers={"Accept": "application/dicom"})
    assert one.content == stored
    assert one.headers["Content-Length"] == str(len(stored))


def test_without_a_decoder_an_object_is_refused_with_the_reason_but_comes_as_stored(site, sample, monkeypatch):
    dataset = sample("MR_small_RLE.dcm")
    site.take(dataset)
    monkeypatch.setattr(decoders, "decodable", lambda _: False)
    monkeypatch.setattr("insitu_services.outgoing.decodable", lambda _: False)
    refusal = site.get(address(dataset), headers={"Accept": OBJECTS})
    assert refusal.status_code == 406
    assert "no decoder" in refusal.json()["why"]
    assert len(parts(site.get(address(dataset), headers={"Accept": f"{OBJECTS}; transfer-syntax=*"}))) == 1


def test_pixels_too_long_for_explicit_little_endian_come_as_stored(site, sample, monkeypatch):
    dataset = sample("MR_small_RLE.dcm")
    site.take(dataset)
    with site.context.database.transaction() as connection:
        connection.execute("UPDATE instance SET number_of_frames = 2000000")
    monkeypatch.setattr(frames_of.Layout, "decoded_bytes", 1 << 32)
    ((kind, _),) = parts(site.get(address(dataset), headers={"Accept": OBJECTS}))
    assert kind == "application/dicom; transfer-syntax=1.2.840.10008.1.2.5"


def test_an_object_in_a_representation_there_is_not_is_406(site, make):
    image = make(1)
    site.take(image)
    for accept in ("image/png", 'multipart/related; type="application/dicom+xml"',
                   'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.90'):  # fmt: skip
        assert site.get(address(image), headers={"Accept": accept}).status_code == 406, accept
        assert site.get("/studies/1.2.3", headers={"Accept": accept}).status_code == 406, accept


def test_pixel_data_as_bulk_data_is_whole_or_by_frame(site, sample):
    plain, packed = sample("rtdose.dcm"), sample("SC_rgb_rle_2frame.dcm")
    site.take(plain, packed)
    ((_, whole),) = parts(site.get(address(plain, "/bulkdata/7FE00010")))
    assert whole == plain.PixelData
    for level in (f"/studies/{plain.StudyInstanceUID}", address(plain).partition("/instances")[0], address(plain)):
        ((_, pixels),) = parts(site.get(f"{level}/pixeldata"))
        assert pixels == plain.PixelData
    ((kind, both),) = parts(site.get(address(packed, "/bulkdata")))
    assert (kind, both) == (
        f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}",
        packed.pixel_array.tobytes(),
    )
    assert len(parts(site.get(address(packed, "/pixeldata"), headers={"Accept": ANY}))) == 2
    pieces = parts(site.get(address(packed, "/bulkdata/7FE00010"), headers={"Accept": ANY}))
    assert [piece for _, piece in pieces] == list(generate_frames(packed.PixelData, number_of_frames=2))


def test_an_encapsulated_document_and_nested_values_are_bulk_data(site, make):
    item = pydicom.Dataset()
    item.ReferencedSOPInstanceUID = "1.2"
    item.add_new(0x00660040, "OL", np.arange(1000, dtype="<u4").tobytes())
    document = make(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", EncapsulatedDocument=b"%PDF" * 500,
                    MIMETypeOfEncapsulatedDocument="application/pdf", SurfaceSequence=[item])  # fmt: skip
    del document.PixelData
    site.take(document)
    (found,) = site.get(address(document, "/metadata")).json()
    pdf = found["00420011"]["BulkDataURI"].removeprefix(f"{site.url}/dicom-web")
    response = site.get(pdf, headers={"Accept": "application/pdf"})
    assert response.content == b"%PDF" * 500
    rendered = site.get(address(document, "/rendered"))
    assert (rendered.headers["Content-Type"], rendered.content) == ("application/pdf", b"%PDF" * 500)
    nested = found["00660002"]["Value"][0]["00660040"]["BulkDataURI"].removeprefix(f"{site.url}/dicom-web")
    ((_, value),) = parts(site.get(nested, headers={"Accept": OCTETS}))
    assert value == np.arange(1000, dtype="<u4").tobytes()
    answer = site.get(address(document, "/bulkdata"))
    assert [content for _, content in parts(answer)] == [b"%PDF" * 500, value]
    for uri in (found["00420011"], found["00660002"]["Value"][0]["00660040"]):
        assert f"Content-Location: {uri['BulkDataURI']}\r\n".encode() in answer.content
    assert site.get(address(document, "/pixeldata")).status_code == 404
    for path in ("99999999", "x", "00660002/7/00660040", "00660002/0"):
        assert site.get(address(document, f"/bulkdata/{path}")).status_code == 404, path
