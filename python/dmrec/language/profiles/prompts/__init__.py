"""Prompts: text files whose placeholders are filled with data.

They are filled once, so nothing in the data is ever taken for a placeholder. The writer ``template`` uses ``item.txt``
and ``user.txt``, a language model ``item.llm.txt`` and ``user.llm.txt``: instructions, a line ``---``, the data. A line
whose placeholders are all empty is left out.
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
SEPARATOR = "---"


@dataclass(frozen=True)
class Prompt:
    """The prompt for items or users.

    Attributes:
        instructions: what a language model should do; "" for templates.
        lines: the lines to fill in.
        sha256: checksum of the file, the prompt's version.
        as_json: whether fields are filled in as JSON values.
    """

    instructions: str
    lines: tuple[str, ...]
    sha256: str
    as_json: bool

    def fill(self, fields: Mapping[str, Any]) -> str:
        """The lines with ``fields`` filled in; "" if all fields that they name are empty."""
        values = {name: json.dumps(v, ensure_ascii=False) if self.as_json else _plain(v) for name, v in fields.items()}
        kept = []
        for line in self.lines:
            template = Template(line)
            named = template.get_identifiers()
            if not named or any(fields[name] for name in named):
                kept.append((template.substitute(values), bool(named)))
        return "\n".join(line for line, _ in kept) if any(filled for _, filled in kept) else ""


def _plain(value: Any) -> str:
    """Records as their values; lists separated by commas, or by semicolons where an element contains a comma."""
    if isinstance(value, dict):
        return ": ".join(_plain(element) for element in value.values())
    if isinstance(value, list):
        parts = [_plain(element) for element in value]
        return ("; " if any("," in part for part in parts) else ", ").join(parts)
    return str(value)


def read_prompts(writer: str, folder: Path | None = None) -> dict[str, Prompt]:
    """The prompts for "items" and "users" of a kind of writer, "template" or "llm".

    Args:
        writer: a key of `ENDINGS`.
        folder: a folder with edited prompts; default: the prompts of the package.

    Raises:
        DmrecError: the writer is unknown, or a file is missing or not a valid prompt.
    """
    if writer not in ENDINGS:
        raise DmrecError(f"there is no writer '{writer}'{did_you_mean(writer, ENDINGS)}")
    return {side: _read(folder, f"{stem}{ENDINGS[writer]}", side, writer) for side, stem in SIDES.items()}


def _read(folder: Path | None, name: str, side: str, writer: str) -> Prompt:
    source = files(__name__) / name if folder is None else folder / name
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DmrecError(f"{source} does not exist; write the prompts first and edit them (--write-prompts)") from None
    except UnicodeDecodeError:
        raise DmrecError(f"{source} is not text in UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip()]
    instructions: list[str] = []
    if writer == "llm":
        if lines.count(SEPARATOR) != 1:
            raise DmrecError(f"{source}: one line '{SEPARATOR}' must separate the instructions from the data")
        end = lines.index(SEPARATOR)
        instructions, lines = lines[:end], lines[end + 1 :]
    for line in lines:
        if not Template(line).is_valid():
            raise DmrecError(f"{source}: a '$' without a placeholder in '{line}'; write $$ for a dollar sign")
        for placeholder in Template(line).get_identifiers():
            if placeholder not in PLACEHOLDERS[side]:
                known = did_you_mean(placeholder, PLACEHOLDERS[side])
                raise DmrecError(f"{source}: unknown placeholder '${placeholder}'{known}")
    if not any(Template(line).get_identifiers() for line in lines):
        raise DmrecError(f"{source} does not name a placeholder; known: {', '.join(PLACEHOLDERS[side])}")
    return Prompt("\n".join(instructions), tuple(lines), hashlib.sha256(text.encode()).hexdigest(), writer == "llm")


def write_prompts(folder: Path) -> list[Path]:
    """Writes the prompts of the package into a folder, to be edited, and returns the paths.

    Raises:
        DmrecError: one of the files exists; none is replaced.
    """
    paths = [folder / f"{stem}{ending}" for stem in SIDES.values() for ending in ENDINGS.values()]
    for path in paths:
        if path.exists():
            raise DmrecError(f"{path} exists already; choose another folder (--write-prompts)")
    for path in paths:
        write_atomically(path, (files(__name__) / path.name).read_bytes())
    return paths
