"""Does what it should."""

import json
import os

import nifti

with open(os.environ["INSITU_PARAMETERS"]) as stream:
    parameters = json.load(stream)
nifti.segment_and_measure(parameters.get("threshold", 100))
print("segmented")
