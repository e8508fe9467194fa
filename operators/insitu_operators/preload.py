"""Imported once by every Airflow process before it forks, so that a task starts with everything in memory.

Not here: anything that is done at import.
"""

import insitu.runs.launch.process
import insitu.runs.launch.specification  # noqa: F401

from . import algorithm_job, conclude, prepare  # noqa: F401
