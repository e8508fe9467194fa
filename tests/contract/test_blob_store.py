"""What every blob store must do, shown on files and on a real S3 server."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from insitu.archive.blobs import BlobStore, FileBlobStore
from insitu.archive.blobs.s3 import S3BlobStore
from insitu.errors import Invalid, NotFound
from tests.object_store import ObjectStore

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3 server that runs."""
    with ObjectStore(tmp_path_factory.mktemp("object-store")) as server:
        yield server


@pytest.fixture(params=["files", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """An empty store of each kind."""
    if request.param == "files":
        return FileBlobStore(tmp_path / "blobs")
    server: ObjectStore = request.getfixturevalue("server")
    store = S3BlobStore(f"{server.server}/b-{uuid.uuid4().hex}", tmp_path / "spool", secrets=server.secrets)
    store.make_bucket()
    return store


def keys(blobs: BlobStore, prefix: str = "") -> list[str]:
    """The keys of a listing."""
    return [blob.key for blob in blobs.list(prefix)]


@pytest.mark.parametrize("size", [0, 1, 4096, MEGABYTE + 1, 13 * MEGABYTE + 5])
def test_a_blob_is_read_as_it_was_written(blobs: BlobStore, size: int) -> None:
    data = random.Random(size).randbytes(size)
    writer = blobs.create("objects/r/one.dcm")
    for start in range(0, size, 300_001):
        writer.write(memoryview(data)[start : start + 300_001])
    writer.commit()
    assert blobs.read("objects/r/one.dcm") == data
    with blobs.open("objects/r/one.dcm") as stream:
        assert stream.read() == data
        assert stream.read(1) == b""
    (found,) = blobs.list("objects")
    assert (found.key, found.size) == ("objects/r/one.dcm", size)
    assert abs(found.modified - time.time()) < 60


def test_small_blobs_are_written_in_one_go_and_replaced(blobs: BlobStore) -> None:
    blobs.put("journal/a.json", b"first")
    blobs.put("journal/a.json", b"second, which is longer")
    blobs.put("journal/b.json", b"")
    assert blobs.read("journal/a.json") == b"second, which is longer"
    assert blobs.read("journal/b.json") == b""
    assert keys(blobs) == ["journal/a.json", "journal/b.json"]


def test_parts_of_a_blob_are_those_that_were_asked_for(blobs: BlobStore) -> None:
    data = random.Random(1).randbytes(3 * MEGABYTE)
    blobs.put("objects/r/one.dcm", data)
    for offset, length in ((0, 1), (0, None), (100, 50), (MEGABYTE - 1, 2), (len(data) - 10, 100), (len(data) - 1, None),
                           (7, 0), (len(data), 5), (len(data) + 100, None)):  # fmt: skip
        expected = data[offset:] if length is None else data[offset : offset + length]
        assert blobs.read("objects/r/one.dcm", offset, length) == expected, (offset, length)


def test_a_blob_can_be_read_in_any_order(blobs: BlobStore) -> None:
    chance = random.Random(2)
    data = chance.randbytes(20 * MEGABYTE + 3)
    writer = blobs.create("objects/r/one.dcm")
    writer.write(data)
    writer.commit()
    with blobs.open("objects/r/one.dcm") as stream:
        assert stream.seekable()
        for _ in range(60):
            position = chance.randrange(len(data) + 1000)
            count = chance.choice([1, 8, 100, 65_536, MEGABYTE, 9 * MEGABYTE])
            assert stream.seek(position) == position
            assert stream.read(count) == data[position : position + count], (position, count)
            assert stream.tell() == max(position, min(position + count, len(data)))
        assert stream.seek(-10, os.SEEK_END) == len(data) - 10
        assert stream.read() == data[-10:]
        stream.seek(0)
        assert b"".join(iter(lambda: stream.read(131_072), b"")) == data


def test_a_dicom_file_is_read_by_pydicom_from_the_store(blobs: BlobStore) -> None:
    file = Path(str(get_testdata_file("CT_small.dcm")))
    blobs.put("objects/r/one.dcm", file.read_bytes())
    with blobs.open("objects/r/one.dcm") as stream:
        assert dcmread(stream).pixel_array.tolist() == dcmread(file).pixel_array.tolist()


def test_nobody_sees_a_blob_before_it_is_committed(blobs: BlobStore) -> None:
    writer = blobs.create("objects/r/one.dcm")
    writer.write(b"x" * 200_000)
    assert keys(blobs) == []
    assert not blobs.exists("objects/r/one.dcm")
    writer.commit()
    assert keys(blobs) == ["objects/r/one.dcm"]
    writer.abort()
    assert blobs.exists("objects/r/one.dcm")


def test_an_aborted_blob_leaves_nothing(blobs: BlobStore) -> None:
    writer = blobs.create("objects/r/one.dcm")
    writer.write(b"x" * 200_000)
    writer.abort()
    writer.abort()
    assert keys(blobs) == []
    assert not blobs.exists("objects/r/one.dcm")


def test_a_blob_can_be_read_while_it_is_written_and_stand_under_another_key(blobs: BlobStore) -> None:
    writer = blobs.create("objects/r/one.dcm")
    writer.write(b"the beginning, ")
    with writer.contents() as stream:
        assert stream.read() == b"the beginning, "
        stream.seek(4)
        assert stream.read(9) == b"beginning"
    writer.write(b"and the end")
    writer.commit("quarantine/r/one")
    assert keys(blobs) == ["quarantine/r/one"]
    assert blobs.read("quarantine/r/one") == b"the beginning, and the end"


def test_what_is_not_there_is_not_found(blobs: BlobStore) -> None:
    blobs.put("objects/r/one.dcm", b"one")
    assert not blobs.exists("objects/r/two.dcm")
    for ask in (
        blobs.open,
        blobs.read,
        lambda key: blobs.read(key, 3, 0),
        lambda key: blobs.move(key, "objects/r/three.dcm"),
    ):
        with pytest.raises(NotFound, match=r"objects/r/two\.dcm"):
            ask("objects/r/two.dcm")
    blobs.delete("objects/r/two.dcm")
    assert keys(blobs) == ["objects/r/one.dcm"]


def test_a_moved_blob_stands_under_its_new_key_only(blobs: BlobStore) -> None:
    data = random.Random(3).randbytes(6 * MEGABYTE)
    blobs.put("objects/r/one.dcm", data)
    blobs.put("quarantine/r/one", b"an earlier one")
    blobs.move("objects/r/one.dcm", "quarantine/r/one")
    assert keys(blobs) == ["quarantine/r/one"]
    assert blobs.read("quarantine/r/one") == data
    blobs.move("quarantine/r/one", "quarantine/r/one")
    assert blobs.read("quarantine/r/one") == data


def test_a_deleted_blob_is_gone(blobs: BlobStore) -> None:
    blobs.put("objects/r/one.dcm", b"one")
    blobs.put("objects/r/two.dcm", b"two")
    blobs.delete("objects/r/one.dcm")
    blobs.delete("objects/r/one.dcm")
    assert keys(blobs) == ["objects/r/two.dcm"]
    assert not blobs.exists("objects/r/one.dcm")


def test_a_listing_holds_every_blob_below_a_folder_in_the_order_of_keys(blobs: BlobStore) -> None:
    names = ["a-b/x", "a.json", "a/x", "a/y/z", "ab/x", *(f"many/{number:04d}" for number in range(1203))]
    random.Random(4).shuffle(names)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: blobs.put(name, b"x" * (len(name) % 7)), names))
    found = list(blobs.list())
    assert [blob.key for blob in found] == sorted(names)
    assert [blob.size for blob in found] == [len(blob.key) % 7 for blob in found]
    assert keys(blobs, "a") == keys(blobs, "a/") == ["a/x", "a/y/z"]
    assert keys(blobs, "a/y/") == ["a/y/z"]
    assert len(keys(blobs, "many/")) == 1203
    assert keys(blobs, "nothing/") == []


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "objects/../../x", "objects//x", "a/./b", "a\0b", "incoming/x"]
)
def test_a_key_that_leaves_the_store_is_refused(blobs: BlobStore, key: str) -> None:
    blobs.put("objects/r/one.dcm", b"one")
    for ask in (
        blobs.create, blobs.open, blobs.read, blobs.delete, blobs.exists, lambda key: blobs.put(key, b"x"),
        lambda key: blobs.move(key, "objects/y"), lambda key: blobs.move("objects/r/one.dcm", key),
    ):  # fmt: skip
        with pytest.raises(Invalid, match="not a blob key"):
            ask(key)
    writer = blobs.create("objects/r/two.dcm")
    with pytest.raises(Invalid, match="not a blob key"):
        writer.commit(key)
    writer.abort()
    assert keys(blobs) == ["objects/r/one.dcm"]


def test_many_threads_write_and_read_without_mixing_anything_up(blobs: BlobStore) -> None:
    def one(number: int) -> bool:
        data = random.Random(number).randbytes(50_000 + 70_000 * (number % 9))
        writer = blobs.create(f"objects/r/{number}.dcm")
        for start in range(0, len(data), 65_536):
            writer.write(data[start : start + 65_536])
        writer.commit()
        with blobs.open(f"objects/r/{number}.dcm") as stream:
            stream.seek(1000)
            return stream.read() == data[1000:] and blobs.read(f"objects/r/{number}.dcm") == data

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(96)))
    assert len(keys(blobs)) == 96


def _write_some(blobs: BlobStore, name: str) -> None:
    for number in range(20):
        data = f"{name} {number}".encode() * 1000
        blobs.put(f"objects/{name}/{number}", data)
        if blobs.read(f"objects/{name}/{number}") != data:
            os._exit(1)


def test_a_store_can_be_used_before_and_after_a_fork(blobs: BlobStore) -> None:
    blobs.put("objects/parent/first", b"x")  # connections, locks and what is remembered of folders are there
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_write_some, args=(blobs, f"child-{number}")) for number in range(3)]
    for child in children:
        child.start()
    _write_some(blobs, "parent")
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(keys(blobs, "objects")) == 81


def test_a_sweep_leaves_living_writers_alone(blobs: BlobStore) -> None:
    writer = blobs.create("objects/r/one.dcm")
    writer.write(b"x" * 200_000)
    assert blobs.sweep() == 0
    writer.commit()
    assert blobs.sweep() == 0
    assert blobs.read("objects/r/one.dcm") == b"x" * 200_000
