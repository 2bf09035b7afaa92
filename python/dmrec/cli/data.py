"""``dmrec data``: import, fetch, embed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data.dataset import MANIFEST, SPLITS, Dataset, check_name, open_dataset, read_vectors
from ..data.importing import import_matrices, import_table
from ..data.movielens import TERMS, fetch_ml100k
from ..data.synthetic import make_catalogue
from ..errors import DmrecError, did_you_mean
from ..language.encoder import TextEncoder, embed_dataset
from ..language.tfidf import TfidfSvd
from .console import errors, output

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Make datasets and text vectors.")

MinRating = Annotated[float, typer.Option(help="Drop ratings below this.")]
KCore = Annotated[int, typer.Option("--k-core", min=1, help="Keep users and items with this many interactions.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the split.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a dataset that stands there.")]
Optional = typer.Option(show_default=False)


@app.command("import")
def import_(
    table: Annotated[Path | None, typer.Argument(help="CSV, TSV or Parquet with a header.", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="Dataset folder to write.")] = Path("data/imported"),
    name: Annotated[str | None, typer.Option(help="Default: the folder's name.", show_default=False)] = None,
    min_rating: MinRating = 3.0,
    k_core: KCore = 5,
    seed: Seed = 0,
    user_column: Annotated[str | None, Optional] = None,
    item_column: Annotated[str | None, Optional] = None,
    rating_column: Annotated[str | None, Optional] = None,
    train: Annotated[Path | None, typer.Option(help="Split already: .npz of training.", show_default=False)] = None,
    valid: Annotated[Path | None, typer.Option(help=".npz of validation.", show_default=False)] = None,
    test: Annotated[Path | None, typer.Option(help=".npz of test.", show_default=False)] = None,
    items: Annotated[Path | None, typer.Option(help="JSON lines: id, title, text.", show_default=False)] = None,
    users: Annotated[Path | None, typer.Option(help="JSON lines: id, title, text.", show_default=False)] = None,
    item_vectors: Annotated[Path | None, typer.Option(help=".npy, a row per item.", show_default=False)] = None,
    user_vectors: Annotated[Path | None, typer.Option(help=".npy, a row per user.", show_default=False)] = None,
    vectors_name: Annotated[str, typer.Option(help="What to call these vectors.")] = "imported",
    force: Force = False,
) -> None:
    """Make a dataset from a table of interactions, or from matrices that are split already.

    A table (user, item, and a rating if there is one) is filtered and split 3:1:1 at random per user. Columns are
    found by their usual names.

    Examples:

    - `dmrec data import ratings.csv --out data/shop --min-rating 4 --items items.jsonl`
    - `dmrec data import clicks.parquet --user-column customer --item-column sku --k-core 10 --out data/shop`
    - `dmrec data import --train trn.npz --valid val.npz --test tst.npz --out data/yelp`
    """
    _refuse_existing(out, force)
    check_name(vectors_name)
    matrices = {split: path for split, path in zip(SPLITS, (train, valid, test), strict=True) if path is not None}
    if (item_vectors is None) != (user_vectors is None):
        raise DmrecError("give both --item-vectors and --user-vectors, or neither")
    if table is not None and not matrices:
        if item_vectors is not None:
            raise DmrecError("vectors cannot go with a table, whose rows the filters reorder; use dmrec data embed")
        given = {"user": user_column, "item": item_column, "rating": rating_column}
        columns = {role: column for role, column in given.items() if column}
        dataset = import_table(
            table,
            out,
            name=name or out.name,
            columns=columns,
            min_rating=min_rating,
            core=k_core,
            seed=seed,
            items=items,
            users=users,
        )
    elif table is None and len(matrices) == 3:
        dataset = import_matrices(matrices, out, name=name or out.name, items=items, users=users)
    else:
        raise DmrecError("give either one table or all of --train, --valid and --test")
    if item_vectors is not None and user_vectors is not None:
        made = {"source": [item_vectors.name, user_vectors.name]}
        dataset.add_vectors(vectors_name, read_vectors(item_vectors), read_vectors(user_vectors), made)
    _describe(dataset)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="ml-100k")],
    out: Annotated[Path | None, typer.Option(help="Default: data/NAME.", show_default=False)] = None,
    min_rating: MinRating = 3.0,
    k_core: KCore = 5,
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
    _refuse_existing(out, force)
    errors.print(f"Terms of use. {TERMS}", highlight=False)
    _describe(known[name](out, min_rating=min_rating, core=k_core, seed=seed))


@app.command()
def synthetic(
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 10_000,
    items: Annotated[int, typer.Option(min=1, help="Number of items.")] = 100_000,
    out: Annotated[Path, typer.Option(help="Dataset folder to write.")] = Path("data/synthetic"),
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    force: Force = False,
) -> None:
    """Make a catalogue of any size by a random process, with vectors, to see what size costs.

    Popularity falls as rank^-0.9, users like one to three clusters of items, vectors lie around cluster centres.

    Example: `dmrec data synthetic --items 1000000 --out data/million`
    """
    _refuse_existing(out, force)
    _describe(make_catalogue(out, n_users=users, n_items=items, seed=seed))


@app.command()
def embed(
    folder: Annotated[Path, typer.Argument(help="Dataset folder.")],
    encoder: Annotated[str, typer.Option(help="tfidf-svd")] = "tfidf-svd",
    width: Annotated[int, typer.Option(min=1, help="Dimensions.")] = 128,
) -> None:
    """Turn the texts of items and users into vectors, stored in the dataset.

    tfidf-svd: words weighted by rarity, reduced by a truncated SVD; needs no language model and knows no meaning.

    Example: `dmrec data embed data/ml-100k --width 128`
    """
    encoders: dict[str, TextEncoder] = {"tfidf-svd": TfidfSvd(width)}
    if encoder not in encoders:
        raise DmrecError(f"no encoder is called '{encoder}'{did_you_mean(encoder, encoders)}")
    dataset = open_dataset(folder)
    name = embed_dataset(dataset, encoders[encoder])
    vectors = dataset.vectors(name)
    width_made = vectors.items.shape[1]
    output.print(
        f"{dataset.name}: vectors '{name}', width {width_made}, of {dataset.n_items} items and {dataset.n_users} users",
        highlight=False,
    )


def _refuse_existing(folder: Path, force: bool) -> None:
    if (folder / MANIFEST).exists() and not force:
        raise DmrecError(
            f"{folder} holds a dataset; name another folder (--out) or replace it and its vectors (--force)"
        )


def _describe(dataset: Dataset) -> None:
    counts = " / ".join(str(dataset.manifest["interactions"][split]) for split in SPLITS)
    output.print(
        f"{dataset.name}: {dataset.n_users} users, {dataset.n_items} items, "
        f"{counts} interactions ({' / '.join(SPLITS)}): {dataset.folder}",
        highlight=False,
    )
