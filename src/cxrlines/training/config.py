"""How a stage is trained: its schedule, with the learning rate as a pure function of the step, targets and seed.

Importing it does not import torch, so that a recipe is checked in an instant.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cxrlines.core.errors import Error
from cxrlines.training.targets import LabelTarget, TargetsSpec
from cxrlines.training.targets.base import Strict

Report = Callable[[dict[str, Any]], None]
"""Called with a stage's progress: epoch, epochs, step, steps, films_per_s, loss, auc, seconds_left."""
Track = Callable[[dict[str, float], int], None]
"""Called with an epoch's figures (loss, lr, auc, `auc/LABEL` of each label that has one) and its number."""
Precision = Literal["32", "bf16", "16"]


WARMUP_FROM = 0.1
"""Share of the peak learning rate that a warm-up begins with."""
WARMUP_AT_MOST = 0.1
"""Share of the training that a warm-up takes which would be as long as the training, or longer."""
MOMENTUM = {"sgd": 0.9, "muon": 0.95}
"""The optimisers that have a momentum to choose, and the usual one of each."""


class ScheduleSpec(Strict):
    """Epochs, batches, optimiser and learning rates of a stage. Epochs may be a fraction."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 5  # passes over the films; may be a fraction
    batch: Annotated[int, Field(ge=2, le=4096)] = 16  # films per optimiser step
    # micro-batches per step (gradient accumulation), each of batch / accumulate films
    accumulate: Annotated[int, Field(ge=1, le=256)] = 1
    checkpoint_gradients: bool = False  # gradient checkpointing of the backbone: less memory, about a third slower
    compile: bool = False  # torch.compile of backbone, head and decoder: minutes at first, faster steps then
    # muon updates the backbone's kernels and matrices, and all else as AdamW, with nesterov as NAdamW (timm); lion
    # needs about a tenth of AdamW's rate
    optimizer: Literal["adam", "adamw", "sgd", "nadamw", "lion", "muon"] = "adam"
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None  # momentum of sgd (null: 0.9) and muon (null: 0.95)
    nesterov: bool = False  # Nesterov momentum, of sgd and muon
    lr: Annotated[float, Field(gt=0, le=1)] = 5e-4  # peak learning rate
    # learning rate at the end of a cosine or of each restart; at most lr
    end_lr: Annotated[float, Field(ge=0, le=1)] = 1e-6
    # learning-rate schedule; restarts: cosine with warm restarts
    shape: Literal["constant", "cosine", "restarts"] = "cosine"
    restart_epochs: Annotated[float, Field(gt=0)] | None = None  # epochs of each cosine, with shape: restarts
    # epochs of linear warm-up from a tenth of lr; a tenth of the training where they would be as long or longer
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    # layer-wise learning-rate decay of the backbone: rate of a layer over that of the next one towards the head
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    head_lr: Annotated[float, Field(gt=0, le=1000)] = 1.0  # learning rate of head and decoder, as a multiple of lr
    # what is not trained: `backbone`, `head`, or patterns of parameter names, as backbone.net.layer[12].*
    freeze: str | tuple[str, ...] = ()
    # epochs for which it is frozen; null: the whole stage
    freeze_epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6  # weight decay of all parameters, biases and norms among them
    clip: Annotated[float, Field(gt=0)] | None = None  # largest norm of the gradient (gradient clipping)
    # auto: bf16 on a GPU that has it, 16 on an older one, 32 on a processor. bf16 on a processor is quicker than 32
    # where it has instructions for it (AVX-512 BF16, AMX), and much slower elsewhere
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(str)] = "auto"
    # decay of the exponential moving average of the weights; smaller in the first steps
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    # stochastic weight averaging: the mean of the weights of all steps from this share of the training on. The
    # validation AUC during training is of the weights as they are, not of their mean
    swa_from: Annotated[float, Field(ge=0, lt=1)] | None = None
    # constant learning rate of the averaged part; null: the schedule's
    swa_lr: Annotated[float, Field(gt=0, le=1)] | None = None
    keep: Literal["last", "best"] = "last"  # best: keep the epoch with the highest validation AUC
    # early stopping: epochs without a better validation AUC; keeps the best
    patience: Annotated[int, Field(ge=1)] | None = None
    # number of held-out films for the validation AUC during training; null: the whole fold
    validate_films: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "ScheduleSpec":
        if (self.shape == "restarts") != (self.restart_epochs is not None):
            raise ValueError("shape: restarts and restart_epochs go together")
        if self.shape != "constant" and self.end_lr > self.lr:
            raise ValueError(
                f"end_lr is {self.end_lr:g} and lr {self.lr:g}: with shape: {self.shape} the rate falls from lr to "
                "end_lr; make end_lr at most lr, or take shape: constant without end_lr"
            )
        end = type(self).model_fields["end_lr"].default
        if self.shape == "constant" and self.end_lr != end:
            raise ValueError(
                f"end_lr is {self.end_lr:g}, but with shape: constant the rate stays at lr: leave it out (it is "
                f"{end:g} then), or take shape: cosine"
            )
        if self.patience is not None and self.validate_films == 0:
            raise ValueError("patience needs an AUC to watch: leave validate_films out or make it larger than 0")
        if self.keep == "best" and self.validate_films == 0:
            raise ValueError("keep: best needs an AUC to watch: leave validate_films out or make it larger than 0")
        if self.batch % self.accumulate:
            raise ValueError(
                f"accumulate: {self.accumulate} micro-batches do not divide batch: {self.batch}; allowed: "
                + ", ".join(str(count) for count in range(1, min(self.batch, 256) + 1) if not self.batch % count)
            )
        if (self.momentum is not None or self.nesterov) and self.optimizer not in MOMENTUM:
            raise ValueError(
                f"momentum and nesterov are of {' and '.join(MOMENTUM)}; optimizer is {self.optimizer}: leave them out"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.freeze_epochs is not None and not self.freeze:
            raise ValueError("freeze_epochs says how long freeze holds: name what is frozen, as freeze: backbone")
        if self.swa_lr is not None and self.swa_from is None:
            raise ValueError("swa_lr is the rate from swa_from on: give both, or neither")
        if self.swa_from is not None and self.ema is not None:
            raise ValueError("swa_from and ema average the same weights in two ways: leave one out")
        if self.swa_from is not None and self.keeps_best:
            raise ValueError("swa_from averages over epochs; keep: best and patience choose one: leave either out")
        return self

    @property
    def cuts_warmup(self) -> bool:
        """Whether the warm-up would leave nothing to train after it, so that it takes `WARMUP_AT_MOST` instead."""
        return self.warmup_epochs >= self.epochs

    @property
    def stays_frozen(self) -> bool:
        """Whether what `freeze` names is frozen to the end."""
        return self.freeze_epochs is None or self.freeze_epochs >= self.epochs

    @property
    def pass_films(self) -> int:
        """Films of a forward pass in training, those of a micro-batch."""
        return self.batch // self.accumulate

    @property
    def keeps_best(self) -> bool:
        """Whether the epoch with the highest watched AUC is handed on, and not the last."""
        return self.keep == "best" or self.patience is not None


def learning_rate(schedule: ScheduleSpec, step: int, *, total: int, per_epoch: int) -> float:
    """The learning rate of optimiser step `step` (from 0) of `total`, of which `per_epoch` are an epoch.

    Linear warm-up from `WARMUP_FROM` of the peak over `warmup_epochs`, or over `WARMUP_AT_MOST` of the training where
    they are as long as it or longer (as in a quick run, `--set 'members.*.stages.*.schedule.epochs=1'`); then
    `constant`, `cosine` from `lr` to `end_lr` over what is left, or `restarts`: the same cosine begun again every
    `restart_epochs` (SGDR, Loshchilov and Hutter 2017, with equal periods). From `swa_start` on, `swa_lr` where there
    is one.
    """
    if schedule.swa_lr is not None and step >= swa_start(schedule, total):
        return schedule.swa_lr
    peak, end = schedule.lr, schedule.end_lr
    warmup = min(round(schedule.warmup_epochs * per_epoch), total - 1)
    if schedule.cuts_warmup:
        warmup = int(WARMUP_AT_MOST * total)
    if step < warmup:
        return peak * (WARMUP_FROM + (1 - WARMUP_FROM) * step / warmup)
    if schedule.shape == "constant":
        return peak
    period = max(1, round(schedule.restart_epochs * per_epoch)) if schedule.restart_epochs else total - warmup
    phase = (step - warmup) % period / period
    return end + (peak - end) * (1 + math.cos(math.pi * phase)) / 2


def swa_start(schedule: ScheduleSpec, total: int) -> int:
    """The first of `total` steps whose weights are averaged under `swa_from`; one step at least is."""
    return min(int((schedule.swa_from or 0.0) * total), total - 1)


LABELS_ALONE = TargetsSpec(labels=LabelTarget())


@dataclass(frozen=True)
class StageConfig:
    """How one stage is trained."""

    schedule: ScheduleSpec
    targets: TargetsSpec = LABELS_ALONE
    seed: int = 0


def precision_of(schedule: ScheduleSpec) -> Precision:
    """`schedule.precision`; `auto` is bf16 on a GPU that computes in it, 16 on an older one, 32 without a GPU.

    `Error` for 16 without a GPU.
    """
    import torch

    gpu = torch.cuda.is_available()
    if schedule.precision == "16" and not gpu:
        raise Error("schedule.precision is 16, which needs a GPU", "use auto, 32 or bf16 here")
    if schedule.precision != "auto":
        return schedule.precision
    if not gpu:
        return "32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
