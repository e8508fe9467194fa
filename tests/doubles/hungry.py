"""Needs 260 MiB of memory, and does what it should where it gets them."""

import nifti

held = bytearray(260 << 20)
for position in range(0, len(held), 4096):
    held[position] = 1
nifti.segment_and_measure()
