"""``dmrec tokenize``: from vectors of items to tuples of codes (semantic IDs)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..data.dataset import open_dataset
from ..errors import DmrecError
from ..options import apply_overrides
from ..tokenizers.collisions import RULES
from ..tokenizers.tokenize import TOKENIZERS, import_codes, make_tokenizer, tokenize_dataset
from .console import notify, output, print_table


def tokenize(
    folder: Annotated[Path, typer.Argument(help="Dataset folder.")],
    tokenizer: Annotated[str, typer.Option(help=f"{', '.join(TOKENIZERS)}.")] = "rk-means",
    vectors: Annotated[
        str | None,
        typer.Option(help="Name of text vectors, or svd: of co-occurrence. Default: the only ones, or svd."),
    ] = None,
    collaborative: Annotated[
        str | None, typer.Option(help="Vectors that letter-rq-vae follows. Default: svd.", show_default=False)
    ] = None,
    codes: Annotated[
        Path | None, typer.Option(help="Codes made elsewhere: .npy, items x levels.", show_default=False)
    ] = None,
    collisions: Annotated[
        str | None,
        typer.Option(
            help=f"Items that share a tuple: {', '.join(RULES)}. Default: reassign; with --codes there is none."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the codes. Default: TOKENIZER-VECTORS.", show_default=False)
    ] = None,
    levels: Annotated[int | None, typer.Option(min=1, help="Codes of an item.")] = None,
    size: Annotated[int | None, typer.Option(min=2, help="Codes of a level.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any option of the tokenizer as name=value; repeatable.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Save a picture of how codes are used.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace codes of this name.")] = False,
) -> None:
    """Give each item a tuple of codes (a semantic ID), for generative recommenders, and store them in the dataset.

    rk-means: k-means on each level of what the levels before have left; seconds, no network. rq-vae: a network whose
    latents are quantized level by level. letter-rq-vae: the same with LETTER's terms. Items that share all codes are
    told apart by other codes of the last level (reassign), or by one more (token).

    Examples:

    - `dmrec tokenize data/beauty --vectors minilm`
    - `dmrec tokenize data/beauty --tokenizer rq-vae --vectors svd --levels 3 --plot codes.png`
    - `dmrec tokenize data/beauty --codes letter.npy --name letter`
    """
    dataset = open_dataset(folder)
    if codes is not None:
        if name is None:
            raise DmrecError("--codes needs a name for them: --name")
        found = import_codes(dataset, _read_codes(codes), name, collisions=collisions, force=force, source=codes.name)
    else:
        given = {key: value for key, value in (("levels", levels), ("size", size)) if value is not None}
        chosen = make_tokenizer(tokenizer, **apply_overrides(given, settings or []))
        found = tokenize_dataset(
            dataset,
            chosen,
            vectors=vectors,
            collaborative=collaborative,
            collisions=collisions or "reassign",
            name=name,
            force=force,
            report=lambda figures: notify(", ".join(f"{key} {value}" for key, value in figures.items())),
        )
    print_health(dataset.name, found)
    if plot is not None:
        from ..experiment.report.plots import plot_codes

        plot_codes(dataset.codes(found["name"]).codes, found["size"], found["name"], plot)
        output.print(f"use of codes: {plot}")


def print_health(dataset: str, found: dict[str, Any]) -> None:
    """A row for each level, and what is left of collisions."""
    rows = [
        [level + 1, used, perplexity, prefixes]
        for level, (used, perplexity, prefixes) in enumerate(
            zip(found["used"], found["perplexity"], found["prefixes"], strict=True)
        )
    ]
    title = f"{dataset}: codes '{found['name']}', {found['levels']} levels of {found['size']}"
    print_table(title, ["level", "codes used", "perplexity", "prefixes"], rows)
    before = found.get("in collisions before", found["items in collisions"])
    output.print(
        f"items that share a tuple: {found['items in collisions']} (before the rule for collisions: {before}), at most "
        f"{found['largest collision']} on one"
    )


def _read_codes(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DmrecError(f"{path} cannot be read as a .npy file: {error}") from None
