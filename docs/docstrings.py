"""How docstrings are read for the website: doctests become code blocks, formulas code. An extension of griffe."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

DOCTEST = re.compile(r"(?m)^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*|\n(?P=indent)\.\.\. .*)*")
FORMULA = re.compile(r"(?m)^(?P<indent> *)\.\. math::(?P<body>.*(?:\n(?P=indent) +\S.*|\n(?=\n(?P=indent) +\S))*)")


def readable(text: str) -> str:
    """The docstring in Markdown."""
    text = re.sub(r":math:`([^`]*)`", r"`\1`", text)
    text = FORMULA.sub(lambda m: "```text\n" + re.sub(r"\n\s*", "\n", m["body"]).strip() + "\n```", text)
    return DOCTEST.sub(lambda m: f"```pycon\n{textwrap.dedent(m[0])}\n```", text)


class Readable(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
