"""Wait until Airflow's database lets us in (with --schema: until it has a schema), then become `airflow` with the other arguments.

Airflow itself takes seconds and a core for each look, in five pods at once.
"""

import configparser
import os
import sys
import time

import psycopg2

LOOK_EVERY = 2.0  # seconds


def main():
    """Wait, then become it."""
    arguments = sys.argv[1:]
    schema = arguments[:1] == ["--schema"]
    config = configparser.ConfigParser()  # which reads %% as %, as Airflow does
    config.read(os.path.join(os.environ["AIRFLOW_HOME"], "airflow.cfg"))
    address = config["database"]["sql_alchemy_conn"].replace("+psycopg2", "", 1)
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


if __name__ == "__main__":
    main()
