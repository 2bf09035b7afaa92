"""``dmrec data``: import, inspect, fetch, synthetic."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.create import check_free, check_sources
from ..data.dataset import SPLITS, Dataset, check_name, open_dataset
from ..data.engines import ENGINES
from ..data.engines.memory import bytes_of
from ..data.inspection import inspect_dataset, inspect_splits, inspect_texts, warnings
from ..data.sources.columns import IGNORED
from ..data.sources.dialect import TableFormat
from ..data.sources.download import TERMS, fetch_ml100k
from ..data.sources.importer import assemble, make_dataset
from ..data.sources.interactions import Interactions
from ..data.sources.large import import_large
from ..data.sources.large_files import is_large
from ..data.sources.new_items import read_new_items
from ..data.sources.source import Source
from ..data.sources.summary import describe_import
from ..data.splits import STRATEGIES, shares_of
from ..data.synthetic import make_catalogue
from ..errors import DmrecError, did_you_mean
from ..language.encoders import make_encoder
from ..language.new_items import add_items
from ..options import LARGEST_SEED
from .console import errors, notify, output, print_table

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", help="Make datasets and inspect them."
)

MinRating = Annotated[float, typer.Option(help="Drop ratings below this.")]
KCore = Annotated[int, typer.Option("--k-core", min=1, help="Keep users and items with this many interactions.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the random split.")]
SplitName = Annotated[str, typer.Option("--split", help=f"How to split: {', '.join(STRATEGIES)}.")]
Ratios = Annotated[
    str | None,
    typer.Option(help="Training, validation, test. Default: 3:1:1, with --no-test 4:1.", show_default=False),
]
NoTest = Annotated[bool, typer.Option("--no-test", help="Hold nothing out for test.")]
Repeats = Annotated[
    str,
    typer.Option(help="Repeated interactions: first keeps the first; keep cannot be evaluated."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a dataset in the folder.")]
Optional = typer.Option(show_default=False)
SMALL = (
    *("split", "repeats", "time_column", "sequences", "train", "valid", "test", "reviews"),
    *("item_vectors", "user_vectors", "vectors_name"),
)
"""Options of the import of sources that are held in memory."""
TextColumn = Annotated[str | None, typer.Option(help="Its name in --items and --users.", show_default=False)]


@app.command("import")
def import_(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(help="Table with a header, pattern of tables, or folder of a known layout.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Dataset folder to write.")] = Path("data/imported"),
    name: Annotated[str | None, typer.Option(help="Default: the folder's name.", show_default=False)] = None,
    min_rating: MinRating = 3.0,
    k_core: KCore = 5,
    split: SplitName = "random",
    ratios: Ratios = None,
    no_test: NoTest = False,
    repeats: Repeats = "first",
    seed: Seed = 0,
    user_column: Annotated[str | None, Optional] = None,
    item_column: Annotated[str | None, Optional] = None,
    rating_column: Annotated[str | None, Optional] = None,
    time_column: Annotated[
        str | None, typer.Option(help="Column of times; none leaves times out.", show_default=False)
    ] = None,
    no_rating: Annotated[
        bool, typer.Option("--no-rating", help="Every row counts, whatever columns there are.")
    ] = False,
    delimiter: Annotated[
        str | None, typer.Option(help="Between fields: ; or tab and the like. Default: found out.", show_default=False)
    ] = None,
    decimal: Annotated[
        str | None, typer.Option(help="In ratings: . or , . Default: found out.", show_default=False)
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Of the text: windows-1252 and the like. Default: found out.", show_default=False)
    ] = None,
    no_header: Annotated[bool, typer.Option("--no-header", help="The first line is data; needs --columns.")] = False,
    columns: Annotated[
        str | None, typer.Option(help="Names of the columns, such as user,item,rating,time.", show_default=False)
    ] = None,
    sequences: Annotated[
        bool, typer.Option("--sequences", help="Each line is a user and then the items, oldest first.")
    ] = False,
    train: Annotated[Path | None, typer.Option(help="Training, of files that are split.", show_default=False)] = None,
    valid: Annotated[Path | None, typer.Option(help="Validation.", show_default=False)] = None,
    test: Annotated[Path | None, typer.Option(help="Test.", show_default=False)] = None,
    items: Annotated[Path | None, typer.Option(help="Titles, tags and texts of the items.", show_default=False)] = None,
    users: Annotated[Path | None, typer.Option(help="Texts of the users.", show_default=False)] = None,
    reviews: Annotated[Path | None, typer.Option(help="File with user, item, text.", show_default=False)] = None,
    title_column: Annotated[
        str | None, typer.Option(help="Name of this column in --items and --users.", show_default=False)
    ] = None,
    tags_column: Annotated[
        str | None, typer.Option(help="Name of this column in --items and --users.", show_default=False)
    ] = None,
    description_column: Annotated[
        str | None, typer.Option(help="Name of this column in --items and --users.", show_default=False)
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Name of this column in --items and --users.", show_default=False)
    ] = None,
    item_vectors: Annotated[Path | None, typer.Option(help=".npy, a row for each item.", show_default=False)] = None,
    user_vectors: Annotated[Path | None, typer.Option(help=".npy, a row for each user.", show_default=False)] = None,
    vectors_name: Annotated[str, typer.Option(help="Name of these vectors.")] = "imported",
    engine: Annotated[
        str | None,
        typer.Option(help=f"For large sources: {', '.join(ENGINES)}. Default: duckdb for them.", show_default=False),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="That it may use, such as 64GB. Default: half of what is free.", show_default=False),
    ] = None,
    force: Force = False,
) -> None:
    """Make a dataset from a table of interactions, from files that are split already, or from a known folder.

    A table (.csv, .tsv, .inter, .parquet, .jsonl) has a user, an item, and a rating and a time if there are any.
    Its columns are found by their usual names. It is filtered and split: 3:1:1 (--ratios) at random per user, or by
    order or time (--split). Three tables or matrices (.npz, .pkl) stay split as they are. Items, users and reviews may
    be such tables, too, as Amazon, Yelp and Steam have them. A folder may be RecBole's (NAME.inter ..), MovieLens
    (u.data, ratings.dat or ratings.csv) or that of RLMRec and DMRec (trn_mat.pkl ..), whose pickles are read
    without running anything in them. Vectors have a row for each item and each user, in the order of their
    descriptions.

    A pattern, a folder of other tables, sources of more than 1 GB, and whatever --engine is given for, are imported by
    an engine within --memory, into a dataset of format 2 that is read from disk. Spark runs under spark-submit or here.

    Examples:

    - `dmrec data import ratings.csv --out data/shop --min-rating 4 --items items.jsonl`
    - `dmrec data import Video_Games.jsonl.gz --items meta_Video_Games.jsonl.gz --out data/games`
    - `dmrec data import clicks.parquet --user-column customer --item-column sku --k-core 10 --out data/shop`
    - `dmrec data import reviews.json --split leave-one-out --time-column unixReviewTime --out data/beauty`
    - `dmrec data import orders.csv --ratios 8:1:1 --out data/shop`
    - `dmrec data import --train trn.npz --valid val.npz --test tst.npz --out data/yelp`
    - `dmrec data import ml-1m --out data/ml-1m`
    - `dmrec data import LETTER/data/Beauty --split leave-one-out --out data/beauty`
    - `dmrec data import 'logs/*.parquet' --out data/large --memory 64GB`
    """
    check_name(vectors_name)
    given_files = (source, train, valid, test, items, users, reviews, item_vectors, user_vectors)
    check_sources(out, [path for path in given_files if path is not None], vectors_name)
    check_free(out, force)
    if no_rating and rating_column:
        raise DmrecError("--no-rating and --rating-column exclude each other: leave one out")
    rating_column = IGNORED if no_rating else rating_column
    given = {"user": user_column, "item": item_column, "rating": rating_column, "time": time_column}
    texts = {"title": title_column, "tags": tags_column, "description": description_column, "text": text_column}
    if any(texts.values()) and items is None and users is None:
        raise DmrecError("--title-column and the like name columns of --items and --users: give one of these")
    chosen = {role: column for role, column in (given | texts).items() if column}
    names = tuple(part.strip() for part in columns.split(",")) if columns else ()
    table_format = TableFormat(delimiter, decimal, encoding, not no_header, names)
    parts = {name: path for name, path in zip(SPLITS, (train, valid, test), strict=True) if path is not None}
    if engine is not None or (source is not None and not parts and is_large(source)):
        small = [option for option in SMALL if (option, split) != ("split", "random")]
        _refuse_options(context, small, "is not for large sources (format 2), which are split at random per user")
        if source is None:
            raise DmrecError("--engine is for a table, a pattern of tables or a folder of them: name it")
        dataset = import_large(
            source,
            out,
            name=name or out.name,
            engine=engine or "duckdb",
            memory=None if memory is None else bytes_of(memory),
            columns=chosen,
            items=items,
            users=users,
            given=table_format,
            min_rating=min_rating,
            k_core=k_core,
            seed=seed,
            shares=shares_of(ratios, no_test),
        )
        _notify_of_import(dataset)
        _print_counts(dataset)
        return
    _refuse_options(context, ("memory",), "is for large sources, and for others with --engine duckdb")
    found = assemble(
        source,
        parts,
        chosen,
        items=items,
        users=users,
        reviews=reviews,
        vectors=(item_vectors, user_vectors),
        given=table_format,
        sequences=sequences,
    )
    described = {"user": users or reviews, "item": items or reviews}
    without_table = found.has_row_ids or not any(table.columns for table in found.tables)
    unused = [f"{role}_column" for role in given if without_table and not described.get(role)]
    _refuse_unused(context, found, unused)
    dataset = make_dataset(
        found,
        out,
        name=name or out.name,
        min_rating=min_rating,
        k_core=k_core,
        split=split,
        repeats=repeats,
        shares=shares_of(ratios, no_test),
        seed=seed,
        vectors_name=vectors_name,
    )
    _notify_of_import(dataset)
    _describe(dataset)
    _print_texts(dataset)


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="Dataset folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Inspect a dataset: counts, how interactions are spread, leaks between splits, texts, vectors.

    Examples:

    - `dmrec data inspect data/ml-100k`
    - `dmrec data inspect data/ml-100k --json`
    """
    dataset = open_dataset(folder)
    found = inspect_dataset(dataset)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    parts = [[split, *numbers.values()] for split, numbers in found["splits"].items()]
    print_table(
        f"{dataset.name}: {dataset.n_users} users, {dataset.n_items} items, density {found['density']:.5f}",
        ["split", *next(iter(found["splits"].values()))],
        parts,
    )
    if found["order"]:
        print_table(f"order of interactions, split {found['split']}", ["", "number"], list(found["order"].items()))
    for side in ("users", "items"):
        spread = found[f"{side}_by_interactions"]
        print_table(f"{side} by training interactions", ["", *spread], [[side, *spread.values()]])
    if found["texts"]:
        texts = [[side, *numbers.values()] for side, numbers in found["texts"].items()]
        print_table("texts", ["", *next(iter(found["texts"].values()))], texts)
    if found["reviews"]:
        print_table("reviews of training interactions", list(found["reviews"]), [list(found["reviews"].values())])
    for kind in ("profiles", "vectors", "codes"):
        if found[kind]:
            columns = list(next(iter(found[kind].values())))
            print_table(kind, ["name", *columns], [[name, *each.values()] for name, each in found[kind].items()])
    _print_warnings(dataset, found)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="ml-100k")],
    out: Annotated[Path | None, typer.Option(help="Default: data/NAME.", show_default=False)] = None,
    min_rating: MinRating = 3.0,
    k_core: KCore = 5,
    split: SplitName = "random",
    ratios: Ratios = None,
    no_test: NoTest = False,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Download a public dataset with its texts.

    Example: `dmrec data fetch ml-100k`
    """
    known = {"ml-100k": fetch_ml100k}
    if name not in known:
        raise DmrecError(f"'{name}' cannot be fetched{did_you_mean(name, known)}")
    out = out or Path("data") / name
    check_free(out, force)
    errors.print(f"Terms of use. {TERMS}")
    shares = shares_of(ratios, no_test)
    _describe(known[name](out, min_rating=min_rating, k_core=k_core, split=split, shares=shares, seed=seed))


@app.command()
def synthetic(
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 10_000,
    items: Annotated[int, typer.Option(min=1, help="Number of items.")] = 100_000,
    out: Annotated[Path, typer.Option(help="Dataset folder to write.")] = Path("data/synthetic"),
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of everything random.")] = 0,
    force: Force = False,
) -> None:
    """Make a catalogue of any size by a random process, with vectors, to see what size costs.

    Popularity falls as rank^-0.9, users like one to three clusters of items, vectors lie around cluster centres.

    Example: `dmrec data synthetic --items 1000000 --out data/million`
    """
    check_free(out, force)
    _describe(make_catalogue(out, n_users=users, n_items=items, seed=seed))


@app.command("add-items")
def add_items_(
    folder: Annotated[Path, typer.Argument(help="Dataset folder.")],
    items: Annotated[Path, typer.Argument(help="Table of the new items (.jsonl, .csv ..): id, title, text.")],
    out: Annotated[Path, typer.Option(help="Dataset folder to write.")],
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of the text vectors, if they were imported: see dmrec embed.")
    ] = None,
    force: Force = False,
) -> None:
    """Write a dataset with items that nobody has taken yet, and their text vectors, for the next training.

    The items come after those of the dataset, which stays as it is, since its runs need it.

    Example: `dmrec data add-items data/shop this-week.jsonl --out data/shop-this-week`
    """
    check_free(out, force)
    dataset = open_dataset(folder)
    new = read_new_items(items, dataset)
    notify(f"{items}: {new.summary}")
    grown = add_items(dataset, new.items, out, None if encoder is None else make_encoder(encoder))
    left_out = [*(set(dataset.vector_names) - set(grown.vector_names)), *dataset.profile_names, *dataset.code_names]
    if left_out:
        notify(f"{grown.name}: made again where needed: {', '.join(sorted(left_out))} (dmrec embed, profile, tokenize)")
    _describe(grown)


def _refuse_unused(context: typer.Context, source: Source, unused: list[str]) -> None:
    """Options that were given and would do nothing."""
    if not isinstance(source.interactions, Interactions):
        unused = [*unused, "k_core", "split", "ratios", "no_test", "repeats", "seed"]
    if source.has_row_ids:
        unused = [*unused, "min_rating"]
    _refuse_options(context, unused, f"does nothing to {source.files[0].name}")


def _refuse_options(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Those that were given."""
    for name in names:
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE":
            raise DmrecError(f"--{name.replace('_', '-')} {why}: leave it out")


def _notify_of_import(dataset: Dataset) -> None:
    for line in describe_import(dataset.provenance):
        notify(f"{dataset.name}: {line}")


def _print_warnings(dataset: Dataset, found: dict[str, Any]) -> None:
    for warning in warnings(found):
        errors.print(f"{dataset.name}: {warning}")


def _print_counts(dataset: Dataset) -> None:
    counts = " / ".join(str(dataset.manifest["interactions"][split]) for split in SPLITS)
    output.print(
        f"{dataset.name}: {dataset.n_users} users, {dataset.n_items} items, "
        f"{counts} interactions ({' / '.join(SPLITS)}): {dataset.folder}",
    )


def _describe(dataset: Dataset) -> None:
    _print_counts(dataset)
    _print_warnings(dataset, inspect_splits(dataset))


def _print_texts(dataset: Dataset) -> None:
    """What share has texts, where any has."""
    found = inspect_texts(dataset)
    shares = [
        f"{numbers['with text']:.1%} of {side} ({numbers['of interactions']:.1%} of training interactions) have a text"
        for side, numbers in found["texts"].items()
        if numbers["with text"] or numbers["with title"]
    ]
    if found["reviews"]:
        shares.append(f"{found['reviews']['of interactions']:.1%} of training interactions have a review")
    if shares:
        output.print(f"{dataset.name}: {', '.join(shares)}")
