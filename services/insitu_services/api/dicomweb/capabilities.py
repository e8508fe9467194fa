"""What this DICOMweb server can do (PS3.18 8.9): a description in WADL, made of the routes themselves.

Not here: the conformance statement, which says more and is for people.
"""

from __future__ import annotations

from typing import Annotated
from xml.etree import ElementTree

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute, iter_route_contexts

from insitu.projects.permissions import Action, Principal

from ..access import requires
from .negotiation import Offer, choose
from .resource import accept_of, base_url

router = APIRouter(tags=["dicomweb"])
Anybody = Annotated[Principal, Depends(requires(Action.SELF))]
NAMESPACE = "http://wadl.dev.java.net/2009/02"
MEDIA_TYPES = ("application/vnd.sun.wadl+xml", "application/xml", "text/xml")


def wadl(routes: dict[str, dict[str, str]], base: str) -> bytes:
    """The description: resources by path, each with its methods and what they do."""
    root = ElementTree.Element("application", xmlns=NAMESPACE)
    resources = ElementTree.SubElement(root, "resources", base=f"{base}/dicom-web")
    for path in sorted(routes):
        resource = ElementTree.SubElement(resources, "resource", path=path)
        for method, summary in sorted(routes[path].items()):
            described = ElementTree.SubElement(resource, "method", name=method)
            ElementTree.SubElement(described, "doc").text = summary
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


@router.get("/")
@router.options("/")
def capabilities(request: Request, principal: Anybody) -> Response:
    """The resources of DICOMweb and what each can do."""
    media_type = choose(accept_of(request), [Offer(name, multipart=False) for name in MEDIA_TYPES]).media_type
    routes: dict[str, dict[str, str]] = {}
    for context in iter_route_contexts(request.app.routes):
        route = context.original_route
        path = str(context.path)
        if isinstance(route, APIRoute) and path.startswith("/dicom-web/"):
            methods = set(route.methods or ())
            for method in methods | ({"HEAD"} if "GET" in methods else set()):
                says = (route.description or "").split("\n")[0]
                routes.setdefault(path.removeprefix("/dicom-web"), {})[method] = says
    return Response(wadl(routes, base_url(request)), media_type=media_type, headers={"Allow": "GET, HEAD, OPTIONS"})
