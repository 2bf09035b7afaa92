"""Responses of language models on disk, so that a prompt that was answered once is never paid for again."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import DmrecError

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, text TEXT NOT NULL,
  input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
"""


class ResponseCache:
    """A SQLite table of responses by the checksum of their request; threads and processes may share the file.

    Every response is a transaction of its own: it is on disk when `put` returns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open = True
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
        try:
            with self._errors():
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(SCHEMA)
        except DmrecError:
            self._connection.close()
            raise

    def get(self, key: str) -> str | None:
        """The response to the request with this checksum, None if there is none."""
        with self._lock, self._errors():
            row = self._connection.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, model: str, text: str, input_tokens: int, output_tokens: int) -> None:
        """Stores a response and removes a failure of the same key. Does nothing once the cache is closed."""
        with self._lock, self._errors():
            if self._open:
                self._connection.execute("BEGIN IMMEDIATE")
                values = (key, model, text, input_tokens, output_tokens)
                self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", values)
                self._connection.execute("DELETE FROM failures WHERE key = ?", (key,))
                self._connection.execute("COMMIT")

    def fail(self, key: str, model: str, reason: str) -> None:
        """Stores the reason why a request does not have a response."""
        with self._lock, self._errors():
            if self._open:
                self._connection.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", (key, model, reason))

    def close(self) -> None:
        """Closes the connection; SQLite writes its log back into the file."""
        with self._lock:
            self._open = False
            self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DmrecError(f"{self.path}: {error}; choose another file (--cache) or free some space") from None
