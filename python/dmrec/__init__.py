"""DMRec: recommenders that know what things are.

>>> import dmrec
>>> "dmrec-m" in dmrec.list_recipes()
True
"""

import importlib.metadata
from contextlib import suppress

from .api import embed, evaluate, list_recipes, load, open_dataset, profile, train
from .config import Config
from .data.dataset import Dataset
from .data.sources.frames import dataset_from_frame as dataset
from .errors import DmrecError
from .inference.recommender import ItemVectors, Posterior, Recommender
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
    "dataset",
    "embed",
    "evaluate",
    "list_recipes",
    "load",
    "open_dataset",
    "profile",
    "train",
]

__version__ = "unknown"
with suppress(importlib.metadata.PackageNotFoundError):  # where it is imported from a folder of sources
    __version__ = importlib.metadata.version("dmrec")
