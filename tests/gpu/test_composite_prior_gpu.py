"""composite_prior on a GPU: the CPU's tests once more."""

import pytest

from tests.ops.test_composite_prior import *

pytestmark = pytest.mark.cuda
