"""`insitu send`: DICOM objects to a peer by C-STORE, each in the transfer syntax it has.

Not here: the receiver (insitu_services.receiver), STOW-RS to our own archive (importing).
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, _config, evt
from rich.console import Console
from rich.progress import Progress

from insitu.dicom import tls
from insitu.errors import Invalid, Unavailable

app = typer.Typer()

MOST_CONTEXTS = 128  # of one association (PS3.8 7.1.1.13)
MAXIMUM_PDU = 0  # take PDUs of any size
SUCCESS = 0x0000


@dataclass(frozen=True)
class Destination:
    """A peer: its AE title and address."""

    ae_title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Destination:
        """The destination in AE@HOST:PORT.

        Raises
        ------
        Invalid
            The text has another form.
        """
        match = re.fullmatch(r"([^@]{1,16})@(.+):(\d{1,5})", text)
        if match is None:
            raise Invalid(
                "The destination is not AE@HOST:PORT", value=text, remedy="For example INSITU@localhost:11112"
            )
        return cls(match[1], match[2].strip("[]"), int(match[3]))


@dataclass
class Sent:
    """What became of the objects: counts by status, and each failure as (file, status, comment)."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def succeeded(self) -> int:
        """Objects that the peer acknowledged."""
        return self.statuses[SUCCESS]


@dataclass(frozen=True)
class _Object:
    path: Path
    sop_class: str
    transfer_syntax: str
    as_it_is: bool  # its file meta information tells who it is, so that its bytes can be sent unread


@app.command("send")
def send(
    destination: Annotated[str, typer.Argument(help="AE@HOST:PORT")],
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders that hold some.")],
    calling: Annotated[str, typer.Option(help="Our own AE title.")] = "INSITU",
    secure: Annotated[bool, typer.Option("--tls", help="Speak DICOM TLS.")] = False,
    ca: Annotated[
        Path | None, typer.Option(help="PEM file of who signed the peer's certificate; by default the system's.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of our certificate, where the peer wants one.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send DICOM objects to a peer over the network (C-STORE)."""
    peer = Destination.parse(destination)
    files = sorted(found_in(paths))
    if not files:
        raise Invalid("There is nothing to send", value=", ".join(map(str, paths)))
    context = tls.peer_context(ca, certificate, key) if secure else None
    console = Console(stderr=True)
    with Progress(console=console, disable=as_json or not console.is_terminal) as progress:
        task = progress.add_task("sending", total=len(files))
        sent = send_files(peer, files, calling=calling, told=lambda: progress.advance(task), context=context)
    if as_json:
        answer = {
            "sent": len(files),
            "succeeded": sent.succeeded,
            "failures": [{"file": f, "status": f"0x{s:04X}", "comment": c} for f, s, c in sent.failures],
        }
        typer.echo(json.dumps(answer))
    else:
        for file, status, comment in sent.failures:
            typer.echo(f"{file}: 0x{status:04X} {comment}".rstrip(), err=True)
        typer.echo(f"{sent.succeeded} of {len(files)} objects were acknowledged")
    if sent.failures:
        raise typer.Exit(1)


def found_in(paths: list[Path]) -> Iterator[Path]:
    """Every file in the paths, folders with all below them.

    Raises
    ------
    Invalid
        A path does not exist.
    """
    for path in paths:
        if path.is_dir():
            yield from (file for file in path.rglob("*") if file.is_file())
        elif path.is_file():
            yield path
        else:
            raise Invalid("There is no such file or folder", value=str(path))


def send_files(
    peer: Destination,
    files: list[Path],
    *,
    calling: str = "INSITU",
    told: Callable[[], object] = lambda: None,
    context: ssl.SSLContext | None = None,
) -> Sent:
    """Send files in as few associations as their presentation contexts allow.

    Parameters
    ----------
    peer : Destination
    files : list of Path
        A file that is no DICOM object counts as a failure, the others are sent.
    calling : str
        Our AE title.
    told : callable
        Called after each file.
    context : ssl.SSLContext, optional
        Speak TLS with it.

    Raises
    ------
    Unavailable
        The peer does not answer, or refuses the association.
    """
    sent = Sent()
    objects = []
    for file in files:
        try:
            header = dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
            meta = header.file_meta
            named = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
            as_it_is = named == (header.SOPClassUID, header.SOPInstanceUID)
            objects.append(_Object(file, str(header.SOPClassUID), str(meta.TransferSyntaxUID), as_it_is))
        except (InvalidDicomError, AttributeError, OSError) as error:
            sent.failures.append((str(file), 0xC000, f"not a DICOM file ({type(error).__name__})"))
            told()
    while objects:
        wanted = list(dict.fromkeys((item.sop_class, item.transfer_syntax) for item in objects))[:MOST_CONTEXTS]
        now = [item for item in objects if (item.sop_class, item.transfer_syntax) in wanted]
        objects = [item for item in objects if (item.sop_class, item.transfer_syntax) not in wanted]
        _send(peer, calling, wanted, now, sent, told, context)
    return sent


def _send(
    peer: Destination,
    calling: str,
    contexts: list[tuple[str, str]],
    objects: list[_Object],
    sent: Sent,
    told: Callable[[], object],
    context: ssl.SSLContext | None,
) -> None:
    # The file's own bytes go out, instead of an object that was decoded, held in memory and encoded again.
    _config.STORE_SEND_CHUNKED_DATASET = True
    entity = AE(ae_title=calling)
    for sop_class, transfer_syntax in contexts:
        entity.add_requested_context(sop_class, transfer_syntax)
    association = entity.associate(
        peer.host, peer.port, ae_title=peer.ae_title, max_pdu=MAXIMUM_PDU, evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)],
        tls_args=(context, peer.host) if context else None,
    )  # fmt: skip
    if not association.is_established:
        why = "it refused the association" if association.is_rejected else "nobody answers there"
        raise Unavailable(
            "The peer cannot be reached", value=f"{peer.ae_title}@{peer.host}:{peer.port}", why=why,
            remedy="Check address, port and AE titles" + (", and the certificates of both sides" if context else ""),
        )  # fmt: skip
    try:
        for item in objects:
            status, comment = _store(association, item)
            sent.statuses[status] += 1
            if status != SUCCESS:
                sent.failures.append((str(item.path), status, comment))
            told()
    finally:
        association.release()


def _store(association: Any, item: _Object) -> tuple[int, str]:
    """Send one object; status, and what the peer or we have to say."""
    try:
        answer = association.send_c_store(str(item.path) if item.as_it_is else dcmread(item.path))
    except (ValueError, AttributeError) as error:  # no accepted context, no UID
        return 0x0122, str(error).split("\n")[0]
    except RuntimeError:  # the association is gone
        return 0xC000, "the association was aborted"
    if "Status" not in answer:
        return 0xC000, "the peer did not answer"
    return int(answer.Status), str(answer.get("ErrorComment", ""))


def _no_delay(event: Any) -> None:
    """Send small PDUs at once: waiting for more costs 40 ms an object."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
