"""Distributed training: one step on several processes, one a GPU; ranks, slices of a batch, collectives.

torchrun starts the same command once for each process. A batch is split over them so that the weights they end with
are those of one process but for rounding: gradients are averaged (Lightning's DDP), batch normalisation takes its
statistics over the whole batch, and dropout draws for the whole batch. Only the first process writes files.

Alone (`world` is 1) training asks nothing of this file: the collectives below are for several processes.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import MethodType
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cxrlines.core.errors import Error
from cxrlines.core.pool import cores, keep_buffers

rank, world = 0, 1
"""The rank of this process, from 0, and how many there are. The first writes files and prints."""

PATIENCE = timedelta(days=2)
"""How long processes wait for one another: the first may decode a large data set while the others wait."""

LAUNCHER = "CXRLINES_LAUNCHER"
"""Environment variable: the process that this package made torchrun. It may be gone before its processes begin."""

_gloo: list[dist.ProcessGroup] = []
"""The group for all but gradients: on processors, and patient."""


class DevicesError(Error):
    """The processes or GPUs asked for cannot work together; the message has the reason and what to do."""


def begin(devices: int | None = None, nodes: int | None = None) -> None:
    """Join the processes that torchrun started, or start them: `devices` on each of `nodes` machines.

    None takes torchrun's number; alone, one. With more than one device on one machine and no torchrun, this process
    becomes torchrun of its own command, and the cores are shared out unless OMP_NUM_THREADS is set. Called once, before
    anything else is done.

    Raises:
        DevicesError: more devices than there are, other numbers than torchrun's, or several nodes without torchrun.
    """
    if not dist.is_torchelastic_launched():
        if (nodes or 1) > 1:
            raise DevicesError(
                f"--nodes is {nodes}, but torchrun did not start this command",
                f"start it on each of the {nodes} machines with torchrun, as docs/cluster.md shows: torchrun --nnodes "
                f"{nodes} --nproc-per-node {devices or 1} --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m cxrlines "
                "train ...",
            )
        if (devices or 1) > 1:
            _enough_gpus(devices or 1)
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
            # Else torchrun gives a process one thread, and says so in a box of asterisks.
            threads = {"OMP_NUM_THREADS": str(max(1, cores() // (devices or 1)))}
            launched = threads | os.environ | {LAUNCHER: str(os.getpid())}  # which becomes torchrun's
            os.execve(sys.executable, [*torchrun, "-m", "cxrlines", *sys.argv[1:]], launched)
        return
    here, in_all = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    for flag, wanted, started, option in (
        ("--devices", devices, here, "--nproc-per-node"),
        ("--nodes", nodes, in_all // here, "--nnodes"),
    ):
        if wanted is not None and wanted != started:
            raise DevicesError(
                f"{flag} is {wanted}, but torchrun was started with {option} {started}", "give both the same"
            )
    _enough_gpus(here)
    cv2.setNumThreads(1)  # a process of our own, beside others
    keep_buffers()
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))
    threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()
    join()


def _end_with(parent: int) -> None:
    """A torchrun that was killed cannot stop its processes: they would go on, unseen, in a run that another begins."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _enough_gpus(wanted: int) -> None:
    if torch.cuda.is_available() and torch.cuda.device_count() < wanted:
        raise DevicesError(
            f"--devices is {wanted}, but this machine shows {torch.cuda.device_count()} GPU(s)",
            "ask for no more than those, or make more visible (CUDA_VISIBLE_DEVICES)",
        )


def join() -> None:
    """Join the process group that the environment names (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT)."""
    global rank, world
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)  # all ranks are in it
    _gloo[:] = [group]
    rank, world = dist.get_rank(), dist.get_world_size()


def leave() -> None:
    """Leave the process group."""
    global rank, world
    if dist.is_initialized():
        _gloo.clear()
        dist.destroy_process_group()
        rank, world = 0, 1


@dataclass
class Shared:
    """What `first` gives: `mine` for the first process, and the `value` that it sets, for all after the block."""

    mine: bool
    value: Any = None


@contextlib.contextmanager
def first() -> Iterator[Shared]:
    """Work of the first process alone, under `if shared.mine`. At the end of the block all wait for it.

    Then all have its `value`, or raise what it raised.
    """
    shared = Shared(rank == 0)
    error: Exception | None = None
    try:
        yield shared
    except Exception as raised:
        error = raised
    if world > 1:
        outcome: list[Any] = [shared.value, error]
        dist.broadcast_object_list(outcome, src=0, group=_gloo[0])
        shared.value, error = outcome
    if error is not None:
        raise error


def rank_slice(count: int) -> slice:
    """Which of `count` things in a row are this process's: sizes differ by one at most."""
    share, over = divmod(count, world)
    start = rank * share + min(rank, over)
    return slice(start, start + share + (rank < over))


def _all_gather(value: Any) -> list[Any]:
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value, group=_gloo[0])
    return values


def loader_workers() -> int:
    """How many further processes make films ready for this one's GPU: its share of the cores; none without a GPU."""
    if not torch.cuda.is_available():
        return 0
    share = cores() // int(os.environ["LOCAL_WORLD_SIZE"]) if world > 1 else torch.get_num_threads()
    return max(1, min(8, share))


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, each (n_i, ...) of one dtype, in rank order: the inverse of `rank_slice`."""
    return np.concatenate(_all_gather(rows))


def all_reduce_sum(sums: Tensor) -> Tensor:
    """`sums` added up over all processes: the same for each of them, and all must call it.

    The gradient that a process gets is that of its own films, times the number of processes, as DDP averages: what all
    compute alike from these sums is learnt as by one process that has all films.
    """
    return _AllReduceSum.apply(sums)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * world


class _SyncSum(_AllReduceSum):
    """Sum over the processes; so is its gradient."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _AllReduceSum.forward(ctx, grad.contiguous())


def average_gradients(model: nn.Module) -> None:
    """Average the gradients over all processes, where DDP cannot.

    It takes one pass a step, and learns when it begins which parameters are trained.
    """
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world


def of_all(rows: Tensor) -> tuple[Tensor, slice]:
    """The rows (n_i, ...) of all processes in rank order, and which are this one's; all must call it.

    A gradient goes back to the process that has the row, added up over all.
    """
    if world == 1:
        return rows, slice(None)
    counts = rows.new_zeros(world, dtype=torch.int64)
    counts[rank] = len(rows)
    dist.all_reduce(counts)
    before, total = int(counts[:rank].sum()), int(counts.sum())
    others = (before, total - before - len(rows))
    first, last = (rows.new_zeros((count, *rows.shape[1:])) for count in others)
    return _SyncSum.apply(torch.cat((first, rows, last))), slice(before, before + len(rows))


def same_everywhere(value: object, what: str) -> None:
    """`DevicesError` unless all processes have the same `value`."""
    values = _all_gather(value)
    if any(other != value for other in values):
        raise DevicesError(
            f"the processes do not see the same {what}: {values}",
            "put the run's folder on a file system that all machines share, and start the same command again",
        )


def trainer_options(find_unused: bool) -> dict[str, Any]:
    """Options of Lightning's Trainer for these processes."""
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "devices": here,
        "num_nodes": world // here,
        "use_distributed_sampler": False,
        "plugins": [TorchElasticEnvironment()],
        "strategy": DDPStrategy(
            find_unused_parameters=find_unused,
            broadcast_buffers=False,  # equal already
            process_group_backend="nccl" if torch.cuda.is_available() else "gloo",
        ),
    }


def leaves_unused(model: nn.Module, use: Callable[[], Tensor]) -> bool:
    """Whether `use()`, which runs `model`, leaves parameters without a gradient: DDP must know. Nothing is changed."""
    modes = [(module, module.training) for module in model.modules()]  # what is frozen evaluates
    model.eval()
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(use().float().sum(), wanted, allow_unused=True)
    for module, mode in modes:
        module.training = mode
    return any(gradient is None for gradient in gradients)


def synchronise(model: nn.Module, batch: int, parts: int = 1) -> None:
    """Make `model`, in place, train on this process's part of a batch of `batch` films as on the whole of it.

    A batch of several micro-batches comes in so many `parts`; a process has its share of each.
    Names and values of its state stay as they are; in evaluation nothing changes. `DevicesError` for a batch of fewer
    films than there are processes.
    """
    batch //= parts
    if batch < world:
        raise DevicesError(
            f"schedule.batch: {batch} films{' of a micro-batch' * (parts > 1)} cannot be split over {world} processes",
            "give fewer --devices or a larger batch" + ", or make schedule.accumulate smaller" * (parts > 1),
        )
    if torch.cuda.is_available():
        # timm's: torch's own drops the activation of timm's layers. Both take a part of no film, as a decoder's may be.
        convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.forward = MethodType(_whole_dropout(batch), module)  # type: ignore[method-assign]
        elif isinstance(module, nn.BatchNorm2d):
            module.forward = MethodType(_whole_norm, module)  # type: ignore[method-assign]


def _whole_dropout(batch: int) -> Callable[[nn.Dropout, Tensor], Tensor]:
    def forward(self: nn.Dropout, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        drawn = functional.dropout(x.new_ones((batch, *x.shape[1:])), self.p)
        return x * drawn[rank_slice(batch)]

    return forward


def _whole_norm(self: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm with the statistics of the whole batch, on processors, where torch's SyncBatchNorm has none."""
    if not self.training:
        return type(self).forward(self, x)
    ours = x.to(self.weight.dtype)  # of no film where the others have all that is annotated
    y, mean, variance, total = _WholeNorm.apply(ours, self.weight, self.bias, self.eps)
    with torch.no_grad():
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)  # type: ignore[arg-type]
        self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
        self.running_var.lerp_(variance * total / (total - 1), momentum)  # type: ignore[union-attr]
    y = y.to(x.dtype)
    return self.act(self.drop(y)) if isinstance(self, BatchNormAct2d) else y


class _WholeNorm(torch.autograd.Function):
    """Batch norm of this process's films by the moments of all films, by PyTorch's own kernels.

    Written out in tensor operations it made a training step take 1.3 times as long (docs/experiments.md).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised films, and of all processes' films the mean, the biased variance (channels,) and the count."""
        channels = x.shape[1]
        moments = x.new_zeros((world, 1 + 2 * channels), dtype=torch.float64)
        if x.numel():
            moments[rank, 0] = x.numel() // channels
            moments[rank, 1:] = torch.cat(torch.batch_norm_update_stats(x, None, None, 0.0))
        dist.all_reduce(moments)
        counts, means, variances = moments.split([1, channels, channels], dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        mean, variance = mean.to(x.dtype), variance.to(x.dtype)
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        return _normal(x, weight, bias, mean, variance, eps), mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, variance, total = ctx.saved_tensors
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        if x.numel():
            wanted = [False, True, True]
            _, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, variance, None, None, False, ctx.eps, wanted
            )
        sums = torch.cat([by_weight, by_bias])
        dist.all_reduce(sums)
        scale = weight * torch.rsqrt(variance + ctx.eps)
        of_weight, of_bias = (-scale * part / total for part in sums.chunk(2))
        # scale * (grad - mean of grad - normal(x) * mean of grad * normal(x)), the means over all films.
        by_x = _normal(x, of_weight, of_bias, mean, variance, ctx.eps).addcmul_(grad, scale[:, None, None])
        return by_x, by_weight, by_bias, None


def _normal(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """x (b, channels, h, w) less the mean, over the standard deviation, times `weight`, plus `bias`."""
    if not x.numel():
        return x.clone()
    return torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
