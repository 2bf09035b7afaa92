"""``dmrec export``: the vectors of a model's items, as arrays."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DmrecError
from ..files import replace_file, write_array
from ..inference.recommender import Recommender
from ..models.base import evaluating
from ..runs.load import load_run
from .console import output
from .runs import notify_of_seed


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    vectors: Annotated[bool, typer.Option("--vectors", help="The vectors that items are ranked by.")] = False,
    data: Annotated[Path | None, typer.Option(help="Dataset folder, if it moved.", show_default=False)] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Use the best state so far of a run that is not finished.")
    ] = False,
) -> None:
    """Write the vectors of the items, for an index of nearest neighbours such as faiss.

    ``vectors.npy`` and ``vectors.npy.ids.txt``, a line for each row. Of items that are cut into shards, files
    ``vectors-0007.npy`` of each shard, in the order of the items; the tables are never all in memory.

    Examples:

    - `dmrec export runs/ml-100k/dmrec-m --vectors --out vectors/`
    """
    if not vectors:
        raise DmrecError("say what to export: --vectors")
    opened, dataset, model, of_model = load_run(run, data, unfinished=unfinished)
    notify_of_seed(run, opened.folder)
    recommender = Recommender(model, of_model, dataset, opened.config, opened.folder)
    if of_model.shards is None:
        recommender.item_vectors().save(out / "vectors.npy")
        output.print(f"{dataset.n_items} vectors: {out / 'vectors.npy'}")
        return
    with evaluating(model):
        tables = model.item_tables()
    for shard, rows in zip(of_model.shards.owned, tables, strict=True):
        replace_file(out / f"vectors-{shard:04}.npy", partial(write_array, array=rows.numpy()))
    output.print(f"{dataset.n_items} vectors in {len(tables)} files: {out}")
