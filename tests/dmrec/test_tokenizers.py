"""Tokenizers: codes that depend on nothing but vectors and seed, collisions, and what collapse looks like."""

import itertools
import json

import numpy as np
import pytest
import safetensors.numpy
import tiny
import torch
from dmrec.cli.main import main
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.tokenizers.collisions import (
    codes_of_new_items,
    groups_of,
    in_collisions,
    reassigned,
    resolve_collisions,
    with_token,
)
from dmrec.tokenizers.health import check_health, churn, health_of
from dmrec.tokenizers.kmeans import kmeans, nearest, nearest_balanced
from dmrec.tokenizers.quantize import residual_codes
from dmrec.tokenizers.rq_vae import LetterOptions, LetterRqVae, RqVae, RqVaeOptions, balanced_clusters
from dmrec.tokenizers.sinkhorn import sinkhorn
from dmrec.tokenizers.tokenize import TOKENIZERS, import_codes, make_tokenizer, tokenize_dataset


def clustered(n=300, width=12, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(9, width)) * 3
    return centres[np.arange(n) % 9] + random.normal(size=(n, width))


@pytest.mark.parametrize("rows", [1, 2, 7, 256])
def test_codes_do_not_depend_on_the_batch_or_threads(rows):
    x = clustered().astype(np.float32)
    codebooks = np.stack([kmeans(x, 16, 0), kmeans(x - x.mean(0), 16, 1) / 3])
    whole, left = residual_codes(x, codebooks)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            parts = [residual_codes(x[i : i + rows], codebooks) for i in range(0, len(x), rows)]
            assert np.array_equal(np.concatenate([p[0] for p in parts]), whole)
            assert np.array_equal(np.concatenate([p[1] for p in parts]), left)
            assert np.array_equal(kmeans(x, 16, 0), codebooks[0])
    finally:
        torch.set_num_threads(threads)
    assert residual_codes(x[:0], codebooks)[0].shape == (0, 2)


def test_nearest_is_brute_force_and_ties_go_to_the_lowest():
    x, centres = clustered(), clustered(20, seed=1)
    distance = ((x[:, None] - centres[None]) ** 2).sum(2)
    assert np.array_equal(nearest(x, centres), distance.argmin(1))
    assert nearest(np.array([[0.0]]), np.array([[1.0], [-1.0], [1.0]])).tolist() == [0]
    assert nearest(x[:5], np.repeat(x[:5], 2, axis=0)).tolist() == [0, 2, 4, 6, 8]


def test_kmeans_finds_clusters_and_loses_none():
    x = clustered(900)
    codes = nearest(x, kmeans(x, 9, 3))
    assert len(set(codes)) == 9
    mean = np.stack([x[i::9].mean(0) for i in range(9)])
    ideal = ((x - mean[np.arange(900) % 9]) ** 2).sum()
    assert ((x - kmeans(x, 9, 3)[codes]) ** 2).sum() < 1.5 * ideal
    few = np.repeat(clustered(4), 5, axis=0)
    assert set(map(tuple, few[nearest(few, kmeans(few, 4, 0)) >= 0])) == set(map(tuple, few))
    assert kmeans(few, 30, 0).shape == (30, 12), "more centres than rows"


@pytest.mark.parametrize("n", [0, 1, 40, 41, 300])
def test_balanced_clusters_have_at_most_their_share(n):
    x, centres = clustered(300)[:n], clustered(20, seed=1)
    codes = nearest_balanced(x, centres)
    assert np.bincount(codes, minlength=20).max() <= -(-n // 20)
    plain = nearest(x, centres)
    room = np.bincount(plain, minlength=20) <= -(-n // 20)
    assert np.array_equal(codes[room[plain]], plain[room[plain]]), "who finds room at the nearest stays there"
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert np.array_equal(nearest_balanced(x, centres), codes)
    finally:
        torch.set_num_threads(threads)
    if n == 300:
        codes = nearest_balanced(x, kmeans(x, 20, 0, balanced=True))
        assert np.bincount(codes, minlength=20).tolist() == [15] * 20


def test_soft_codes_become_hard_ones_as_it_grows_cold():
    x = torch.from_numpy(clustered(60)[:, :4].astype(np.float32))
    options = {"levels": 2, "size": 8, "latent": 4, "hidden": (), "weight": 0.5, "beta": 0.3}
    hard = RqVae(4, RqVaeOptions(**options))
    soft = RqVae(4, RqVaeOptions(**options, soft=True, soft_temperature=(2.0, 1e-6), epochs=5, soft_diversity=0.0))
    soft.load_state_dict(hard.state_dict())
    for epoch, temperature in ((1, 2.0), (3, 1.0000005), (5, 1e-6)):
        soft.begin_epoch(epoch)
        assert soft.temperature == pytest.approx(temperature)
    for a, b in zip(soft.bottleneck(x), hard.bottleneck(x), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    soft.begin_epoch(1)
    _, codes, quantized, _ = soft.quantize(x)
    assert torch.equal(codes[:, 0], hard.quantize(x).codes[:, 0]), "the nearest code of the first level is the same"
    shares = torch.softmax(-(soft.latents(x)[:, None] - soft.codebooks[0]).square().sum(2) / 2.0, 1)
    left = soft.latents(x) - shares @ soft.codebooks[0]
    shares = torch.softmax(-(left[:, None] - soft.codebooks[1]).square().sum(2) / 2.0, 1)
    assert torch.allclose(quantized, soft.latents(x) - left + shares @ soft.codebooks[1], atol=1e-5)
    soft.decoder(quantized).sum().backward()
    assert soft.codebooks.grad.abs().sum() > 0, "what is decoded teaches the codes"
    even = RqVae(4, RqVaeOptions(**options, soft=True, soft_temperature=(1e6, 1e6), soft_diversity=0.25))
    even.load_state_dict(hard.state_dict())
    plain = RqVae(4, RqVaeOptions(**options, soft=True, soft_temperature=(1e6, 1e6), soft_diversity=0.0))
    plain.load_state_dict(hard.state_dict())
    added = (even.quantize(x).loss - plain.quantize(x).loss).detach()
    assert torch.allclose(added, torch.full_like(added, -2 * 0.25 * np.log(8)), atol=1e-4), "two levels, log 8 each"


def test_residual_quantization_of_one_number():
    """x = 1, codes .75 and .2: what is left is .05, and the gradients are as the equation has them."""
    wanted = {"first": (0.125, -0.5), "all": (0.15, -0.5), "full": (0.15, -0.525)}
    for kind, (by_x, by_first) in wanted.items():
        options = RqVaeOptions(levels=2, size=2, latent=1, hidden=(), residual_gradient=kind)
        model = RqVae(1, options)
        with torch.no_grad():
            model.codebooks.copy_(torch.tensor([[[0.75], [-0.75]], [[0.2], [-0.2]]]))
        x = torch.tensor([[1.0]], requires_grad=True)
        codes, total, loss = model.bottleneck(x)
        assert codes.tolist() == [[0, 0]]
        assert total.item() == pytest.approx(0.95)
        assert loss.item() == pytest.approx(1.25 * (0.0625 + 0.0025))
        loss.sum().backward()
        assert x.grad.item() == pytest.approx(by_x)
        assert model.codebooks.grad[0, 0].item() == pytest.approx(by_first)
        assert model.codebooks.grad[1, 0].item() == pytest.approx(-0.1)
        assert model.codebooks.grad[:, 1].abs().sum() == 0


def brute_force(codes, size, residuals, codebook):
    """The least number of changes, and of these the least distance, over all ways to make a group distinct."""
    best = None
    distance = ((residuals[:, None] - codebook[None]) ** 2).sum(2)
    for chosen in itertools.permutations(range(size), len(codes)):
        changes = sum(a != b for a, b in zip(chosen, codes[:, -1], strict=True))
        cost = (changes, sum(distance[i, c] for i, c in enumerate(chosen)))
        best = cost if best is None or cost < best else best
    return best


@pytest.mark.parametrize("seed", range(12))
def test_reassigning_is_brute_force(seed):
    random = np.random.default_rng(seed)
    n, size = int(random.integers(2, 7)), 6
    codes = np.column_stack([np.zeros(n, dtype=int), random.integers(0, 3, n)])
    residuals, codebook = random.normal(size=(n, 3)), random.normal(size=(size, 3))
    found = reassigned(codes, size, residuals, codebook)
    assert in_collisions(found) == 0
    changes = int((found != codes).any(1).sum())
    distance = ((residuals - codebook[found[:, 1]]) ** 2).sum()
    expected = brute_force(codes, size, residuals, codebook)
    assert changes == expected[0] == n - len(np.unique(codes[:, 1])), "as many as share a tuple with another"
    assert distance == pytest.approx(expected[1], rel=1e-6)
    assert np.array_equal(reassigned(found, size, residuals, codebook), found), "what is distinct stays"
    order = random.permutation(n)
    assert np.array_equal(reassigned(codes[order], size, residuals[order], codebook), found[order])


def test_rules_for_collisions():
    codes = np.array([[1, 2], [1, 2], [0, 2], [1, 2], [0, 1]])
    assert [rows.tolist() for rows in groups_of(codes)] == [[0, 1, 3]]
    assert in_collisions(codes) == 3
    assert with_token(codes, 4)[0].tolist() == [[1, 2, 0], [1, 2, 1], [0, 2, 0], [1, 2, 2], [0, 1, 0]]
    assert resolve_collisions(codes, 4, "keep")[0] is codes
    moved, size = resolve_collisions(codes, 4, "reassign")
    assert moved.tolist() == [[1, 2], [1, 0], [0, 2], [1, 1], [0, 1]] or in_collisions(moved) == 0
    assert (size, int((moved != codes).any(1).sum())) == (4, 2)
    crowd = np.zeros((257, 2), dtype=int)
    assert reassigned(crowd, 256) is None
    with pytest.raises(DmrecError, match="257 items have the codes 0, 0, more than the 256"):
        resolve_collisions(crowd, 256, "reassign")
    crowd[200:, 1] = 1
    assert resolve_collisions(crowd, 256, "reassign")[0].shape == (257, 3), "falls back to a token"
    with pytest.raises(DmrecError, match="unknown rule for collisions 'tokens'; did you mean 'token'"):
        resolve_collisions(codes, 4, "tokens")


def test_sinkhorn_uses_codes_evenly():
    random = np.random.default_rng(0)
    distance = random.random((64, 8)) + np.arange(8)  # the first code is the nearest of all
    assert set(distance.argmin(1)) == {0}
    counts = np.bincount(sinkhorn(distance, eps=0.05, rounds=200), minlength=8)
    assert counts.min() >= 4
    q = np.exp(-((distance - (distance.max() + distance.min()) / 2) / (np.ptp(distance) / 2)) / 0.05)
    for _ in range(50):
        q /= q.sum(0, keepdims=True) * 8
        q /= q.sum(1, keepdims=True) * 64
    assert np.array_equal(sinkhorn(distance, eps=0.05), q.argmax(1)), "as in linear space"
    assert sinkhorn(np.zeros((5, 3))).tolist() == [0] * 5
    assert np.isfinite(sinkhorn(np.full((5, 3), 7.0))).all()
    codes = np.zeros((6, 2), dtype=int)
    residuals, codebook = random.normal(size=(6, 2)), random.normal(size=(16, 2))
    spread, _ = resolve_collisions(codes, 16, "sinkhorn", residuals, codebook)
    assert in_collisions(spread) < 6


def test_new_items_take_free_codes_and_known_ones_keep_theirs():
    random = np.random.default_rng(3)
    for _ in range(50):
        size = int(random.integers(3, 7))
        n_known, n_new = int(random.integers(1, size)), int(random.integers(1, 4))
        known = np.column_stack([np.zeros(n_known, dtype=int), random.permutation(size)[:n_known]])
        new = np.column_stack([np.zeros(n_new, dtype=int), random.integers(0, size, n_new)])
        residuals, codebook = random.normal(size=(n_new, 2)), random.normal(size=(size, 2))
        found = codes_of_new_items(known, new, size, residuals, codebook)
        if n_known + n_new > size:
            assert np.array_equal(found, new), "no room: they share"
            continue
        free = np.setdiff1d(np.arange(size), known[:, 1])
        costs = []
        for chosen in itertools.permutations(free, n_new):
            changes = sum(a != b for a, b in zip(chosen, new[:, 1], strict=True))
            costs.append((changes, ((residuals - codebook[list(chosen)]) ** 2).sum(), chosen))
        assert tuple(found[:, 1]) == min(costs)[2]
        assert not found[:, 0].any()


def test_health():
    codes = np.array([[0, 0], [0, 1], [1, 1], [1, 1]])
    found = health_of(codes, 4)
    assert found["used"] == [2, 2]
    assert found["perplexity"] == [2.0, pytest.approx(1.8, abs=0.05)]
    assert found["prefixes"] == [2, 3]
    assert (found["items in collisions"], found["largest collision"]) == (2, 2)
    assert churn(codes, codes[::-1]) == 1.0
    assert churn(codes, np.vstack([codes[:3], [[1, 0]]])) == 0.25
    with pytest.raises(DmrecError, match="all items have the same code on level 2: the tokenizer has collapsed"):
        check_health(np.array([[0, 3], [0, 3], [1, 3], [0, 3], [1, 3], [0, 3], [1, 3], [1, 3]]), 9)
    check_health(np.array([[0, 3], [1, 3]]), 4)  # the first level tells all items apart
    json.dumps(found)


@pytest.mark.parametrize("n", [30, 95, 256])
def test_clusters_of_codes_are_balanced(n):
    cluster = balanced_clusters(clustered(n), 0)
    counts = np.bincount(cluster)
    assert len(counts) == min(10, n // 10)
    assert counts.min() >= min(10, n // len(counts))
    assert counts.max() <= max(60, -(-n // len(counts)))


def letter(**options):
    model = LetterRqVae(12, LetterOptions(levels=2, size=40, latent=6, hidden=(8,), **options))
    torch.nn.init.normal_(model.codebooks)
    model.follow(np.random.default_rng(0).normal(size=(50, 6)))
    model.refresh(1)
    return model


def terms_of(model, x, items):
    """What the terms of a batch add to the loss of each item."""
    return model.quantize(x, items).loss - model.quantize(x).loss


def test_letters_terms_reach_what_they_should():
    x = torch.from_numpy(clustered(50)).float()
    model = letter(diversity_weight=0.0, collaborative_weight=1.0)
    terms_of(model, x, torch.arange(50)).mean().backward()
    assert not model.codebooks.grad.any(), "the collaborative term teaches the encoder"
    assert model.encoder[0].weight.grad.abs().sum() > 0
    quantized = model.quantize(x).quantized
    scores = quantized @ model.collaborative.T
    wanted = torch.nn.functional.cross_entropy(scores, torch.arange(50))
    torch.testing.assert_close(terms_of(model, x, torch.arange(50)), wanted.expand(50), rtol=1e-3, atol=1e-3)
    assert terms_of(model, x[:1], torch.arange(1)).item() == pytest.approx(0, abs=1e-6)
    model = letter(collaborative_weight=0.0, diversity_weight=1.0)
    terms_of(model, x, torch.arange(50)).mean().backward()
    assert not model.encoder[0].weight.grad.any(), "diversity teaches the codes"
    assert model.codebooks.grad.abs().sum() > 0
    with pytest.raises(DmrecError, match="the collaborative vectors are 5 wide and the latents 6"):
        model.follow(np.zeros((50, 5)))


def test_diversity_draws_another_code_of_the_cluster():
    """By definition, with the draw found by trying all; codes that are alone in their cluster do not count."""
    model = letter()
    model.clusters[0] = torch.tensor([0, 0, 0, 1, 2, 2] + [3] * 34)
    book = model.codebooks[0].detach()
    for code in (0, 1, 2, 4, 5, 17):
        others = [c for c in range(40) if model.clusters[0, c] == model.clusters[0, code] and c != code]
        logits = (book @ book[code]).index_fill(0, torch.tensor(code), -torch.inf)
        possible = -logits.log_softmax(0)[others]
        drawn = torch.stack([model._diversity(0, torch.tensor([code])).detach() for _ in range(200)])
        nearest = (drawn[:, None] - possible).abs().min(1)
        assert nearest.values.max() < 1e-5
        assert len(nearest.indices.unique()) == len(others) or len(others) > 10, "each is drawn"
    assert model._diversity(0, torch.tensor([3, 3])).item() == 0
    pair = model._diversity(0, torch.tensor([3, 4])).item()
    assert pair == pytest.approx(model._diversity(0, torch.tensor([4])).item()), "a mean over those that have others"


@pytest.mark.parametrize(
    "options",
    [
        {"assignment": "sinkhorn"},
        {"revive": 5},
        {"initialisation": "uniform"},
        {"initialisation": "balanced"},
        {"soft": True},
    ],
)
def test_options_against_collapse(options):
    x = clustered(200).astype(np.float32)
    wanted = RqVaeOptions(levels=2, size=32, latent=4, hidden=(16,), epochs=30, patience=1000, **options)
    fitted = wanted.fit(x, None, lambda figures: None)
    again = wanted.fit(x, None, lambda figures: None)
    assert np.array_equal(fitted.codes(x)[0], again.codes(x)[0])
    used = health_of(fitted.codes(x)[0], 32)["used"]
    plain = RqVaeOptions(**{**wanted.model_dump(), "assignment": "nearest", "revive": 0}).fit(x, None, lambda _: None)
    if "initialisation" not in options:
        assert used[-1] >= health_of(plain.codes(x)[0], 32)["used"][-1]
    assert sum(used) >= 4


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_every_tokenizer_on_a_dataset(kind, tmp_path):
    dataset = tiny.make(tmp_path / "d")
    small = {"levels": 2, "size": 16}
    if kind != "rk-means":
        small |= {"latent": 4, "hidden": [16], "epochs": 40}
    collaborative = "tfidf-svd" if kind == "letter-rq-vae" else None
    small |= {"latent": 8} if collaborative else {}
    logged = []
    found = [
        tokenize_dataset(
            dataset,
            make_tokenizer(kind, **small),
            vectors="tfidf-svd",
            collaborative=collaborative,
            name=name,
            report=logged.append,
        )
        for name in ("a", "b")
    ]
    assert logged
    assert found[0]["items in collisions"] == 0
    first, again = (open_dataset(dataset.folder).codes(name) for name in "ab")
    assert np.array_equal(first.codes, again.codes), "the same again"
    assert first.codes.dtype == np.int16
    kinds = np.arange(dataset.n_items) % 4
    same = first.codes[:, None, 0] == first.codes[None, :, 0]
    alike = kinds[:, None] == kinds
    assert same[alike].mean() > 3 * same[~alike].mean(), "items of one kind share the first code"
    state = safetensors.numpy.load_file(dataset.folder / "tokenizer.a.safetensors")
    assert state["codebooks"].shape[:2] == (2, 16)
    with pytest.raises(DmrecError, match="has codes 'a', and models may have been trained with them"):
        tokenize_dataset(dataset, make_tokenizer(kind, **small), name="a")


def test_codes_of_a_dataset(tmp_path):
    dataset = tiny.make(tmp_path / "d")
    dataset._note("codes", "letter", None)
    with pytest.raises(DmrecError, match="has no codes of its items; make some: dmrec tokenize"):
        dataset.codes()
    codes = np.arange(dataset.n_items)[:, None] // [8, 1] % [6, 8]
    import_codes(dataset, codes, "given")
    assert dataset.codes().name == "given"
    with pytest.raises(DmrecError, match="48 items share all their codes with another; .*reassign, token or keep"):
        import_codes(dataset, codes // 2, "shared")
    import_codes(dataset, codes // 2, "shared", collisions="keep")
    with pytest.raises(DmrecError, match="has several codes .given, shared.; choose: --set model.codes=given"):
        dataset.codes()
    with pytest.raises(DmrecError, match="no codes 'givn'; did you mean 'given'"):
        dataset.codes("givn")
    assert import_codes(dataset, codes // 2, "moved", collisions="reassign")["items in collisions"] == 0
    for bad, message in (
        (codes[:-1], "has 47 rows of 2 codes, but there are 48 items"),
        (codes * 1.5, "must be whole numbers, items x levels, got float64"),
        (-codes, "item 1 has the code -1 on level 2; codes are 0 to"),
        (codes[:, 0], "must be whole numbers, items x levels"),
    ):
        with pytest.raises(DmrecError, match=message):
            import_codes(dataset, bad, "bad")
    path = dataset.folder / "items.given.codes.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DmrecError, match="differs from its checksum"):
        open_dataset(dataset.folder).codes("given")


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def test_the_command(tmp_path, capsys):
    folder = tiny.make(tmp_path / "d").folder
    assert run("tokenize", folder, "--levels", 2, "--size", 16, "--plot", tmp_path / "c.png") == 0
    printed = capsys.readouterr()
    assert "codes 'rk-means-tfidf-svd', 2 levels of 16" in printed.out
    assert "items that share a tuple: 0 (before the rule for collisions:" in printed.out
    assert (tmp_path / "c.png").stat().st_size > 1000
    np.save(tmp_path / "c.npy", np.arange(48)[:, None] // [8, 1] % [6, 8])
    assert run("tokenize", folder, "--codes", tmp_path / "c.npy", "--name", "given") == 0
    for command, message in (
        (["--tokenizer", "rq-vea"], "there is no tokenizer 'rq-vea'; did you mean 'rq-vae'?"),
        (["--set", "level=2"], "rk-means has no option 'level'; did you mean 'levels'?"),
        (["--size", 40_000], "rk-means, size:"),
        (["--codes", tmp_path / "c.npy"], "--codes needs a name for them: --name"),
        (["--codes", tmp_path / "none.npy", "--name", "x"], "none.npy cannot be read"),
        (["--vectors", "minilm"], "has no vectors 'minilm'"),
        (["--collisions", "tokens"], "unknown rule for collisions"),
        ([], "has codes 'rk-means-tfidf-svd', and models may have been trained with them"),
    ):
        capsys.readouterr()
        assert run("tokenize", folder, *command) == 1
        assert message in capsys.readouterr().err
