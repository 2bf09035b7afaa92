"""Opens text files: compressed or plain, whatever their name says, in UTF-8 or an older encoding."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from ...errors import DmrecError

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
}
NOT_TEXT = {
    b"PAR1": "a Parquet file: rename it to .parquet",
    b"%PDF": "a PDF file, not a table",
    b"SQLite format 3\x00": "an SQLite database: export the table as CSV",
    b"\x89HDF": "an HDF5 file: export the table as CSV",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet (.xls): export it as CSV",
    b"Rar!": "a RAR archive: unpack it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"\x93NUMPY": "a NumPy array, not a table",
}
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LAYERS = 3  # of compression
BLOCK = 1 << 20
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def open_text(path: Path, encoding: str | None = None) -> IO[str]:
    """A text file, decompressed by what its first bytes say, with its line ends as they are.

    Args:
        path: the file.
        encoding: its encoding; by default `encoding_of` finds it.

    Raises:
        DmrecError: it is not a text file, or its encoding is not known.
    """
    found = encoding_of(path) if encoding is None else encoding
    stream, _ = open_bytes(path)
    return io.TextIOWrapper(stream, found, newline="")


def encoding_of(path: Path) -> str:
    """The encoding of a text file: that of its byte order mark; UTF-8 if all of it is; UTF-16; or windows-1252.

    A file is taken for windows-1252 only if it has bytes beyond ASCII and none of them are UTF-8.

    Raises:
        DmrecError: none of them.
    """
    status = path.stat()
    return _encoding_of(path, status.st_size, status.st_mtime_ns)


def layers_of(path: Path) -> list[str]:
    """The compressions of a file, the outermost first: ``["gzip"]``."""
    stream, layers = open_bytes(path)
    stream.close()
    return layers


@lru_cache(maxsize=64)
def _encoding_of(path: Path, _size: int, _modified: int) -> str:
    stream, _ = open_bytes(path)
    with stream:
        try:
            block = stream.read(BLOCK)
        except DAMAGED as error:
            raise DmrecError(f"{path}, line 1: {error}") from None
        for mark, name in BOMS:
            if block.startswith(mark):
                return name
        if (wide := _utf16_without_mark(block)) is not None:
            return wide
        decoder, line, beyond_ascii = codecs.getincrementaldecoder("utf-8")(), 1, False
        try:
            while block:
                text = decoder.decode(block)
                beyond_ascii = beyond_ascii or not text.isascii()
                line += block.count(b"\n")
                block = stream.read(BLOCK)
            decoder.decode(b"", final=True)
        except DAMAGED as error:
            raise DmrecError(f"{path}, line {line}: {error}") from None
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            if beyond_ascii or not error.object[: error.start].isascii() or not _is_windows_1252(path):
                byte = error.object[error.start]
                raise DmrecError(
                    f"{path}, line {line}: the byte 0x{byte:02x} is not UTF-8; name the encoding: --encoding"
                ) from None
            return "cp1252"
    return "utf-8"


def _utf16_without_mark(block: bytes) -> str | None:
    """UTF-16 of mostly Latin text has a zero in every second byte."""
    sample = block[:1000]
    for name, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if len(zeros) > 3 and zeros.count(0) > 0.6 * len(zeros):
            return name
    return None


def _is_windows_1252(path: Path) -> bool:
    """Whether all bytes are characters of windows-1252, and none of those beyond ASCII are valid UTF-8."""
    stream, _ = open_bytes(path)
    with stream:
        while block := stream.read(BLOCK):
            try:
                block.decode("cp1252")
            except UnicodeDecodeError:
                return False
            if any(not each.isascii() for each in block.decode("utf-8", errors="ignore")):
                return False
    return True


def open_bytes(path: Path) -> tuple[IO[bytes], list[str]]:
    """The content of a file, decompressed, and its compressions, the outermost first.

    Raises:
        DmrecError: it is not a file that holds text, by its first bytes.
    """
    stream: Any = path.open("rb")
    try:
        return _decompressed(stream, path)
    except DAMAGED as error:
        raise DmrecError(f"{path} is damaged: {error}") from None


class _Layer(io.BufferedReader):
    """A decompressing stream that closes what it reads from."""

    def __init__(self, raw: Any, below: Any) -> None:
        super().__init__(raw)
        self._below = below

    def close(self) -> None:
        super().close()
        self._below.close()


def _decompressed(stream: Any, path: Path) -> tuple[IO[bytes], list[str]]:
    layers: list[str] = []
    try:
        while True:
            first = stream.peek(16)[:16]
            for mark, what in NOT_TEXT.items():
                if first.startswith(mark):
                    raise DmrecError(f"{path} is {what}")
            kind = next((kind for mark, kind in COMPRESSED.items() if first.startswith(mark)), None)
            if kind is None:
                break
            if len(layers) == LAYERS:
                raise DmrecError(f"{path} is compressed more than {LAYERS} times")
            stream = _Layer(OPENERS[kind](stream, path), stream)
            layers.append(kind)
        start = stream.peek(512)[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if start.startswith((b"<!doctype html", b"<html")):
            raise DmrecError(f"{path} is an HTML page, not a table: download the file itself")
    except BaseException:
        stream.close()
        raise
    return stream, layers


def _open_zip(stream: IO[bytes], path: Path) -> Any:
    archive = zipfile.ZipFile(stream)
    names = [each.filename for each in archive.infolist() if not each.is_dir()]
    if "[Content_Types].xml" in names:
        raise DmrecError(f"{path} is a spreadsheet (a zip file): export it as CSV")
    members = [name for name in names if not name.startswith("__MACOSX/")]
    if len(members) != 1:
        listed = ", ".join(members[:5]) + (", .." if len(members) > 5 else "")
        raise DmrecError(f"{path} is a zip file with {len(members)} files ({listed}): unpack it and name one")
    return archive.open(members[0])


def _open_zstd(stream: IO[bytes], path: Path) -> Any:
    from .arrow import import_pyarrow

    return import_pyarrow().CompressedInputStream(stream, "zstd")


OPENERS: dict[str, Callable[[Any, Path], Any]] = {
    "gzip": lambda stream, _: gzip.GzipFile(fileobj=stream, mode="rb"),
    "bzip2": lambda stream, _: bz2.BZ2File(stream),
    "xz": lambda stream, _: lzma.LZMAFile(stream),  # noqa: SIM115
    "zip": _open_zip,
    "zstd": _open_zstd,
}
