"""Files that are either whole or not there, and their checksums."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import DmrecError

UMASK = os.umask(0o022)
os.umask(UMASK)  # it can be read only by setting it


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """``write(temporary)`` in the same folder, force it to disk, rename: a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~UMASK)  # some libraries create files that nobody else can read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Removes what a process that was killed within `replace_file` has left in a folder that nobody writes to."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes a whole file, as `replace_file` does."""
    replace_file(path, lambda temporary: _write(temporary, content))


def _write(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DmrecError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DmrecError(f"{path} is not valid JSON ({error})") from None


def json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """One JSON object a line, compressed; the same bytes for the same rows."""
    buffer = io.BytesIO()
    _write_lines(buffer, rows)
    return buffer.getvalue()


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """`json_lines` to a file, one row at a time."""
    with path.open("wb") as file:
        _write_lines(file, rows)


def _write_lines(file: IO[bytes], rows: Iterable[dict[str, Any]]) -> None:
    with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed:
        for row in rows:
            compressed.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def write_array(path: Path, array: np.ndarray) -> None:
    """An .npy file, in blocks: ``array`` may be mapped from disk and larger than memory."""
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, len(array), 65_536):
            file.write(np.ascontiguousarray(array[first : first + 65_536]).data)


@contextlib.contextmanager
def locked(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Holds the lock ``path``. Waits for it; with ``refusal`` that is the error instead.

    Nothing is held on Windows and on file systems that know no locks.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            try:
                held = _lock(file, wait=refusal is None)
            except BlockingIOError:
                raise DmrecError(str(refusal)) from None
            if not held or _is_at(file, path):  # or it was removed while this waited
                yield
                return


def _lock(file: IO[str], wait: bool) -> bool:
    """Whether there are locks here; BlockingIOError where it is another's."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


NO_CHECKSUM = "0" * 64


def write_with_checksum(path: Path, values: dict[str, Any]) -> None:
    """JSON that carries the checksum of its own bytes, under ``checksum``, atomically."""
    text = json.dumps({**values, "checksum": NO_CHECKSUM}, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.replace(NO_CHECKSUM, hashlib.sha256(text.encode()).hexdigest()).encode())


def read_with_checksum(path: Path) -> dict[str, Any]:
    """What `write_with_checksum` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DmrecError: a byte of it has changed since.
    """
    try:
        text = path.read_bytes().decode()
        values: dict[str, Any] = json.loads(text)
        checksum = str(values.pop("checksum" if "checksum" in values else "seal"))  # "seal" in version 0.1
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DmrecError(f"{path.name} is damaged") from None
    if len(checksum) != 64 or hashlib.sha256(text.replace(checksum, NO_CHECKSUM).encode()).hexdigest() != checksum:
        raise DmrecError(f"{path.name} is damaged")
    return values


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
