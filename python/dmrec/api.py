"""The Python interface: what ``import dmrec`` gives.

External ids go in and come out; results are `Table` objects, which pandas, polars and Arrow read.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from . import recipes
from .config import Config, build_config
from .data import dataset as datasets
from .data.create import check_free
from .data.dataset import Dataset
from .data.sources.new_items import read_new_items
from .errors import DmrecError
from .eval import ranking
from .eval.lists import OF_ALL
from .eval.metrics import parse_metric
from .inference.recommender import Recommender
from .language.embed import embed_dataset
from .language.encoders import TextEncoder, make_encoder
from .language.new_items import add_items as join_items
from .language.profiles.prompts import read_prompts
from .language.profiles.requests import Sampling
from .language.profiles.write import write_profiles
from .language.profiles.writer import TemplateWriter
from .models.base import ClosedFormModel, Model
from .options import deep_merge
from .plugins import load_plugins
from .runs.load import held_out_split, histories_of, load_model, test_data, test_exclusions, training_data
from .runs.provenance import check_data
from .runs.resolve import resolve
from .runs.run import Run, run_folder
from .runtime import resolve_device
from .table import Table
from .tokenizers.tokenize import make_tokenizer, tokenize_dataset
from .training import trainer
from .training.observer import Observer

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def open_dataset(folder: str | Path) -> Dataset:
    """Opens a dataset folder, made by ``dmrec data import``, ``dmrec data fetch`` or `dataset`.

    Raises:
        DmrecError: the folder is not a dataset, is incomplete or damaged.
    """
    return datasets.open_dataset(Path(folder))


def profile(data: Dataset, *, sample: int = 8, seed: int = 0, name: str | None = None, replace: bool = False) -> str:
    """Writes a short text about each item and each user, by templates, and stores the texts in the dataset.

    ``dmrec profile --writer llm`` writes them with a language model.

    Args:
        data: the dataset.
        sample: a user's text names at most so many of the user's training interactions.
        seed: of that sample.
        name: the name of the texts; default: "template".
        replace: whether texts of this name are replaced even if they are more.

    Returns:
        The name, for `embed`.

    Raises:
        DmrecError: an argument is out of range.
    """
    prompts, sampling = read_prompts("template"), Sampling(sample, seed)
    return write_profiles(data, TemplateWriter(), prompts, sampling, name=name, force=replace).name


def embed(
    data: Dataset,
    encoder: str | TextEncoder = "tfidf-svd",
    *,
    profiles: str | None = None,
    name: str | None = None,
    replace: bool = False,
    **options: Any,
) -> str:
    """Turns the texts of items and users into vectors, which are stored in the dataset.

    Args:
        data: the dataset.
        encoder: "tfidf-svd", "minilm", "wordllama", "endpoint", the folder of a sentence-transformer, or an encoder.
        profiles: the name of the texts that `profile` wrote; None for the dataset's own texts.
        name: the name of the vectors; default: the encoder's, followed by that of the profiles.
        replace: whether vectors of this name are replaced.
        **options: of the encoder, such as ``width=256`` or ``device="auto"``.

    Returns:
        The name of the vectors.

    Raises:
        DmrecError: the encoder or an option is unknown, vectors of this name exist, or there are no texts.
    """
    if isinstance(encoder, TextEncoder):
        if options:
            raise DmrecError(f"an encoder object has its own options: leave out {', '.join(options)}")
    else:
        encoder = make_encoder(encoder, **options)
    return embed_dataset(data, encoder, profiles=profiles, name=name, force=replace)


def add_items(
    data: Dataset, items: Any, folder: str | Path, *, encoder: TextEncoder | None = None, replace: bool = False
) -> Dataset:
    """Writes a dataset with further items, which nobody has taken yet, and their text vectors; ``data`` stays as it is.

    Args:
        data: the dataset.
        items: a file (.jsonl, .csv, .parquet ..), a data frame, or a list of dictionaries: ``id``, and ``title``,
            ``tags``, ``description`` or ``text``; or ``vector``. Items that are known already are left out.
        folder: where the larger dataset is written.
        encoder: encodes the texts for vectors that were imported. Vectors whose encoder is not known are left out.
        replace: whether a dataset in ``folder`` is replaced.

    Returns:
        The larger dataset, the new items behind the others.

    Raises:
        DmrecError: the table cannot be read, no item is new, or ``folder`` holds a dataset.
    """
    check_free(Path(folder), replace)
    return join_items(data, read_new_items(items, data, "items").items, Path(folder), encoder)


def tokenize(
    data: Dataset,
    tokenizer: str = "rk-means",
    *,
    vectors: str | None = None,
    collaborative: str | None = None,
    collisions: str = "reassign",
    name: str | None = None,
    replace: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Gives each item a tuple of codes (a semantic ID), which are stored in the dataset.

    Args:
        data: the dataset.
        tokenizer: "rk-means", "rq-vae" or "letter-rq-vae".
        vectors: the name of text vectors, or "svd" for those of co-occurrence in training histories; default: the only
            text vectors, or "svd".
        collaborative: the vectors that LETTER follows; default: "svd".
        collisions: "reassign", "token", "sinkhorn" or "keep", for items that share a tuple.
        name: of the codes; default: the tokenizer's, followed by that of the vectors.
        replace: whether codes of this name are replaced.
        **options: of the tokenizer, such as ``levels=3``, ``size=256`` or ``seed=1``.

    Returns:
        The ``name`` of the codes; for each level the number of codes ``used``, the ``perplexity`` of their use and the
        number of ``prefixes``; ``items in collisions``, with the rule and before it.

    Raises:
        DmrecError: an option or a name is unknown, codes of this name exist, or the tokenizer has collapsed.
    """
    chosen = make_tokenizer(tokenizer, **options)
    return tokenize_dataset(
        data,
        chosen,
        vectors=vectors,
        collaborative=collaborative,
        collisions=collisions,
        name=name,
        force=replace,
    )


def train(
    model: str | Config | Mapping[str, Any] | Model,
    data: Dataset | str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    replace: bool = False,
    progress: bool = True,
    observers: Sequence[Observer] = (),
    **training: Any,
) -> Recommender:
    """Trains a model and tests it on the held-out interactions of the dataset.

    Args:
        model: the name of a recipe (``"dmrec-m"``, ``"ease"``, see `recipes`), a `Config`, the values of one, or a
            closed-form model object, which is fitted in memory.
        data: the dataset, or its folder.
        options: further options by their dotted names, such as ``{"model.hidden": 200, "matching.beta": 0.3}``.
        out: folder in which the run is kept, as ``OUT/DATASET/MODEL/seed-S``; None for a temporary one, which lives as
            long as the returned object. A run there that was interrupted continues from its checkpoint if its
            configuration is the same.
        replace: whether a run there is replaced, also a finished one, or one that was interrupted and has another
            configuration.
        progress: show epochs, losses and validation scores on standard error.
        observers: called after each epoch and evaluation.
        **training: options of the training section, such as ``epochs=100``, ``seed=1`` or ``device="cuda"``.

    Returns:
        The trained model; its ``result`` has the figures on validation and test.

    Raises:
        DmrecError: an option is unknown or out of range, the dataset lacks what the model needs, or a run is there that
            is not to be replaced.
    """
    data = _dataset(data)
    if isinstance(model, Model):
        if options or training or observers or out is not None:
            raise DmrecError("a model object has its own options: leave out out, observers and all options")
        return _fit(model, data)
    values = _values(model)
    if not isinstance(options or {}, Mapping):
        raise DmrecError(f'options must be a dictionary such as {{"model.hidden": 200}}, got {type(options).__name__}')
    for name, value in (options or {}).items():
        nested: Any = value
        for key in reversed(str(name).split(".")):
            nested = {key: nested}
        values = deep_merge(values, nested)
    config = resolve(build_config(deep_merge(values, {"training": training}) if training else values), data)
    root = Path(tempfile.mkdtemp(prefix="dmrec-") if out is None else out)
    folder = run_folder(root, data.name, config.name, config.training.seed)
    if progress:
        from rich.console import Console

        from .training.progress import ProgressBar

        observers = [ProgressBar(Console(stderr=True)), *observers]
    try:
        result = _train_or_resume(config, data, folder, observers, replace)
        recommender = _opened(Run(folder), data, config.training.device, result)
    except BaseException:
        if out is None:
            shutil.rmtree(root, ignore_errors=True)
        raise
    if out is None:
        weakref.finalize(recommender, shutil.rmtree, root, ignore_errors=True)
    return recommender


def _train_or_resume(
    config: Config, data: Dataset, folder: Path, observers: Sequence[Observer], replace: bool
) -> dict[str, Any]:
    run = Run(folder)
    if not replace and run.is_resumable and run.config == config:
        return trainer.resume_run(folder, data.folder, observers)
    return trainer.train(config, data, folder, observers, replace=replace)


def _dataset(data: object) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        return open_dataset(data)
    raise DmrecError(
        f"data must be a dataset or its folder, got {type(data).__name__}; dmrec.dataset makes one from a data frame"
    )


def load(
    run: str | Path, data: str | Path | Dataset | None = None, *, device: str = "cpu", unfinished: bool = False
) -> Recommender:
    """Loads a finished run.

    Args:
        run: folder of the run, or of its model (then the first seed's run).
        data: the dataset, if it is no longer where it was.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        unfinished: whether the best state so far of a run that is not finished will do.

    Raises:
        DmrecError: the folder holds no finished run, or the dataset is not the one that it was trained on.
    """
    opened = Run.open(Path(run))
    if data is None and not opened.data_folder().is_dir():
        raise DmrecError(f"{opened.data_folder()}, on which {run} was trained, is not there: name it with data=")
    data = _dataset(opened.data_folder() if data is None else data)
    result = opened.result if opened.state()[0] == "finished" else {}
    return _opened(opened, data, device, result, unfinished=unfinished)


@overload
def evaluate(
    model: Recommender,
    data: Dataset | None = None,
    metrics: str | Sequence[str] = METRICS,
    *,
    split: str = "test",
    per_user: Literal[False] = False,
) -> dict[str, float]: ...


@overload
def evaluate(
    model: Recommender,
    data: Dataset | None = None,
    metrics: str | Sequence[str] = METRICS,
    *,
    split: str = "test",
    per_user: Literal[True],
) -> Table: ...


def evaluate(
    model: Recommender,
    data: Dataset | None = None,
    metrics: str | Sequence[str] = METRICS,
    *,
    split: str = "test",
    per_user: bool = False,
) -> dict[str, float] | Table:
    """Ranks all items for every user that has held-out items, without the user's training items.

    Args:
        model: a trained model.
        data: its dataset; the default is the one it was opened with.
        metrics: recall, precision, hit, ndcg, mrr, map, novelty, diversity, coverage or gini, each at any K, such as
            ``"ndcg@10"``, or auc.
        split: ``"test"`` or ``"valid"``.
        per_user: return the values of every user instead of their means.

    Returns:
        Means by metric; with ``per_user`` a table with columns ``user``, ``held_out`` (number of held-out items) and
        one for each metric.

    Raises:
        DmrecError: a metric or split is unknown, or the dataset is not the one that the model was trained on.
    """
    if split not in ("valid", "test"):
        raise DmrecError(f"split must be valid or test, got '{split}'")
    if not isinstance(model, Recommender):
        raise DmrecError(f"model must be what dmrec.train or dmrec.load returns, got {type(model).__name__}")
    wanted = [metrics] if isinstance(metrics, str) else list(metrics)
    if not wanted:
        raise DmrecError("metrics must name at least one, such as 'recall@20'")
    if per_user and (of_all := [name for name in wanted if parse_metric(name)[0] in OF_ALL]):
        raise DmrecError(f"{of_all[0]} is a value of all users together: leave it out, or per_user=True")
    data = None if data is None else _dataset(data)
    if data is not None and data is not model.dataset:
        if model.config is None or model.folder is None:
            raise DmrecError(f"{model.name} is evaluated on the dataset that it was fitted on: leave out data")
        check_data(model.folder, Run(model.folder).load()[1], model.config, data)
    dataset = data or model.dataset
    held_out = dataset.split(split) if model.config is None else held_out_split(model.config, dataset, split)
    seen, options = model.data, dict[str, Any]()
    if model.config is not None:
        options["exclude_seen"] = model.config.evaluation.exclude_seen
        if split == "test":
            seen, options["exclude"] = test_data(model.config, dataset, seen), test_exclusions(model.config, dataset)
    found = ranking.evaluate(model.model, seen, held_out, wanted, **options)
    if not per_user:
        return found.means
    users = np.array([user.id for user in dataset.users], dtype=object)[found.users.numpy()]
    values = {name: of_users.numpy() for name, of_users in found.values.items()}
    return Table({"user": users, "held_out": found.n_held_out.numpy(), **values})


def list_recipes() -> dict[str, str]:
    """The recipes by name, with a line about each.

    >>> list_recipes()["ease"]
    'Baseline: EASE, exact, lambda searched on validation.'
    """
    return {name: (make.__doc__ or "").strip() for name, make in recipes.RECIPES.items()}


def _values(model: str | Config | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(model, str):
        return recipes.recipe(model)
    if isinstance(model, Config):
        return model.model_dump(mode="json")
    if isinstance(model, Mapping):
        return dict(model)
    raise DmrecError(
        f"model must be a recipe's name, a Config, its values or a model object, got {type(model).__name__}"
    )


def _opened(run: Run, data: Dataset, device: str, result: dict[str, Any], *, unfinished: bool = False) -> Recommender:
    loaded = load_model(run, data, resolve_device(device), unfinished=unfinished)
    return Recommender(loaded.model, loaded.data, data, run.config, run.folder, result)


def _fit(model: Model, data: Dataset) -> Recommender:
    """A closed-form model object, fitted and measured on the dataset; a metric chooses what it leaves open."""
    if not isinstance(model, ClosedFormModel):
        raise DmrecError(
            f"{type(model).__name__} is trained over epochs: register its options (dmrec.models.base.register) and "
            "train it by configuration"
        )
    config = build_config(recipes.recipe("popularity"))
    training = training_data(config, data)
    if data.sequences is not None:
        training = training._replace(histories=histories_of(data))
    valid, monitor = data.split("valid"), config.training.monitor

    def score(candidate: Model, /, **settings: float) -> float:
        del settings
        return ranking.evaluate(candidate, training, valid, [monitor]).means[monitor]

    result = dict(model.fit(training, score))
    for split in ("valid", "test"):
        result[split] = ranking.evaluate(model, training, data.split(split), list(METRICS)).means
    return Recommender(model, training, data, None, None, result)


load_plugins()
