"""The configuration of a run, typed. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from .errors import DmrecError, did_you_mean
from .eval.metrics import parse_metric
from .models.base import MODELS, ModelConfig, WithItemCodes
from .models.dmrec.options import LanguageConfig, MatchingConfig
from .models.phases import Phase
from .models.sequential.alignment import AlignmentConfig
from .models.vae.model import BackboneConfig
from .options import LARGEST_SEED, Options, SearchSpace
from .yaml12 import load_yaml

NLL = "nll"


class AnnealingConfig(Options):
    """Weight of the divergences (KL and matching): it rises linearly to ``cap`` over ``steps`` steps."""

    cap: float = Field(1.0, ge=0, description="final weight")
    steps: int = Field(0, ge=0, description="steps until the final weight is reached; 0: from the start")

    def at(self, step: int) -> float:
        """The weight at a step, counted from 0."""
        return self.cap if self.steps == 0 else min(self.cap, self.cap * step / self.steps)


class TrainingConfig(Options):
    """The training loop."""

    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of weights, dropout, noise and the order of examples")
    epochs: int = Field(1000, ge=1, description="maximum number of epochs")
    interactions: Literal["train", "all"] = Field(
        "train",
        description="what a model learns from: the training split, or all interactions, held-out ones included, for "
        "exactly the given epochs (see --final)",
    )
    batch_size: int = Field(1024, ge=1, description="examples in a step: users, or interactions for lightgcn")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam")
    optimiser: Literal["adam", "adamw"] = Field("adam", description="adamw: weights decay apart from the gradient")
    weight_decay: float = Field(0.0, ge=0, description="of the optimiser")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="of the learning rate: cosine falls to 0 at the last of the epochs"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all steps in which the learning rate rises from 0")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient of all weights; default: any")
    initial: str | None = Field(
        None,
        description="the folder of a run to start from, on an earlier version of the data; that run must stay where it "
        "is",
    )
    device: str = Field(
        "cpu", pattern=r"^(cpu|auto|cuda(:\d+)?)$", description="cpu, cuda, or auto: the GPU where there is one"
    )
    precision: Literal["float32", "bf16", "auto"] = Field(
        "float32",
        description="of matrix products in training: bf16 is faster on some processors and slower on others, auto "
        "measures once which of the two is faster, and the run keeps it",
    )
    kernels: Literal["fused", "reference"] = Field(
        "fused", description="native operators where there are any, or plain torch"
    )
    annealing: AnnealingConfig = AnnealingConfig()
    evaluate_every: int = Field(3, ge=1, description="epochs between evaluations")
    checkpoint_minutes: float = Field(10, ge=0, description="minutes between checkpoints that a run resumes from")
    patience: int = Field(20, ge=1, description="evaluations without improvement before training stops")
    monitor: str = Field(
        "recall@20",
        description="the validation metric that chooses the best state; nll, for tiger and its relatives, is the "
        "negative log-likelihood of held-out items: nothing is ranked then before the training ends",
    )
    tensorboard: bool = Field(
        False, description="write the log for TensorBoard as well: pip install 'dmrec[tensorboard]'"
    )
    log_terms_every: int = Field(10, ge=1, description="steps between readings of the parts of the loss")

    search_space: ClassVar[SearchSpace] = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}


class EvaluationConfig(Options):
    """What is measured."""

    metrics: tuple[str, ...] = Field(
        ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20"),
        min_length=1,
        description="recall, precision, hit, ndcg, mrr, map, novelty, diversity, coverage or gini, each at any K, or "
        "auc",
    )
    test_input: Literal["train", "train+valid"] = Field(
        "train", description="what models read of a user when they are tested; all models of a table must read the same"
    )
    exclude_seen: bool = Field(True, description="whether what a model reads of a user is left out of the ranking")
    exclude_validation: bool = Field(
        False, description="whether validation items are left out of the ranking on test, too, as some programs do"
    )
    per_user: bool = Field(False, description="keep the test values of every user in the run (users.npz)")
    users: int | None = Field(
        None, ge=1, description="how many users are measured, a fixed sample of them; default: all"
    )


class ShardingConfig(Options):
    """How a catalogue is spread over processes, see docs/large-catalogues.md."""

    shards: int = Field(
        1,
        ge=1,
        description="parts that the items are cut into for the life of a run, a power of two: as many processes as "
        "that can share them; 1: no sharding. With --ranks or torchrun: 64",
    )
    sums: Literal["exact", "fast"] = Field(
        "exact",
        description="of the processes: exact gives the same bits on 1, 2, 4 .. of them; fast leaves the order of "
        "addition to the library, on any number of them",
    )
    timeout_minutes: float = Field(10, gt=0, description="how long a process waits for the others")

    @field_validator("shards")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"must be a power of two, got {value}")
        return value


class Config(Options):
    """The configuration of a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@=-]*$", description="name of the run and its folder")
    data: Path | None = Field(None, description="dataset folder; --data takes precedence")
    model: SerializeAsAny[ModelConfig]
    language: LanguageConfig | None = None
    matching: MatchingConfig | None = None
    alignment: AlignmentConfig | None = None
    phases: tuple[Phase, ...] = Field(
        (), description="parts of the training, one after the other; default: one of training.epochs epochs"
    )
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sharding: ShardingConfig = ShardingConfig()

    @field_validator("model", mode="plain")
    @classmethod
    def _of_its_kind(cls, value: Any) -> ModelConfig:
        """The options of the model that ``kind`` names."""
        if isinstance(value, ModelConfig):
            return value
        if not isinstance(value, dict):
            raise ValueError("must be a section with a kind")
        return MODELS[value["kind"]].model_validate(value)  # known: `build_config` has looked

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if (self.matching is None) != (self.language is None):
            raise ValueError("'language' and 'matching' go together: give both, or neither for a base model")
        if self.language is not None and not isinstance(self.model, BackboneConfig):
            raise ValueError(
                f"model '{self.model.kind}' has no posterior to match: leave out 'language' and 'matching'"
            )
        if self.alignment is not None and not isinstance(self.model, WithItemCodes):
            raise ValueError(f"model '{self.model.kind}' has no codes to align: leave out 'alignment'")
        for number, phase in enumerate(self.phases):
            if phase.tokenizer_learns and self.alignment is None:
                raise ValueError(f"phases.{number}.mode: {phase.mode} needs the section 'alignment'")
            if phase.mode == "alternate" and self.training.evaluate_every % phase.cycle:
                raise ValueError(
                    f"training.evaluate_every must be a multiple of phases.{number}.cycle ({phase.cycle}), so that "
                    f"models are measured after the recommender's epochs, got {self.training.evaluate_every}"
                )
        if self.sharding.shards > 1 and (why := self._unsharded()):
            raise ValueError(why)
        if self.training.monitor == NLL and not self.model.has_likelihood:
            raise ValueError(f"training.monitor: model '{self.model.kind}' has no likelihood of items")
        try:
            for metric in (*self.evaluation.metrics, *({self.training.monitor} - {NLL})):
                parse_metric(metric)
        except DmrecError as error:
            raise ValueError(str(error)) from None
        return self

    def _unsharded(self) -> str | None:
        """Why the items cannot be cut into shards; None: they can."""
        if (reason := self.model.unsharded) is not None:
            return f"{self.model.kind} trains in one process ({reason}): leave out --ranks and sharding.shards"
        if self.phases or self.training.clip is not None or self.training.initial is not None:
            return "phases, training.clip and --from need items that are not cut: leave out --ranks and sharding.shards"
        if isinstance(self.model, BackboneConfig) and self.model.item_text is not None:
            return "model.item_text needs items that are not cut: leave out --ranks and sharding.shards"
        return None

    @property
    def schedule(self) -> tuple[tuple[Phase, TrainingConfig], ...]:
        """The phases, each with the options of training that hold in it."""
        training = self.training
        found = []
        for phase in self.phases or (Phase(epochs=training.epochs),):
            own = {name: getattr(phase, name) for name in ("epochs", "patience", "learning_rate")}
            update = {name: value for name, value in own.items() if value is not None}
            found.append((phase, training.model_copy(update=update)))
        return tuple(found)

    @property
    def epochs(self) -> int:
        """The most epochs of all phases together."""
        return sum(phase.epochs for phase, _ in self.schedule)


def build_config(values: dict[str, Any]) -> Config:
    """A validated `Config`; errors name the key and say what it must be."""
    _refuse_unknown(values, Config, "")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise DmrecError("; ".join(_in_words(dict(item)) for item in error.errors())) from None


def read_config(path: Path) -> dict[str, Any]:
    """The values of a YAML file."""
    try:
        values = load_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DmrecError(f"{path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DmrecError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise DmrecError(f"{path} must hold keys and values")
    return values


def dump_config(config: Config) -> str:
    """YAML that `read_config` and `build_config` turn back into the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration that version 0.1 wrote, in today's names."""
    model, matching, training = (dict(values.get(section) or {}) for section in ("model", "matching", "training"))
    for old, new in RENAMED.get(str(model.get("kind")), {}).items():
        if old in model:
            value = model.pop(old)
            if value is not None or new not in model:
                model[new] = value
    if model.get("kind") == "l-diffrec":
        model.setdefault("item_embeddings", None)
    if "board" in training:
        training["tensorboard"] = training.pop("board")
    if matching:
        matching["strategy"] = STRATEGIES.get(str(matching.get("strategy")), matching.get("strategy"))
    upgraded = {"model": model, "matching": matching or values.get("matching"), "training": training}
    return {key: upgraded.get(key, value) for key, value in values.items()}


RENAMED = {
    "lightgcn": {"width": "embedding_dim", "decay": "l2"},
    "l-diffrec": {
        "vectors": "item_embeddings",
        "lightgcn": "item_embeddings",
        "scale": "noise_scale",
        "minimum": "noise_min",
        "maximum": "noise_max",
    },
}
"""Options of models by kind: what version 0.1 called them, and what they are called now."""
STRATEGIES = {"add": "none", "unmixed": "kl"}
_MOVED = {"board": "tensorboard"} | {old: new for options in RENAMED.values() for old, new in options.items()}


def _refuse_unknown(values: dict[str, Any], section: type[BaseModel], prefix: str) -> None:
    fields = section.model_fields
    for key, value in values.items():
        if key not in fields and _MOVED.get(key) in fields:
            raise DmrecError(f"option '{prefix}{key}' is called '{prefix}{_MOVED[key]}' since version 0.2")
        if key not in fields:
            raise DmrecError(f"unknown option '{prefix}{key}'{did_you_mean(str(key), fields)}")
        parts = enumerate(value) if isinstance(value, list | tuple) else [(None, value)]
        for number, part in parts:
            if isinstance(part, dict) and (inner := _section_of(fields[key].annotation, part)):
                _refuse_unknown(part, inner, f"{prefix}{key}." if number is None else f"{prefix}{key}.{number}.")


def _section_of(annotation: Any, value: dict[str, Any]) -> type[BaseModel] | None:
    """The class of options that ``value`` is meant for; for models, the one of its ``kind``."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, ModelConfig):
            kind = str(value.get("kind"))
            if kind not in MODELS:
                raise DmrecError(f"model.kind: no model is called '{kind}'{did_you_mean(kind, MODELS)}")
            return MODELS[kind]
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _in_words(error: dict[str, Any]) -> str:
    key = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("Tuple", "List")
    message = re.sub(r"a valid dictionary or instance of \w+", "a section of keys and values", message)
    if message.startswith("."):  # of an option within the section
        return f"{key}{message}"
    return f"{key}: {message}, got {error['input']!r}" if key else message
