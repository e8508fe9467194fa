"""Blobs: bytes under a key, durable once written. The truth of the images.

What a store must do stands in `store`; `files` keeps blobs on a disk, `s3` in a bucket. Everybody else asks `blob_store` for
the one the settings name. Not here: what the bytes mean (insitu.archive.examine) and which of them are part of the archive
(insitu.archive.index).
"""

from .files import FileBlobStore
from .store import BlobInfo, BlobStore, BlobWriter, blob_store, place

__all__ = ["BlobInfo", "BlobStore", "BlobWriter", "FileBlobStore", "blob_store", "place"]
