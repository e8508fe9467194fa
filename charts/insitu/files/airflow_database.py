"""Airflow's database, as its pods ask for it; Airflow itself takes seconds and a core for each look, in five pods at once.

wait [--schema] ARGUMENTS...   until the database lets us in (until it has a schema), then become `airflow ARGUMENTS...`
alive KIND SECONDS             fail where the job of a kind has been silent for so long
"""

import configparser
import os
import sys
import time

import psycopg2

LOOK_EVERY = 2.0  # seconds


def main():
    """Do what the first argument says."""
    config = configparser.ConfigParser()  # which reads %% as %, as Airflow does
    config.read(os.path.join(os.environ["AIRFLOW_HOME"], "airflow.cfg"))
    address = config["database"]["sql_alchemy_conn"].replace("+psycopg2", "", 1)
    {"wait": wait, "alive": alive}[sys.argv[1]](address, *sys.argv[2:])


def wait(address, *arguments):
    """Wait, then become Airflow."""
    schema = arguments[:1] == ("--schema",)
    told = None
    while (missing := look(address, schema)) is not None:
        if missing != told:
            print("waiting:", missing, flush=True)
            told = missing
        time.sleep(LOOK_EVERY)
    os.execvp(sys.executable, [sys.executable, "-m", "airflow", *arguments[schema:]])  # noqa: S606


def look(address, schema):
    """What is missing; None where nothing is."""
    try:
        connection = psycopg2.connect(address, connect_timeout=5)
    except psycopg2.OperationalError as error:
        return str(error).strip().splitlines()[-1]
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('alembic_version') IS NOT NULL")
            return None if cursor.fetchone()[0] or not schema else "the schema is not made yet"
    finally:
        connection.close()


def alive(address, kind, seconds):
    """Fail where the job of a kind is silent. A database that is away is no reason to start anybody anew."""
    try:
        connection = psycopg2.connect(address, connect_timeout=5)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT extract(epoch FROM now() - max(latest_heartbeat)) FROM job WHERE job_type = %s", (kind,)
            )
            (silent,) = cursor.fetchone()
        connection.close()
    except psycopg2.OperationalError:
        return
    if silent is None or silent > float(seconds):
        sys.exit(f"{kind} has been silent for {'ever' if silent is None else f'{silent:.0f} s'}")


if __name__ == "__main__":
    main()
