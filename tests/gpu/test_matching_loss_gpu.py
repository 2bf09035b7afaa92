"""matching_loss on a GPU: the CPU's tests once more."""

import pytest

from tests.ops.test_matching_loss import *

pytestmark = pytest.mark.cuda
