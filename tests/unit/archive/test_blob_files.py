"""Blobs as files: what dead writers leave, with and without files that have no name, and what a disk refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from insitu.archive.blobs import FileBlobStore, files
from insitu.errors import Unavailable


@pytest.fixture(params=["unnamed", "named"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileBlobStore:
    """A store on a file system that has files without a name, and on one that has none, such as NFS."""
    if request.param == "named":
        monkeypatch.setattr(files, "_can_name_later", lambda folder: False)
    return FileBlobStore(tmp_path / "blobs")


def test_a_sweep_removes_what_dead_writers_left_and_nothing_else(blobs: FileBlobStore) -> None:
    living = blobs.create("objects/r/one.dcm")
    living.write(b"x")
    (blobs.root / "incoming" / "of-a-dead-one").write_bytes(b"half")
    assert blobs.sweep() == 1
    living.commit()
    assert [path.name for path in (blobs.root / "incoming").iterdir()] == []
    assert blobs.read("objects/r/one.dcm") == b"x"


def test_a_blob_that_is_written_again_leaves_no_second_file(blobs: FileBlobStore) -> None:
    for content in (b"first", b"second", b"third"):
        blobs.put("journal/one.json", content)
    assert blobs.read("journal/one.json") == b"third"
    assert [path.name for path in blobs.root.rglob("*") if path.is_file()] == ["one.json"]


def test_what_the_disk_says_stands_in_the_error(blobs: FileBlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match=r"objects/r/one\.dcm.*No space left.*Free space"):
        blobs.put("objects/r/one.dcm", b"x")
    assert not blobs.exists("objects/r/one.dcm")
