"""DICOM TLS to a node (PS3.15 B.12): both sides show a certificate, and ours looks at authority and name; judged by DCMTK."""

from __future__ import annotations

from pathlib import Path

import pytest

from insitu.errors import InsituError
from insitu_services.peers import verify
from tests.peers.dcmtk import storescp
from tests.tools import needs_program
from tests.unit.receiver.certificates import Authority, Issued

from .conftest import Site
from .test_sending import files_in

pytestmark = needs_program("storescp", "dcmtk")


def options(server: Issued, authority: Authority) -> list[str]:
    """A storescp that shows `server` and wants a certificate of `authority`."""
    return ["+tls", str(server.key), str(server.certificate), "+cf", str(authority.certificate)]


def test_an_object_does_not_arrive_over_tls_or_arrives_at_one_who_is_not_the_node(site: Site, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours", "ours"), Authority(tmp_path / "theirs", "theirs")
    client = ours.issue("archive")
    identity = {"tls_ca": theirs.certificate, "tls_certificate": client.certificate, "tls_key": client.key}
    site.settings = site.settings.model_copy(update=identity)
    study, uids = site.study(3)
    with storescp(tmp_path / "out", options(theirs.issue("pacs"), ours)) as peer:
        node = site.node(ae_title="STORE", host="localhost", port=peer.port, tls=True)
        assert verify.echo(node, site.settings) > 0
        with site.exchanging():
            row = site.ended(site.send(study))
        assert (row["state"], row["sent"]) == ("done", 3), row
        assert set(files_in(tmp_path / "out")) == set(uids)

        anonymous = site.settings.model_copy(update={"tls_certificate": None, "tls_key": None})
        stranger = site.settings.model_copy(update={"tls_ca": ours.certificate})
        plain = node.model_copy(update={"tls": False})
        for asked, settings, says in (
            (node, anonymous, "cannot be reached"),
            (node, stranger, "certificate is not trusted"),
            (plain, site.settings, "whether it expects TLS"),
        ):
            with pytest.raises(InsituError, match=says):
                verify.echo(asked, settings)

    elsewhere = theirs.issue("elsewhere", hosts="DNS:pacs.example")
    with storescp(tmp_path / "none", options(elsewhere, ours)) as peer:
        node = site.node(ae_title="STORE", host="localhost", port=peer.port, tls=True)
        with pytest.raises(InsituError, match=r"certificate is not trusted: Hostname mismatch.*localhost"):
            verify.echo(node, site.settings)
        site.settings = site.settings.model_copy(update={"transfer_attempts": 1})
        with site.exchanging():
            row = site.ended(site.send(study))
        assert (row["state"], row["sent"], row["failed"]) == ("failed", 0, 3), row
        assert "not trusted" in row["reason"]
        assert files_in(tmp_path / "none") == {}
