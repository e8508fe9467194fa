"""TLS for DICOM: the contexts of both sides, by the BCP 195 RFC 8996, 9325 profile (PS3.15 B.12).

TLS 1.3 where the peer has it, else TLS 1.2 with ephemeral keys and authenticated encryption; nothing below.
Not here: the connection itself (the receiver, the peers, the commands).
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from insitu.errors import Invalid
from insitu.settings import Settings

# PS3.15 B.12.1 wants these of TLS 1.2; those of TLS 1.3 are all strong and chosen by OpenSSL itself.
SUITES = ":".join(
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
    )
)

EXPLICIT_VERSION, UTC_TIME = 0xA0, 0x17  # tags


def server_context(settings: Settings) -> ssl.SSLContext:
    """What the receiver's second listener speaks.

    Raises
    ------
    Invalid
        Certificate, key or authority are missing, cannot be read, or do not fit together.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        raise Invalid(
            "DICOM TLS needs a certificate and its key",
            remedy="Set tls_certificate and tls_key to PEM files, or remove dicom_tls",
        )
    context = _restricted(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_identity(context, settings.tls_certificate, settings.tls_key)
    if settings.tls_client_ca is not None:
        _load_authorities(context, settings.tls_client_ca)
    elif settings.tls_client_certificates == "required":
        raise Invalid(
            "Client certificates are required, and no authority is named that may have signed them",
            remedy="Set tls_client_ca to a PEM file, or tls_client_certificates to `optional`",
        )
    if settings.tls_client_certificates == "required":
        context.verify_mode = ssl.CERT_REQUIRED
    elif settings.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def peer_context(authorities: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """A client's context from PEM files: who may have signed the peer's certificate (None: the system's authorities), and our own.

    Raises
    ------
    Invalid
        A file cannot be used.
    """
    context = _restricted(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if authorities is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_authorities(context, authorities)
    if certificate is not None:
        _load_identity(context, certificate, key or certificate)
    return context


def validity(certificate: Path) -> tuple[datetime, datetime]:
    """From when to when the first certificate of a PEM file is good (RFC 5280 4.1.2.5).

    Raises
    ------
    Invalid
        There is none, or it cannot be read.
    """
    try:
        text = certificate.read_text()
        start, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
        encoded = ssl.PEM_cert_to_DER_cert(text[start:end])
        fields = _elements(_elements(_elements(encoded)[0][1])[0][1])
        if fields[0][0] == EXPLICIT_VERSION:
            fields = fields[1:]
        first, last = (_time(kind, value) for kind, value in _elements(fields[3][1]))
    except (OSError, ValueError, IndexError) as error:
        raise Invalid("The certificate cannot be read", value=str(certificate), why=str(error)) from error
    return first, last


def _elements(encoded: bytes) -> list[tuple[int, bytes]]:
    """The elements of a DER encoding, as tag and content (X.690 8.1)."""
    found = []
    position = 0
    while position < len(encoded):
        tag, length = encoded[position], encoded[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(encoded[position : position + size], "big")
            position += size
        found.append((tag, encoded[position : position + length]))
        position += length
    return found


def _time(kind: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if kind == UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _restricted(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _load_identity(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_password() -> str:  # OpenSSL would ask on the terminal
        raise ValueError("the key is protected by a password")

    for file in (certificate, key):
        _readable(file)
    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        why = (
            "the key belongs to another certificate"
            if reason == "KEY_VALUES_MISMATCH"
            else f"they are not usable PEM files ({reason})"
        )
        raise Invalid(
            "Certificate and key for TLS cannot be used", value=f"{certificate}, {key}", why=why,
            remedy="Give the certificate with its chain and its unprotected key, both as PEM",
        ) from error  # fmt: skip


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    _readable(file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise Invalid(
            "The authorities for TLS cannot be used", value=str(file), why=error.reason or str(error),
            remedy="Give the certificates of the authorities as PEM",
        ) from error  # fmt: skip


def _readable(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise Invalid(
            "A file for TLS cannot be read",
            value=str(file),
            why=error.strerror,
            remedy="Correct the path, or its rights",
        ) from error
