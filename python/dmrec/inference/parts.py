"""Recommendations for very many users: a folder of Parquet files, each of so many users, that survives a crash.

``_settings.json``       what the recommendations were made from; written first
``part-00012.parquet``   user, rank, item, score and, if asked for, title: those of users 1,200,000 and on
``_manifest.json``       users, rows and checksum of each part; written last, so that a folder with it is whole

The files do not depend on the number of processes. Parts that are there already are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import DmrecError
from ..files import locked, read_json, remove_leftovers, replace_file, sha256_of, write_json
from ..runs.ranks import check_shared
from ..sharding.ranks import Ranks
from .recommend import Ranking

PART_USERS = 100_000
LOCK = ".lock"
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
    ranks.first_does(partial(check_place, folder))
    with _lock(folder) if ranks.is_first else nullcontext():
        ranks.first_does(lambda: _begin(folder, settings))
        check_shared(ranks, folder)
        parts = list(users.split(part_users)) if len(users) else []
        there = ranks.tell([(folder / part_name(number)).exists() for number in range(len(parts))])
        if not all(there):
            ranks.first_does(partial((folder / MANIFEST).unlink, missing_ok=True))
            names = Names(dataset, titles)
        for number, of_part in enumerate(parts):
            if there[number]:
                continue
            blocks = rank(of_part)
            if number % ranks.size == ranks.rank:
                write = partial(_write_part, names=names, users=of_part, blocks=blocks)
                replace_file(folder / part_name(number), write)
                report(f"{part_name(number)} of {len(parts)}: written")
            else:
                for _ in blocks:  # what it takes part in
                    pass
        if ranks.tell((folder / MANIFEST).exists()):
            files = read_json(folder / MANIFEST)["files"]
        else:
            own = [part_name(number) for number in range(ranks.rank, len(parts), ranks.size)]
            of_ranks = ranks.gather_values({name: _described(folder / name) for name in own})
            files = dict(sorted(entry for of_rank in of_ranks for entry in of_rank.items()))
            ranks.first_does(partial(_end, folder, len(users), files))
    return Written(len(users), sum(described["rows"] for described in files.values()), sum(there))


def part_name(number: int) -> str:
    """The name of the file of a part."""
    return f"part-{number:05}.parquet"


def check_place(folder: Path) -> None:
    """Checks that recommendations can be written to a folder, or have been.

    Raises:
        DmrecError: it is a file or holds other files; pyarrow is missing.
    """
    _pyarrow()
    if folder.exists() and not folder.is_dir():
        raise DmrecError(f"{folder} is a file; name a folder for recommendations in parts, or a .parquet file")
    if folder.exists() and not (folder / SETTINGS).exists() and any(path.name != LOCK for path in folder.iterdir()):
        raise DmrecError(f"{folder} holds other files; name an empty folder (--out)")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with locked(folder / LOCK, f"{folder}: another process writes there; name another folder, or wait for it"):
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    if (folder / SETTINGS).exists():
        before = read_json(folder / SETTINGS)
        if differing := [name for name in settings if before.get(name) != settings[name]]:
            raise DmrecError(
                f"{folder} holds recommendations of other settings ({', '.join(differing)}); name another folder"
            )
        remove_leftovers(folder)
        return
    write_json(folder / SETTINGS, settings)


def _described(part: Path) -> dict[str, Any]:
    rows = _pyarrow().parquet.read_metadata(part).num_rows
    return {"rows": rows, "bytes": part.stat().st_size, "sha256": sha256_of(part)}


def _end(folder: Path, n_users: int, files: dict[str, Any]) -> None:
    rows = sum(described["rows"] for described in files.values())
    write_json(folder / MANIFEST, {"users": n_users, "rows": rows, "files": files})


class Names:
    """The ids of items as a column, and their titles if they are asked for; those of users, part by part."""

    def __init__(self, dataset: Dataset, titles: bool) -> None:
        self.dataset, self.titles = dataset, titles
        self.items = _in_one(dataset.names("items", titles=titles))

    def tables(self, users: Tensor, blocks: Iterator[Ranking]) -> Iterator[Any]:
        """The rows of blocks of users, which are among ``users`` (U,), in order."""
        first, end = (int(users.min()), int(users.max()) + 1) if len(users) else (0, 0)
        names = _in_one(self.dataset.names("users", rows=range(first, end)))
        for ranking in blocks:
            yield self._table(ranking, names, first)

    def _table(self, ranking: Ranking, users: dict[str, Any] | None, first: int) -> Any:
        pyarrow = _pyarrow()
        there = ranking.items >= 0
        row = ranking.users[:, None].expand_as(ranking.items)[there].numpy()
        rank = torch.arange(1, ranking.items.shape[1] + 1).expand_as(ranking.items)[there].numpy()
        item = ranking.items[there].numpy()
        columns = {
            "user": _taken(users, "id", row if users is None else row - first),
            "rank": pyarrow.array(rank, pyarrow.int64()),
            "item": _taken(self.items, "id", item),
            "score": pyarrow.array(ranking.scores[there].double().numpy()),
        }
        if self.titles:
            columns["title"] = _taken(self.items, "title", item)
        return pyarrow.table(columns)


def _in_one(table: Any) -> dict[str, Any] | None:
    """The columns of a table, each in one piece, which may have more than 2 GiB of text."""
    if table is None:
        return None
    large = _pyarrow().large_string()
    return {name: table[name].cast(large).combine_chunks() for name in table.column_names}


def _taken(names: dict[str, Any] | None, column: str, rows: np.ndarray) -> Any:
    """The values of rows: without descriptions, ids are numbers and titles are empty."""
    pyarrow = _pyarrow()
    if names is not None:
        return names[column].take(pyarrow.array(rows)).cast(pyarrow.string())
    if column == "id":
        return pyarrow.array(rows, pyarrow.int64()).cast(pyarrow.string())
    return pyarrow.array([""] * len(rows), pyarrow.string())


def _write_part(path: Path, names: Names, users: Tensor, blocks: Iterator[Ranking]) -> None:
    pyarrow = _pyarrow()
    fields = [("user", pyarrow.string()), ("rank", pyarrow.int64()), ("item", pyarrow.string())]
    fields += [("score", pyarrow.float64()), *([("title", pyarrow.string())] if names.titles else [])]
    with pyarrow.parquet.ParquetWriter(path, pyarrow.schema(fields)) as writer:
        for table in names.tables(users, blocks):
            writer.write_table(table)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DmrecError("recommendations in parts are Parquet files: pip install 'dmrec[parquet]'") from None
    return pyarrow
