"""The statements of an import, in the SQL that DuckDB and Spark have in common.

Their results do not depend on the engine, the number of threads, the order of rows or the memory: users and items are
numbered by the MD5 of their ids, and nothing else has an order. ``side`` is "user" or "item"; a table is made of each
statement, called as the function that writes it, behind the side where there are two.

A change of what any of these statements returns needs a new `VERSION`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..sources.values import AROUND, LARGEST, MISSING

VERSION = 1
BUCKETS = 3
"""Hexadecimal digits of the MD5 by which ids are numbered in parts: a window over all of them runs on one machine."""
NUMBER = "^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$"
LATER = 1 << 62
"""Added to the position of a description without a title, so that one with a title comes first."""


def source(relation: str, user: str, item: str, rating: tuple[str, str], file: str) -> str:
    """Ids as text, the rating, what is wrong with it, and the file, of each row; all arguments are expressions."""
    return (
        f"SELECT {user} AS user_text, {item} AS item_text, {rating[0]} AS rating, {rating[1]} AS fault, {file} AS file "
        f"FROM {relation}"
    )


def rating_of_number(column: str) -> tuple[str, str]:
    """The rating in a column of numbers, and a text where it is NaN or infinite."""
    number = f"CAST({column} AS DOUBLE)"
    return (
        number,
        f"CASE WHEN {column} IS NOT NULL AND NOT abs({number}) <= {LARGEST!r} THEN CAST({number} AS STRING) END",
    )


def rating_of_text(column: str, decimal: str) -> tuple[str, str]:
    """The rating in a column of texts, NULL for words that mean that there is none; and a text that is not a number."""
    text = f"trim({column})"
    written = f"replace({text}, ',', '.')" if decimal == "," else text
    missing = f"({column} IS NULL OR {text} IN ({_missing()}))"
    number = f"TRY_CAST({written} AS DOUBLE)"
    right = f"coalesce(regexp_like({written}, '{NUMBER}') AND abs({number}) <= {LARGEST!r}, FALSE)"
    return f"CASE WHEN NOT {missing} THEN {number} END", f"CASE WHEN NOT {missing} AND NOT {right} THEN {column} END"


def no_rating() -> tuple[str, str]:
    """Where there is no column of ratings, every row counts."""
    return "CAST(0 AS DOUBLE)", "CAST(NULL AS STRING)"


def id_of_text(column: str) -> str:
    """An id that is text or a whole number."""
    return f"CAST({column} AS STRING)"


def id_of_float(column: str) -> str:
    """An id that is a whole number among floating-point numbers; NaN is none."""
    return f"CASE WHEN NOT isnan({column}) THEN CAST(CAST({column} AS BIGINT) AS STRING) END"


def fractions(relation: str, column: str) -> str:
    """The first of the floating-point numbers that cannot be ids, if there is one."""
    wrong = f"{column} <> floor({column}) OR abs({column}) >= 9007199254740992"
    return f"SELECT min({column}) FROM {relation} WHERE NOT isnan({column}) AND ({wrong})"


def counts(min_rating: float) -> str:
    """The numbers of rows, of those with a rating, with a fault, and below ``min_rating``."""
    return (
        f"SELECT count(*), count(rating), count(fault), count(CASE WHEN rating < {_double(min_rating)} THEN 1 END) "
        "FROM source"
    )


def first_fault() -> str:
    """A rating that is not a number, and its file."""
    return "SELECT fault, file FROM source WHERE fault IS NOT NULL ORDER BY file, fault LIMIT 1"


def first_without_id(side: str) -> str:
    """The text of an id that means that there is none, and its file."""
    without = f"{side}_text IS NULL OR {side}_text IN (SELECT text FROM {side}_texts WHERE id IS NULL)"
    return f"SELECT {side}_text, file FROM source WHERE rating IS NOT NULL AND ({without}) ORDER BY file LIMIT 1"


def texts(side: str) -> str:
    """The distinct texts of ids, the number of rows of each, and the id: without spaces around it, NULL for words that
    mean that there is none.
    """
    trimmed = f"regexp_replace(regexp_replace(text, '^[{AROUND}]+', ''), '[{AROUND}]+$', '')"
    counted = (
        f"SELECT {side}_text AS text, count(*) AS n_rows FROM source WHERE rating IS NOT NULL GROUP BY {side}_text"
    )
    return (
        f"SELECT text, n_rows, CASE WHEN id IN ({_missing()}) THEN NULL ELSE id END AS id "
        f"FROM (SELECT text, n_rows, {trimmed} AS id FROM ({counted}) r) t"
    )


def count_texts(side: str) -> str:
    """The numbers of rows, of those without an id, of ids, of ids such as 7, and such as 7.0."""
    return (
        "SELECT coalesce(CAST(sum(n_rows) AS BIGINT), 0), "
        "coalesce(CAST(sum(CASE WHEN id IS NULL THEN n_rows END) AS BIGINT), 0), count(id), "
        "count(CASE WHEN regexp_like(id, '^-?[0-9]+$') THEN 1 END), "
        f"count(CASE WHEN regexp_like(id, '^-?[0-9]+[.]0*$') THEN 1 END) FROM {side}_texts"
    )


def hashes(side: str, *, floats: bool) -> str:
    """The distinct ids and their MD5. ``floats``: whether all are whole numbers and some are written as 7.0."""
    identity = "regexp_replace(id, '[.]0*$', '')" if floats else "id"
    return (
        f"SELECT id, hash, substr(hash, 1, {BUCKETS}) AS bucket FROM (SELECT DISTINCT {identity} AS id, "
        f"md5({identity}) AS hash FROM {side}_texts WHERE id IS NOT NULL) t"
    )


def _numbered(table: str, columns: str, order: str, name: str) -> str:
    """The rows of a table with a ``bucket``, numbered from 0 by bucket and ``order``."""
    before = (
        "SELECT bucket, sum(n) OVER (ORDER BY bucket) - n AS before "
        f"FROM (SELECT bucket, count(*) AS n FROM {table} GROUP BY bucket) c"
    )
    within = f"row_number() OVER (PARTITION BY t.bucket ORDER BY {order})"
    return (
        f"SELECT {columns}, t.bucket AS bucket, CAST(b.before + {within} - 1 AS BIGINT) AS {name} "
        f"FROM {table} t JOIN ({before}) b ON t.bucket = b.bucket"
    )


def keys(side: str) -> str:
    """All ids of a side, numbered by MD5: what stands for them until the filters have passed."""
    return _numbered(f"{side}_hashes", "t.id AS id", "t.hash, t.id", f"{side}_key")


def keys_of_texts(side: str, *, floats: bool) -> str:
    """The key of each text."""
    identity = "regexp_replace(t.id, '[.]0*$', '')" if floats else "t.id"
    return f"SELECT t.text, k.{side}_key FROM {side}_texts t JOIN {side}_keys k ON {identity} = k.id"


def pairs(min_rating: float) -> str:
    """The distinct users and items of ratings of at least ``min_rating``."""
    return (
        "SELECT DISTINCT u.user_key, i.item_key FROM source s "
        "JOIN user_keys_of_texts u ON s.user_text = u.text JOIN item_keys_of_texts i ON s.item_text = i.text "
        f"WHERE s.rating >= {_double(min_rating)}"
    )


def kept(side: str, k_core: int, other: str | None) -> str:
    """The users or items with ``k_core`` pairs; only those count whose other side is in the table ``other``."""
    opposite = "item" if side == "user" else "user"
    among = "" if other is None else f"WHERE {opposite}_key IN (SELECT {opposite}_key FROM {other}) "
    return f"SELECT {side}_key FROM pairs {among}GROUP BY {side}_key HAVING count(*) >= {k_core}"


def kept_keys(side: str, kept_table: str) -> str:
    """The ids of those that were kept."""
    return f"SELECT id, bucket, {side}_key FROM {side}_keys WHERE {side}_key IN (SELECT {side}_key FROM {kept_table})"


def numbers(side: str) -> str:
    """Those that were kept, numbered in the same order: rows or columns."""
    return _numbered(f"{side}_kept_keys", f"t.id AS id, t.{side}_key AS {side}_key", f"t.{side}_key", "number")


def pairs_in_core() -> str:
    """All pairs of those that were kept, as row and column."""
    return (
        "SELECT u.number AS user_number, i.number AS item_number FROM pairs p "
        "JOIN user_numbers u ON p.user_key = u.user_key JOIN item_numbers i ON p.item_key = i.item_key"
    )


def sorted_pairs() -> str:
    """`pairs_in_core`, ascending."""
    return f"{pairs_in_core()} ORDER BY user_number, item_number"


def known_ids(side: str, ids: Iterable[str]) -> str:
    """Those of some ids that were kept."""
    return f"SELECT id FROM {side}_numbers WHERE id IN ({', '.join(map(_text, ids))})"


def chosen_descriptions(side: str) -> str:
    """Of several descriptions with one id the first with a title, else the first, by the id."""
    position = f"min(position + CASE WHEN title = '' THEN {LATER} ELSE 0 END) % {LATER}"
    return (
        f"SELECT d.id, d.title, d.text FROM {side}_descriptions d JOIN (SELECT id, {position} AS chosen "
        f"FROM {side}_descriptions WHERE id IN (SELECT id FROM {side}_numbers) GROUP BY id) c ON d.position = c.chosen"
    )


def described(side: str, *, with_texts: bool) -> str:
    """Id, title and text in the order of numbers."""
    if not with_texts:
        return f"SELECT id, '' AS title, '' AS text FROM {side}_numbers ORDER BY number"
    return (
        "SELECT n.id, coalesce(d.title, '') AS title, coalesce(d.text, '') AS text "
        f"FROM {side}_numbers n LEFT JOIN {side}_chosen d ON n.id = d.id ORDER BY n.number"
    )


def _missing() -> str:
    """The words that mean that there is no value, as literals: in Spark a backslash would be an escape."""
    return ", ".join(_text(word) for word in sorted(MISSING))


def _text(value: str) -> str:
    """A literal of both engines, which disagree on quotes and backslashes within one."""
    pieces = [
        f"chr({ord(piece)})" if piece in "'\\" else f"'{piece}'" for piece in re.split(r"(['\\])", value) if piece
    ]
    return f"concat({', '.join(pieces)})" if len(pieces) > 1 else next(iter(pieces), "''")


def _double(value: float) -> str:
    return f"CAST('{value!r}' AS DOUBLE)"
