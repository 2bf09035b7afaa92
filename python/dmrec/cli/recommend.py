"""``dmrec recommend``: the best items of users, with titles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.dataset import Dataset
from ..data.entities import clean
from ..errors import DmrecError
from ..inference.recommend import Ranking, item_named
from ..inference.recommender import Recommender
from ..language.encoders import TextEncoder, make_encoder
from ..runs.load import load_run
from ..runtime import resolve_device
from .console import errors, output, print_table
from .tables import Columns, check_ending, write_rows

COLUMNS: Columns = {"user": str, "rank": int, "item": str, "title": str, "score": float}


class Exclude(StrEnum):
    """What is not recommended to a user again."""

    known = "known"
    train = "train"


def recommend(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    users: Annotated[list[str] | None, typer.Option("--user", help="Id of a user; repeatable. Default: all.")] = None,
    profile: Annotated[str | None, typer.Option(help="A text that describes a new user.", show_default=False)] = None,
    likes: Annotated[
        list[str] | None, typer.Option("--like", help="Id or title of an item that a new user likes; repeatable.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of the text vectors, if they were imported: see dmrec embed.")
    ] = None,
    key_variable: Annotated[
        str | None,
        typer.Option(help="Environment variable of the key for the server that made the vectors.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Items per user.")] = 10,
    out: Annotated[Path | None, typer.Option(help=".parquet or .jsonl; default: a table here.")] = None,
    exclude: Annotated[
        Exclude, typer.Option(help="known: all interactions of a user; train: those in training.")
    ] = Exclude.known,
    data: Annotated[Path | None, typer.Option(help="Dataset folder, if it moved.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto (the GPU where there is one).")] = "cpu",
) -> None:
    """Write or print the best items of each user, without those that the user has interacted with.

    A new user, who was not in training, is described by a text, by items, or by both.

    Examples:

    - `dmrec recommend runs/ml-100k/dmrec-m --user 42`
    - `dmrec recommend runs/ml-100k/dmrec-m -k 50 --out top50.parquet`
    - `dmrec recommend runs/shop/dmrec-m --profile "machinist, likes well-made hand tools" --like B00004T7P1`
    """
    if profile is not None and not profile.strip():
        raise DmrecError("--profile is empty: describe in words what the user likes, or leave it out")
    if not profile and (encoder is not None or key_variable is not None):
        raise DmrecError("--encoder and --key-variable are for a --profile: leave them out")
    new_user = bool(profile or likes)
    if new_user and (users or out or exclude is not Exclude.known):
        raise DmrecError("--profile and --like are for one new user: leave out --user, --out and --exclude")
    if not new_user and out is None and not users:
        raise DmrecError("name users (--user ID) or a file for all of them (--out FILE.parquet or FILE.jsonl)")
    if out is not None:
        check_ending(out)
    opened, dataset, model, of_model = load_run(run, data, resolve_device(device))
    recommender = Recommender(model, of_model, dataset, opened.config, opened.folder)
    if new_user:
        _print_for_new_user(recommender, profile or "", likes or [], k, encoder, key_variable)
        return
    rows = _rows(dataset, recommender.rankings(users, k, seen=exclude))
    if out is not None:
        write_rows(out, rows, COLUMNS)
        errors.print(f"{len(set(users)) if users else dataset.n_users} users: {out}", highlight=False)
        return
    _print_for_users(dataset, list(rows), list(dict.fromkeys(users or ())))


def _print_for_new_user(
    recommender: Recommender,
    profile: str,
    likes: Sequence[str],
    k: int,
    encoder: str | None,
    key_variable: str | None,
) -> None:
    dataset = recommender.dataset
    found = recommender.recommend(
        k=k,
        profile=profile,
        likes=likes,
        encoder=None if encoder is None else _encoder_named(encoder),
        key_variable=key_variable,
    )
    liked = [f"likes {dataset.items[item_named(dataset, name)].label}" for name in likes]
    output.print("\n" + "; ".join(filter(None, [clean(profile), *liked])), highlight=False, markup=False)
    label = {item.id: item.label for item in dataset.items}
    rows = [[row["rank"], label[row["item"]], row["score"]] for row in found.rows()]
    print_table(f"{len(rows)} recommendations", ["rank", "item", "score"], rows, numbers_from=2)


def _print_for_users(dataset: Dataset, rows: Sequence[dict[str, Any]], users: Sequence[str]) -> None:
    train = dataset.split("train")
    for user in users:
        row = dataset.user_rows[user]
        who = dataset.users[row]
        history = [dataset.items[i].label for i in train.col[train.crow[row] : train.crow[row + 1]][:8].tolist()]
        output.print(f"\n{who.label}: {who.text}".rstrip(": "), highlight=False, markup=False)
        output.print(f"interacted with {', '.join(history)}, ..", highlight=False, markup=False)
        mine = [[each["rank"], each["title"] or each["item"], each["score"]] for each in rows if each["user"] == who.id]
        print_table(f"{len(mine)} recommendations", ["rank", "item", "score"], mine, numbers_from=2)


def _encoder_named(family: str) -> TextEncoder:
    if family in ("tfidf-svd", "endpoint"):
        raise DmrecError(
            f"imported vectors cannot be from {family} here: make them with dmrec embed, which records the encoder"
        )
    return make_encoder(family)


def _rows(dataset: Dataset, rankings: Iterable[Ranking]) -> Iterator[dict[str, Any]]:
    for ranking in rankings:
        for user, scores, items in zip(*(part.tolist() for part in ranking), strict=True):
            for rank, (score, item) in enumerate(zip(scores, items, strict=True), start=1):
                if item >= 0:
                    entity = dataset.items[item]
                    yield {
                        "user": dataset.users[user].id,
                        "rank": rank,
                        "item": entity.id,
                        "title": entity.title,
                        "score": score,
                    }
