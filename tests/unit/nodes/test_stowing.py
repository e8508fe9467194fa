"""STOW-RS to a service that follows a script: what its answer says of each object is what the transfer says (PS3.18 10.5)."""

from __future__ import annotations

import email.parser
import email.policy
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from .conftest import Site, image

Verdict = tuple[int, int | None] | None  # tag of the sequence that names the object, and its reason; None: unnamed


class Service:
    """A DICOMweb service; `judge` says of each object where its answer names it and why, `refuse` of a whole request."""

    def __init__(self) -> None:
        self.kept: dict[str, pydicom.Dataset] = {}
        self.requests: list[int] = []  # objects in each
        self.judge: Callable[[pydicom.Dataset], Verdict] = lambda _: (0x00081199, None)
        self.refuse: Callable[[list[pydicom.Dataset]], int | None] = lambda _: None
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status, answer = service.answer(
                    self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))
                )
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/dicom-web"

    def answer(self, content_type: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and body, as PS3.18 10.5.3 has them."""
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
            b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
        )
        objects = [pydicom.dcmread(io.BytesIO(part.get_payload(decode=True))) for part in message.iter_parts()]
        self.requests.append(len(objects))
        refused = self.refuse(objects)
        if refused is not None:
            return refused, {}
        told: dict[int, list[Any]] = {0x00081199: [], 0x00081198: []}
        for each in objects:
            verdict = self.judge(each)
            if verdict is None:
                continue
            tag, reason = verdict
            item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [each.SOPInstanceUID]}}
            if reason is not None:
                item["00081196" if tag == 0x00081199 else "00081197"] = {"vr": "US", "Value": [reason]}
            told[tag].append(item)
            if tag == 0x00081199:
                self.kept[str(each.SOPInstanceUID)] = each
        failed, stored = told[0x00081198], told[0x00081199]
        status = 200 if not failed else 202 if stored else 409
        return status, {f"{tag:08X}": {"vr": "SQ", "Value": items} for tag, items in told.items() if items}


@pytest.fixture
def service() -> Iterator[Service]:
    """One that takes everything, until a test says otherwise."""
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


def study(site: Site, count: int, *compressed: int) -> tuple[str, list[pydicom.Dataset]]:
    """Store a study; those numbers are compressed."""
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    made = [image(**uids, InstanceNumber=n) for n in range(count)]
    for number, each in enumerate(made):
        each.PixelData = np.arange(1024, dtype="<u2").tobytes()
        if number in compressed:
            each.compress(RLELossless, generate_instance_uid=False)
    site.store(*made)
    return str(uids["StudyInstanceUID"]), made


def test_what_a_service_says_of_one_object_is_taken_for_another_or_not_heard(site: Site, service: Service) -> None:
    asked, made = study(site, 6, 5)
    uids = [str(each.SOPInstanceUID) for each in made]
    silent = [uids[4]]

    def judge(each: pydicom.Dataset) -> Verdict:
        uid = str(each.SOPInstanceUID)
        if uid in silent:
            silent.remove(uid)
            return None
        if each.file_meta.TransferSyntaxUID == RLELossless:
            return 0x00081198, 0xC122
        return {
            uids[1]: (0x00081199, 0xB007), uids[2]: (0x00081198, 0xA900), uids[3]: (0x00081198, 0x0122),
        }.get(uid, (0x00081199, None))  # fmt: skip

    service.judge = judge
    site.node(url=service.url)
    with site.exchanging():
        row = site.ended(site.send(asked))
    assert {uid: (row["objects"][uid]["state"], row["objects"][uid]["status"]) for uid in uids} == {
        uids[0]: ("sent", 0), uids[1]: ("warning", 0xB007), uids[2]: ("failed", 0xA900), uids[3]: ("failed", 0x0122),
        uids[4]: ("sent", 0), uids[5]: ("sent", 0),
    }, row  # fmt: skip
    assert row["state"] == "failed"
    assert row["objects"][uids[4]]["attempts"] == 2, "an object that an answer leaves out is not stored"
    decoded = service.kept[uids[5]]
    assert decoded.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert decoded.PixelData == made[0].PixelData
    assert service.kept[uids[0]] == made[0]


def test_a_service_that_refuses_whole_requests_for_one_object_gets_none_of_the_others(
    site: Site, service: Service
) -> None:
    asked, made = study(site, 4, 2)

    def refuse(objects: list[pydicom.Dataset]) -> int | None:
        return 415 if any(each.file_meta.TransferSyntaxUID == RLELossless for each in objects) else None

    service.refuse = refuse
    site.node(url=service.url)
    with site.exchanging():
        row = site.ended(site.send(asked))
    assert (row["state"], row["sent"]) == ("done", 4), row
    assert service.requests == [4, 1, 1, 1, 1, 1], "all together, each alone, and the compressed one decoded"
    assert set(service.kept) == {str(each.SOPInstanceUID) for each in made}
    service.refuse = lambda _: 409
    with site.exchanging():
        row = site.ended(site.send(asked))
    assert (row["state"], row["failed"]) == ("failed", 4), row
    assert all("HTTP 409" in item["sentence"] for item in row["objects"].values())
