"""How two posteriors are matched: the loss beside the reconstruction."""

from .objective import Matching, Objective, Prior

__all__ = ["Matching", "Objective", "Prior"]
