"""Imported once by every Airflow process before it forks, so that a task starts with everything in memory."""

import gc

import insitu.runs.launch.kubernetes.launcher
import insitu.runs.launch.process
import insitu.runs.launch.specification  # noqa: F401

from . import algorithm_job, conclude, prepare  # noqa: F401

# Airflow's start makes millions of objects that stay: looking through them again and again costs a fifth of its time.
gc.set_threshold(50_000, 20, 50)
