"""Does what it should, and leaves a file in the scratch folder."""

import os
from pathlib import Path

import nifti

Path(os.environ["HOME"], "left").write_text("here")
nifti.segment_and_measure(100)
