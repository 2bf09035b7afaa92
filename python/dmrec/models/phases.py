"""Phases of a training: what learns in each, and for how long."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..options import Options


class Phase(Options):
    """A part of a training. Each begins from the best state so far, with a fresh optimiser and schedule."""

    mode: Literal["frozen", "alternate", "joint"] = Field(
        "frozen",
        description="frozen: the recommender learns, on the codes that there are; alternate: tokenizer and recommender "
        "learn in epochs of their own; joint: in the same steps",
    )
    epochs: int = Field(100, ge=1, description="at most, those of the tokenizer included")
    patience: int | None = Field(
        None, ge=1, description="evaluations without improvement after which the phase ends; default: training.patience"
    )
    learning_rate: float | None = Field(None, gt=0, description="default: training.learning_rate")
    tokenizer_learning_rate: float = Field(1e-4, gt=0, description="of the tokenizer, where it learns")
    cycle: int = Field(2, ge=2, description="alternate: the first of so many epochs is the tokenizer's")
    alignment_from: int = Field(
        1, ge=1, description="the first epoch with the alignment; before it, each part learns by its own loss"
    )
    until_churn: float = Field(
        0.0, ge=0, le=1, description="the phase ends when a smaller share of items gets other codes; 0: never"
    )

    @property
    def tokenizer_learns(self) -> bool:
        """Whether codes change."""
        return self.mode != "frozen"

    @model_validator(mode="after")
    def _whole_cycles(self) -> Phase:
        if self.mode == "alternate" and self.epochs % self.cycle:
            raise ValueError(f".epochs: must be a multiple of cycle ({self.cycle}), got {self.epochs}")
        return self
