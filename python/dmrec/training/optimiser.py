"""Adam over a model's parameter groups: in one pass, or, for items that are cut into shards, within the backward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..config import TrainingConfig
from ..models.base import TrainedModel
from ..sharding.items import shard_of

Group = dict[str, Any]


def optimiser_of(model: TrainedModel, settings: TrainingConfig) -> torch.optim.Optimizer | ShardedOptimiser:
    """Adam or AdamW over the model's parameter groups, in one fused pass where the device has it."""
    groups = model.parameter_groups(settings.learning_rate)
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    if any(shard_of(name) is not None for name in names.values()):
        return ShardedOptimiser(groups, names, settings, model.device)
    return _adam(groups, settings, model.device)


def _adam(groups: Iterable[Group], settings: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    fused = device.type in ("cpu", "cuda")
    return kind(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)


class ShardedOptimiser:
    """Optimisers of a model whose items are cut: one for each table of a shard, one for all other parameters.

    A table is updated within the backward, as soon as its gradient is complete, which is then freed: the gradient of
    one table is in memory at a time. `step` updates all else. The states are called by the names of the parameters.
    """

    def __init__(
        self, groups: Iterable[Group], names: dict[Tensor, str], settings: TrainingConfig, device: torch.device
    ) -> None:
        self.names = names
        others = []
        self.of_tables: list[torch.optim.Optimizer] = []
        for group in groups:
            rest = []
            for parameter in group["params"]:
                if shard_of(names[parameter]) is None:
                    rest.append(parameter)
                elif parameter.numel():
                    optimiser = _adam([{**group, "params": [parameter]}], settings, device)
                    parameter.register_post_accumulate_grad_hook(_stepping(optimiser))
                    self.of_tables.append(optimiser)
            others.append({**group, "params": rest})
        self.others = _adam(others, settings, device)

    @property
    def param_groups(self) -> list[Group]:
        """The groups of all optimisers, which may be changed."""
        return [group for optimiser in self._all() for group in optimiser.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Frees the gradients; tables have none left. Before the first step it makes the moments of the tables: if they
        were made within the backward, between gradients that are freed, the heap would be left full of holes.
        """
        for optimiser in self.of_tables:
            _make_moments(optimiser)
        self.others.zero_grad(set_to_none)

    def step(self) -> None:
        """Updates the parameters without an item axis."""
        self.others.step()

    def state_dict(self) -> dict[str, Any]:
        """``state``: by the name of a parameter, its moments and number of steps; ``param_groups``."""
        state = {
            self.names[parameter]: values for optimiser in self._all() for parameter, values in optimiser.state.items()
        }
        return {"state": state, "param_groups": []}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """What `state_dict` returned."""
        state: dict[str, dict[str, Tensor]] = saved["state"]
        for optimiser in self._all():
            own = optimiser.state_dict()
            named = [self.names[each] for group in optimiser.param_groups for each in group["params"]]
            own["state"] = {i: state[name] for i, name in enumerate(named) if name in state}
            optimiser.load_state_dict(own)

    def _all(self) -> Iterator[torch.optim.Optimizer]:
        yield from self.of_tables
        yield self.others


def _make_moments(optimiser: torch.optim.Optimizer) -> None:
    """What the first step of Adam would begin with."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            if parameter not in optimiser.state:
                step = torch.zeros((), dtype=torch.float32, device=parameter.device)
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimiser.state[parameter] = {"step": step, **moments}


def _stepping(optimiser: torch.optim.Optimizer) -> Any:
    """A hook of a parameter that updates it and frees its gradient."""

    def step(parameter: Tensor) -> None:
        optimiser.step()
        parameter.grad = None

    return step
