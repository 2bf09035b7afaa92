"""Engines for relational work on data that is larger than memory: one text of SQL, run by DuckDB or by Spark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .duckdb import DuckDb
from .engine import Engine
from .spark import Spark

ENGINES: dict[str, Callable[[Path, int], Engine]] = {DuckDb.name: DuckDb, Spark.name: Spark}
"""By name: makes an engine from a scratch folder and the bytes of memory that it may use."""
