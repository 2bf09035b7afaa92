"""Sizes beyond 2^31 on a GPU: ``pytest -m "cuda and slow" tests/gpu/test_large_gpu.py``, with 20 GB of its memory."""

import pytest

from tests.ops.test_large import *

pytestmark = [pytest.mark.cuda, pytest.mark.slow]
