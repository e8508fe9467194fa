"""Reading and writing NIfTI-1 with the standard library alone, as far as the doubles need it."""

import array
import gzip
import json
import os
import struct

CODES = {4: "h", 16: "f", 512: "H", 2: "B"}
INPUT = os.environ["INSITU_INPUT"]
OUTPUT = os.environ["INSITU_OUTPUT"]


def read(name="image"):
    """Header (352 bytes) and voxels of an input."""
    with gzip.open(os.path.join(INPUT, name, "image.nii.gz")) as stream:
        content = stream.read()
    voxels = array.array(CODES[struct.unpack_from("<h", content, 70)[0]])
    start = int(struct.unpack_from("<f", content, 108)[0])
    voxels.frombytes(content[start:])
    return content[:352], voxels


def labels_header(header):
    """The header for labels of one byte on the same grid."""
    changed = bytearray(header)
    struct.pack_into("<hh", changed, 70, 2, 8)
    struct.pack_into("<f", changed, 108, 352.0)
    struct.pack_into("<ff", changed, 112, 1.0, 0.0)
    return changed


def write(header, labels, name="mask.nii.gz"):
    """Write a label image."""
    with gzip.open(os.path.join(OUTPUT, name), "wb", compresslevel=1) as stream:
        stream.write(bytes(header[:348]) + bytes(4) + bytes(labels))


def volume_of_voxel(header):
    """In ml."""
    spacing = struct.unpack_from("<3f", header, 80)
    return spacing[0] * spacing[1] * spacing[2] / 1000


def segment_and_measure(threshold=100):
    """Do it well: everything above the threshold is the segment."""
    header, voxels = read()
    labels = bytes(1 if value > threshold else 0 for value in voxels)
    write(labels_header(header), labels)
    volume = sum(labels) * volume_of_voxel(header)
    measured = [{"segment": 1, "measurements": [{"name": "Volume", "value": volume, "unit": "ml"}]}]
    with open(os.path.join(OUTPUT, "measurements.json"), "w") as stream:
        json.dump({"version": 1, "segments": measured}, stream)
