"""Prompts: text files whose placeholders are filled with data, once, so that nothing in the data is ever a placeholder.

The writer `template` fills in ``item.txt`` and ``user.txt``; a language model is asked ``item.llm.txt`` and
``user.llm.txt``: its instructions, a line ``---``, the data. A line whose placeholders are all empty is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ....errors import DmrecError, did_you_mean
from ....files import write_atomically

SIDES = {"items": "item", "users": "user"}
ENDINGS = {"template": ".txt", "llm": ".llm.txt"}
PLACEHOLDERS = {
    "items": ("title", "tags", "description"),
    "users": ("titles", "history", "frequent_tags", "reviews"),
}
BREAK = "---"


@dataclass(frozen=True)
class Prompt:
    """The prompt of one side: instructions (none for templates) and lines to fill in; ``sha256`` is its version."""

    instructions: str
    lines: tuple[str, ...]
    sha256: str
    as_json: bool

    def fill(self, fields: Mapping[str, Any]) -> str:
        """The lines with ``fields`` in them; empty where all fields they name are."""
        values = {name: json.dumps(v, ensure_ascii=False) if self.as_json else _plain(v) for name, v in fields.items()}
        kept = []
        for line in self.lines:
            template = Template(line)
            named = template.get_identifiers()
            if not named or any(fields[name] for name in named):
                kept.append((template.substitute(values), bool(named)))
        return "\n".join(line for line, _ in kept) if any(filled for _, filled in kept) else ""


def _plain(value: Any) -> str:
    """Records as their values, lists with commas, or semicolons where a part has commas of its own."""
    if isinstance(value, dict):
        return ": ".join(_plain(each) for each in value.values())
    if isinstance(value, list):
        parts = [_plain(each) for each in value]
        return ("; " if any("," in part for part in parts) else ", ").join(parts)
    return str(value)


def read_prompts(writer: str, folder: Path | None = None) -> dict[str, Prompt]:
    """The prompts of a writer for items and users: those shipped, or edited copies in ``folder``."""
    return {side: _read(folder, f"{stem}{ENDINGS[writer]}", side, writer) for side, stem in SIDES.items()}


def _read(folder: Path | None, name: str, side: str, writer: str) -> Prompt:
    source = files(__name__) / name if folder is None else folder / name
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DmrecError(f"{source} does not exist; --write-prompts writes the prompts to edit") from None
    except UnicodeDecodeError:
        raise DmrecError(f"{source} is no text in UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip()]
    instructions: list[str] = []
    if writer == "llm":
        if lines.count(BREAK) != 1:
            raise DmrecError(f"{source}: one line '{BREAK}' must part the instructions from the data")
        where = lines.index(BREAK)
        instructions, lines = lines[:where], lines[where + 1 :]
    for line in lines:
        if not Template(line).is_valid():
            raise DmrecError(f"{source}: a '$' that starts no placeholder, in '{line}'; write $$ for the sign")
        for placeholder in Template(line).get_identifiers():
            if placeholder not in PLACEHOLDERS[side]:
                known = did_you_mean(placeholder, PLACEHOLDERS[side])
                raise DmrecError(f"{source}: unknown placeholder '${placeholder}'{known}")
    if not any(Template(line).get_identifiers() for line in lines):
        raise DmrecError(f"{source} names no placeholder; known: {', '.join(PLACEHOLDERS[side])}")
    return Prompt("\n".join(instructions), tuple(lines), hashlib.sha256(text.encode()).hexdigest(), writer == "llm")


def write_prompts(folder: Path) -> list[Path]:
    """The shipped prompts as files to edit; none that stands there is replaced."""
    paths = [folder / f"{stem}{ending}" for stem in SIDES.values() for ending in ENDINGS.values()]
    for path in paths:
        if path.exists():
            raise DmrecError(f"{path} stands there already; name another folder (--write-prompts)")
    for path in paths:
        write_atomically(path, (files(__name__) / path.name).read_bytes())
    return paths
