"""Makes conformance-statement.md from the tables the code works with, in the layout of PS3.2 annex N (2024).

A status, a SOP class or a setting that the code has and this page does not explain is an error here, so that the page stays whole.
Called by generate.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_description, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import UID, UID_dictionary

from insitu.archive.examine import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from insitu.archive.search import MAXIMUM_RESULTS, MODALITIES_IN_STUDY, NUMERIC, RANGED, UNMATCHABLE, Level
from insitu.dicom import codes, geometry
from insitu.dicom.codes import Concept
from insitu.dicom.measurements import Measurements
from insitu.dicom.report import write_measurement_report
from insitu.dicom.result import Algorithm, Provenance
from insitu.dicom.segmentation import Segment, write_segmentation
from insitu.dicom.syntaxes import LOSSY
from insitu.dicom.wrap import wrap_volume
from insitu.settings import Settings
from insitu_services.api.dicomweb import session, stow
from insitu_services.api.dicomweb.negotiation import FRAME_MEDIA_TYPES, JSON_TYPES, XML_TYPE
from insitu_services.api.dicomweb.router import router
from insitu_services.receiver import dialogue, negotiation, sop_classes, storage

Table = list[list[str]]

STATUSES = {
    "SUCCESS": "Done. C-STORE: the object is on disk and in the index",
    "NO_SUCH_OBJECT": "Only the well-known instance of storage commitment is there",
    "CLASS_INSTANCE_CONFLICT": "An instance is of another SOP class than was said",
    "INVALID_ARGUMENT": "The request for storage commitment cannot be read, or names nothing",
    "SOP_CLASS_NOT_SUPPORTED": "The SOP class of the command is not that of its presentation context",
    "NO_SUCH_ACTION": "Another action type than 1 (request storage commitment)",
    "UNRECOGNIZED_OPERATION": "A command that this context does not have",
    "DUPLICATE_SOP_INSTANCE": "Another object is known under this SOP Instance UID, and `known_uid_policy` is `refuse`",
    "OUT_OF_RESOURCES": "No disk space, no database, or too much at once; nothing was kept: send again later",
    "MOVE_DESTINATION_UNKNOWN": "No node of this AE title and address is registered",
    "DOES_NOT_MATCH": "The object contradicts its command or its study; it is in the quarantine",
    "DOES_NOT_MATCH_SOP_CLASS": "The identifier does not fit the SOP class: its level, or a unique key that is missing",
    "SUB_OPERATIONS_WITH_FAILURES": "Some sub-operations failed; the list of failed SOP Instance UIDs says which",
    "CANNOT_UNDERSTAND": "The object cannot be read (truncated, without UIDs); it is in the quarantine",
    "UNABLE_TO_PROCESS": "The identifier cannot be read, or a value in it cannot be meant",
    "PROCESSING_FAILURE": "A mistake of the server; its log has the details",
    "CANCELLED": "Ended by C-CANCEL",
    "PENDING": "A match, or sub-operations that go on",
    "PENDING_UNSUPPORTED_KEYS": "A match; keys of the request that are not supported were ignored",
}
REJECTIONS = [
    ["1 permanent", "1 service user", "1 no reason given", "the address is not in `peers_allowed`"],
    ["1 permanent", "1 service user", "2 application context name", "another application context than DICOM's"],
    ["1 permanent", "1 service user", "3 calling AE title", "`calling_ae_allowed` is set, and the title is not in it"],
    ["1 permanent", "1 service user", "7 called AE title", "`accept_any_called_ae` is off, and the title is not `ae_title`"],
    ["2 transient", "3 provider (presentation)", "2 local limit", "too many associations, or the receiver is about to end"],
]  # fmt: skip
# Settings by which this statement can change; by the beginning of their names.
CONFIGURATION = (
    "accept_", "ae_title", "association", "calling_ae", "default_project", "dicom", "http", "idle_timeout", "known_uid",
    "maximum_", "peer", "quiet_time", "receiver", "retrieval", "tls_", "transfer",
)  # fmt: skip


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows), ""]


def optional(name: str) -> ModuleType | None:
    """A module that not every build has."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def uid_name(uid: str) -> str:
    """Name of a UID of DICOM, without the remark that it is retired."""
    return str(UID(uid).name).removesuffix(" (Retired)")


def uid_row(uid: str) -> list[str]:
    """Name, UID and whether it is retired."""
    return [uid_name(uid), f"`{uid}`", "retired" if UID_dictionary[uid][3] else ""]


def statuses(*modules: ModuleType) -> Table:
    """Every status constant of modules that STATUSES explains."""
    found: dict[int, list[str]] = {}
    for module in modules:
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, int) and not isinstance(value, bool) and _is_status(name, value):
                if name not in STATUSES:
                    raise LookupError(f"{module.__name__}.{name} is explained nowhere in {__name__}")
                found.setdefault(value, []).append(name)
    return [
        [f"{value:04X}H", "; ".join(dict.fromkeys(STATUSES[name] for name in names))]
        for value, names in sorted(found.items())
    ]


def _is_status(name: str, value: int) -> bool:
    return name in STATUSES or (0xA000 <= value <= 0xFFFF and not name.startswith(("LONGEST", "MAXIMUM", "LARGEST")))


def overview() -> Iterator[str]:
    yield from (
        "## 1 Overview", "",
        "Insitu is a research PACS with algorithms: it receives objects over DIMSE and DICOMweb, keeps them byte",
        "for byte, is searched and",
        "read by both, and writes segmentations and measurement reports of its algorithms into the studies they",
        "were made from.", "",
        "### 1.1 Network services", "",
    )  # fmt: skip
    classes = negotiation.storage_classes()
    rows = [
        ["Verification", "Verification", yes("verify"), "yes"],
        ["Content transfer", f"{len(classes)} storage SOP classes ([annex A](#annex-a-storage-sop-classes))", yes("storing"), "yes"],
        ["Content transfer", "private storage SOP classes, with `accept_unknown_sop_classes`", "no", "yes"],
    ]  # fmt: skip
    rows += [
        ["Query and retrieve", uid_name(uid), yes("fetching") if model.root is sop_classes.Root.STUDY else "no", "yes"]
        for uid, model in sop_classes.QUERY_RETRIEVE.items()
    ]
    rows += [["Storage commitment", uid_name(sop_classes.STORAGE_COMMITMENT), "no", "yes"]]
    yield from table(["service", "SOP class", "user (SCU)", "provider (SCP)"], rows)
    yield from (
        "### 1.2 DICOMweb", "",
        *table(["service", "transactions", "user agent", "origin server"], [
            ["Studies", "Search (QIDO-RS), Retrieve (WADO-RS)", yes("fetching"), "yes"],
            ["Studies", "Store (STOW-RS)", yes("stowing"), "yes"],
            ["Studies", "Delete (no transaction of PS3.18; RFC 9110)", "no", "yes" if _deletes() else "no"],
            ["Worklist, Non-Patient Instance, Storage Commitment, URI (WADO-URI)", "", "no", "no"],
        ]),
        "### 1.3 Media", "", "No media application profile is supported. Files are imported with `insitu import`.", "",
    )  # fmt: skip


def yes(beginning: str) -> str:
    """Whether one of the modules that act as a user of other systems has a name that begins so."""
    return "yes" if any(name.startswith(beginning) for name in _peers()) else "no"


def _peers() -> list[str]:
    package = optional("insitu_services.peers")
    if package is None or package.__file__ is None:
        return []
    return sorted(path.stem for path in Path(package.__file__).parent.glob("*.py") if path.stem != "__init__")


def _deletes() -> bool:
    return any("DELETE" in methods for _, methods, _ in routes())


def introduction() -> Iterator[str]:
    yield from (
        "## 3 Introduction", "",
        "For those who connect a system to Insitu, or decide whether it can be connected. It says what is",
        "offered, not that two systems",
        "will work together: that needs a test. The layout is that of PS3.2 annex N, 2024; sections that do not",
        "apply are left out. Terms are",
        "those of DICOM; *node* is a system that an administrator has registered (`insitu node`), *project* what",
        "a person, a program or a node",
        "is allowed to see.", "",
        "This page is made from the tables the code works with; a test compares them. Insitu is no medical device.", "",
    )  # fmt: skip


def model() -> Iterator[str]:
    settings = Settings()
    yield from (
        "## 4 Implementation model", "",
        f"One application entity, title `{settings.ae_title}` by default. As a provider it listens on `{settings.dicom}`;"
        " as a user it opens associations to nodes. DICOMweb is served at `/dicom-web` of"
        f" `{settings.http}`.", "",
        *table(["real-world activity", "what the application entity does"], [
            ["a modality, router or PACS sends objects", "stores them; \"success\" is said when they are on disk and in the index"],
            ["a node searches or fetches", "answers from the index and the archive, with what the node's projects hold"],
            ["a node asks for storage commitment", "looks at disk and index, reports by N-EVENT-REPORT until it is confirmed"],
            ["a person or rule sends to a node", "C-STORE or STOW-RS from a queue that survives a restart, with retries"],
            ["a person fetches from a node", "C-FIND, then C-MOVE or C-GET, or QIDO-RS and WADO-RS"],
            ["an algorithm has ended", "writes SEG and SR into the study ([annex B](#annex-b-objects-created))"],
        ]),
        "Objects are never changed: the data set is kept byte for byte as received, in the transfer syntax in",
        "which it came. A different object",
        "under a known SOP Instance UID never replaces the first one.", "",
    )  # fmt: skip


def services() -> Iterator[str]:
    yield "## 5 Service and interoperability description"
    yield ""
    yield from (
        "### 5.1 Storage", "",
        "Level 2 (full): all attributes, private ones too, are kept. SOP classes:",
        "[annex A](#annex-a-storage-sop-classes). Objects enter the",
        "quarantine, and a person decides, where they cannot be read, lack a UID, or contradict their study.", "",
        "### 5.2 Query and retrieve", "",
        "Only for known nodes; what is found and sent is what the node's projects hold. Relational queries and",
        "retrieval, and the matching of date-times, are negotiated",
        "(SOP class extended negotiation). Matching as in PS3.4 C.2.2.2: single value, list of UIDs, universal, wildcard, range"
        f" ({', '.join(sorted(RANGED))}), sequence. Not matched: attributes of",
        f"{', '.join(sorted(UNMATCHABLE - {'SQ'}))}.", "",
        *table(["information model", "levels"], [
            [root.value, ", ".join(name for name, level in sop_classes.LEVELS.items() if level in sop_classes.LEVELS_OF[root])]
            for root in sop_classes.Root
        ]),
    )  # fmt: skip
    for name, level in sop_classes.LEVELS.items():
        yield from (f"#### Keys of level {name}", "")
        yield from _keys(level)
    yield from (
        "### 5.3 Storage commitment", "",
        "As provider, push model. An instance is committed when its file is on disk and its row in the index,",
        "and the node's projects hold",
        "it. The result goes out on the association that asked, or later on one of ours, and again until the",
        "node confirms it.", "",
        "### 5.4 DICOMweb", "",
        f"A native origin server. At most {MAXIMUM_RESULTS:,} results in one answer; more by `offset`. Parameters,",
        "media types and status codes: [DICOMweb](dicomweb.md). Checked against PS3.18, by single requirement:",
        "[conformance](conformance-dicomweb.md).", "",
        *table(["method", "resource", ""], [[methods, f"`/dicom-web{path}`", says] for path, methods, says in routes()]),
        "Every resource that has GET has HEAD.", "",
        f"Attributes are sent as `{JSON_TYPES[0]}` (or `{JSON_TYPES[1]}`), or as `{XML_TYPE}` (Native DICOM Model),",
        f"by the client's weights; objects are taken as `{stow.DICOM}`, or as " + " or ".join(f"`{kind}`" for kind in stow.SEPARATE),
        "with bulk data in further parts. Objects are sent in Explicit VR Little Endian where no transfer syntax is named, and as they are",
        "stored for `transfer-syntax=*`, or where their pixels may have lost something already: stored in", "",
        *table(["transfer syntax", "UID"], [[uid_name(uid), uid] for uid in sorted(LOSSY, key=uid_key)]),
        "Media types of single compressed frames, where an object is stored so:", "",
        *table(["transfer syntax", "media type"], [
            [uid_name(uid), f"`{kind}`"] for uid, kind in sorted(FRAME_MEDIA_TYPES.items())
        ]),
    )  # fmt: skip


def _keys(level: Level) -> list[str]:
    rows = []
    for tag in sorted(sop_classes.KEYS[level]):
        number = int(tag, 16)
        vr = dictionary_VR(number)
        kind = "computed" if any(tag in tags for tags in sop_classes.COMPUTED.values()) else _matching(vr)
        if tag == MODALITIES_IN_STUDY:
            kind = "computed; single value, list"
        if tag == sop_classes.UNIQUE_KEY[level]:
            kind += " (unique key)"
        rows.append([dictionary_description(number), f"({tag[:4]},{tag[4:]})", vr, kind])
    lines = table(["attribute", "tag", "VR", "matching"], rows)
    if level is Level.INSTANCE:
        lines += ["Every other attribute of the object, private ones too, is a key and is returned at this level.", ""]
    return lines


def _matching(vr: str) -> str:
    if vr in NUMERIC or vr == "AS":
        return "single value"
    if vr in RANGED:
        return "single value, range"
    if vr == "UI":
        return "single value, list of UIDs"
    if vr == "SQ":
        return "sequence"
    if vr == "PN":
        return "single value and wildcard, whatever the case"
    return "single value, wildcard"


def routes() -> list[tuple[str, str, str]]:
    """Path, methods and what each DICOMweb route says of itself."""
    found = []
    for route in _flat(router):
        methods = ", ".join(sorted(set(route.methods or ()) - {"HEAD", "OPTIONS"})) or ", ".join(
            sorted(route.methods or ())
        )
        says = (route.endpoint.__doc__ or "").strip().split("\n")[0].replace("`", "")
        found.append((str(route.path), methods, says))
    return sorted(dict.fromkeys(found))


def _flat(given: Any) -> Iterator[Any]:
    for route in given.routes:
        if hasattr(route, "endpoint"):
            yield route
        elif hasattr(route, "routes"):
            yield from _flat(route)
        elif hasattr(route, "original_router"):
            yield from _flat(route.original_router)


def configuration() -> Iterator[str]:
    rows = []
    for name, field in Settings.model_fields.items():
        if name.startswith(CONFIGURATION):
            default = field.get_default(call_default_factory=True, validated_data={})
            shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
            rows.append([f"`{name}`", f"`{shown}`" if shown and default is not None else "", field.description or ""])
    yield from (
        "## 6 Configuration", "",
        "By `insitu.yaml` or `INSITU_*` variables; all of them: [settings](settings.md). Other systems are",
        "registered as nodes with `insitu node`:",
        "AE title, address, networks they may call from, client certificate, projects, number of associations.", "",
        *table(["setting", "default", ""], rows),
    )  # fmt: skip


def network() -> Iterator[str]:
    settings = Settings()
    yield from (
        "## 7 Network and media communication details", "",
        "### 7.1 Associations", "",
        *table(["", "as acceptor", "as initiator"], [
            ["application context", f"`{negotiation.APPLICATION_CONTEXT}`", "the same"],
            ["implementation class UID", f"`{IMPLEMENTATION_CLASS_UID}`", "pynetdicom's"],
            ["implementation version name", f"`{IMPLEMENTATION_VERSION_NAME}`", "pynetdicom's"],
            ["largest PDU received", f"{settings.maximum_pdu:,} bytes (`maximum_pdu`)", "the same"],
            ["largest PDU sent", "what the peer takes, in pieces of at most 256 kB", "the same"],
            ["associations at once", "limited by memory and files of the receiver processes", "per node, 1 by default"],
            ["asynchronous operations", "not supported: one operation at a time", "the same"],
            ["presentation contexts", "up to 128", "up to 128"],
            ["role selection", "accepted for storage SOP classes, for C-GET", "proposed for C-GET"],
            ["extended negotiation", "relational queries and retrieval, matching of date-times", "none"],
            ["user identity", "ignored", "none"],
            ["idle", f"ended after {settings.idle_timeout:g} s without data (`idle_timeout`)", "released when done"],
        ]),
        "Each proposed presentation context is answered on its own: accepted with the first of its transfer",
        "syntaxes that is known, so that",
        "nothing is recoded; refused with reason 3 where the abstract syntax, 4 where no transfer syntax is",
        "known, 1 where only known nodes have",
        "the service.", "",
        "#### Rejected associations", "",
        *table(["result", "source", "reason", "when"], REJECTIONS),
        "### 7.2 Transfer syntaxes", "",
        "Received and kept, all that are known:", "",
        *table(["name", "UID", ""], [uid_row(uid) for uid in sorted(negotiation.transfer_syntaxes(), key=uid_key)]),
        "Identifiers of queries, and storage commitment, are in "
        + " or ".join(uid_name(uid) for uid in sop_classes.PLAIN_SYNTAXES)
        + ". Objects are sent as they are kept where the peer takes that, else decompressed.", "",
        "### 7.3 Status codes", "",
        "#### C-ECHO (only 0000H) and C-STORE, as provider", "",
        *table(["status", "meaning"], statuses(storage)),
        "#### C-FIND, C-MOVE, C-GET and storage commitment, as provider", "",
        *table(["status", "meaning"], statuses(dialogue)),
        "#### STOW-RS, Failure Reason (0008,1197)", "",
        *table(["status", "meaning"], statuses(session)),
        "HTTP: 200 all stored, 202 some, 409 none, 503 none for want of resources; 400, 401, 403, 404, 406, 415",
        "as in PS3.18 8.5.", "",
    )  # fmt: skip


def uid_key(uid: str) -> list[int]:
    """Order of UIDs by their numbers."""
    return [int(part) for part in uid.split(".")]


def security() -> Iterator[str]:
    yield from ("## 8 Security", "", "### 8.1 Transport", "")
    tls = optional("insitu_services.dicom_tls")
    if tls is None:
        yield from ("DIMSE is not encrypted; put it into a network of its own.", "")
    else:
        yield from (
            "A second listener (`dicom_tls`) speaks DICOM over TLS by the BCP 195 TLS secure transport connection",
            "profiles (PS3.15 B.9, B.10,",
            "RFC",
            "9325): TLS 1.2 and 1.3. Clients show a certificate where `tls_client_certificates` says so, and a node with a fingerprint is",
            "only the one who shows it. Towards nodes TLS is used where the node says so, and their certificate is",
            "checked.", "",
        )  # fmt: skip
        suites = _suites(tls)
        if suites:
            yield from ("Cipher suites of TLS 1.2:", "", *(f"- `{suite}`" for suite in suites), "")
    yield from (
        "DICOMweb and the pages speak HTTP; TLS is ended by a proxy in front.", "",
        "### 8.2 Who may do what", "",
        "DIMSE has no login. By default every calling AE title and address may verify and store; query,",
        "retrieval and storage commitment are",
        "for nodes only, recognised by AE title, address and, where set, TLS certificate. DICOMweb needs a",
        "bearer token or a session; every",
        "answer holds what the caller's projects hold, and what they do not hold does not exist for it.", "",
        "### 8.3 Audit and privacy", "",
        "Storing, searching by nodes, retrieving, sending and deleting stand in an audit trail whose changes are",
        "found; it names studies and",
        "series by UID, never patients. Logs and error messages hold no attributes of patients. No",
        "de-identification profile is applied to",
        "what is received or sent.", "",
        "## 9 Character sets", "",
        "All of PS3.3 C.12.1.1.2 that pydicom reads, also with ISO 2022 code extensions; an object keeps its",
        "own. Answers of DICOMweb are in UTF-8",
        "(`ISO_IR 192`). Answers of C-FIND are in the default repertoire where that is enough, else in the",
        "character set of the request, else in",
        "UTF-8. Objects made here are in UTF-8.", "",
    )  # fmt: skip


def _suites(tls: ModuleType) -> list[str]:
    for name, value in vars(tls).items():
        if name.isupper() and ("SUITE" in name or "CIPHER" in name):
            return value.split(":") if isinstance(value, str) else [str(each) for each in value]
    return []


def annex_a() -> Iterator[str]:
    yield from (
        "## Annex A: Storage SOP classes", "",
        "As provider and, from the queue, as user.", "",
        *table(["SOP class", "UID", ""], [uid_row(uid) for uid in sorted(negotiation.storage_classes(), key=uid_key)]),
    )  # fmt: skip


def annex_b() -> Iterator[str]:
    yield from (
        "## Annex B: Objects created", "",
        "The attributes of an object made by the code for this page, with where their value is from: *source*,",
        "copied from the images;",
        "*made*, by the platform or the algorithm package. Objects are checked against the images they refer to",
        "before they are stored.", "",
    )  # fmt: skip
    source, created = _examples()
    for dataset in created:
        yield from (
            f"### {uid_name(str(dataset.SOPClassUID))}",
            "",
            f"SOP class `{dataset.SOPClassUID}`, explicit VR little endian.",
            "",
        )
        yield from table(["attribute", "tag", "VR", "value from"], _attributes(dataset, source))


def _attributes(dataset: Dataset, source: Dataset) -> Iterator[list[str]]:
    for element in dataset:
        if element.tag.is_private or element.tag.group == 2:
            continue
        copied = element.keyword in source and source[element.keyword].value == element.value
        value = "source" if copied else "made"
        if not copied and element.VR == "CS" and element.value:
            values = element.value if isinstance(element.value, list) or element.VM > 1 else [element.value]
            value += ": " + ", ".join(f"`{each}`" for each in values)
        name = dictionary_description(element.tag) if keyword_for_tag(element.tag) else "unknown"
        yield [name, f"({element.tag.group:04X},{element.tag.element:04X})", element.VR, value]


def _examples() -> tuple[Dataset, list[Dataset]]:
    """A header of a made CT series, and the objects that a run on it would write."""
    shape = (12, 10, 4)
    labels = np.zeros(shape, np.uint8)
    labels[3:8, 2:8, 1:3] = 1
    with tempfile.TemporaryDirectory() as folder:
        paths = wrap_volume(
            np.full(shape, 40, np.int16), np.diag([-1.0, -1.0, 2.0, 1.0]), "CT", Path(folder), patient_id="P", patient_name="A^B",
            study_description="Study", series_description="Series", body_part="HEAD",
        )  # fmt: skip
        sources = geometry.read_headers(paths)
    frames = np.ascontiguousarray(labels.transpose(2, 1, 0))
    segments = [Segment(1, "Bone", Concept.of(codes.TISSUE), Concept.of(codes.BONE), (241, 214, 145))]
    algorithm = Algorithm("example", "1.0.0", "sha256:" + "0" * 64, "Example")
    made_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    numbers = Measurements.model_validate(
        {"segments": [{"segment": 1, "measurements": [{"name": "Volume", "value": 1.5, "unit": "ml"}]}]}
    )
    segmentation = write_segmentation(
        frames, sources, segments, Provenance("example-1", "segmentation", algorithm, made_at)
    )
    report = write_measurement_report(
        numbers, segmentation, sources, segments, Provenance("example-1", "report", algorithm, made_at)
    )
    return sources[0], [segmentation, report]


def statement() -> str:
    """The page in Markdown."""
    lines = ["# DICOM conformance statement", "", "Of Insitu, version 0.1. PS3.2 annex N, 2024.", ""]
    for part in (overview, introduction, model, services, configuration, network, security, annex_a, annex_b):
        lines += part()
    return "\n".join(wrapped(lines)).rstrip() + "\n"


def wrapped(lines: list[str]) -> Iterator[str]:
    """The lines with paragraphs of prose filled to the width of the other pages."""
    for is_prose, group in itertools.groupby(lines, lambda line: bool(line) and line[0] not in "#|-"):
        text = list(group)
        yield from (
            textwrap.wrap(" ".join(text), 130, break_long_words=False, break_on_hyphens=False) if is_prose else text
        )
