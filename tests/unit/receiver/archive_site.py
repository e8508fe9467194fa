"""Objects to put into a receiver, nodes that may ask for them, and projects that hold them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from insitu.nodes import registry
from insitu.nodes.registry import Node

from .conftest import Receiver

CT = str(CTImageStorage)


def image(**attributes: Any) -> Dataset:
    """A small CT image with these attributes."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Test^Object", "P-1", "CT"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20240131", "101500", "1", "A1"
    dataset.InstanceNumber, dataset.SeriesNumber = 1, 1
    dataset.Rows = dataset.Columns = 8
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = np.arange(64, dtype="<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def store(receiver: Receiver, datasets: Iterable[Dataset], calling: str = "MODALITY") -> None:
    """Bring objects as a modality does."""
    objects = list(datasets)
    entity = AE(ae_title=calling)
    for kind in {(str(each.SOPClassUID), str(each.file_meta.TransferSyntaxUID)) for each in objects}:
        entity.add_requested_context(*kind)
    association = entity.associate("127.0.0.1", receiver.port, ae_title="INSITU")
    assert association.is_established
    for each in objects:
        assert association.send_c_store(each).Status == 0, receiver.log.read_text()
    association.release()


def assign(receiver: Receiver, project: str, *series: str) -> None:
    """Let these series, which may be in others now, belong to one project alone."""
    with receiver.database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES (%s) ON CONFLICT DO NOTHING", (project,))
        for uid in series:
            connection.execute(
                "DELETE FROM series_project USING series s WHERE s.id = series AND s.series_instance_uid = %s", (uid,)
            )
            connection.execute(
                "INSERT INTO series_project (series, project) SELECT id, %s FROM series WHERE series_instance_uid = %s",
                (project, uid),
            )


def node(receiver: Receiver, ae_title: str = "PACS", projects: Iterable[str] = ("inbox",), **values: Any) -> Node:
    """Make a node on this machine known."""
    made = Node(
        name=values.pop("name", ae_title.lower()),
        ae_title=ae_title,
        projects=tuple(projects),
        **({"networks": ("127.0.0.0/8",)} | values),
    )
    with receiver.database.transaction() as connection:
        for project in made.projects:
            connection.execute("INSERT INTO project (name) VALUES (%s) ON CONFLICT DO NOTHING", (project,))
        registry.save(connection, made)
    return made


def write(folder: Path, datasets: Iterable[Dataset]) -> list[Path]:
    """The objects as files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for each in datasets:
        file = folder / f"{each.SOPInstanceUID}.dcm"
        dcmwrite(file, each, enforce_file_format=True)
        files.append(file)
    return files


def read_all(folder: Path) -> list[Dataset]:
    """Every DICOM file of a folder, by the order of names."""
    return [dcmread(file) for file in sorted(folder.iterdir()) if file.is_file()]
