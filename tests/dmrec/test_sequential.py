"""Models that read order: what they see of a user, that they learn it, and that a run is what it is bit for bit."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from dmrec import dataset as from_frame
from dmrec import load, train
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.eval.ranking import evaluate, mean_nll
from dmrec.inference.recommend import vector_of_likes
from dmrec.models.base import Histories, ItemCodes, Step, TrainingData, UserBatch, evaluating
from dmrec.models.sequential.examples import NextItemExamples, interactions_of, last_items
from dmrec.models.sequential.search import all_scores
from dmrec.models.sequential.tiger import Tiger, TigerConfig
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import load_run, training_data
from dmrec.runs.load import test_data as data_of_test
from dmrec.runs.resolve import resolve
from dmrec.tokenizers.tokenize import import_codes

from dmrec_ext import Csr

pa = pytest.importorskip("pyarrow")
N_ITEMS, CLUSTERS = 64, 16
SMALL = {
    "model.blocks": 2,
    "model.transformer": {"layers": 1, "width": 32, "feed_forward": 64, "heads": 2, "head_width": 16},
}
SMALL_OPTIONS = {name.removeprefix("model."): value for name, value in SMALL.items()}
FAST = {"batch_size": 64, "learning_rate": 5e-3, "epochs": 24, "evaluate_every": 8}


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Users who walk among clusters of four items: the next cluster follows from the last, the item does not."""
    random = np.random.default_rng(0)
    users, items = [], []
    for user in range(500):
        cluster, seen = int(random.integers(CLUSTERS)), set()
        for _ in range(int(random.integers(5, 14))):
            item = 4 * cluster + int(random.integers(4))
            if item not in seen:
                users.append(f"u{user}")
                items.append(str(item))
                seen.add(item)
            cluster = (cluster + 1 if random.random() < 0.85 else int(random.integers(CLUSTERS))) % CLUSTERS
    frame = pa.table({"user": users, "item": items})
    data = from_frame(frame, split="leave-one-out", k_core=1, folder=tmp_path_factory.mktemp("walks") / "walks")
    ids = np.array([int(item.id) for item in data.items])
    import_codes(data, np.column_stack([ids // 16, ids // 4 % 4, ids % 4]), "of-clusters")
    return data


def histories(*rows):
    lengths = torch.tensor([0, *map(len, rows)])
    return Histories(lengths.cumsum(0), torch.tensor([item for row in rows for item in row]))


def test_examples_are_all_interactions_but_the_first():
    examples = NextItemExamples(histories([5], [1, 2, 3, 4], [], [7, 8]), 2)
    assert len(examples) == 4
    user, history, target = examples.rows(torch.arange(4))
    assert user.tolist() == [1, 1, 1, 3]
    assert history.tolist() == [[1, -1], [1, 2], [2, 3], [7, -1]]
    assert target.tolist() == [2, 3, 4, 8]
    assert [part.tolist() for part in examples.rows(torch.tensor([3, 0]))] == [[3, 1], [[7], [1]], [8, 2]]


def test_the_last_items_of_a_row():
    rows = torch.tensor([[1, 2, 3, 4], [5, -1, -1, -1], [-1, -1, -1, -1], [6, 7, -1, -1]])
    assert last_items(rows, 2).tolist() == [[3, 4], [5, -1], [-1, -1], [6, 7]]
    assert last_items(rows, 9).tolist() == rows.tolist()


def test_no_held_out_item_is_in_a_training_row(walks):
    config = resolve(build_config(recipe("tiger")), walks)
    data = training_data(config, walks)
    examples = NextItemExamples(data.histories, 20)
    user, history, target = examples.rows(torch.arange(len(examples)))
    held_out = {(u, i) for split in ("valid", "test") for u, i in zip(*walks.matrix(split).nonzero(), strict=True)}
    for u, row, t in zip(user.tolist(), history.tolist(), target.tolist(), strict=True):
        assert not {(u, item) for item in (*row, t)} & held_out
    lengths = np.diff(walks.sequences.indptr)
    assert len(examples) == np.maximum(np.where(lengths >= 3, lengths - 2, lengths) - 1, 0).sum()


def test_what_is_read_in_the_test_ends_with_the_validation_item(walks):
    for name in ("tiger", "ease"):
        same = {"evaluation": recipe("tiger")["evaluation"]}
        config = resolve(build_config({**recipe(name), **same}), walks)
        data = training_data(config, walks)
        read = data_of_test(config, walks, data)
        valid = walks.matrix("valid")
        assert read.interactions.nnz == data.interactions.nnz + valid.nnz
        if name == "tiger":
            rows = read.histories.rows(torch.arange(walks.n_users))
            for user in range(0, walks.n_users, 37):
                if valid[user].nnz:
                    assert rows[user][rows[user] >= 0][-1] == valid[user].indices[0]
    plain = resolve(build_config(recipe("mult-vae")), walks)
    assert data_of_test(plain, walks, data) is data


@pytest.fixture(scope="module")
def tiger(walks, tmp_path_factory):
    return train("tiger", walks, options=SMALL, progress=False, out=tmp_path_factory.mktemp("runs"), **FAST)


def test_models_learn_the_walk(walks, tiger):
    """The true chain names the four items of the next cluster."""
    figures = {"tiger": tiger.result["test"]}
    for name in ("markov", "popularity", "sasrec"):
        options = {"evaluation": recipe("tiger")["evaluation"]} if name == "popularity" else {}
        epochs = {"epochs": 30, "learning_rate": 3e-3} if name == "sasrec" else {}
        values = {**recipe(name), **options}
        figures[name] = train(values, walks, progress=False, **epochs).result["test"]
    sequences = walks.sequences
    ends = [[int(walks.items[i].id) // 4 for i in sequences.of_user(u)[-2:]] for u in range(walks.n_users)]
    tested = [u for u in range(walks.n_users) if walks.matrix("test")[u].nnz]
    true_chain = np.mean([(ends[u][0] + 1) % CLUSTERS == ends[u][1] for u in tested])
    assert figures["tiger"]["recall@5"] > 0.9 * true_chain
    assert figures["markov"]["recall@10"] > 0.8 * true_chain
    assert figures["sasrec"]["recall@5"] > 0.8 * true_chain
    assert figures["popularity"]["recall@10"] < 0.4


def test_probabilities_of_items_sum_to_one(tiger):
    batch = tiger.data.users(torch.arange(20))
    with evaluating(tiger.model), torch.no_grad():
        scores = all_scores(tiger.model.behind(batch.ids, batch.sequences), tiger.model.trie)
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(20), rtol=0, atol=1e-5)
        ranked = tiger.model.rank(batch, 10)
        torch.testing.assert_close(ranked[0], scores.topk(10).values, rtol=1e-4, atol=1e-4)
        assert (ranked[0].diff(dim=1) <= 0).all()
        some = batch.interactions
        left = tiger.model.rank(batch, 10, exclude=some)[1]
        for user in range(20):
            assert not set(left[user].tolist()) & set(some.rows(torch.tensor([user])).col.tolist())


def test_the_loss_is_the_negative_log_likelihood_of_the_item(walks):
    values = apply_overrides(recipe("tiger"), ["model.loss_over=children"])
    config = resolve(build_config(values), walks)
    data = training_data(config, walks)
    torch.manual_seed(0)
    model = Tiger(data, config.model).eval()
    index = torch.arange(0, model.n_examples, 9)
    loss = model.loss(model.batch(index), Step())["nll"]
    user, history, target = model.examples.rows(index)
    scores = all_scores(model.behind(user, history), model.trie)
    assert loss.item() == pytest.approx(-scores.gather(1, target[:, None]).mean().item(), rel=1e-5)


@pytest.mark.parametrize("blocks", [2, 5, 64])
def test_parts_by_length_change_nothing(walks, blocks):
    config = resolve(build_config(recipe("tiger")), walks)
    data = training_data(config, walks)
    losses, gradients = [], []
    for count in (1, blocks):
        torch.manual_seed(0)
        model = Tiger(data, config.model.model_copy(update={"blocks": count})).eval()
        loss = model.loss(model.batch(torch.arange(100)), Step())["loss"]
        loss.backward()
        losses.append(loss.item())
        gradients.append(model.tokens.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_beam_over_the_vocabulary_as_published(walks, tiger):
    options = tiger.model.options
    batch = tiger.data.users(torch.arange(40))
    exact = tiger.model.rank(batch, 5)
    try:
        tiger.model.options = options.model_copy(update={"search": "beam", "normalise": "vocabulary"})
        scores, items = tiger.model.rank(batch, 5)
    finally:
        tiger.model.options = options
    assert (scores < 0).all()
    assert (items == exact[1]).float().mean() > 0.5


def test_user_tokens_and_unknown_users(walks):
    config = resolve(build_config(apply_overrides(recipe("tiger"), ["model.user_tokens=7"])), walks)
    data = training_data(config, walks)
    torch.manual_seed(0)
    model = Tiger(data, config.model).eval()
    batch = data.users(torch.arange(7))
    same = UserBatch(torch.arange(7, 14), batch.interactions, None, batch.sequences)
    assert torch.equal(model.rank(batch, 4)[1], model.rank(same, 4)[1]), "hashed alike"
    unknown = UserBatch(None, batch.interactions, None, batch.sequences)
    assert not torch.equal(model.rank(batch, 4)[0], model.rank(unknown, 4)[0])
    model.loss(model.batch(torch.arange(30)), Step())["loss"].backward()
    assert model.user_tokens.grad.abs().sum() > 0


def test_items_of_one_tuple_share_its_score_and_follow_by_id(walks):
    n = walks.n_items
    data = TrainingData(Csr.from_scipy(walks.matrix("train")), histories=histories([0, 1], [2, 3]))
    codes = np.column_stack([np.arange(n) // 8, np.arange(n) // 2 % 4])
    model = Tiger(data._replace(item_codes=ItemCodes(codes, int(codes.max()) + 1)), TigerConfig()).eval()
    empty = Csr.from_torch(torch.zeros(1, n))
    scores, items = model.rank(UserBatch(None, empty, None, torch.tensor([[0, 1]])), n)
    assert sorted(items[0].tolist()) == list(range(n))
    pairs = items[0].view(-1, 2)
    assert (pairs[:, 1] == pairs[:, 0] + 1).all()
    assert (scores[0].view(-1, 2).diff() == 0).all()
    wanted = torch.zeros(1, n)
    wanted[0, pairs[0, 1]] = 1  # the second item of the first tuple
    found = evaluate(model, data, Csr.from_torch(wanted), ["recall@1", "recall@2", "hit@1"], exclude_seen=False)
    assert found.means == {"recall@1": 0.0, "recall@2": 1.0, "hit@1": 0.0}
    assert found.random_ties == {"recall@1": 0.5, "recall@2": 1.0}


def test_recommending(tiger, walks, tmp_path):
    again = load(tiger.folder)
    first = tiger.recommend("u3", k=5)
    assert again.recommend("u3", k=5)["item"].tolist() == first["item"].tolist()
    path = [walks.items[i].id for i in walks.sequences.of_user(walks.user_rows["u3"])]
    later = again.recommend("u3", k=5, history={"u3": ["60"]}) if "60" not in path else first
    assert later is first or later["item"].tolist() != first["item"].tolist(), "the last item decides"
    new = again.recommend(likes=["0", "4"], k=4)["item"].tolist()
    assert sum(8 <= int(item) < 12 for item in new) >= 3, "after cluster 1 comes cluster 2"
    assert again.recommend(likes=["4", "0"], k=4)["item"].tolist() != new, "order counts"


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def test_by_the_command_line_and_resumed_bit_for_bit(walks, tmp_path, capsys):
    sizes = ["--set", "model.transformer={layers: 1, width: 16, feed_forward: 16, heads: 1, head_width: 8}"]
    command = ["train", "tiger", "--no-baselines", "--data", walks.folder, *sizes, "--set", "training.epochs=3"]
    command += ["--set", "training.batch_size=256", "--set", "training.evaluate_every=1"]
    assert run(*command, "--out", tmp_path / "whole") == 0
    whole = tmp_path / "whole/walks/tiger/seed-0"
    from dmrec.training import loop

    calls, step = [], loop.train_step

    def stopping(*args, **options):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return step(*args, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(loop, "train_step", stopping)
    stopped = [*command, "--out", tmp_path / "stopped", "--set", "training.checkpoint_minutes=0"]
    assert run(*stopped) == 130
    patch.undo()
    folder = tmp_path / "stopped/walks/tiger/seed-0"
    assert run("resume", folder) == 0
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    results = [json.loads((path / "result.json").read_text()) for path in (whole, folder)]
    assert results[0]["test"] == results[1]["test"]
    capsys.readouterr()
    assert run("evaluate", folder, "--json") == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert {name: evaluated[name] for name in results[0]["test"]} == results[0]["test"]
    assert run("train", "--final", folder, "--out", tmp_path / "final") == 0
    assert run("recommend", tmp_path / "final/walks/tiger-final", "--user", "u3") == 0


def test_codes_and_order_that_are_missing_or_other_ones(walks, tmp_path, tiger):
    import shutil

    shutil.copytree(walks.folder, tmp_path / "d")
    data = open_dataset(tmp_path / "d")
    data.add_codes("of-clusters", (data.codes().codes + 1) % 4, 4, {})
    with pytest.raises(DmrecError, match="another version of .*items.of-clusters.codes.npy"):
        load(tiger.folder, data)
    data._note("codes", "of-clusters", None)
    with pytest.raises(DmrecError, match="has no codes of its items; make some: dmrec tokenize"):
        train("tiger", data, progress=False)


def test_items_without_interactions_are_not_learned_to_be_improbable(walks):
    """`children_of: seen`: the loss is over items with training interactions; all are ranked, and sum to 1."""
    data = training_data(resolve(build_config(recipe("tiger")), walks), walks)
    kept = data.histories.items % 7 != 3
    lengths = torch.tensor([int(part.sum()) for part in kept.split(data.histories.indptr.diff().tolist())])
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    data = data._replace(histories=Histories(indptr, data.histories.items[kept]))
    unseen = torch.tensor([item for item in range(data.n_items) if item not in set(data.histories.items.tolist())])
    assert len(unseen) > 5
    losses = {}
    for which in ("all", "seen"):
        torch.manual_seed(0)
        options = TigerConfig(children_of=which, loss_over="children", **SMALL_OPTIONS)
        model = Tiger(data, options).eval()
        batch = model.batch(torch.arange(40))
        losses[which] = model.predictions(batch).nll
        with evaluating(model):
            users = data.users(torch.arange(6))
            scores = all_scores(model.behind(users.ids, users.sequences), model.trie)
        assert torch.allclose(scores.exp().sum(1), torch.ones(6), atol=1e-5)
        assert torch.isfinite(scores[:, unseen]).all()
        of_all = model.predictions(batch).nll
        model.set_codes(model.codes.clone())
        assert torch.equal(model.predictions(batch).nll, of_all)
    assert (losses["seen"] <= losses["all"] + 1e-5).all()
    assert losses["seen"].mean() < losses["all"].mean() - 0.05


@pytest.mark.parametrize("name", ["mult-vae", "dmrec-m"])
def test_a_posterior_is_read_before_the_items(name, walks, tmp_path):
    """Of the history's items alone: the posterior of the other run, for histories of any length and new items."""
    if "items" not in walks.vector_names:
        draw = np.random.default_rng(0)
        vectors = [draw.normal(size=(n, 6)).astype(np.float32) for n in (walks.n_items, walks.n_users)]
        walks.add_vectors("items", *vectors, {})
    options = {"training.epochs": 3, "model.hidden": 8, "model.latent": 4}
    other = train(name, walks, options=options, out=tmp_path, progress=False)
    settings = [f"model.posterior={other.folder}", "training.epochs=2", "training.evaluate_every=1"]
    settings += [f"{name}={json.dumps(value)}" for name, value in SMALL.items()]
    config = resolve(build_config(apply_overrides(recipe("tiger"), settings)), walks)
    data = training_data(config, walks)
    torch.manual_seed(0)
    model = Tiger(data, TigerConfig(**SMALL_OPTIONS)).eval()
    assert model.of_posterior.weight.shape == (32, 4)
    assert not any("posterior" in key and "of_posterior" not in key for key in model.state_dict())
    index = torch.arange(25)
    users, history, _ = model.examples.rows(index)
    inputs = interactions_of(history, walks.n_items)
    assert inputs.to_dense().sum(1).tolist() == (history >= 0).sum(1).tolist()
    text = None
    if name == "dmrec-m":
        text = torch.stack(
            [torch.from_numpy(vector_of_likes(data.posterior.item_text_vectors, h[h >= 0])) for h in history]
        )
    with torch.no_grad():
        wanted = data.posterior.model.posterior(UserBatch(None, inputs, text))[0]
    torch.testing.assert_close(model.source.means(history, inputs), wanted)
    from_batch = model.predictions(model.batch(index)).nll
    for example in (0, 9, 24):
        states, there = model.encoded(users[example : example + 1], history[example][history[example] >= 0][None])
        assert states.shape[1] == 1 + 3 * int((history[example] >= 0).sum())
        assert there.all()
    with evaluating(model):
        scores = all_scores(model.behind(None, history[:9]), model.trie)
    own = model.targets(torch.arange(9))
    torch.testing.assert_close(-scores.gather(1, own[:, None])[:, 0], from_batch[:9].detach(), rtol=1e-4, atol=1e-4)
    run = train(config, walks, out=tmp_path, progress=False)
    again = load_run(run.folder)
    of_test = data_of_test(again.run.config, walks, again.data)
    means = evaluate(again.model, of_test, walks.split("test"), ["recall@10"], exclude_seen=False).means
    assert means["recall@10"] == again.run.result["test"]["recall@10"]
    with pytest.raises(DmrecError, match="model.posterior: 'nowhere' is not the folder of a run"):
        resolve(build_config(apply_overrides(recipe("tiger"), ["model.posterior=nowhere"])), walks)
    markov = train("markov", walks, out=tmp_path, progress=False)
    with pytest.raises(DmrecError, match="has no posterior"):
        resolve(build_config(apply_overrides(recipe("tiger"), [f"model.posterior={markov.folder}"])), walks)


def test_items_join_after_training(walks):
    """They are ranked by their codes and read in histories; the first of a free tuple takes none of another's."""
    data = training_data(resolve(build_config(recipe("tiger")), walks), walks)
    torch.manual_seed(0)
    data = data._replace(item_codes=ItemCodes(data.item_codes.codes, 5))
    model = Tiger(data, TigerConfig(**SMALL_OPTIONS)).eval()
    n, free = len(model.codes), [4, 0, 0]
    loss = model.predictions(model.batch(torch.arange(30))).nll
    model.add_items(torch.tensor([free, model.codes[3].tolist()]))
    assert torch.equal(model.predictions(model.batch(torch.arange(30))).nll, loss), "what is learned stays"
    assert model.tied_items[n + 1] == model.tied_items[3]
    with evaluating(model):
        behind = model.behind(None, torch.tensor([[5, n, 7], [n + 1, 4, -1]]))
        scores = all_scores(behind, model.trie)
        assert scores.shape == (2, n + 2)
        assert torch.equal(scores[:, 3], scores[:, n + 1])
        nothing = Csr.from_scipy(sp.csr_matrix((2, n + 2), dtype=np.float32))
        ranked = model.rank(UserBatch(None, nothing, None, torch.tensor([[5, n, 7], [n + 1, 4, -1]])), n + 2)
        assert ranked[1].sort(1).values.tolist() == [list(range(n + 2))] * 2
        as_known = model.behind(None, torch.tensor([[5, 3, 7]]))
        as_new = model.behind(None, torch.tensor([[5, n + 1, 7]]))
        assert torch.equal(all_scores(as_known, model.trie), all_scores(as_new, model.trie))
    with pytest.raises(ValueError, match=r"codes must be \(n, 3\)"):
        model.add_items(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="codes must lie between 0 and 4"):
        model.add_items(torch.full((1, 3), 5))


@pytest.mark.parametrize("normalise", ["trie", "vocabulary"])
def test_the_likelihood_of_items_is_what_the_search_finds(normalise, walks):
    data = training_data(resolve(build_config(recipe("tiger")), walks), walks)
    torch.manual_seed(0)
    model = Tiger(data, TigerConfig(**SMALL_OPTIONS, normalise=normalise, temperature=3.0)).eval()
    users = torch.tensor([3, 0, 8])
    batch = data.users(users)
    wanted = Csr(torch.tensor([0, 2, 2, 3]), torch.tensor([5, 60, 7]), None, walks.n_items)
    with evaluating(model):
        scores = all_scores(model.behind(batch.ids, batch.sequences), model.trie)
    found = model.log_likelihood(batch, wanted)
    torch.testing.assert_close(found, torch.stack([scores[0, 5], scores[0, 60], scores[2, 7]]), rtol=1e-4, atol=1e-4)
    held_out = walks.split("valid")
    own = held_out.crow.diff().nonzero().squeeze(1)
    with evaluating(model):
        every = data.users(own)
        scores = all_scores(model.behind(every.ids, every.sequences), model.trie)
    target = held_out.col[held_out.crow[own]]
    right = -scores.gather(1, target[:, None].long()).mean().item()
    assert mean_nll(model, data, held_out) == pytest.approx(right, rel=1e-4)


def test_the_likelihood_can_choose_the_best_state(walks, tmp_path, monkeypatch):
    """No item is ranked before the training ends; the figures of the best state are then as ever."""
    ranked = []
    rank = Tiger.rank
    monkeypatch.setattr(Tiger, "rank", lambda self, *args, **options: ranked.append(1) or rank(self, *args, **options))
    options = {**SMALL, **{f"training.{name}": value for name, value in FAST.items()}}
    options |= {"training.epochs": 6, "training.evaluate_every": 2, "training.monitor": "nll"}
    run = train("tiger", walks, options=options, out=tmp_path, progress=False)
    events = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    assert [set(event) for event in evaluations] == [{"time", "event", "epoch", "seconds", "nll"}] * 3
    best = min(evaluations, key=lambda event: event["nll"])
    assert run.result["best_epoch"] == best["epoch"]
    assert run.result["valid"]["nll"] == best["nll"]
    again = load_run(run.folder)
    assert mean_nll(again.model, again.data, walks.split("valid")) == pytest.approx(best["nll"])
    measured = evaluate(again.model, again.data, walks.split("valid"), ["ndcg@10"], exclude_seen=False)
    assert run.result["valid"]["ndcg@10"] == measured.means["ndcg@10"]
    of_valid_and_test = 2
    assert len(ranked) == of_valid_and_test + 1
    with pytest.raises(DmrecError, match="training.monitor: model 'sasrec' has no likelihood of items"):
        build_config(apply_overrides(recipe("sasrec"), ["training.monitor=nll"]))
