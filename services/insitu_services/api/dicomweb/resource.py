"""The instances a request names, as far as the caller may see them.

A study, series or instance of which nothing is visible does not exist for the caller (NotFound). Not here: what is sent of them.
"""

from __future__ import annotations

from fastapi import Request

from insitu.database import Connection, Row
from insitu.errors import NotFound
from insitu.projects.permissions import Action, Principal, Resource, authorize, visible_projects

_COLUMNS = """i.id, i.sop_instance_uid, i.series, i.sop_class_uid, i.transfer_syntax_uid, i.blob_key, i.size, i.digest, i.dataset_offset,
    i.instance_number, i.image_rows, i.image_columns, i.number_of_frames, s.series_instance_uid, s.modality,
    st.study_instance_uid, ARRAY(SELECT sp.project FROM series_project sp WHERE sp.series = s.id) AS projects"""
_VISIBLE = (
    "(%(all)s OR EXISTS (SELECT 1 FROM series_project sp WHERE sp.series = s.id AND sp.project = ANY(%(projects)s)))"
)
_UIDS = {"study": "st.study_instance_uid", "series": "s.series_instance_uid", "instance": "i.sop_instance_uid"}


def instances(
    connection: Connection,
    principal: Principal,
    study: str,
    series: str | None = None,
    instance: str | None = None,
    *,
    with_metadata: bool = False,
) -> list[Row]:
    """Rows of the visible instances of a study, series or one instance, in the order of series and instance number.

    Parameters
    ----------
    connection : Connection
    principal : Principal
    study, series, instance : str
        UIDs from the path.
    with_metadata : bool
        Also `body`: the DICOM JSON as text, None where it has not been made yet. One query, however many instances.

    Raises
    ------
    NotFound
        There is none, or none is visible.
    """
    projects = visible_projects(principal, Action.IMAGE_READ)
    named = {"study": study, "series": series, "instance": instance}
    conditions = [f"{_UIDS[name]} = %({name})s" for name, uid in named.items() if uid is not None]
    body = ", jsonb_set(m.body, '{00080005,Value}', '[\"ISO_IR 192\"]', false)::text AS body" if with_metadata else ""
    join = " LEFT JOIN instance_metadata m ON m.instance = i.id" if with_metadata else ""
    rows = connection.execute(
        f"SELECT {_COLUMNS}{body} FROM instance i JOIN series s ON s.id = i.series JOIN study st ON st.id = s.study{join}"
        f" WHERE {' AND '.join(conditions)} AND {_VISIBLE} ORDER BY s.id, i.instance_number NULLS LAST, i.id",
        {**named, "all": projects is None, "projects": sorted(projects or ())},
    ).fetchall()
    kind, uid = [(name, uid) for name, uid in named.items() if uid is not None][-1]
    if not rows:
        raise NotFound(f"There is no such {kind}", value=uid[:64], remedy="Search for it: GET /dicom-web/studies")
    for projects_of_series in {row["series"]: row["projects"] for row in rows}.values():
        authorize(principal, Action.IMAGE_READ, Resource(kind=kind, id=uid, projects=frozenset(projects_of_series)))
    return rows


def base_url(request: Request) -> str:
    """Scheme and host under which the client reached us, without a slash at the end."""
    url = request.base_url
    address, port = request.scope.get("server") or ("", None)
    named = (address, "localhost") if address in ("127.0.0.1", "::1") else (address,)
    if url.port is None and url.hostname in named and port not in (None, 80, 443):
        # dicomweb-client leaves the port out of the Host header; where the host is the very address of our socket, no proxy
        # can have meant another port.
        url = url.replace(port=port)
    return str(url).rstrip("/")


def accept_of(request: Request) -> str | None:
    """What the client accepts: the query parameter `accept`, which wins (PS3.18 8.3.3.1), else the header."""
    return request.query_params.get("accept") or ", ".join(request.headers.getlist("accept")) or None
