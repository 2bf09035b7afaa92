"""Vectors from a server that fails now and then, on this machine."""

import dmrec
import numpy as np
import pytest
import tiny
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.language.embed import embed_dataset, permute_vectors
from dmrec.language.encoders import l2_normalize, load_encoder, make_encoder, openai
from dmrec.language.encoders.openai import OpenAIEncoder
from dmrec.recipes import recipe
from dmrec.runs.provenance import fingerprint
from dmrec.runs.resolve import resolve
from fake_llm import FAULTS, FakeLlm, embedded

TEXTS = [f"text {i}" for i in range(300)]
KEY = "sk-a-very-secret-key"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def exact(texts):
    rows = sorted(embedded(texts, ""), key=lambda row: row["index"])
    return l2_normalize(np.array([row["embedding"] for row in rows]))


def encoder(server, **options):
    return OpenAIEncoder("some/model", server.url, timeout=0.5, **{"backoff": 0.001, "attempts": 12, **options})


def test_every_text_gets_its_own_vector_whatever_fails(monkeypatch):
    monkeypatch.setattr(openai, "BATCH_SIZE", 7)
    with FakeLlm(share=0.4, seed=1) as server:
        vectors = encoder(server).encode(TEXTS)
        met = {call.met for call in server.calls}
    np.testing.assert_array_equal(vectors, exact(TEXTS))
    assert len(met & set(FAULTS)) >= 6
    assert len(server.answered) == len(set(server.answered)) == -(-len(TEXTS) // 7)
    assert {call.key for call in server.calls} == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "length",
            "did not return vectors \\(malformed: .* for each of 3 texts\\); .* again to continue",
        ),
        ("other shape", "does not hold a vector for each of 3 texts"),
        ("not JSON", "does not hold a vector for each of 3 texts"),
        ("500", "did not return vectors \\(500"),
        ("401", "refuses requests for the model 'some/model'"),
    ],
)
def test_what_a_server_never_gives_is_said(fault, message):
    with FakeLlm(decide=lambda prompt, request: fault) as server:
        with pytest.raises(DmrecError, match=message) as raised:
            encoder(server, attempts=2).encode(TEXTS[:3])
        assert len(server.calls) == {"401": 1, "500": 4}.get(fault, 2), "500: it looks for one text that is the cause"
    assert KEY not in str(raised.value)


def test_a_dataset_by_a_server_and_a_new_text_in_its_space(tmp_path, monkeypatch):
    made = tiny.make(tmp_path / "data")
    monkeypatch.setattr(OpenAIEncoder, "shard_size", 32)
    with FakeLlm() as server:
        assert embed_dataset(made, encoder(server)) == "some-model"
        dataset = open_dataset(made.folder)
        texts = [item.text for item in dataset.items]
        np.testing.assert_array_equal(dataset.vectors("some-model").items, exact(texts).astype(np.float16))
        np.testing.assert_array_equal(load_encoder(dataset, "some-model").encode(["new"]), exact(["new"]))
    assert KEY not in (dataset.folder / "manifest.json").read_text()


def test_a_text_that_is_refused_is_named():
    bad = "far too long " * 9

    def decide(prompt, request):
        return "400" if any(len(text) > 50 for text in request["input"]) else None

    with FakeLlm(decide=decide) as server:
        with pytest.raises(DmrecError, match="rejects the text 'far too long .*' of 117 characters .*--max-characters"):
            encoder(server).encode([*TEXTS[:40], bad])
        vectors = encoder(server, max_characters=50).encode([*TEXTS[:40], bad])
    np.testing.assert_array_equal(vectors, exact([*TEXTS[:40], bad[:50]]))


def test_what_it_needs():
    with pytest.raises(DmrecError, match="the encoder endpoint needs the option 'model'"):
        make_encoder("endpoint")
    with pytest.raises(
        DmrecError, match="the server needs an address like http://localhost:8080/v1 .--base-url., got 'localhost'"
    ):
        make_encoder("endpoint", model="m", base_url="localhost")


def test_permuted_vectors_are_those_of_others(tmp_path, capsys):
    """A control: the same vectors, each for another item or user, the same ones each time."""
    data = tiny.make(tmp_path / "data")
    (before,) = data.vector_names
    with pytest.raises(SystemExit) as stopped:
        main(["embed", str(data.folder), "--permute", before])
    assert not stopped.value.code
    assert f"vectors 'permuted', those of '{before}' for other items and users" in capsys.readouterr().out
    found, again = open_dataset(data.folder), open_dataset(data.folder)
    permute_vectors(again, before, name="again")
    for side in ("items", "users"):
        old, new = (getattr(found.vectors(name), side) for name in (before, "permuted"))
        assert not np.array_equal(old, new)
        np.testing.assert_array_equal(np.sort(old, axis=0), np.sort(new, axis=0))
        np.testing.assert_array_equal(new, getattr(again.vectors("again"), side))
    assert found.manifest["vectors"]["permuted"]["made"] == {"permuted": before, "seed": 0}
    with pytest.raises(DmrecError, match="models may have been trained with them"):
        permute_vectors(found, before)
    permute_vectors(found, before, force=True, seed=1)
    with pytest.raises(DmrecError, match="has no vectors"):
        permute_vectors(found, "nothing")
    with pytest.raises(SystemExit):
        main(["embed", str(data.folder), "--permute", before, "--encoder", "minilm"])
    assert "--permute takes vectors that are there already" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["dmrec-m", "kar", "l3ae", "llm-init"])
def test_permuted_vectors_are_read_by_recipes_that_ask_for_them_alone(tmp_path, name):
    data = tiny.make(tmp_path / "data")
    (usual,) = data.vector_names
    with pytest.raises(DmrecError, match=f"has no vectors 'permuted'; make them: dmrec embed .* --permute {usual}"):
        resolve(build_config(recipe(f"{name}.permuted")), data)
    permute_vectors(data, usual)
    for asked, expected in ((name, usual), (f"{name}.permuted", "permuted")):
        assert fingerprint(resolve(build_config(recipe(asked)), data), data).keys() & {usual, "permuted"} == {expected}
    with pytest.raises(DmrecError, match="recipe 'mult-vae' reads no texts"):
        recipe("mult-vae.permuted")


def test_which_text_vectors_must_be_said(tmp_path):
    data = tiny.make(tmp_path / "data")
    data.add_vectors("others", data.vectors().items, data.vectors().users, {})
    for name, option in (("kar", "model.vectors"), ("dmrec-m", "language.vectors")):
        with pytest.raises(DmrecError, match=f"several text vectors .*choose: --set {option}="):
            dmrec.train(name, data)
