"""Fail where Airflow's job of a kind has been silent for SECONDS by its own database: `airflow_alive.py KIND SECONDS`.

A database that is away is no reason to start anybody anew.
"""

import configparser
import os
import sys

import psycopg2


def main():
    """Ask once."""
    kind, seconds = sys.argv[1], float(sys.argv[2])
    config = configparser.ConfigParser(interpolation=None)
    config.read(os.path.join(os.environ["AIRFLOW_HOME"], "airflow.cfg"))
    address = config["database"]["sql_alchemy_conn"].replace("+psycopg2", "", 1)
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
    if silent is None or silent > seconds:
        sys.exit(f"{kind} has been silent for {'ever' if silent is None else f'{silent:.0f} s'}")


if __name__ == "__main__":
    main()
