"""Random tables with the faults of real ones: each is read as its maker knows it, or refused in one line."""

import bz2
import gzip
import io
import random
import zipfile
from dataclasses import dataclass, field

import numpy as np
import pytest
from dmrec.data.sources.tables import read_interactions
from dmrec.errors import DmrecError

USER_NAMES = ("user_id", "userId", "User-ID", "USER", "reviewerID", "uid", "user id", "Customer ID")
ITEM_NAMES = ("item_id", "movieId", "ISBN", "asin", "Item", "product_id", "iid", "business-id")
RATING_NAMES = ("rating", "Rating", "Book-Rating", "review/score", "stars", "user_rating", "overall", "Rating (1-5)")
TIME_NAMES = ("timestamp", "time", "Date", "unixReviewTime")
MISSING = ("", " ", "NULL", "None", "nan", "NaN", "\\N", "NA")
AROUND = ("", " ", "\u00a0", "\t ", "\u200b")
COMPRESSED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}


@dataclass
class Made:
    """A table as bytes, and what is to be found in it; or why it is to be refused."""

    name: str
    content: bytes
    users: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    ratings: list[float] | None = None
    without_id: int = 0
    unrated: int = 0
    refusal: str = ""


def make(seed):
    rng = random.Random(seed)
    pick, chance = rng.choice, lambda share: rng.random() < share
    rows, kind = rng.randrange(12, 60), pick(("word", "number", "float", "accent"))
    delimiter = pick((",", ",", ";", "\t", "|"))
    encoding = (
        pick(("utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252")) if kind == "accent" else pick(("utf-8", "utf-8-sig"))
    )
    comma = delimiter != "," and chance(0.4)
    rated, timed = chance(0.8), chance(0.5)

    def identity(number):
        return {"word": f"id{number}", "number": str(number), "float": f"{number}.0", "accent": f"é{number}"}[kind]

    def wanted(number):
        return str(number) if kind == "float" else identity(number)

    around = AROUND if encoding != "cp1252" and delimiter != "\t" else ("", " ")
    decorated, gaps = chance(0.3), chance(0.3)
    table, made = [], Made("", b"", ratings=[] if rated else None)
    for _ in range(rows):
        user, item, rating = rng.randrange(9), rng.randrange(1, 30), pick((1, 2, 3, 4, 4.5, 5))
        cells = {
            "user": identity(user),
            "item": identity(item),
            "rating": str(rating),
            "time": str(1_500_000_000 + rng.randrange(10**8)),
        }
        if decorated:
            for side in ("user", "item"):
                cells[side] = pick(around) + cells[side] + pick(around)
        if comma:
            cells["rating"] = cells["rating"].replace(".", ",")
        lost = gaps and made.without_id < rows // 8 and chance(0.1)
        if lost:
            cells[pick(("user", "item"))] = pick(MISSING[:1] if delimiter == "\t" else MISSING)
        no_rating = rated and not lost and chance(0.05)
        if no_rating:
            cells["rating"] = pick(("", " ", "NULL"))
        table.append(cells)
        if no_rating:
            made.unrated += 1
        elif lost:
            made.without_id += 1
        else:
            made.users.append(wanted(user))
            made.items.append(wanted(item))
            if rated:
                made.ratings.append(rating)
    names = {"user": pick(USER_NAMES), "item": pick(ITEM_NAMES)}
    if rated:
        names["rating"] = pick(RATING_NAMES)
    if timed:
        names["time"] = pick(TIME_NAMES)
    if chance(0.4):
        names["note"] = pick(("comment", "title", "channel"))
        for cells in table:
            cells["note"] = pick(("", "fine", 'says "yes"', f"a{delimiter}b", "é"))
    if chance(0.2):
        names["amount"] = pick(("price", "quantity", "amount"))
        for cells in table:
            cells["amount"] = str(rng.randrange(1, 500))
    fault = pick(("",) * 12 + ("two ratings", "looks like", "bad rating", "most ids", "two users", "ragged"))
    if fault == "two ratings" and rated:
        names["again"], made.refusal = (
            names["rating"].upper() if names["rating"] != names["rating"].upper() else "Rating",
            "may be the rating",
        )
        if names["again"].casefold() != names["rating"].casefold():
            made.refusal = ""
            del names["again"]
        for cells in table:
            cells["again"] = "3"
    elif fault == "looks like" and not rated:
        names["liked"], made.refusal = "liked", "looks like one"
        for number, cells in enumerate(table):
            cells["liked"] = str(number % 2)
    elif fault == "bad rating" and rated:
        made.refusal = "is not a number"
        pick(table)["rating"] = pick(("4_5", "good", "\uff14" if encoding != "cp1252" else "x", "--3"))
    elif fault == "most ids":
        made.refusal = "has no id"
        for cells in table[: rows // 2 + 1]:
            cells["user"] = "NULL"
    elif fault == "two users" and names["user"] in ("user_id", "USER"):
        names["second"], made.refusal = "userid", "may be the user"
        for cells in table:
            cells["second"] = "x"
    roles = list(names)
    rng.shuffle(roles)
    quoted = chance(0.2) and delimiter != "\t"

    def line(values):
        cells = []
        for value in values:
            needed = any(mark in value for mark in (delimiter, '"')) and delimiter != "\t"
            cells.append('"' + value.replace('"', '""') + '"' if needed or quoted else value)
        return delimiter.join(cells)

    header = line([names[role] for role in roles])
    lines = [
        line([cells[role].replace("\t", " ") if delimiter == "\t" else cells[role] for role in roles])
        for cells in table
    ]
    if fault == "ragged":
        lines[rng.randrange(len(lines))] += f"{delimiter}more{delimiter}more"
        made.refusal = made.refusal or "fields, but the header has"
    if chance(0.15) and fault != "ragged":
        lines.insert(rng.randrange(len(lines)), header)
    for _ in range(rng.randrange(3) if chance(0.3) else 0):
        lines.insert(rng.randrange(len(lines)), "")
    before = ["" for _ in range(rng.randrange(1, 3))] if chance(0.1) else []
    if chance(0.1):
        before.append("# exported")
    end = pick(("\n", "\n", "\r\n", "\r"))
    text = end.join([*before, header, *lines]) + (end if chance(0.8) else "") + ("\x1a" if chance(0.05) else "")
    packed = pick(("", "", "", ".gz", ".bz2", ".zip", "hidden"))
    made.name = "t" + pick((".csv", ".CSV", ".txt") if delimiter != "\t" else (".tsv", ".txt"))
    content = text.encode(encoding)
    if packed == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("t.csv", content)
        made.content = buffer.getvalue()
    elif packed == "hidden":
        made.content = gzip.compress(content)
    else:
        made.name += packed
        made.content = COMPRESSED[packed](content)
    return made


def check(seed, folder):
    made = make(seed)
    path = folder / f"{seed}-{made.name}"
    path.write_bytes(made.content)
    found, refused = None, ""
    try:
        found = read_interactions(path)
    except DmrecError as error:
        refused = str(error)
    path.unlink()
    if made.refusal or found is None:
        assert made.refusal, (seed, refused)
        assert made.refusal in refused, (seed, made.refusal, refused)
        assert "\n" not in refused
        return False
    for ids, expected in ((found.user, made.users), (found.item, made.items)):
        assert list(map(str, ids.names[ids.codes].tolist())) == expected, seed
    assert found.unrated == made.unrated, seed
    assert found.notes.get("rows_without_user", 0) + found.notes.get("rows_without_item", 0) == made.without_id, seed
    if made.ratings is None:
        assert found.rating is None, seed
    else:
        np.testing.assert_array_equal(found.rating, made.ratings, err_msg=str(seed))
    return True


@pytest.mark.parametrize("first", range(0, 2_000, 500))
def test_random_tables(first, tmp_path):
    read = sum(check(seed, tmp_path) for seed in range(first, first + 500))
    assert 300 < read < 480, "most are read, some are refused"


@pytest.mark.slow
def test_ten_thousand_random_tables(tmp_path):
    assert 7_000 < sum(check(seed, tmp_path) for seed in range(10_000)) < 9_800
