"""Exact search against brute force, on tries and models that are drawn at random."""

import numpy as np
import pytest
import torch
from dmrec.models.sequential import search
from dmrec.models.sequential.search import all_scores, beam_topk, exact_topk
from dmrec.tokenizers.trie import Trie

from dmrec_ext import Csr, rank_scores


class Toy:
    """Log-probabilities of the children of every node, drawn beforehand: one table per user and level."""

    def __init__(self, trie, tables, rows, level, nodes, counts):
        self.trie, self.tables, self.rows, self.level, self.nodes, self.counts = (
            trie,
            tables,
            rows,
            level,
            nodes,
            counts,
        )

    @classmethod
    def drawn(cls, trie, n_users, generator, sharpness, ties):
        tables = []
        for level in range(trie.levels):
            logits = sharpness * torch.randn(n_users, trie.n_nodes(level), generator=generator, dtype=torch.float64)
            logits = logits.round() if ties else logits
            first = getattr(trie, f"first_{level}")
            parent = torch.arange(len(first) - 1).repeat_interleave(first.diff())
            total = torch.zeros(n_users, len(first) - 1, dtype=torch.float64)
            total = total.index_add(1, parent, logits.exp()).log()
            tables.append(logits - total[:, parent])
        root = torch.zeros(n_users, 1, dtype=torch.int64)
        return cls(trie, tables, torch.arange(n_users), 0, root, [0])

    def next_codes(self):
        children = self.trie.below(self.level, self.nodes)
        self.counts[0] = max(self.counts[0], self.nodes.numel())
        picked = self.tables[self.level][self.rows[:, None, None], children.nodes]
        return picked.masked_fill(~children.there, -torch.inf)

    def follow(self, nodes, parents):
        assert parents.max() < self.nodes.shape[1]
        return Toy(self.trie, self.tables, self.rows, self.level + 1, nodes, self.counts)

    def users(self, index):
        return Toy(self.trie, self.tables, self.rows[index], self.level, self.nodes[index], self.counts)

    def prefixes(self, index):
        return Toy(self.trie, self.tables, self.rows, self.level, self.nodes[:, index], self.counts)

    def brute_force(self):
        """(B, N) scores of all items."""
        nodes = torch.zeros(self.trie.n_items, dtype=torch.int64)
        leaf_of = torch.arange(self.trie.n_nodes(self.trie.levels - 1)).repeat_interleave(self.trie.first_item.diff())
        nodes[self.trie.items] = leaf_of
        scores = torch.zeros(len(self.rows), self.trie.n_items, dtype=torch.float64)
        for level in reversed(range(self.trie.levels)):
            scores += self.tables[level][self.rows][:, nodes]
            first = getattr(self.trie, f"first_{level}")
            nodes = torch.searchsorted(first, nodes, right=True) - 1
        return scores


def codes_of(n_items, levels, size, generator, *, unique):
    codes = torch.randint(size, (n_items, levels), generator=generator)
    if unique:
        codes[:, -1] = torch.arange(n_items)  # wide enough
    return codes.numpy()


def compare(seed, *, n_users=4):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *among: among[int(torch.randint(len(among), (), generator=generator))]  # noqa: E731
    n_items, levels, size = draw(50, 120, 500), draw(1, 2, 3, 4), draw(2, 5, 30)
    k, sharpness, ties, unique = draw(1, 5, 10), draw(0.0, 0.3, 2.0, 8.0), draw(False, True), draw(False, True)
    trie = Trie(codes_of(n_items, levels, size, generator, unique=unique))
    toy = Toy.drawn(trie, n_users, generator, sharpness, ties)
    exclude, kept = None, draw(None, 0.9, 0.3, k - 1)
    if kept is not None:
        out = torch.rand(n_users, n_items, generator=generator) > kept if kept < 1 else torch.ones(n_users, n_items) > 0
        if kept >= 1 or k == 1:
            out[:, torch.randperm(n_items, generator=generator)[: int(kept)]] = False
        exclude = Csr.from_torch(out.float())
    scores = toy.brute_force()
    expected = rank_scores(scores, k, exclude=exclude)
    found = exact_topk(toy, trie, k, exclude)
    same = (found.scores - expected[0]).abs().nan_to_num(0) < 1e-9
    assert same.all(), seed
    # equal scores in the order of ids: sums in another order of equal terms may differ in the last bit
    assert torch.equal(found.items, expected[1]) or ties or sharpness == 0, seed
    for b in range(n_users):
        assert len(set(found.items[b].tolist()) - {-1}) == int((found.items[b] >= 0).sum())
    beam = beam_topk(toy, trie, k, 2 * k, exclude)
    for b in beam.certified.nonzero().flatten().tolist():
        assert ((beam.scores[b] - expected[0][b]).abs().nan_to_num(0) < 1e-9).all(), f"{seed}: the certificate is wrong"
    everything = all_scores(toy, trie)
    torch.testing.assert_close(everything, scores, rtol=1e-12, atol=1e-12)
    if unique or levels == 1:
        per_leaf = everything[:, trie.items[trie.first_item[:-1]]]
        torch.testing.assert_close(per_leaf.exp().sum(1), torch.ones(n_users, dtype=torch.float64))
    return int(beam.certified.sum()), n_users


@pytest.mark.parametrize("part", range(10))
def test_exact_is_brute_force(part):
    certified = [compare(1000 * part + seed) for seed in range(12)]
    assert 0 < sum(c for c, _ in certified) < sum(n for _, n in certified), "some need the second pass, some do not"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_exact_is_brute_force_on_ten_thousand_models(part):
    for seed in range(1000):
        compare(100_000 + 1000 * part + seed)


def test_a_beam_as_wide_as_a_level_is_exact():
    generator = torch.Generator().manual_seed(5)
    trie = Trie(codes_of(300, 3, 6, generator, unique=True))
    toy = Toy.drawn(trie, 6, generator, 0.5, False)
    wide = beam_topk(toy, trie, 7, 300)
    assert wide.certified.all()
    assert torch.equal(wide.items, rank_scores(toy.brute_force(), 7)[1])


@pytest.mark.parametrize("most", [1, 7, 60])
def test_memory_does_not_grow_with_a_flat_model(most, monkeypatch):
    generator = torch.Generator().manual_seed(6)
    trie = Trie(codes_of(400, 3, 8, generator, unique=True))
    toy = Toy.drawn(trie, 5, generator, 0.0, False)
    expected = rank_scores(toy.brute_force(), 3)
    monkeypatch.setattr(search, "MOST_PREFIXES", most)
    toy.counts[0] = 0
    found = exact_topk(toy, trie, 3)
    torch.testing.assert_close(found.scores, expected[0])
    everything = all_scores(toy, trie)
    torch.testing.assert_close(everything, toy.brute_force())
    assert toy.counts[0] <= max(most, 5 * 6)


def test_trie_round_trips():
    generator = torch.Generator().manual_seed(1)
    for unique in (True, False):
        codes = codes_of(200, 3, 5, generator, unique=unique)
        trie = Trie(codes)
        seen = []
        stack = [(0, 0, ())]
        while stack:
            level, node, prefix = stack.pop()
            if level == trie.levels:
                items, there = trie.items_of(torch.tensor([node]))
                found = items[there].tolist()
                assert found == sorted(found)
                assert all(tuple(codes[item]) == prefix for item in found)
                seen += found
                continue
            children = trie.below(level, torch.tensor([node]))
            inside = children.codes[children.there].tolist()
            assert inside == sorted(set(inside))
            for child, code in zip(children.nodes[children.there].tolist(), inside, strict=True):
                stack.append((level + 1, child, (*prefix, code)))
        assert sorted(seen) == list(range(200)), "every item has one leaf"
        assert trie.n_nodes(0) == len(np.unique(codes[:, 0]))
