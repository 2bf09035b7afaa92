"""gaussian_kl on a GPU: the CPU's tests once more."""

import pytest

from tests.ops.test_gaussian_kl import *

pytestmark = pytest.mark.cuda
