"""Options of the language posterior and of the matching loss."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ...options import Options, SearchSpace
from ..vae.layers import Initialisation

Fraction = Annotated[float, Field(ge=0, le=1)]


class LanguageConfig(Options):
    """The language posterior: which text vectors it reads, and the meta-network."""

    vectors: str | None = Field(None, description="name of text vectors in the dataset; default: the only ones")
    hidden: int = Field(600, ge=1, description="width of the meta-network's hidden layer")
    initialisation: Initialisation = "torch"
    aggregate: bool = Field(
        True, description="false: the ablation without the meta-network's sum over items, the user's vector alone"
    )
    alone: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the users of a training step whose interactions are left out whole, so that their texts "
        "must rank alone",
    )
    fusion: Literal["add", "collaborative"] = Field(
        "add", description="what is decoded: the sum of the parameters of both posteriors, or the collaborative one"
    )

    @model_validator(mode="after")
    def _consistent(self) -> LanguageConfig:
        if self.alone and self.fusion == "collaborative":
            raise ValueError("with the fusion 'collaborative' a text alone ranks nothing: leave out alone")
        return self

    search_space: ClassVar[SearchSpace] = {"hidden": {"choices": [200, 400, 600, 800]}}


class MatchingConfig(Options):
    """The matching loss."""

    strategy: Literal["godm", "cpdm", "mddm", "kl", "none"] = Field(
        "mddm",
        description="2-Wasserstein distance, composite prior, mixed KL divergences; two ablations: KL divergence to "
        "the language posterior, without mixing, and no matching term",
    )
    beta: float = Field(
        0.5, ge=0, description="weight of the matching term; for mddm the weight of the prior, which is at most 1"
    )
    beta_concentration: float | None = Field(None, gt=0, description="draw beta from Beta(a, a) for each batch")
    alpha: Fraction = Field(0.5, description="cpdm: share of the user's posterior in the composite")
    interpolation: Literal["log_linear", "linear", "moment"] = Field(
        "log_linear", description="cpdm: of log-variances, of variances, or the moments of the mixture"
    )
    squared: bool = Field(False, description="godm: squared distance")
    eps: float = Field(1e-7, ge=0, description="godm: added under the root")

    search_space: ClassVar[SearchSpace] = {"beta": {"low": 0.0, "high": 1.0}}

    @model_validator(mode="after")
    def _consistent(self) -> MatchingConfig:
        if self.strategy == "mddm" and self.beta > 1:
            raise ValueError(f"beta weighs two divergences against each other in 'mddm': at most 1, got {self.beta}")
        if self.strategy == "none" and self.beta_concentration is not None:
            raise ValueError("'none' has no matching term whose beta could be drawn: leave out beta_concentration")
        return self
