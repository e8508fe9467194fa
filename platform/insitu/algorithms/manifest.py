"""The manifest of an algorithm package, `algorithm.yaml` version 1: what it is, takes, needs and gives.

Later versions of the format only add fields. Not here: which series fit (selector), the package's files (package),
what is installed (registry).
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from insitu.errors import Invalid

FILE_NAME = "algorithm.yaml"
SIZE_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def parse_size(text: Any) -> Any:
    """Bytes of a quantity such as `500M` or `4Gi` (as Kubernetes writes them); numbers pass unchanged."""
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"(\d+)(k|M|G|Ki|Mi|Gi)?", text.strip())
    if match is None:
        raise ValueError("expected a number of bytes such as 500M or 4Gi")
    return int(match[1]) * SIZE_UNITS[match[2] or ""]


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path:
        raise ValueError("expected a relative path that stays inside the folder, with / between its parts")
    return path


def _plain_file(path: str) -> str:
    if "/" in path or path.startswith("."):
        raise ValueError("expected a file name without folder")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
FileName = Annotated[str, AfterValidator(_inside), AfterValidator(_plain_file)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Code(_Part):
    """A coded concept (PS3.3 8.8): value, coding scheme designator, meaning."""

    value: str = Field(min_length=1, max_length=16)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)


class Selector(_Part):
    """Which series an input takes. Every condition that is given must hold; an absent attribute holds none."""

    modality: tuple[str, ...] = Field(min_length=1, strict=False)
    sop_class: tuple[str, ...] = Field(default=(), strict=False)
    body_part: tuple[str, ...] = Field(default=(), strict=False, description="BodyPartExamined is one of these.")
    body_part_may_be_absent: bool = Field(default=False, description="A series without BodyPartExamined is taken too.")
    minimum_instances: int = Field(default=1, ge=1)
    maximum_slice_thickness: float | None = Field(default=None, gt=0, description="In mm.")
    image_type_requires: tuple[str, ...] = Field(
        default=(), strict=False, description="Values that ImageType must have."
    )
    image_type_excludes: tuple[str, ...] = Field(
        default=(), strict=False, description="Values that ImageType must not have."
    )


class Input(_Part):
    """A named input: one series that fits the selector, given to the algorithm as NIfTI."""

    name: Identifier
    form: Literal["nifti"] = "nifti"
    selector: Selector


class Resources(_Part):
    """What a run may use at most; more ends it."""

    memory: Size = 2 * 2**30
    seconds: float = Field(default=600, gt=0, le=7 * 86400)
    cpu: int = Field(default=1, ge=1, le=256)
    gpu: int = Field(default=0, ge=0, le=16)


class Segment(_Part):
    """A segment: the voxels of one label, and what they are."""

    label: int = Field(ge=1, le=65535)
    name: str = Field(min_length=1, max_length=64)
    category: Code
    type: Code
    anatomic_region: Code | None = Field(default=None, description="Where in the body, if the type does not say it.")
    color: str | None = Field(default=None, pattern=r"^#[0-9a-fA-F]{6}$", description="sRGB, for display.")


class Segmentation(_Part):
    """A label image that the algorithm writes, on the grid of an input."""

    name: Identifier
    file: FileName = Field(pattern=r"\.nii(\.gz)?$")
    input: str | None = Field(default=None, description="Input whose grid it has; by default the first.")
    segments: tuple[Segment, ...] = Field(min_length=1, strict=False)


class Measurements(_Part):
    """A JSON file with measurements of the segments of a segmentation, of the form that insitu.dicom.measurements reads."""

    file: FileName = Field(default="measurements.json", pattern=r"\.json$")
    segmentation: str | None = Field(default=None, description="Whose segments are measured; by default the first.")


class Outputs(_Part):
    """What the algorithm writes into its output folder."""

    segmentations: tuple[Segmentation, ...] = Field(min_length=1, strict=False)
    measurements: tuple[Measurements, ...] = Field(default=(), strict=False)


class Golden(_Part):
    """The golden case: an input, what must come out, and how far it may be off."""

    inputs: dict[str, RelativePath] = Field(min_length=1, description="NIfTI file per input name.")
    segmentations: dict[str, RelativePath] = Field(default={}, description="Expected label image per output name.")
    measurements: RelativePath | None = None
    parameters: dict[str, Any] = {}
    dice: float = Field(default=0.99, gt=0, le=1, description="Least Dice coefficient per segment.")
    relative: float = Field(default=0.01, ge=0, description="Largest relative difference of a measurement.")


class Environment(_Part):
    """The Python environment the package runs in."""

    lock: RelativePath = Field(default="requirements.txt", description="Lock file with hashes, as pip and uv read it.")


class Manifest(_Part):
    """The whole manifest."""

    format: Literal[1] = Field(alias="insitu")
    name: Identifier
    version: str = Field(pattern=r"^[0-9]+(\.[0-9]+){0,3}([-+.][0-9A-Za-z.-]+)?$", max_length=64)
    title: str = Field(min_length=1, max_length=64)
    manufacturer: str = Field(default="", max_length=64)
    licence: str = Field(min_length=1)
    intended_use: str = Field(min_length=1)
    purpose: Literal["inference", "training"] = Field(
        default="inference", description="A training gives way to inference wherever both want the same."
    )
    not_for: tuple[str, ...] = Field(default=(), strict=False)
    entrypoint: tuple[str, ...] = Field(min_length=1, strict=False)
    environment: Environment = Environment()
    inputs: tuple[Input, ...] = Field(min_length=1, strict=False)
    parameters: dict[str, Any] = Field(default={}, description="JSON Schema (2020-12) of an object.")
    resources: Resources = Resources()
    outputs: Outputs
    golden: Golden | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        mistakes = [*self._name_mistakes(), *self._reference_mistakes(), *_schema_mistakes(self.parameters)]
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def _name_mistakes(self) -> list[str]:
        mistakes = []
        groups: list[tuple[str, list[Any]]] = [
            ("inputs: name", [item.name for item in self.inputs]),
            ("outputs.segmentations: name", [item.name for item in self.outputs.segmentations]),
            (
                "outputs: file",
                [item.file for item in self.outputs.segmentations] + [item.file for item in self.outputs.measurements],
            ),
        ]
        for segmentation in self.outputs.segmentations:
            where = f"outputs.segmentations.{segmentation.name}.segments"
            groups.append((f"{where}: label", [segment.label for segment in segmentation.segments]))
            groups.append((f"{where}: name", [segment.name for segment in segmentation.segments]))
        for what, values in groups:
            for value in sorted({value for value in values if values.count(value) > 1}):
                mistakes.append(f"{what} {value!r} stands more than once")
        return mistakes

    def _reference_mistakes(self) -> list[str]:
        inputs = {item.name for item in self.inputs}
        segmentations = {item.name for item in self.outputs.segmentations}
        mistakes = [
            f"outputs.segmentations.{item.name}.input: {item.input!r} is no input"
            for item in self.outputs.segmentations
            if item.input is not None and item.input not in inputs
        ]
        mistakes += [
            f"outputs.measurements.{item.file}.segmentation: {item.segmentation!r} is no segmentation"
            for item in self.outputs.measurements
            if item.segmentation is not None and item.segmentation not in segmentations
        ]
        if self.golden is not None:
            mistakes += [f"golden.inputs: {name!r} is no input" for name in self.golden.inputs if name not in inputs]
            mistakes += [
                f"golden.segmentations: {name!r} is no segmentation"
                for name in self.golden.segmentations
                if name not in segmentations
            ]
        return mistakes

    def check_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters with the schema's top-level defaults filled in.

        Raises
        ------
        Invalid
            They do not fit the schema; every mistake is listed.
        """
        import jsonschema

        properties = self.parameters.get("properties", {})
        filled = {name: schema["default"] for name, schema in properties.items() if "default" in schema} | parameters
        unknown = sorted(set(filled) - set(properties))
        errors = sorted(jsonschema.Draft202012Validator(self.parameters or {}).iter_errors(filled), key=str)
        mistakes = [f"{'.'.join(map(str, error.absolute_path)) or 'parameters'}: {error.message}" for error in errors]
        mistakes += [f"{name}: {self.name} has no such parameter" for name in unknown]
        if mistakes:
            raise Invalid(
                f"The parameters do not fit {self.name} {self.version}",
                why="; ".join(mistakes),
                remedy=f"It takes: {', '.join(sorted(properties)) or 'no parameters'}",
            )
        return filled


def _schema_mistakes(schema: dict[str, Any]) -> list[str]:
    import jsonschema

    if not schema:
        return []
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        return [f"parameters: not a JSON Schema ({error.message})"]
    if schema.get("type", "object") != "object":
        return ["parameters: the schema must be one of an object"]
    return []


def validate(document: Any, source: str) -> Manifest:
    """The manifest in a parsed document (of YAML or JSON).

    Parameters
    ----------
    document : Any
        What the parser gave.
    source : str
        Where it came from, for the message.

    Raises
    ------
    Invalid
        The document is not a manifest of version 1; every mistake is listed with the path of its field.
    """
    if not isinstance(document, dict):
        raise Invalid("The manifest must hold `key: value` lines", value=source)
    if document.get("insitu") != 1:
        raise Invalid(
            "The manifest's format is not known",
            value=str(document.get("insitu")),
            why=f"{source} must start with `insitu: 1`, the version of the format",
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise Invalid(
            f"{source} is not a valid manifest",
            why="; ".join(mistakes(error)),
            remedy="docs/algorithm-yaml.md describes every field",
        ) from error


def mistakes(error: ValidationError) -> list[str]:
    """One line per mistake: path of the field, what is wrong with it, the value where it is short."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        value = item.get("input")
        shown = f" (is {value!r})" if isinstance(value, str | int | float | bool) and len(str(value)) <= 60 else ""
        lines.append(f"{path}: {message}{shown}" if path else message)
    return lines


def read(package: Path) -> Manifest:
    """The manifest of the package in the folder `package`.

    Raises
    ------
    Invalid
        There is none, it is not YAML, or it has mistakes.
    """
    file = package / FILE_NAME
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(
            "There is no manifest",
            value=str(file),
            why=str(error.strerror),
            remedy=f"A package is a folder with {FILE_NAME}",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Invalid("The manifest is not YAML", value=str(file), why=" ".join(str(error).split())) from error
    return validate(document, file.name)


def dump(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON values; `validate` reads it back."""
    return manifest.model_dump(mode="json", by_alias=True)
