"""The whole configuration of a run, typed. Unknown keys are refused, with the nearest known one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from .errors import DmrecError, did_you_mean
from .eval.metrics import parse_metric
from .models.layers import Initialisation
from .models.registry import MODELS, BackboneConfig, ModelConfig
from .sections import Section, overlaid

Fraction = Annotated[float, Field(ge=0, le=1)]


class LanguageConfig(Section):
    """The language posterior: which text vectors, and the meta-network."""

    vectors: str | None = Field(None, description="name in the dataset; empty: the only one there is")
    hidden: int = Field(600, ge=1, description="width of the meta-network's hidden layer")
    initialisation: Initialisation = "torch"
    aggregate: bool = Field(True, description="false: the ablation without the meta-network (user vector alone)")
    fusion: Literal["add", "collaborative"] = Field(
        "add", description="what is decoded: the parameters of both posteriors added, or the collaborative one alone"
    )


class MatchingConfig(Section):
    """The matching loss. ``add`` is the ablation without a matching term."""

    strategy: Literal["godm", "cpdm", "mddm", "unmixed", "add"] = Field(
        "mddm", description="Wasserstein, composite prior, mixed KL; two ablations"
    )
    beta: float = Field(0.5, ge=0, description="weight of the matching term; in mddm that of the prior, at most 1")
    beta_concentration: float | None = Field(None, gt=0, description="draw beta from Beta(a, a) for each batch")
    alpha: Fraction = Field(0.5, description="cpdm: share of the user's posterior in the composite")
    interpolation: Literal["log_linear", "linear", "moment"] = Field(
        "log_linear", description="cpdm: of log-variances, of variances, or the mixture's own moments"
    )
    squared: bool = Field(False, description="godm: squared distance")
    eps: float = Field(1e-7, ge=0, description="godm: added under the root")

    @model_validator(mode="after")
    def _consistent(self) -> MatchingConfig:
        if self.strategy == "mddm" and self.beta > 1:
            raise ValueError(f"beta weighs two divergences against each other in 'mddm': at most 1, got {self.beta}")
        if self.strategy == "add" and self.beta_concentration is not None:
            raise ValueError("'add' has no matching term whose beta could be drawn: leave out beta_concentration")
        return self


class AnnealingConfig(Section):
    """Weight of the divergences (KL and matching): rises linearly to ``cap`` over ``steps`` steps."""

    cap: float = Field(1.0, ge=0, description="the weight in the end")
    steps: int = Field(0, ge=0, description="until it is reached; 0: at once")


class TrainingConfig(Section):
    """The training loop."""

    seed: int = Field(0, ge=0, description="of weights, dropout, noise and order of users")
    epochs: int = Field(1000, ge=1, description="at most")
    batch_size: int = Field(1024, ge=1, description="users in a step; of lightgcn, interactions")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    precision: Literal["float32", "bf16"] = Field("float32", description="of matrix products")
    kernels: Literal["fused", "reference"] = Field("fused", description="operators: native where there are, or plain")
    annealing: AnnealingConfig = AnnealingConfig()
    evaluate_every: int = Field(3, ge=1, description="epochs")
    checkpoint_minutes: float = Field(10, ge=0, description="between checkpoints to go on from")
    patience: int = Field(20, ge=1, description="evaluations without improvement")
    monitor: str = Field("recall@20", description="the metric that chooses the best state, on validation")
    board: bool = Field(False, description="write the log for TensorBoard, too: pip install 'dmrec[board]'")
    log_terms_every: int = Field(10, ge=1, description="steps between looks at the parts of the loss")


class EvaluationConfig(Section):
    """What is measured."""

    metrics: tuple[str, ...] = Field(
        ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20"),
        min_length=1,
        description="recall, precision, hit, ndcg, mrr, map or coverage, each at any K",
    )
    per_user: bool = Field(False, description="keep every user's test values in the run (users.npz)")


class Config(Section):
    """A run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run and its folder")
    data: Path | None = Field(None, description="dataset folder; --data goes before it")
    model: SerializeAsAny[ModelConfig]
    language: LanguageConfig | None = None
    matching: MatchingConfig | None = None
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

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
        try:
            for metric in (*self.evaluation.metrics, self.training.monitor):
                parse_metric(metric)
        except DmrecError as error:
            raise ValueError(str(error)) from None
        return self


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
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise DmrecError(f"{path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DmrecError(f"{path} is no valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise DmrecError(f"{path} must hold keys and values")
    return values


def with_settings(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """``values`` with each ``a.b=c`` applied; c is read as YAML."""
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator or not path:
            raise DmrecError(f"--set takes key=value, like --set training.epochs=50, got '{setting}'")
        try:
            over: Any = yaml.safe_load(text)
        except yaml.YAMLError:
            raise DmrecError(f"--set {setting}: the value is no valid YAML; quote it") from None
        for key in reversed(path.strip().split(".")):
            over = {key: over}
        values = overlaid(values, over)
    return values


def dump_config(config: Config) -> str:
    """YAML that `read_config` and `build_config` turn back into the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _refuse_unknown(values: dict[str, Any], section: type[BaseModel], prefix: str) -> None:
    fields = section.model_fields
    for key, value in values.items():
        if key not in fields:
            raise DmrecError(f"unknown option '{prefix}{key}'{did_you_mean(str(key), fields)}")
        if isinstance(value, dict) and (inner := _section_of(fields[key].annotation, value)):
            _refuse_unknown(value, inner, f"{prefix}{key}.")


def _section_of(annotation: Any, value: dict[str, Any]) -> type[BaseModel] | None:
    """The section that ``value`` is meant to be; of models, the one of that ``kind``."""
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
    return f"{key}: {message}, got {error['input']!r}" if key else message
