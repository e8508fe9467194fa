"""Objects that go out in another transfer syntax than they are stored in keep their pixels and attributes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.filereader import read_dataset

from insitu.archive.blobs import FileBlobStore
from insitu_services import outgoing
from insitu_services.receiver.sop_classes import PLAIN_SYNTAXES

FILES = ("CT_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm", "rtplan.dcm")


@pytest.mark.parametrize("name", FILES)
def test_a_transcoded_object_has_the_same_pixels(name: str, tmp_path: Path) -> None:
    path = get_testdata_file(name, download=False)
    assert path
    content = Path(path).read_bytes()
    blobs = FileBlobStore(tmp_path)
    blobs.put("objects/x.dcm", content)
    stored = dcmread(path)
    row = {
        "blob_key": "objects/x.dcm",
        "sop_instance_uid": str(stored.SOPInstanceUID),
        "transfer_syntax_uid": str(stored.file_meta.TransferSyntaxUID),
        "dataset_offset": 144 + int.from_bytes(content[140:144], "little"),
    }
    for syntax in PLAIN_SYNTAXES:
        assert outgoing.can_be_sent_in(row["transfer_syntax_uid"], syntax)
        with outgoing.opened(blobs, row, syntax) as stream:
            sent = read_dataset(stream, syntax == PLAIN_SYNTAXES[1], True)
        assert (sent.PatientID, sent.SOPInstanceUID) == (stored.PatientID, stored.SOPInstanceUID)
        if "PixelData" in stored:
            sent.ensure_file_meta()
            sent.file_meta.TransferSyntaxUID = syntax
            assert (sent.pixel_array == stored.pixel_array).all()
