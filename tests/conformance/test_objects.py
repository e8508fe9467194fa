"""The objects the suite stores are good ones: a server that refused them for their own faults would be judged unjustly."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from insitu_dicomweb_check import objects
from insitu_dicomweb_check.objects import COLUMNS, ROWS
from tests.tools import need_program


def test_every_object_passes_dciodvfy(tmp_path: Path) -> None:
    program = need_program("dciodvfy", "dicom3tools")
    for number, sample in enumerate(objects.make().all):
        file = tmp_path / f"{number}.dcm"
        file.write_bytes(sample.file)
        done = subprocess.run([program, file], capture_output=True, text=True, check=False, timeout=60)
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
        assert errors == [], sample.dataset.Modality


def test_the_compressed_object_is_read_by_dcmtk_as_the_pixels_it_was_made_from(tmp_path: Path) -> None:
    program = need_program("dcmdrle", "dcmtk")
    sample = objects.make().rle
    packed, plain = tmp_path / "packed.dcm", tmp_path / "plain.dcm"
    packed.write_bytes(sample.file)
    subprocess.run([program, packed, plain], check=True, capture_output=True, timeout=60)
    assert sample.frames[0] in plain.read_bytes()
    assert len(sample.frames[0]) == ROWS * COLUMNS * 2


def test_names_in_other_character_sets_are_read_by_dcmtk(tmp_path: Path) -> None:
    program = need_program("dcmdump", "dcmtk")
    samples = objects.make()
    for sample, name in ((samples.multiframe, "Müller^Jürgen"), (samples.document, "Wang^XiaoDong=王^小东")):
        file = tmp_path / "object.dcm"
        file.write_bytes(sample.file)
        done = subprocess.run([program, "+U8", "+P", "0010,0010", file], capture_output=True, check=True, timeout=60)
        assert name in done.stdout.decode()


def test_each_run_has_identifiers_of_its_own_under_2_25() -> None:
    first, second = objects.make(), objects.make()
    uids = [{uid for s in run.all for uid in (s.study, s.series, s.instance)} for run in (first, second)]
    assert not uids[0] & uids[1]
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids[0] | uids[1])
    assert first.physician != second.physician


@pytest.mark.parametrize("letter", "ABCD")
def test_every_patient_is_named_as_a_test(letter: str) -> None:
    found = [s for s in objects.make().all if str(s.dataset.PatientID).endswith(letter)]
    assert found
    assert all(str(s.dataset.PatientID).startswith("CHK-") for s in found)
