"""Users and items as they are described: ids, titles, texts."""

from __future__ import annotations

import gzip
import html
import json
import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DmrecError

LONGEST_ID = 512
MOST_TAGS = 50
NOT_IN_IDS = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, separators of lines
UNSEEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
TAGS = re.compile(r"</?[a-zA-Z][^<>]*>")
JOINERS = "\u200c\u200d"  # within words of Persian and of emoji


@dataclass(frozen=True)
class Entity:
    """A user or an item: its id in the source, a title to show, a text to embed (both may be empty).

    Tags and description are what profiles are written from, where a source has them apart.
    """

    id: str
    title: str = ""
    text: str = ""
    tags: tuple[str, ...] = ()
    description: str = ""

    def row(self) -> dict[str, Any]:
        """As a line of a file: empty fields are left out, except id, title and text."""
        return {name: value for name, value in vars(self).items() if value or name in ("id", "title", "text")}

    @property
    def label(self) -> str:
        """What to call it."""
        return self.title or self.id


def read_entities(path: Path) -> list[Entity]:
    """Users or items from JSON lines (gzip or plain). Texts are data: control characters go, length is capped.

    Without an id, the line's number is used.
    """
    return list(iterate_entities(path))


def iterate_entities(path: Path) -> Iterator[Entity]:
    """`read_entities`, one at a time."""
    opener = gzip.open if path.suffix == ".gz" else open
    number, count = 0, 0
    if path.is_dir():
        raise DmrecError(f"{path} is a folder; JSON lines are expected")
    try:
        with opener(path, "rt", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DmrecError(f"{path}, line {number}: must be a JSON object, got {type(row).__name__}")
                identity = str(count if row.get("id") is None else row["id"])
                if (fault := fault_of_id(identity)) is not None:
                    raise DmrecError(f"{path}, line {number}: {fault}")
                yield entity_of(identity, row)
                count += 1
    except FileNotFoundError:
        raise DmrecError(f"{path} does not exist") from None
    except (ValueError, RecursionError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DmrecError(f"{path}, line {max(number, 1)}: not JSON lines ({error})") from None


def entity_of(identity: str, row: dict[str, Any]) -> Entity:
    """From the fields of a record. Without a text, tags and description make one, after the title."""
    title, description = clean(row.get("title") or ""), clean(row.get("description") or "")
    tags = tuple(tag for each in _listed(row.get("tags")) if (tag := clean(each, 200)))[:MOST_TAGS]
    text = clean(row.get("text") or "")
    if not text and (tags or description):
        text = clean(". ".join(part for part in (title, ", ".join(tags), description) if part))
    return Entity(identity, title, text, tags, description)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    return str(value).split(",") if value else []


def fault_of_id(identity: str) -> str | None:
    """Why it cannot be an id: ids are kept as they are, and so must be shown as they are."""
    if len(identity) > LONGEST_ID:
        return f"the id '{identity[:20]}..' has {len(identity)} characters, at most {LONGEST_ID} are allowed"
    if not identity.isprintable() and any(unicodedata.category(c) in NOT_IN_IDS for c in identity):
        return f"the id {identity!r} has characters that cannot be shown"
    return None


def without_markup(text: str) -> str:
    """``text`` without HTML: tags, comments, scripts and style sheets go, entities become characters."""
    if "<" in text:
        text = TAGS.sub(" ", UNSEEN.sub(" ", text))
    return html.unescape(text) if "&" in text else text


def clean(text: object, limit: int = 20_000) -> str:
    """``text`` as one line without control characters, at most ``limit`` characters."""
    line = str(text)[:limit]
    if not line.isprintable():
        line = "".join(c if c.isprintable() or c in JOINERS else " " for c in line)
        line = re.sub(rf"(?<!\S)[{JOINERS}]+|[{JOINERS}]+(?!\S)", " ", line)
    return " ".join(line.split())
