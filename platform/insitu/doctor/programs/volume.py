"""Run in a pod with a fresh volume at /data: whether it can be written, its file system, and whether it keeps what is acknowledged."""

import json
import os
import pathlib


def main() -> None:
    """Try the volume."""
    folder = pathlib.Path("/data/insitu-doctor")
    found: dict[str, object] = {"writes": "", "file_system": "", "attributes": False, "synchronous": ""}
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if place == "/data":
            found["file_system"] = kind + (", sync" if "sync" in options.split(",") else "")
    try:
        folder.mkdir()
        (folder / "file").write_bytes(bytes(4096))
    except OSError as error:
        found["writes"] = str(error.strerror)
    else:
        try:
            os.setxattr(folder / "file", "user.insitu", b"1")
            found["attributes"] = True
        except OSError:
            pass
        from insitu.archive.blobs.synchronous import make_synchronous
        from insitu.errors import InsituError

        try:
            make_synchronous(folder)
        except InsituError as error:
            found["synchronous"] = error.why or error.what
        (folder / "file").unlink()
        folder.rmdir()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
