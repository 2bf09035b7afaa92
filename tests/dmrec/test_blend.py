"""Rankings between a model's and that of the texts."""

import dmrec
import numpy as np
import pytest
import tiny
import torch
from dmrec.cli.main import main
from dmrec.inference.blend import Blended, fit_temperature, text_of_users
from dmrec.language.encoders import TextEncoder, l2_normalize, register_encoder
from dmrec.models.base import TrainingData, UserBatch
from dmrec.models.vae.item_text import unit_vectors
from scipy import sparse

from dmrec_ext import Csr

FAST = {"epochs": 20, "learning_rate": 0.01, "batch_size": 40}
SIZES = {"model.hidden": 24, "model.latent": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("blend") / "data")


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    options = {**SIZES, "language.hidden": 24}
    return dmrec.train("dmrec-m", data, out=tmp_path_factory.mktemp("runs"), options=options, **FAST)


def _unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8])
def test_the_ranking_is_the_sum_of_weighted_log_probabilities(model, data, weight):
    items = unit_vectors(data.vectors().items)
    batch = model.data.users(torch.arange(30))
    with torch.no_grad():
        backbone = model.model.backbone
        decoded = backbone.decode(backbone.infer(model.model.posterior(batch)))
        logits = (decoded.hidden @ decoded.weight.T + decoded.bias).double().log_softmax(1)
        cosine = torch.from_numpy(_unit(data.vectors().users)[:30]) @ items.double().T
        expected = weight * logits + (1 - weight) * (cosine / 0.2).log_softmax(1)
        scores, found = Blended(model.model, items, 0.2, weight).eval().rank(batch, 48)
    ordered = expected.gather(1, found)
    assert (ordered.diff(dim=1) < 1e-4).all()
    shift = scores.double() - ordered
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-4)  # a constant of the user


def test_the_temperature_is_that_of_the_largest_likelihood():
    draw = np.random.default_rng(0)
    items = torch.from_numpy(_unit(draw.standard_normal((60, 6)))).float()
    users = torch.from_numpy(_unit(draw.standard_normal((400, 6)))).float()
    probabilities = (users @ items.T / 0.25).softmax(1)
    taken = torch.zeros(400, 60).scatter_(1, torch.multinomial(probabilities, 5, generator=torch.Generator()), 1)
    wanted = Csr.from_scipy(sparse.csr_matrix(taken.numpy()))
    nothing = Csr.from_scipy(sparse.csr_matrix((400, 60), dtype=np.float32))
    data = TrainingData(nothing, user_text_vectors=users.numpy())
    found = fit_temperature(data, wanted, items)

    def likelihood(temperature):
        return float(((users @ items.T / temperature).log_softmax(1) * taken).sum())

    assert likelihood(found) >= max(likelihood(found * step) for step in (0.9, 0.99, 1.01, 1.1))
    assert found == pytest.approx(0.25, rel=0.25)  # without replacement they are a little flatter


def test_users_without_a_text_have_the_direction_of_their_items():
    items = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]])
    x = Csr(torch.tensor([0, 2, 3, 3]), torch.tensor([0, 1, 2]), None, 3)
    texts = torch.tensor([[0.0, 0], [3, 0], [0, 0]])
    found = text_of_users(UserBatch(None, x, texts), items)
    torch.testing.assert_close(found, torch.tensor([[0.5**0.5, 0.5**0.5], [1, 0], [0, 0]]))
    torch.testing.assert_close(text_of_users(UserBatch(None, x), items)[1], items[2])


def test_from_the_texts_ranking_to_the_models(model, data):
    """By a profile: at 0 the order is that of the cosine, at 1 that of the model, and 1 is the default."""
    profile = "somebody with a guitar, fond of every chord"
    at = {w: model.recommend(profile=profile, k=48, popularity=w)["item"].tolist() for w in (0, 0.5, 1)}
    assert at[1] == model.recommend(profile=profile, k=48)["item"].tolist()
    vector = dmrec.load(model.folder)._encoders
    assert vector == {}, "an encoder is loaded when a text comes"
    (of_profile,) = model._encoders["tfidf-svd"].encode([profile])
    cosine = _unit(data.vectors().items) @ _unit([of_profile])[0]
    by_cosine = cosine[[int(item[1:]) for item in at[0]]]
    assert (np.diff(by_cosine) < 1e-3).all()
    place = {w: {item: rank for rank, item in enumerate(items)} for w, items in at.items()}
    far = [sum(abs(place[0.5][i] - place[w][i]) for i in place[w]) for w in (0, 1)]
    apart = sum(abs(place[0][i] - place[1][i]) for i in place[0])
    assert max(far) < apart
    known = model.recommend(["u1", "u2"], k=5, popularity=0.0)
    assert all(int(item[1:]) % 4 == int(user[1:]) % 4 for user, item in zip(known["user"], known["item"], strict=True))


def test_the_command_line_and_what_is_refused(model, data, tmp_path, capsys):
    for arguments in (["--profile", "guitar chord"], ["--user", "u1"]):
        with pytest.raises(SystemExit) as stopped:
            main(["recommend", str(model.folder), "--popularity", "0.2", *arguments])
        assert stopped.value.code == 0
        assert "recommendations" in capsys.readouterr().out
    with pytest.raises(dmrec.DmrecError, match="popularity must be a number from 0 to 1, got 2"):
        model.recommend("u1", popularity=2)
    plain = dmrec.train("mult-vae", data, out=tmp_path, options=SIZES, **{**FAST, "epochs": 1})
    with pytest.raises(dmrec.DmrecError, match="popularity: mult-vae has no text vectors to rank by"):
        plain.recommend("u1", popularity=0.5)
    reads = dmrec.train(
        "mult-vae", data, out=tmp_path / "text", options={**SIZES, "model.item_text": {}}, **{**FAST, "epochs": 1}
    )
    assert len(reads.recommend("u1", k=3, popularity=0.5)) == 3


class Words(TextEncoder):
    """Texts of known and of unknown words, in one space."""

    family = "words-of-the-test"
    known = ("guitar", "spade", "tea", "bicycle", "zzz", "qqq")

    def encode(self, texts):
        counts = np.array([[text.count(word) for word in self.known] for text in texts], dtype=np.float32)
        return l2_normalize(counts + 0.01)


def test_a_profile_about_nothing_on_offer_is_recognised(tmp_path, capsys):
    data = tiny.make(tmp_path / "data")
    register_encoder(Words)
    dmrec.embed(data, Words())
    options = {**SIZES, "language.hidden": 24, "language.vectors": "words-of-the-test"}
    model = dmrec.train("dmrec-m", data, out=tmp_path / "runs", options=options, **{**FAST, "epochs": 1})
    assert not model.is_unlike_items("a guitar")
    assert not model.is_unlike_items("tea and a spade")
    assert model.is_unlike_items("zzz qqq")
    for profile, noted in (("guitar", False), ("zzz", True)):
        with pytest.raises(SystemExit) as stopped:
            main(["recommend", str(model.folder), "--profile", profile])
        assert stopped.value.code == 0
        assert ("is unlike the texts of all items" in capsys.readouterr().err) is noted
    plain = dmrec.train("mult-vae", data, out=tmp_path / "runs", options=SIZES, **{**FAST, "epochs": 1})
    with pytest.raises(dmrec.DmrecError, match="mult-vae was trained without language and cannot read a profile"):
        plain.is_unlike_items("guitar")
