"""Bring a database to the newest schema with Alembic. Imported only when that is needed."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config


def upgrade(conn: sa.Connection) -> None:
    """Run the missing migrations in the transaction of `conn`."""
    command.upgrade(alembic_config(conn), "head")


def alembic_config(conn: sa.Connection | None = None) -> Config:
    """Alembic's configuration for the packaged migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = conn
    return config
