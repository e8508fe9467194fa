"""A registry as `load` speaks to it, by the OCI distribution specification 1.1: with the site's logins, authorities and proxies.

Python 3.9 and its standard library, as load.py beside it. Not here: what is sent (load.py).
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import http.client
import json
import os
import re
import ssl
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

PASSWORD = "INSITU_REGISTRY_PASSWORD"  # noqa: S105 - the name of a variable
TRIES = 4
BUSY = (429, 500, 502, 503, 504)
PATIENCE = 120.0  # seconds without a sign of the registry
CUT = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)  # with TLS and without
MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json" for kind in ("oci.image.manifest.v1", "docker.distribution.manifest.v2")
)


class Trouble(Exception):
    """What went wrong, in a sentence with what to do."""


class Passing(Trouble):
    """Trouble that may be over in a moment."""


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Login(NamedTuple):
    """A name and its password."""

    name: str
    password: str

    @property
    def header(self) -> str:
        """Value of the header Authorization."""
        return "Basic " + base64.b64encode(f"{self.name}:{self.password}".encode()).decode()


class Registry:
    """A registry, spoken to by the OCI distribution specification.

    Parameters
    ----------
    host
        Name and port.
    context
        Whom TLS trusts; None: plain HTTP.
    login
        Who pushes; None: nobody in particular.
    """

    def __init__(self, host: str, context: ssl.SSLContext | None, login: Login | None) -> None:
        self.host = host
        self._context = context
        self._scheme = "https" if context else "http"
        self._login = login
        self._authorisation: dict[tuple[str, ...], str] = {}

    def greet(self) -> None:
        """Find out whether a registry answers."""
        answer = self.ask("GET", "/v2/")
        if answer.status != 200:
            raise Trouble(self._explain(answer, f"asking {self._scheme}://{self.host}/v2/"))

    def send_blob(self, repository: str, digest: str, path: Path, elsewhere: str | None) -> bool:
        """Have a blob in a repository; whether it had to be sent.

        `elsewhere` is a repository of this registry that has it already: then the registry may take it from there.
        """
        scopes = (f"repository:{repository}:pull,push", *([f"repository:{elsewhere}:pull"] if elsewhere else []))
        answer = self.ask("HEAD", f"/v2/{repository}/blobs/{digest}", scopes)
        if answer.status == 200 or 300 <= answer.status < 400:  # a registry may send readers to its object store
            return False
        what = f"sending the blob {digest} to {repository}"
        if answer.status != 404:
            raise Trouble(self._explain(answer, what))
        query = {"mount": digest, "from": elsewhere} if elsewhere else {}
        url = f"/v2/{repository}/blobs/uploads/" + ("?" + urllib.parse.urlencode(query) if query else "")
        answer = self.ask("POST", url, scopes, b"")
        if answer.status == 201:
            return False
        if answer.status != 202 or not answer.headers.get("Location"):
            raise Trouble(self._explain(answer, what))
        target = self._own(answer.headers["Location"])
        target += ("&" if "?" in target else "?") + urllib.parse.urlencode({"digest": digest})
        size = path.stat().st_size
        answer = self.ask("PUT", target, scopes, path, {"Content-Type": "application/octet-stream"}, tries=1)
        if answer.status != 201:
            said = self._explain(answer, f"{what} ({megabytes(size)})")
            raise Passing(said) if answer.status in BUSY else Trouble(said)
        return True

    def send_manifest(self, repository: str, tag: str, digest: str, content: bytes) -> str:
        """Have a manifest under its digest and a tag; the tag. A tag that stands for something else stays as it is."""
        scopes = (f"repository:{repository}:pull,push",)
        held = self._held(repository, tag, scopes)
        if held and held != digest:
            tag = f"{tag}-{digest.partition(':')[2][:12]}"
            held = self._held(repository, tag, scopes)
        if held != digest:
            kind = json.loads(content).get("mediaType", MANIFESTS.partition(",")[0])
            url = f"/v2/{repository}/manifests/{tag}"
            answer = self.ask("PUT", url, scopes, content, {"Content-Type": kind})
            if answer.status != 201:
                raise Trouble(self._explain(answer, f"sending the manifest of {repository}:{tag}"))
        if self._held(repository, digest, scopes) != digest:
            raise Trouble(
                f"{self.host} took {repository}:{tag}, but does not have it under its digest {digest}: it changes what it is given. "
                "Look for a setting that converts images, or use another registry."
            )
        return tag

    def _held(self, repository: str, reference: str, scopes: tuple[str, ...]) -> str | None:
        """The digest that the registry has under a tag or a digest; None where it has nothing."""
        url = f"/v2/{repository}/manifests/{reference}"
        answer = self.ask("GET", url, scopes, headers={"Accept": MANIFESTS})
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise Trouble(self._explain(answer, f"looking for {repository} {reference}"))
        return "sha256:" + hashlib.sha256(answer.body).hexdigest()

    def ask(
        self,
        method: str,
        url: str,
        scopes: tuple[str, ...] = (),
        body: bytes | Path | None = None,
        headers: dict[str, str] | None = None,
        tries: int = TRIES,
    ) -> Answer:
        """One request, logged in where the registry wants it, and repeated where it is busy."""
        url = urllib.parse.urljoin(f"{self._scheme}://{self.host}", url)
        ours = urllib.parse.urlsplit(url).netloc == self.host
        fresh = False
        pause = 1.0
        while True:
            tries -= 1
            sent = dict(headers or {})
            if ours and scopes in self._authorisation:
                sent["Authorization"] = self._authorisation[scopes]
            try:
                answer = self._exchange(method, url, body, sent)
            except (ConnectionError, http.client.HTTPException, TimeoutError) as error:
                if tries < 1:
                    raise Passing(self._unreached(url, error, body)) from error
            else:
                if answer.status == 401 and ours and not fresh:
                    fresh = True
                    tries += 1
                    self._authorisation[scopes] = self._authorise(answer, scopes)
                    continue
                if answer.status not in BUSY or tries < 1:
                    return answer
                if (answer.headers.get("Retry-After") or "").isdigit():
                    pause = min(60.0, float(answer.headers["Retry-After"]))
            time.sleep(pause)
            pause *= 2

    def _exchange(self, method: str, url: str, body: bytes | Path | None, headers: dict[str, str]) -> Answer:
        parts = urllib.parse.urlsplit(url)
        connection, target = self._connection(parts)
        headers = {"User-Agent": "insitu-load", **headers}
        if body is not None:
            headers["Content-Length"] = str(body.stat().st_size if isinstance(body, Path) else len(body))
        try:
            stream = body.open("rb") if isinstance(body, Path) else body
            try:
                connection.request(method, target, body=stream, headers=headers)
            except CUT:
                if body is None:
                    raise  # else the server may have said why before it stopped to listen
            finally:
                if isinstance(body, Path) and stream is not None and not isinstance(stream, bytes):
                    stream.close()
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise ConnectionResetError(str(error)) from error
        except ssl.SSLError as error:
            raise Trouble(self._untrusted(parts.netloc, error)) from error
        except ConnectionRefusedError as error:
            raise Trouble(f"nothing listens at {parts.netloc}: is that the registry's name and port?") from error
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise
            raise Trouble(f"{parts.netloc} is not reached: {error}") from error
        finally:
            connection.close()

    def _connection(self, parts: urllib.parse.SplitResult) -> tuple[http.client.HTTPConnection, str]:
        """A connection that is not open yet, by the site's proxy where HTTPS_PROXY and NO_PROXY say so, and the request's target."""
        host = parts.hostname or ""
        target = urllib.parse.urlunsplit(("", "", parts.path, parts.query, ""))
        named = urllib.request.getproxies().get(parts.scheme)
        proxy = urllib.parse.urlsplit(named) if named and not urllib.request.proxy_bypass(host) else None
        headers = {}
        if proxy and proxy.username:
            login = Login(urllib.parse.unquote(proxy.username), urllib.parse.unquote(proxy.password or ""))
            headers["Proxy-Authorization"] = login.header
        port = parts.port or (443 if parts.scheme == "https" else 80)
        at, by = (proxy.hostname or "", proxy.port or 3128) if proxy else (host, port)
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = self._context or ssl.create_default_context()
            connection = http.client.HTTPSConnection(at, by, timeout=PATIENCE, context=context)
            if proxy:
                connection.set_tunnel(host, port, headers)
            return connection, target
        connection = http.client.HTTPConnection(at, by, timeout=PATIENCE)
        return connection, urllib.parse.urlunsplit(parts) if proxy else target

    def _own(self, location: str) -> str:
        """Where an upload goes. A registry behind a proxy may not know that it is spoken to by TLS."""
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(f"{self._scheme}://{self.host}", location))
        if parts.netloc == self.host:
            parts = parts._replace(scheme=self._scheme)
        elif self._context and parts.scheme != "https":
            raise Trouble(f"{self.host} wants the images sent to {parts.netloc} without TLS, which is not done.")
        return urllib.parse.urlunsplit(parts)

    def _authorise(self, answer: Answer, scopes: tuple[str, ...]) -> str:
        """What a registry that answered 401 wants to see."""
        challenge = answer.headers.get("WWW-Authenticate") or ""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            if self._login is None:
                raise Trouble(
                    f"{self.host} wants a login: add --user, with the password in {PASSWORD} or by --password-file."
                )
            return self._login.header
        details = {key.lower(): value for key, value in re.findall(r'(\w+)="([^"]*)"', rest)}
        if scheme.lower() != "bearer" or "realm" not in details:
            raise Trouble(f"{self.host} wants a login of a kind that is not known here: {challenge[:200]!r}")
        realm = urllib.parse.urlsplit(details["realm"])
        if self._context and realm.scheme != "https":
            raise Trouble(f"{self.host} wants the password sent to {realm.netloc} without TLS, which is not done.")
        query = [*urllib.parse.parse_qsl(realm.query), ("service", details.get("service", ""))]
        query += [("scope", scope) for scope in scopes]
        url = urllib.parse.urlunsplit(realm._replace(query=urllib.parse.urlencode(query)))
        try:
            given = self._exchange("GET", url, None, {"Authorization": self._login.header} if self._login else {})
        except (ConnectionError, http.client.HTTPException, TimeoutError) as error:
            raise Trouble(f"{self.host} has logins checked by {realm.netloc}, which is not reached: {error}") from error
        if given.status != 200:
            raise Trouble(self._explain(given, f"logging in at {realm.netloc}"))
        found = json.loads(given.body)
        return "Bearer " + str(found.get("token") or found.get("access_token") or "")

    def _unreached(self, url: str, error: Exception, body: bytes | Path | None) -> str:
        where = urllib.parse.urlsplit(url).netloc
        if isinstance(body, Path):
            return (
                f"{where} ended the connection while {body.name} was sent ({megabytes(body.stat().st_size)}): {error}. If it is the same "
                "again, something before the registry limits size or time of a request (nginx: client_max_body_size)."
            )
        return f"{where} does not answer as a server of {urllib.parse.urlsplit(url).scheme.upper()} does: {error or type(error).__name__}"

    def _untrusted(self, host: str, error: ssl.SSLError) -> str:
        said = getattr(error, "verify_message", "") or error.reason or str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            if "hostname" in said.lower() or "ip address mismatch" in said.lower():
                return f"the certificate of {host} is for another name ({said}): use the name that stands in it."
            if "expired" in said:
                return f"the certificate of {host} has expired: {said}."
            return f"the certificate of {host} is signed by nobody this machine trusts ({said}): name the site's authority by --ca FILE."
        if "WRONG_VERSION_NUMBER" in str(error) or "HTTP_REQUEST" in str(error):
            return f"{host} speaks no TLS: is the port right? A registry without TLS needs --plain-http."
        return f"no TLS with {host}: {said}."

    def _explain(self, answer: Answer, what: str) -> str:
        said = self._said(answer)
        who = f"as {self._login.name}" if self._login else "without a login"
        advice = {
            400: "",
            401: f"the login {who} is refused: check name and password"
            if self._login
            else f"it wants a login: add --user, with the password in {PASSWORD} or by --password-file",
            403: f"{who} one may not push there: give that account the right to push, and make the project if the registry has projects",
            404: "there is no registry, or no such project: check the name, and make the project if the registry has projects",
            405: "it does not take images: is it a mirror that is only read?",
            413: "something before the registry limits the size of a request: raise it (nginx: client_max_body_size 0)",
            429: "it was asked too often: wait, and give the same command again",
            507: "it has no room left",
        }.get(answer.status, "it has trouble of its own: look into its log, and give the same command again")
        return f"{self.host} answered {answer.status} to {what}{': ' + advice if advice else ''}.{' It said: ' + said if said else ''}"

    @staticmethod
    def _said(answer: Answer) -> str:
        try:
            errors = json.loads(answer.body)["errors"]
            return "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors)[:400]
        except (ValueError, KeyError, TypeError, AttributeError):
            return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.body[:2000].decode("utf-8", "replace"))).strip()[
                :200
            ]


def login(host: str, user: str | None, password_file: Path | None) -> Login | None:
    """Who pushes: as told, or as `docker login` and `podman login` have noted."""
    if user:
        if password_file:
            return Login(user, password_file.read_text(encoding="utf-8").rstrip("\r\n"))
        if os.environ.get(PASSWORD):
            return Login(user, os.environ[PASSWORD])
        if sys.stdin.isatty():
            return Login(user, getpass.getpass(f"Password of {user} at {host}: "))
        raise Trouble(f"there is no password for {user}: set {PASSWORD}, or name a file by --password-file")
    candidates = [
        os.environ.get("REGISTRY_AUTH_FILE"),
        os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/nothing"), "containers/auth.json"),
        os.path.expanduser("~/.docker/config.json"),
    ]
    for candidate in candidates:
        try:
            noted = json.loads(Path(candidate or "/nothing").read_text(encoding="utf-8"))["auths"][host]["auth"]
            name, _, password = base64.b64decode(noted).decode().partition(":")
            return Login(name, password)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def megabytes(count: int) -> str:
    """A number of bytes, to be read."""
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
