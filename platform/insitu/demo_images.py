"""Real images for demonstrations and tests, wrapped into DICOM: an averaged brain and a head CT.

Neither is a patient of the house, and both say so in their descriptions.
Not here: fetching the packages they come in (the Makefile does).
"""

from __future__ import annotations

import plistlib
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from insitu.dicom.wrap import to_radiological_axes, wrap_volume
from insitu.errors import Invalid, NotFound

HEAD_CT_FILE = Path("/usr/share/doc/invesalius-examples/examples/Cranium.inv3")
_BRAIN_FILE = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_LARGEST_MATRIX = 512 * 1024 * 1024  # bytes


@dataclass(frozen=True)
class DemoImage:
    """A volume and what is true of it.

    Parameters
    ----------
    array : ndarray, shape (columns, rows, slices)
        Axes to the left, posterior and head.
    affine : ndarray, shape (4, 4)
        To mm, RAS.
    modality : str
    body_part : str
        As BodyPartExamined.
    title : str
        What it is, honestly, in at most 64 characters.
    patient_id, patient_name : str
        Of nobody.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    modality: str
    body_part: str
    title: str
    patient_id: str
    patient_name: str

    def write(self, folder: Path, *, salt: str = "") -> list[Path]:
        """Write it as a DICOM series; another `salt` makes it another study. Returns the files."""
        return wrap_volume(
            self.array,
            self.affine,
            self.modality,
            folder,
            patient_id=self.patient_id,
            patient_name=self.patient_name,
            study_description=f"Demonstration{f' {salt}' if salt else ''}"[:64],
            series_description=self.title,
            body_part=self.body_part,
            salt=salt,
            attributes={
                "PatientIdentityRemoved": "YES",
                "DeidentificationMethod": "Published image, never a patient of this house",
            },
        )


def averaged_brain(data_folder: Path) -> DemoImage:
    """The ICBM 152 average of 152 T1-weighted brains (2009a, symmetric), skull removed, from the Python package `nilearn`.

    Parameters
    ----------
    data_folder : Path
        Folder into which `nilearn` was installed with `--target`, or the site-packages that hold it.

    Raises
    ------
    NotFound
        The package is not there.
    """
    image = nibabel.load(_brain_file(data_folder, "t1"))
    array, affine = to_radiological_axes(np.asanyarray(image.dataobj), np.asarray(image.affine, float))
    return DemoImage(
        array=array,
        affine=affine,
        modality="MR",
        body_part="BRAIN",
        title="T1, averaged brain of 152 people, not a patient",
        patient_id="DEMO-AVERAGED-BRAIN",
        patient_name="Averaged brain^Not a patient",
    )


def averaged_brain_tissues(data_folder: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Grey and white matter of the averaged brain as masks (probability above one half), on the grid of `averaged_brain`."""
    masks = []
    for name in ("gm", "wm"):
        image = nibabel.load(_brain_file(data_folder, name))
        array, _ = to_radiological_axes(np.asanyarray(image.dataobj), np.asarray(image.affine, float))
        masks.append(array > array.max() / 2)
    return masks[0], masks[1]


def _brain_file(data_folder: Path, name: str) -> Path:
    file = data_folder / _BRAIN_FILE.format(name)
    if not file.is_file():
        raise NotFound(
            "The averaged brain is not installed",
            value=str(file),
            remedy="Install the Python package nilearn: make setup does it",
        )
    return file


def head_ct(file: Path = HEAD_CT_FILE) -> DemoImage:
    """The head CT of Debian's package `invesalius-examples`.

    Parameters
    ----------
    file : Path
        An InVesalius project: a tar with `main.plist` and a matrix of int16 HU, shape (slice, row, column). Slice 0 is inferior; its
        rows run from posterior to anterior.

    Raises
    ------
    NotFound
        The file is not there.
    Invalid
        It is no such project.
    """
    if not file.is_file():
        raise NotFound(
            "The head CT is not installed", value=str(file), remedy="Install Debian's package invesalius-examples"
        )
    try:
        with tarfile.open(file) as archive:
            members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
            project = plistlib.loads(_read(archive, members["main.plist"]))
            matrix = project["matrix"]
            shape = tuple(int(number) for number in matrix["shape"])
            raw = _read(archive, members[matrix["filename"]])
        values = np.frombuffer(raw, np.dtype(matrix["dtype"]).newbyteorder("<")).reshape(shape)
        spacing = [float(number) for number in project["spacing"]]
    except (KeyError, ValueError, TypeError, tarfile.TarError, plistlib.InvalidFileException) as error:
        raise Invalid(
            "The file is no InVesalius project", value=file.name, why=f"{type(error).__name__}: {error}"
        ) from error
    # Columns run from the patient's right to left as in every axial image, rows from posterior to anterior, slices to the head.
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = [spacing[0] * (shape[2] - 1) / 2, -spacing[1] * (shape[1] - 1) / 2, 0.0]
    array, affine = to_radiological_axes(values.transpose(2, 1, 0), affine)
    return DemoImage(
        array=array,
        affine=affine,
        modality="CT",
        body_part="HEAD",
        title="Head CT, published example of InVesalius",
        patient_id="DEMO-HEAD-CT",
        patient_name="Published example^Head CT",
    )


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _LARGEST_MATRIX:
        raise ValueError(f"{member.name} is larger than {_LARGEST_MATRIX} bytes")
    stream = archive.extractfile(member)
    if stream is None:
        raise ValueError(f"{member.name} is no file")
    return stream.read()
