"""Leaves a process behind that outlives it in a session of its own and keeps its log open, then ends well."""

import os
import time

import nifti

nifti.segment_and_measure()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(3600)
    os._exit(0)
print("left somebody behind")
