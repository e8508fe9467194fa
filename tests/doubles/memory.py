"""Fills memory in a child process, then stays."""

import os
import time

if os.fork() == 0:
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)) * 16)
        time.sleep(0.01)
time.sleep(3600)
