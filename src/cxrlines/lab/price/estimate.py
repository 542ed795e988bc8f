"""What a plan costs before it is run: GPU hours, GPU memory and disk, for each step and in all.

Networks are made without weights or memory (PyTorch's meta device), at the recipe's size, and one forward pass is
watched operation by operation: its arithmetic, what it reads and writes, what it keeps for the backward pass. An
operation takes as long as its arithmetic or its memory traffic, whichever is more (the roofline model); a training step
three forward passes. Which share of its peak rates a GPU reaches is fitted to published throughputs, see `ATTAINED`.

Not counted: decoding of films, the search for twins, test films, and waiting for augmentation. Soft labels count as if
every film of a set were kept.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from cxrlines.core.transform import Size, height_width
from cxrlines.models.classifier import Classifier
from cxrlines.recipe.run.folder import Inventory, Role, Step, StepId
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import MAPS
from cxrlines.training.sampling import batches_per_epoch

PUBLISHED = {"nih": 112_120, "padchest": 110_000, "vinbigdata": 15_000, "chexpert": 191_027}
"""Frontal films of the external sets as published, where their tables are not at hand; PadChest's is rounded."""


@dataclass(frozen=True)
class Gpu:
    """A GPU: floating-point operations per second (half precision, dense), bytes per second and bytes of memory."""

    name: str
    flops: float
    bandwidth: float
    memory: float


A100 = Gpu("NVIDIA A100 80 GB", 312e12, 2.039e12, 80e9)
"""Peak rates of NVIDIA's data sheet."""

ATTAINED = {"flops": 0.5, "bandwidth": 0.6}
"""Shares of the peak rates that training reaches.

With them the estimate is .82, 1.32 and 1.35 times the films/s that NVIDIA measured of ResNet-50, EfficientNet-B0 and
B4 on one A100 80 GB in mixed precision (NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets), and .61 to .83
times what timm's author measured of seven networks on an RTX 3090 (pytorch-image-models, results/benchmark-train-amp-
nhwc-pt112-cu113-rtx3090.csv), ResNet200d, EfficientNet-B7 and ResNet50d among them.
"""

WITHIN = 1.7
"""The factor by which the hours may be off; the larger of the two above, rounded up."""

BACKWARD = 2.0
"""A backward pass in forward passes: the gradients of inputs and of weights, each like the forward pass."""

CONTEXT = 1.5e9
"""Bytes of GPU memory for CUDA itself and the convolutions' work space; an assumption."""

ROW = 250.0
"""Bytes of a film in a table of predictions."""


@dataclass(frozen=True)
class Network:
    """One network at one size, numbers of one film."""

    operations: tuple[tuple[float, float], ...]  # of a forward pass: (floating-point operations, numbers moved) of each
    saved: float  # numbers kept for the backward pass, parameters not among them
    largest: float  # numbers that the one operation reads and writes that moves the most
    parameters: int  # numbers trained
    tensors: int  # numbers in a file of weights

    @property
    def flops(self) -> float:
        """Floating-point operations of a forward pass, a multiplication and an addition counting as two."""
        return sum(flops for flops, _ in self.operations)

    def seconds(self, gpu: Gpu, width: int = 2) -> float:
        """Of a forward pass of one film, with numbers of `width` bytes: 2, or 4 as TensorFloat-32."""
        rate, bandwidth = gpu.flops * ATTAINED["flops"] * 2 / width, gpu.bandwidth * ATTAINED["bandwidth"]
        return sum(max(flops / rate, numbers * width / bandwidth) for flops, numbers in self.operations)

    def memory(self, batch: int, width: int = 2) -> float:
        """Bytes of GPU memory to train on batches of films: weights, gradients, Adam's moments, all that is kept."""
        weights = self.parameters * (4 + 4 + 8 + (2 if width == 2 else 0))  # in half precision there is a second copy
        return CONTEXT + weights + batch * width * (self.saved + self.largest)


@dataclass(frozen=True)
class Cost:
    """Of one step."""

    trained: int  # films, in all epochs
    read: int  # films only read
    hours: float  # of a GPU
    memory: float  # of it, bytes
    disk: float  # bytes
    state: float  # bytes on disk besides while it trains


@dataclass(frozen=True)
class Estimate:
    """`steps` in the plan's order; `store` in bytes."""

    gpu: Gpu
    steps: dict[StepId, Cost]
    store: float

    @property
    def hours(self) -> float:
        """GPU hours of all steps, one after another."""
        return sum(cost.hours for cost in self.steps.values())

    @property
    def memory(self) -> float:
        """GPU memory that the largest step needs, bytes."""
        return max(cost.memory for cost in self.steps.values())

    @property
    def disk(self) -> float:
        """Bytes of a finished run: films and steps."""
        return self.store + sum(cost.disk for cost in self.steps.values())

    def basis(self) -> str:
        """What the figures rest on, and what they leave out."""
        gpu = self.gpu
        return "\n".join(
            [
                f"assumed: {ATTAINED['flops']:.0%} of {gpu.flops / 1e12:.0f} TFLOP/s and {ATTAINED['bandwidth']:.0%} of"
                f" {gpu.bandwidth / 1e9:,.0f} GB/s reached; training worth {1 + BACKWARD:.0f} forward passes;",
                f"  {gigabytes(CONTEXT)} of GPU memory for CUDA; every film of an external set kept",
                "not counted: decoding, twins, test films, waiting for augmentation; small films leave a GPU waiting",
            ]
        )


def estimate(recipe: Recipe, steps: Sequence[Step], films: Inventory) -> Estimate:
    """What the steps of a plan cost on an A100, whether done or not. A network is watched once, which takes seconds."""
    labelled: set[tuple[StepId, str]] = set()
    costs = {step.key: _cost(recipe, step, films, A100, labelled) for step in steps}
    count = len(films.own.studies) + sum(len(found.studies) for found in films.external.values())
    return Estimate(A100, costs, float(count) * math.prod(height_width(recipe.store.size)))


def _cost(recipe: Recipe, step: Step, films: Inventory, gpu: Gpu, labelled: set[tuple[StepId, str]]) -> Cost:
    name, held, stage_name = step.key
    stage = recipe.members[name].stages[stage_name]
    schedule, targets = stage.schedule, stage.targets
    width = 4 if schedule.precision == "32" else 2  # auto is 16 on a GPU
    network = _network_of(recipe, name, stage_name, maps=targets.reads_maps)
    trained = max(1, round(schedule.epochs * batches_per_epoch(step.films, schedule.batch))) * schedule.batch
    held_films = len(films.held(held))
    watched = held_films if schedule.validate_films is None else min(schedule.validate_films, held_films)
    predicted = held_films if stage.films.view == "plain" and targets.classifies else 0
    read = (math.ceil(schedule.epochs) * watched if targets.classifies else 0) + predicted
    each = network.seconds(gpu, width)
    if targets.reads_maps and not targets.maps_all and stage.films.which == "all":  # on annotated films alone
        plain = _network_of(recipe, name, stage_name).seconds(gpu, width)
        each = plain + float(np.mean(films.own.annotated)) * (each - plain)
    again = (schedule.accumulate > 1) + schedule.checkpoint_gradients  # forward passes that are done twice
    seconds = trained * (1 + BACKWARD + again) * each + read * _reading(recipe, name, stage_name, gpu, width)
    averaged = schedule.ema is not None or schedule.swa_from is not None
    at_once = schedule.batch // schedule.accumulate
    memory = network.memory(at_once, width) + network.tensors * (4 if averaged else 0)
    frozen = sum(target.frozen_passes for target in targets.named.values())  # of networks of the same backbone
    seconds += frozen * trained * network.seconds(gpu, width)
    memory += frozen * (4 * network.tensors + at_once * width * network.largest)
    teachers = [_network_of(recipe, *recipe.source(name), maps=True) for name in targets.map_teachers]
    for teacher in teachers or ([network] if targets.soft_maps else []):  # a file's: taken to be like the student
        seconds += trained * teacher.seconds(gpu, width)
        memory += 4 * teacher.tensors + at_once * width * teacher.largest
    tensors = network.tensors
    if stage.films.maps_of:  # its own segmenter, saved with it, and those of the nested steps, all frozen
        segmenter = _network_of(recipe, name, stage.films.maps_of, maps=True)
        seconds += trained * segmenter.seconds(gpu, width)
        tensors += segmenter.tensors
        count = sum(parent.role is Role.MAPS for parent in step.parents)
        memory += 4 * segmenter.tensors * (count + averaged) + at_once * width * segmenter.largest
    disk = 4 * tensors + ROW * predicted
    for source in step.teachers():
        if (source, stage.films.set) in labelled:  # the first step makes the table; the others read it
            continue
        labelled.add((source, stage.films.set))
        count = len(films.external[stage.films.set].studies)
        seconds += count * _reading(recipe, source.member, source.stage, gpu, width)
        read, disk = read + count, disk + ROW * count
    copies = 1 + averaged + schedule.keeps_best
    state = 4.0 * (copies * tensors + 2 * network.parameters)
    return Cost(trained, read, seconds / 3600, memory, disk, state)


def _network_of(recipe: Recipe, name: str, stage: str, *, maps: bool = False) -> Network:
    """The network of a stage, with its decoder where `maps` are wanted."""
    member = recipe.members[name]
    channels = 1 + len(MAPS) if member.stages[stage].films.maps_of else 1
    return watch(member.backbone, member.head, recipe.size_of(name, stage), channels, member.decoder if maps else None)


def _reading(recipe: Recipe, name: str, stage: str, gpu: Gpu, width: int) -> float:
    """Seconds to read a film's labels with a finished stage: without a decoder, but with its segmenter's heatmaps."""
    seconds = _network_of(recipe, name, stage).seconds(gpu, width)
    maps_of = recipe.members[name].stages[stage].films.maps_of
    return seconds + (_network_of(recipe, name, maps_of, maps=True).seconds(gpu, width) if maps_of else 0.0)


class _Watch(TorchDispatchMode):
    """Records floating-point operations and numbers moved of every operation that runs under it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            count = flop_registry.get(func._overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
            self.operations.append((float(flops), float(sum(tensor.numel() for tensor in tensors))))
        return out


@functools.lru_cache(maxsize=64)
def watch(backbone: str, head: str, size: Size, channels: int = 1, decoder: str | None = None) -> Network:
    """The network of a stage on films of `size`, watched on the meta device: no weights, no arithmetic done.

    Of its head the parameters count, not the arithmetic: at most 2 % of the backbone's (attention on ResNet200d). With
    `decoder` that counts in full.
    """
    films = 2  # batch normalisation needs more than one number a channel
    with torch.device("meta"):
        model = Classifier(backbone, head, in_channels=channels, weights="none", decoder=decoder).train()
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}  # by storage: what two operations keep is kept once

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            saved[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _Watch() as watched:
        batch = torch.zeros(films, channels, *height_width(size), device="meta")
        if model.decoder:
            model.decoder(batch, model.backbone.pyramid(batch)[1])
        else:
            model.backbone(batch)
    return Network(
        tuple((flops / films, numbers / films) for flops, numbers in watched.operations),
        saved=sum(tensor.untyped_storage().nbytes() / 4 for tensor in saved.values()) / films,
        largest=max(numbers for _, numbers in watched.operations) / films,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tensors=sum(tensor.numel() for tensor in model.state_dict().values()),
    )


def gigabytes(count: float) -> str:
    """Bytes as text: `1.3 GB`, `21 GB`."""
    return f"{count / 1e9:.1f} GB" if count < 1e10 else f"{count / 1e9:,.0f} GB"
