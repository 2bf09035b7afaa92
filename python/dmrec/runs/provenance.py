"""What a run was made from: checksums of the data, and of another run whose vectors it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config import Config
from ..data.dataset import Dataset
from ..errors import DmrecError
from ..models.base import OfRuns, WithItemCodes, WithItemEmbeddings, WithPosterior, WithTextVectors
from ..models.vae.model import BackboneConfig
from .run import Run


def item_embeddings_of(config: Config, dataset: Dataset) -> tuple[str | None, Path | None]:
    """The text vectors, or the folder of the run, that a resolved configuration names as item embeddings."""
    model = config.model
    if not isinstance(model, WithItemEmbeddings) or not model.uses_item_embeddings or model.item_embeddings is None:
        return None, None
    if model.item_embeddings in dataset.vector_names:
        return model.item_embeddings, None
    return None, Path(model.item_embeddings)


def item_text_of(config: Config) -> str | None:
    """The name of the text vectors that rows of the model's layers are made from."""
    model = config.model
    return model.item_text.vectors if isinstance(model, BackboneConfig) and model.item_text is not None else None


def member_folders(config: Config) -> list[Path]:
    """The folders of the runs that the model is made of."""
    return [Path(run) for run in config.model.runs] if isinstance(config.model, OfRuns) else []


def user_text_of(config: Config) -> str | None:
    """The name of the text vectors that the model, or one that it is made of, reads of users."""
    if config.language is not None:
        return config.language.vectors
    if isinstance(config.model, WithTextVectors):
        return config.model.vectors
    names = (user_text_of(Run.open(folder).config) for folder in member_folders(config))
    return next((name for name in names if name is not None), None)


def runs_of(config: Config) -> list[Path]:
    """The folders of the runs that the model reads whenever it is used."""
    posterior = posterior_of(config)
    return [*member_folders(config), *([] if posterior is None else [posterior])]


def posterior_of(config: Config) -> Path | None:
    """The folder of the run whose posterior the model reads."""
    model = config.model
    return Path(model.posterior) if isinstance(model, WithPosterior) and model.posterior is not None else None


def fingerprint(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Checksums of everything in a dataset that a run depends on."""
    text_vectors, _ = item_embeddings_of(config, dataset)
    of_language = user_text_of(config)
    order = config.model.reads_sequences
    codes = config.model.codes if isinstance(config.model, WithItemCodes) else None
    of_codes = {} if codes is None else dataset.fingerprint_of_codes(codes, tokenizer=config.alignment is not None)
    of_text = dataset.fingerprint(item_text_of(config))
    of_vectors = {**dataset.fingerprint(of_language, order=order), **dataset.fingerprint(text_vectors), **of_text}
    return {**of_vectors, **of_codes}


def data_metadata(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint keeps of the data that it was trained on."""
    sizes = {"n_users": dataset.n_users, "n_items": dataset.n_items}
    runs = {str(run): _checksum(run) for run in runs_of(config)}
    of_runs = {"runs": runs} if runs else {}
    return {"dataset": dataset.name, **sizes, "fingerprint": fingerprint(config, dataset), **of_runs}


def _checksum(run: Path) -> str:
    """Of the weights of a run's model."""
    return str(Run.open(run).load()[1]["sha256"])


def depends_on(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Checksums of everything that decides how training goes, other than the configuration."""
    initial = None if config.training.initial is None else Path(config.training.initial)
    named = (item_embeddings_of(config, dataset)[1], initial, *runs_of(config))
    of_runs = {str(run): _checksum(run) for run in named if run is not None}
    return {**fingerprint(config, dataset), **of_runs}


def check_data(folder: Path, metadata: dict[str, Any], config: Config, dataset: Dataset) -> None:
    """Refuses a dataset other than the one that a checkpoint in ``folder`` was trained on, and runs that it reads
    which have been trained again since.
    """
    for run, checksum in metadata.get("runs", {}).items():  # not in those of earlier versions
        if _checksum(Path(run)) != checksum:
            raise DmrecError(f"{folder} was made from {run}, which has been trained again since: train it again, too")
    here = data_metadata(config, dataset)
    if (metadata["n_users"], metadata["n_items"]) != (here["n_users"], here["n_items"]):
        raise DmrecError(
            f"{folder} was trained on {metadata['n_users']} users and {metadata['n_items']} items, "
            f"but {dataset.folder} has {dataset.n_users} and {dataset.n_items}"
        )
    known = metadata["fingerprint"]
    if differing := [name for name, value in known.items() if here["fingerprint"].get(name) != value]:
        raise DmrecError(
            f"{folder} was trained on another version of {dataset.folder}: {', '.join(differing)} changed since "
            "(another split would leak test interactions, and other vectors mean nothing to it); "
            "train again, or name the old dataset with --data"
        )
