"""What `helm test` tries from a pod of its own: whether the platform answers, and whether what must be shut is shut."""

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request

PATIENCE = 60.0  # seconds; the first request may come before the node's proxy knows a new pod


def status(url):
    """Status and body of a GET request."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # our own addresses
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def ready():
    """The api says what of the platform is not well."""
    code, body = status(os.environ["API"] + "/readyz")
    if code != 200:
        raise AssertionError(f"/readyz answers {code}: {body.decode(errors='replace')[:2000]}")
    parts = {name: part["state"] for name, part in json.loads(body).get("components", {}).items()}
    return f"/readyz answers 200: {parts}"


def gateway():
    """Without a token the run gateway lets nobody in."""
    code, _ = status(os.environ["GATEWAY"] + "/gateway/v1/executions/none/manifest")
    if code != 401:
        raise AssertionError(f"the run gateway answers {code} to a request without a token, not 401")
    return "the run gateway answers 401 to a request without a token"


def echo():
    """The receiver answers a C-ECHO."""
    from pynetdicom import AE

    host, _, port = os.environ["RECEIVER"].rpartition(":")
    entity = AE(ae_title="HELM_TEST")
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate(host, int(port), ae_title=os.environ["AE_TITLE"])
    if not association.is_established:
        raise AssertionError("the receiver does not take the association; is HELM_TEST among calling_ae_allowed?")
    answer = association.send_c_echo()
    association.release()
    if answer is None or answer.Status != 0:
        raise AssertionError(f"the receiver answers C-ECHO with {answer}")
    return "the receiver answers C-ECHO"


def denied():
    """A NetworkPolicy that holds lets this pod not reach the database."""
    place = os.environ.get("DENIED")
    if place is None:
        return "no NetworkPolicy to try"
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return "the database is not reached from here"
    raise AssertionError("this pod reaches the database: the cluster's network does not enforce NetworkPolicies")


def main():
    """Try everything; each failure is told."""
    failed = False
    for check in (ready, echo, gateway, denied):
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                print("ok     ", check())
                break
            except Exception as error:  # noqa: BLE001  # told, and tried again for a while
                if time.monotonic() > deadline:
                    print("FAILED ", check.__name__ + ":", error)
                    failed = True
                    break
                time.sleep(2)
    sys.exit(failed)


if __name__ == "__main__":
    main()
