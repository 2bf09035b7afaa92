"""Models over the graph against transcriptions of their equations with dense matrices in float64."""

import dmrec
import numpy as np
import pytest
import scipy.sparse as sp
import tiny
import torch
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.models.base import Step, TrainingData, evaluating
from dmrec.models.graph.alpharec import AlphaRecConfig
from dmrec.models.graph.kar import KarConfig
from dmrec.models.graph.lightgcn import LightGcnConfig
from dmrec.models.graph.llmrec import LlmRecConfig, told_apart_by_texts
from dmrec.models.graph.pairs import Pairs
from dmrec.models.graph.promax import ProMaxConfig
from dmrec.models.graph.propagation import Graph, smooth
from dmrec.models.graph.rlmrec_c import RlmrecCConfig
from dmrec.models.graph.rlmrec_g import RlmrecGConfig
from dmrec.models.graph.text_gcn import TextGcnConfig
from dmrec.models.info_nce import info_nce
from torch.nn.functional import cosine_similarity, normalize

from dmrec_ext import Csr

M, N, E, D = 7, 5, 6, 4
DRAW = np.random.default_rng(3)
DENSE = np.vstack([np.eye(N), DRAW.random((M - N, N)) < 0.6]).astype(np.float32)
DENSE[0, 3] = DENSE[1, 4] = DENSE[5, 0] = DENSE[6, 1] = 1
DENSE[:, :][DENSE.sum(1) == N, 0] = 0  # everybody has a negative
X = Csr.from_scipy(sp.csr_matrix(DENSE))._replace(values=None)
TEXTS = DRAW.standard_normal((M, E)).astype(np.float32), DRAW.standard_normal((N, E)).astype(np.float32)
DATA = TrainingData(X, item_text_vectors=TEXTS[1], user_text_vectors=TEXTS[0], item_embeddings=TEXTS[1])
W_U, W_I = (torch.from_numpy(each).double() for each in TEXTS)
PAIRS = Pairs(torch.tensor([0, 1, 1, 6]), torch.tensor([3, 4, 1, 1]), torch.tensor([4, 2, 2, 0]))


def adjacency():
    """(M + N, M + N) float64."""
    dense = torch.from_numpy(DENSE).double()
    a = torch.zeros(M + N, M + N, dtype=torch.float64)
    a[:M, M:], a[M:, :M] = dense, dense.T
    root = a.sum(1).clamp_min(1).rsqrt()
    return root[:, None] * a * root


def exact_graph(graph):
    """With values that were not rounded to float32."""
    row = torch.arange(M + N).repeat_interleave(graph.crow.diff())
    graph.values = adjacency()[row, graph.col]
    return graph


def exact(model):
    """In float64, the graph's values, too."""
    exact_graph(model.double().graph)
    return model


def powers(a, nodes, layers):
    return sum(torch.linalg.matrix_power(a, k) @ nodes for k in range(layers + 1))


def nce(query, pool, target, tau):
    """Mean over queries of -log softmax of cosines at the target."""
    scores = cosine_similarity(query[:, None], pool[None], dim=2) / tau
    return -scores.log_softmax(1)[torch.arange(len(query)), target].mean()


def bpr(nodes, pairs=PAIRS):
    margin = (nodes[pairs.user] * (nodes[M + pairs.item] - nodes[M + pairs.negative])).sum(1)
    return -margin.sigmoid().log().mean()


def check(model, expected, parts=()):
    """The loss of `PAIRS` and its gradients, for all weights."""
    found = model.loss(PAIRS, Step())
    torch.testing.assert_close(found["loss"], expected, rtol=1e-9, atol=1e-12)
    weights = list(model.parameters())
    for mine, right in zip(
        torch.autograd.grad(found["loss"], weights, allow_unused=True),
        torch.autograd.grad(expected, weights, allow_unused=True),
        strict=True,
    ):
        if mine is None or right is None:
            assert mine is right is None
        else:
            torch.testing.assert_close(mine, right, rtol=1e-8, atol=1e-11)
    assert set(found) == {"loss", *parts}


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_smoothing_is_a_sum_of_powers(layers):
    nodes = torch.randn(M + N, D, dtype=torch.float64, requires_grad=True)
    graph = exact_graph(Graph(X).double())
    found, expected = smooth(graph.whole(), nodes, layers), powers(adjacency(), nodes, layers)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    of_found, of_expected = (torch.autograd.grad(each, nodes, grad)[0] for each in (found, expected))
    torch.testing.assert_close(of_found, of_expected)


@pytest.mark.parametrize("kind", ["directed", "symmetric"])
def test_dropped_edges(kind):
    """The matrix is part of A, its transpose is right, and a symmetric one drops both directions."""
    graph, whole = exact_graph(Graph(X).double()), adjacency()
    dropped = graph.dropped(0.6, kind)
    matrix, transpose = dropped.matrix.to_dense(torch.float64), dropped.transpose.to_dense(torch.float64)
    torch.testing.assert_close(transpose, matrix.T)
    assert bool(((matrix == 0) | (matrix == whole)).all())
    assert 0 < int((matrix != 0).sum()) < int((whole != 0).sum())
    assert torch.equal(matrix, matrix.T) is (kind == "symmetric")
    nodes = torch.randn(M + N, D, dtype=torch.float64, requires_grad=True)
    found, expected = smooth(dropped, nodes, 2), powers(matrix, nodes, 2)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    of_found, of_expected = (torch.autograd.grad(each, nodes, grad)[0] for each in (found, expected))
    torch.testing.assert_close(of_found, of_expected)


def test_the_share_of_edges_that_stay():
    wide = Csr.from_scipy(sp.random(200, 300, 0.2, format="csr", random_state=0))._replace(values=None)
    graph = Graph(wide)
    for kind in ("directed", "symmetric"):
        kept = (graph.dropped(0.8, kind).matrix.values != 0).double().mean()
        assert abs(float(kept) - 0.8) < 0.02
    assert graph.dropped(1.0, "directed").matrix.values is graph.values


def test_info_nce_with_repeated_rows_of_the_pool():
    query, pool = (torch.randn(n, D, dtype=torch.float64, requires_grad=True) for n in (4, 3))
    rows, target = torch.tensor([0, 1, 1, 2, 1]), torch.tensor([1, 4, 0, 3])
    found, expected = info_nce(query, pool[rows], target, 0.2), nce(query, pool[rows], target, 0.2)
    torch.testing.assert_close(found, expected)
    for leaf in (query, pool):
        of_found, of_expected = (torch.autograd.grad(each, leaf, retain_graph=True)[0] for each in (found, expected))
        torch.testing.assert_close(of_found, of_expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(info_nce(query.float(), pool.float()[rows], target, 0.2), expected.float())


@pytest.mark.parametrize("readout", ["mean", "sum"])
@pytest.mark.parametrize("norms", ["batch", "all"])
def test_lightgcn(readout, norms):
    options = LightGcnConfig(embedding_dim=D, layers=2, l2=0.3, readout=readout, norms=norms, initial="xavier")
    model = exact(options.build(DATA))
    v = model.vectors
    nodes = powers(adjacency(), v, 2) / (3 if readout == "mean" else 1)
    rows = [v[PAIRS.user], v[M + PAIRS.item], v[M + PAIRS.negative]]
    squares = v.square().sum() if norms == "all" else sum(each.square().sum() for each in rows) / (2 * len(PAIRS.user))
    check(model, bpr(nodes) + 0.3 * squares, ("bpr", "l2"))
    torch.testing.assert_close(model.propagate(), nodes)


def test_initial_values():
    bounds = {"xavier": [(6 / (n + 64)) ** 0.5 for n in (400, 300)]}
    data = TrainingData(Csr(torch.zeros(401, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), None, 300))
    made = LightGcnConfig(initial="xavier").build(data).vectors.detach()
    for part, bound in zip(made.split([400, 300]), bounds["xavier"], strict=True):
        assert float(part.abs().max()) <= bound
        assert abs(float(part.std()) / (bound / 3**0.5) - 1) < 0.02
    normal = LightGcnConfig().build(data).vectors.detach()
    assert abs(float(normal.std()) / 0.1 - 1) < 0.02


@pytest.mark.parametrize("initial", ["text-variance", "text-uniform", "text-random"])
@pytest.mark.parametrize("scale", ["kept", "xavier"])
def test_initial_values_from_texts(initial, scale):
    options = LightGcnConfig(initial=initial, initial_scale=scale, embedding_dim=3)
    vectors = options.build(DATA).vectors.detach().double()
    popular = np.argsort(-DENSE.sum(0), kind="stable")[:1]
    by_variance = np.sort(np.argsort(-TEXTS[1][popular].var(axis=0), kind="stable")[:3])
    columns = {"text-variance": by_variance, "text-uniform": np.arange(3) * 2}.get(initial)
    if columns is None:
        torch.manual_seed(0)
        columns = np.sort(torch.randperm(E)[:3].numpy())
        torch.manual_seed(0)
        vectors = options.build(DATA).vectors.detach().double()
    items = W_I[:, columns]
    users = torch.from_numpy(DENSE).double() @ items / torch.from_numpy(DENSE).double().sum(1, keepdim=True)
    if scale == "xavier":
        items, users = (each / each.std() * (2 / (len(each) + 3)) ** 0.5 for each in (items, users))
    torch.testing.assert_close(vectors, torch.cat([users, items]), rtol=1e-5, atol=1e-6)
    with pytest.raises(DmrecError, match="7 dimensions cannot be taken from vectors 6 wide"):
        LightGcnConfig(initial=initial, embedding_dim=7).build(DATA)


@pytest.mark.parametrize("pool", ["batch", "unique", "all"])
@pytest.mark.parametrize("many_items", [True, False])
def test_rlmrec_c(pool, many_items, monkeypatch):
    options = RlmrecCConfig(
        embedding_dim=D, layers=2, l2=0.01, readout="sum", norms="all", weight=0.7, temperature=0.3, item_pool=pool
    )
    model = exact(options.build(DATA))
    if many_items:  # the network runs over the items of the batch alone
        monkeypatch.setattr(model, "n_items", 100)
    nodes = powers(adjacency(), model.vectors, 2)
    f_u, f_i = model.network(W_U), model.network(W_I)
    total = nce(nodes[PAIRS.user], f_u, PAIRS.user, 0.3)
    for items in (PAIRS.item, PAIRS.negative):
        if pool == "all":
            rows, target = torch.arange(N), items
        elif pool == "unique":
            rows, target = items.unique(return_inverse=True)
        else:
            rows, target = items, torch.arange(4)
        total = total + nce(nodes[M + items], f_i[rows], target, 0.3)
    squares = sum(each.square().sum() for each in model.parameters())
    check(model, bpr(nodes) + 0.01 * squares + 0.7 * total, ("bpr", "l2", "alignment"))


def test_without_its_weight_rlmrec_c_is_lightgcn():
    frame = {"embedding_dim": D, "layers": 2, "readout": "sum", "norms": "all", "keep": 0.5}
    rlmrec = RlmrecCConfig(**frame, weight=0).build(DATA)
    light = LightGcnConfig(**frame, initial="xavier").build(DATA)
    light.load_state_dict({"vectors": rlmrec.vectors})
    gradients = []
    for model in (rlmrec, light):
        torch.manual_seed(5)  # the same edges
        gradients.append(torch.autograd.grad(model.loss(PAIRS, Step())["loss"], model.vectors)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("floor", [0.0, 1e-2])
def test_rlmrec_g(floor):
    options = RlmrecGConfig(
        embedding_dim=D,
        layers=1,
        l2=0.01,
        readout="sum",
        norms="all",
        weight=0.7,
        temperature=0.3,
        mask=0.4,
        floor=floor,
    )
    model = exact(options.build(DATA))
    with torch.no_grad():
        model.token.normal_()
    torch.manual_seed(2)
    masked = torch.randperm(M + N)[: int((M + N) * 0.4)].sort().values
    initial = torch.stack([model.token[0] if k in masked else model.vectors[k] for k in range(M + N)])
    nodes = powers(adjacency(), initial, 1)
    texts = torch.cat([W_U, W_I])[masked]
    scores = cosine_similarity(model.network(nodes[masked])[:, None], texts[None], dim=2) / 0.3
    told = -(scores.softmax(1).diagonal() + floor).log().mean()
    squares = sum(each.square().sum() for each in model.parameters())
    torch.manual_seed(2)
    check(model, bpr(nodes) + 0.01 * squares + 0.7 * told, ("bpr", "l2", "reconstruction"))
    torch.testing.assert_close(model.propagate(), powers(adjacency(), model.vectors, 1))  # nothing is masked


@pytest.mark.parametrize("pruned", ["small", "large"])
@pytest.mark.parametrize("regulariser", ["norms", "inverse"])
def test_llmrec(pruned, regulariser):
    options = LlmRecConfig(
        embedding_dim=D,
        l2=0.1,
        profile_weight=0.6,
        attribute_weight=0.4,
        side_weight=0.3,
        prune=0.5,
        pruned=pruned,
        regulariser=regulariser,
    )
    model = exact(options.build(DATA))
    dense = torch.from_numpy(DENSE).double()
    a_u = dense / dense.sum(1, keepdim=True).sqrt()
    a_i = dense.T / dense.sum(0)[:, None].sqrt()
    model.of_users, model.of_items = a_u[dense > 0], a_i[dense.T > 0]
    v = model.vectors
    u0, i0 = v.split([M, N])
    u1 = a_u @ i0
    i1 = a_i @ u1
    u2 = a_u @ i1
    i2 = a_i @ u2
    profile = a_i @ model.maps[0](W_U)
    attribute = a_u @ model.maps[1](W_I)
    sides = torch.cat([a_u @ profile, profile]), torch.cat([attribute, a_i @ attribute])
    nodes = torch.cat([u0 + u1 + u2.softmax(1), i0 + i1 + i2.softmax(1)]) / 3
    nodes = nodes + 0.6 * normalize(sides[0], dim=1) + 0.4 * normalize(sides[1], dim=1)
    torch.testing.assert_close(model.propagate(), nodes)

    def pruned_bpr(users, items):
        margin = (users[PAIRS.user] * (items[M + PAIRS.item] - items[M + PAIRS.negative])).sum(1)
        losses = (-margin.sigmoid().log()).sort().values
        return (losses[2:] if pruned == "small" else losses[:2]).mean()

    rows = PAIRS.user, M + PAIRS.item, M + PAIRS.negative
    squares = sum(v[each].square().sum() for each in rows) / 8
    if regulariser == "inverse":
        squares = sum(0.5 / v[each].square().sum() for each in rows) / 4
    expected = pruned_bpr(nodes, nodes) + 0.3 * pruned_bpr(*sides) + 0.1 * squares
    check(model, expected, ("bpr", "side", "l2"))


@pytest.mark.parametrize(("name", "value"), [("layers", 2), ("readout", "sum"), ("keep", 0.5)])
def test_llmrec_has_layers_of_its_own(name, value):
    with pytest.raises(DmrecError, match=f"model.{name}: llmrec has two layers over graphs of its own; leave it out"):
        build_config({"name": "x", "model": {"kind": "llmrec", name: value}})


def test_further_pairs_of_llmrec():
    """Of the best unseen items after a step over the graph, the nearest and the farthest text."""
    found = told_apart_by_texts(DATA)
    cosines = normalize(W_U, dim=1) @ normalize(W_I, dim=1).T
    for user, (liked, disliked) in enumerate(found.tolist()):
        unseen = [item for item in range(N) if not DENSE[user, item]]  # no more than ten: all are candidates
        if len(unseen) < 2:
            assert (liked, disliked) == (-1, -1)
            continue
        assert liked == max(unseen, key=lambda item: cosines[user, item])
        assert disliked == min(unseen, key=lambda item: cosines[user, item])
    model = LlmRecConfig(embedding_dim=D, edge_share=0.5).build(DATA)
    batch = model.batch(torch.arange(M))
    more = len(batch.user) - M
    assert 0 < more <= M // 2
    for user, liked, disliked in zip(*(each[M:].tolist() for each in batch[:3]), strict=True):
        assert found[user].tolist() == [liked, disliked]
    without = LlmRecConfig(embedding_dim=D, edges="none").build(DATA)
    assert len(without.batch(torch.arange(M)).user) == M


def codes(width, joint):
    """Principal components of unit variance, by the covariance matrix."""
    made = []
    for sides in ([W_U, W_I],) if joint else ([W_U], [W_I]):
        rows = torch.cat(sides)
        rows = rows - rows.mean(0)
        values, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
        made.append(rows @ axes.flip(1)[:, :width] / values.flip(0)[:width].sqrt())
    return torch.cat(made).split([M, N])


@pytest.mark.parametrize("projection", ["joint", "separate"])
@pytest.mark.parametrize("floor", [0.0, 1e-2])
def test_promax(projection, floor):
    options = ProMaxConfig(
        embedding_dim=D,
        layers=2,
        l2=0.01,
        readout="sum",
        norms="all",
        distribution_weight=0.7,
        graph_weight=0.3,
        text_temperature=0.4,
        temperature=0.5,
        retrieved=1,
        projection=projection,
        floor=floor,
    )
    model = exact(options.build(DATA))
    dense = DENSE.copy()
    cosines = (normalize(W_U, dim=1) @ normalize(W_I, dim=1).T).numpy()
    for u in range(M):
        dense[u, np.argmax(np.where(DENSE[u] > 0, -np.inf, cosines[u]))] = 1
    np.testing.assert_array_equal(model.second.whole().matrix.to_dense()[:M, M:] > 0, dense > 0)
    second = model.second.whole().matrix.to_dense(torch.float64)
    whole, v = adjacency(), model.vectors
    nodes, other = (a @ v + a @ a @ v for a in (whole, second))
    torch.testing.assert_close(model.propagate(), nodes)
    w_u, w_i = codes(D, projection == "joint")
    signs = normalize(w_u, dim=1) @ normalize(w_i, dim=1).T  # axes are known up to their sign
    if projection == "joint":
        torch.testing.assert_close(model.user_codes @ model.item_codes.T, signs, rtol=1e-5, atol=1e-5)
    p = (model.user_codes @ model.item_codes.T / 0.4).softmax(1)
    users, items = PAIRS.user.unique(), PAIRS.item.unique()
    entropy = -(p * p.log()).sum(1)
    omega = (1 - entropy / np.log(N)).clamp(0.1, 1)
    log_q = (normalize(nodes[:M], dim=1) @ normalize(nodes[M:], dim=1).T / 0.4).log_softmax(1)
    sdr = -(omega[:, None] * p * log_q).sum(1)[users].mean()

    def sides(rows):
        scores = cosine_similarity(nodes[rows][:, None], other[rows][None], dim=2) / 0.5
        return -(scores.softmax(1).diagonal() + floor).log().mean()

    own = torch.arange(4)
    across = nce(nodes[PAIRS.user], other[M + PAIRS.item], own, 0.5)
    across = across + nce(other[PAIRS.user], nodes[M + PAIRS.item], own, 0.5)
    s2dr = sides(users) + sides(M + items) + across / 2
    expected = bpr(nodes) + 0.01 * v.square().sum() + 0.7 * sdr + 0.3 * s2dr
    pairs = PAIRS._replace(users=users, items=items)
    found = model.loss(pairs, Step())
    torch.testing.assert_close(found["loss"], expected, rtol=1e-9, atol=1e-12)
    of_found, of_expected = (torch.autograd.grad(each, v)[0] for each in (found["loss"], expected))
    torch.testing.assert_close(of_found, of_expected, rtol=1e-8, atol=1e-11)
    assert torch.equal(model.batch(torch.arange(9)).users, model.batch(torch.arange(9)).user.unique())


@pytest.mark.parametrize("kind", ["mean", "profile", "sum", "concat"])
@pytest.mark.parametrize("negatives", ["sampled", "batch", "all"])
def test_alpharec(kind, negatives):
    options = AlphaRecConfig(
        embedding_dim=D,
        layers=2,
        l2=0.1,
        hidden=3,
        temperature=0.3,
        negatives=negatives,
        n_negatives=2,
        user_input=kind,
    )
    model = exact(options.build(DATA))
    dense = torch.from_numpy(DENSE).double()
    mean = dense @ W_I / dense.sum(1, keepdim=True)
    w, b = model.first.weight, model.first.bias
    of_users = {
        "mean": lambda: mean @ w.T,
        "profile": lambda: W_U @ w.T,
        "sum": lambda: (normalize(mean, dim=1) + normalize(W_U, dim=1)) @ w.T,
        "concat": lambda: mean @ w.T + normalize(W_U, dim=1) @ model.of_profile.weight.T,
    }[kind]()
    hidden = torch.cat([of_users, W_I @ w.T]) + b
    initial = torch.where(hidden > 0, hidden, 0.01 * hidden) @ model.second.weight.T + model.second.bias
    nodes = powers(adjacency(), initial, 2) / 3
    other = torch.tensor([[4, 4], [2, 0], [2, 3], [0, 3]])
    pairs = PAIRS._replace(negative=other if negatives == "sampled" else other[:, 0])
    users, items = nodes[pairs.user], nodes[M:]
    if negatives == "sampled":
        rows = torch.cat([pairs.item[:, None], other], 1)
        scores = cosine_similarity(users[:, None], items[rows], dim=2) / 0.3
        contrast = -scores.log_softmax(1)[:, 0].mean()
    elif negatives == "batch":
        contrast = nce(users, items[pairs.item], torch.arange(4), 0.3)
    else:
        contrast = nce(users, items, pairs.item, 0.3)
    squares = (initial[pairs.user].square().sum() + initial[M + pairs.item].square().sum()) / 8
    found, expected = model.loss(pairs, Step())["loss"], contrast + 0.1 * squares
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    weights = list(model.parameters())
    for mine, right in zip(*(torch.autograd.grad(each, weights) for each in (found, expected)), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(model.propagate(), normalize(nodes, dim=1))


@pytest.mark.parametrize("place", ["before", "after"])
def test_kar(place):
    options = KarConfig(
        embedding_dim=D, layers=2, l2=0.1, readout="sum", norms="all", hidden=3, shared=1, own=2, place=place
    )
    model = exact(options.build(DATA))
    experts = model.experts

    def tower(number, texts):
        first = torch.cat(
            [experts.first_shared(texts).view(-1, 1, 3), experts.first_own[number](texts).view(-1, 2, 3)], 1
        ).relu()
        second = [*experts.second_shared, *experts.second_own[number]]
        out = torch.stack([layer(first[:, k]).relu() for k, layer in enumerate(second)], 1)
        return (experts.gates[number](texts).softmax(1)[:, :, None] * out).sum(1)

    def joined(nodes):
        parts = zip(model.join, nodes.split([M, N]), (tower(0, W_U), tower(1, W_I)), strict=True)
        return torch.cat([layer(torch.cat([part, text], 1)) for layer, part, text in parts])

    nodes = joined(model.vectors) if place == "before" else model.vectors
    nodes = powers(adjacency(), nodes, 2)
    nodes = nodes if place == "before" else joined(nodes)
    squares = sum(each.square().sum() for each in model.parameters())
    check(model, bpr(nodes) + 0.1 * squares, ("bpr", "l2"))


def test_text_gcn():
    model = TextGcnConfig(layers=(0, 2, 1)).build(DATA)
    dense = torch.from_numpy(DENSE).double()
    initial = torch.cat([dense @ W_I / dense.sum(1, keepdim=True), W_I])
    scored = []

    def score(candidate, /, **settings):
        nodes = normalize(powers(adjacency(), initial, settings["layers"]), dim=1)
        with evaluating(candidate):
            found = candidate.item_scores(DATA.users(torch.arange(M)))
            ranked = candidate.rank(DATA.users(torch.arange(M)), 2)[0]
        torch.testing.assert_close(found.double(), nodes[:M] @ nodes[M:].T, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ranked, found.topk(2).values)
        scored.append(settings["layers"])
        return {0: 0.1, 2: 0.5, 1: 0.3}[settings["layers"]]

    assert model.fit(DATA, score) == {"layers": 2}
    assert scored == [0, 2, 1]
    assert int(model.state_dict()["chosen"]) == 2


@pytest.mark.parametrize("name", ["rlmrec-c", "alpharec-star", "text-gcn", "kar"])
def test_they_are_used_like_other_models(name, tmp_path):
    data = tiny.make(tmp_path / "data")
    made = dmrec.train(name, data, out=tmp_path / "runs", **({} if name == "text-gcn" else {"epochs": 2}))
    again = dmrec.load(made.folder)
    assert again.recommend("u1", k=4)["item"].tolist() == made.recommend("u1", k=4)["item"].tolist()
    with pytest.raises(DmrecError, match="knows only the users"):
        again.recommend(likes=["i1"], k=3)
    assert len(again.item_vectors().items) == data.n_items
