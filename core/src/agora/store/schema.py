"""Numbered SQL migrations, applied in one transaction each.

An own applier of a few lines, because the usual ones (yoyo, alembic) take a lock row that a killed process leaves
behind, which would lock every later process out of its running workloads.
"""

import re
import sqlite3
from importlib import resources

from agora.errors import StoreTooNew

_VERSION_TABLE = "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY)"


def migrations() -> list[tuple[int, str]]:
    """Return every migration as (number, SQL), in order."""
    folder = resources.files("agora.store") / "migrations"
    found = [
        (int(match.group(1)), item.read_text())
        for item in folder.iterdir()
        if (match := re.fullmatch(r"(\d{4})_\w+\.sql", item.name))
    ]
    return sorted(found)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date; safe for many processes at once.

    Raises:
        StoreTooNew: a newer version of Agora wrote this store.
    """
    steps = migrations()
    newest = steps[-1][0]
    if _current(connection) == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_VERSION_TABLE)
        version = _current(connection)
        if version > newest:
            raise StoreTooNew(
                f"the store has schema version {version}, this Agora knows versions up to {newest}: "
                "upgrade agora-dispatch, or set AGORA_HOME to another directory"
            )
        for number, script in steps:
            if number > version:
                for statement in script.split(";\n"):
                    if statement.strip():
                        connection.execute(statement)
                connection.execute("INSERT INTO schema_version (version) VALUES (?)", (number,))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _current(connection: sqlite3.Connection) -> int:
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone()
    if known is None:
        return 0
    row = connection.execute("SELECT MAX(version) FROM schema_version").fetchone()
    return int(row[0] or 0)
