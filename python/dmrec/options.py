"""The base class of every group of options, and how values are merged into others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict

from .errors import DmrecError

SearchSpace = dict[str, dict[str, Any]]
"""By option: ``{"low": .., "high": ..}``, with ``"log": True`` for a logarithmic scale, or ``{"choices": [..]}``."""


class Options(BaseModel):
    """Immutable options; a key that is not declared is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    search_space: ClassVar[SearchSpace] = {}  # what `dmrec tune` searches if it is given no space


def deep_merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` in their place; nested dictionaries are merged."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``values`` with each override ``a.b=c`` applied; c is read as YAML."""
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not path:
            raise DmrecError(f"--set takes key=value, like --set training.epochs=50, got '{override}'")
        try:
            over: Any = yaml.safe_load(text)
        except yaml.YAMLError:
            raise DmrecError(f"--set {override}: the value is not valid YAML; quote it") from None
        for key in reversed(path.strip().split(".")):
            over = {key: over}
        values = deep_merge(values, over)
    return values
