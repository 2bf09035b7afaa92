"""Users and items as they are described: ids, titles, texts."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import DmrecError

LONGEST_ID = 512


@dataclass(frozen=True)
class Entity:
    """A user or an item: its id in the source, a title to show, a text to embed (both may be empty)."""

    id: str
    title: str = ""
    text: str = ""

    @property
    def label(self) -> str:
        """What to call it."""
        return self.title or self.id


ID_KEYS = ("id", "item_id", "user_id", "iid", "uid", "asin", "parent_asin")


def read_entities(path: Path, *, ids_required: bool = False) -> list[Entity]:
    """Users or items from JSON lines (gzip or plain). Texts are data: control characters go, length is capped.

    Without an id, unless ``ids_required``, a line's number stands in.
    """
    entities: list[Entity] = []
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
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
                identity = next((row[key] for key in ID_KEYS if row.get(key) is not None), None)
                if identity is None:
                    if ids_required:
                        raise DmrecError(f"{path}, line {number}: has no id (one of {', '.join(ID_KEYS)})")
                    identity = len(entities)
                identity = str(identity)
                if (fault := fault_of_id(identity)) is not None:
                    raise DmrecError(f"{path}, line {number}: {fault}")
                entities.append(Entity(identity, clean(row.get("title") or ""), clean(row.get("text") or "")))
    except FileNotFoundError:
        raise DmrecError(f"{path} does not exist") from None
    except (ValueError, RecursionError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DmrecError(f"{path}, line {max(number, 1)}: not JSON lines ({error})") from None
    return entities


def fault_of_id(identity: str) -> str | None:
    """Why it cannot be an id: ids are kept as they are, and so must be shown as they are."""
    if len(identity) > LONGEST_ID:
        return f"the id '{identity[:20]}..' has {len(identity)} characters, at most {LONGEST_ID} are allowed"
    if not identity.isprintable():
        return f"the id {identity!r} has characters that cannot be shown"
    return None


def clean(text: object, limit: int = 20_000) -> str:
    """``text`` as one line without control characters, at most ``limit`` characters."""
    line = str(text)[:limit]
    if not line.isprintable():
        line = "".join(c if c.isprintable() else " " for c in line)
    return " ".join(line.split())
