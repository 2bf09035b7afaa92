"""Rows of items made from their texts: against the definition in float64, in every backbone."""

import numpy as np
import pytest
import torch
from dmrec.build import build_model
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.models.base import Step, TrainingData, evaluating
from dmrec.models.carry import carry, rows_by_item
from dmrec.models.vae.cvga import CvgaConfig
from dmrec.models.vae.item_text import ItemInput, ItemLinear, ItemTextConfig, ItemTexts, unit_vectors
from dmrec.models.vae.l_diffrec import LDiffRecConfig, with_new_items
from dmrec.models.vae.mult_vae import MultVaeConfig
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import training_data
from dmrec.runs.provenance import fingerprint
from dmrec.runs.resolve import resolve
from dmrec.sharding.items import ItemShards
from scipy import sparse

from dmrec_ext import Csr, multinomial_nll

N, E, H = 11, 5, 7
RNG = np.random.default_rng(0)
TEXT = unit_vectors(RNG.standard_normal((N, E)).astype(np.float32))
ALL = ItemTexts(TEXT, torch.ones(N, dtype=torch.bool))
X = Csr.from_scipy(sparse.csr_matrix((RNG.random((6, N)) < 0.5).astype(np.float32)))
DATA = TrainingData(X, item_text=TEXT.numpy(), item_embeddings=TEXT.numpy())
MAPS = ["linear", "low-rank", "two-layer"]


def _phi(rows, options):
    if options.map == "linear":
        return TEXT.double()
    hidden = TEXT.double() @ rows.hidden.weight.double().T
    return hidden if options.map == "low-rank" else torch.tanh(hidden + rows.hidden.bias.double())


def _layer(**options):
    config = ItemTextConfig(rank=3, **options)
    return ItemLinear(H, ItemShards(N), ALL, config), config


@pytest.mark.parametrize("kind", MAPS)
def test_rows_are_an_items_own_and_a_map_of_its_text(kind):
    layer, options = _layer(map=kind, forget=0.4)
    phi, rows = _phi(layer.text, options), layer.text.map
    of_text = phi @ rows.weight.double().T + rows.bias.double()
    hidden = torch.randn(4, H)
    decoded = layer.eval().decoded(hidden)
    assert decoded.hidden is hidden
    torch.testing.assert_close(decoded.weight.double(), layer.weight.double() + of_text[:, :H], rtol=0, atol=1e-6)
    torch.testing.assert_close(decoded.bias.double(), layer.bias.double() + of_text[:, H], rtol=0, atol=1e-6)
    assert (phi.shape[1] == 3) is (kind != "linear")


@pytest.mark.parametrize("kind", MAPS)
def test_gradients_reach_the_map_and_the_rows(kind):
    layer, options = _layer(map=kind, forget=0.0)
    weight, bias = layer.train().decoded(torch.randn(4, H))[1:]
    up, up_bias = torch.randn(N, H), torch.randn(N)
    ((weight * up).sum() + (bias * up_bias).sum()).backward()
    torch.testing.assert_close(layer.weight.grad, up)
    torch.testing.assert_close(layer.bias.grad, up_bias)
    phi = _phi(layer.text, options)
    expected = torch.cat([up.double().T @ phi, (up_bias.double() @ phi)[None]])
    torch.testing.assert_close(layer.text.map.weight.grad.double(), expected, rtol=0, atol=1e-5)
    assert kind == "linear" or layer.text.hidden.weight.grad.abs().sum() > 0


def test_forgotten_items_have_the_map_alone_and_teach_it_alone():
    texts = ItemTexts(TEXT[torch.arange(4000) % N], torch.ones(4000, dtype=torch.bool))
    layer = ItemLinear(H, ItemShards(4000), texts, ItemTextConfig(forget=0.3)).train()
    weight, bias = layer.decoded(torch.randn(2, H))[1:]
    rows = layer.text.map
    of_text = layer.text.vectors @ rows.weight.T + rows.bias
    forgotten = (weight - of_text[:, :H]).abs().amax(1) < 1e-6
    assert 0.25 < forgotten.float().mean() < 0.35
    torch.testing.assert_close(bias[forgotten], of_text[forgotten, H])
    torch.testing.assert_close(weight[~forgotten], (of_text[:, :H] + layer.weight)[~forgotten])
    weight.sum().backward()
    assert not layer.weight.grad[forgotten].any()
    assert bool((layer.weight.grad[~forgotten] == 1).all())
    again = layer.decoded(torch.randn(2, H))[1]
    assert not torch.equal(again, weight), "drawn anew in each step"


@pytest.mark.parametrize("forget", [0.0, 0.4])
def test_an_item_that_nobody_has_taken_is_known_by_its_text_alone_and_teaches_nothing(forget):
    """That it was not taken says nothing: its probability is 0 in training, and its own row never learns."""
    taken = torch.arange(N) != 4
    layer = ItemLinear(H, ItemShards(N), ItemTexts(TEXT, taken), ItemTextConfig(forget=forget))
    hidden = torch.randn(6, H)
    dense = torch.from_numpy(X.to_scipy().toarray()) * taken
    x = Csr.from_scipy(sparse.csr_matrix(dense.numpy()))
    decoded = layer.train().decoded(hidden)
    loss = multinomial_nll(decoded.hidden, decoded.weight, x, decoded.bias)
    logits = (decoded.hidden @ decoded.weight.T + decoded.bias)[:, taken]
    torch.testing.assert_close(loss, -(dense[:, taken] * logits.log_softmax(1)).sum(1).mean())
    loss.backward()
    assert not layer.weight.grad[4].any()
    assert layer.bias.grad[4].abs() < 1e-30
    assert layer.weight.grad[taken].any()
    weight, bias = layer.eval().decoded(hidden)[1:]
    rows = layer.text.map
    torch.testing.assert_close(weight[4], rows.weight[:H] @ TEXT[4] + rows.bias[:H])
    torch.testing.assert_close(bias[4], rows.weight[H] @ TEXT[4] + rows.bias[H])
    encoder = ItemInput(ItemShards(N), H, ItemTexts(TEXT, taken), ItemTextConfig(forget=forget, encoder=True)).eval()
    one = Csr(torch.tensor([0, 1]), torch.tensor([4]), None, N)
    torch.testing.assert_close(encoder(one)[0], encoder.text.map(TEXT[4]) + encoder.bias)


def test_what_evaluation_keeps_follows_the_weights():
    layer, _ = _layer()
    with evaluating(layer):
        first = layer.rows()[0]
        assert layer.rows()[0] is first
        layer.text.map.weight.mul_(2)
        second = layer.rows()[0]
        assert not torch.equal(first, second)
        layer.load_state_dict({name: value * 2 for name, value in layer.state_dict().items()})
        assert not torch.equal(layer.rows()[0], second)
    layer.train()
    assert layer._formed is None


@pytest.mark.parametrize("kind", MAPS)
def test_the_encoders_rows(kind):
    options = ItemTextConfig(map=kind, rank=3, encoder=True, forget=0.3)
    layer = ItemInput(ItemShards(N), H, ALL, options).eval()
    rows = layer.weight.double() + _phi(layer.text, options) @ layer.text.map.weight.double().T
    dense = torch.from_numpy(X.to_scipy().toarray()).double()
    torch.testing.assert_close(layer(X).double(), dense @ rows + layer.bias.double(), rtol=0, atol=1e-5)
    layer.train()
    torch.manual_seed(0)
    found = layer(X)
    torch.manual_seed(0)
    known = torch.empty(N).bernoulli_(0.7).double()[:, None]
    rows = known * layer.weight.double() + _phi(layer.text, options) @ layer.text.map.weight.double().T
    torch.testing.assert_close(found.double(), dense @ rows + layer.bias.double(), rtol=0, atol=1e-5)
    assert ItemInput(ItemShards(N), H, ALL, ItemTextConfig()).text is None, "texts are read where the option says so"


def test_text_vectors_become_unit_vectors_and_are_not_copied_where_they_are():
    assert unit_vectors(TEXT.numpy()).data_ptr() == TEXT.data_ptr()
    found = unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float16))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


BACKBONES = {
    "mult-vae": (MultVaeConfig, {"hidden": 8, "latent": 4}),
    "cvga": (CvgaConfig, {"latent": 4}),
    "l-diffrec": (LDiffRecConfig, {"latent": 6, "hidden": 8, "clusters": 2}),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_knows_new_items_by_their_texts(name):
    """Items without rows of their own have the scores of the map, and the others those that they had."""
    make, options = BACKBONES[name]
    config = make(**options, item_text={"forget": 0.2})
    model = config.build(DATA).eval()
    assert model.knows_new_items
    before = model.state_dict()
    columns = torch.tensor([4, 0, 1, 2, 3, *range(6, 12)])  # 5, 12 and 13 are new
    text = torch.zeros(14, E)
    text[columns] = TEXT
    text[[5, 12, 13]] = TEXT[[2, 2, 7]]
    wide = torch.zeros(6, 14)
    wide[:, columns] = torch.from_numpy(X.to_scipy().toarray())
    x = Csr.from_scipy(sparse.csr_matrix(wide.numpy()))
    state = rows_by_item(before, model.item_state, columns, 14)
    grown = config.build(TrainingData(x, item_text=text.numpy(), item_embeddings=text.numpy(), state=state)).eval()
    carry(grown, state)
    with torch.no_grad():
        old = model.posterior(DATA.users(torch.arange(6)))
        new = grown.posterior(grown.data.users(torch.arange(6)))
        torch.testing.assert_close(new.mu, old.mu)
        one, two = (each.backbone.decode(each.backbone.infer(old)) for each in (model, grown))
        scores, more = (each.hidden @ each.weight.T + each.bias for each in (one, two))
        torch.testing.assert_close(more[:, columns], scores)
        layer = grown.backbone.decoder if name != "mult-vae" else grown.backbone.decoder_output
        rows = layer.text.map.weight @ text[[5, 12, 13]].T + layer.text.map.bias[:, None]
        torch.testing.assert_close(more[:, [5, 12, 13]], two.hidden @ rows[:-1] + rows[-1])
    torch.testing.assert_close(more[:, 5], more[:, 12])


def test_new_items_of_l_diffrec_join_the_nearest_cluster_and_widths_stay():
    cluster = torch.tensor([0, 0, 1, -1, -1])
    text = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0.1, 0.9], [0.9, 0.1]])
    texts = ItemTexts(text, torch.ones(5, dtype=torch.bool))
    assert with_new_items(cluster, texts).tolist() == [0, 0, 1, 1, 0]
    assert with_new_items(cluster, None).tolist() == [0, 0, 1, 0, 0]
    assert with_new_items(cluster[:3], None).tolist() == [0, 0, 1]


def test_weights_of_other_options_are_refused():
    model = MultVaeConfig(hidden=8, latent=4).build(DATA)
    other = MultVaeConfig(hidden=9, latent=4).build(DATA)
    with pytest.raises(DmrecError, match=r"encoder_input.weight must be \(11, 9\) and is of shape \(11, 8\)"):
        carry(other, model.state_dict())
    with pytest.raises(DmrecError, match=r"decoder_output.text.map.weight .* is missing"):
        carry(MultVaeConfig(hidden=8, latent=4, item_text={}).build(DATA), model.state_dict())
    with pytest.raises(DmrecError, match=r"has 11 rows, and there were 3 items"):
        rows_by_item(model.state_dict(), model.item_state, torch.arange(3), 5)


def _resolved(dataset, *options, name="mult-vae"):
    return resolve(build_config(apply_overrides(recipe(name), options)), dataset)


def test_the_vectors_are_the_runs_own(dataset):
    config = _resolved(dataset, "model.item_text={}")
    assert config.model.item_text.vectors == "tfidf-svd"
    assert "tfidf-svd" in fingerprint(config, dataset)
    assert "tfidf-svd" not in fingerprint(_resolved(dataset), dataset)
    data = training_data(config, dataset)
    assert data.item_text is dataset.vectors("tfidf-svd").items
    assert data.item_text_vectors is None, "there is no language posterior"
    model = build_model(config, data)
    losses = model.loss(data.users(torch.arange(9)), Step())
    losses["loss"].backward()
    assert model.backbone.decoder_output.text.map.weight.grad.abs().sum() > 0
    with pytest.raises(DmrecError, match="has no vectors 'minilm'"):
        _resolved(dataset, "model.item_text={vectors: minilm}")
    with pytest.raises(DmrecError, match="unknown option 'model.item_text.forgot'.*forget"):
        _resolved(dataset, "model.item_text={forgot: 0.1}")
    with pytest.raises(DmrecError, match="l-diffrec has an encoder for each cluster"):
        _resolved(dataset, "model.item_text={encoder: true}", name="l-diffrec")
