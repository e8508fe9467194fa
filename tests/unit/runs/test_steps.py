"""The steps fetch and publish, where they meet what they do not trust."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pydicom
import pydicom.filereader
import pytest

from insitu.runs.steps.fetch import dataset_offset, write_checked
from insitu.runs.steps.outputs import take
from insitu.runs.steps.report import StepFailed

from ...contract.conftest import phantom

__all__ = ["phantom"]  # fixtures


def test_an_output_that_is_a_pipe_or_a_folder_does_not_stop_publish(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "large.nii.gz").write_bytes(bytes(100))
    failures = {}
    for name in ("pipe", "folder", "large", "missing"):
        with pytest.raises(StepFailed) as caught:
            take(tmp_path, f"{name}.nii.gz", tmp_path / "copies", 50)
        failures[name] = str(caught.value.failure)
    assert failures == {
        "pipe": "output-malformed",
        "folder": "output-malformed",
        "large": "output-too-large",
        "missing": "output-missing",
    }


def test_an_object_that_arrives_changed_is_not_given_to_the_algorithm(phantom: list[Path], tmp_path: Path) -> None:
    content = phantom[0].read_bytes()
    offset = dataset_offset(content)
    assert offset is not None
    with phantom[0].open("rb") as stream:
        stream.seek(132)
        pydicom.filereader._read_file_meta_info(stream)
        assert offset == stream.tell()
    digest = hashlib.sha256(content[offset:]).hexdigest()
    for size in (1, 7, 100, 1 << 20):
        chunks = [content[start : start + size] for start in range(0, len(content), size)]
        write_checked(chunks, tmp_path / "whole.dcm", digest)
        assert (tmp_path / "whole.dcm").read_bytes() == content
    for wrong in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), content[:140]):
        with pytest.raises(ConnectionError):
            write_checked([wrong], tmp_path / "wrong.dcm", digest)
    with pytest.raises(ValueError, match="DICM"):
        dataset_offset(bytes(200))
