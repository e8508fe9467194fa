"""Airflow operators of the platform. They ask the platform and launch jobs; domain logic stays out of Airflow."""
