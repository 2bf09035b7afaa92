"""DMRec: recommenders that know what things are.

>>> import dmrec
>>> "dmrec-m" in dmrec.list_recipes()
True
"""

import importlib
import importlib.metadata
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import add_items, embed, evaluate, list_recipes, load, open_dataset, profile, tokenize, train
    from .config import Config
    from .data.dataset import Dataset
    from .data.sources.frames import dataset_from_frame as dataset
    from .errors import DmrecError
    from .inference.recommender import Recommender
    from .inference.vectors import ItemVectors, Posterior
    from .table import Table
    from .training.observer import Observer

__all__ = [
    "Config",
    "Dataset",
    "DmrecError",
    "ItemVectors",
    "Observer",
    "Posterior",
    "Recommender",
    "Table",
    "add_items",
    "dataset",
    "embed",
    "evaluate",
    "list_recipes",
    "load",
    "open_dataset",
    "profile",
    "tokenize",
    "train",
]

_MODULES = {
    "Config": "config",
    "Dataset": "data.dataset",
    "DmrecError": "errors",
    "ItemVectors": "inference.vectors",
    "Observer": "training.observer",
    "Posterior": "inference.vectors",
    "Recommender": "inference.recommender",
    "Table": "table",
    "dataset": "data.sources.frames",
}
"""Where names are that are not in `api`. They are imported on first use: the command line prints its help without."""

__version__ = "unknown"
with suppress(importlib.metadata.PackageNotFoundError):  # where it is imported from a folder of sources
    __version__ = importlib.metadata.version("dmrec")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dmrec' has no attribute '{name}'")
    module = importlib.import_module(f".{_MODULES.get(name, 'api')}", __name__)
    value = getattr(module, "dataset_from_frame" if name == "dataset" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
