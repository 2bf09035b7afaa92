"""Named configurations, each a function, so that options that belong together are set together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import DmrecError, did_you_mean

Values = dict[str, Any]


def popularity() -> Values:
    """Baseline: the most popular items for everybody."""
    return {"name": "popularity", "model": {"kind": "popularity"}}


def ease() -> Values:
    """Baseline: EASE, exact, lambda searched on validation."""
    return {"name": "ease", "model": {"kind": "ease"}}


def mult_vae() -> Values:
    """Mult-VAE as DMRec's base: binary input, dropout 0.3, no annealing."""
    return {"name": "mult-vae", "model": {"kind": "mult-vae"}}


def mult_vae_original() -> Values:
    """Mult-VAE as published (Liang et al., WWW 2018): L2-normalised input, dropout 0.5, KL annealed to 0.2."""
    annealing = {"cap": 0.2, "steps": 200_000}
    return {
        "name": "mult-vae-original",
        "model": {"kind": "mult-vae", "dropout": 0.5, "normalise": True, "initialisation": "xavier"},
        "training": {"batch_size": 500, "annealing": annealing},
    }


def _dmrec(letter: str, **matching: Any) -> Values:
    return {**mult_vae(), "name": f"dmrec-{letter}", "language": {}, "matching": matching}


def dmrec_g() -> Values:
    """Mult-VAE with DMRec-G: 2-Wasserstein distance (GODM); beta as published for Amazon-Book."""
    return _dmrec("g", strategy="godm", beta=0.4)


def dmrec_c() -> Values:
    """Mult-VAE with DMRec-C: composite prior (CPDM); beta as published for Amazon-Book."""
    return _dmrec("c", strategy="cpdm", beta=0.2)


def dmrec_m() -> Values:
    """Mult-VAE with DMRec-M: mixed KL divergences (MDDM); beta as published for Steam, between the other two."""
    return _dmrec("m", strategy="mddm", beta=0.5)


RECIPES: dict[str, Callable[[], Values]] = {
    recipe()["name"]: recipe for recipe in (popularity, ease, mult_vae, mult_vae_original, dmrec_g, dmrec_c, dmrec_m)
}
BASELINES = ("popularity", "ease")


def recipe(name: str) -> Values:
    """The values of a recipe."""
    if name not in RECIPES:
        raise DmrecError(f"no recipe is called '{name}'{did_you_mean(name, RECIPES)}")
    return RECIPES[name]()
