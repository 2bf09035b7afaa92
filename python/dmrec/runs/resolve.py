"""What a configuration means on a dataset. `resolve` is called once, by whoever starts a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from dmrec_ext import fastest_precision

from ..config import Config
from ..data.dataset import PERMUTED, Dataset
from ..errors import DmrecError, did_you_mean
from ..models.base import ModelConfig, OfRuns, WithItemCodes, WithItemEmbeddings, WithPosterior, WithTextVectors
from ..models.vae.model import BackboneConfig
from ..runtime import resolve_device
from .initial import initial_state
from .load import load_model
from .provenance import user_text_of
from .run import Run


def resolve(config: Config, dataset: Dataset, seed: int | None = None) -> Config:
    """The configuration with everything filled in that the dataset, the machine and the seed decide.

    Raises:
        DmrecError: something that the run needs is missing: held-out interactions, vectors, a device, a package.
    """
    if config.training.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise DmrecError("training.tensorboard needs TensorBoard: pip install 'dmrec[tensorboard]'")
    if refusal := config.model.refusal(dataset.n_users, dataset.n_items):
        raise DmrecError(refusal)
    if config.training.interactions == "train" and dataset.manifest["interactions"]["valid"] == 0:
        raise DmrecError(f"{dataset.folder} has no validation interactions to measure with; split it again")
    language = config.language
    if language is not None:
        language = language.model_copy(update={"vectors": dataset.vectors(language.vectors).name})
    initial = config.training.initial
    if initial is not None and not Path(initial).exists():
        raise DmrecError(f"training.initial: '{initial}' is not the folder of a run")
    device = resolve_device(config.training.device)
    precision = config.training.precision
    training = config.training.model_copy(
        update={
            "initial": None if initial is None else str(Run.open(Path(initial)).folder.resolve()),
            "seed": config.training.seed if seed is None else seed,
            "device": str(device),
            "precision": fastest_precision(device) if precision == "auto" else precision,
        }
    )
    model = _with_item_embeddings(config.model, dataset, language.vectors if language else None)
    if isinstance(model, BackboneConfig) and model.item_text is not None:
        name = model.item_text.vectors or (language.vectors if language else None)
        text = model.item_text.model_copy(update={"vectors": dataset.vectors(name, "model.item_text.vectors").name})
        model = model.model_copy(update={"item_text": text})
    if model.reads_sequences:
        dataset.sequence("train")  # it has an order
    if isinstance(model, WithItemCodes):
        model = model.model_copy(update={"codes": dataset.codes(model.codes).name})
    if isinstance(model, WithTextVectors):
        model = model.model_copy(update={"vectors": dataset.vectors(model.vectors, "model.vectors").name})
    if isinstance(model, WithPosterior) and model.posterior is not None:
        model = model.model_copy(update={"posterior": _run_with_posterior(model.posterior, dataset)})
    if isinstance(model, OfRuns):
        model = _with_members(model, dataset, config.training.interactions)
    update = {"data": dataset.folder, "model": model, "language": language, "training": training}
    resolved = config.model_copy(update=update)
    initial_state(resolved, dataset)  # refused before anything is trained, if it does not fit
    return resolved


def final_config(run: Run) -> Config:
    """The configuration of a model like that of a finished run which learns from all interactions, for use.

    It is called like the run's with ``-final`` behind it, trains for the epochs that validation chose there, and has
    the settings that validation chose among several.

    Raises:
        DmrecError: the run is not finished, or learned from all interactions itself.
    """
    state, remark = run.state()
    if state != "finished":
        raise DmrecError(f"{run.folder} is not finished ({state}, {remark}): validation has not chosen its epochs yet")
    config, result = run.config, run.result
    if config.training.interactions == "all":
        raise DmrecError(f"{run.folder} has learned from all interactions: name the run that it was made from")
    chosen = {name: result[name] for name in type(config.model).model_fields if name in result}
    options = {
        name: _as_tuple(value) if isinstance(getattr(config.model, name), tuple) else value
        for name, value in chosen.items()
    }
    training = {"interactions": "all", **({"epochs": result["best_epoch"]} if "best_epoch" in result else {})}
    best = zip(config.phases, result.get("best_in_phases", ()), strict=False)
    phases = tuple(phase.model_copy(update={"epochs": epochs}) for phase, epochs in best if epochs)
    return config.model_copy(
        update={
            "name": f"{config.name}-final",
            "model": config.model.model_copy(update=options),
            "training": config.training.model_copy(update=training),
            "phases": phases,
        }
    )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _with_members(model: OfRuns, dataset: Dataset, interactions: str) -> OfRuns:
    """With the whole paths of its runs, which were trained on this dataset and can take part."""
    if len(model.runs) < 2:
        raise DmrecError("model.runs: an ensemble needs the folders of two runs or more: --set 'model.runs=[A, B]'")
    if model.weights and len(model.weights) != len(model.runs):
        raise DmrecError(f"model.weights: {len(model.runs)} runs need as many weights, got {len(model.weights)}")
    if model.weights and not sum(model.weights):
        raise DmrecError("model.weights: at least one weight must be above 0")
    if interactions == "all" and not model.weights:
        raise DmrecError("model.weights: an ensemble for use, with nothing held out to choose them by, needs weights")
    vectors: dict[str, str] = {}
    for given in model.runs:
        if not Path(given).exists():
            raise DmrecError(f"model.runs: '{given}' is not the folder of a run")
        run = Run.open(Path(given))
        _, metadata = run.load()
        if (metadata["n_users"], metadata["n_items"]) != (dataset.n_users, dataset.n_items):
            raise DmrecError(f"model.runs: {given} was trained on another dataset, {metadata['dataset']}")
        loaded = load_model(run, dataset)
        config = loaded.run.config
        if config.training.interactions != interactions:
            raise DmrecError(
                f"model.runs: {given} has learned from all interactions, held-out ones included"
                if interactions == "train"
                else f"model.runs: {given} has learned from the training interactions alone; an ensemble for use is "
                f"made from final runs: dmrec train --final {given}, and --set training.interactions=all"
            )
        if config.model.reads_sequences:
            raise DmrecError(f"model.runs: {config.name} reads the order of interactions, which an ensemble does not")
        loaded.model.item_scores(loaded.data.users(torch.zeros(1, dtype=torch.int64)))  # it has them
        if (name := user_text_of(config)) is not None:
            vectors[name] = given
    if len(vectors) > 1:
        both = " and ".join(f"'{name}' ({given})" for name, given in vectors.items())
        raise DmrecError(f"model.runs: all runs must read the same text vectors of users, these read {both}")
    return model.model_copy(update={"runs": tuple(str(Run.open(Path(run)).folder.resolve()) for run in model.runs)})


def _run_with_posterior(given: str, dataset: Dataset) -> str:
    """The whole path of a run, which was trained on this dataset and whose model has a posterior."""
    if not Path(given).exists():
        raise DmrecError(f"model.posterior: '{given}' is not the folder of a run; train one: dmrec train mult-vae")
    run = Run.open(Path(given))
    loaded = load_model(run, dataset)
    if loaded.run.config.training.interactions == "all":
        raise DmrecError(f"model.posterior: {given} has learned from all interactions, held-out ones included")
    loaded.model.posterior(loaded.data.users(torch.zeros(1, dtype=torch.int64)))
    return str(run.folder.resolve())


def _with_item_embeddings(model: ModelConfig, dataset: Dataset, of_language: str | None) -> ModelConfig:
    """With the item embeddings named: text vectors by name, or another run by its whole path, which is checked."""
    if not isinstance(model, WithItemEmbeddings) or not model.uses_item_embeddings:
        return model
    known, usual = dataset.vector_names, dataset.unpermuted_vector_names
    given = model.item_embeddings or of_language or (usual[0] if len(usual) == 1 else None)
    if given is None:
        raise DmrecError(
            f"{model.kind} is built from vectors of items, and {dataset.folder} has {'several' if known else 'none'}: "
            "set model.item_embeddings to text vectors of the dataset or to the folder of another run"
        )
    if given in known or given == PERMUTED:
        name = dataset.vectors(given, "model.item_embeddings").name
        return model.model_copy(update={"item_embeddings": name})
    if not Path(given).exists():
        raise DmrecError(
            f"model.item_embeddings: '{given}' is neither text vectors of {dataset.folder} nor the folder of a run"
            f"{did_you_mean(given, known) if known else ''}"
        )
    run = Run.open(Path(given))
    load_model(run, dataset).model.item_vectors()  # it has them, and was trained on this very dataset
    return model.model_copy(update={"item_embeddings": str(run.folder.resolve())})
