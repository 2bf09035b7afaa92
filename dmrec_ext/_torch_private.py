"""What dmrec_ext needs of torch and torch does not document, in one file: a new version of torch may move it.

Each name is resolved on import, so a version of torch that lacks one fails there and not in the middle of training.
"""

import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch.autograd import forward_ad

is_fake = fake_tensor.is_fake
"""is_fake(tensor): whether FakeTensorMode or a compiler made a tensor, which then has no contents to check."""

has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
"""has_kernel(name, key): whether a loaded library has a kernel of an operator for a dispatch key (``"CPU"``), which
decides between the native and the reference path."""

AutoDispatchBelowAutograd = torch._C._AutoDispatchBelowAutograd
"""Context in which an operator's kernel is called without its registered autograd, from inside of an
`torch.autograd.Function` that replaces it."""

is_jit_tracing = torch._C._get_tracing_state
"""is_jit_tracing(): truthy while `torch.jit.trace` records, which must see operators instead of Python functions."""

_transforms_active = torch._C._are_functorch_transforms_active
_functorch = torch._C._functorch


def transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is active, for which no kernel has a rule."""
    return bool(_transforms_active()) or forward_ad._current_level >= 0


def is_batched(grad: Tensor) -> bool:
    """Whether a gradient is a batch of many, as in ``torch.autograd.grad(.., is_grads_batched=True)``."""
    return bool(_functorch.is_legacy_batchedtensor(grad) or _functorch.is_batchedtensor(grad))
