"""The error whose message is meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MANY, SHOWN = 2_000, 30  # names that are compared, and that are listed


class DmrecError(Exception):
    """Something the user can put right; the message names it and says how. The command line prints it alone."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known name, or the list of all; of very many only an example."""
    names = sorted(known)
    if len(names) > MANY:
        return f"; known are {len(names)}, such as '{names[0]}'"
    near = difflib.get_close_matches(name, names, n=1)
    if near or not names:
        return f"; did you mean '{near[0]}'?" if near else ""
    return f"; known: {', '.join([*names[:SHOWN], *(['..'] if len(names) > SHOWN else [])])}"


def counted(count: int, what: str) -> str:
    """A number and a noun: "1 user", "2 users"."""
    return f"{count} {what}" + ("" if count == 1 else "s")
