"""A TLS connection that a peer opens to the receiver: its handshake, and a socket that two threads may use at once.

Not here: protocol versions and suites (insitu_services.dicom_tls), what is said through it (association).
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
from pathlib import Path

from insitu.errors import InsituError
from insitu.settings import Settings
from insitu_services.dicom_tls import server_context

logger = logging.getLogger("insitu.receiver")

LOOK_EVERY = 1.0  # seconds between two looks at the files


class Identity:
    """The server's context, made anew when its files change. Open connections keep the one they began with.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._seen = self._state()
        self._context = server_context(settings)
        self._looked = time.monotonic()

    def context(self) -> ssl.SSLContext:
        """The context for the next handshake."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_EVERY:
                self._looked = time.monotonic()
                state = self._state()
                if state != self._seen:
                    self._seen = state
                    try:
                        self._context = server_context(self._settings)
                        logger.info("the TLS certificates were read again")
                    except InsituError as error:  # half of them is there: the earlier ones still work
                        logger.error("the TLS certificates have changed and cannot be used: %s", error)
            return self._context

    def _state(self) -> list[tuple[int, int, int] | None]:
        settings = self._settings
        files = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        return [_stat(file) for file in files if file is not None]


def _stat(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class SecureSocket:
    """A TLS socket with the methods of a plain one that the receiver uses.

    One thread may receive while another sends: OpenSSL's object is held only while bytes are at hand, never while waiting.

    Parameters
    ----------
    connection : socket
        Accepted.
    context : ssl.SSLContext
        Of the server.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._lock = threading.Lock()
        self._timeout: float | None = None
        connection.setblocking(False)
        self._tls = context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )

    def handshake(self, seconds: float) -> None:
        """Agree on keys within some seconds.

        Raises
        ------
        TimeoutError
            The peer did not go on in time.
        OSError
            It failed; an ssl.SSLError says why.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                with self._lock:
                    self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate, DER, where it showed one."""
        return self._tls.getpeercert(binary_form=True)

    def recv_into(self, buffer: memoryview | bytearray) -> int:
        """Wait for bytes and put them into `buffer`; 0 at the end."""
        deadline = self._deadline()
        while True:
            try:
                with self._lock:
                    return self._tls.recv_into(buffer)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)

    def recv(self, size: int) -> bytes:
        """Wait for at most `size` bytes; none at the end."""
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(buffer)])

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""
        left = memoryview(data)
        deadline = self._deadline()
        while left:
            try:
                with self._lock:
                    sent = self._tls.send(left)
                left = left[sent:]
                deadline = self._deadline()
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)

    def send(self, data: bytes, flags: int = 0) -> int:
        """Send what can be sent without waiting, whatever the flags.

        Raises
        ------
        OSError
            Nothing can be sent just now, or the connection is gone.
        """
        with self._lock:
            return self._tls.send(data)

    def settimeout(self, seconds: float | None) -> None:
        """Longest wait of one call."""
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        """Longest wait of one call."""
        return self._timeout

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Set an option of the connection below."""
        self._tls.setsockopt(level, option, value)

    def fileno(self) -> int:
        """Descriptor of the connection below."""
        return self._tls.fileno()

    def pending(self) -> int:
        """Bytes that are decrypted already."""
        with self._lock:
            return self._tls.pending()

    def shutdown(self, how: int) -> None:
        """Say the end (a close_notify), or break the connection off."""
        if how == socket.SHUT_RDWR:
            socket.socket.shutdown(self._tls, how)
            return
        try:
            with self._lock:
                self._tls.unwrap()
        except ssl.SSLWantReadError:
            return  # ours is sent; the peer's is read by those who wait for its end

    def close(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            self._tls.close()

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _wait(self, event: int, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(self._tls, event)
        left = None if deadline is None else deadline - time.monotonic()
        if (left is not None and left <= 0) or not poll.poll(None if left is None else left * 1000):
            raise TimeoutError


class Handshake:
    """A connection whose handshake goes on; stands among the open associations, so that it ends with them.

    Parameters
    ----------
    connection : socket
    peer : str
        Address.
    identity : Identity
    """

    def __init__(self, connection: socket.socket, peer: str, identity: Identity) -> None:
        self._connection = connection
        self._peer = peer
        self._identity = identity

    def run(self, seconds: float) -> SecureSocket | None:
        """The connection where all went well; else None, the connection closed and a line in the log."""
        secure: SecureSocket | None = None
        try:
            secure = SecureSocket(self._connection, self._identity.context())
            self._connection = secure._tls
            secure.handshake(seconds)
            return secure
        except TimeoutError:
            reason = f"not finished within {seconds:.0f} s"
        except ssl.SSLCertVerificationError as error:
            reason = f"the peer's certificate is refused: {error.verify_message}"
        except ssl.SSLError as error:
            reason = (error.reason or str(error)).replace("_", " ").lower()
        except OSError as error:
            reason = error.strerror or "the peer closed the connection"
        logger.warning("a TLS handshake failed: %s", reason, extra={"fields": {"peer": self._peer}})
        if secure is not None:
            secure.close()
        self._connection.close()
        return None

    def renew(self) -> None:
        """Nothing is leased yet."""

    def end(self) -> None:
        """Break it off; called from another thread."""
        try:
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
        except OSError:
            return  # it has ended by itself meanwhile
