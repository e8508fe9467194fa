"""The one generic DAG: an execution is prepared, its job is run, its outcome is told. Its conf holds the execution's id only."""

from datetime import timedelta

from airflow.sdk import DAG

from insitu_operators.algorithm_job import AlgorithmJobOperator
from insitu_operators.conclude import ConcludeOperator
from insitu_operators.prepare import PrepareOperator

EXECUTION = "{{ dag_run.conf['execution'] }}"
# A retry never starts an algorithm again: it attaches to the job that runs, or finds its outcome.
RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=1)}

with DAG(
    "algorithm_run",
    description="Carries out one execution of an algorithm",
    schedule=None,
    catchup=False,
    max_active_runs=1024,
    max_active_tasks=1024,
    is_paused_upon_creation=False,
    default_args=RETRIES,
) as dag:
    prepare = PrepareOperator(task_id="prepare", execution=EXECUTION)
    run = AlgorithmJobOperator(task_id="run", execution=EXECUTION)
    conclude = ConcludeOperator(task_id="conclude", execution=EXECUTION)
    prepare >> run >> conclude
