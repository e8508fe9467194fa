"""Writing a DICOM Segmentation (PS3.3 A.51) from labels on a source series.

Not here: bringing the labels from NIfTI onto the source's frames (geometry) and checking the written object (check).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from insitu.errors import Invalid

from . import geometry, result
from .codes import Concept
from .result import NOTICE, Provenance
from .uids import derive

SERIES_NUMBER = 7000  # far above what scanners count, so that results stand behind their source


@dataclass(frozen=True)
class Segment:
    """One segment as the manifest describes it.

    Parameters
    ----------
    label : int
        Value in the algorithm's label image, 1 or more.
    name : str
        For people.
    category, type : Concept
        Coded, for example Tissue and Bone (CID 7150 and 7151).
    color : tuple of int, optional
        Red, green, blue, each 0 to 255.
    anatomic_region : Concept, optional
        Where in the body it is, coded.
    """

    label: int
    name: str
    category: Concept
    type: Concept
    color: tuple[int, int, int] | None = None
    anatomic_region: Concept | None = None


def segment_numbers(segments: Sequence[Segment]) -> dict[int, int]:
    """Label in the image -> segment number in the object, which DICOM wants to count 1, 2, 3 (C.8.20.2)."""
    return {segment.label: number for number, segment in enumerate(sorted(segments, key=lambda s: s.label), 1)}


def write_segmentation(
    labels: NDArray[np.integer],
    sources: Sequence[Dataset],
    segments: Sequence[Segment],
    provenance: Provenance,
    *,
    series_number: int = SERIES_NUMBER,
) -> Dataset:
    """Make a binary Segmentation of one source series.

    Parameters
    ----------
    labels : ndarray of integer, shape (frames, rows, columns)
        One frame per source frame, in the order of `sources`; 0 is background. `geometry.labels_on_series` gives this.
    sources : sequence of Dataset
        Headers of the source series, pixel data not needed.
    segments : sequence of Segment
        All labels that may occur. A segment without voxels is listed all the same, without frames.
    provenance : Provenance
    series_number : int

    Returns
    -------
    Dataset
        A complete object; `save_as(path)` writes the same bytes for the same arguments.

    Raises
    ------
    Invalid
        A label is not among the segments, the segments are ambiguous, or the frames do not fit the source.
    """
    result.require_one_study(sources)
    frames = geometry.source_frames(sources)
    expected = (len(frames), int(sources[0].Rows), int(sources[0].Columns))
    if labels.shape != expected:
        raise Invalid(
            "The labels do not fit the source series", value=str(labels.shape), why=f"the series has {expected}"
        )
    ordered = sorted(segments, key=lambda segment: segment.label)
    numbers = segment_numbers(ordered)
    if not ordered or len(numbers) != len(ordered) or ordered[0].label < 1:
        raise Invalid(
            "The segments must have different labels of 1 or more", value=str([segment.label for segment in ordered])
        )
    unknown = sorted(set(np.unique(labels).tolist()) - {0} - set(numbers))
    if unknown:
        raise Invalid(
            "The algorithm wrote labels that its manifest does not describe",
            value=", ".join(str(label) for label in unknown[:10]),
            why=f"described are {', '.join(str(label) for label in numbers)}",
            remedy="Add the segments to algorithm.yaml or correct the algorithm",
        )
    lookup = np.zeros(
        max(ordered[-1].label, int(labels.max(initial=0))) + 1, np.uint8 if len(ordered) < 256 else np.uint16
    )
    for label, number in numbers.items():
        lookup[label] = number
    algorithm = provenance.algorithm
    description = result.series_description(algorithm, "SEG")
    segmentation = highdicom.seg.Segmentation(
        source_images=result.stand_ins(sources),
        pixel_array=lookup[labels],
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(segment, numbers[segment.label], provenance) for segment in ordered],
        series_instance_uid=provenance.series_instance_uid,
        series_number=series_number,
        sop_instance_uid=provenance.sop_instance_uid,
        instance_number=1,
        content_description=NOTICE,
        content_label=result.content_label(algorithm.name),
        content_creator_name=None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=description,
        **result.equipment(provenance),
    )
    segmentation.ContentCreatorName = None  # type 2: no person made it
    organization = provenance.uid("dimension organization")
    for item in [*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence]:
        item.DimensionOrganizationUID = organization
    result.finish(segmentation, sources[0], provenance, texts(description, ordered, provenance))
    return segmentation


def texts(description: str, segments: Sequence[Segment], provenance: Provenance) -> list[str]:
    """All texts of a result that do not come from its source; they decide about the character set."""
    algorithm = provenance.algorithm
    concepts = [c for segment in segments for c in (segment.category, segment.type, segment.anatomic_region) if c]
    return [
        description,
        algorithm.name,
        algorithm.version,
        algorithm.source,
        *(segment.name for segment in segments),
        *(concept.meaning for concept in concepts),
    ]


def _description(segment: Segment, number: int, provenance: Provenance) -> highdicom.seg.SegmentDescription:
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=segment.category.code(),
        segmented_property_type=segment.type.code(),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=result.identification(provenance.algorithm),
        tracking_uid=tracking_uid(provenance.execution, segment.label),
        tracking_id=tracking_identifier(segment),
        anatomic_regions=[segment.anatomic_region.code()] if segment.anatomic_region else None,
        display_color=CIELabColor.from_rgb(*segment.color) if segment.color else None,
    )


def tracking_identifier(segment: Segment) -> str:
    """Text that names the segment in segmentation and report alike."""
    return f"{segment.label} {segment.name}"[:64]


def tracking_uid(execution: str, label: int) -> str:
    """UID that names the segment in segmentation and report alike; equal in both, whatever their outputs are called."""
    return derive("tracking", execution, str(label))
