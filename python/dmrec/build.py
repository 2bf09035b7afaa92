"""From a configuration and data to a model: where the language side joins a backbone, and an alignment its model."""

from __future__ import annotations

from .config import Config
from .errors import DmrecError
from .models.base import Model, TrainingData
from .models.dmrec.model import Dmrec
from .models.sequential.alignment import Aligned
from .models.sequential.generative import GenerativeModel
from .models.vae.model import BackboneConfig, Vae


def build_model(config: Config, data: TrainingData) -> Model:
    """The model on the CPU; initial weights follow torch's global seed."""
    model: Model
    if config.alignment is not None:
        recommender = config.model.build(data)
        if not isinstance(recommender, GenerativeModel):
            raise DmrecError(f"model '{config.model.kind}' is not a GenerativeModel, which an alignment needs")
        learns = any(phase.tokenizer_learns for phase in config.phases)
        model = Aligned(recommender, data, config.alignment, learns=learns)
    elif config.language is None or config.matching is None:
        model = config.model.build(data)
    else:
        assert isinstance(config.model, BackboneConfig), "the configuration was validated"
        model = Dmrec(config.model.backbone(data), data, config.language, config.matching)
    options = config.model
    if isinstance(options, BackboneConfig) and options.item_text is not None:
        assert isinstance(model, Vae), "a backbone is trained as a Vae"
        if not model.knows_new_items:
            raise DmrecError(f"model.item_text: the decoder of '{options.kind}' does not read texts; leave it out")
    return model
