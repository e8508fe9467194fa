"""Run in a pod that stands where `helm test` does: what the api says of itself, a C-ECHO, what must be shut, a study in and out again."""

import datetime
import io
import json
import os
import pathlib
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

PATIENCE = 30.0  # seconds; a new pod's first requests may come before the node's proxy knows it
RUN_PATIENCE = 600.0
ANSWER = 20.0
PATIENT = "INSITU-DOCTOR"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


class Failed(Exception):
    """A step that did not do what it should; the message says how."""


def patiently(action: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What the action gives, tried again while it fails; its last failure where it goes on."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except (Failed, OSError) as error:
            if time.monotonic() > deadline:
                raise Failed(str(error)) from error
        time.sleep(1)


class Site:
    """The platform by the names of its Services."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        file = pathlib.Path("/token/token")
        self.token = file.read_text().strip() if file.exists() else ""

    def request(
        self, method: str, path: str, *, accept: str = "application/json", body: bytes | None = None, kind: str = ""
    ) -> tuple[int, bytes]:
        """Status and body; no answer is a Failed."""
        headers = {"Accept": accept} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        if body is not None:
            headers["Content-Type"] = kind or "application/json"
        request = urllib.request.Request(self.asked["api"] + path, data=body, headers=headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=ANSWER) as answer:  # noqa: S310  # the platform's own address
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except (OSError, ValueError) as error:
            raise Failed(f"the api does not answer: {error}") from error

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a request that must succeed."""
        status, content = self.request(method, path, body=None if body is None else json.dumps(body).encode())
        if status >= 400:
            raise Failed(
                f"{method} {path.partition('?')[0]} is answered {status}: {content.decode(errors='replace')[:500]}"
            )
        return json.loads(content) if content else None

    def ready(self) -> dict[str, Any]:
        """What /readyz says."""
        status, content = self.request("GET", "/readyz")
        try:
            return {"status": status, **json.loads(content)}
        except ValueError as error:
            raise Failed(f"/readyz is answered {status}: {content.decode(errors='replace')[:300]}") from error

    def associate(self, *contexts: tuple[str, list[str]]) -> Any:
        """An association with the receiver."""
        from pynetdicom import AE

        entity = AE(ae_title=self.asked["calling"])
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = ANSWER
        for sop_class, syntaxes in contexts:
            entity.add_requested_context(sop_class, syntaxes)
        host, port = self.asked["receiver"]
        association = entity.associate(host, port, ae_title=self.asked["called"])
        if association.is_rejected:
            raise Failed(f"the receiver refuses an association of {self.asked['calling']} with {self.asked['called']}")
        if not association.is_established:
            raise Failed(f"the receiver does not answer at {host}:{port}")
        return association

    def echo(self) -> str:
        """C-ECHO."""
        association = self.associate((VERIFICATION, [IMPLICIT]))
        status = association.send_c_echo()
        association.release()
        if status.get("Status") != 0:
            raise Failed(f"the receiver answers a C-ECHO with {status}")
        return "answered"

    def gateway(self) -> str:
        """The run gateway lets nobody in without a token."""
        try:
            with urllib.request.urlopen(self.asked["gateway"], timeout=ANSWER) as answer:  # noqa: S310  # as above
                raise Failed(f"it answers {answer.status} to a request without a token")
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise Failed(f"it answers {error.code} to a request without a token, not 401") from error
        return "answers 401 to a request without a token"

    def denied(self) -> str:
        """The policies of the release keep this pod from the database."""
        host, port = self.asked["denied"]
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError:
            return "kept away"
        raise Failed(f"this pod reaches {host}:{port}")

    def may_not(self) -> str:
        """Why the token is not good enough to store a study and take it away again; empty where it is."""
        status, content = self.request("GET", "/api/v1/session")
        if status != 200:
            return f"the platform refuses the token ({status})"
        account, project = json.loads(content), self.asked["project"]
        if account["site_admin"] or account["memberships"].get(project) == "lead":
            return ""
        return f"the token's account, {account['name']}, has not the role lead in the project {project}"

    def round_trip(self) -> dict[str, Any]:
        """A study in by C-STORE, found by QIDO-RS, back by WADO-RS, and away again; seconds of each."""
        data, study, series, instance = image()
        seconds: dict[str, float] = {}
        try:
            self.timed(seconds, "stored", lambda: self.store(data))
            path = f"/dicom-web/studies/{study}"
            self.timed(seconds, "found", lambda: patiently(lambda: self.found(study)))
            back = self.timed(seconds, "fetched", lambda: self.fetch(f"{path}/series/{series}/instances/{instance}"))
            if data_set(back) != data_set(data):
                raise Failed("what came back is not byte for byte what was sent")
        finally:
            if "stored" in seconds:
                self.timed(seconds, "removed", lambda: patiently(lambda: self.remove(study)))
        return seconds

    def timed(self, seconds: dict[str, float], step: str, action: Callable[[], Any]) -> Any:
        """What the action gives; its seconds are noted, its failure names the step."""
        began = time.monotonic()
        try:
            found = action()
        except Failed as error:
            raise Failed(f"not {step}: {error}") from error
        seconds[step] = round(time.monotonic() - began, 2)
        return found

    def store(self, data: bytes) -> None:
        """C-STORE."""
        from pydicom import dcmread

        association = self.associate((SECONDARY_CAPTURE, [EXPLICIT]))
        status = association.send_c_store(dcmread(io.BytesIO(data)))
        association.release()
        if status.get("Status") != 0:
            raise Failed(f"the receiver answers a C-STORE with {status or 'nothing'}")

    def found(self, study: str) -> None:
        """QIDO-RS knows the study."""
        answer = self.json("GET", f"/dicom-web/studies?StudyInstanceUID={study}")
        if not answer:
            raise Failed("QIDO-RS does not know the study; may the token's account see the project that it enters?")

    def fetch(self, path: str) -> bytes:
        """One instance as it is stored."""
        status, content = self.request("GET", path, accept="application/dicom; transfer-syntax=*")
        if status != 200:
            raise Failed(f"WADO-RS answers {status}: {content.decode(errors='replace')[:300]}")
        return content

    def remove(self, study: str) -> None:
        """Delete the study."""
        status, content = self.request("DELETE", f"/dicom-web/studies/{study}?reason=insitu+doctor")
        if status not in (204, 404):
            raise Failed(f"study {study} is answered {status}: {content.decode(errors='replace')[:300]}")

    def run(self) -> dict[str, Any]:
        """A phantom through an algorithm; its study goes again, with the results."""
        import numpy as np
        from pydicom import dcmread

        from insitu.dicom.wrap import wrap_volume

        array = np.full((32, 32, 12), -1000.0)
        array[4:28, 4:28, :] = 40
        array[12:20, 12:20, :6] = 700
        affine = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, 30], [0, 0, 3.0, -20], [0, 0, 0, 1.0]])
        files = wrap_volume(
            array, affine, "CT", pathlib.Path("/tmp/phantom"), patient_id=PATIENT, patient_name="Insitu^Doctor",  # noqa: S108
            study_description="insitu doctor", series_description="insitu doctor", salt=uuid.uuid4().hex,
        )  # fmt: skip
        first = dcmread(files[0], stop_before_pixels=True)
        study, series = first.StudyInstanceUID, first.SeriesInstanceUID
        began = time.monotonic()
        try:
            boundary = uuid.uuid4().hex
            parts = [
                f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file.read_bytes() + b"\r\n"
                for file in files
            ]
            status, content = self.request(
                "POST", "/dicom-web/studies", body=b"".join([*parts, f"--{boundary}--\r\n".encode()]),
                kind=f'multipart/related; type="application/dicom"; boundary={boundary}', accept="application/dicom+json",
            )  # fmt: skip
            if status != 200:
                raise Failed(f"STOW-RS answers {status}: {content.decode(errors='replace')[:300]}")
            started = patiently(
                lambda: self.json(
                    "POST", "/api/v1/runs",
                    {"algorithm": self.asked["run"], "series": series, "project": self.asked["project"]},
                )
            )  # fmt: skip
            run = self.ended(started["execution"])
            if run["state"] != "succeeded":
                raise Failed(
                    f"the run {started['execution']} {run['state']}: {run.get('reason') or run.get('failure')}"
                )
            return {"seconds": round(time.monotonic() - began, 1), "results": len(run["results"])}
        finally:
            patiently(lambda: self.remove(study), 60)

    def ended(self, execution: str) -> Any:
        """A run once it has ended."""
        deadline = time.monotonic() + RUN_PATIENCE
        while True:
            run = self.json("GET", f"/api/v1/runs/{execution}")
            if run["state"] in ("succeeded", "failed", "cancelled"):
                return run
            if time.monotonic() > deadline:
                raise Failed(f"the run {execution} is {run['state']} after {RUN_PATIENCE:.0f} s")
            time.sleep(1)


def uid() -> str:
    """A new UID."""
    return f"2.25.{uuid.uuid4().int}"


def image() -> tuple[bytes, str, str, str]:
    """A secondary capture of 16 x 16 pixels that says what it is; its UIDs of study, series and instance."""
    from pydicom.dataset import Dataset, FileMetaDataset

    study, series, instance = uid(), uid(), uid()
    now = datetime.datetime.now(datetime.UTC)
    found = Dataset()
    found.SOPClassUID, found.SOPInstanceUID = SECONDARY_CAPTURE, instance
    found.StudyInstanceUID, found.SeriesInstanceUID = study, series
    found.PatientID, found.PatientName = PATIENT, "Insitu^Doctor"
    found.PatientBirthDate = found.PatientSex = found.AccessionNumber = found.ReferringPhysicianName = ""
    found.StudyDate, found.StudyTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    found.StudyID, found.SeriesNumber, found.InstanceNumber = "1", 1, 1
    found.StudyDescription = found.SeriesDescription = "insitu doctor"
    found.Modality, found.ConversionType = "OT", "SYN"
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.Rows = found.Columns = 16
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 8, 8, 7, 0
    found.PixelData = bytes(range(256))
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = EXPLICIT
    found.file_meta.MediaStorageSOPClassUID, found.file_meta.MediaStorageSOPInstanceUID = SECONDARY_CAPTURE, instance
    target = io.BytesIO()
    found.save_as(target, enforce_file_format=True)
    return target.getvalue(), study, series, instance


def data_set(file: bytes) -> bytes:
    """What stands behind the file meta information, whose length is the value of its first element (PS3.10 7.1)."""
    if file[128:132] != b"DICM":
        raise Failed("what came back is no DICOM file")
    return file[144 + int.from_bytes(file[140:144], "little") :]


def main() -> None:
    """Try what is asked, and print how each went."""
    asked = json.loads(os.environ["ASKED"])
    site = Site(asked)
    steps: dict[str, Callable[[], Any]] = {
        "ready": lambda: patiently(site.ready),
        "echo": lambda: patiently(site.echo),
        "gateway": lambda: patiently(site.gateway),
    }
    if asked["denied"]:
        steps["denied"] = site.denied
    if site.token:
        steps["token"] = lambda: patiently(site.may_not)
        steps["round trip"] = site.round_trip
        if asked["run"]:
            steps["run"] = site.run
    found: dict[str, Any] = {}
    for name, step in steps.items():
        try:
            found[name] = {"found": step()}
            if name == "token" and found[name]["found"]:
                break  # what it stored could not be removed
        except Exception as error:  # noqa: BLE001  # told, and the others are tried
            found[name] = {"failed": str(error) or type(error).__name__}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
