"""Does what it should, but takes its time, so that something can happen meanwhile."""

import time

import nifti

print("started", flush=True)
time.sleep(20)
nifti.segment_and_measure(100)
