"""Never ends; has a child that never ends either, and ignores SIGTERM."""

import os
import signal
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
print("hanging", flush=True)
while True:
    time.sleep(3600)
