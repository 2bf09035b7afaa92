"""``dmrec recommend RUN --out FOLDER``: the best items of very many users, as Parquet files that survive a crash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import ShardingConfig
from ..errors import counted
from ..eval.ranking import USERS_PER_BLOCK
from ..inference.parts import check_place, write_parts
from ..inference.recommend import Ranking
from ..inference.recommender import Recommender
from ..runs.load import check_count, load_run
from ..runs.ranks import check_ranks
from ..runtime import device_of
from ..sharding.ranks import ALONE
from .console import notify, output
from .ranks import are_together, sharding_of, start, together
from .runs import notify_of_seed

LOW_MEMORY_BLOCK = 65_536  # users who are ranked while the tables of all shards are read once


class Choice(NamedTuple):
    """What is recommended."""

    k: int
    exclude: str
    feed: str
    exclude_items: Sequence[str]
    among: Sequence[str] | None
    distinct_titles: bool
    popularity: float
    titles: bool


def recommend_to_folder(
    run: Path,
    folder: Path,
    choice: Choice,
    *,
    data: Path | None,
    device: str,
    unfinished: bool,
    part_users: int,
    low_memory: bool,
    ranks: int | None,
) -> None:
    """Ranks items for all users, in one process or in several, and writes them in parts."""
    shared = are_together(ranks)
    sharding = sharding_of(run) if shared else ShardingConfig()
    if ranks is not None:
        check_count(ranks, sharding)
        check_place(folder)
        start(ranks)
    with together(sharding) if shared else nullcontext(ALONE) as of_all:
        loaded = load_run(run, data, device_of(device, of_all), unfinished=unfinished, ranks=of_all)
        check_ranks(of_all, loaded.dataset)
        if of_all.is_first:
            notify_of_seed(run, loaded.run.folder)
        recommender = Recommender(loaded.model, loaded.data, loaded.dataset, loaded.run.config, loaded.run.folder)
        excluded = recommender.excluded(choice.exclude_items, choice.among)
        groups = recommender.title_groups if choice.distinct_titles else None
        block_size = LOW_MEMORY_BLOCK if low_memory else USERS_PER_BLOCK

        def rank(users: Tensor) -> Iterator[Ranking]:
            return recommender.ranked_rows(
                users,
                choice.k,
                excluded,
                choice.exclude,
                feed=choice.feed,
                groups=groups,
                popularity=choice.popularity,
                block_size=block_size,
            )

        settings: dict[str, Any] = {
            **choice._asdict(),
            "model": loaded.run.load_metadata()["sha256"],
            "dataset": loaded.dataset.fingerprint(None),
            "block": block_size,
        }
        users = torch.arange(loaded.dataset.n_users)
        report = notify if of_all.is_first else _quiet
        written = write_parts(
            folder,
            loaded.dataset,
            users,
            rank,
            settings,
            of_all,
            titles=choice.titles,
            part_users=part_users,
            report=report,
        )
        if of_all.is_first:
            kept = f"; {counted(written.kept, 'part')} were there already" if written.kept else ""
            output.print(f"{counted(written.users, 'user')}, {written.rows} rows: {folder}{kept}")


def _quiet(line: str) -> None:
    del line
