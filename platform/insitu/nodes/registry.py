"""The register of nodes: the PACS, workstations and DICOMweb servers that this archive knows by name.

Not here: talking to them (insitu_services.peers), and whether a caller is the node it says it is (insitu_services.receiver).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, NotFound
from insitu.projects.permissions import Principal, Role


def _ae_title(value: str) -> str:
    if not value.isascii() or not value.isprintable() or "\\" in value or value != value.strip():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters, no backslash, no space at its ends")
    return value


def _fingerprint(value: str) -> str:
    digits = value.replace(":", "").strip().lower()
    if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise ValueError(
            "expected a SHA-256 fingerprint, 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` says"
        )
    return digits


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value.strip(), strict=False))


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("expected http(s)://HOST[:PORT]/PATH of the DICOMweb service, without a password in it")
    return value.rstrip("/")


class Node(BaseModel):
    """A system that exchanges images with this archive: by DIMSE, by DICOMweb, or both.

    Attributes
    ----------
    name : str
        What people call it.
    ae_title, host, port
        Its DIMSE side. Host and port are None where it is never called: it only calls us.
    tls : bool
        Call it by DICOM TLS.
    certificate : str or None
        SHA-256 fingerprint, hexadecimal, of the client certificate its associations must show.
    networks : tuple of str
        Networks (CIDR) its associations may come from; none: the address of `host` alone.
    projects : tuple of str
        What it may find and retrieve here; none: nothing.
    maximum_associations : int
        Associations we hold to it at the same time.
    retrieve_by : {"get", "move"}
        How objects are fetched from it by DIMSE. `move` needs our AE title, address and port in its own register.
    url : str or None
        Base URL of its DICOMweb service, for example `https://pacs.example/dicom-web`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    ae_title: Annotated[str, Field(min_length=1, max_length=16), AfterValidator(_ae_title)] | None = None
    host: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    tls: bool = False
    certificate: Annotated[str, AfterValidator(_fingerprint)] | None = None
    networks: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    projects: tuple[str, ...] = ()
    maximum_associations: Annotated[int, Field(ge=1, le=32)] = 1
    retrieve_by: Literal["get", "move"] = "get"
    url: Annotated[str, AfterValidator(_url)] | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.ae_title is None and self.url is None:
            raise ValueError("a node has an AE title, or the URL of a DICOMweb service")
        if (self.host is None) != (self.port is None):
            raise ValueError("host and port come together")
        if self.host is not None and self.ae_title is None:
            raise ValueError("a node that is called by DIMSE has an AE title")
        return self

    @property
    def callable_by_dimse(self) -> bool:
        """Whether we can open an association to it."""
        return self.ae_title is not None and self.host is not None and self.port is not None

    @property
    def address(self) -> str:
        """How messages name it: `NAME (AE@HOST:PORT)`, or with its URL."""
        if self.callable_by_dimse:
            return f"{self.name} ({self.ae_title}@{self.host}:{self.port})"
        return f"{self.name} ({self.url})" if self.url else self.name


def node_of(values: dict[str, object]) -> Node:
    """A node from what a person wrote.

    Raises
    ------
    Invalid
        Names the value that does not fit and why.
    """
    try:
        return Node.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "node"
        value = first.get("input") if first["loc"] else values.get("name")
        raise Invalid(
            f"The node's {where} is not usable" if first["loc"] else "The node is not usable",
            value=str(value),
            why=first["msg"].removeprefix("Value error, "),
        ) from error


def find(connection: Connection, name: str) -> Node:
    """The node `name`.

    Raises
    ------
    NotFound
        There is none.
    """
    row = connection.execute("SELECT * FROM node WHERE name = %s", (name,)).fetchone()
    if row is None:
        raise NotFound("There is no such node", value=name, remedy="`insitu node list` shows them all")
    return _node(row)


def by_ae_title(connection: Connection, ae_title: str) -> Node | None:
    """The node that calls itself `ae_title`; None for a stranger."""
    row = connection.execute("SELECT * FROM node WHERE ae_title = %s", (ae_title.strip(),)).fetchone()
    return None if row is None else _node(row)


def listed(connection: Connection) -> list[Node]:
    """All nodes by name."""
    return [_node(row) for row in connection.execute('SELECT * FROM node ORDER BY name COLLATE "C"')]


def save(connection: Connection, node: Node) -> bool:
    """Put a node into the register, in place of one of the same name. True where it is new.

    Raises
    ------
    Invalid
        It names a project that does not exist.
    Conflict
        Another node has this AE title.
    """
    known = {
        row["name"]
        for row in connection.execute("SELECT name FROM project WHERE name = ANY(%s)", (list(node.projects),))
    }
    missing = sorted(set(node.projects) - known)
    if missing:
        raise Invalid("There is no such project", value=missing[0], remedy="See `insitu project list`")
    if node.ae_title is not None:
        other = by_ae_title(connection, node.ae_title)
        if other is not None and other.name != node.name:
            raise Conflict(
                "Another node has this AE title",
                value=node.ae_title,
                why=f"it is {other.name}; a caller is known by its AE title alone",
                remedy="Give one of the two another title",
            )
    values = node.model_dump()
    values["networks"], values["projects"] = list(node.networks), list(node.projects)
    columns = list(values)
    row = connection.execute(
        f"INSERT INTO node ({', '.join(columns)}) VALUES ({', '.join(f'%({name})s' for name in columns)})"
        f" ON CONFLICT (name) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in columns[1:])}"
        " RETURNING xmax = 0 AS made",
        values,
    ).fetchone()
    return bool(row and row["made"])


def remove(connection: Connection, name: str) -> None:
    """Take a node out of the register. What waits to be sent to it is cancelled by the caller first.

    Raises
    ------
    NotFound
        There is none.
    """
    find(connection, name)
    connection.execute("DELETE FROM node WHERE name = %s", (name,))


def principal_of(node: Node) -> Principal:
    """The node as somebody who asks: it may look at the images of its projects and nothing else."""
    return Principal(name=f"node:{node.name}", kind="node", memberships=dict.fromkeys(node.projects, Role.READER))


def _node(row: Row) -> Node:
    return Node.model_validate({name: row[name] for name in Node.model_fields})
