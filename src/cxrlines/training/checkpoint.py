"""Checkpoints of a stage in training, saved so that a kill at any moment costs at most seconds.

One safetensors file holds the weights, their moving average, the optimiser's moments, and, as JSON in its header,
the place reached. Nothing in it can execute code. It is written aside, synced and renamed: whole or not at all.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cxrlines.models.weights import load_weights, save_weights


@dataclass
class Progress:
    """How far a stage has come. `history` has a row of metrics for each finished epoch."""

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float | None = None
    epochs_since_best: int = 0
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class State:
    """All that is needed to go on: tensors by group (`model`, `ema`, `best`), the optimiser, and the progress."""

    progress: Progress
    tensors: dict[str, dict[str, Tensor]]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def save_state(path: Path, step: str, state: State) -> None:
    """Write `state` of the step with identity `step`, atomically."""
    flat = {f"{group}/{name}": t for group, tensors in state.tensors.items() for name, t in tensors.items()}
    for index, slots in state.optimizer.get("state", {}).items():
        flat |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items()}  # Adam's are all tensors
    header = {
        "step": step,
        "progress": asdict(state.progress),
        "param_groups": state.optimizer.get("param_groups", []),
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
    slots: dict[int, dict[str, Tensor]] = {}
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
