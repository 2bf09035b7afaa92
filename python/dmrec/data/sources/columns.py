"""Finds columns by their usual names, those of Amazon, Yelp, Steam and MovieLens among them."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from ...errors import DmrecError, did_you_mean
from ..entities import without_markup
from .values import MISSING, clean_ids, id_text, number_of

USER = ("user", "userid", "uid", "reviewerid", "customerid", "customer", "username")
ITEM = (
    *("item", "itemid", "iid", "movieid", "parentasin", "asin", "businessid", "productid", "product"),
    *("artistid", "bookid", "isbn", "songid", "trackid", "videoid", "gameid", "animeid", "recipeid"),
)
TIME = (
    *("timestamp", "unixtimestamp", "unixreviewtime", "datetime", "date", "time"),
    *("eventtime", "createdat"),
)
INTERACTION = {"user": USER, "item": ITEM, "rating": ("rating", "score", "star", "overall"), "time": TIME}
RATING_WORDS = {"rating", "score", "star"}
RATED = {  # what a rating may be of, or by whom
    *("user", "customer", "reviewer", "my", "review", "overall", "item", "product", "book", "movie", "film"),
    *("game", "song", "artist", "anime", "recipe", "restaurant", "business", "course", "value"),
}
PREFERENCES = {
    "rate",
    "like",
    "liked",
    "preference",
    "feedback",
    "grade",
    "label",
    "ratio",
    "bewertung",
    "note",
    "nota",
}
COUNTS = {"count", "number", "num", "total"}
NOT_RATINGS = {  # small whole numbers of another meaning
    *("quantity", "qty", "amount", "price", "month", "day", "hour", "weekday", "week"),
    *("age", "page", "position", "rank", "size", "cluster", "group", "vote", "helpful", "year", "minute", "level"),
}
IGNORED = "none"  # as the name of a column of ratings or times: it is not read
REVIEW = ("text", "reviewtext", "review_text", "review")
IDS = {"item": (*ITEM, "id"), "user": (*USER, "id")}
TITLE = ("title", "name", "app_name", "item_title")
TEXT = ("text", "profile")
LISTS = ("tags", "genres", "genre", "categories", "category")
NAMES = ("brand", "store", "developer", "publisher", "city")
NAMES_IN_OBJECTS = ("name", "title", "label", "tag", "value")
"""Where an object in a list of tags has its name, as in TMDB's ``{'id': 16, 'name': 'Animation'}``."""
LONGEST_LIST = 1 << 20  # characters of a list that is written in a text
DESCRIBED = ("title", "tags", "description", "text")
DESCRIPTION = ("description", "features", "feature")


def first_of(record: dict[str, Any], names: Sequence[str]) -> Any:
    """The value of the first of these fields that is filled in, else None."""
    return next((value for name in names if (value := record.get(name)) is not None and value != ""), None)


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """A column's name as it is compared: without case, spaces, punctuation, RecBole's type, and remarks in brackets."""
    return "".join(_words(name))


def _words(name: str) -> list[str]:
    """``Rating (1-5)`` -> rating; ``Book-Rating`` -> book, rating; ``userId`` -> user, id; ``age:float`` -> age."""
    name = unicodedata.normalize("NFKC", name).strip().strip("\ufeff")
    name = re.sub(r"\(.*?\)|\[.*?\]", " ", name.split(":")[0]) or name
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z\d])(?=[A-Z])", " ", name).casefold())


def _is_rating(name: str) -> bool:
    """Whether a name means a rating: ``Book-Rating``, ``review/score``, ``user_ratings``; not ``average_rating``."""
    words = [word.removesuffix("s") for word in _words(name)]
    return any(word in RATING_WORDS for word in words) and all(
        word in RATING_WORDS or word in RATED or word.isdecimal() for word in words
    )


def _variant(name: str) -> str:
    """``user``, ``user_id``, ``UserID`` and ``users`` are variants of one name."""
    return plain_name(name).removesuffix("s").removesuffix("id") or plain_name(name)


def choose_columns(
    place: object, names: Sequence[str], wanted: dict[str, str], sample: Sequence[Sequence[Any]] = ()
) -> dict[str, str]:
    """The column of each role ("user", "item", "rating", "time") among ``names``: the wanted one, else a usual one.

    Names are compared without case, spaces and punctuation.

    Args:
        place: the source, for errors.
        names: the names of the columns.
        wanted: names of columns by role; "none" for a rating or time that is not to be read.
        sample: some values of each column, by which a rating of another name is recognised.

    Raises:
        DmrecError: a wanted column is missing, user or item has none, two columns may be meant, or there is a column
            that looks like ratings and has none of the usual names.
    """
    chosen: dict[str, str] = {}
    for role in INTERACTION:
        if role in ("rating", "time") and wanted.get(role) == IGNORED:
            continue
        if role in wanted:
            chosen[role] = _wanted_column(place, names, wanted[role], role)
        elif found := usual_columns(names, role):
            if len(found) > 1:
                listed = " and ".join(f"'{name}'" for name in found)
                raise DmrecError(
                    f"{place} has the columns {listed}, and either may be the {role}; name it: --{role}-column "
                    f"({role}_column in Python)"
                )
            chosen[role] = found[0]
    for role in ("user", "item"):
        if role not in chosen:
            raise DmrecError(
                f"{place} has no column for the {role} (columns: {', '.join(names)}); name it: --{role}-column "
                f"({role}_column in Python){_no_header(names)}"
            )
    if "rating" not in chosen and wanted.get("rating") != IGNORED:
        for name, values in zip(names, sample, strict=False):
            if name not in chosen.values() and _looks_like_ratings(name, values):
                raise DmrecError(
                    f"{place} has no column of ratings by name, but '{name}' looks like one (values such as "
                    f"{', '.join(dict.fromkeys(map(str, values[:20])))[:40]}): choose it with --rating-column '{name}' "
                    "(rating_column in Python), or every row counts with --no-rating (rating_column='none')"
                )
    return chosen


def _wanted_column(place: object, names: Sequence[str], wanted: str, role: str) -> str:
    found = [name for name in names if name == wanted] or [
        name for name in names if plain_name(name) == plain_name(wanted)
    ]
    if not found:
        raise DmrecError(f"{place} has no column '{wanted}'{did_you_mean(wanted, names)}")
    if len(found) > 1:
        raise DmrecError(f"{place} has {len(found)} columns '{found[0]}'; rename one of them")
    return found[0]


def usual_columns(names: Sequence[str], role: str) -> list[str]:
    """The column that has the first of the usual names; several where which one is meant is not clear."""
    plain = [(plain_name(name), name) for name in names]
    aliases = INTERACTION[role]
    usual = [name for alias in aliases for key, name in plain if key in (alias, f"{alias}s")]
    if role == "rating":
        return usual if usual else [name for name in names if _is_rating(name)]
    if not usual:
        return []
    first = _variant(usual[0])
    return usual[:1] if role == "time" else [name for name in usual if _variant(name) == first]


def _looks_like_ratings(name: str, values: Sequence[Any]) -> bool:
    """Whether a column is numbers that are called, or look, like ratings: 1 to 5, 0 to 10, half stars."""
    numbers = [number for value in values if (number := number_of(value)) is not None]
    filled = [value for value in values if value is not None and str(value).strip()]
    if len(numbers) < max(len(filled), 1) or not numbers:
        return False
    words = {word.removesuffix("s") for word in _words(name)}
    if words & COUNTS:
        return False
    if words & (RATING_WORDS | PREFERENCES):
        return True
    steps = all(2 * number == int(2 * number) for number in numbers)
    whole_scale = steps and min(numbers) >= 0 and max(numbers) in (5, 10) and len(set(numbers)) > 2
    return whole_scale and not words & NOT_RATINGS and not name.endswith(("id", "ID", "Id"))


def _no_header(names: Sequence[str]) -> str:
    """A hint where the first line is rather data."""
    if sum(number_of(name) is not None for name in names) * 2 < len(names):
        return ""
    roles = ["user", "item", "rating", "time", *(f"column{i}" for i in range(5, len(names) + 1))][: len(names)]
    return f"; the first line looks like data: --no-header --columns {','.join(roles)}"


class ColumnResolver:
    """Finds the value of a role ("user", "item", "rating", "time") in records.

    The first record that has one of the names decides which of them it is, for all records.

    Args:
        source: where the records come from, for errors.
        role: what is looked for.
        names: the usual names, as `plain_name` gives them.
        column: a name to look for first.
        field: the name, if it is known; then no other is looked for.
    """

    def __init__(
        self, source: object, role: str, names: Sequence[str], column: str | None = None, *, field: str | None = None
    ) -> None:
        self.source, self.role, self.field = source, role, field
        self.names = tuple(names) if column is None else (plain_name(column), *names)

    @property
    def known(self) -> str:
        """The field, or the names it may have."""
        return self.field or f"one of {', '.join(self.names)}"

    def find(self, record: dict[str, Any]) -> Any:
        """The value in a record, None if it is empty."""
        if self.field is None and self.names:
            self.field = next(iter(self._filled(record, empty=True)), None)
        value = None if self.field is None else record.get(self.field)
        return None if value == "" else value

    def identity(self, number: int, record: dict[str, Any]) -> str | None:
        """The id in a record, the ``number``-th of the source; None if it has none.

        Raises:
            DmrecError: the value cannot be an id, or the record has one under another of the names.
        """
        value = self.find(record)
        if value is None and self.field is not None and self._filled(record, empty=False):
            raise DmrecError(
                f"{self.source}, record {number}: has no '{self.field}', by which the file names the {self.role}, but "
                f"another; name a column that all records have: --{self.role}-column"
            )
        return id_text(value, f"{self.source}, record {number}, field {self.field}")

    def required(self, number: int, record: dict[str, Any]) -> str:
        """`identity`, cleaned.

        Raises:
            DmrecError: also if the record has none.
        """
        identity = self.identity(number, record)
        (cleaned,) = clean_ids([identity], f"{self.source}, record {number}")
        if cleaned is None:
            raise DmrecError(f"{self.source}, record {number}: has no id of the {self.role} ({self.known})")
        return cleaned

    def _filled(self, record: dict[str, Any], *, empty: bool) -> list[str]:
        """The fields that have one of the names, in the order of these; with ``empty`` also if they hold nothing."""
        fields = {plain_name(name): name for name in reversed(record)}
        found = [fields[key] for name in self.names for key in (name, f"{name}s") if key in fields]
        return [name for name in found if empty or record[name] not in (None, "")]


def description_of(record: dict[str, Any], columns: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Title, tags, description and text of an item or a user, as `entity_of` takes them.

    Tags come from all fields of lists, then from those that name who made or sells it; each appears once. HTML goes.
    ``columns``: names of fields by role ("title", "tags", "description", "text"), which come first.
    """
    given = {role: [columns[role].lower()] if role in columns else [] for role in DESCRIBED}
    tags = [tag for name in (*given["tags"], *LISTS) for tag in tags_of(record.get(name))]
    tags += [part for name in NAMES for part in _parts(record.get(name))]
    descriptions = (*given["description"], *DESCRIPTION)
    return {
        "title": without_markup(" ".join(_parts(first_of(record, (*given["title"], *TITLE))))),
        "tags": list(dict.fromkeys(map(without_markup, tags))),
        "description": without_markup(" ".join(part for name in descriptions for part in _parts(record.get(name)))),
        "text": without_markup(" ".join(_parts(first_of(record, (*given["text"], *TEXT))))),
    }


def tags_of(value: Any) -> Iterator[str]:
    """The tags in a list, also one that is written in a text as JSON or Python, or in a text that separates them by
    commas (Yelp) or bars (MovieLens). Of an object its name is the tag.
    """
    if isinstance(value, str) and value.strip()[:1] in ("[", "{") and (parsed := _value_in(value)) is not None:
        value = parsed
    if isinstance(value, dict):
        value = [value] if set(NAMES_IN_OBJECTS) & value.keys() else []
    found = re.split("[,|]", value) if isinstance(value, str) else _parts(value)
    yield from (tag for each in found if (tag := each.strip()) and tag not in MISSING)


def _value_in(text: str) -> Any:
    """The list or object that a text is, in JSON or as a Python literal; None if it is neither."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return read(text) if len(text) < LONGEST_LIST else None
    return None


def _parts(value: Any) -> Iterator[str]:
    """The texts in a value, a list, or a list of lists as Amazon has for categories."""
    for each in value if isinstance(value, list | tuple) else (value,):
        for part in each if isinstance(each, list | tuple) else (each,):
            if isinstance(part, dict):
                part = next((part[name] for name in NAMES_IN_OBJECTS if name in part), None)
            if isinstance(part, str | int) and (text := str(part).strip()):
                yield text
