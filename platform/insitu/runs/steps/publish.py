"""The step publish: makes DICOM SEG and SR of the algorithm's files, checks them, delivers them through the run gateway.

With `--wait` it imports what it needs, then waits for a line on its standard input.
Not here: making the objects (insitu.dicom) and taking over the files (outputs).
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insitu.errors import InsituError
from insitu.runs.outcomes import Failure

from .fetch import source_paths
from .gateway import Gateway
from .outputs import take
from .report import StepFailed, carry_out, work_folder

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from insitu.algorithms.manifest import Manifest, Measurements, Segmentation
    from insitu.dicom.result import Algorithm, Provenance
    from insitu.dicom.segmentation import Segment

DISPLAY_UNITS = {"[hnsf'U]": "HU", "1": ""}


@dataclass(frozen=True)
class Made:
    """A result object: name of its output, the object, headers of its source series."""

    output: str
    dataset: Dataset
    sources: list[Dataset]


class Publisher:
    """Makes the results of the execution whose files lie in a work folder.

    Parameters
    ----------
    work : pathlib.Path
        The job's work folder, after fetch and algorithm.
    output_bytes : int
        Largest size of one output file.
    """

    def __init__(self, work: Path, output_bytes: int) -> None:
        from insitu.algorithms import manifest as manifests
        from insitu.dicom.geometry import read_headers
        from insitu.dicom.result import Algorithm

        self._work = work
        self._limit = output_bytes
        self._document: dict[str, Any] = json.loads((work / "source" / "manifest.json").read_bytes())
        described = self._document["algorithm"]
        self._manifest: Manifest = manifests.validate(described["manifest"], "the installed manifest")
        self._algorithm: Algorithm = Algorithm(
            name=described["name"],
            version=described["version"],
            digest=described["digest"],
            title=self._manifest.title,
            manufacturer=self._manifest.manufacturer,
        )
        self._sources = {
            item["name"]: read_headers(list(source_paths(work, item["name"]))) for item in self._document["inputs"]
        }

    def make(self) -> tuple[list[Made], dict[str, Any]]:
        """Every result object, and the summary of segments and measurements.

        Raises
        ------
        StepFailed
            An output is missing, malformed or of another geometry.
        """
        outputs = self._manifest.outputs
        made: list[Made] = []
        summary: list[dict[str, Any]] = []
        for output in outputs.segmentations:
            segmentation = self._segmentation(output, len(made))
            made.append(segmentation)
            rows: dict[int, dict[str, Any]] = {
                segment.label: {"segmentation": output.name, "label": segment.name, "number": segment.label, "measurements": []}
                for segment in output.segments
            }  # fmt: skip
            for measurements in outputs.measurements:
                if (measurements.segmentation or outputs.segmentations[0].name) == output.name:
                    made.append(self._report(measurements, segmentation, output, len(made), rows))
            summary += rows.values()
        return made, {"version": 1, "segments": summary}

    def _segmentation(self, output: Segmentation, position: int) -> Made:
        from insitu.dicom.geometry import OtherGeometry, labels_on_series
        from insitu.dicom.segmentation import SERIES_NUMBER, write_segmentation

        sources = self._sources[output.input or self._manifest.inputs[0].name]
        file = take(self._work / "output", output.file, self._work / "collected", self._limit)
        try:
            labels = labels_on_series(file, sources)
            dataset = write_segmentation(
                labels, sources, segments(output), self._provenance(output.name), series_number=SERIES_NUMBER + position
            )
        except OtherGeometry as error:
            raise StepFailed(Failure.OUTPUT_GEOMETRY, str(error)) from error
        except InsituError as error:
            raise StepFailed(Failure.OUTPUT_MALFORMED, str(error)) from error
        return Made(output.name, dataset, sources)

    def _report(
        self,
        output: Measurements,
        segmentation: Made,
        described: Segmentation,
        position: int,
        rows: dict[int, dict[str, Any]],
    ) -> Made:
        from insitu.dicom.measurements import read_measurements
        from insitu.dicom.report import write_measurement_report
        from insitu.dicom.segmentation import SERIES_NUMBER

        file = take(self._work / "output", output.file, self._work / "collected", self._limit)
        name = f"measurements:{output.file}"
        try:
            measured = read_measurements(file)
            dataset = write_measurement_report(
                measured,
                segmentation.dataset,
                segmentation.sources,
                segments(described),
                self._provenance(name),
                series_number=SERIES_NUMBER + position,
            )
        except InsituError as error:
            raise StepFailed(Failure.OUTPUT_MALFORMED, str(error)) from error
        for item in measured.segments:
            rows[item.segment]["measurements"] += [
                {"name": number.name, "value": number.value, "unit": DISPLAY_UNITS.get(number.unit, number.unit)}
                for number in item.measurements
            ]
        return Made(name, dataset, segmentation.sources)

    def _provenance(self, output: str) -> Provenance:
        from insitu.dicom.result import Provenance

        return Provenance(
            execution=self._document["execution"],
            output=output,
            algorithm=self._algorithm,
            made_at=datetime.fromisoformat(self._document["requested_at"]),
        )

    def write(self, made: list[Made]) -> list[Path]:
        """Write the objects as files and check each.

        Raises
        ------
        StepFailed
            One does not pass; all are kept in `rejected/` with the reasons then.
        """
        from insitu.dicom.check import check, dciodvfy

        folder = self._work / "results"
        folder.mkdir(exist_ok=True)
        files: list[Path] = []
        problems: dict[str, list[str]] = {}
        for number, item in enumerate(made):
            file = folder / f"{number:02d}-{item.dataset.Modality}.dcm"
            item.dataset.save_as(file, enforce_file_format=True)
            files.append(file)
            found = check(file, item.sources) + (dciodvfy(file, item.sources[0]) or [])
            if found:
                problems[file.name] = found
        if problems:
            self._reject(files, problems)
        return files

    def _reject(self, files: list[Path], problems: dict[str, list[str]]) -> None:
        kept = self._work / "rejected"
        kept.mkdir(exist_ok=True)
        for file in files:
            file.rename(kept / file.name)
        (kept / "reasons.json").write_text(json.dumps(problems, indent=2))
        every = [f"{name}: {text}" for name, texts in problems.items() for text in texts]
        for line in every:
            print(line, file=sys.stderr)
        more = f" and {len(every) - 3} more" if len(every) > 3 else ""
        kept_on = "were not delivered" if "INSITU_REPORT" in os.environ else "are kept aside"  # a pod keeps nothing
        raise StepFailed(
            Failure.RESULT_CHECK_FAILED,
            f"The results do not pass the check and {kept_on}: {'; '.join(every[:3])}{more}",
        )


def segments(output: Segmentation) -> list[Segment]:
    """The segments of an output as the writers of DICOM take them."""
    from insitu.dicom.codes import Concept
    from insitu.dicom.segmentation import Segment

    return [
        Segment(
            label=item.label,
            name=item.name,
            category=Concept(**item.category.model_dump()),
            type=Concept(**item.type.model_dump()),
            anatomic_region=None if item.anatomic_region is None else Concept(**item.anatomic_region.model_dump()),
            color=None if item.color is None else _rgb(item.color),
        )
        for item in output.segments
    ]


def _rgb(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def prepare() -> Publisher:
    """Import everything publish needs and read the headers, which takes longer than the rest."""
    import insitu.dicom.check
    import insitu.dicom.geometry
    import insitu.dicom.measurements
    import insitu.dicom.report
    import insitu.dicom.segmentation  # noqa: F401

    return Publisher(work_folder(), int(os.environ["INSITU_OUTPUT_BYTES"]))


def publish() -> None:
    """Do the work of the step, with the work folder and the gateway that the environment names."""
    publisher = prepare()
    if "--wait" in sys.argv[1:]:
        from insitu.dicom.rehearsal import rehearse

        rehearse()
        if sys.stdin.readline().strip() != "go":
            raise StepFailed(Failure.PUBLISH_FAILED, "The runner ended before it gave the word to publish")
    began = time.monotonic()
    made, summary = publisher.make()
    print(f"made {len(made)} objects after {time.monotonic() - began:.2f} s", flush=True)
    files = publisher.write(made)
    print(f"checked after {time.monotonic() - began:.2f} s", flush=True)
    answer = Gateway.from_environment(Failure.PUBLISH_FAILED).results(files, summary)
    for item in answer["stored"]:
        print(f"{item['outcome']}: {item['sop_instance_uid']}", flush=True)
    print(f"published after {time.monotonic() - began:.2f} s", flush=True)


if __name__ == "__main__":
    sys.exit(carry_out("publish", publish))
