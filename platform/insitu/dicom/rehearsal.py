"""A rehearsal of writing results: a tiny series through every step, so that the libraries have read their tables before time counts.

Not here: any test of what is written.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from . import codes, geometry
from .check import check
from .measurements import Measurement, Measurements, SegmentMeasurements
from .report import write_measurement_report
from .result import Algorithm, Provenance
from .segmentation import Segment, write_segmentation
from .wrap import EPOCH, wrap_volume


def rehearse() -> None:
    """Write, read and check a segmentation and a report of a series of two images; nothing of it stays."""
    with TemporaryDirectory(prefix="insitu-rehearsal-") as folder:
        files = wrap_volume(
            np.zeros((8, 8, 2), np.int16),
            np.eye(4),
            "CT",
            Path(folder),
            patient_id="REHEARSAL",
            patient_name="Rehearsal",
            study_description="Rehearsal",
            series_description="Rehearsal",
        )
        volume = geometry.read_series(files)
    segments = [
        Segment(1, "Rehearsal", codes.Concept.of(codes.TISSUE), codes.Concept.of(codes.SOFT_TISSUE), (255, 0, 0))
    ]
    measured = Measurements(
        segments=(SegmentMeasurements(segment=1, measurements=(Measurement(name="Volume", value=0.128, unit="ml"),)),)
    )
    labels = np.ones((2, 8, 8), np.uint8)

    def provenance(output: str) -> Provenance:
        return Provenance("rehearsal", output, Algorithm("rehearsal", "0", "sha256:0"), EPOCH)

    segmentation = write_segmentation(labels, volume.headers, segments, provenance("segmentation"))
    report = write_measurement_report(measured, segmentation, volume.headers, segments, provenance("report"))
    for item in (segmentation, report):
        check(item, volume.headers)
