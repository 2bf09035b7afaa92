"""Recommendations for very many users: a folder of Parquet files, each of so many users, that survives a crash.

``_settings.json``       what the recommendations were made from; written first
``part-00012.parquet``   user, rank, item, score and, if asked for, title: those of users 1,200,000 and on
``_manifest.json``       users, rows and checksum of each part; written last, so that a folder with it is whole

The files do not depend on the number of processes. Parts that are there already are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import DmrecError
from ..files import read_json, remove_leftovers, replace_file, sha256_of, write_json
from ..sharding.ranks import Ranks
from .recommend import Ranking

PART_USERS = 100_000
SETTINGS, MANIFEST = "_settings.json", "_manifest.json"  # readers of Parquet folders leave out such names


class Written(NamedTuple):
    """What `write_parts` has done."""

    users: int
    rows: int
    kept: int  # parts that were there already


def write_parts(
    folder: Path,
    dataset: Dataset,
    users: Tensor,
    rank: Callable[[Tensor], Iterator[Ranking]],
    settings: dict[str, Any],
    ranks: Ranks,
    *,
    titles: bool = False,
    part_users: int = PART_USERS,
    report: Callable[[str], None] = lambda line: None,
) -> Written:
    """Writes the rankings of ``users`` (U,) int64. All ranks call this; part p is written by rank p mod R.

    Args:
        folder: where to; may hold parts of the same recommendations that were interrupted.
        dataset: names users and items.
        users: rows of the dataset.
        rank: the rankings of some of the users, block by block, by all ranks together.
        settings: all that decides what is recommended.
        ranks: the processes that rank together.
        titles: whether to write titles, too.
        part_users: how many users are in a part.
        report: takes a line for each part.

    Raises:
        DmrecError: the folder holds other recommendations, or other files; pyarrow is missing.
    """
    settings = {**settings, "titles": titles, "part_users": part_users, "users": len(users)}
    settings = json.loads(json.dumps(settings))  # as they are read back
    ranks.first_does(lambda: _begin(folder, settings))
    parts = list(users.split(part_users)) if len(users) else []
    there = ranks.tell([(folder / part_name(number)).exists() for number in range(len(parts))])
    names = Names(dataset, titles) if not all(there) else None
    for number, of_part in enumerate(parts):
        if there[number]:
            continue
        assert names is not None, "some part is missing"
        blocks = rank(of_part)
        if number % ranks.size == ranks.rank:
            replace_file(folder / part_name(number), partial(_write_part, blocks=blocks, names=names))
            report(f"{part_name(number)} of {len(parts)}: written")
        else:
            for _ in blocks:  # what it takes part in
                pass
    ranks.wait()
    written: list[Written] = []
    ranks.first_does(lambda: written.append(_end(folder, settings, sum(there))))
    return ranks.tell(written[0] if written else Written(0, 0, 0))


def part_name(number: int) -> str:
    """The name of the file of a part."""
    return f"part-{number:05}.parquet"


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    _pyarrow()
    if folder.exists() and not folder.is_dir():
        raise DmrecError(f"{folder} is a file; name a folder for recommendations in parts, or a .parquet file")
    if (folder / SETTINGS).exists():
        before = read_json(folder / SETTINGS)
        if differing := [name for name in settings if before.get(name) != settings[name]]:
            raise DmrecError(
                f"{folder} holds recommendations of other settings ({', '.join(differing)}); name another folder"
            )
        remove_leftovers(folder)
        return
    if folder.exists() and any(folder.iterdir()):
        raise DmrecError(f"{folder} holds other files; name an empty folder (--out)")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, settings)


def _end(folder: Path, settings: dict[str, Any], kept: int) -> Written:
    files, total = {}, 0
    for path in sorted(folder.glob("part-*.parquet")):
        rows = _pyarrow().parquet.read_metadata(path).num_rows
        files[path.name] = {"rows": rows, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        total += rows
    if not (folder / MANIFEST).exists():
        write_json(folder / MANIFEST, {"users": settings["users"], "rows": total, "files": files})
    return Written(settings["users"], total, kept)


class Names:
    """The ids of users and items as columns, and titles of items if they are asked for."""

    def __init__(self, dataset: Dataset, titles: bool) -> None:
        self.titles = titles
        self.users, self.items = dataset.names("users"), dataset.names("items", titles=titles)

    def table(self, ranking: Ranking) -> Any:
        """The rows of a block of users, in order."""
        pyarrow = _pyarrow()
        there = ranking.items >= 0
        row = ranking.users[:, None].expand_as(ranking.items)[there].numpy()
        rank = torch.arange(1, ranking.items.shape[1] + 1).expand_as(ranking.items)[there].numpy()
        item = ranking.items[there].numpy()
        columns = {
            "user": _taken(self.users, "id", row),
            "rank": pyarrow.array(rank, pyarrow.int64()),
            "item": _taken(self.items, "id", item),
            "score": pyarrow.array(ranking.scores[there].double().numpy()),
        }
        if self.titles:
            columns["title"] = _taken(self.items, "title", item)
        return pyarrow.table(columns)


def _taken(names: dict[str, Any] | None, column: str, rows: np.ndarray) -> Any:
    """The values of rows: without descriptions, ids are numbers and titles are empty."""
    pyarrow = _pyarrow()
    if names is not None:
        return names[column].take(pyarrow.array(rows))
    if column == "id":
        return pyarrow.array(rows, pyarrow.int64()).cast(pyarrow.string())
    return pyarrow.array([""] * len(rows), pyarrow.string())


def _write_part(path: Path, blocks: Iterator[Ranking], names: Names) -> None:
    pyarrow = _pyarrow()
    fields = [("user", pyarrow.string()), ("rank", pyarrow.int64()), ("item", pyarrow.string())]
    fields += [("score", pyarrow.float64()), *([("title", pyarrow.string())] if names.titles else [])]
    with pyarrow.parquet.ParquetWriter(path, pyarrow.schema(fields)) as writer:
        for block in blocks:
            writer.write_table(names.table(block))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DmrecError("recommendations in parts are Parquet files: pip install 'dmrec[parquet]'") from None
    return pyarrow
