"""Airflow operators that call the platform."""
