"""Spark: under ``spark-submit`` on a cluster, else in this process on the cores of one machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DmrecError
from .engine import JSON_LINES, PARQUET, SourceFiles

SUBMITTED = "PYSPARK_GATEWAY_PORT"
"""In the environment of a process that spark-submit started, whose settings then count."""


class Spark:
    """The `Engine` of Spark.

    Args:
        scratch: an empty folder for its tables; on a cluster, on storage that all machines share.
        memory: bytes of the driver, where no Spark is running yet; those of executors are set by ``spark-submit``.
    """

    name = "spark"
    compressions: tuple[str, ...] = ("gzip", "bzip2")

    def __init__(self, scratch: Path, memory: int) -> None:
        try:
            from pyspark.errors import PySparkException
            from pyspark.sql import SparkSession
        except ImportError:
            raise DmrecError("--engine spark needs pyspark: pip install pyspark, or run under spark-submit") from None
        self._error: type[Exception] = PySparkException
        self._scratch = scratch
        self._started = SparkSession.getActiveSession() is None
        builder = SparkSession.builder.appName("dmrec data import").config("spark.ui.showConsoleProgress", "false")
        if self._started and SUBMITTED not in os.environ:
            cores = os.cpu_count() or 1
            local = {"master": f"local[{cores}]", "sql.shuffle.partitions": str(4 * cores), "ui.enabled": "false"}
            local |= {"driver.memory": f"{max(memory >> 20, 512)}m", "local.dir": str(scratch / "spilled")}
            for name, value in local.items():
                builder = builder.config(f"spark.{name}", value)
        try:
            self._session: Any = builder.getOrCreate()
        except Exception as error:  # Java's absence is a RuntimeError or one of pyspark's own, by version
            raise DmrecError(f"Spark does not start: it needs Java 17 or newer ({_first_line(error)})") from None
        if self._started:
            self._session.sparkContext.setLogLevel("ERROR")

    def relation(self, source: SourceFiles) -> tuple[str, str]:
        """A view of the files, and the function that names a row's file."""
        files = [_url(path) for path in source.files]
        reader = self._session.read
        with self._clear_errors():
            if source.kind == PARQUET:
                found = reader.parquet(*files)
            else:
                schema = ", ".join(f"{self.quote(name)} STRING" for name in source.names)
                reader = reader.schema(schema).option("mode", "FAILFAST")
                if source.kind == JSON_LINES:
                    found = reader.json(files)
                else:
                    quote = '"' if source.quoted else ""
                    reader = reader.option("sep", source.delimiter).option("header", source.header)
                    found = reader.option("quote", quote).option("escape", quote or "\\").csv(files)
            found.createOrReplaceTempView("files")
        return "files", "input_file_name()"

    def quote(self, name: str) -> str:
        """In backticks."""
        return "`" + name.replace("`", "``") + "`"

    def view(self, name: str, query: str) -> None:
        """A temporary view."""
        with self._clear_errors():
            self._session.sql(query).createOrReplaceTempView(name)

    def table(self, name: str, query: str) -> None:
        """A folder of Parquet files, and a view of it."""
        self.read_parquet(name, self._write(name, query))

    def read_parquet(self, name: str, path: Path) -> None:
        """A view of a file or a folder of files."""
        with self._clear_errors():
            self._session.read.parquet(_url(path)).createOrReplaceTempView(name)

    def drop(self, *names: str) -> None:
        """Deletes folders."""
        for name in names:
            self._session.catalog.dropTempView(name)
            shutil.rmtree(self._scratch / name, ignore_errors=True)

    def row(self, query: str) -> tuple[Any, ...] | None:
        """The first row."""
        with self._clear_errors():
            found = self._session.sql(query).first()
        return None if found is None else tuple(found)

    def batches(self, query: str) -> Iterator[Any]:
        """From Parquet files: Spark numbers the files of a sorted result in its order."""
        import pyarrow.parquet

        folder = self._write("result", query)
        for path in sorted(folder.glob("part-*.parquet")):
            with pyarrow.parquet.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=1 << 20)
        shutil.rmtree(folder)

    def close(self) -> None:
        """Ends Spark where this started it."""
        if self._started:
            self._session.stop()

    def _write(self, name: str, query: str) -> Path:
        folder = self._scratch / name
        with self._clear_errors():
            self._session.sql(query).write.mode("overwrite").parquet(_url(folder))
        return folder

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise DmrecError(f"Spark: {_first_line(error)}") from error


def _url(path: Path) -> str:
    """A path in the file system, whatever a cluster's default is; not a pattern."""
    return "file://" + re.sub(r"([\\*?{}\[\]])", r"\\\1", str(path.resolve()))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
