"""RecBole's atomic files."""

from __future__ import annotations

from pathlib import Path

from ...errors import DmrecError
from ..dataset import SPLITS
from ..entities import Entity, clean
from .columns import IDS, plain_name
from .records import read_rows
from .source import Source
from .tables import read_interactions


def read_folder(folder: Path, columns: dict[str, str] | None = None) -> Source:
    """Reads NAME.inter, or NAME.train.inter, NAME.valid.inter and NAME.test.inter; with NAME.item and NAME.user."""
    there = sorted(folder.glob("*.inter"))
    parts = [path for split in SPLITS for path in there if path.name.endswith(f".{split}.inter")]
    endings = [f".{split}.inter" for split in SPLITS] if parts else [".inter"]
    files = parts or there
    names = {path.name.removesuffix(ending) for path, ending in zip(files, endings, strict=False)}
    if len(files) != len(endings) or len(names) != 1:
        raise DmrecError(
            f"{folder} must hold one NAME.inter, or NAME.train.inter, NAME.valid.inter and NAME.test.inter; "
            f"it holds {', '.join(path.name for path in there)}"
        )
    (name,) = names
    read = [read_interactions(path, columns) for path in files]
    described = {side: folder / f"{name}.{side}" for side in ("item", "user") if (folder / f"{name}.{side}").exists()}
    entities = {side: _described(path, side, read[0].columns[side]) for side, path in described.items()}
    interactions = read[0] if len(files) == 1 else dict(zip(SPLITS, read, strict=True))
    return Source(interactions, [*files, *described.values()], entities.get("item"), entities.get("user"))


def _described(path: Path, side: str, column: str) -> list[Entity]:
    """Entities whose text lists every field that is not a vector: ``Title. class: Drama War; release year: 1995``.

    ``column``: what the interactions call the id.
    """
    rows = read_rows(path)
    header = [name.strip().partition(":") for name in rows.dialect.header]
    names = [name for name, _, _ in header]
    known = {plain_name(name): number for number, name in reversed(list(enumerate(names)))}
    found = [known[name] for name in (plain_name(column), f"{side}id", *IDS[side]) if name in known]
    if not found:
        wanted = " or ".join(dict.fromkeys((column, f"{side}_id")))
        raise DmrecError(f"{path} has no column {wanted} (columns: {', '.join(names)})")
    identity = found[0]
    title = next((i for i, name in enumerate(names) if "title" in name or name in ("name", f"{side}_name")), None)
    others = [i for i, (_, _, kind) in enumerate(header) if i not in (identity, title) and kind != "float_seq"]
    entities = []
    for row in rows:
        shown = clean(row[title]) if title is not None else ""
        fields = "; ".join(f"{names[i].replace('_', ' ')}: {row[i]}" for i in others if row[i])
        entities.append(Entity(row[identity], shown, clean(". ".join(part for part in (shown, fields) if part))))
    return entities
