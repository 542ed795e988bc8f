"""Checkpoints of a stage in training, saved so that a kill at any moment costs at most seconds.

One safetensors file holds the weights, their moving average, the optimiser's moments, and, as JSON in its header,
the place reached. Nothing in it can execute code. It is written aside, synced and renamed: atomically.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxrlines.core.errors import Error
from cxrlines.models.weights import load_weights, save_weights


@dataclass
class Progress:
    """How far a stage has come. `history` has a row of metrics for each finished epoch.

    `loss_sum` and `loss_steps` are of the steps of the epoch under way whose loss is finite.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float | None = None
    epochs_since_best: int = 0
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_steps: int = 0

    def add(self, losses: Sequence[float]) -> None:
        """Count the losses of further steps; a step that half precision skipped has none."""
        for loss in filter(math.isfinite, losses):  # one by one: in the same order whenever they come
            self.loss_sum += loss
            self.loss_steps += 1

    @property
    def loss(self) -> float:
        """The mean loss of the epoch under way; NaN where no step had one."""
        return self.loss_sum / self.loss_steps if self.loss_steps else math.nan

    def end_epoch(self, figures: Mapping[str, float], aucs: Mapping[str, float | None]) -> bool:
        """Go on to the next epoch; whether the watched AUC of this one is the best so far.

        `figures` are its loss and learning rate (`lr`), `aucs` as `watching.watched_aucs` gives them.
        """
        value = aucs["auc"]
        row = {"epoch": self.epoch + 1, "loss": figures["loss"], "auc": value, "lr": figures["lr"]}
        self.history.append({**row, **aucs})
        self.epoch, self.batch, self.loss_sum, self.loss_steps = self.epoch + 1, 0, 0.0, 0
        better = value is not None and (self.best is None or value > self.best)
        self.best, self.epochs_since_best = (value, 0) if better else (self.best, self.epochs_since_best + 1)
        return better


@dataclass
class State:
    """All that is needed to go on: tensors by group (`model`, `average`, `best`), the optimiser, and the progress."""

    progress: Progress
    tensors: dict[str, dict[str, Tensor]]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def save_state(path: Path, step: str, state: State) -> None:
    """Write `state` of the step with identity `step`, atomically."""
    flat = {f"{group}/{name}": t for group, tensors in state.tensors.items() for name, t in tensors.items()}
    plain: dict[str, dict[str, Any]] = {}  # of the optimiser's slots: Muon notes which weights it moves
    for index, slots in state.optimizer.get("state", {}).items():
        flat |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items() if isinstance(value, Tensor)}
        plain[str(index)] = {slot: value for slot, value in slots.items() if not isinstance(value, Tensor)}
    header = {
        "step": step,
        "progress": asdict(state.progress),
        "param_groups": state.optimizer.get("param_groups", []),
        "optimizer": plain,
        "scaler": state.scaler,
    }
    save_weights(path, flat, {"state": json.dumps(header)})


def load_state(path: Path, step: str) -> State | None:
    """The state saved for this very step, or None where there is none, or only that of another specification."""
    if not path.exists():
        return None
    flat, meta = load_weights(path)
    header = json.loads(meta["state"])
    if header["step"] != step:
        return None
    tensors: dict[str, dict[str, Tensor]] = {}
    slots: dict[int, dict[str, Any]] = {int(index): plain for index, plain in header["optimizer"].items()}
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        if group == "optimizer":
            index, _, slot = name.partition("/")
            slots.setdefault(int(index), {})[slot] = tensor
        else:
            tensors.setdefault(group, {})[name] = tensor
    optimizer = {"state": slots, "param_groups": header["param_groups"]} if header["param_groups"] else {}
    return State(Progress(**header["progress"]), tensors, optimizer, header["scaler"])


def cpu_copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, detached, contiguous, on the processor, none sharing memory with a model."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


MAX_SKIPPED = 30
"""Steps in a row whose loss is not finite, after which half precision is given up; its scaler skips a few at times."""
MIN_SCALE = 2.0**-20
"""Half precision is given up too when its scaler has come down to this, by 36 skipped steps from its 65,536."""


LATEST = 50
"""Steps whose mean loss is shown while a stage trains."""


class DivergedError(Error):
    """The loss is not finite, and the model in training is unusable; the state saved last is still good."""


class LossLog:
    """Losses of a stage's steps. `settings` names, in an error, what the losses come from."""

    def __init__(self, settings: str) -> None:
        self.settings = settings
        self.fresh: list[Tensor] = []  # still on the device
        self.latest: deque[float] = deque(maxlen=LATEST)
        self.not_finite = 0  # in a row, up to the last

    def fetch(self, step_now: int, scaler: Any | None) -> list[float]:
        """The losses since the last fetch. Only then the processor waits for a GPU, not in every step.

        Raises:
            DivergedError: a loss is not finite; in half precision, whose scaler skips such steps, many in a row.
        """
        if not self.fresh:
            return []
        losses: list[float] = torch.stack(self.fresh).tolist()
        self.fresh.clear()
        for step, loss in enumerate(losses, start=step_now - len(losses)):
            self.not_finite = 0 if math.isfinite(loss) else self.not_finite + 1
            if self.not_finite > (MAX_SKIPPED if scaler else 0):
                raise self.diverged(f"the loss became {loss} at step {step - self.not_finite + 1}")
        if scaler and scaler.get_scale() < MIN_SCALE:
            raise self.diverged(f"by step {step_now} most gradients were too large for 16 bits")
        self.latest += losses
        return losses

    def diverged(self, what: str) -> DivergedError:
        """The error of what shows that."""
        return DivergedError(
            f"{what} with {self.settings}",
            "lower schedule.lr, set schedule.clip, or use precision 32 (bf16 instead of 16, where the GPU has it)",
        )


def finite_mean(values: Iterable[float]) -> float:
    """The mean of what is finite of `values`, NaN where nothing is: a step that half precision skipped has no loss."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
