"""A home that cannot be used is refused in one sentence that says what to do."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from insitu.errors import Conflict, Invalid
from insitu.settings import Settings, load
from insitu_services.supervisor import home


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Settings of a home that PostgreSQL's user could reach."""
    with tempfile.TemporaryDirectory(prefix="insitu-home-") as folder:
        Path(folder).chmod(0o755)
        yield load(Path(folder) / "home")


def sentence(error: Exception) -> str:
    """The message, which must be one paragraph without a trace of Python."""
    text = str(error)
    assert "\n" not in text
    assert "Errno" not in text
    return text


def test_home_below_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid) as caught:
        home.make(load(tmp_path / "file" / "home"))
    assert str(tmp_path / "file") in sentence(caught.value)
    assert "--home DIR" in sentence(caught.value)


@pytest.mark.parametrize("program", ["up", "doctor"])
def test_read_only_home_is_one_sentence_on_the_command_line(program: str) -> None:
    # /proc takes no new folder from anybody, not even from root.
    done = subprocess.run(
        [sys.executable, "-m", "insitu.cli", program, "--home", "/proc/insitu"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "/proc/insitu" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_folders_of_a_new_home_are_closed_to_others(settings: Settings) -> None:
    home.make(settings)
    for name in home.PRIVATE:
        assert (settings.home / name).stat().st_mode & 0o077 == 0, name


def test_second_holder_is_told_who_and_since_when(settings: Settings) -> None:
    home.make(settings)
    lock = home.Lock(settings)
    with pytest.raises(Conflict) as caught:
        home.Lock(settings)
    assert re.search(
        rf"process number {os.getpid()} holds it since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d", sentence(caught.value)
    )
    lock.release()
    home.Lock(settings).release()


def test_lock_of_a_killed_holder_is_free(settings: Settings) -> None:
    home.make(settings)
    program = (
        "import os, signal, sys; from insitu.settings import load; from insitu_services.supervisor import home\n"
        "home.Lock(load(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(settings.home)], timeout=120, check=False)
    assert done.returncode == -9
    home.Lock(settings).release()


@pytest.mark.parametrize("key", ["http", "dicom", "airflow_http"])
def test_port_in_use_is_named_with_its_setting(settings: Settings, key: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        free = dict.fromkeys(("http", "dicom", "airflow_http"), "127.0.0.1:0")
        with pytest.raises(Conflict) as caught:
            home.check_ports(settings.model_copy(update={**free, key: address}))
    assert address in sentence(caught.value)
    assert f"INSITU_{key.upper()}" in sentence(caught.value)
    assert json.dumps(caught.value.problem())


def test_address_of_another_machine_is_refused(settings: Settings) -> None:
    with pytest.raises(Invalid, match=re.escape("192.0.2.1:80")):
        home.check_ports(settings.model_copy(update={"http": "192.0.2.1:80"}))
