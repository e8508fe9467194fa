"""The demonstration leaves nothing behind, however it is ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

DEMONSTRATION = """
import subprocess, sys, signal
from rich.console import Console
from insitu.cli import demo
from insitu.settings import Settings

start = subprocess.Popen
demo.subprocess.Popen = lambda command, **options: start([sys.executable, "-c", "import time; time.sleep(60)"], **options)
demo.await_ready = lambda settings, process: print(process.pid, flush=True)
demo.addresses = lambda settings, state: settings
with demo.platform(Settings(home=sys.argv[1]), demo.Stages(Console(stderr=True))):
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_demonstration_that_is_ended_ends_its_platform(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DEMONSTRATION, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    platform = int(process.stdout.readline())
    process.send_signal(number)
    process.wait(timeout=30)
    assert not psutil.pid_exists(platform)
