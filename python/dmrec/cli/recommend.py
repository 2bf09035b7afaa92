"""``dmrec recommend``: the best items of users, with titles."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dmrec_ext import Csr

from ..data.arrays import as_interactions
from ..data.dataset import Dataset
from ..data.entities import clean
from ..errors import DmrecError, did_you_mean
from ..eval.ranking import Ranker, blocks
from ..language.encoder import TextEncoder
from ..train.build import load_run
from ..train.new_users import item_named, recommend_to_new_user
from .console import errors, output, print_table
from .embed import encoder_from
from .tables import Columns, check_ending, write_rows

COLUMNS: Columns = {"user": str, "rank": int, "item": str, "title": str, "score": float}


class Exclude(StrEnum):
    """What is not recommended again."""

    known = "known"
    train = "train"


def recommend(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    users: Annotated[list[str] | None, typer.Option("--user", help="Id of a user; repeatable. Default: all.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Words about somebody who was not there in training.", show_default=False)
    ] = None,
    likes: Annotated[
        list[str] | None, typer.Option("--like", help="Id or title of an item that somebody new likes; repeatable.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="What made the text vectors, if they were imported: see dmrec embed.")
    ] = None,
    key_variable: Annotated[
        str | None,
        typer.Option(help="Environment variable of the key for the server that made the vectors.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Items per user.")] = 10,
    out: Annotated[Path | None, typer.Option(help=".parquet or .jsonl; default: a table here.")] = None,
    exclude: Annotated[Exclude, typer.Option(help="known: all of a user's interactions; or train alone.")] = (
        Exclude.known
    ),
    data: Annotated[Path | None, typer.Option(help="Dataset folder, if it moved.", show_default=False)] = None,
) -> None:
    """Write or print each user's best items; what the user has had already is left out.

    Somebody who was not there in training is described in words, or by items, or both.

    Examples:

    - `dmrec recommend runs/dmrec-m --user 42`
    - `dmrec recommend runs/dmrec-m -k 50 --out top50.parquet`
    - `dmrec recommend runs/dmrec-m --profile "machinist in a small shop, likes well-made hand tools" --like B00004T7P1`
    """
    if profile is not None and not profile.strip():
        raise DmrecError("--profile is empty: say in words what somebody likes, or leave it out")
    if not profile and (encoder is not None or key_variable is not None):
        raise DmrecError("--encoder and --key-variable are for a --profile: leave them out")
    if profile or likes:
        if users or out or exclude is not Exclude.known:
            raise DmrecError("--profile and --like are for one new user: leave out --user, --out and --exclude")
        _print_for_new_user(run, data, profile or "", likes or [], k, encoder, key_variable)
        return
    if out is None and not users:
        raise DmrecError("name users (--user ID) or a file for all of them (--out FILE.parquet or FILE.jsonl)")
    if out is not None:
        check_ending(out)
    _, dataset, ranker = load_run(run, data)
    chosen = _user_rows(dataset, users) if users else torch.arange(dataset.n_users)
    rows = _recommendations(dataset, ranker, chosen, k, exclude)
    if out is not None:
        write_rows(out, rows, COLUMNS)
        errors.print(f"{len(chosen)} users: {out}", highlight=False)
        return
    listed = list(rows)
    for user in chosen.tolist():
        who = dataset.users[user]
        history = [dataset.items[i].label for i in dataset.train[user].indices[:8]]
        output.print(f"\n{who.label}: {who.text}".rstrip(": "), highlight=False, markup=False)
        output.print(f"interacted with {', '.join(history)}, ..", highlight=False, markup=False)
        mine = [[row["rank"], row["title"] or row["item"], row["score"]] for row in listed if row["user"] == who.id]
        print_table(f"{len(mine)} recommendations", ["rank", "item", "score"], mine, numbers_from=2)


def _print_for_new_user(
    folder: Path,
    data: Path | None,
    profile: str,
    likes: list[str],
    k: int,
    encoder: str | None,
    key_variable: str | None,
) -> None:
    run, dataset, ranker = load_run(folder, data)
    liked = [item_named(dataset, name) for name in likes]
    found = recommend_to_new_user(
        ranker,
        run.config,
        dataset,
        likes=liked,
        profile=profile,
        k=k,
        encoder=None if encoder is None else _encoder_named(encoder),
        key_variable=key_variable,
    )
    told = [clean(profile), *(f"likes {dataset.items[item].label}" for item in liked)]
    output.print("\n" + "; ".join(filter(None, told)), highlight=False, markup=False)
    rows = [[rank, dataset.items[item].label, score] for rank, (item, score) in enumerate(found, start=1)]
    print_table(f"{len(rows)} recommendations", ["rank", "item", "score"], rows, numbers_from=2)


def _encoder_named(family: str) -> TextEncoder:
    if family in ("tfidf-svd", "endpoint"):
        raise DmrecError(
            f"imported vectors cannot be those of {family} here: make them with dmrec embed, which notes how"
        )
    return encoder_from(family)


def _user_rows(dataset: Dataset, ids: list[str]) -> torch.Tensor:
    row_of = {user.id: row for row, user in enumerate(dataset.users)}
    for user in ids:
        if user not in row_of:
            raise DmrecError(f"{dataset.name} has no user '{user}'{_near(user, row_of)}")
    return torch.tensor([row_of[user] for user in dict.fromkeys(ids)])


def _near(user: str, known: dict[str, int]) -> str:
    return did_you_mean(user, known) if len(known) <= 20 else f" (ids look like '{next(iter(known))}')"


def _recommendations(
    dataset: Dataset, ranker: Ranker, users: torch.Tensor, k: int, exclude: Exclude
) -> Iterator[dict[str, Any]]:
    train = Csr.from_scipy(dataset.train)
    known = dataset.train
    if exclude is Exclude.known:
        known = as_interactions(dataset.train + dataset.valid + dataset.test)
    seen = Csr.from_scipy(known)
    for block in blocks(users):
        scores, ids = ranker.rank(train.rows(block), block, k, exclude=seen.rows(block))
        for user, row_scores, row_ids in zip(block.tolist(), scores.tolist(), ids.tolist(), strict=True):
            for rank, (score, item) in enumerate(zip(row_scores, row_ids, strict=True), start=1):
                if item >= 0:
                    entity = dataset.items[item]
                    yield {
                        "user": dataset.users[user].id,
                        "rank": rank,
                        "item": entity.id,
                        "title": entity.title,
                        "score": score,
                    }
