"""Reads YAML as version 1.2 defines it: ``010`` is ten, ``on`` and ``1:30`` are texts, a key is given once."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml


class WrittenInt(int):
    """A whole number that remembers how it is written, for options that are texts."""

    written: str


class WrittenFloat(float):
    """A number that remembers how it is written, for options that are texts."""

    written: str


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  # as the base class declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Raises an error for a key that is given twice."""
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = self.construct_object(key, deep=True), key.start_mark.line + 1
            if isinstance(name, Hashable) and lines.setdefault(name, line) != line:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{name}' is given in line {lines[name]} and again", key.start_mark
                )
        return super().construct_mapping(node, deep)


def _whole(loader: _Loader, node: yaml.ScalarNode) -> WrittenInt:
    text = str(loader.construct_scalar(node))
    base = {"0x": 16, "0o": 8}.get(text.lstrip("+-")[:2], 10)
    number = WrittenInt(text, base)
    number.written = text
    return number


def _fraction(loader: _Loader, node: yaml.ScalarNode) -> WrittenFloat:
    text = str(loader.construct_scalar(node))
    number = WrittenFloat(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    number.written = text
    return number


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _fraction)
yaml.SafeDumper.add_representer(WrittenInt, lambda dumper, value: dumper.represent_int(int(value)))
yaml.SafeDumper.add_representer(WrittenFloat, lambda dumper, value: dumper.represent_float(float(value)))


def load_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        yaml.YAMLError: it is not YAML, or a key is given twice.
    """
    return yaml.load(text, Loader=_Loader)  # a SafeLoader
