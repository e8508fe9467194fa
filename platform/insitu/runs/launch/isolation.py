"""Isolation of an algorithm: what it sees (an Enclosure), and how this machine can enforce that, tried for real.

    bubblewrap   the program `bwrap`: user, mount, PID, network, IPC and UTS name spaces
    namespaces   the same name spaces made by a small program of our own (namespaces.py)
    none         neither works here; only trusted packages run

Inside, the algorithm is the user 65534 without capabilities, sees the system's programs, its package, environment and
input read-only, and its own output and scratch folders. Not here: limits of time and memory (runner).
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["bubblewrap", "namespaces", "none"]
USER = 65534
SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
# Of /proc: settings of the whole machine, which root's user may write even without any capability. Bubblewrap covers
# only those whose folder it finds writable, which /proc/sys is not, though files in it are.
MACHINE_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi", "driver", "mtrr")
TRIAL_SECONDS = 20.0
FIXED_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class IsolationReport:
    """How algorithms are isolated on this machine, and why not better."""

    kind: Kind
    works: bool
    why: str


@dataclass(frozen=True)
class Enclosure:
    """Everything a process shall see, beside the system's own programs and libraries.

    Paths are (outside, inside). Without isolation the same command runs with the paths outside.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    working_folder: str
    read_only: tuple[tuple[Path, str], ...] = ()
    writable: tuple[tuple[Path, str], ...] = ()
    links: tuple[tuple[str, str], ...] = field(default=())  # (target, path of the link)


def system_view() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Read-only paths and links that give a process the programs and libraries of the system: (binds, links)."""
    binds: list[tuple[str, str]] = []
    links: list[tuple[str, str]] = []
    for name in SYSTEM_FOLDERS:
        if os.path.islink(name):
            links.append((os.readlink(name), name))
        elif os.path.isdir(name):
            binds.append((name, name))
    binds += [(os.path.realpath(name), name) for name in SYSTEM_FILES if os.path.exists(name)]
    return binds, links


def under_system(path: Path) -> bool:
    """Whether a path is seen by every algorithm anyway, because it is below a folder of the system."""
    return any(path.is_relative_to(name) for name in SYSTEM_FOLDERS)


def python_view(environment: Path) -> tuple[list[tuple[Path, str]], list[tuple[str, str]]]:
    """What must be seen for the Python of a virtual environment to start: (read-only paths, links).

    Its `python` is a link, often over further links, to the Python it was made from; that one's own folder is needed too.
    """
    binds = [(environment, str(environment))]
    links: list[tuple[str, str]] = []
    seen = {environment}
    link = environment / "bin" / "python"
    for _ in range(16):
        if not link.is_symlink():
            break
        target = Path(os.path.normpath(link.parent / os.readlink(link)))
        inside = any(link.is_relative_to(folder) for folder in seen) or under_system(link)
        if not inside:
            links.append((os.readlink(link), str(link)))
        link = target
    installation = link.parent.parent
    resolved = link.resolve()
    for folder in (installation, resolved.parent.parent):
        if not under_system(folder) and not any(folder.is_relative_to(known) for known in seen):
            binds.append((folder.resolve(), str(folder)))
            seen.add(folder)
    shown = [item for item in links if not any(Path(item[1]).is_relative_to(folder) for folder in seen)]
    return binds, shown


@functools.cache
def bubblewrap() -> tuple[str, bool]:
    """The program, and whether it can forbid further user name spaces, through which more of the kernel could be reached."""
    program = shutil.which("bwrap", path=FIXED_PATH + ":" + os.environ.get("PATH", "")) or "bwrap"
    told = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    return program, "--disable-userns" in told.stdout + told.stderr


def bubblewrap_command(enclosure: Enclosure) -> list[str]:
    """Command line that runs an enclosure by bubblewrap."""
    program, forbids = bubblewrap()
    binds, links = system_view()
    line = [
        program,
        "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--uid", str(USER), "--gid", str(USER), "--hostname", "algorithm",
        "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv",
        *(["--disable-userns"] if forbids else []),
    ]  # fmt: skip
    for outside, inside in binds:
        line += ["--ro-bind", outside, inside]
    for target, path in (*links, *enclosure.links):
        line += ["--symlink", target, path]
    line += ["--proc", "/proc", "--dev", "/dev"]
    for name in MACHINE_SETTINGS:
        if os.path.exists(f"/proc/{name}"):
            line += ["--ro-bind", f"/proc/{name}", f"/proc/{name}"]
    # The writable ones first: an environment may lie below /tmp, which is one of them.
    for writable, inside in enclosure.writable:
        line += ["--bind", str(writable), inside]
    for read_only, inside in enclosure.read_only:
        line += ["--ro-bind", str(read_only), inside]
    # The folders bubblewrap makes are held in memory: without this, an algorithm could fill memory through them.
    line += ["--remount-ro", "/dev", "--remount-ro", "/"]
    for name, value in enclosure.environment.items():
        line += ["--setenv", name, value]
    return [*line, "--chdir", enclosure.working_folder, "--", *enclosure.command]


def namespaces_command(enclosure: Enclosure) -> list[str]:
    """Command line that runs an enclosure by our own program; it needs only this Python's standard library."""
    binds, links = system_view()
    plan = {
        "user": USER,
        "system": binds,
        "read_only": [(str(outside), inside) for outside, inside in enclosure.read_only],
        "writable": [(str(outside), inside) for outside, inside in enclosure.writable],
        "links": [*links, *enclosure.links],
        "covered": MACHINE_SETTINGS,
        "environment": enclosure.environment,
        "working_folder": enclosure.working_folder,
        "command": list(enclosure.command),
    }
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("namespaces.py")), json.dumps(plan)]


def command(kind: Kind, enclosure: Enclosure) -> list[str]:
    """Command line that runs an enclosure in this way; with `none` the bare command."""
    if kind == "bubblewrap":
        return bubblewrap_command(enclosure)
    if kind == "namespaces":
        return namespaces_command(enclosure)
    return list(enclosure.command)


_TRIAL = """
import os, socket, sys
canary, port, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if os.path.exists(canary):
    sys.exit("a file outside can be seen")
try:
    socket.create_connection(("127.0.0.1", port), 2).close()
except OSError:
    pass
else:
    sys.exit("a port of this machine can be reached")
if os.getuid() != int(sys.argv[4]) or len([name for name in os.listdir("/proc") if name.isdigit()]) > 3:
    sys.exit("processes outside can be seen")
open(os.path.join(output, "written"), "w").close()
"""


def attempt(kind: Kind) -> str | None:
    """Run a small program isolated in this way; None if it could do only what it should, else why not."""
    folder = Path(tempfile.mkdtemp(prefix="insitu-trial-"))
    try:
        output = folder / "output"
        output.mkdir()
        (folder / "canary").touch()
        binds, links = python_view(Path(sys.prefix))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            enclosure = Enclosure(
                command=(
                    str(Path(sys.prefix) / "bin" / "python"), "-I", "-S", "-c", _TRIAL,
                    str(folder / "canary"), str(listener.getsockname()[1]), "/output", str(USER),
                ),
                environment={"PATH": FIXED_PATH},
                working_folder="/output",
                read_only=tuple(binds),
                writable=((output, "/output"),),
                links=tuple(links),
            )  # fmt: skip
            done = subprocess.run(
                command(kind, enclosure),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TRIAL_SECONDS,
            )
        if done.returncode == 0 and (output / "written").exists():
            return None
        return done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else f"it ended with {done.returncode}"
    except FileNotFoundError as error:
        return f"{Path(error.filename or '').name or 'it'} is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"[:200]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def probe() -> IsolationReport:
    """How this machine can isolate algorithms: the best way whose trial succeeded. Tried once per process."""
    failed: list[str] = []
    for kind in _choices():
        why = attempt(kind)
        if why is None:
            return IsolationReport(kind, True, "; ".join(failed) or f"A trial in {kind} saw nothing but its own files")
        failed.append(f"{kind}: {why}")
    return IsolationReport("none", False, "; ".join(failed))


def _choices() -> tuple[Kind, ...]:
    # Tests of the behaviour on other machines choose here; a value can only take ways away.
    allowed = os.environ.get("INSITU_TEST_ISOLATION")
    every: tuple[Kind, ...] = ("bubblewrap", "namespaces")
    return every if allowed is None else tuple(kind for kind in every if kind in allowed.split(","))
