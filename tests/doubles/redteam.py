"""Tries to break out of its pod, by every way that it knows, and tells in its log how each attempt ended. Then it does what it should.

Parameters:

    hosts      name: "host:port", connections to try
    questions  name: "host:port", datagrams to send, a DNS query each
    servers    name: URL, whose pages to ask for without credentials; done is an answer that is no refusal
    routes     name: [method, URL, header backwards or null], requests to the gateway; done is an answer below 400
    needles    words that must be nowhere in sight, written backwards, so that the parameters themselves do not hold them
    links      file in the output folder: what it points to, left there for publish; "fifo", "folder" and "device" are no links

Each line of the log that begins with ATTEMPT holds {"name", "done", "how"}. An attempt that succeeds changes nothing outside this pod:
what could be written is opened and closed. Run as root in a privileged pod outside every policy, the same attempts succeed; tests
compare the two.
"""

import contextlib
import ctypes
import gzip
import json
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
import urllib.error
import urllib.request

import nifti

SECONDS = 4.0
OURS = ("/output", "/scratch", "/tmp", "/dev/shm")
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWUTS = 0x20000, 0x10000000, 0x40000000, 0x04000000
MS_REMOUNT, MS_BIND = 32, 4096
CALLS = {"bpf": 321, "perf_event_open": 298, "open_by_handle_at": 304, "init_module": 175}  # numbers of x86-64
QUESTION = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01"

with open(os.environ["INSITU_PARAMETERS"]) as stream:
    parameters = json.load(stream)
needles = [word[::-1] for word in parameters.get("needles", [])]
libc = ctypes.CDLL(None, use_errno=True)
lock = threading.Lock()


class Refused(Exception):
    """It did not work."""


def tell(name, done, how):
    """Write one outcome."""
    with lock:
        print("ATTEMPT " + json.dumps({"name": name, "done": done, "how": str(how)[:300]}), flush=True)


def attempt(name, action):
    """Try and tell."""
    try:
        tell(name, True, action())
    except Exception as error:  # noqa: BLE001  # it is the outcome
        tell(name, False, f"{type(error).__name__}: {error}")


def apart(name, action):
    """Try in a child, because a success would change what the next attempts find."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            outcome = {"done": True, "how": str(action())}
        except BaseException as error:  # noqa: BLE001  # it is the outcome
            outcome = {"done": False, "how": f"{type(error).__name__}: {error}"}
        os.write(writing, json.dumps(outcome).encode()[:4000])
        os._exit(0)
    os.close(writing)
    content = b""
    while chunk := os.read(reading, 4096):
        content += chunk
    os.close(reading)
    os.waitpid(child, 0)
    outcome = json.loads(content) if content else {"done": False, "how": "its process was killed"}
    tell(name, outcome["done"], outcome["how"])


def checked(answer):
    """The answer of a call of the C library; an error is raised."""
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


# The network


def connect(target):
    """A connection."""
    host, _, port = target.rpartition(":")
    socket.create_connection((host, int(port)), timeout=SECONDS).close()
    return "connected"


def ask(target):
    """A datagram and its answer."""
    host, _, port = target.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(SECONDS)
        asking.sendto(QUESTION, (host, int(port)))
        return f"{len(asking.recv(4096))} bytes"


def request(method, url, headers):
    """Status of an answer, whoever signed the server's certificate."""
    trusting = ssl._create_unverified_context()  # noqa: S323  # nothing is told to it
    body = b"" if method == "POST" else None
    asked = urllib.request.Request(url, body, headers, method=method)  # noqa: S310  # addresses of the test
    try:
        with urllib.request.urlopen(asked, timeout=SECONDS, context=trusting) as answer:  # noqa: S310
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def page(url):
    """A page of a server that must know who asks."""
    status = request("GET", url, {})
    if status >= 400:
        raise Refused(f"status {status}")
    return f"status {status}"


def route(method, url, header):
    """A request to the gateway."""
    status = request(method, url, {} if header is None else {"Authorization": header[::-1]})
    if status >= 400:
        raise Refused(f"status {status}")
    return f"status {status}"


def network():
    """All at once: who is kept away hears nothing and waits."""
    tries = [(f"connect {name}", connect, (target,)) for name, target in parameters.get("hosts", {}).items()]
    tries += [(f"ask {name}", ask, (target,)) for name, target in parameters.get("questions", {}).items()]
    tries += [(f"page {name}", page, (url,)) for name, url in parameters.get("servers", {}).items()]
    tries += [(f"route {name}", route, tuple(asked)) for name, asked in parameters.get("routes", {}).items()]
    tries.append(("name", socket.getaddrinfo, ("kubernetes.default.svc.cluster.local", 443)))
    threads = [
        threading.Thread(target=attempt, args=(name, lambda action=action, given=given: action(*given)))
        for name, action, given in tries
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    attempt("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close())
    attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())


# Rights


def status_field(name):
    """A line of /proc/self/status."""
    with open("/proc/self/status") as stream:
        return next(line.split()[1] for line in stream if line.startswith(f"{name}:"))


def capabilities():
    """Those of this process, or that it could get."""
    held = {name: int(status_field(name), 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    if not any(held.values()):
        raise Refused("none")
    return held


def new_privileges():
    """Whether a program with the set-user-ID bit would be given its owner's rights."""
    if status_field("NoNewPrivs") == "1":
        raise Refused("no_new_privs is set")
    return "no_new_privs is not set"


def unconfined():
    """Whether system calls are not filtered."""
    if status_field("Seccomp") != "0":
        raise Refused("they are filtered")
    return "they are not filtered"


def root_program():
    """A program with the set-user-ID bit."""
    found = []
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys")]
        for name in names:
            with contextlib.suppress(OSError):
                if os.lstat(os.path.join(folder, name)).st_mode & (stat.S_ISUID | stat.S_ISGID):
                    found.append(os.path.join(folder, name))
    if not found:
        raise Refused("there is none")
    return found[:5]


def as_root(*line):
    """A program that makes its caller root; it is asked who it is."""
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    if done.stdout.strip() != "0":
        raise Refused(f"{done.returncode} {done.stdout} {done.stderr}")
    return "root"


def mount(source, target, kind, flags):
    """Mount something."""
    os.makedirs("/scratch/place", exist_ok=True)
    words = (None if word is None else word.encode() for word in (source, target, kind))
    return checked(libc.mount(*words, flags, None))


def device(kind, numbers):
    """A device of the machine, made and opened."""
    path = f"/scratch/device-{kind}"
    os.mknod(path, 0o600 | kind, os.makedev(*numbers))
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    return "opened"


def enter(kind):
    """A name space of the first process."""
    with open(f"/proc/1/ns/{kind}") as stream:
        return checked(libc.setns(stream.fileno(), 0))


def call(number):
    """A system call with senseless arguments: whoever may use it is told that they are."""
    if os.uname().machine != "x86_64":
        raise Refused("another kind of machine")
    try:
        return checked(libc.syscall(number, -1, None, 0, 0, 0))
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == 38:  # ENOSYS
            raise
        return f"let through: {error}"


def spared():
    """Let somebody else be killed for want of memory."""
    with open("/proc/self/oom_score_adj", "w") as stream:
        stream.write("-1000")
    return "written"


def rights():
    """What only root may do."""
    if os.getuid() == 0 or os.geteuid() == 0 or os.getgid() == 0 or 0 in os.getgroups():
        tell("is root", True, f"{os.getuid()} {os.getgid()} {os.getgroups()}")
    else:
        tell("is root", False, f"{os.getuid()} {os.getgid()} {os.getgroups()}")
    attempt("capabilities", capabilities)
    attempt("new privileges", new_privileges)
    attempt("system calls", unconfined)
    attempt("set-user-ID programs", root_program)
    apart("setuid", lambda: os.setresuid(0, 0, 0))
    apart("setgid", lambda: os.setresgid(0, 0, 0))
    apart("setgroups", lambda: os.setgroups([0]))
    attempt("sudo", lambda: as_root("sudo", "-n", "id", "-u"))
    attempt("su", lambda: as_root("su", "-s", "/bin/sh", "-c", "id -u", "root"))
    for kind, flag in (("user", CLONE_NEWUSER), ("mnt", CLONE_NEWNS), ("net", CLONE_NEWNET), ("uts", CLONE_NEWUTS)):
        apart(f"unshare {kind}", lambda flag=flag: checked(libc.unshare(flag)))
    for kind in ("net", "mnt", "pid"):
        apart(f"setns {kind}", lambda kind=kind: enter(kind))
    apart("mount tmpfs", lambda: mount("none", "/scratch/place", "tmpfs", 0))
    apart("mount proc", lambda: mount("none", "/scratch/place", "proc", 0))
    apart("mount bind", lambda: mount("/etc", "/scratch/place", None, MS_BIND))
    apart("remount root", lambda: mount(None, "/", None, MS_REMOUNT | MS_BIND))
    apart("remount input", lambda: mount(None, "/input", None, MS_REMOUNT | MS_BIND))
    apart("chroot", lambda: os.chroot("/"))
    apart("host name", lambda: checked(libc.sethostname(b"mine", 4)))
    apart("memory device", lambda: device(stat.S_IFCHR, (1, 11)))
    apart("disk device", lambda: os.mknod("/scratch/disk", 0o600 | stat.S_IFBLK, os.makedev(259, 999)))
    apart("oom score", spared)
    for name, number in CALLS.items():
        apart(f"call {name}", lambda number=number: call(number))


# Files


def mounts():
    """Mount points other than those of the kernel's own file systems."""
    with open("/proc/self/mountinfo") as stream:
        for line in stream:
            fields = line.split()
            place, kind = fields[4].encode().decode("unicode_escape"), fields[fields.index("-") + 1]
            if place != "/" and kind not in ("proc", "sysfs", "cgroup", "cgroup2", "devpts"):
                yield place


def write(path):
    """Open for writing, or make a file in a folder; nothing is written."""
    if stat.S_ISCHR(os.stat(path).st_mode):
        raise Refused("it is a device that forgets everything")  # put in the place of what is to be hidden
    if not os.path.isdir(path):
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        return "opened"
    made = os.path.join(path, "insitu-escape-trial")
    os.close(os.open(made, os.O_WRONLY | os.O_CREAT, 0o600))
    os.unlink(made)
    return "made"


def again():
    """Write an input by a descriptor that was opened for reading."""
    descriptor = os.open("/input/image/image.nii.gz", os.O_RDONLY)
    try:
        os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY))
    finally:
        os.close(descriptor)
    return "opened"


def linked():
    """A second name of an input, in a folder that can be written."""
    os.link("/input/image/image.nii.gz", "/output/second.nii.gz")
    return "linked"


def renamed():
    """An input under another name, and back."""
    os.rename("/input/image/image.json", "/input/image/other.json")
    os.rename("/input/image/other.json", "/input/image/image.json")
    return "renamed"


def hidden_folders():
    """Folders that others see."""
    found = [
        path for path in ("/step", "/package", "/run/insitu", "/parameters", "/step/source") if os.path.exists(path)
    ]
    if not found:
        raise Refused("there is none")
    return found


def in_sight():
    """A needle in any file that this pod was given, in the environment, or in another process."""
    found = []
    for place in (
        *mounts(),
        *(f"/proc/{name}/{what}" for name in os.listdir("/proc") if name.isdigit() for what in ("environ", "cmdline")),
    ):
        files = (
            [place]
            if not os.path.isdir(place)
            else [os.path.join(f, name) for f, _, names in os.walk(place) for name in names]
        )
        for path in files:
            try:
                if not (stat.S_ISREG(os.lstat(path).st_mode)):
                    continue
                with open(path, "rb") as stream:
                    content = stream.read(64 << 20)
            except OSError:
                continue
            found += [f"{needle[:4]}... in {path}" for needle in needles if needle.encode() in content]
    found += [
        f"{needle[:4]}... in {name}" for needle in needles for name, value in os.environ.items() if needle in value
    ]
    if not found:
        raise Refused(f"none of {len(needles)}")
    return found


def environment():
    """A variable that looks like a secret or an address of ours."""
    telling = re.compile(r"TOKEN|PASSWORD|SECRET|KEY|GATEWAY|EXECUTION|DATABASE|AIRFLOW")
    found = [name for name in os.environ if telling.search(name)]
    if not found:
        raise Refused(" ".join(sorted(os.environ)))
    return found


def account():
    """The token of a service account."""
    with open("/var/run/secrets/kubernetes.io/serviceaccount/token") as stream:
        return f"{len(stream.read())} characters"


def others():
    """Processes that are not this one or its children."""
    foreign = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (os.getpid(), 1):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stream:
                if int(stream.read().rpartition(")")[2].split()[1]) != os.getpid():
                    foreign.append(name)
    if not foreign and os.getpid() == 1:
        raise Refused("this is the first process, and there is no other")
    return f"this is {os.getpid()}, there are {foreign}"


def files():
    """What can be read and written that should not."""
    places = [
        "/",
        "/etc",
        "/etc/passwd",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/usr",
        "/usr/bin",
        "/bin",
        "/var",
        "/run",
        "/home",
        "/root",
        "/opt",
        "/dev",
        "/sys",
        "/package",
        "/step",
        "/input",
        "/input/image",
        "/input/image/image.json",
        "/input/image/image.nii.gz",
        "/parameters.json",
        os.path.dirname(os.path.realpath("/proc/self/exe")),
        os.path.dirname(os.__file__),
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/sys/net/ipv4/ip_forward",
    ]
    places += [place for place in mounts() if place not in OURS]
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory"):
        for name in ("memory.max", "memory.limit_in_bytes", "cgroup.procs", "pids.max"):
            if os.path.exists(f"{root}/{name}"):
                places.append(f"{root}/{name}")
    for place in dict.fromkeys(places):
        attempt(f"write {place}", lambda place=place: write(place))
    for place in OURS:
        attempt(f"own {place}", lambda place=place: write(place))
    attempt("write by a descriptor", again)
    attempt("link an input", linked)
    attempt("rename an input", renamed)
    attempt("change an input's mode", lambda: os.chmod("/input/image/image.nii.gz", 0o666))  # noqa: S103
    attempt("remove an input", lambda: os.unlink("/input/image/image.json"))
    attempt("hidden folders", hidden_folders)
    attempt("needles", in_sight)
    attempt("environment", environment)
    attempt("service account", account)
    attempt("other processes", others)


def leave(links):
    """Put something else in place of an output."""
    for name, target in links.items():
        path = os.path.join(nifti.OUTPUT, name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        if target == "fifo":
            os.mkfifo(path)
        elif target == "folder":
            os.mkdir(path)
        elif target == "socket":
            socket.socket(socket.AF_UNIX).bind(path)
        else:
            os.symlink(target, path)


def carry_out():
    """Everything, then the work."""
    began = time.monotonic()
    os.umask(0)
    rights()
    files()
    network()
    shutil.rmtree("/scratch/place", ignore_errors=True)
    with contextlib.suppress(gzip.BadGzipFile):  # of the control
        nifti.segment_and_measure()
    apart("unmount input", lambda: checked(libc.umount2(b"/input", 2)))
    leave(parameters.get("links", {}))
    print(f"tried everything in {time.monotonic() - began:.1f} s")


carry_out()
