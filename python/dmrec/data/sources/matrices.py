"""Matrices and vectors in files of other programs: .npz and .npy, or the pickles of RLMRec and DMRec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp

from ..arrays import checked_interactions, checked_matrix, read_matrix, read_vectors
from .pickles import read_pickle

MATRICES = (".npz", ".pkl")


def read_matrix_file(path: Path) -> sp.csr_matrix:
    """The interactions in a .pkl file or in an .npz file (see `read_matrix`)."""
    return checked_interactions(read_pickle(path), path) if path.suffix == ".pkl" else read_matrix(path)


def read_vectors_file(path: Path) -> np.ndarray:
    """The matrix of vectors in a .pkl file or in an .npy file (see `read_vectors`)."""
    return checked_matrix(read_pickle(path), path) if path.suffix == ".pkl" else read_vectors(path)
