"""The layouts of GroupLens' MovieLens: 100K (``u.data``), 1M and 10M (``ratings.dat``), since (``ratings.csv``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import DmrecError
from ..entities import Entity, clean
from .columns import USER, plain_name
from .encoding import encoding_of, open_text
from .interactions import InteractionBuilder, Interactions
from .records import read_rows
from .source import Source
from .tables import read_interactions
from .times import TimeColumn
from .values import MISSING, number_of

TAGS_PER_FILM = 8
# what numbers mean in MovieLens-1M, by its README
AGES = {"1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "over 55"}
OCCUPATIONS = (
    *("other", "academic or educator", "artist", "clerical or admin", "college or graduate student"),
    *("customer service", "doctor or health care", "executive or managerial", "farmer", "homemaker"),
    *("school student", "lawyer", "programmer", "retired", "sales or marketing", "scientist", "self-employed"),
    *("technician or engineer", "tradesman or craftsman", "unemployed", "writer"),
)


def film(identity: str, title: str, year: str, genres: Sequence[str], tags: Sequence[str] = ()) -> Entity:
    """An item with its title as shown and its text: ``Toy Story (1995). Genres: Animation, Comedy. Tags: pixar.``."""
    shown = clean(f"{title} ({year})" if year else title)
    known = {"Genres": genres, "Tags": tags}
    text = " ".join([f"{shown}.", *(f"{name}: {', '.join(each)}." for name, each in known.items() if each)])
    return Entity(identity, shown, clean(text), tuple(clean(each) for each in (*genres, *tags)))


def person(identity: str, age: str, gender: str, occupation: str) -> Entity:
    """A user with a text of age, gender and occupation."""
    who = {"M": "male", "F": "female"}.get(gender, gender)
    old = f"{age} year old (age group {int(age) // 10 * 10}s)" if age.isdecimal() else f"aged {age},"
    return Entity(identity, f"user {identity}", clean(f"{old} {who}, occupation: {occupation}."))


def _genres(text: str) -> list[str]:
    return [] if text == "(no genres listed)" else [name for name in text.split("|") if name.strip()]


def read_u_data(folder: Path, columns: dict[str, str] | None = None) -> Source:
    """MovieLens-100K: u.data, u.item, u.user, and u.genre for the names of genres."""
    ratings, films, people, genres = (folder / f"u.{part}" for part in ("data", "item", "user", "genre"))
    names = [row[0] for row in _split(genres, "|", 2)] if genres.exists() else []
    items = []
    for row in _split(films, "|", 5) if films.exists() else ():
        marked = [name for name, mark in zip(names, row[5:], strict=False) if mark == "1"]
        items.append(film(row[0], row[1], "", marked))
    users = [person(row[0], row[1], row[2], row[3]) for row in _split(people, "|", 4)] if people.exists() else None
    there = [path for path in (ratings, films, people, genres) if path.exists()]
    return Source(_ratings(ratings, "\t"), there, items or None, users)


def read_dat(folder: Path, columns: dict[str, str] | None = None) -> Source:
    """MovieLens-1M and 10M: ratings.dat, movies.dat and, in 1M, users.dat."""
    ratings, films, people = (folder / f"{part}.dat" for part in ("ratings", "movies", "users"))
    items = [film(i, title, "", _genres(genres)) for i, title, genres in _films(films)] if films.exists() else None
    users = None
    if people.exists():
        occupation_of = {str(number): occupation for number, occupation in enumerate(OCCUPATIONS)}
        rows = _split(people, "::", 4)
        users = [person(u, AGES.get(a, a), gender, occupation_of.get(o, o)) for u, gender, a, o, *_ in rows]
    there = [path for path in (ratings, films, people) if path.exists()]
    return Source(_ratings(ratings, "::"), there, items, users)


def read_csv(folder: Path, columns: dict[str, str] | None = None) -> Source:
    """MovieLens since 20M: ratings.csv, movies.csv and, for texts, the tags that most users gave (tags.csv)."""
    ratings, films, tags = (folder / f"{part}.csv" for part in ("ratings", "movies", "tags"))
    given: dict[str, Counter[str]] = {}
    if tags.exists():
        rows = read_rows(tags)
        movie, tag = (_column(tags, rows.names, name) for name in ("movieId", "tag"))
        for row in rows:
            if row[tag].strip() not in MISSING:
                given.setdefault(row[movie], Counter())[clean(row[tag], 60).lower()] += 1
    items = None
    if films.exists():
        rows = read_rows(films)
        movie, title, genres = (_column(films, rows.names, name) for name in ("movieId", "title", "genres"))
        items = []
        for row in rows:
            common = [name for name, _ in given.get(row[movie], Counter()).most_common(TAGS_PER_FILM)]
            items.append(film(row[movie], row[title], "", _genres(row[genres]), common))
    there = [path for path in (ratings, films, tags) if path.exists()]
    return Source(read_interactions(ratings, columns), there, items)


def _films(path: Path) -> Iterator[tuple[str, str, str]]:
    for first, *title, last in _split(path, "::", 3):
        yield first, "::".join(title), last


def _ratings(path: Path, separator: str) -> Interactions:
    """Lines of user, item, rating and, in all or none of them, time."""
    times = TimeColumn(f"{path}, field 4")
    found, timed = InteractionBuilder(str(path), times), False
    for number, row in enumerate(_split(path, separator, 3), start=1):
        timed = len(row) > 3 if number == 1 else timed
        rating = number_of(row[2])
        if rating is None and plain_name(row[0]) in USER:  # a header
            continue
        if rating is None:
            raise DmrecError(f"{path}, line {number}: the rating '{row[2]}' is not a number")
        found.add(row[0], row[1], rating)
        if timed:
            times.add(number, row[3] if len(row) > 3 else None)
    return found.interactions()


def _split(path: Path, separator: str, fields: int) -> Iterator[list[str]]:
    """The fields of lines without a header: at least so many. UTF-8, or Latin-1 in the older sets."""
    try:
        encoding = encoding_of(path)
    except DmrecError:
        encoding = "latin-1"
    with open_text(path, encoding) as file:
        for number, line in enumerate(file, start=1):
            row = line.rstrip("\r\n").split(separator)
            if line.strip() and len(row) < fields:
                raise DmrecError(f"{path}, line {number}: {len(row)} fields, at least {fields} are expected")
            if line.strip():
                yield row


def _column(path: Path, header: list[str], name: str) -> int:
    plain = [plain_name(each) for each in header]
    if plain_name(name) not in plain:
        raise DmrecError(f"{path} has no column '{name}' (columns: {', '.join(header)})")
    return plain.index(plain_name(name))
