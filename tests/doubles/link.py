"""Writes a link to a file of the machine in place of its mask."""

import os

import nifti

nifti.segment_and_measure()
mask = os.path.join(nifti.OUTPUT, "mask.nii.gz")
os.unlink(mask)
os.symlink("/etc/passwd", mask)
