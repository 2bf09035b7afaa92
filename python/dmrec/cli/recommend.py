"""``dmrec recommend``: the best items of users, with titles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.dataset import Dataset
from ..data.entities import clean
from ..data.sources.visitors import Visitor, read_lines, read_visitors
from ..errors import DmrecError
from ..inference.recommend import Ranking, item_named
from ..inference.recommender import Recommender
from ..language.encoders import TextEncoder, make_encoder
from ..runs.load import load_run
from ..runtime import resolve_device
from .console import notify, notify_of_seed, output, print_table
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
    out: Annotated[Path | None, typer.Option(help=".csv, .parquet or .jsonl; default: a table here.")] = None,
    exclude: Annotated[
        Exclude, typer.Option(help="known: all interactions of a user; train: those in training.")
    ] = Exclude.known,
    exclude_items: Annotated[
        Path | None,
        typer.Option(help="File with an item id in each line: none of them is recommended.", show_default=False),
    ] = None,
    among: Annotated[
        Path | None,
        typer.Option(help="File with an item id in each line: only these are recommended.", show_default=False),
    ] = None,
    visitors: Annotated[
        Path | None,
        typer.Option(
            help="Table of new users (.csv, .jsonl ..): id, profile, likes (| between them); needs --out.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder, if it moved.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto (the GPU where there is one).")] = "cpu",
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Use the best state so far of a run that is not finished.")
    ] = False,
) -> None:
    """Write or print the best items of each user, without those that the user has interacted with.

    A new user, who was not in training, is described by a text, by items, or by both.

    Examples:

    - `dmrec recommend runs/ml-100k/dmrec-m --user 42`
    - `dmrec recommend runs/ml-100k/dmrec-m -k 50 --out top50.csv --exclude-items sold-out.txt`
    - `dmrec recommend runs/shop/dmrec-m --visitors visitors.csv --out for-visitors.csv`
    - `dmrec recommend runs/shop/dmrec-m --profile "machinist, likes well-made hand tools" --like B00004T7P1`
    """
    if profile is not None and not profile.strip():
        raise DmrecError("--profile is empty: describe in words what the user likes, or leave it out")
    if not profile and (encoder is not None or key_variable is not None):
        raise DmrecError("--encoder and --key-variable are for a --profile: leave them out")
    new_user = bool(profile or likes)
    if new_user and (users or out or exclude is not Exclude.known):
        raise DmrecError("--profile and --like are for one new user: leave out --user, --out and --exclude")
    if visitors is not None and (users or new_user or out is None):
        raise DmrecError("--visitors needs --out, and no --user, --profile or --like")
    if not new_user and out is None and not users:
        raise DmrecError("name users (--user ID) or a file for all of them (--out FILE.csv, .parquet or .jsonl)")
    if out is not None:
        check_ending(out)
    opened, dataset, model, of_model = load_run(run, data, resolve_device(device), unfinished=unfinished)
    notify_of_seed(run, opened.folder)
    recommender = Recommender(model, of_model, dataset, opened.config, opened.folder)
    choice: dict[str, Any] = {
        "exclude": () if exclude_items is None else _ids_in(exclude_items),
        "among": None if among is None else _ids_in(among),
    }
    of_new = {"encoder": None if encoder is None else _encoder_named(encoder), "key_variable": key_variable, **choice}
    if visitors is not None and out is not None:
        found = read_visitors(visitors)
        write_rows(out, _rows_of_visitors(recommender, found, k, of_new), {**COLUMNS})
        notify(f"{len(found)} visitors: {out}")
        return
    if new_user:
        _print_for_new_user(recommender, profile or "", likes or [], k, of_new)
        return
    rows = _rows(dataset, recommender.rankings(users, k, recommender.excluded(**choice), exclude))
    if out is not None:
        write_rows(out, rows, COLUMNS)
        notify(f"{len(set(users)) if users else dataset.n_users} users: {out}")
        return
    _print_for_users(dataset, list(rows), list(dict.fromkeys(users or ())))


def _print_for_new_user(
    recommender: Recommender,
    profile: str,
    likes: Sequence[str],
    k: int,
    options: dict[str, Any],
) -> None:
    dataset = recommender.dataset
    found = recommender.recommend(k=k, profile=profile, likes=likes, **options)
    liked = [f"likes {dataset.items[item_named(dataset, name)].label}" for name in likes]
    output.print("\n" + "; ".join(filter(None, [clean(profile), *liked])))
    label = {item.id: item.label for item in dataset.items}
    rows = [[row["rank"], row["item"], label[row["item"]], row["score"]] for row in found.rows()]
    print_table(f"{len(rows)} recommendations", ["rank", "id", "item", "score"], rows, numbers_from=3)


def _print_for_users(dataset: Dataset, rows: Sequence[dict[str, Any]], users: Sequence[str]) -> None:
    train = dataset.split("train")
    for user in users:
        row = dataset.user_rows[user]
        who = dataset.users[row]
        history = [dataset.items[i].label for i in train.col[train.crow[row] : train.crow[row + 1]][:8].tolist()]
        output.print(f"\n{who.label}: {who.text}".rstrip(": "))
        output.print(f"interacted with {', '.join(history)}, ..")
        mine = [[e["rank"], e["item"], e["title"] or e["item"], e["score"]] for e in rows if e["user"] == who.id]
        print_table(f"{len(mine)} recommendations", ["rank", "id", "item", "score"], mine, numbers_from=3)


def _ids_in(path: Path) -> list[str]:
    """The ids in a file, one a line."""
    lines = [line.strip() for line in read_lines(path)]
    return list(dict.fromkeys(line for line in lines if line))


def _rows_of_visitors(
    recommender: Recommender, visitors: Sequence[Visitor], k: int, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    title = {item.id: item.title for item in recommender.dataset.items}
    for visitor in visitors:
        try:
            found = recommender.recommend(k=k, profile=visitor.profile or None, likes=visitor.likes or None, **options)
        except DmrecError as error:
            raise DmrecError(f"visitor '{visitor.id}': {error}") from None
        for row in found.rows():
            yield {"user": visitor.id, **row, "title": title[row["item"]]}


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
