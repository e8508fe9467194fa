"""The coded concepts that results use, from SNOMED CT, DICOM (PS3.16 annex D) and UCUM.

Not here: the segments' own codes, which an algorithm's manifest brings along.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydicom.sr.coding import Code


class Concept(BaseModel):
    """A coded concept as a manifest writes it: `{scheme: SCT, value: "3138006", meaning: Bone}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: str = Field(min_length=1, max_length=16)
    value: str = Field(min_length=1, max_length=64)
    meaning: str = Field(min_length=1, max_length=64)

    @classmethod
    def of(cls, code: Code) -> Concept:
        """The same concept from pydicom's or highdicom's form."""
        return cls(scheme=code.scheme_designator, value=code.value, meaning=code.meaning)

    def code(self) -> Code:
        """The concept as pydicom and highdicom take it."""
        return Code(self.value, self.scheme, self.meaning)


TISSUE = Code("85756007", "SCT", "Tissue")
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
BODY_SUBSTANCE = Code("91720002", "SCT", "Body substance")

BONE = Code("3138006", "SCT", "Bone")
SOFT_TISSUE = Code("87784001", "SCT", "Soft tissue")
GAS = Code("74947009", "SCT", "Gas")
GREY_MATTER = Code("389081007", "SCT", "Gray Matter")
WHITE_MATTER = Code("389080008", "SCT", "White Matter")
CEREBROSPINAL_FLUID = Code("65216001", "SCT", "Cerebrospinal fluid")

VOLUME = Code("118565006", "SCT", "Volume")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
MR_SIGNAL_INTENSITY = Code("110852", "DCM", "MR signal intensity")
MEAN = Code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")

MILLILITRE = Code("ml", "UCUM", "milliliter")
HOUNSFIELD_UNIT = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
NO_UNITS = Code("1", "UCUM", "no units")

ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
COMMENT = Code("121106", "DCM", "Comment")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
