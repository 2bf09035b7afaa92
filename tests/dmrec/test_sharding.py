"""Items cut into shards over several processes: the same bits on any number of them, and the unsharded model's sums."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from dmrec.build import build_model
from dmrec.config import build_config
from dmrec.data.interactions import Block, InteractionParts
from dmrec.errors import DmrecError
from dmrec.eval.ranking import evaluate
from dmrec.models.base import Step, TrainingData, evaluating
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.sharding.items import ItemShards, without_shard
from dmrec.sharding.ranks import ALONE, tree_sum
from dmrec.training.optimiser import optimiser_of
from dmrec.training.order import batches_of_epoch
from torch.utils._python_dispatch import TorchDispatchMode

from dmrec_ext import Csr, merge_topk, multinomial_nll, product_speeds, rank_topk

M, E = 22, 5
NAMES = ("mult-vae", "cvga", "dmrec-g", "dmrec-c", "dmrec-m", "cvga-g", "cvga-c", "cvga-m")


def _interactions(n_users, n_items, seed=0):
    """Some users have none, some items too."""
    random = np.random.default_rng(seed)
    rows = [np.sort(random.choice(n_items, min(n_items, n), replace=False)) for n in random.integers(0, 9, n_users)]
    rows[3] = rows[3][:0]
    crow = torch.tensor([0, *np.cumsum([len(row) for row in rows])])
    return Csr(crow, torch.from_numpy(np.concatenate(rows)).long(), None, n_items)


def _config(name, *settings):
    settings = (*settings, "training.batch_size=8", "language.vectors=any") if "-" in name else settings
    narrow = ["model.latent=4", "model.hidden=6", "language.hidden=7"]
    if name.startswith("cvga"):
        narrow[1] = "model.hidden=[6]"
    if name in ("mult-vae", "cvga"):
        narrow.pop()
        settings = [each for each in settings if not each.startswith("language")]
    return build_config(apply_overrides(recipe(name), [*narrow, *settings]))


def _data(name, n_items, shards):
    random = np.random.default_rng(1)
    x = _interactions(M, n_items)
    items, users = (random.standard_normal((n, E)).astype(np.float16) for n in (n_items, M))
    of_language = name not in ("mult-vae", "cvga")
    return TrainingData(x, items if of_language else None, users if of_language else None, shards=shards)


def _model(ranks, name, n_items, n_shards, dtype=torch.float32, *settings):
    torch.set_default_dtype(dtype)
    config = _config(name, *settings)
    data = _data(name, n_items, None if n_shards == 1 else ItemShards(n_items, n_shards, ranks))
    torch.manual_seed(3)
    return build_model(config, data).to(dtype), config, data


def _digest(tensor):
    return hashlib.sha256(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def train_and_rank(ranks, name, n_items, n_shards, dtype, settings):
    """Losses, checksums of all that was learned on this rank, and rankings."""
    model, config, data = _model(ranks, name, n_items, n_shards, dtype, *settings)
    optimiser = optimiser_of(model, config.training)
    losses = []
    model.train()
    for number, index in enumerate(batches_of_epoch(M, 8, 0, 1)):  # the last has six
        torch.manual_seed(number)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.training.precision == "bf16"):
            loss = model.loss(model.batch(index), Step(number))
        optimiser.zero_grad()
        loss["loss"].backward()
        optimiser.step()
        losses.append({part: value.item().hex() for part, value in loss.items()})
    held = {name: _digest(tensor) for name, tensor in model.state_dict().items() if tensor.numel()}
    moments = {
        f"{name}.{part}": _digest(tensor)
        for name, values in optimiser.state_dict()["state"].items()
        for part, tensor in values.items()
    }
    with evaluating(model):
        batch = data.users(torch.arange(M))
        scores, ids = model.rank(batch, 20, batch.interactions)
    return losses, held, moments, scores.tolist(), ids.tolist()


@pytest.mark.parametrize(
    ("name", "n_items", "n_shards", "dtype", "settings"),
    [
        *((name, 103, 8, torch.float32, ()) for name in NAMES),
        *((name, 37, 16, torch.float64, ()) for name in ("mult-vae", "cvga", "dmrec-m", "cvga-m")),
        ("dmrec-m", 1, 8, torch.float32, ()),
        ("dmrec-m", 103, 8, torch.float32, ("training.precision=bf16",)),
        ("mult-vae", 103, 4, torch.float32, ("model.initialisation=xavier", "model.normalise=true")),
        ("dmrec-c", 103, 8, torch.float32, ("language.aggregate=false",)),
    ],
)
def test_the_same_bits_on_any_number_of_ranks(rank_pool, name, n_items, n_shards, dtype, settings):
    (alone,) = rank_pool(1, train_and_rank, name, n_items, n_shards, dtype, settings)
    assert all(np.isfinite(float.fromhex(loss["loss"])) for loss in alone[0])
    for size in (2, 4):
        together = rank_pool(size, train_and_rank, name, n_items, n_shards, dtype, settings)
        for losses, held, moments, scores, ids in together:
            assert losses == alone[0]
            assert held.items() <= alone[1].items()
            assert moments.items() <= alone[2].items()
            assert (scores, ids) == alone[3:]
        assert set().union(*(each[1] for each in together)) == alone[1].keys(), "every shard is somewhere"
        assert set().union(*(each[2] for each in together)) == alone[2].keys()


def gradients(ranks, name, n_items, n_shards, dtype, weights):
    """Loss and gradients of a step, with these weights of the whole model if they are given; and the weights."""
    model, _, data = _model(ranks, name, n_items, n_shards, dtype)
    own = dict(model.named_parameters())
    if weights is not None:
        with torch.no_grad():
            for parameter, value in own.items():
                parameter_shard = parameter.partition("@")[2].partition(".")[0]
                whole = weights[without_shard(parameter)]
                if parameter_shard:
                    first, end = data.items.bounds(int(parameter_shard))
                    whole = whole[first:end]
                value.copy_(whole)
    model.train()
    torch.manual_seed(5)
    loss = model.loss(model.batch(torch.arange(M)), Step(7))["loss"]
    loss.backward()
    found = {parameter: value.grad for parameter, value in own.items()}
    return loss.item(), found, {parameter: value.detach().clone() for parameter, value in own.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_model_that_is_not_cut(rank_pool, name, dtype, tolerance):
    ((loss, wanted, weights),) = rank_pool(1, gradients, name, 37, 1, dtype, None)
    for size in (1, 4):
        together = rank_pool(size, gradients, name, 37, 8, dtype, weights)
        found = {}
        for of_loss, of_rank, _ in together:
            assert of_loss == pytest.approx(loss, rel=tolerance)
            found |= of_rank
        for parameter, gradient in wanted.items():
            parts = [found[each] for each in sorted(found, key=_shard) if without_shard(each) == parameter]
            error = torch.linalg.vector_norm(torch.cat(parts) - gradient)
            assert error <= tolerance * torch.linalg.vector_norm(gradient) + 1e-30, parameter


def _shard(name):
    return int(name.partition("@")[2].partition(".")[0] or 0)


def check_gradients(ranks):
    """gradcheck through both functions that carry gradients between shards and ranks."""
    items = ItemShards(40, 8, ranks)
    weights = torch.linspace(0.5, 2.0, 8, dtype=torch.float64)

    def function(x):
        of_shards = items.each(x, lambda i, of_shard: (of_shard * weights[items.owned[i]]).sin())
        return items.sum(lambda i: of_shards[i])

    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3).requires_grad_()
    wanted = sum((x * weight).sin() for weight in weights)
    torch.testing.assert_close(function(x), wanted)
    return torch.autograd.gradcheck(function, (x,))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_gradcheck_over_ranks(rank_pool, size):
    assert rank_pool(size, check_gradients) == [True] * size


def sums(ranks, seed, shape):
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed)) * 1e4
    return ranks.sum(x[ranks.rank].clone()), tree_sum(x[: ranks.size].unbind(0))


@pytest.mark.parametrize("shape", [(1,), (3, 5), (0, 2), (4, 4)])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_sum_over_ranks_is_a_tree(rank_pool, size, shape):
    for found, wanted in rank_pool(size, sums, 1, shape):
        assert torch.equal(found, wanted)


class UnpicklableError(OSError):
    """An error that holds what cannot be sent to another process."""

    def __init__(self, message):
        super().__init__(message)
        self.open = lambda: None


def fail_on_one(ranks):
    ranks.agree(UnpicklableError("the disk is full") if ranks.rank == 1 else None)


def test_an_error_that_cannot_be_sent_is_told_in_words(rank_pool):
    with pytest.raises(DmrecError, match="UnpicklableError: the disk is full"):
        rank_pool(2, fail_on_one)


@pytest.mark.parametrize("size", [2, 3])
def test_fast_sums_agree_to_rounding_on_any_number_of_ranks(rank_pool, size):
    for found, wanted in rank_pool(size, sums, 2, (7, 3), sums="fast"):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-2)
    arguments = ("dmrec-m", 103, 8, torch.float32, ())
    (alone,) = rank_pool(1, train_and_rank, *arguments)
    for losses, *_ in rank_pool(size, train_and_rank, *arguments, sums="fast"):
        for loss, wanted in zip(losses, alone[0], strict=True):
            assert float.fromhex(loss["loss"]) == pytest.approx(float.fromhex(wanted["loss"]), rel=1e-5)


def losses_of_extremes(ranks, n_shards, scale):
    """Losses (B,) and the gradient of the hidden layer with logits up to ``scale``, for 11 items."""
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (5, 11))
    weight = (weight * scale).requires_grad_()
    hidden.requires_grad_()
    x = _interactions(5, 11)
    x = x._replace(values=torch.rand(x.nnz, generator=generator, dtype=torch.float64))
    items = ItemShards(11, n_shards, ranks)
    cuts = [weight[slice(*items.bounds(shard))] for shard in items.owned]
    biases = [cut.detach().sum(1) for cut in cuts]
    loss = items.nll(hidden, cuts, x, biases)
    loss.backward()
    own = hidden.detach().clone().requires_grad_()
    wanted = multinomial_nll(own, weight.detach(), x, weight.detach().sum(1))
    wanted.backward()
    return loss.detach(), hidden.grad, wanted.detach(), own.grad


@pytest.mark.parametrize("n_shards", [4, 16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_loss_over_shards_of_large_logits_and_empty_shards(rank_pool, n_shards, scale):
    first = None
    for size in (1, 2, 4):
        for loss, gradient, wanted, of_hidden in rank_pool(size, losses_of_extremes, n_shards, scale):
            torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(gradient, of_hidden, rtol=1e-9, atol=1e-9)
            first = first or (loss, gradient)
            assert torch.equal(loss, first[0])
            assert torch.equal(gradient, first[1])


def rankings(ranks, n_shards, kind, k):
    """Of the shards, and of one call."""
    generator = torch.Generator().manual_seed(2)
    query, weight = (torch.randn(n, 4, generator=generator) for n in (9, 50))
    if kind == "ties":
        weight = weight[torch.arange(50) % 3]
    elif kind == "near":
        weight = weight[torch.arange(50) % 3] * (1 + 1e-7 * torch.randint(0, 3, (50, 1), generator=generator))
    elif kind == "nan":
        weight[::7] = torch.nan
    exclude = _interactions(9, 50)
    if kind == "excluded":
        exclude = Csr(torch.arange(10) * 50, torch.arange(50).repeat(9), None, 50)
    items = ItemShards(50, n_shards, ranks)
    cuts = [weight[slice(*items.bounds(shard))] for shard in items.owned]
    return items.rank(query, cuts, k, None, exclude), rank_topk(query, weight, k, exclude=exclude)


@pytest.mark.parametrize("kind", ["plain", "ties", "near", "nan", "excluded"])
@pytest.mark.parametrize(("n_shards", "k"), [(8, 7), (64, 60), (4, 1)])
def test_rankings_over_shards_are_those_of_one_call(rank_pool, n_shards, k, kind):
    for size in (1, 2, 4):
        for (scores, ids), (wanted, of_one) in rank_pool(size, rankings, n_shards, kind, k):
            assert ids.tolist() == of_one.tolist()
            torch.testing.assert_close(scores, wanted, rtol=1e-6, atol=1e-6, equal_nan=True)


def metrics(ranks, n_shards):
    model, _, data = _model(ranks, "dmrec-m", 103, n_shards)
    found = evaluate(model, data, _interactions(M, 103, seed=4), ["recall@5", "ndcg@10", "coverage@5"], depth=20)
    return found.means, found.hits.tolist()


def test_metrics_are_equal_on_any_number_of_ranks(rank_pool):
    wanted = rank_pool(1, metrics, 8)[0]
    for size in (2, 4):
        assert rank_pool(size, metrics, 8) == [wanted] * size


def test_shards_cover_the_items_once():
    for n_items, n_shards in ((0, 4), (1, 8), (37, 16), (64, 64), (1003, 8)):
        for size in (1, 2, 4):
            parts = [ItemShards(n_items, n_shards, replace(ALONE, rank=rank, size=size)) for rank in range(size)]
            assert [shard for items in parts for shard in items.owned] == list(range(n_shards))
            covered = [i for items in parts for shard in items.owned for i in range(*items.bounds(shard))]
            assert covered == list(range(n_items))
            for batch in (1, 5, 8, 33):
                rows = [row for items in parts for row in range(batch)[items.own_rows(batch)]]
                assert rows == list(range(batch)), "each user's vector is added once"


def test_order_of_an_epoch_follows_from_seed_and_epoch(monkeypatch):
    monkeypatch.setattr("dmrec.training.order.BLOCK", 4)
    monkeypatch.setattr("dmrec.training.order.GROUP", 2)
    for n, size in ((0, 3), (1, 3), (41, 6), (8, 8), (64, 5)):
        batches = list(batches_of_epoch(n, size, 0, 1))
        assert torch.cat([torch.zeros(0, dtype=torch.int64), *batches]).sort().values.tolist() == list(range(n))
        assert [len(each) for each in batches] == [len(each) for each in torch.arange(n).split(size) if n]
    one, again, other = (torch.cat(list(batches_of_epoch(64, 5, 0, epoch))).tolist() for epoch in (1, 1, 2))
    assert one == again != other
    assert {user // 4 for user in one[:8]} == {one[0] // 4, *(user // 4 for user in one[:8])}
    assert len({user // 4 for user in one[:8]}) == 2, "of two blocks that lie next to each other"


def test_candidates_merge_with_padding():
    scores, ids = merge_topk(torch.tensor([[1.0, -torch.inf]]), torch.tensor([[4, -1]]), 3)
    assert ids.tolist() == [[4, -1, -1]]
    assert scores[0, 0] == 1


@pytest.mark.parametrize("n_shards", [1, 8, 16])
def test_items_of_a_shard_are_counted(n_shards):
    """The interactions of each shard, of a matrix and of parts, whether or not their counts are known."""
    x = _interactions(M, 103)
    wanted = x.to_dense().sum(0).long()
    part, counts = Block(x.crow.numpy(), x.col.numpy()), wanted.numpy()
    for interactions in (x, InteractionParts([part], 103, counts), InteractionParts([part], 103)):
        data = TrainingData(interactions)
        bounds = [ItemShards(103, n_shards).bounds(shard) for shard in range(n_shards)]
        assert torch.equal(torch.cat([data.item_counts(*each) for each in bounds]), wanted)
        assert torch.equal(data.item_counts(), wanted)


@pytest.mark.parametrize("n_items", [37, 103])
def test_scales_of_items_are_those_of_the_model_that_is_not_cut(n_items):
    whole, *_ = _model(ALONE, "cvga", n_items, 1)
    cut, *_ = _model(ALONE, "cvga", n_items, 16)
    scales = [cut.backbone.get_buffer(f"scale@{shard}") for shard in range(16)]
    assert _digest(torch.cat(scales)) == _digest(whole.backbone.scale)


class Largest(TorchDispatchMode):
    """The sizes of everything that torch makes."""

    def __init__(self):
        super().__init__()
        self.longest, self.numbers = 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.longest = max(self.longest, *tensor.shape, 0)
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("name", ["mult-vae", "cvga", "cvga-m"])
def test_nothing_of_the_size_of_all_items_is_made(name, on_disk):
    """Neither (B, N), (N, H) nor (N,): when the model is built, in a step and in a ranking."""
    n_items = 4000
    config, data = _config(name), _data(name, n_items, ItemShards(n_items, 16))
    if on_disk:
        x = data.interactions
        counts = data.item_counts().numpy()
        data = data._replace(interactions=InteractionParts([Block(x.crow.numpy(), x.col.numpy())], n_items, counts))
    product_speeds()  # measured once in a process
    with Largest() as made:
        model = build_model(config, data)
        optimiser = optimiser_of(model, config.training)
        model.train()
        batch = model.batch(torch.arange(M))
        model.loss(batch, Step())["loss"].backward()
        optimiser.step()
        with evaluating(model):
            model.rank(batch, 5, batch.interactions)
    assert 0 < made.longest < n_items
    assert made.numbers <= M * n_items / 16, "the logits of a shard are the most"
    assert made.numbers < 4 * n_items, "a table of the narrowest width"
