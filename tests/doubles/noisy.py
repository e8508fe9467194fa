"""Writes far more log than is kept, then does what it should."""

import sys

import nifti

for number in range(40_000):
    print(f"line {number} " + "x" * 90)
nifti.segment_and_measure()
print("the last line", file=sys.stderr)
