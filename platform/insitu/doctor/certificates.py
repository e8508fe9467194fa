"""Certificates that the values name: read, good today, with their key, for the right host, with a chain that leads somewhere.

Judged as a client does it, by a handshake in memory. Not here: those that cert-manager makes.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from insitu.dicom import tls
from insitu.errors import InsituError

from .cluster import Cluster
from .finding import BAD, NOTE, OK, Finding
from .values import SiteValues

EXPIRES_SOON = timedelta(days=30)
ROUNDS = 20  # of a handshake


def check(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """Authorities first, then the certificates of web pages and DICOM port."""
    authorities = ""
    name, key = values["certificateAuthorities.configMap"], values["certificateAuthorities.key"]
    if name:
        found = cluster.get(f"/api/v1/namespaces/{values.namespace}/configmaps/{name}")
        authorities = str(((found or {}).get("data") or {}).get(key) or "")
        yield authorities_finding(
            f"certificateAuthorities: ConfigMap {name}, key {key}", found is not None, authorities
        )
    if values["ingress.enabled"] and values["ingress.tls.existingSecret"]:
        hosts = [values["ingress.host"]] if values["ingress.host"] else []
        yield from _secret(cluster, values, "ingress.tls.existingSecret", "web certificate", hosts, authorities)
    if values["receiver.tls.enabled"]:
        if values["receiver.tls.existingSecret"]:
            hosts = list(values["receiver.tls.dnsNames"])
            yield from _secret(cluster, values, "receiver.tls.existingSecret", "dicom certificate", hosts, authorities)
        name = values["receiver.tls.clientAuthoritiesSecret"]
        if name:
            found = cluster.get(f"/api/v1/namespaces/{values.namespace}/secrets/{name}")
            text = decoded((found or {}).get("data") or {}, "ca.crt")
            yield authorities_finding(
                f"receiver.tls.clientAuthoritiesSecret: Secret {name}, key ca.crt", found is not None, text
            )
        elif values["receiver.tls.clientCertificates"] == "required":
            yield Finding(
                "authorities", BAD, "receiver.tls.clientCertificates is required, and receiver.tls.clientAuthoritiesSecret is empty",
                "Name the Secret with the authorities that sign the senders' certificates, or set `optional`",
            )  # fmt: skip


def _secret(
    cluster: Cluster, values: SiteValues, value: str, check: str, hosts: Sequence[str], authorities: str
) -> Iterator[Finding]:
    name = values[value]
    found = cluster.get(f"/api/v1/namespaces/{values.namespace}/secrets/{name}")
    if found is None:
        yield Finding(
            check, BAD, f"{value} names {name}, and there is no such Secret in {values.namespace}",
            f"kubectl -n {values.namespace} create secret tls {name} --cert=CHAIN.pem --key=KEY.pem",
        )  # fmt: skip
        return
    yield from judge(check, f"{name} ({value})", found.get("data") or {}, hosts, authorities)


def decoded(data: Mapping[str, Any], key: str) -> str:
    """Text under a key of a Secret; empty where there is none. Pure."""
    return base64.b64decode(data.get(key) or "").decode(errors="replace")


def authorities_finding(what: str, there: bool, text: str) -> Finding:
    """Whether certificates of authorities can be read. Pure."""
    if not there:
        return Finding("authorities", BAD, f"{what} is not there", "Make it from a PEM file, or correct the value")
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        return Finding(
            "authorities",
            BAD,
            f"{what}: no PEM certificates can be read from it ({error})",
            "Put the authority's PEM file there",
        )
    number = text.count(ssl.PEM_HEADER)
    if not number:
        return Finding(
            "authorities", BAD, f"{what}: there is no certificate in it", "Put the authority's PEM file there"
        )
    return Finding("authorities", OK, f"{what}: {number} {'certificate' if number == 1 else 'certificates'}")


def judge(check: str, what: str, data: Mapping[str, Any], hosts: Sequence[str], authorities: str) -> Iterator[Finding]:
    """A certificate with its key, as they stand in a Secret of type kubernetes.io/tls.

    Parameters
    ----------
    check, what : str
        Name of the finding, and of the Secret.
    data : mapping
        Of the Secret, encoded in base64.
    hosts : sequence of str
        Names by which it is asked for.
    authorities : str
        PEM of the site's own authorities, trusted beside those of this machine.
    """
    certificate, key = decoded(data, "tls.crt"), decoded(data, "tls.key")
    if not certificate or not key:
        yield Finding(check, BAD, f"{what} lacks tls.crt or tls.key", "Make it anew by `kubectl create secret tls`")
        return
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "tls.crt", Path(folder) / "tls.key"
        for file, text in zip(files, (certificate, key), strict=True):
            file.touch(mode=0o600)
            file.write_text(text)
        try:
            begins, ends = tls.validity(files[0])
            server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.load_cert_chain(*files, password=lambda: "")
        except InsituError as error:
            yield Finding(check, BAD, f"{what}: {error.what}: {error.why}", "Put a PEM certificate there")
            return
        except (ssl.SSLError, ValueError) as error:
            mismatch = getattr(error, "reason", "") == "KEY_VALUES_MISMATCH"
            why = "the key belongs to another certificate" if mismatch else f"they are no usable PEM files ({error})"
            yield Finding(
                check, BAD, f"{what}: {why}", "Put the certificate, with its chain, and its own unprotected key there"
            )
            return
    now = datetime.now(UTC)
    if ends < now:
        yield Finding(check, BAD, f"{what} has expired on {ends:%Y-%m-%d}", "Get a new one, and replace the Secret")
        return
    if begins > now:
        yield Finding(
            check, BAD, f"{what} is not valid before {begins:%Y-%m-%d %H:%M} UTC", "Wait, or look at the clocks"
        )
        return
    bad = list(_identity(check, what, server, certificate, hosts, authorities + decoded(data, "ca.crt")))
    yield from bad
    if ends - now < EXPIRES_SOON:
        yield Finding(check, NOTE, f"{what} is good until {ends:%Y-%m-%d} only", "Get a new one in time")
    elif not bad:
        yield Finding(
            check, OK, f"{what} is good until {ends:%Y-%m-%d}" + (f", for {', '.join(hosts)}" if hosts else "")
        )


def _identity(
    check: str, what: str, server: ssl.SSLContext, certificate: str, hosts: Sequence[str], authorities: str
) -> Iterator[Finding]:
    """Names and chain."""
    chain = [ssl.PEM_HEADER + part for part in certificate.split(ssl.PEM_HEADER)[1:]]
    for host in hosts:
        if refused(server, chain[0], host) is not None:
            yield Finding(check, BAD, f"{what} is not for {host}", "Get one whose subject alternative names have it")
    if len(chain) > 1 and refused(server, chain[-1]) is not None:
        yield Finding(
            check, BAD, f"{what}: its {len(chain)} certificates do not lead from the first to the last",
            "Put the server's certificate first, then each authority that signed the one before",
        )  # fmt: skip
    elif refused(server, authorities, system=True) is not None:
        yield Finding(
            check, NOTE, f"{what} is signed by nobody whom this machine or certificateAuthorities trusts",
            "Where clients know the authority that signed it, nothing is wrong; where there is an authority in between, put its"
            " certificate behind the server's in tls.crt",
        )  # fmt: skip


def refused(server: ssl.SSLContext, trusted: str, host: str | None = None, *, system: bool = False) -> str | None:
    """Why a client would refuse the server that has this certificate; None where it does not.

    Parameters
    ----------
    server : ssl.SSLContext
    trusted : str
        PEM of certificates that the client trusts, authorities or not.
    host : str, optional
        What the client calls the server.
    system : bool
        Whether it also trusts this machine's authorities.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = host is not None
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if system:
        client.load_default_certs()
    if trusted:
        client.load_verify_locations(cadata=trusted)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(ROUNDS):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return str(getattr(error, "verify_message", None) or error)
        if not ends:
            return None
    return "the handshake does not end"
