"""A GPU that is not there: tensors in the CPU's memory that count as on another device.

A mode for torch's functions. What is made without a device, or on ``cpu:0``, is on the pretended device and says so;
what is made on ``cpu`` is on the CPU. Both in one call, or a numpy array of the former, is an error as it is with a
GPU. Results are the CPU's. What the mode does not see (inside autograd, operators, compiled code) is not checked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

PRETENDED, CPU = torch.device("cpu", 0), torch.device("cpu")


class PretendedDevice(TorchFunctionMode):
    """Inside, torch's default device is the pretended one."""

    def __init__(self) -> None:
        super().__init__()
        self._where = WeakTensorKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # a new wrapper each time
            return self._device_of(args[0], func(*args))
        if func in (Tensor.numpy, Tensor.__array__) and self._where.get(args[0]) == PRETENDED:
            raise TypeError("can't convert a tensor of the pretended device to numpy")
        if func in _device_constructors():
            return self._made(func, args, kwargs)
        if func in (Tensor.to, Tensor.cpu) and args[0].device.type == "cpu":
            target = self._target(func, args, kwargs)
            if target is not None and target != self._where.get(args[0], target):
                args = (args[0].clone(), *args[1:])  # torch gives back the tensor itself
            return self._marked(func(*args, **kwargs), target or self._where.get(args[0]))
        return self._marked(func(*args, **kwargs), self._common(func, args, kwargs))

    def _device_of(self, tensor: Tensor, actual: torch.device) -> torch.device:
        return self._where.get(tensor, PRETENDED) if actual.type == "cpu" else actual

    def _made(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else PRETENDED
        generator = kwargs.get("generator")
        if generator is not None and device == PRETENDED:
            raise RuntimeError("expected a generator of the pretended device")
        return self._marked(func(*args, **kwargs), device if device.type == "cpu" else None)

    def _target(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
        """The device that ``to`` or ``cpu`` asks for, if it is one of the two."""
        if func is Tensor.cpu:
            return CPU
        for value in (*args[1:], *kwargs.values()):
            if isinstance(value, Tensor):
                return self._where.get(value)
            if isinstance(value, torch.device | str):
                device = torch.device(value)
                return device if device.type == "cpu" else None
        return None

    def _common(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
        """The device of the tensors of a call; an error where they are on two and none of them is one number."""
        if func is torch.from_numpy:
            return CPU
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        known = {self._where[t] for t in tensors if t in self._where}
        if len(known) == 2 and func is not Tensor.copy_:
            moved = func in (Tensor.__getitem__, Tensor.__setitem__) and self._where.get(args[0]) == PRETENDED
            if not moved and len({self._where[t] for t in tensors if t in self._where and t.dim() > 0}) == 2:
                raise RuntimeError(f"{func.__name__}: tensors are on the CPU and on the pretended device")
        return PRETENDED if PRETENDED in known else CPU if known else None

    def _marked(self, result: Any, device: torch.device | None) -> Any:
        def mark(tensor: Tensor) -> Tensor:
            if device is not None and tensor.device.type == "cpu":
                self._where[tensor] = device
            return tensor

        return tree_map_only(Tensor, mark, result)
