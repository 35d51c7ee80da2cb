"""What the same work costs without Agora: a process with its own session and log file, the same rows, the same sync."""

import json
import sqlite3
import subprocess
import time
from pathlib import Path

ROW = json.dumps({"id": "x" * 26, "spec": {"command": ["sleep", "600"], "env": {}}, "filler": "y" * 900})
EVENT = json.dumps({"specversion": "1.0", "type": "dispatch.requested", "data": {"filler": "y" * 300}})


class Baseline:
    """`Popen` plus rows in raw SQLite with synchronous FULL, in three commits as a dispatch needs them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.database = sqlite3.connect(folder / "baseline.db", isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = FULL")
        self.database.execute("CREATE TABLE dispatches (id TEXT PRIMARY KEY, state TEXT, body TEXT)")
        self.database.execute("CREATE TABLE events (id TEXT, sequence INTEGER, body TEXT)")
        self.started: list[subprocess.Popen[bytes]] = []

    def popen(self) -> float:
        """Start one process; returns seconds."""
        began = time.perf_counter()
        with (self.folder / f"{len(self.started)}.log").open("wb") as log:
            self.started.append(
                subprocess.Popen(
                    ["sleep", "600"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )
        return time.perf_counter() - began

    def dispatch(self) -> float:
        """Start one process between the commits that record it; returns seconds."""
        began = time.perf_counter()
        name = f"d{len(self.started)}"
        self._commit("INSERT INTO dispatches VALUES (?, 'pending', ?)", (name, ROW), name, 1)
        self._commit("UPDATE dispatches SET state = 'submitted', body = ? WHERE id = ?", (ROW, name), name, 2)
        self.popen()
        self._commit("UPDATE dispatches SET state = 'running', body = ? WHERE id = ?", (ROW, name), name, 3)
        return time.perf_counter() - began

    def _commit(self, statement: str, values: tuple[str, ...], name: str, sequence: int) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        self.database.execute(statement, values)
        self.database.execute("INSERT INTO events VALUES (?, ?, ?)", (name, sequence, EVENT))
        self.database.execute("COMMIT")

    def close(self) -> None:
        """Kill and reap what was started."""
        for process in self.started:
            process.kill()
        for process in self.started:
            process.wait()
        self.database.close()
