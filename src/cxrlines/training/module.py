"""Training of a stage by one Lightning module: model, films, targets and schedule in, weights out; and predictions."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cxrlines.metrics.auc import auc
from cxrlines.models.classifier import Classifier, Model, TwoStep
from cxrlines.training import distributed
from cxrlines.training.checkpoint import EMA, LossLog, Progress, State, cpu_copy, finite_mean
from cxrlines.training.config import Precision, Report, StageConfig, Track, learning_rate, precision_of
from cxrlines.training.loader import (
    FilmSet,
    Key,
    View,
    batches_per_epoch,
    epoch_batches,
    in_order,
    load,
)
from cxrlines.training.targets.base import Losses, Sums
from cxrlines.training.trainer import as_found

LIGHTNING_PRECISION: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}


class Outputs:
    """What the networks of a stage make of a batch (`BatchOutputs`); the forward pass is run at once.

    A `TwoStep` model is shown the heatmaps of the segmenters that the batch names.
    """

    def __init__(self, stage: "StageModule", batch: Mapping[str, Any]) -> None:
        model, film = stage.model, batch[stage.shown]
        self._model, self._batch, self._teachers = model, batch, stage.teachers
        self._maps: Tensor | None = None
        if stage.config.targets.reads_maps:
            assert isinstance(model, Classifier)  # one that is shown heatmaps learns none
            self._features, self._maps = model.features_and_maps(film, batch.get("rows"))
        elif isinstance(model, TwoStep) and "segmenter" in batch:
            self._features = model.features(film, _maps_by(stage.segmenters, model, film, batch["segmenter"]))
        else:
            self._features = model.features(film)

    @cached_property
    def logits(self) -> Tensor:
        return _as_float32(self._model.classify(self._features))

    @cached_property
    def features(self) -> Tensor:
        return _as_float32(self._features)

    @cached_property
    def teacher_features(self) -> Tensor:
        with torch.no_grad():  # a target that reads its features comes with one
            return _as_float32(self._teachers[0].features(self._batch["overlay"]))

    @cached_property
    def maps(self) -> Tensor:
        assert self._maps is not None  # read by a target with `reads_maps` alone
        return _as_float32(self._maps)


@torch.no_grad()
def _maps_by(segmenters: Sequence[Classifier], model: TwoStep, film: Tensor, films_of: Mapping[int, Tensor]) -> Tensor:
    """Heatmaps (b, maps, h/2, w/2) of films; segmenter k gives those of the rows `films_of[k]`, -1 the model's own."""
    parts = {
        index: torch.sigmoid((model.segmenter if index < 0 else segmenters[index]).features_and_maps(film[rows])[1])
        for index, rows in films_of.items()
    }
    some = next(iter(parts.values()))
    maps = some.new_zeros((len(film), *some.shape[1:]))
    for index, rows in films_of.items():
        maps[rows] = parts[index]
    return maps


def _as_float32(values: Tensor) -> Tensor:
    """Values of 16 bits in 32: half precision is for a network; a loss sums over more pixels than it can count."""
    return values.float() if values.dtype.itemsize < 4 else values


def total_loss(parts: Losses) -> Tensor:
    """The weighted sum of losses, each over the films of all processes; all of them must call it."""
    rows = [torch.stack([sums.total, sums.count, sums.weight]) for _, sums in parts]
    whole = torch.cat(rows, dim=1)
    if distributed.world > 1:
        whole = distributed.all_reduce_sum(whole)
    split = whole.split([row.shape[1] for row in rows], dim=1)
    values = [
        weight * Sums(total, count, share, mine.smooth).value()
        for (weight, mine), (total, count, share) in zip(parts, split, strict=True)
    ]
    return torch.stack(values).sum()


class StageModule(lightning.LightningModule):
    """Trains `model` on `films`, seen as `view`; a `teacher` gives the features of the film with its lines drawn in.

    A `TwoStep` model's heatmaps of a training film come from that of `segmenters` which the films' `segmenter` names:
    one that was not trained on the film; -1 is the model's own.
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
        for frozen in (*self.teachers, *self.segmenters):
            frozen.eval().requires_grad_(False)
        self.keep, self.keep_every_s, self.pause_s = keep, keep_every_s, keep_every_s
        self.report, self.track, self.loader_workers = report, track, loader_workers
        self.per_epoch = batches_per_epoch(len(films.films), self.schedule.batch)
        self.total = max(1, round(self.schedule.epochs * self.per_epoch))
        self.in_batch = min(self.schedule.batch, len(films.films))
        self.ema = EMA(model, self.schedule.ema) if self.schedule.ema else None
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()
        self.resumed: State | None = None
        self.scores: list[Tensor] = []
        self.log_of_losses = LossLog(f"schedule.lr {self.schedule.lr} and schedule.precision {self.precision}")
        self.batches: list[list[Key]] = []  # of the loader of training films
        self.loaders: dict[str, DataLoader[dict[str, Any]]] = {}
        self.clock = self.saved_at = self.reported_at = time.monotonic()

    def resume(self, state: State | None) -> "StageModule":
        """Go on from the state of a killed run, where there is one."""
        if state:
            self.model.load_state_dict(state.tensors["model"])
            if self.ema is not None:
                self.ema.load_state_dict(state.tensors["ema"])
            self.best, self.progress = state.tensors.get("best", {}), state.progress
        self.resumed = state
        return self

    def fit(self) -> dict[str, Tensor]:
        """Train what is left. Returns the final weights: the best epoch's with early stopping, else the average's."""
        left = math.ceil(self.total / self.per_epoch) - self.progress.epoch
        together = distributed.world > 1
        if together:
            distributed.same_everywhere(self.step_now, "step to go on from")
        if not self.finished and left > 0:
            if together:
                distributed.synchronise(self.model, self.in_batch)
            alone = {"devices": 1, "plugins": [LightningEnvironment()]}  # whatever SLURM's variables say
            with as_found():
                lightning.Trainer(
                    max_epochs=left,
                    **(distributed.trainer_options(self.leaves_unused()) if together else alone),
                    accelerator="gpu" if torch.cuda.is_available() else "cpu",
                    # Tried once for each shape: one of all films, and one for each count that a decoder is run on.
                    benchmark=torch.cuda.is_available(),
                    precision=LIGHTNING_PRECISION[self.precision],
                    gradient_clip_val=self.schedule.clip,
                    logger=False,
                    reload_dataloaders_every_n_epochs=1,
                    num_sanity_val_steps=0,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                ).fit(self)
        if self.schedule.patience is not None and self.best:
            return self.best
        return cpu_copy(self.evaluated.state_dict())

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
        return self.ema.module if self.ema is not None else self.model  # type: ignore[return-value]

    def state(self) -> State:
        """All that is needed to go on from here."""
        tensors = {"model": cpu_copy(self.model.state_dict()), "best": self.best}
        if self.ema is not None:
            tensors["ema"] = cpu_copy(self.ema.state_dict())
        self.progress.seconds += time.monotonic() - self.clock
        self.clock = time.monotonic()
        scaler = self.trainer.precision_plugin.state_dict()
        return State(self.progress, tensors, self._optimizer.state_dict(), scaler)

    def leaves_unused(self) -> bool:
        """Whether a step leaves parameters of the model without a gradient, as learning features does the head's."""
        batch = self.films.collate([self.films[Key(0, 0, True)]])
        return distributed.leaves_unused(self.model, lambda: torch.cat([sums.total for _, sums in self._losses(batch)]))

    def _losses(self, batch: Mapping[str, Any]) -> Losses:
        """The weighted terms of all targets' losses."""
        outputs = Outputs(self, batch)
        return [
            (target.weight * weight, sums)
            for target in self.config.targets.named.values()
            for weight, sums in target.loss(outputs, batch)
        ]

    # -- Lightning's hooks

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        found = self.optimizers(use_pl_optimizer=False)
        assert isinstance(found, torch.optim.Optimizer)  # configure_optimizers makes one
        return found

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kind = torch.optim.Adam if self.schedule.optimizer == "adam" else torch.optim.AdamW
        return kind(self.model.parameters(), lr=self.schedule.lr, weight_decay=self.schedule.weight_decay)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Called before each epoch: one loader, and its processes, for all, with the batches left of this epoch."""
        self.batches[:] = epoch_batches(
            len(self.films.films),
            self.schedule.batch,
            seed=self.config.seed,
            epoch=self.progress.epoch,
            start=self.progress.batch,
            stop=min(self.per_epoch, self.total - self.progress.epoch * self.per_epoch),
            mapped=self.films.mapped,
        )
        if "train" not in self.loaders:
            pin = self.device.type == "cuda"
            self.loaders["train"] = load(self.films, self.batches, self.loader_workers, pin=pin, stay=True)
        return self.loaders["train"]

    def val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        if not self.validation:
            return []
        if "validation" not in self.loaders:
            count = len(self.validation.films)  # all of them for each process where there is not one for each
            mine = distributed.rank_slice(count) if 1 < distributed.world <= count else slice(count)
            pin = self.device.type == "cuda"
            self.loaders["validation"] = in_order(
                self.validation, self.schedule.batch * 2, self.loader_workers, mine, pin=pin, stay=True
            )
        return self.loaders["validation"]

    def on_fit_start(self) -> None:
        for frozen in (*self.teachers, *self.segmenters):
            frozen.to(self.device)

    def on_train_start(self) -> None:
        if self.resumed and self.resumed.optimizer:
            self._optimizer.load_state_dict(self.resumed.optimizer)
            # Moments go into their parameter's memory format: the same numbers, but faster steps.
            for parameter, slots in self._optimizer.state.items():
                for slot, value in slots.items():
                    if value.shape == parameter.shape:
                        slots[slot] = torch.empty_like(parameter).copy_(value)
        if self.resumed and self.resumed.scaler:
            self.trainer.precision_plugin.load_state_dict(self.resumed.scaler)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout draws from the step alone, so that a resumed run draws what an uninterrupted one would.
        torch.manual_seed(self.config.seed * 1_000_003 + self.step_now)
        rate = learning_rate(self.schedule, self.step_now, total=self.total, per_epoch=self.per_epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return total_loss(self._losses(batch))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.progress.batch += 1
        self.log_of_losses.fresh.append(outputs["loss"].detach())
        if self.ema is not None:
            self.ema.update(self.model, first=self.step_now == 1)
        now = time.monotonic()
        if now - self.reported_at > 1:
            self._report(now)
        if now - self.saved_at >= self.pause_s and self.step_now < self.total and self.progress.batch < self.per_epoch:
            self._save()

    def _fetch_losses(self) -> None:
        self.log_of_losses.fetch(self.step_now, getattr(self.trainer.precision_plugin, "scaler", None))

    def _save(self) -> None:
        """Save; a model that is slow to save is saved less often, so that saving never takes over 5 % of the time."""
        self._fetch_losses()  # what has diverged is not saved
        begun = time.monotonic()
        if distributed.rank == 0:
            self.keep(self.state())
        self.saved_at = time.monotonic()
        self.pause_s = max(self.keep_every_s, 20 * (self.saved_at - begun)) if self.keep_every_s else 0.0

    def _report(self, now: float) -> None:
        self.reported_at = now
        self._fetch_losses()
        speed = self.step_now / max(self.progress.seconds + now - self.clock, 1e-9)
        self.report(
            {
                "epoch": self.progress.epoch + 1,
                "epochs": math.ceil(self.schedule.epochs),
                "step": self.step_now,
                "steps": self.total,
                "films_per_s": speed * self.schedule.batch,
                "loss": finite_mean(self.log_of_losses.losses[-50:]),
                "auc": self.progress.history[-1]["auc"] if self.progress.history else None,
                "seconds_left": (self.total - self.step_now) / max(speed, 1e-9),
            }
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.scores.append(torch.sigmoid(self.evaluated(batch[self.shown]).float()))

    def _validation_auc(self) -> float | None:
        """Mean AUC over the labels; None without films, or where no label has both classes among its known films."""
        if not self.validation or not self.scores:
            return None
        scores = torch.cat(self.scores).cpu().numpy()
        if len(scores) < len(self.validation.films):
            scores = distributed.gather_rows(scores)
        return macro_auc(self.validation.films.labels, scores)

    def on_train_epoch_end(self) -> None:
        self._fetch_losses()
        value = self._validation_auc()
        self.scores.clear()
        loss = finite_mean(self.log_of_losses.losses)
        self.log_of_losses.losses.clear()
        rate, done = self._optimizer.param_groups[0]["lr"], self.progress
        done.history.append({"epoch": done.epoch + 1, "loss": loss, "auc": value, "lr": rate})
        self.track({"loss": loss, "lr": rate} | ({"auc": value} if value is not None else {}), done.epoch + 1)
        if value is not None and (done.best is None or value > done.best):
            done.best, done.epochs_since_best = value, 0
            if self.schedule.patience is not None:
                self.best = cpu_copy(self.evaluated.state_dict())
        else:
            done.epochs_since_best += 1
        if self.schedule.patience is not None and done.epochs_since_best >= self.schedule.patience:
            done.stopped = self.trainer.should_stop = True
        done.epoch, done.batch = done.epoch + 1, 0
        self._save()


def macro_auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """The mean AUC over the labels with both classes among the films where they are known (not NaN); None if none."""
    known = np.isfinite(labels)
    columns = [auc(labels[rows, k], scores[rows, k]) for k, rows in enumerate(known.T)]
    defined = [value for value in columns if value is not None]
    return float(np.mean(defined)) if defined else None


def predict_films(model: nn.Module, films: FilmSet, *, batch: int = 32, view: View = "plain") -> np.ndarray:
    """Probabilities (n, labels) float32 of every film in order, without augmentation.

    In full precision, as a bundle reads, whatever a stage was trained in. The model is moved to the GPU where there is
    one, and evaluates from then on; it can be trained further. Several processes predict a part each and all get the
    whole: all of them must call it.
    """
    gpu, together = torch.cuda.is_available(), distributed.world > 1
    device = torch.device("cuda" if gpu else "cpu")
    # Before inference mode: what is moved in it can never be trained again.
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    mine = distributed.rank_slice(len(films.films)) if together else slice(None)
    workers = distributed.loader_workers() if gpu else 0
    rows = []
    with torch.inference_mode():
        for item in in_order(films, batch, workers, mine, pin=gpu):
            shown = item["overlay" if view == "overlay" else "film"].to(device, non_blocking=True)
            rows.append(torch.sigmoid(model(shown).float()))
        scores = torch.cat(rows).cpu().numpy() if rows else np.zeros((0, films.films.labels.shape[1]), np.float32)
    return distributed.gather_rows(scores) if together else scores
