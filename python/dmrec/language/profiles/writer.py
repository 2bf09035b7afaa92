"""The contract of a writer of profiles, and the writer that needs no language model."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ...data.entities import clean
from .requests import ProfileRequest

MAX_PROFILE = 4_000  # characters


@dataclass(frozen=True)
class Outcome:
    """The result of a request: a text, or the reason why there is none.

    ``attempted`` is false if the request was never made, for example because a budget was used up.
    """

    side: str
    row: int
    text: str = ""
    reason: str = ""
    attempted: bool = True


class Writer(Protocol):
    """Turns requests into profiles."""

    @property
    def name(self) -> str:
        """Default name of the profiles in a dataset."""
        ...

    def describe(self) -> dict[str, Any]:
        """How the profiles are made, as the manifest records it."""
        ...

    def write(self, requests: Iterable[ProfileRequest]) -> Generator[Outcome, None, None]:
        """One outcome for each request, in any order."""
        ...


class TemplateWriter:
    """Writes the filled prompt itself as the profile."""

    name = "template"

    def describe(self) -> dict[str, Any]:
        """The writer's name."""
        return {"writer": self.name}

    def write(self, requests: Iterable[ProfileRequest]) -> Generator[Outcome, None, None]:
        """One outcome for each request, in their order."""
        for request in requests:
            yield Outcome(request.side, request.row, clean(request.text, MAX_PROFILE))
