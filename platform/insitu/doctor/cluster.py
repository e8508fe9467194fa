"""A Kubernetes cluster as the doctor asks it: objects, lists, whether something may be done, and what the server said instead.

Not here: the requests themselves (insitu.runs.launch.kubernetes.api), and what the answers mean.
"""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from insitu.errors import Invalid, Unauthenticated
from insitu.runs.launch.kubernetes.api import ACCOUNT, Access, Api, ApiRefused

PATIENCE = 10.0  # seconds during which a server that is away is asked again
MOST_LOG = 1 << 20  # bytes


@dataclass(frozen=True)
class NoRight(Exception):
    """The caller may not do this: `right` in the words of Kubernetes' roles, as "list nodes"."""

    right: str

    def __str__(self) -> str:
        return f"no right to {self.right}"


def access(kubeconfig: Path | None, server: str | None) -> Access:
    """How to reach the cluster: by an address that needs no login (`kubectl proxy`), a kubeconfig, or the pod this runs in.

    Raises
    ------
    Invalid
        There is no kubeconfig, or it cannot be used.
    """
    if server is not None:
        return Access(server, None)
    if kubeconfig is None and (ACCOUNT / "token").exists():
        return Access.of_pod()
    given = os.environ.get("KUBECONFIG", "")
    file = kubeconfig or Path(given or Path.home() / ".kube" / "config")
    remedy = "Name one by --kubeconfig; or run `kubectl proxy` and give --server http://127.0.0.1:8001"
    if not file.is_file():
        raise Invalid("There is no such kubeconfig", value=str(file), remedy=remedy)
    try:
        return Access.of_kubeconfig(file)
    except Invalid as error:
        raise Invalid(error.what, value=error.value, why=error.why, remedy=remedy) from error


class Cluster:
    """Questions to the API server. A refusal for want of rights is `NoRight`, something that is not there is None.

    Parameters
    ----------
    access : Access
    """

    def __init__(self, access: Access) -> None:
        self._api = Api(access)
        self._access = access
        self.url = access.url

    def get(self, path: str, **query: Any) -> dict[str, Any] | None:
        """An object or a list as the server has it; None where there is no such thing.

        Raises
        ------
        NoRight, ApiRefused, Unavailable
        """
        try:
            return self._api.get(path, patience=PATIENCE, **query)
        except ApiRefused as error:
            if error.status == 404:
                return None
            raise refusal(error) from error

    def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """The objects of a list; none where the cluster does not know the kind."""
        found = self.get(path, **query)
        return list((found or {}).get("items") or [])

    def create(self, path: str, body: Mapping[str, Any], *, dry: bool = False) -> dict[str, Any]:
        """Make an object; `dry`: only let the server judge it.

        Raises
        ------
        ApiRefused
            Also for want of rights: what the server says then can be the answer that was sought.
        """
        return self._api.create(path + ("?dryRun=All" if dry else ""), body, patience=PATIENCE)

    def delete(self, path: str, **query: Any) -> None:
        """Remove an object; that it is not there is no error."""
        self._api.delete(path, patience=PATIENCE, **query)

    def date(self) -> str | None:
        """The server's clock, as the Date of its answer has it; None where there is none."""
        parts, context = urlsplit(self.url), self._access.context
        host, port = parts.hostname or "", parts.port
        connection = (
            http.client.HTTPConnection(host, port or 80, timeout=PATIENCE)
            if parts.scheme == "http"
            else http.client.HTTPSConnection(host, port or 443, timeout=PATIENCE, context=context)
        )
        try:
            connection.request("GET", "/version", headers=self._access.headers())
            return connection.getresponse().getheader("Date")
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def log(self, namespace: str, pod: str) -> str:
        """What the container of a pod has said.

        Raises
        ------
        NoRight, ApiRefused, Unavailable
        """
        try:
            head, _ = self._api.text(
                f"/api/v1/namespaces/{namespace}/pods/{pod}/log", patience=PATIENCE, most=MOST_LOG, keep=0
            )
        except ApiRefused as error:
            raise refusal(error) from error
        return head.decode(errors="replace")

    def may(self, verb: str, resource: str, group: str = "", namespace: str | None = None, name: str = "") -> bool:
        """Whether the caller may do this; `resource` can have a subresource, as `pods/log`."""
        resource, _, subresource = resource.partition("/")
        asked = {"verb": verb, "resource": resource, "subresource": subresource, "group": group, "name": name}
        if namespace is not None:
            asked["namespace"] = namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
        }
        try:
            answer = self._api.create(
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, patience=PATIENCE
            )
        except ApiRefused as error:
            raise refusal(error) from error
        return bool(answer["status"].get("allowed"))


def refusal(error: ApiRefused) -> NoRight | ApiRefused | Unauthenticated:
    """`NoRight` for a refusal by the cluster's roles, `Unauthenticated` for a login it does not know, else the refusal itself."""
    if error.status == 401:
        return Unauthenticated(
            "The cluster does not know who asks",
            why=error.message,
            remedy="Log in to it anew: the token or certificate of the kubeconfig is wrong or has expired",
        )
    found = re.search(
        r'cannot (\w+) resource "([^"]+)" in API group "[^"]*" (?:in the namespace "([^"]+)"|at the cluster scope)',
        error.message,
    )
    if error.status == 403 and found is not None:
        return NoRight(f"{found[1]} {found[2]}" + (f" in {found[3]}" if found[3] else ""))
    return error
