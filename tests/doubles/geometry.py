"""Writes a mask with one slice too few."""

import struct

import nifti

nifti.segment_and_measure()
header, voxels = nifti.read()
changed = nifti.labels_header(header)
columns, rows, slices = struct.unpack_from("<3h", changed, 42)
struct.pack_into("<h", changed, 46, slices - 1)
nifti.write(changed, bytes(columns * rows * (slices - 1)))
