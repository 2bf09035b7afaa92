"""``dmrec recommend``: the best items of users, with titles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..data.dataset import Dataset
from ..data.entities import clean
from ..data.sources.new_items import read_new_items
from ..data.sources.visitors import Visitor, read_history, read_lines, read_visitors
from ..errors import DmrecError, counted
from ..inference.parts import PART_USERS
from ..inference.recommend import NothingKnownError, Ranking, item_named, items_named
from ..inference.recommender import Recommender
from ..language.encoders import TextEncoder, make_encoder
from ..runs.load import load_run
from ..runtime import resolve_device
from ..sharding.launch import under_torchrun
from .console import notify, output, print_table
from .ranks import RanksOption
from .recommend_parts import Choice, recommend_to_folder
from .runs import notify_of_seed
from .tables import Columns, check_ending, write_rows

COLUMNS: Columns = {"user": str, "rank": int, "item": str, "title": str, "score": float}


class Exclude(StrEnum):
    """What is not recommended to a user again."""

    known = "known"
    train = "train"


class Feed(StrEnum):
    """Which interactions of a user the model reads."""

    learned = "learned"
    known = "known"


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
    out: Annotated[
        Path | None,
        typer.Option(help=".csv, .parquet or .jsonl; a folder: Parquet files in parts; default: a table here."),
    ] = None,
    exclude: Annotated[
        Exclude, typer.Option(help="known: all interactions of a user; train: those in training.")
    ] = Exclude.known,
    feed: Annotated[
        Feed, typer.Option(help="What is read of a user: learned, as in training; known: held-out interactions, too.")
    ] = Feed.learned,
    history: Annotated[
        Path | None,
        typer.Option(
            help="Table of new interactions (user, item, time): read too, and not recommended again.",
            show_default=False,
        ),
    ] = None,
    distinct_titles: Annotated[
        bool, typer.Option("--distinct-titles", help="Of items with one title, the best alone.")
    ] = False,
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
    new_items: Annotated[
        Path | None,
        typer.Option(
            help="Table of items that were not in training (.jsonl, .csv ..): id, title, text; they are ranked, too.",
            show_default=False,
        ),
    ] = None,
    only_new: Annotated[bool, typer.Option("--only-new", help="Recommend items of --new-items alone.")] = False,
    new_share: Annotated[
        float, typer.Option(min=0, max=1, help="At least this share of the places, rounded up, for --new-items.")
    ] = 0.0,
    popularity: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the model in the ranking; the rest is the texts', by their cosine."),
    ] = 1.0,
    data: Annotated[Path | None, typer.Option(help="Dataset folder, if it moved.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto (the GPU where there is one).")] = "cpu",
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Use the best state so far of a run that is not finished.")
    ] = False,
    titles: Annotated[bool, typer.Option("--titles", help="Titles in a folder's files, too.")] = False,
    part_users: Annotated[int, typer.Option(min=1, help="Users of each file in a folder.")] = PART_USERS,
    low_memory: Annotated[
        bool,
        typer.Option("--low-memory", help="Rank 65,536 users at a time: less is read of a catalogue beyond memory."),
    ] = False,
    ranks: RanksOption = None,
) -> None:
    """Write or print the best items of each user, without those that the user has interacted with.

    A new user, who was not in training, is described by a text, by items, or by both. Users of --history who were not
    in training are new users who like these items; whoever nothing is known of gets the most popular items.

    Examples:

    - `dmrec recommend runs/ml-100k/dmrec-m --user 42`
    - `dmrec recommend runs/ml-100k/dmrec-m -k 50 --out top50.csv --exclude-items sold-out.txt`
    - `dmrec recommend runs/shop/dmrec-m-final --history since-training.csv --out top.csv`
    - `dmrec recommend runs/shop/dmrec-m --visitors visitors.csv --out for-visitors.csv`
    - `dmrec recommend runs/shop/dmrec-m --new-items this-week.jsonl --new-share 0.2 --out top.csv`
    - `dmrec recommend runs/large/dmrec-m -k 50 --out top50/ --ranks 8`
    - `dmrec recommend runs/shop/dmrec-m --profile "machinist, likes well-made hand tools" --like B00004T7P1`
    """
    if profile is not None and not profile.strip():
        raise DmrecError("--profile is empty: describe in words what the user likes, or leave it out")
    if not profile and new_items is None and (encoder is not None or key_variable is not None):
        raise DmrecError("--encoder and --key-variable are for a --profile or --new-items: leave them out")
    if new_items is None and (only_new or new_share):
        raise DmrecError("--only-new and --new-share are for new items: give some (--new-items FILE)")
    new_user = bool(profile or likes)
    if new_user and (users or out or exclude is not Exclude.known):
        raise DmrecError("--profile and --like are for one new user: leave out --user, --out and --exclude")
    if visitors is not None and (users or new_user or out is None or history is not None):
        raise DmrecError("--visitors needs --out, and no --user, --profile, --like or --history")
    if new_user and (history is not None or feed is not Feed.learned):
        raise DmrecError("--profile and --like are for one new user: leave out --history and --feed")
    if not new_user and out is None and not users:
        raise DmrecError("name users (--user ID) or a file for all of them (--out FILE.csv, .parquet or .jsonl)")
    if out is not None and not out.suffix:
        given = {"--user": users, "--history": history, "--visitors": visitors, "--new-items": new_items}
        if refused := [name for name, value in given.items() if value]:
            raise DmrecError(f"--out {out} is a folder for all users of the dataset: leave out {', '.join(refused)}")
        out_items, in_items = (None if path is None else _ids_in(path) for path in (exclude_items, among))
        what = Choice(k, exclude, feed, out_items or (), in_items, distinct_titles, popularity, titles)
        where: dict[str, Any] = {"data": data, "device": device, "unfinished": unfinished}
        recommend_to_folder(run, out, what, **where, part_users=part_users, low_memory=low_memory, ranks=ranks)
        return
    if ranks is not None or titles or low_memory or under_torchrun():
        raise DmrecError("--ranks, --titles and --low-memory are for a folder of Parquet files: --out FOLDER/")
    if out is not None:
        check_ending(out)
    opened, dataset, model, of_model = load_run(run, data, resolve_device(device), unfinished=unfinished)
    notify_of_seed(run, opened.folder)
    recommender = Recommender(model, of_model, dataset, opened.config, opened.folder)
    by: dict[str, Any] = {
        "encoder": None if encoder is None else _encoder_named(encoder),
        "key_variable": key_variable,
    }
    if new_items is not None:
        new = read_new_items(new_items, dataset)
        recommender = recommender.with_new_items(new, **by)
        dataset = recommender.dataset
        notify(f"{new_items}: {new.summary}")
    choice: dict[str, Any] = {
        "exclude": () if exclude_items is None else _ids_in(exclude_items),
        "among": None if among is None else _ids_in(among),
    }
    choice["only_new"] = only_new
    of_new = {**by, **choice, "distinct_titles": distinct_titles, "new_share": new_share, "popularity": popularity}
    if visitors is not None and out is not None:
        found = read_visitors(visitors)
        write_rows(out, _rows_of_new_users(recommender, found, k, of_new), {**COLUMNS})
        notify(f"{counted(len(found), 'visitor')}: {out}")
        return
    if new_user:
        _print_for_new_user(recommender, profile or "", likes or [], k, of_new)
        return
    later = None if history is None else read_history(history, dataset)
    strangers = [] if later is None else [Visitor(user, "", items) for user, items in later.of_new_users.items()]
    if users:
        strangers = [visitor for visitor in strangers if visitor.id in users]
        named = {visitor.id for visitor in strangers}
        users = [user for user in users if user not in named]
    if later is not None:
        notify(f"{history}: {later.summary}")
    groups = recommender.title_groups if distinct_titles else None
    told = None if later is None else {user: list(items) for user, items in later.of_users.items()}
    share = recommender.share(new_share, k)
    options: dict[str, Any] = {
        "feed": feed,
        "history": told,
        "groups": groups,
        "share": share,
        "popularity": popularity,
    }
    rankings = recommender.rankings(users, k, recommender.excluded(**choice), exclude, **options)
    rows = chain(_rows(dataset, rankings), _rows_of_new_users(recommender, strangers, k, of_new))
    if out is not None:
        write_rows(out, rows, COLUMNS)
        notify_of_feed(recommender, feed)
        count = len(strangers) + (dataset.n_users if users is None else len(set(users)))
        notify(f"{counted(count, 'user')}: {out}")
        return
    shown = list(rows)
    notify_of_feed(recommender, feed)
    _print_for_users(dataset, shown, [*dict.fromkeys(users or ()), *(visitor.id for visitor in strangers)])


def notify_of_feed(recommender: Recommender, feed: Feed) -> None:
    """Says what the model reads of users where that is not all that is known of them."""
    learned, known = recommender.data.interactions.nnz, recommender.known.nnz
    if recommender.model.reads_interactions and feed is Feed.learned and learned < known:
        notify(
            f"the model reads the {learned} training interactions of {known} that are known; --feed known: all; "
            "dmrec train --final makes a model that has also learned from all"
        )


def _print_for_new_user(
    recommender: Recommender,
    profile: str,
    likes: Sequence[str],
    k: int,
    options: dict[str, Any],
) -> None:
    dataset = recommender.dataset
    found = recommender.recommend(k=k, profile=profile, likes=likes, **options)
    by = {name: options[name] for name in ("encoder", "key_variable")}
    if profile and recommender.is_unlike_items(profile, **by):
        notify("the profile is unlike the texts of all items: what is popular comes first, whatever it says")
    liked = [f"likes {dataset.items[column].label}" for column in items_named(dataset, likes)]
    output.print("\n" + "; ".join(filter(None, [clean(profile), *liked])))
    label = {item.id: item.label for item in dataset.items}
    rows = [[row["rank"], row["item"], label[row["item"]], row["score"]] for row in found.rows()]
    print_table(f"{len(rows)} recommendations", ["rank", "id", "item", "score"], rows, numbers_from=3)


def _print_for_users(dataset: Dataset, rows: Sequence[dict[str, Any]], users: Sequence[str]) -> None:
    train = dataset.interactions("train")
    found = dataset.rows_named("users", users)
    for user in users:
        row = found.get(user)
        if row is None:
            output.print(f"\n{user}: not in training")
        else:
            who = dataset.users[row]
            items = train.rows(torch.tensor([row])).col.tolist()
            history = ", ".join(dataset.items[i].label for i in items[:8])
            output.print(f"\n{who.label}: {who.text}".rstrip(": "))
            output.print(f"interacted with {history}{', ..' if len(items) > 8 else ''}")
        mine = [[e["rank"], e["item"], e["title"] or e["item"], e["score"]] for e in rows if e["user"] == user]
        print_table(f"{len(mine)} recommendations", ["rank", "id", "item", "score"], mine, numbers_from=3)


def _ids_in(path: Path) -> list[str]:
    """The ids in a file, one a line."""
    lines = [line.strip() for line in read_lines(path)]
    return list(dict.fromkeys(line for line in lines if line))


def _rows_of_new_users(
    recommender: Recommender, visitors: Sequence[Visitor], k: int, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """One after the other; what is not known of the items that they like is left out, and said at the end."""
    dataset = recommender.dataset
    title = {item.id: item.title for item in dataset.items}
    unknown, popular = [], 0
    for visitor in visitors:
        likes = []
        for name in visitor.likes:
            try:
                likes.append(dataset.items[item_named(dataset, name)].id)
            except DmrecError:
                unknown.append(name)
        try:
            if not visitor.profile and not likes:
                raise NothingKnownError(f"nothing is known of {visitor.id}")
            found = recommender.recommend(k=k, profile=visitor.profile or None, likes=likes or None, **options)
        except NothingKnownError:
            popular += 1
            groups = recommender.title_groups if options["distinct_titles"] else None
            excluded = recommender.excluded(options["exclude"], options["among"], only_new=options["only_new"])
            found = recommender.popular(k, excluded, groups)
        for row in found.rows():
            yield {"user": visitor.id, **row, "title": title[row["item"]]}
    if unknown:
        notify(f"{counted(len(unknown), 'liked item')} not in {dataset.name}, such as '{unknown[0]}': left out")
    if popular:
        notify(f"nothing that the model can read is known of {counted(popular, 'new user')}: the most popular items")


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
