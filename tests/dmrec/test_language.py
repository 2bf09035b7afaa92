"""The texts of a dataset become vectors in shards; imports of the language room point one way."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from dmrec.cli.main import main
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.language.embed import embed_dataset
from dmrec.language.encoders import TextEncoder, l2_normalize
from dmrec.language.encoders.tfidf import TfidfSvd

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "python/dmrec/language"


class Lengths(TextEncoder):
    """Counts how often it is asked; can break off."""

    family = "lengths"

    def __init__(self, calls=10**9):
        self.calls, self.asked = calls, []

    def options(self):
        return {}

    def encode(self, texts):
        if len(self.asked) == self.calls:
            raise KeyboardInterrupt
        self.asked.append(list(texts))
        return l2_normalize(np.array([[len(text), hash(text) % 7, 1.0] for text in texts]))


@pytest.fixture
def many_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(Lengths, "shard_size", 16)
    return tiny.make(tmp_path / "data")


def files(dataset, name):
    return [(dataset.folder / f"{side}.{name}.npy").read_bytes() for side in ("items", "users")]


def test_any_encoder_fits(many_shards):
    seen = []
    assert embed_dataset(many_shards, Lengths(), progress=seen.append) == "lengths"
    vectors = open_dataset(many_shards.folder).vectors("lengths")
    assert (vectors.items.shape, vectors.users.shape, vectors.items.dtype) == ((48, 3), (120, 3), np.float16)
    texts = [item.text for item in many_shards.items]
    np.testing.assert_array_equal(vectors.items, Lengths().encode(texts).astype(np.float16))
    assert seen[-1] == 168
    assert many_shards.manifest["vectors"]["lengths"]["made"]["encoder"] == {"family": "lengths"}
    assert not list(many_shards.folder.glob(".*.embedding"))


@pytest.mark.parametrize("calls", [0, 1, 4, 10])
def test_interrupted_and_resumed_is_uninterrupted(many_shards, calls):
    embed_dataset(many_shards, Lengths(), name="whole")
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(many_shards, Lengths(calls), name="cut")
    assert "cut" not in many_shards.vector_names
    again = Lengths()
    embed_dataset(many_shards, again, name="cut")
    assert len(again.asked) == 11 - calls  # 3 shards of items, 8 of users
    assert files(many_shards, "cut") == files(many_shards, "whole")


def test_damaged_shards_and_other_texts_are_encoded_again(many_shards):
    embed_dataset(many_shards, Lengths(), name="whole")
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(many_shards, Lengths(5), name="cut")
    folder = many_shards.folder / ".cut.embedding"
    first = folder / "items-00000000.npy"
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    with (folder / "shards.jsonl").open("a") as log:
        log.write('\n{"file": "users-000')  # as a crash leaves it
    again = Lengths()
    embed_dataset(many_shards, again, name="cut")
    assert len(again.asked) == 11 - 4
    assert files(many_shards, "cut") == files(many_shards, "whole")

    with pytest.raises(KeyboardInterrupt):
        embed_dataset(many_shards, Lengths(5), name="cut", force=True)
    other = TfidfSvd(4)
    embed_dataset(many_shards, other, name="cut", force=True)  # of another encoder: nothing is mixed
    assert open_dataset(many_shards.folder).vectors("cut").items.shape == (48, 4)


def test_rows_without_text_are_zeros(many_shards):
    texts = {"items": ["", *(f"text {i}" for i in range(47))], "users": [""] * 119 + ["one"]}
    rows = {side: [{"id": str(i), "text": t} for i, t in enumerate(of_side)] for side, of_side in texts.items()}
    many_shards.add_profiles("some", rows, {})
    encoder = Lengths()
    assert embed_dataset(many_shards, encoder, profiles="some") == "lengths-some"
    vectors = many_shards.vectors("lengths-some")
    assert not vectors.items[0].any()
    assert vectors.items[1:].any(axis=1).all()
    assert vectors.users.any(axis=1).sum() == 1
    made = many_shards.manifest["vectors"]["lengths-some"]["made"]
    assert (made["items_without_text"], made["users_without_text"], made["profiles"]) == (1, 119, "some")
    with pytest.raises(DmrecError, match="has no profiles 'sone'; did you mean 'some'"):
        embed_dataset(many_shards, encoder, profiles="sone")
    many_shards.add_profiles("none", {side: [{"id": "", "text": ""}] * len(texts[side]) for side in texts}, {})
    with pytest.raises(DmrecError, match="does not have texts of its items"):
        embed_dataset(many_shards, encoder, profiles="none")


def test_what_an_encoder_returns_is_checked(many_shards, monkeypatch):
    monkeypatch.setattr(Lengths, "encode", lambda self, texts: np.ones((1, 3)))
    with pytest.raises(DmrecError, match=r"the encoder lengths returned \(1, 3\), NaN or infinity for 16 texts"):
        embed_dataset(many_shards, Lengths())


def test_manifest_is_json(tmp_path):
    dataset = tiny.make(tmp_path / "data")
    made = json.loads((dataset.folder / "manifest.json").read_text())["vectors"]["tfidf-svd"]["made"]
    assert made["encoder"] | {"state": ""} == {
        "family": "tfidf-svd",
        "width": 8,
        "min_texts": 2,
        "seed": 0,
        "state": "",
    }


def test_what_an_encoder_learned_outlives_an_interruption(tmp_path, monkeypatch):
    """Fitted again it might turn its axes; and of other texts it must be fitted again."""
    monkeypatch.setattr(TfidfSvd, "shard_size", 16)
    dataset = tiny.make(tmp_path / "data")
    embed_dataset(dataset, TfidfSvd(8), name="whole")

    def after_items(done):
        if done >= 48:
            raise KeyboardInterrupt

    fits = []
    monkeypatch.setattr(TfidfSvd, "fit", lambda self, texts, fit=TfidfSvd.fit: fits.append(1) or fit(self, texts))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            embed_dataset(dataset, TfidfSvd(8), name="cut", progress=after_items)
    embed_dataset(dataset, TfidfSvd(8), name="cut")
    assert len(fits) == 1
    assert files(dataset, "cut") == files(dataset, "whole")

    rows = {side: [{"id": "", "text": text} for text in dataset.texts(side)] for side in ("items", "users")}
    dataset.add_profiles("p", rows, {})
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(dataset, TfidfSvd(8), profiles="p", name="cut", force=True, progress=after_items)
    rows["users"][0]["text"] = "a spade, a spade, and other words, other words"
    dataset.add_profiles("p", rows, {})
    embed_dataset(dataset, TfidfSvd(8), profiles="p", name="cut", force=True)
    embed_dataset(dataset, TfidfSvd(8), profiles="p", name="fresh")
    assert len(fits) == 4
    assert files(dataset, "cut") == files(dataset, "fresh")


def test_two_processes_keep_what_each_adds(tmp_path):
    """Each has opened the dataset before the other writes."""
    tiny.make(tmp_path / "data")
    one, other = (open_dataset(tmp_path / "data") for _ in range(2))
    one.add_vectors("a", np.ones((48, 2)), np.ones((120, 2)), {})
    other.add_profiles("p", {side: [{"id": "", "text": "x"}] * n for side, n in (("items", 48), ("users", 120))}, {})
    other.add_vectors("b", np.ones((48, 2)), np.ones((120, 2)), {})
    assert open_dataset(tmp_path / "data").vector_names == other.vector_names == ["a", "b", "tfidf-svd"]
    assert open_dataset(tmp_path / "data").profile_names == ["p"]


def test_one_process_makes_vectors_of_a_name(many_shards):
    class Nosy(Lengths):
        def encode(self, texts):
            with pytest.raises(DmrecError, match="another process makes the vectors 'lengths'"):
                embed_dataset(open_dataset(many_shards.folder), Lengths())
            return super().encode(texts)

    embed_dataset(many_shards, Nosy())


def test_more_shards_than_files_can_be_open(many_shards, monkeypatch):
    import resource

    monkeypatch.setattr(Lengths, "shard_size", 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        embed_dataset(many_shards, Lengths(), name="many")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    monkeypatch.setattr(Lengths, "shard_size", 64)
    embed_dataset(many_shards, Lengths(), name="few")
    assert files(many_shards, "many") == files(many_shards, "few")


def _imports(path):
    """What a file imports, as absolute names."""
    package = ["dmrec", *path.relative_to(ROOM.parent).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOM)))
def test_imports_point_one_way_and_nothing_prints(path):
    """openai_client <- {encoders, profiles}, encoders <- shards <- embed; output is the commands' part."""
    inside = {"encoders": ["encoders", "openai_client"], "profiles": ["profiles", "openai_client"]}
    inside |= {"embed": ["encoders", "shards"], "shards": ["encoders"], "new_items": ["encoders"]}
    part = path.relative_to(ROOM).with_suffix("").parts[0]
    for name in _imports(path):
        assert name.split(".")[0] not in ("rich", "typer"), name
        if name.startswith("dmrec.language."):
            assert name.split(".")[2] in inside.get(part, []), name
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert "print" not in [getattr(function, "id", "") for function in calls]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "minilmm"], "there is no encoder 'minilmm', nor a folder of that name; did you mean 'minilm'?"),
        (["--encoder", "endpoint"], "the encoder endpoint needs the option 'model'"),
        (["--encoder", "wordllama", "--width", "8"], "the encoder wordllama has no option 'width'; it has no options"),
        (["--device", "cpu"], "the encoder tfidf-svd has no option 'device'; known: min_df, seed, width"),
        (["--set", "min-df=2"], "the encoder tfidf-svd has no option 'min-df'; did you mean 'min_df'?"),
        (["--encoder", "minilm", "--device", "gpu"], "unknown device 'gpu'; did you mean 'cpu'?"),
        ([], "tiny has vectors 'tfidf-svd', and models may have been trained with them: choose another name (--name)"),
    ],
)
def test_what_cannot_be_embedded_says_why(tiny_folder, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["embed", str(tiny_folder), *arguments])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err


def test_options_by_name_and_replaced_vectors(tmp_path, capsys):
    folder = tiny.make(tmp_path / "data").folder
    with pytest.raises(SystemExit) as stopped:
        main(["embed", str(folder), "--width", "5", "--set", "min_df=3", "--set", "seed=7", "--force"])
    assert not stopped.value.code
    assert "tiny: vectors 'tfidf-svd', width 5, of 48 items and 120 users" in capsys.readouterr().out
    made = open_dataset(folder).manifest["vectors"]["tfidf-svd"]["made"]["encoder"]
    assert (made["width"], made["min_texts"], made["seed"]) == (5, 3, 7)


def test_vectors_are_replaced_with_force_alone(many_shards):
    embed_dataset(many_shards, Lengths())
    encoder = Lengths()
    with pytest.raises(DmrecError, match="dataset tiny has vectors 'lengths'"):
        embed_dataset(many_shards, encoder)
    assert encoder.asked == []
    embed_dataset(many_shards, encoder, force=True)
    assert len(encoder.asked) == 11


def test_shards_of_different_devices_are_not_mixed(many_shards):
    class OnGpu(Lengths):
        device = "cuda"

    embed_dataset(many_shards, Lengths(), name="whole")
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(many_shards, Lengths(4), name="cut")
    other = OnGpu()
    embed_dataset(many_shards, other, name="cut")
    assert len(other.asked) == 11
    assert files(many_shards, "cut") == files(many_shards, "whole")
