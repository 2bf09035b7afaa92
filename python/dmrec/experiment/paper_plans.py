"""The analyses of Zhang et al., SIGIR 2025, as experiment files: on any dataset, each is one command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import yaml

from ..data.dataset import PERMUTED, Dataset
from ..recipes import published_settings

Values = dict[str, Any]
BASES = {"mult-vae": "dmrec", "cvga": "cvga", "l-diffrec": "l-diffrec"}


def table_2(datasets: Sequence[Dataset]) -> tuple[str, Values]:
    """Three autoencoders alone and with each way of matching, beside EASE and the most popular items."""
    names = [name for base, prefix in BASES.items() for name in (base, *(f"{prefix}-{letter}" for letter in "gcm"))]
    models = {"popularity": None, "ease": None} | {name: _published(name, name, datasets) for name in names}
    return "Table 2: autoencoders alone and with DMRec.", {"against": ["ease"], "models": models}


def table_3(datasets: Sequence[Dataset]) -> tuple[str, Values]:
    """DMRec-M beside language-enhanced models of the graph, the base of either, and models without training."""
    plain = ["popularity", "ease", "l3ae", "cosine", "text-gcn"]
    trained = ["lightgcn-rlmrec", "kar", "llmrec", "rlmrec-c", "rlmrec-g", "alpharec", "alpharec-star", "promax"]
    models: Values = dict.fromkeys(plain)
    models |= {name: _published(name, name, datasets) for name in (*trained, "mult-vae", "dmrec-m")}
    about = "Table 3: language-enhanced models, beside their bases and models that the paper does not show."
    return about, {"against": ["dmrec-m"], "models": models}


def ablations(datasets: Sequence[Dataset]) -> tuple[str, Values]:
    """Fig. 5, and whether it is the text: DMRec-M without its parts, with texts of others, and without text."""
    changes: dict[str, Values] = {
        "dmrec-m": {},
        "without-meta-network": {"language": {"aggregate": False}},
        "add": {"matching": {"strategy": "none"}},
        "without-mixing": {"matching": {"strategy": "kl"}},
    }
    models: Values = {"mult-vae": _published("mult-vae", "mult-vae", datasets), "mult-vae-beta": None}
    for name, change in changes.items():
        models[name] = {**(_published(name, "dmrec-m", datasets) or {}), **change}
    if all(PERMUTED in dataset.vector_names for dataset in datasets):
        models["dmrec-m.permuted"] = _published("dmrec-m.permuted", "dmrec-m", datasets, recipe="dmrec-m.permuted")
    about = "Figure 5, with controls: a smaller KL divergence without text, and texts of other items and users."
    return about, {"against": ["dmrec-m"], "models": models}


def beta(datasets: Sequence[Dataset]) -> tuple[str, Values]:
    """Fig. 6: beta from 0 to 1 for each way of matching, beside the base."""
    models: Values = {"mult-vae": _published("mult-vae", "mult-vae", datasets)}
    for letter in "gcm":
        models[f"dmrec-{letter}"] = {"sweep": {"matching.beta": [round(step / 10, 1) for step in range(11)]}}
    return "Figure 6: the weight beta of the matching term.", {"models": models}


ANALYSES: dict[str, Callable[[Sequence[Dataset]], tuple[str, Values]]] = {
    "table-2": table_2,
    "table-3": table_3,
    "ablations": ablations,
    "beta": beta,
}


def paper_plan(analysis: str, datasets: Sequence[Dataset], seeds: int, trials: int | None) -> str:
    """The text of an experiment file.

    Args:
        analysis: one of `ANALYSES`.
        datasets: those to run it on; one with the name of the paper's has the settings published for it.
        seeds: how many.
        trials: of the search for each trained model's options; None: published options, untuned.
    """
    about, values = ANALYSES[analysis](datasets)
    head: Values = {"datasets": [str(dataset.folder) for dataset in datasets], "seeds": seeds}
    if trials is not None:
        head["tune"] = {"trials": trials, "seed": 1000}
    return f"# {about}\n" + yaml.safe_dump({**head, **values}, sort_keys=False)


def _published(name: str, of: str, datasets: Sequence[Dataset], recipe: str | None = None) -> Values | None:
    """The entry of a model with what is published for the recipe ``of`` on these datasets."""
    settings = published_settings(of)
    on = {dataset.name: settings[dataset.name] for dataset in datasets if dataset.name in settings}
    named = {} if name == of and recipe is None else {"recipe": recipe or of}
    return {**named, **({"on": on} if on else {})} or None
