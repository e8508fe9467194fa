"""Writes a mask that is no NIfTI file."""

import os

import nifti

nifti.segment_and_measure()
with open(os.path.join(nifti.OUTPUT, "mask.nii.gz"), "wb") as stream:
    stream.write(b"this is no image")
