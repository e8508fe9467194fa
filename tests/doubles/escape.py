"""Tries to get out of its enclosure and writes down what it could do, as measurements nobody asked for.

What to try comes as parameters: {"files": [...], "sockets": [...], "ports": [...], "writes": [...]}.
"""

import glob
import json
import os
import socket

import nifti

with open(os.environ["INSITU_PARAMETERS"]) as stream:
    parameters = json.load(stream)


def can(action):
    """Whether an action succeeds."""
    try:
        action()
    except OSError:
        return False
    return True


def connect(family, address):
    """Connect and close."""
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        stream.settimeout(5)
        stream.connect(address)


done = [f"list {path}" for path in parameters["files"] if can(lambda path=path: os.stat(path))]
done += [f"unix {path}" for path in parameters["sockets"] if can(lambda path=path: connect(socket.AF_UNIX, path))]
done += [
    f"port {port}"
    for port in parameters["ports"]
    if can(lambda port=port: connect(socket.AF_INET, ("127.0.0.1", port)))
]
# Opened for writing only where it exists, and never written to.
done += [
    f"write {path}" for path in parameters["writes"] if can(lambda path=path: os.close(os.open(path, os.O_WRONLY)))
]
for folder in (
    "/",
    "/package",
    "/input",
    "/input/image",
    "/usr",
    "/dev",
    "/etc",
    os.path.dirname(os.path.dirname(os.path.realpath("/proc/self/exe"))),
):
    if can(lambda folder=folder: os.close(os.open(f"{folder}/insitu-escape-trial", os.O_WRONLY | os.O_CREAT))):
        done.append(f"create in {folder}")
for path in glob.glob("/proc/[0-9]*/environ"):
    with open(path, "rb") as stream:
        if parameters["secret"].encode() in stream.read():
            done.append(f"environment {path}")
if parameters["secret"] in os.environ.values():
    done.append("own environment")
if os.getuid() == 0 or os.geteuid() == 0:
    done.append("is root")
with open("/proc/self/status") as stream:
    done += [line for line in stream.read().splitlines() if line.startswith("CapEff") and int(line.split()[1], 16)]
if can(lambda: os.kill(os.getppid() + 100_000, 0)):
    done.append("signal")

nifti.segment_and_measure()
print("could: " + json.dumps(done))
print("saw: " + json.dumps(sorted(os.listdir("/"))))
