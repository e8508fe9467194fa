"""The first schema: archive, events, projects, identity, audit, routing, algorithms, runs."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables of 0001_spine.sql."""
    statement = (Path(__file__).parent / "0001_spine.sql").read_text()
    driver = op.get_bind().connection.driver_connection
    assert driver is not None  # noqa: S101  # a bound connection has one; SQLAlchemy's type allows None
    driver.execute(statement)
