"""DICOM TLS (ING-9), judged by openssl and DCMTK."""

from __future__ import annotations

import hashlib
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from insitu.dicom.tls import peer_context
from insitu.doctor.machine import examine
from insitu.settings import Settings
from tests.tools import needs_program

from .archive_site import image, node, store
from .certificates import Authority, Issued
from .conftest import Receiver

OBJECT = str(get_testdata_file("CT_small.dcm"))


class Site:
    """A receiver that speaks TLS, an authority, a client of it."""

    def __init__(self, start: Callable[..., Receiver], folder: Path, **settings: str) -> None:
        self.authority = Authority(folder / "authority", "authority")
        self.server = self.authority.issue("server")
        self.client = self.authority.issue("client")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.receiver = start(
            dicom_tls=f"127.0.0.1:{self.port}", tls_certificate=str(self.server.certificate),
            tls_key=str(self.server.key), tls_client_ca=str(self.authority.certificate), **settings,
        )  # fmt: skip

    def dcmtk(self, program: str, *arguments: str, client: Issued | None) -> subprocess.CompletedProcess[str]:
        """A client of DCMTK over TLS, with a certificate or without one."""
        identity = ["+tls", str(client.key), str(client.certificate)] if client else ["+tla"]
        return self.receiver.run(
            program, "-v", *identity, "+cf", str(self.authority.certificate), "127.0.0.1", str(self.port), *arguments
        )

    def openssl(self, *arguments: str) -> str:
        """What `openssl s_client` says."""
        line = [
            "openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-CAfile", str(self.authority.certificate),
            "-cert", str(self.client.certificate), "-key", str(self.client.key), *arguments,
        ]  # fmt: skip
        done = subprocess.run(line, input="", capture_output=True, text=True, timeout=120, check=False)
        return done.stdout + done.stderr

    def told(self, words: str) -> None:
        """Wait for a line of the log."""
        self.receiver.until(f"a line: {words}", lambda: words in self.receiver.log.read_text())


@pytest.fixture
def site(start: Callable[..., Receiver], tmp_path: Path) -> Site:
    """One that requires client certificates."""
    return Site(start, tmp_path)


pytestmark = needs_program("storescu", "dcmtk")


def test_an_object_sent_with_a_client_certificate_is_stored(site: Site) -> None:
    sent = site.dcmtk("storescu", OBJECT, client=site.client)
    assert sent.returncode == 0, sent.stderr
    assert site.receiver.count("instance") == 1


def test_a_peer_without_a_certificate_is_refused_and_the_log_says_why(site: Site) -> None:
    assert site.dcmtk("echoscu", client=None).returncode != 0
    site.told("a TLS handshake failed: peer did not return a certificate")


def test_a_certificate_of_another_authority_is_refused(site: Site, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "other", "other").issue("stranger")
    assert site.dcmtk("echoscu", client=stranger).returncode != 0
    site.told("the peer's certificate is refused: ")


def test_an_expired_certificate_is_refused(site: Site) -> None:
    assert site.dcmtk("echoscu", client=site.authority.issue("late", days=-1)).returncode != 0
    site.told("certificate has expired")


def test_certificates_can_be_optional(start: Callable[..., Receiver], tmp_path: Path) -> None:
    site = Site(start, tmp_path, tls_client_certificates="optional")
    assert site.dcmtk("echoscu", client=None).returncode == 0
    assert site.dcmtk("echoscu", client=site.client).returncode == 0


def test_our_own_command_sends_over_tls_and_the_doctor_sees_the_certificate(site: Site) -> None:
    client = ("--certificate", str(site.client.certificate), "--key", str(site.client.key))
    ca = ("--ca", str(site.authority.certificate))
    to = f"INSITU@127.0.0.1:{site.port}"
    line = (sys.executable, "-m", "insitu.cli", "send", to, OBJECT, "--tls")
    assert site.receiver.run(*line, *ca, *client).returncode == 0
    assert site.receiver.run(*line, *client).returncode != 0  # nobody vouches for the server
    settings = Settings(home=site.receiver.home, tls_certificate=site.server.certificate, tls_key=site.server.key)
    found = {finding.state for finding in examine(settings) if finding.check == "dicom tls"}
    assert found == {"note"}  # its 30 days are nearly over
    late = site.authority.issue("late", days=-1)
    for certificate, key, words in (
        (late.certificate, late.key, "expired"),
        (late.certificate, site.server.key, "another"),
    ):
        settings = Settings(home=site.receiver.home, tls_certificate=certificate, tls_key=key)
        (finding,) = [finding for finding in examine(settings) if finding.check == "dicom tls"]
        assert finding.state == "bad"
        assert words in finding.says


def test_only_strong_protocols_and_suites_are_spoken(site: Site) -> None:
    assert "TLSv1.3" in site.openssl("-tls1_3")
    good = site.openssl("-tls1_2")
    assert "Protocol  : TLSv1.2" in good
    assert "ECDHE-RSA-AES256-GCM-SHA384" in good
    for weak in (
        ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "AES256-SHA"),
        ("-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"),
        ("-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384"),
    ):
        assert "Cipher is (NONE)" in site.openssl(*weak), weak


def test_peers_that_never_finish_their_handshake_hold_up_nobody(site: Site) -> None:
    silent = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(20)]
    try:
        assert site.dcmtk("echoscu", client=site.client).returncode == 0
    finally:
        for one in silent:
            one.close()


def test_a_handshake_has_a_deadline(start: Callable[..., Receiver], tmp_path: Path) -> None:
    site = Site(start, tmp_path, association_timeout="1")
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as silent:
        assert silent.recv(1) == b""
    site.told("a TLS handshake failed: not finished within 1 s")


def test_a_new_certificate_is_shown_without_dropping_associations(site: Site) -> None:
    context = peer_context(site.authority.certificate, site.client.certificate, site.client.key)

    def shown() -> bytes:
        with socket.create_connection(("127.0.0.1", site.port), timeout=60) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                return hashlib.sha256(secure.getpeercert(binary_form=True) or b"").digest()

    before = shown()
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as plain:
        open_before = context.wrap_socket(plain, server_hostname="127.0.0.1")
        new = site.authority.issue("newer")
        new.key.replace(site.server.key)
        new.certificate.replace(site.server.certificate)
        site.receiver.until("the new certificate is shown", lambda: shown() != before, poll=0.5)
        open_before.sendall(b"\x05\0\0\0\0\4\0\0\0\0")  # a release before an association: an abort answers
        assert open_before.recv(1) == b"\x07"


def test_a_stop_aborts_an_association_that_is_in_mid_object(site: Site) -> None:
    context = peer_context(site.authority.certificate, site.client.certificate, site.client.key)
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as plain:
        secure = context.wrap_socket(plain, server_hostname="127.0.0.1")
        secure.sendall(b"\x01\0\0\0\1\0")  # the beginning of a request; the rest never comes
        site.receiver.process.send_signal(signal.SIGTERM)
        received = b""
        try:
            while piece := secure.recv(100):
                received += piece
        except (ssl.SSLEOFError, ConnectionResetError):
            pass
        assert received[:1] == b"\x07"
        assert site.receiver.process.wait(timeout=60) == 0


def test_a_node_that_is_known_by_its_certificate_is_another_one_with_another(site: Site) -> None:
    receiver = site.receiver
    other = site.authority.issue("other")
    stored = image(PatientID="ONE")
    store(receiver, [stored])
    node(receiver, "PACS", certificate=site.client.fingerprint)
    question = ("-S", "-aet", "PACS", "-aec", "INSITU", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=ONE")
    found = site.dcmtk("findscu", *question, client=site.client)
    assert (found.returncode, found.stderr.count("PatientID")) == (0, 2), found.stderr
    for refused in (
        site.dcmtk("findscu", *question, client=other),  # of the same authority
        receiver.run("findscu", "-v", "127.0.0.1", str(receiver.port), *question),  # without TLS
    ):
        assert refused.returncode != 0, refused.stderr
        assert "No Acceptable Presentation Contexts" in refused.stderr
    site.told("node pacs shows another certificate or none")
