"""From a configuration and data to a model: the one place where the language side joins a backbone."""

from __future__ import annotations

from .config import Config
from .models.base import Model, TrainingData
from .models.dmrec.model import Dmrec
from .models.vae.model import BackboneConfig


def build_model(config: Config, data: TrainingData) -> Model:
    """The model on the CPU; initial weights follow torch's global seed."""
    if config.language is None or config.matching is None:
        model: Model = config.model.build(data)
    else:
        assert isinstance(config.model, BackboneConfig), "the configuration was validated"
        model = Dmrec(config.model.backbone(data), data, config.language, config.matching)
    model.candidate_precision = config.training.precision
    return model
