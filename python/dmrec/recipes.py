"""Named configurations, each a function, so that options that belong together are set together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .config import Config, build_config
from .data.dataset import PERMUTED
from .errors import DmrecError, did_you_mean
from .models.base import WithItemEmbeddings, WithTextVectors
from .options import apply_overrides, deep_merge

Values = dict[str, Any]


def popularity() -> Values:
    """Baseline: the most popular items for everybody."""
    return {"name": "popularity", "model": {"kind": "popularity"}}


def ease() -> Values:
    """Baseline: EASE, exact, lambda searched on validation."""
    return {"name": "ease", "model": {"kind": "ease"}}


def l3ae() -> Values:
    """L3AE (Moon et al., CIKM 2025): EASE drawn towards a linear model of the items' texts, searched on validation."""
    return {"name": "l3ae", "model": {"kind": "l3ae"}}


def mult_vae() -> Values:
    """Mult-VAE as DMRec's base: binary input, dropout 0.3, no annealing."""
    return {"name": "mult-vae", "model": {"kind": "mult-vae"}}


def mult_vae_beta() -> Values:
    """A control: Mult-VAE whose KL has the weight that DMRec-M leaves it at beta 0.5. No text."""
    return deep_merge(mult_vae(), {"name": "mult-vae-beta", "training": {"annealing": {"cap": 0.5}}})


def mult_vae_original() -> Values:
    """Mult-VAE as published (Liang et al., WWW 2018): L2-normalised input, dropout 0.5, KL annealed to 0.2."""
    annealing = {"cap": 0.2, "steps": 40_000}  # published as 200,000 steps to 1, of which 0.2 is kept
    return {
        "name": "mult-vae-original",
        "model": {"kind": "mult-vae", "dropout": 0.5, "normalise": True, "initialisation": "xavier"},
        "training": {"batch_size": 500, "annealing": annealing},
    }


def cvga() -> Values:
    """CVGA (Zhang et al., TOIS 2023); as published, its KL is divided by the batch size once more."""
    return {"name": "cvga", "model": {"kind": "cvga"}, "training": {"annealing": {"cap": 1 / 1024}}}


def l_diffrec() -> Values:
    """L-DiffRec (Wang et al., SIGIR 2023), two clusters, noise as published for Amazon-Book; KL annealed to 0.3."""
    training = {"batch_size": 400, "learning_rate": 5e-4, "annealing": {"cap": 0.3, "steps": 60}}
    return {"name": "l-diffrec", "model": {"kind": "l-diffrec"}, "training": training}


def lightgcn() -> Values:
    """LightGCN (He et al., SIGIR 2020), three layers, pairs in batches of 2048."""
    return {"name": "lightgcn", "model": {"kind": "lightgcn"}, "training": {"batch_size": 2048}}


RLMREC_FRAME: Values = {
    "model": {"embedding_dim": 32, "readout": "sum", "norms": "all", "keep": 0.8},
    "training": {"batch_size": 4096, "patience": 20},
}
"""LightGCN as the language-enhanced models of DMRec's Table 3 have it (Ren et al., WWW 2024); patience as in DMRec."""


def lightgcn_rlmrec() -> Values:
    """LightGCN as in RLMRec (Ren et al., WWW 2024), the frame of the language-enhanced baselines in DMRec's Table 3."""
    model = {"kind": "lightgcn", "initial": "xavier", "l2": 1e-6}
    return deep_merge(RLMREC_FRAME, {"name": "lightgcn-rlmrec", "model": model})


def rlmrec_c() -> Values:
    """RLMRec-C (Ren et al., WWW 2024): LightGCN contrasted with texts, as published for Amazon-Book and Yelp."""
    return deep_merge(RLMREC_FRAME, {"name": "rlmrec-c", "model": {"kind": "rlmrec-c", "l2": 1e-7}})


def rlmrec_g() -> Values:
    """RLMRec-G (Ren et al., WWW 2024): LightGCN that reconstructs texts of masked nodes, as for Amazon-Book."""
    return deep_merge(RLMREC_FRAME, {"name": "rlmrec-g", "model": {"kind": "rlmrec-g", "l2": 1e-7, "layers": 2}})


def alpharec() -> Values:
    """AlphaRec (Sheng et al., ICLR 2025): a network over texts, smoothed over the graph; no embeddings."""
    training = {"batch_size": 4096, "learning_rate": 5e-4}
    return {"name": "alpharec", "model": {"kind": "alpharec", "layers": 2, "l2": 0.0}, "training": training}


def alpharec_star() -> Values:
    """AlphaRec with the text of the user in place of the mean of the items' (AlphaRec* of DMRec's Table 3)."""
    return deep_merge(alpharec(), {"name": "alpharec-star", "model": {"user_input": "profile"}})


def kar() -> Values:
    """KAR (Xi et al., RecSys 2024) on LightGCN: gated experts over texts join the embeddings."""
    return deep_merge(RLMREC_FRAME, {"name": "kar", "model": {"kind": "kar", "l2": 1e-6}})


def llmrec() -> Values:
    """LLMRec (Wei et al., WSDM 2024), its language model's choice of pairs replaced by the cosine of texts."""
    training = {"batch_size": 1024, "learning_rate": 1e-4, "optimiser": "adamw", "weight_decay": 0.01}
    return {"name": "llmrec", "model": {"kind": "llmrec", "l2": 1e-5}, "training": training}


def promax() -> Values:
    """ProMax (SIGIR 2026, by DMRec's authors) on LightGCN, weights as published for Amazon-Book, without its LLM."""
    model = {"kind": "promax", "l2": 1e-6, "keep": 1.0}
    # validation falls for 900 steps before it rises for good: the authors' log for Amazon-Book has 17 evaluations
    # without a better one, in epochs of 30 steps, with a patience of 20; an epoch of smaller data has fewer steps
    return deep_merge(RLMREC_FRAME, {"name": "promax", "model": model, "training": {"patience": 100}})


def text_gcn() -> Values:
    """TextGCN (Chernov et al., 2025): texts smoothed over the graph; nothing is trained, layers by validation."""
    return {"name": "text-gcn", "model": {"kind": "text-gcn"}}


def cosine() -> Values:
    """A control: the cosine of an item's text with the texts of the items that a user likes. Nothing is trained."""
    return {"name": "cosine", "model": {"kind": "text-gcn", "layers": [0]}}


def llm_init() -> Values:
    """LLMInit (Zhang et al., 2025): LightGCN from the dimensions of the texts that vary most among popular items."""
    model = {"kind": "lightgcn", "initial": "text-variance", "embedding_dim": 128, "layers": 2}
    return {"name": "llm-init", "model": model, "training": {"batch_size": 2048}}


def ensemble() -> Values:
    """The weighted sum of the scores of trained models; name their folders: `--set 'model.runs=[A, B]'`."""
    return {"name": "ensemble", "model": {"kind": "ensemble"}}


NEXT_ITEM: Values = {
    "evaluation": {
        "metrics": ["recall@5", "recall@10", "ndcg@5", "ndcg@10"],
        "test_input": "train+valid",
        "exclude_seen": False,
    },
    "training": {"monitor": "ndcg@10"},
}
"""The protocol of the field: the last item of each user among all items, after all that came before."""


def markov() -> Values:
    """Baseline: what followed the user's last item most often in other histories."""
    return deep_merge(NEXT_ITEM, {"name": "markov", "model": {"kind": "markov"}})


def sasrec() -> Values:
    """SASRec (Kang and McAuley, ICDM 2018), two layers of width 64, cross entropy over all items."""
    training = {"epochs": 200, "batch_size": 256, "evaluate_every": 2, "patience": 10}
    return deep_merge(NEXT_ITEM, {"name": "sasrec", "model": {"kind": "sasrec"}, "training": training})


def tiger() -> Values:
    """TIGER (Rajput et al., NeurIPS 2023) on codes of the items, small, searched exactly."""
    # the published likelihood, over all codes of a level, also has to learn which tuples items have
    model = {"kind": "tiger", "loss_over": "children", "blocks": 4}
    training = {
        "epochs": 100,
        "batch_size": 128,
        "learning_rate": 3e-3,
        "optimiser": "adamw",
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup": 0.02,
        "clip": 1.0,
        "evaluate_every": 4,
        "patience": 5,
    }
    return deep_merge(NEXT_ITEM, {"name": "tiger", "model": model, "training": training})


def letter() -> Values:
    """LETTER-TIGER (Wang et al., CIKM 2024): TIGER as published, by a beam of 20, on codes called `letter`."""
    model = {"codes": "letter", "size": "published", "loss_over": "vocabulary", "blocks": 8}
    model |= {"search": "beam", "normalise": "vocabulary"}
    training = {"batch_size": 1024, "learning_rate": 5e-4, "warmup": 0.01, "epochs": 200, "patience": 20}
    return deep_merge(tiger(), {"name": "letter", "model": model, "training": training})


def tiger_soda() -> Values:
    """TIGER with SODA (Xue et al., RecSys 2026): history and next item agree in their distributions over codes."""
    return deep_merge(tiger(), {"name": "tiger-soda", "alignment": {"strategy": "soda"}})


def letter_soda() -> Values:
    """LETTER-TIGER with SODA (Xue et al., RecSys 2026)."""
    return deep_merge(letter(), {"name": "letter-soda", "alignment": {"strategy": "soda"}})


def etegrec() -> Values:
    """ETEGRec (Liu et al., SIGIR 2025): recommender and tokenizer learn in turns, joined by SIA and PSA."""
    transformer = {
        "layers": 6,
        "width": 128,
        "feed_forward": 512,
        "heads": 4,
        "head_width": 64,
        "initialisation": "normal",
    }
    model = {"transformer": transformer, "head_scale": "one", "history": 50, "loss_over": "vocabulary", "blocks": 8}
    model |= {"search": "beam", "normalise": "vocabulary"}
    alignment = {"strategy": "sia", "weight": 1e-4, "temperature": 1.0, "residual": "hard", "psa_weight": 3e-4}
    alignment |= {"distinct_targets": True}
    phases = [
        {"mode": "alternate", "epochs": 200, "cycle": 2, "alignment_from": 11, "patience": 15},
        {"mode": "frozen", "epochs": 100, "learning_rate": 5e-4, "patience": 10},
    ]
    training = {"batch_size": 512, "learning_rate": 5e-3, "weight_decay": 0.05, "warmup": 0.1, "evaluate_every": 2}
    values = {"name": "etegrec", "model": model, "alignment": alignment, "phases": phases, "training": training}
    return deep_merge(tiger(), values)


def etegrec_soda() -> Values:
    """ETEGRec with SODA (Xue et al., RecSys 2026) in place of SIA."""
    alignment = {"strategy": "soda", "weight": 0.1, "temperature": "calibrated", "residual": "soft"}
    alignment |= {"refresh_temperature": True}
    return deep_merge(etegrec(), {"name": "etegrec-soda", "alignment": alignment})


STRATEGIES = {
    "g": ("2-Wasserstein distance (GODM)", {"strategy": "godm", "beta": 0.4}),
    "c": ("composite prior (CPDM)", {"strategy": "cpdm", "beta": 0.2}),
    "m": ("mixed KL divergences (MDDM)", {"strategy": "mddm", "beta": 0.5}),
}
"""Betas as published for Mult-VAE: G and C on Amazon-Book, M on Steam, between the other two."""


def _variants() -> dict[str, Callable[[], Values]]:
    """Each backbone with each strategy."""
    made = {}
    for base, prefix, remark in (
        (mult_vae, "dmrec", "beta as published for Amazon-Book (G, C) and Steam (M)"),
        (cvga, "cvga", "its beta is not published: that of Mult-VAE"),
        (l_diffrec, "l-diffrec", "its beta is not published: that of Mult-VAE; annealed like the KL that it replaces"),
    ):
        for letter, (what, matching) in STRATEGIES.items():
            made[f"{prefix}-{letter}"] = _variant(base, f"{prefix}-{letter}", matching, f"{what}; {remark}")
    return made


def _variant(base: Callable[[], Values], name: str, matching: Values, remark: str) -> Callable[[], Values]:
    def make() -> Values:
        values = {**base(), "name": name, "language": {}, "matching": dict(matching)}
        if base is cvga:
            values.pop("training")
        return values

    backbone = {"mult_vae": "Mult-VAE", "cvga": "CVGA", "l_diffrec": "L-DiffRec"}[base.__name__]
    make.__doc__ = f"{backbone} with DMRec-{name[-1].upper()}: {remark}."
    return make


BASES = (
    popularity,
    ease,
    l3ae,
    markov,
    lightgcn,
    lightgcn_rlmrec,
    rlmrec_c,
    rlmrec_g,
    alpharec,
    alpharec_star,
    kar,
    llmrec,
    promax,
    text_gcn,
    cosine,
    llm_init,
    mult_vae,
    mult_vae_beta,
    mult_vae_original,
    cvga,
    l_diffrec,
    sasrec,
    tiger,
    letter,
    etegrec,
    tiger_soda,
    letter_soda,
    etegrec_soda,
    ensemble,
)
RECIPES: dict[str, Callable[[], Values]] = {**{base()["name"]: base for base in BASES}, **_variants()}
BASELINES = ("popularity", "ease")


_DROPOUT = {"amazon-book": 0.3, "yelp": 0.3, "steam": 0.2}  # of Mult-VAE, the authors' settings
_BETA = {  # of Mult-VAE with each strategy, the authors' table (encoder/config/beta.md in their repository)
    "dmrec-g": {"amazon-book": 0.4, "yelp": 0.8, "steam": 1.0},
    "dmrec-c": {"amazon-book": 0.2, "yelp": 0.9, "steam": 0.6},
    "dmrec-m": {"amazon-book": 0.6, "yelp": 0.4, "steam": 0.5},
}
_NOISE = {  # of L-DiffRec, as its authors set it for the two datasets that they share with DMRec
    "amazon-book": {"steps": 5, "noise_scale": 0.5, "noise_min": 0.001, "noise_max": 0.005, "weight": 0.05},
    "yelp": {"steps": 5, "noise_scale": 0.01, "noise_min": 0.005, "noise_max": 0.01, "weight": 0.03},
}
_RLMREC: dict[str, dict[str, Values]] = {  # as its authors set them
    "lightgcn-rlmrec": {"amazon-book": {"layers": 3}, "yelp": {"layers": 3}, "steam": {"layers": 2}},
    "rlmrec-c": {
        "amazon-book": {"l2": 1e-7, "weight": 1e-2, "temperature": 0.2},
        "yelp": {"l2": 1e-7, "weight": 1e-2, "temperature": 0.2},
        "steam": {"l2": 1e-8, "weight": 1e-3, "temperature": 0.1},
    },
    "rlmrec-g": {
        "amazon-book": {"l2": 1e-7, "mask": 0.15, "weight": 0.1, "temperature": 0.5},
        "yelp": {"l2": 1e-7, "mask": 0.05, "weight": 0.01, "temperature": 0.1},
        "steam": {"l2": 1e-6, "mask": 0.15, "weight": 0.1, "temperature": 0.5},
    },
}
_RLMREC["promax"] = {
    "amazon-book": {"distribution_weight": 1.5, "graph_weight": 0.05, "temperature": 0.2},
    "yelp": {"distribution_weight": 0.5, "graph_weight": 0.1, "temperature": 0.2},
    "steam": {"distribution_weight": 0.5, "graph_weight": 0.1, "temperature": 0.5},
}
DATASETS = tuple(_DROPOUT)


def published_settings(name: str) -> dict[str, Values]:
    """By dataset: what was published for a recipe there. Nothing was for CVGA with DMRec; L-DiffRec's betas neither."""
    if name in _RLMREC:
        return {dataset: {"model": options} for dataset, options in _RLMREC[name].items()}
    if name.startswith("l-diffrec"):
        return {dataset: {"model": noise} for dataset, noise in _NOISE.items()}
    if name == "mult-vae" or name in _BETA:
        return {
            dataset: {"model": {"dropout": dropout}}
            | ({"matching": {"beta": _BETA[name][dataset]}} if name in _BETA else {})
            for dataset, dropout in _DROPOUT.items()
        }
    return {}


def recipe(name: str) -> Values:
    """The values of a recipe; ``NAME.DATASET`` with what was published for it on that dataset, ``NAME.permuted`` with
    each item's and user's text vector replaced by that of another, a control.
    """
    base, _, dataset = name.partition(".")
    if base not in RECIPES:
        raise DmrecError(f"no recipe is called '{base}'{did_you_mean(base, RECIPES)}")
    values = RECIPES[base]()
    if not dataset:
        return values
    if dataset == PERMUTED:
        return {**deep_merge(values, _of_permuted_texts(base, values)), "name": name}
    known = published_settings(base)
    if dataset not in known:
        where = did_you_mean(dataset, known) if known else "; for none"
        raise DmrecError(f"for recipe '{base}' nothing is published on '{dataset}'{where}")
    return {**deep_merge(values, known[dataset]), "name": name}


def _of_permuted_texts(name: str, values: Values) -> Values:
    """Where a recipe's configuration names the text vectors that it reads."""
    model = build_config(values).model
    if "language" in values:
        return {"language": {"vectors": PERMUTED}}
    if isinstance(model, WithTextVectors):
        return {"model": {"vectors": PERMUTED}}
    if isinstance(model, WithItemEmbeddings) and model.uses_item_embeddings:
        return {"model": {"item_embeddings": PERMUTED}}
    raise DmrecError(f"recipe '{name}' reads no texts that could be permuted")


def compose(recipes: Sequence[str], over: dict[str, Any], overrides: Sequence[str]) -> list[Config]:
    """Configurations from recipes, the values of a file, and single overrides such as ``training.epochs=50``.

    With several recipes, options of ``language`` and ``matching`` go to those that have these sections.
    """
    if not recipes and not over:
        raise DmrecError(f"name a recipe ({', '.join(RECIPES)}) or give --config")
    bases = [recipe(name) for name in dict.fromkeys(recipes)] or [{}]
    some_have_language = any("language" in values for values in bases)
    configs = []
    for values in bases:
        foreign = {"language", "matching"} - values.keys() if some_have_language else set()
        mine = {section: value for section, value in over.items() if section not in foreign}
        chosen = [override for override in overrides if override.split(".")[0].split("=")[0] not in foreign]
        try:
            configs.append(build_config(apply_overrides(deep_merge(values, mine), chosen)))
        except DmrecError as error:
            raise DmrecError(f"{values['name']}: {error}" if len(bases) > 1 else str(error)) from None
    if len({each.name for each in configs}) < len(configs):
        raise DmrecError("two recipes cannot have one name; leave 'name' out, or train them one after the other")
    return configs
