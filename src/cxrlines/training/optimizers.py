"""Optimisers, and what of a network they move at which rate: frozen parts, layer-wise decay, the head's own rate."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import timm.optim
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from cxrlines.core.errors import Error
from cxrlines.models.classifier import Classifier, Model, TwoStep
from cxrlines.training.config import MOMENTUM, ScheduleSpec

LR_SCALE = "lr_scale"
"""Key of a parameter group: its learning rate over the schedule's."""
FUSED = ("adam", "adamw", "sgd")
"""Optimisers whose step torch has as one kernel on a GPU."""


def make_optimizer(model: Model, schedule: ScheduleSpec, *, fused: bool = False) -> torch.optim.Optimizer:
    """The optimiser of a stage; `fused` asks for one kernel a step, of models on a GPU, where torch has it.

    Raises:
        Error: `layer_decay` on a backbone whose layers timm does not know.
    """
    name = schedule.optimizer
    options: dict[str, Any] = {"lr": schedule.lr, "weight_decay": schedule.weight_decay}
    if name in MOMENTUM:
        momentum = MOMENTUM[name] if schedule.momentum is None else schedule.momentum
        options |= {"momentum": momentum, "nesterov": schedule.nesterov}
    if fused and name in FUSED:
        options["fused"] = True
    return _OPTIMIZERS[name](_groups(model, schedule), **options)


_OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "nadamw": timm.optim.NAdamW,
    "lion": timm.optim.Lion,
    "muon": timm.optim.Muon,
}


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from the state of a killed run."""
    optimizer.load_state_dict(state)
    # Moments go into their parameter's memory format: the same numbers, but faster steps.
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if isinstance(value, Tensor) and value.dim() and value.shape == parameter.shape:
                slots[slot] = torch.empty_like(parameter).copy_(value)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the schedule, in each group times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(LR_SCALE, 1.0)


def _groups(model: Model, schedule: ScheduleSpec) -> Any:
    """The parameters of a model, in groups where they learn at several rates; muon moves a head as AdamW does."""
    if schedule.layer_decay == schedule.head_lr == 1 and schedule.optimizer != "muon":
        return model.parameters()
    network = reader(model)
    depths = _depths(network) if schedule.layer_decay < 1 else {}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        top = not name.startswith("backbone.")
        scale = schedule.head_lr if top else schedule.layer_decay ** depths.get(name, 0)
        group = groups.setdefault((scale, top), {"params": [], LR_SCALE: scale})
        group["params"].append(parameter)
        if top and schedule.optimizer == "muon":
            group["use_fallback"] = True
    return list(groups.values())


def _depths(network: Classifier) -> dict[str, int]:
    """How many layers below the head each parameter of the backbone is: from 1, as timm groups them."""
    net = network.backbone.net
    if not hasattr(net, "group_matcher"):
        raise Error(
            "schedule.layer_decay: timm does not know the layers of this backbone", "take another one, or leave it out"
        )
    layers = group_parameters(net, net.group_matcher(coarse=False), reverse=True)
    top = max(layers.values()) + 1
    return {f"backbone.net.{name}": top - layer for name, layer in layers.items()}


def reader(model: Model) -> Classifier:
    """What is trained of a model: itself, or the classifier of a two-step one."""
    return model.classifier if isinstance(model, TwoStep) else model


class Frozen:
    """What `freeze` names of a model: parameters that do not move, in modules that evaluate.

    A module whose parameters are all frozen evaluates: its batch norm keeps its running statistics, its dropout drops
    nothing.

    Raises:
        Error: a pattern that matches no parameter, with examples of those there are, or one that leaves none.
    """

    def __init__(self, model: Model, patterns: str | Sequence[str]) -> None:
        network, wanted = reader(model), [patterns] if isinstance(patterns, str) else patterns
        named = dict(network.named_parameters())
        for pattern in wanted:
            if not any(_matches(name, pattern) for name in named):
                raise Error(
                    f"schedule.freeze: {pattern!r} matches no parameter",
                    f"name a part ({', '.join(name for name, _ in network.named_children())}) or a pattern of names "
                    f"such as {', '.join(list(named)[:: max(1, len(named) // 4)])}",
                )
        held = {name for name in named if any(_matches(name, pattern) for pattern in wanted)}
        if held == named.keys():
            raise Error(
                f"schedule.freeze: {', '.join(wanted)} leaves nothing to train", "freeze less, or leave the stage out"
            )
        self.parameters = [named[name] for name in sorted(held)]
        self.network = network
        self.holds = False

    def hold(self, holds: bool) -> None:
        """Freeze or unfreeze. To be called again after anything that sets the model's modules to training mode."""
        self.holds = holds
        for parameter in self.parameters:
            parameter.requires_grad_(not holds)
        of = {id(parameter) for parameter in self.parameters}
        # Found anew: `distributed.synchronise` puts other batch norms, of the same parameters, in the place of some.
        for module in [each for each in self.network.modules() if _all_in(each, of)]:
            module.train(not holds)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _all_in(module: nn.Module, some: set[int]) -> bool:
    own = [id(parameter) for parameter in module.parameters()]
    return bool(own) and all(each in some for each in own)
