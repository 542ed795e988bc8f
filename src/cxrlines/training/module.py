"""Training of a stage by one Lightning module: model, films, targets and schedule in, weights out."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cxrlines.models.classifier import Classifier, Model
from cxrlines.training import distributed
from cxrlines.training.accumulation import Accumulated, Parts
from cxrlines.training.checkpoint import LossLog, Progress, State, cpu_copy, finite_mean
from cxrlines.training.config import Report, StageConfig, Track, learning_rate, precision_of, swa_start
from cxrlines.training.depthwise import DepthwiseIn32
from cxrlines.training.epochs import Epochs
from cxrlines.training.loader import FilmSet, View, in_order, load
from cxrlines.training.mixing import mix
from cxrlines.training.optimizers import Frozen, make_optimizer, reader, restore, set_rate
from cxrlines.training.outputs import Outputs, total_loss
from cxrlines.training.sampling import Key
from cxrlines.training.targets.base import Losses
from cxrlines.training.trainer import as_found, trainer
from cxrlines.training.watching import watched_aucs
from cxrlines.training.weight_averaging import Average, estimate_norms, keep_finite, moving_share, norms_kept

SPEED_WINDOW = 60
"""Reports, at least a second apart, over which films per second are measured, in this run alone."""


class StageModule(lightning.LightningModule):
    """Trains `model` on `films`, seen as `view`; a `teacher` gives the features of the film with its lines drawn in.

    A `TwoStep` model's heatmaps of a training film come from that of `segmenters` which the films' `segmenter` names:
    one that was not trained on the film; -1 is the model's own. `map_teachers` give the heatmaps of soft maps.
    """

    def __init__(
        self,
        model: Model,
        config: StageConfig,
        films: FilmSet,
        validation: FilmSet | None,
        *,
        view: View,
        teacher: Model | None = None,
        segmenters: Sequence[Classifier] = (),
        map_teachers: Sequence[Classifier] = (),
        keep: Callable[[State], None] = lambda state: None,
        keep_every_s: float = 30.0,
        report: Report = lambda status: None,
        track: Track = lambda values, epoch: None,
        loader_workers: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.schedule, self.precision = config, config.schedule, precision_of(config.schedule)
        # Channels last: 1.5 times as fast on a processor, and faster on a GPU.
        self.model = model.to(memory_format=torch.channels_last)
        self.films, self.validation = films, validation
        self.shown = "overlay" if view == "overlay" else "film"
        # Frozen networks, in lists: no part of this module's weights.
        self.teachers = [teacher.to(memory_format=torch.channels_last)] if teacher else []
        self.segmenters = list(segmenters)
        self.map_teachers = [each.to(memory_format=torch.channels_last) for each in map_teachers]
        for frozen in (*self.teachers, *self.segmenters, *self.map_teachers):
            frozen.eval().requires_grad_(False)
        self.keep, self.keep_every_s, self.pause_s = keep, keep_every_s, keep_every_s
        self.report, self.track, self.loader_workers = report, track, loader_workers
        self.epochs = Epochs(len(films.films), self.schedule, config.seed)
        self.per_epoch, self.total, self.in_batch = self.epochs.per_epoch, self.epochs.total, self.epochs.in_batch
        averages = self.schedule.ema is not None or self.schedule.swa_from is not None
        self.average = Average(model) if averages else None
        self.frozen = Frozen(model, self.schedule.freeze)
        self.frozen.hold(bool(self.frozen.parameters))
        epochs = self.schedule.freeze_epochs
        self.thaw_at = self.total if epochs is None else round(epochs * self.per_epoch)
        if self.schedule.compile:
            for part in reader(model).children():
                part.compile()
        self.accumulated: Accumulated | None = None  # of the step being done
        self.restore_norms: Callable[[], None] = lambda: None  # after a step
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()
        self.resumed: State | None = None
        self.scores: list[Tensor] = []
        self.log_of_losses = LossLog(f"schedule.lr {self.schedule.lr} and schedule.precision {self.precision}")
        self.batches: list[list[Key]] = []  # of the loader of training films
        self.loaders: dict[str, DataLoader[dict[str, Any]]] = {}
        self.clock = self.saved_at = self.reported_at = time.monotonic()
        self.recent: deque[tuple[float, int]] = deque(maxlen=SPEED_WINDOW)  # (time, step) of this run

    def resume(self, state: State | None) -> "StageModule":
        """Go on from the state of a killed run, where there is one."""
        if state:
            self.model.load_state_dict(state.tensors["model"])
            if self.average is not None:
                self.average.load_state_dict(state.tensors["average"])
            self.best, self.progress = state.tensors.get("best", {}), state.progress
        self.resumed = state
        return self

    def fit(self) -> dict[str, Tensor]:
        """Train what is left. Returns the final weights: the best epoch's where that is kept, else the average's."""
        left = math.ceil(self.total / self.per_epoch) - self.progress.epoch
        together = distributed.world > 1
        if together:
            distributed.same_everywhere(self.step_now, "step to go on from")
            distributed.synchronise(self.model, self.in_batch, self.schedule.accumulate)
        backbone = reader(self.model).backbone
        if self.schedule.checkpoint_gradients:
            backbone.checkpoint_gradients(True)
        try:
            with as_found(), self._on_a_processor():
                if not self.finished and left > 0:
                    trainer(self.schedule, self.precision, epochs=left, unused=self.leaves_unused).fit(self)
                if self.schedule.swa_from is not None:
                    self._become_average()
        finally:
            self.frozen.hold(False)
            if self.schedule.checkpoint_gradients:
                backbone.checkpoint_gradients(False)
        if self.schedule.keeps_best and self.best:
            return self.best
        return cpu_copy(self.evaluated.state_dict())

    def _on_a_processor(self) -> AbstractContextManager[Any]:
        """What training in bf16 needs where there is no GPU.

        A compiled network takes no such mode, and layers that are computed again for their gradients are not in it.
        """
        plain = not self.schedule.compile and not self.schedule.checkpoint_gradients
        here = self.precision == "bf16" and not torch.cuda.is_available() and plain
        return DepthwiseIn32() if here else nullcontext()

    def _become_average(self) -> None:
        """Make the model the mean of its weights, with the running statistics that it has on an epoch's films.

        That epoch is the one that would come next.
        """
        assert self.average is not None
        self.model.load_state_dict(self.average.module.state_dict())
        self._to_device()
        self.model.train()
        self.frozen.hold(bool(self.frozen.parameters) and self.thaw_at >= self.total)
        self._draw()
        batches = self.epochs.whole(self.films, math.ceil(self.total / self.per_epoch))
        estimate_norms(self.model, self._load(batches), self._show)

    def _to_device(self) -> None:
        """Move all networks to where Lightning trains them; NCCL, for one, adds up what is on GPUs alone."""
        self.to("cuda" if torch.cuda.is_available() else "cpu")
        self.on_fit_start()

    def _show(self, batch: Mapping[str, Any] | Parts) -> None:
        there = self.transfer_batch_to_device(batch, self.device, 0)
        for part in [there] if isinstance(there, Mapping) else there:
            self._losses(part)

    @property
    def step_now(self) -> int:
        """Optimiser steps done, resumed ones included."""
        return self.progress.epoch * self.per_epoch + self.progress.batch

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.progress.stopped or self.step_now >= self.total

    @property
    def evaluated(self) -> Model:
        """The model that is validated and handed on: the moving average where there is one."""
        moving = self.average is not None and self.schedule.ema is not None
        return self.average.module if moving else self.model  # type: ignore[union-attr,return-value]

    def state(self) -> State:
        """All that is needed to go on from here."""
        tensors = {"model": cpu_copy(self.model.state_dict()), "best": self.best}
        if self.average is not None:
            tensors["average"] = cpu_copy(self.average.state_dict())
        self.progress.seconds += time.monotonic() - self.clock
        self.clock = time.monotonic()
        scaler = self.trainer.precision_plugin.state_dict()
        return State(self.progress, tensors, self._optimizer.state_dict(), scaler)

    def leaves_unused(self) -> bool:
        """Whether a step leaves parameters of the model without a gradient, as learning features does the head's."""
        self._to_device()
        film = self.films.collate([self.films[Key(0, 0, True)]])
        batch = self.transfer_batch_to_device(film, self.device, 0)
        return distributed.leaves_unused(self.model, lambda: torch.cat([sums.total for _, sums in self._losses(batch)]))

    def _losses(self, batch: Mapping[str, Any]) -> Losses:
        """The weighted terms of all targets' losses."""
        outputs = Outputs(self, batch)
        return [
            (target.weight * weight, sums)
            for target in self.config.targets.named.values()
            for weight, sums in target.losses(outputs, batch)
        ]

    # -- Lightning's hooks

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        found = self.optimizers(use_pl_optimizer=False)
        assert isinstance(found, torch.optim.Optimizer)  # configure_optimizers makes one
        return found

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Lightning does not clip for a fused one in mixed precision.
        fused = self.device.type == "cuda" and (self.precision == "32" or self.schedule.clip is None)
        return make_optimizer(self.model, self.schedule, fused=fused)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Called before each epoch: one loader, and its processes, for all, with the batches left of this epoch."""
        self.batches[:] = self.epochs.left(self.films, self.progress.epoch, self.progress.batch)
        if "train" not in self.loaders:
            self.loaders["train"] = self._load(self.batches, stay=True)
        return self.loaders["train"]

    def _load(self, batches: list[list[Key]], *, stay: bool = False) -> DataLoader[Any]:
        pin, accumulate = self.device.type == "cuda", self.schedule.accumulate
        return load(self.films, batches, self.loader_workers, pin=pin, stay=stay, accumulate=accumulate)

    def val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        if not self.validation:
            return []
        if "validation" not in self.loaders:
            count = len(self.validation.films)  # all of them for each process where there is not one for each
            mine = distributed.rank_slice(count) if 1 < distributed.world <= count else slice(count)
            pin = self.device.type == "cuda"
            self.loaders["validation"] = in_order(
                self.validation,
                2 * self.schedule.pass_films,
                self.loader_workers,
                mine,
                pin=pin,
                stay=True,
            )
        return self.loaders["validation"]

    def on_fit_start(self) -> None:
        for frozen in (*self.teachers, *self.segmenters, *self.map_teachers):
            frozen.to(self.device)

    def on_train_start(self) -> None:
        if self.resumed and self.resumed.optimizer:
            restore(self._optimizer, self.resumed.optimizer)
        if self.resumed and self.resumed.scaler:
            self.trainer.precision_plugin.load_state_dict(self.resumed.scaler)
        if self._averages_gradients:
            self.trainer.strategy.model.require_backward_grad_sync = False  # type: ignore[union-attr]

    @property
    def _averages_gradients(self) -> bool:
        """Whether gradients of several processes are averaged here, and not by DDP: that knows one pass a step.

        Nor does it know of parameters that are frozen when it begins.
        """
        return distributed.world > 1 and (self.schedule.accumulate > 1 or self.schedule.freeze_epochs is not None)

    def _draw(self, part: int = 0) -> None:
        # Dropout draws from the step alone, so that a resumed run draws what an uninterrupted one would.
        torch.manual_seed((self.config.seed * 1_000_003 + self.step_now) * self.schedule.accumulate + part)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if not self.recent:
            self.recent.append((time.monotonic(), self.step_now))
        self._draw()
        self.rate = learning_rate(self.schedule, self.step_now, total=self.total, per_epoch=self.per_epoch)
        set_rate(self._optimizer, self.rate)
        if self.frozen.holds and self.step_now >= self.thaw_at:
            self.frozen.hold(False)
        if self.precision == "16":
            self.restore_norms = keep_finite(self.model)

    def training_step(self, batch: Mapping[str, Any] | Parts, batch_idx: int) -> Tensor:
        if isinstance(batch, Mapping):
            return total_loss(self._losses(self._mixed(batch)))
        parts = [self._mixed(part, place) for place, part in enumerate(batch)]
        self.accumulated = Accumulated(self.model, parts, self._losses, self._draw)
        return self.accumulated.loss

    def _mixed(self, batch: Mapping[str, Any], part: int = 0) -> Mapping[str, Any]:
        if self.films.mixing is None:
            return batch
        number = self.progress.batch * self.schedule.accumulate + part
        return mix(batch, self.films.mixing, (self.config.seed, self.progress.epoch, number))

    def backward(self, loss: Tensor, *args: Any, **options: Any) -> None:
        if self.accumulated is not None:
            in_forward = self.trainer.precision_plugin.forward_context
            self.accumulated.backward(loss, in_forward=in_forward, in_backward=self._in_backward)
            self.accumulated = None
        else:
            with self._in_backward():
                loss.backward()
        if self._averages_gradients:
            distributed.average_gradients(self.model)

    def _in_backward(self) -> AbstractContextManager[None]:
        """The context of a backward pass: layers that are computed again in it tell their batch norms nothing new."""
        return norms_kept(self.model) if self.schedule.checkpoint_gradients else nullcontext()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.progress.batch += 1
        self.log_of_losses.fresh.append(outputs["loss"].detach())
        self.restore_norms()
        if self.average is not None and (share := self._share()) > 0:
            self.average.update(self.model, share)
        now = time.monotonic()
        if now - self.reported_at > 1:
            self._report(now)
        if now - self.saved_at >= self.pause_s and self.step_now < self.total and self.progress.batch < self.per_epoch:
            self._save()

    def _share(self) -> float:
        """By how much the average moves towards the weights after this step."""
        if self.schedule.ema is not None:
            return moving_share(self.schedule.ema, self.step_now)
        count = self.step_now - swa_start(self.schedule, self.total)
        return 1 / count if count > 0 else 0.0

    def _fetch_losses(self) -> None:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        self.progress.add(self.log_of_losses.fetch(self.step_now, scaler))

    def _save(self) -> None:
        """Save; a model that is slow to save is saved less often, so that saving never takes over 5 % of the time."""
        self._fetch_losses()  # what has diverged is not saved
        begun = time.monotonic()
        if distributed.rank == 0:
            state = self.state()
            for name, tensor in (pair for group in state.tensors.values() for pair in group.items()):
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise self.log_of_losses.diverged(f"by step {self.step_now} {name} was no longer finite")
            self.keep(state)
        self.saved_at = time.monotonic()
        self.pause_s = max(self.keep_every_s, 20 * (self.saved_at - begun)) if self.keep_every_s else 0.0

    def _report(self, now: float) -> None:
        self.reported_at = now
        self._fetch_losses()
        self.recent.append((now, self.step_now))
        (then, step), *_ = self.recent
        speed = (self.step_now - step) / max(now - then, 1e-9)
        self.report(
            {
                "epoch": self.progress.epoch + 1,
                "epochs": math.ceil(self.schedule.epochs),
                "step": self.step_now,
                "steps": self.total,
                "films_per_s": speed * self.in_batch,
                "loss": finite_mean(self.log_of_losses.latest),
                "auc": self.progress.history[-1]["auc"] if self.progress.history else None,
                "seconds_left": (self.total - self.step_now) / max(speed, 1e-9),
            }
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.scores.append(torch.sigmoid(self.evaluated(batch[self.shown]).float()))

    def _validation_aucs(self) -> dict[str, float | None]:
        """As `watched_aucs`; without films `auc` alone, None."""
        if not self.validation or not self.scores:
            return {"auc": None}
        scores, truth = torch.cat(self.scores).cpu().numpy(), self.validation.films.labels
        if len(scores) < len(truth):
            scores = distributed.gather_rows(scores)
        if not np.isfinite(scores).all():
            raise self.log_of_losses.diverged(f"by step {self.step_now} predictions were no longer finite")
        return watched_aucs(self.model.labels, truth, scores)

    def on_train_epoch_end(self) -> None:
        self._fetch_losses()
        aucs = self._validation_aucs()
        self.scores.clear()
        done, figures = self.progress, {"loss": self.progress.loss, "lr": self.rate}
        defined = {name.replace(" ", "/", 1): known for name, known in aucs.items() if known is not None}
        self.track(figures | defined, done.epoch + 1)
        if done.end_epoch(figures, aucs) and self.schedule.keeps_best:
            self.best = cpu_copy(self.evaluated.state_dict())
        if self.schedule.patience is not None and done.epochs_since_best >= self.schedule.patience:
            done.stopped = self.trainer.should_stop = True
        self._save()
