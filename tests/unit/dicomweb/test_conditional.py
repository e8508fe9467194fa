"""HEAD and conditional requests: a client that holds an answer, or only wants to know of it, is not sent it."""

from __future__ import annotations

import httpx
import pytest

SERIES = "/studies/1.2.3/series/1.2.3.4"


def paths(image) -> list[str]:
    """One address of each kind."""
    instance = f"{SERIES}/instances/{image.SOPInstanceUID}"
    kinds = ("", "/metadata", "/frames/1", "/bulkdata", "/bulkdata/7FE00010", "/pixeldata", "/rendered", "/thumbnail")
    return ["/studies", "/", f"{SERIES}/metadata", SERIES, *(instance + kind for kind in kinds)]


def test_head_of_everything_is_get_without_the_body(site, make):
    image = make(1)
    site.take(image)
    with httpx.Client(headers=site.headers, base_url=f"{site.url}/dicom-web", timeout=60) as client:
        for path in paths(image):
            got, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (200, b""), path
            same = {"content-length", "content-location", "etag", "x-total-count"}
            assert {n: v for n, v in head.headers.items() if n in same} == {
                n: v for n, v in got.headers.items() if n in same
            }, path
            assert head.headers["Content-Type"].split("boundary")[0] == got.headers["Content-Type"].split("boundary")[0]
        assert client.head("/studies/9.9").status_code == 404
        refused = client.put("/studies")
        assert refused.status_code == 405
        assert {"GET", "HEAD"} & set(refused.headers["Allow"].replace(" ", "").split(",")) in ({"GET", "HEAD"}, set())


@pytest.mark.parametrize("accept", ["*/*", "application/dicom", 'multipart/related; type="application/dicom+xml"'])
def test_what_the_client_holds_is_not_sent_again_until_it_changes(site, make, accept):
    image = make(1)
    site.take(image)
    instance = f"{SERIES}/instances/{image.SOPInstanceUID}"
    kinds = {"*/*": ("", "/metadata", "/frames/1", "/bulkdata", "/bulkdata/7FE00010")}.get(accept, ("",))
    for kind in ("/metadata",) if "xml" in accept else kinds:
        for level in (
            (instance, SERIES) if kind in ("/metadata", "/bulkdata") or (accept == "*/*" and not kind) else (instance,)
        ):
            headers = {"Accept": accept}
            tag = site.get(level + kind, headers=headers).headers["ETag"]
            again = site.get(level + kind, headers=headers | {"If-None-Match": f'"x", {tag}'})
            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag), level + kind
            assert site.get(level + kind, headers=headers | {"If-None-Match": '"x"'}).status_code == 200
            assert again.headers["Vary"] == "Accept"
    tag = site.get(f"{SERIES}/metadata").headers["ETag"]
    site.take(make(2))
    assert site.get(f"{SERIES}/metadata", headers={"If-None-Match": tag}).status_code == 200
    other = site.get(f"{SERIES}/metadata", headers={"Accept": 'multipart/related; type="application/dicom+xml"'})
    assert other.headers["ETag"] != site.get(f"{SERIES}/metadata").headers["ETag"]
