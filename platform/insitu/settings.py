"""Settings of an installation: `INSITU_*` variables over `insitu.yaml` in the home folder. Unknown keys are an error."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from insitu.errors import Invalid

PREFIX = "INSITU_"
SOCKET_PATH_LIMIT = 100  # bytes; sockaddr_un holds 108 with the file name


def default_home() -> Path:
    """`~/.insitu`; as root `/var/lib/insitu`, because PostgreSQL's user cannot search root's home."""
    return Path("/var/lib/insitu") if os.geteuid() == 0 else Path.home() / ".insitu"


def _host_port(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError("expected HOST:PORT, for example 127.0.0.1:8080")
    return value


HostPort = Annotated[str, AfterValidator(_host_port)]


def _time_zone(value: str) -> str:
    try:
        if value != "UTC":  # which needs no database of time zones
            zoneinfo.ZoneInfo(value)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError("there is no such time zone; they are named as Europe/Berlin") from error
    return value


TimeZone = Annotated[str, AfterValidator(_time_zone)]


def _bucket_url(value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    path = parts.path.strip("/")
    if "@" in parts.netloc:
        raise ValueError("the keys do not belong here: they stand in secrets/object-store-access-key and -secret-key")
    try:
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", path) or parts.query or parts.fragment:
        raise ValueError("expected http(s)://HOST[:PORT]/BUCKET, for example https://s3.hospital.example:9000/insitu")
    return f"{parts.scheme}://{parts.netloc}/{path}"


BucketUrl = Annotated[str, AfterValidator(_bucket_url)]


def _base_url(value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    try:
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("expected http(s)://HOST[:PORT], for example http://gateway.insitu.internal:8090")
    return f"{parts.scheme}://{parts.netloc}"


BaseUrl = Annotated[str, AfterValidator(_base_url)]


def _image(value: str) -> str:
    if not IMAGE.fullmatch(value):
        raise ValueError(
            "expected an image by its digest, for example registry.example/lung@sha256:0123... with 64 digits"
        )
    return value


# A tag may name another image tomorrow; results must stay traceable to what computed them.
IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}")
Image = Annotated[str, AfterValidator(_image)]
AlgorithmName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class RetentionRule(BaseModel):
    """A rule by which old series go: what it is for, how old they are, and what keeps them all the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Stands in the audit trail with every deletion."
    )
    project: str = Field(min_length=1, description="Project whose series it is for, or `*` for every series.")
    modalities: tuple[str, ...] = Field((), description="Only these; empty for all.")
    days: int = Field(ge=1, description="Age from which on they go.")
    age: Literal["arrival", "study-date"] = Field("arrival", description="What the age is counted from.")
    keep: tuple[Literal["in-dataset", "has-results", "is-result"], ...] = Field(
        ("in-dataset", "has-results", "is-result"), description="What keeps a series. A hold on its study always does."
    )


class Settings(BaseModel):
    """All settings, with their defaults. The settings reference is generated from the descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path = Field(default_factory=default_home, description="Folder that holds everything of this installation.")
    http: HostPort = Field("127.0.0.1:8080", description="Address of the web pages, the API and DICOMweb.")
    dicom: HostPort = Field("0.0.0.0:11112", description="Address of the DICOM receiver.")
    dicom_tls: HostPort | None = Field(
        None, description="Address of a second DICOM receiver port that speaks TLS; none by default."
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with our certificate and its chain, for DICOM TLS in and out."
    )
    tls_key: Path | None = Field(None, description="PEM file with the key of `tls_certificate`, without a password.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file with the authorities that sign the certificates of DICOM TLS clients."
    )
    tls_client_certificates: Literal["required", "optional"] = Field(
        "required", description="Whether DICOM TLS clients must show a certificate."
    )
    tls_ca: Path | None = Field(
        None,
        description="PEM file with the authorities that sign the certificates of nodes; by default the system's own.",
    )
    drain_seconds: float = Field(
        600.0, gt=0, description="Seconds open associations get to end when receiver processes are replaced."
    )
    stop_seconds: float | None = Field(
        None,
        gt=0,
        description="Seconds open associations get when the receiver is asked to end (SIGTERM); by default 2.5, and"
        " `drain_seconds` where `launcher` is `kubernetes`, which so replaces pods.",
    )
    database_patience: float = Field(
        20.0, gt=0, description="Seconds receiver and api give a silent database before a sender is told to try again."
    )
    database_host: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:_-]*[A-Za-z0-9])?$",
        description="Host of PostgreSQL, reached over TCP; by default the server of this home, by its unix socket.",
    )
    database_port: int = Field(5432, ge=1, le=65_535, description="Its port.")
    database_name: str = Field(
        "insitu", pattern=r"^[a-z_][a-z0-9_]{0,62}$", description="Name of the platform's database."
    )
    database_sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "verify-full", description="How PostgreSQL is reached over TCP, by libpq's words; `disable`: without TLS."
    )
    database_ca: Path | None = Field(
        None,
        description="PEM file with the authorities that sign PostgreSQL's certificate; by default the system's own.",
    )
    disk_reserve: int = Field(
        500_000_000, ge=0, description="Bytes of disk kept free for the database: no objects are taken below it."
    )
    object_store: BucketUrl | None = Field(
        None,
        description="Bucket of an S3 server for objects and journal, http(s)://HOST[:PORT]/BUCKET; by default files in the home.",
    )
    object_store_region: str = Field("us-east-1", min_length=1, description="Region the S3 server expects.")
    object_store_ca: Path | None = Field(
        None,
        description="PEM file with the authorities that sign the S3 server's certificate; by default the system's own.",
    )
    ae_title: str = Field("INSITU", min_length=1, max_length=16, description="AE title of the receiver.")
    accept_any_called_ae: bool = Field(
        True, description="Accept every called AE title, so that rules can route by it; otherwise only `ae_title`."
    )
    calling_ae_allowed: tuple[str, ...] = Field(
        (), description="AE titles that may open an association; empty allows all."
    )
    peers_allowed: tuple[str, ...] = Field(
        ("0.0.0.0/0", "::/0"), description="Networks (CIDR) that may open an association."
    )
    accept_unknown_sop_classes: bool = Field(False, description="Accept storage SOP classes pydicom does not know.")
    receiver_processes: int = Field(2, ge=1, le=64, description="Receiver processes that share the DICOM port.")
    associations_at_once: int = Field(
        250,
        ge=1,
        le=10_000,
        description="Associations that may be open at the same time, over all receiver processes; more are told to wait.",
    )
    maximum_pdu: int = Field(1_048_576, ge=4096, description="Largest PDU the receiver asks for, in bytes.")
    association_timeout: float = Field(
        30.0, gt=0, description="Seconds within which a peer must have sent its whole association request."
    )
    idle_timeout: float = Field(60.0, gt=0, description="Seconds without data after which an association is ended.")
    peer_timeout: float = Field(60.0, gt=0, description="Seconds a node may take to answer us before we give it up.")
    transfers_at_once: int = Field(
        4,
        ge=1,
        le=64,
        description="Nodes that are sent to or fetched from at the same time, each by a thread of its own.",
    )
    transfer_attempts: int = Field(
        30, ge=1, le=1000, description="Attempts without any progress after which a transfer or retrieval is given up."
    )
    transfer_retry: float = Field(
        10.0, gt=0, description="Seconds before the second attempt; doubled for each further one, to at most an hour."
    )
    retrieval_window: str | None = Field(
        None,
        pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$",
        description="Off-peak hours of retrievals, HH:MM-HH:MM in `time_zone`, for example 22:00-06:00; none: always.",
    )
    time_zone: TimeZone = Field("UTC", description="Time zone of the site's local times, for example Europe/Berlin.")
    quiet_time: float = Field(
        5.0, ge=0, description="Seconds without a new object after which a series counts as complete."
    )
    known_uid_policy: str = Field(
        "keep",
        pattern="^(keep|refuse)$",
        description="A different object under a known SOP Instance UID: `keep` the second as a conflict, or `refuse` it.",
    )
    retention: tuple[RetentionRule, ...] = Field(
        (), description="Rules by which old series are deleted, see docs/archive.md; none by default."
    )
    retention_automatic: bool = Field(
        False,
        description="Carry the retention rules out once a day; otherwise only `insitu archive retain --apply` does.",
    )
    scrub_days: float = Field(
        7.0, ge=0, description="Days from the end of a scrub to the next one by itself; 0 for none by itself."
    )
    scrub_rate: int = Field(10_000_000, ge=1000, description="Bytes per second that a scrub by itself reads.")
    default_project: str = Field("inbox", description="Project of series that no rule assigns to one.")
    runs_at_once: int = Field(
        2, ge=1, le=256, description="Runs that are carried out at the same time; trainings do not count."
    )
    trainings_at_once: int = Field(
        1, ge=0, le=64, description="Runs of algorithms that train, at the same time; 0: none is carried out."
    )
    chain_depth: int = Field(4, ge=1, le=32, description="How many runs may follow one another by rules on results.")
    session_hours: float = Field(12.0, gt=0, description="Hours after which a browser session ends.")
    airflow_http: HostPort = Field("127.0.0.1:8793", description="Loopback address of Airflow's API.")
    airflow_python: Path | None = Field(
        None, description="Python of Airflow's virtual environment; by default `.venv-airflow` beside the platform's."
    )
    airflow_url: BaseUrl | None = Field(
        None, description="Base URL of Airflow's API as the others reach it; by default that of `airflow_http`."
    )
    gateway_http: HostPort = Field(
        "0.0.0.0:8090", description="Address of the run gateway where it is a process of its own."
    )
    gateway_url: BaseUrl | None = Field(
        None, description="Base URL of the run gateway as the steps of a run reach it; by default that of `http`."
    )
    launcher: Literal["process", "kubernetes"] = Field(
        "process",
        description="What carries runs out: `process`, on this machine, or `kubernetes`, as Jobs, by the file that the"
        " variable INSITU_LAUNCHER_FILE names.",
    )
    algorithm_images: dict[AlgorithmName, Image] = Field(
        {}, description="Images of the algorithms that come with the platform, by digest: `name: REF@sha256:...`."
    )
    algorithm_log_bytes: int = Field(10_000_000, ge=1000, description="Largest log kept of one algorithm step.")
    result_bytes: int = Field(
        4_000_000_000, ge=1, description="Largest total size of the outputs of one run, in bytes."
    )

    @model_validator(mode="after")
    def _authorities_are_named(self) -> Settings:
        if self.database_host is not None and self.database_sslmode == "verify-ca" and self.database_ca is None:
            raise ValueError(
                "database_sslmode verify-ca needs database_ca; with the system's own authorities use verify-full"
            )
        return self

    @property
    def secrets(self) -> Path:
        """Folder of generated secrets, mode 0700."""
        return self.home / "secrets"

    @property
    def blobs(self) -> Path:
        """Folder of the file blob store."""
        return self.home / "blobs"

    @property
    def spool(self) -> Path:
        """Folder of objects on their way to the object store, in files without a name."""
        return self.home / "spool"

    @property
    def jobs(self) -> Path:
        """Folder of the process launcher's jobs."""
        return self.home / "jobs"

    @property
    def logs(self) -> Path:
        """Folder of the process logs."""
        return self.home / "logs"

    @property
    def environments(self) -> Path:
        """Folder of the algorithms' virtual environments."""
        return self.home / "environments"

    @property
    def database_socket(self) -> Path:
        """Folder of PostgreSQL's unix socket: `run/` in the home, or a short one in /tmp where that path is too long."""
        folder = self.home / "run"
        if len(os.fsencode(folder)) <= SOCKET_PATH_LIMIT - len(".s.PGSQL.5432"):
            return folder
        return Path("/tmp") / f"insitu-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]}"  # noqa: S108

    @property
    def http_url(self) -> str:
        """Base URL of the api as other processes of this machine reach it."""
        host, _, port = self.http.rpartition(":")
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '') else host}:{port}"

    @property
    def in_cluster(self) -> bool:
        """Whether the processes are pods of a cluster, each for itself, and not the children of one supervisor."""
        return self.launcher == "kubernetes"

    @property
    def seconds_to_stop(self) -> float:
        """Seconds open associations get when the receiver is asked to end."""
        return self.stop_seconds or (self.drain_seconds if self.in_cluster else 2.5)

    @property
    def engine_url(self) -> str:
        """Base URL of Airflow's API."""
        return self.airflow_url or f"http://{self.airflow_http}"

    @property
    def run_gateway_url(self) -> str:
        """Base URL of the run gateway as the steps of a run reach it."""
        return self.gateway_url or self.http_url

    def database_dsn(self, role: str, database: str | None = None) -> str:
        """Connection string of a role, insitu_ROLE; `INSITU_DATABASE_DSN` overrides it.

        The password is read from `secrets/database-ROLE`, so only those who may read that file can use the role.

        Parameters
        ----------
        role : str
        database : str, optional
            By default `database_name`.

        Raises
        ------
        Invalid
            The password cannot be read.
        """
        override = os.environ.get("INSITU_DATABASE_DSN")
        if override:
            return override
        secret = self.secrets / f"database-{role}"
        try:
            password = secret.read_text().strip()
        except OSError as error:
            remedy = "Start the platform once with `insitu up` on this home, as the same user"
            if self.database_host is not None:
                remedy = f"Put the password of the role insitu_{role} there"
            raise Invalid(
                "The database password cannot be read", value=str(secret), why=str(error.strerror), remedy=remedy
            ) from error
        return self.dsn(f"insitu_{role}", password, database or self.database_name)

    def dsn(self, user: str, password: str, database: str) -> str:
        """Connection string of `user` for a database of the server: over the unix socket, or TCP where `database_host` is set."""
        parts: dict[str, object] = {"host": self.database_socket}
        if self.database_host is not None:
            parts = {"host": self.database_host, "port": self.database_port, "sslmode": self.database_sslmode}
            if self.database_sslmode.startswith("verify-"):
                parts["sslrootcert"] = self.database_ca or "system"
            parts |= NOTICE_DEATH
        parts |= {"user": user, "password": password, "dbname": database}
        return " ".join(f"{name}={_libpq(str(value))}" for name, value in parts.items())


# A server whose machine is gone closes nothing: without these a connection would wait for it for hours.
NOTICE_DEATH = {"keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


def _libpq(value: str) -> str:
    """A value as a connection string takes it (PostgreSQL's documentation, 32.1.1.1)."""
    if re.fullmatch(r"[\w./:-]+", value, re.ASCII):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def load(home: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings: command line (`overrides`) over environment over `insitu.yaml` over defaults.

    Raises
    ------
    Invalid
        A key is unknown or a value does not fit; the message names the key, the value and where it stood.
    """
    environment: dict[str, Any] = {}
    # INSITU_DATABASE_DSN is read by database_dsn, INSITU_LAUNCHER_FILE by the launcher; INSITU_TEST_* belong to the tests.
    skip = {"INSITU_DATABASE_DSN", "INSITU_LAUNCHER_FILE", "INSITU_TOKEN", "INSITU_URL"}
    for name, text in os.environ.items():
        if name.startswith(PREFIX) and name not in skip and not name.startswith("INSITU_TEST_"):
            environment[name[len(PREFIX) :].lower()] = text
    chosen = home or overrides.get("home") or environment.get("home") or default_home()
    folder = Path(chosen).expanduser().absolute()
    values: dict[str, Any] = {}
    file = folder / "insitu.yaml"
    if file.is_file():
        content = yaml.safe_load(file.read_text()) or {}
        if not isinstance(content, dict):
            raise Invalid("insitu.yaml must hold `key: value` lines", value=str(file))
        values.update(content)
    for key, text in environment.items():
        field = Settings.model_fields.get(key)
        is_list = field is not None and "tuple" in str(field.annotation)
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if field is not None and "dict" in str(field.annotation):
            values[key] = {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in parts)}
        else:
            values[key] = parts if is_list else text
    values.update({key: value for key, value in overrides.items() if value is not None})
    values["home"] = folder
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if not key:  # settings that do not go together
            raise Invalid(
                "The settings do not fit one another", value=str(file), why=first["msg"].removeprefix("Value error, ")
            ) from error
        if first["type"] == "extra_forbidden":
            raise Invalid(
                "There is no such setting",
                value=key,
                why=f"it stands in {file} or in the variable {PREFIX}{key.upper()}",
                remedy="`insitu settings` lists them all",
            ) from error
        raise Invalid(
            f"The setting {key!r} is not usable",
            value=re.sub(r"//[^/@]*@", "//...@", str(first.get("input"))),  # a password may stand there
            why=first["msg"].removeprefix("Value error, "),
            remedy=f"Correct it in {file} or in the variable {PREFIX}{key.upper()}",
        ) from error
