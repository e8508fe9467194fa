"""Writing a measurement report: Comprehensive 3D SR (PS3.3 A.35.13) by template TID 1500, one group per segment.

Not here: computing the numbers (the algorithm does) and reading its file (measurements).
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from insitu.errors import Invalid

from . import codes, result, segmentation
from .measurements import Measurement, Measurements
from .result import NOTICE, Provenance
from .segmentation import Segment
from .uids import derive

SERIES_NUMBER = 7001

_UNITS = {"ml": codes.MILLILITRE, "[hnsf'U]": codes.HOUNSFIELD_UNIT, "1": codes.NO_UNITS}
_DERIVATIONS = {"Mean": codes.MEAN, "Standard deviation": codes.STANDARD_DEVIATION}
_DEVICE = Code("121007", "DCM", "Device")


def write_measurement_report(
    measurements: Measurements,
    segmentation_object: Dataset,
    sources: Sequence[Dataset],
    segments: Sequence[Segment],
    provenance: Provenance,
    *,
    complete: bool = True,
    series_number: int = SERIES_NUMBER,
) -> Dataset:
    """Make a measurement report on the segments of one segmentation.

    Parameters
    ----------
    measurements : Measurements
        The algorithm's numbers.
    segmentation_object : Dataset
        What `segmentation.write_segmentation` made of the same execution.
    sources : sequence of Dataset
        Headers of the source series.
    segments : sequence of Segment
        As given to `write_segmentation`.
    provenance : Provenance
        With another `output` name than the segmentation's.
    complete : bool
        False where the algorithm says that part of what it should measure is missing: the report is then PARTIAL.
    series_number : int

    Returns
    -------
    Dataset
        A complete object, unverified and preliminary; the same arguments give the same bytes.

    Raises
    ------
    Invalid
        A measurement is of a segment that does not exist, none is given, or an intensity unit does not fit the modality.
    """
    result.require_one_study(sources)
    if not any(item.measurements for item in measurements.segments):
        raise Invalid("The algorithm measured nothing", why="measurements.json has no measurement")
    by_label = {segment.label: segment for segment in segments}
    unknown = [item.segment for item in measurements.segments if item.segment not in by_label]
    if unknown:
        raise Invalid(
            "A measurement is of a segment that does not exist",
            value=", ".join(str(label) for label in unknown[:10]),
            why=f"segments are {', '.join(str(label) for label in sorted(by_label))}",
        )
    modality = str(sources[0].get("Modality", ""))
    numbers = segmentation.segment_numbers(segments)
    groups = [
        _group(by_label[item.segment], numbers[item.segment], item.measurements, segmentation_object, sources[0], modality, provenance)
        for item in measurements.segments
        if item.measurements
    ]  # fmt: skip
    algorithm = provenance.algorithm
    content = MeasurementReport(
        observation_context=_observation_context(provenance),
        procedure_reported=codes.IMAGING_PROCEDURE,
        imaging_measurements=groups,
    )
    content[0].ContentSequence.append(
        TextContentItem(
            name=CodedConcept.from_code(codes.COMMENT), value=NOTICE, relationship_type=RelationshipTypeValues.CONTAINS
        )
    )
    _separate(content[0])
    description = result.series_description(algorithm, "SR")
    report = Comprehensive3DSR(
        evidence=[*result.stand_ins(sources), segmentation_object],
        content=content[0],
        series_instance_uid=provenance.series_instance_uid,
        series_number=series_number,
        sop_instance_uid=provenance.sop_instance_uid,
        instance_number=1,
        is_complete=complete,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=description,
        **result.equipment(provenance),
    )
    if not complete:
        report.CompletionFlagDescription = "The algorithm did not measure everything"
    result.finish(report, sources[0], provenance, segmentation.texts(description, segments, provenance))
    return report


def _separate(item: Dataset) -> None:
    """Say of every container that its items stand apart: viewers then show each with its name, not all as running text."""
    if item.ValueType == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for part in item.get("ContentSequence", ()):
        _separate(part)


def _observation_context(provenance: Provenance) -> ObservationContext:
    algorithm = provenance.algorithm
    # One device per package: the same digest is the same observer in every report.
    device = DeviceObserverIdentifyingAttributes(
        uid=derive("algorithm", algorithm.digest),
        name=f"{algorithm.name} {algorithm.version}",
        manufacturer_name=algorithm.source,
        model_name=algorithm.name,
        serial_number=algorithm.digest,
    )
    return ObservationContext(
        observer_device_context=ObserverContext(observer_type=_DEVICE, observer_identifying_attributes=device)
    )


def _group(
    segment: Segment,
    number: int,
    measurements: Sequence[Measurement],
    segmentation_object: Dataset,
    source: Dataset,
    modality: str,
    provenance: Provenance,
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    algorithm = provenance.algorithm
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=segmentation.tracking_uid(provenance.execution, segment.label),
            identifier=segmentation.tracking_identifier(segment),
        ),
        referenced_segment=ReferencedSegment(
            sop_class_uid=segmentation_object.SOPClassUID,
            sop_instance_uid=segmentation_object.SOPInstanceUID,
            segment_number=number,
            source_series=SourceSeriesForSegmentation(source.SeriesInstanceUID),
        ),
        finding_category=segment.category.code(),
        finding_type=segment.type.code(),
        algorithm_id=AlgorithmIdentification(
            name=algorithm.name,
            version=algorithm.version,
            parameters=[f"digest={algorithm.digest}"],
            manufacturer=algorithm.source,
        ),
        finding_sites=[FindingSite(segment.anatomic_region.code())] if segment.anatomic_region else None,
        measurements=[_measurement(item, modality) for item in measurements],
    )


def _measurement(item: Measurement, modality: str) -> highdicom.sr.Measurement:
    if item.name == "Volume":
        return highdicom.sr.Measurement(name=codes.VOLUME, value=_significant(item.value), unit=codes.MILLILITRE)
    wanted = "[hnsf'U]" if modality == "CT" else "1"
    if item.unit != wanted:
        raise Invalid(
            "The unit of an intensity does not fit the modality",
            value=item.unit,
            why=f"for {modality or 'this series'} it is {wanted}",
        )
    name = codes.ATTENUATION if modality == "CT" else codes.MR_SIGNAL_INTENSITY
    return highdicom.sr.Measurement(
        name=name, value=_significant(item.value), unit=_UNITS[item.unit], derivation=_DERIVATIONS[item.name]
    )


def _significant(value: float) -> float:
    """Nine significant digits: more than any image gives, and always a decimal string of at most 16 characters."""
    return float(f"{value:.9g}")
