"""gaussian_w2 on a GPU: the CPU's tests once more."""

import pytest

from tests.ops.test_gaussian_w2 import *

pytestmark = pytest.mark.cuda
