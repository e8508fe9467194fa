"""A small program that runs a command in name spaces of its own, for machines without bubblewrap. Linux only.

Called as `python -I -S namespaces.py PLAN`, PLAN being JSON (see isolation.namespaces_command). It leaves the caller's
user, mount, PID, network, IPC and UTS name spaces, builds a root of what the plan names, gives up every capability and
becomes the command. Standard library only. Not here: what a plan contains (isolation).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import tempfile
from typing import Any

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
MNT_DETACH = 2
TIME_FLAGS = {os.ST_NOATIME: 1024, os.ST_NODIRATIME: 2048, os.ST_RELATIME: 1 << 21}  # of statvfs: of mount
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
CAPABILITY_VERSION_3 = 0x20080522
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
DEVICES = ("null", "zero", "full", "random", "urandom")
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise OSError naming `what` for the result -1 of a system call."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    check(libc.mount(*arguments, ctypes.c_ulong(flags), None if data is None else data.encode()), f"mount {target}")


def make_place(outside: str, place: str) -> None:
    """An empty folder or file to mount `outside` on, unless something is there already."""
    if os.path.exists(place):
        return
    if os.path.isdir(outside):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "a"):
            pass


def bind(outside: str, place: str, *, read_only: bool, devices: bool = False) -> None:
    """Show `outside` at `place`, with what is mounted below it."""
    make_place(outside, place)
    mount(outside, place, None, MS_BIND | MS_REC)
    # Flags that the outer mount name space locked must be repeated, or the remount is refused.
    given = os.statvfs(place).f_flag
    flags = given & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    for told, flag in TIME_FLAGS.items():
        flags |= flag if given & told else 0
    flags |= MS_NOSUID | (0 if devices else MS_NODEV) | (MS_RDONLY if read_only else 0)
    mount(None, place, None, MS_REMOUNT | MS_BIND | flags)


def enter_name_spaces(user: int) -> None:
    """Leave the caller's name spaces; inside, be `user` (outside the same user as before)."""
    outer_user, outer_group = os.geteuid(), os.getegid()
    check(
        libc.unshare(
            CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
        ),
        "unshare",
    )
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {outer_user} 1"),
        ("gid_map", f"{user} {outer_group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as stream:
            stream.write(text)


def loopback_up() -> None:
    """Switch on the loopback device of the new network name space, which only this command's processes share."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        flags = struct.unpack("16sH14s", fcntl.ioctl(stream, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(stream, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", flags | IFF_UP, b""))


def build_root(plan: dict[str, Any]) -> None:
    """Make a root of what the plan names, and nothing else, and move into it."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    root = tempfile.gettempdir()
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    os.chdir(root)
    os.makedirs("old")
    os.makedirs("new")
    mount("tmpfs", "new", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    check(libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], b".", b"old"), "pivot_root")
    os.chdir("/")
    for outside, inside in plan["system"]:
        bind(f"/old{outside}", f"/new{inside}", read_only=True)
    for target, path in plan["links"]:
        os.makedirs(os.path.dirname(f"/new{path}"), exist_ok=True)
        os.symlink(target, f"/new{path}")
    os.makedirs("/new/dev/shm", exist_ok=True)
    for name in DEVICES:
        bind(f"/old/dev/{name}", f"/new/dev/{name}", read_only=False, devices=True)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"/new/dev/{name}")
    os.makedirs("/new/proc")
    mount("proc", "/new/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    with contextlib.suppress(OSError):  # no further user name spaces, through which more of the kernel could be reached
        with open("/new/proc/sys/user/max_user_namespaces", "w") as stream:
            stream.write("0")
    for name in plan["covered"]:  # settings of the whole machine
        if os.path.exists(f"/new/proc/{name}"):
            bind(f"/new/proc/{name}", f"/new/proc/{name}", read_only=True)
    for outside, inside in plan["writable"]:
        bind(f"/old{outside}", f"/new{inside}", read_only=False)
    for outside, inside in plan["read_only"]:  # after the writable ones: an environment may lie below /tmp
        bind(f"/old{outside}", f"/new{inside}", read_only=True)
    mount(None, "/new", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    check(libc.umount2(b"/old", MNT_DETACH), "umount of the old root")
    os.chdir("/new")
    check(libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount of the first root")
    os.chdir("/")


def give_up_capabilities() -> None:
    """No capability now or after any exec."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    header, none = struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24)
    check(libc.capset(header, none), "capset")


def status_code(status: int) -> int:
    """The exit code a shell would tell for a wait status."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def first_process(plan: dict[str, Any]) -> int:
    """PID 1 inside: start the command, reap every orphan, end with the command's status (which ends all the others)."""
    command = os.fork()
    if command == 0:
        os.setsid()
        give_up_capabilities()
        os.chdir(plan["working_folder"])
        os.execvpe(plan["command"][0], plan["command"], plan["environment"])  # noqa: S606
    give_up_capabilities()
    while True:
        ended, status = os.wait()
        if ended == command:
            return status_code(status)


def main() -> int:
    """Run the plan of the command line."""
    plan = json.loads(sys.argv[1])
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    enter_name_spaces(plan["user"])
    child = os.fork()
    if child == 0:
        try:
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            socket.sethostname("algorithm")
            loopback_up()
            build_root(plan)
            os._exit(first_process(plan))
        except OSError as error:
            os.write(2, f"namespaces: {error}\n".encode())
            os._exit(126)
    _, status = os.waitpid(child, 0)
    return status_code(status)


if __name__ == "__main__":
    sys.exit(main())
