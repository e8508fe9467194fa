"""Algorithm packages that behave well or badly on purpose; they need nothing but Python.

Each kind is a program `KIND.py` in this folder; `build` makes a package of it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
KINDS = tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "nifti")))


def manifest(kind: str, **changes: Any) -> dict[str, Any]:
    """The manifest of a double as it stands in YAML."""
    document: dict[str, Any] = {
        "insitu": 1,
        "name": f"double-{kind.replace('_', '-')}",
        "version": "1.0.0",
        "title": f"Double {kind}",
        "licence": "Apache-2.0",
        "intended_use": "Tests of the platform.",
        "not_for": ["Patients"],
        "entrypoint": ["python", "main.py"],
        "inputs": [{"name": "image", "selector": {"modality": ["CT", "MR"]}}],
        "resources": {"memory": "512Mi", "seconds": 120, "cpu": 1},
        "outputs": {
            "segmentations": [
                {
                    "name": "mask",
                    "file": "mask.nii.gz",
                    "segments": [
                        {
                            "label": 1,
                            "name": "Bright",
                            "category": {"scheme": "SCT", "value": "85756007", "meaning": "Tissue"},
                            "type": {"scheme": "SCT", "value": "3138006", "meaning": "Bone"},
                            "color": "#f1d691",
                        }
                    ],
                }
            ],
            "measurements": [{"file": "measurements.json"}],
        },
    }
    document.update(changes)
    return document


def build(kind: str, parent: Path, **changes: Any) -> Path:
    """Make the package of a double below `parent`; `changes` replace fields of its manifest."""
    folder = parent / f"double-{kind.replace('_', '-')}"
    folder.mkdir(parents=True)
    shutil.copy(FOLDER / f"{kind}.py", folder / "main.py")
    shutil.copy(FOLDER / "nifti.py", folder / "nifti.py")
    (folder / "requirements.txt").write_text("# nothing\n")
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest(kind, **changes), sort_keys=False))
    return folder
