"""The base class of every group of options, and how values are merged into others."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

from .errors import DmrecError
from .yaml12 import WrittenFloat, WrittenInt, load_yaml

LARGEST_SEED = 2**63 - 1
SearchSpace = dict[str, dict[str, Any]]
"""By option: ``{"low": .., "high": ..}``, with ``"log": True`` for a logarithmic scale, or ``{"choices": [..]}``."""


class Options(BaseModel):
    """Immutable options; a key that is not declared is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    search_space: ClassVar[SearchSpace] = {}  # what `dmrec tune` searches if it is given no space

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, values: Any) -> Any:
        """A text that is written like a number stays text; a number must be one, and not a text."""
        if not isinstance(values, dict):
            return values
        return {name: _as_declared(name, value, cls.model_fields.get(name)) for name, value in values.items()}


def _as_declared(name: str, value: Any, field: FieldInfo | None) -> Any:
    if field is None:
        return value
    union = get_origin(field.annotation) in (Union, UnionType)
    types = set(get_args(field.annotation)) if union else {field.annotation}
    if isinstance(value, WrittenInt | WrittenFloat) and str in types and not types & {int, float}:
        return value.written
    if isinstance(value, str) and types & {int, float} and str not in types:
        raise ValueError(f".{name}: must be a number, got '{value}'")
    return value


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
            over: Any = load_yaml(text)
        except yaml.YAMLError:
            raise DmrecError(f"--set {override}: the value is not valid YAML; quote it") from None
        for key in reversed(path.strip().split(".")):
            over = {key: over}
        values = deep_merge(values, over)
    return values
