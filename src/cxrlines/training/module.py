"""One Lightning module for every stage: a start, films, targets, losses, a schedule in; a classifier out."""

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cxrlines.core.errors import Error
from cxrlines.metrics.auc import macro_auc
from cxrlines.models.classifier import Classifier
from cxrlines.models.two_step import Model, TwoStep
from cxrlines.training import distributed
from cxrlines.training.checkpoint import Progress, State, cpu_copy
from cxrlines.training.config import Report, StageConfig, Track
from cxrlines.training.loader import Batches, FilmSet, Left, View, batches_per_epoch, in_order, load
from cxrlines.training.schedule import learning_rate
from cxrlines.training.targets.losses import (
    PRESENCE_GROUPS,
    Sums,
    feature_loss,
    label_loss,
    maps_loss,
    presence_loss,
    total_loss,
)

SKIPPED = 30
"""Steps in a row whose loss is not finite, after which half precision is given up; its scaler skips a few at times."""
SMALLEST_SCALE = 2.0**-20
"""Half precision is given up too when its scaler has come down to this, by 36 skipped steps from its 65,536."""


class DivergedError(Error):
    """The loss is no longer a number, and what is trained is spoilt. The state kept last is not."""


class Average(nn.Module):
    """The running average of a model's weights and buffers, begun with the first it is shown; counters are the last.

    torch's AveragedModel keeps a count on the device and asks for it at every update, and the processor waits.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, first: bool) -> None:
        """Move towards `model` by 1 - decay; with `first` become it."""
        mine, theirs = (list(itertools.chain(one.parameters(), one.buffers())) for one in (self.module, model))
        pairs = list(zip(mine, theirs, strict=True))
        moved = [pair for pair in pairs if pair[0].is_floating_point() and not first]
        if moved:
            torch._foreach_lerp_([own for own, _ in moved], [new for _, new in moved], 1 - self.decay)
        for own, new in pairs:
            if first or not own.is_floating_point():
                own.copy_(new)


class StageModule(lightning.LightningModule):
    """Fits `model` on `films`, seen as `view`; with a `teacher`, also to the teacher's features of the overlay.

    A `TwoStep` model's maps of a training film come from that of `segmenters` which `films` says did not see it.
    """

    def __init__(
        self,
        model: Model,
        fit: StageConfig,
        films: FilmSet,
        validation: FilmSet | None,
        *,
        view: View,
        teacher: Model | None = None,
        segmenters: Sequence[Classifier] = (),
        positive_weight: Tensor | None = None,
        state: State | None = None,
        keep: Callable[[State], None] = lambda state: None,
        keep_every_s: float = 30.0,
        report: Report = lambda status: None,
        track: Track = lambda values, epoch: None,
        loader_workers: int = 0,
    ) -> None:
        super().__init__()
        model.to(memory_format=torch.channels_last)  # 1.5 times as fast on a processor, and faster on a GPU
        if teacher:
            teacher.to(memory_format=torch.channels_last)
        self.model, self.fit_to, self.films, self.validation, self.view = model, fit, films, validation, view
        # Lists of lists: not part of what is saved.
        self.frozen = [teacher.eval().requires_grad_(False)] if teacher else []
        self.segmenters = [[segmenter.eval().requires_grad_(False) for segmenter in segmenters]]
        self.positive_weight: Tensor | None
        self.register_buffer("positive_weight", positive_weight, persistent=False)
        self.keep, self.keep_every_s, self.report, self.loader_workers = (
            keep,
            keep_every_s,
            report,
            loader_workers,
        )
        self.track = track
        self.per_epoch = batches_per_epoch(len(films.films), fit.batch)
        self.total = max(1, round(fit.epochs * self.per_epoch))
        self.in_batch = min(fit.batch, len(films.films))
        self.ema = Average(model, fit.ema) if fit.ema else None
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()
        self.resumed_optimizer: dict[str, Any] = {}
        self.resumed_scaler: dict[str, Any] = {}
        if state:
            self._restore(state)
        self.pause_s = keep_every_s
        self.scores: list[Tensor] = []
        self.fresh: list[Tensor] = []  # losses still on the device
        self.losses: list[float] = []  # of this epoch
        self.not_finite = 0  # in a row, up to the last
        self.loaders: dict[str, DataLoader[dict[str, Any]]] = {}
        self.clock = self.kept = self.told = time.monotonic()
        self.started_at = self.step_now

    # -- where we are

    @property
    def step_now(self) -> int:
        """Optimiser steps done, resumed ones included."""
        return self.progress.epoch * self.per_epoch + self.progress.batch

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.progress.stopped or self.step_now >= self.total

    def _restore(self, state: State) -> None:
        self.model.load_state_dict(state.tensors["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state.tensors["ema"])
        self.best = state.tensors.get("best", {})
        self.progress, self.resumed_optimizer, self.resumed_scaler = (
            state.progress,
            state.optimizer,
            state.scaler,
        )

    def leaves_unused(self) -> bool:
        """Whether a step leaves parameters of the model without a gradient, as learning features does the head's."""
        film = self.films[(0, 0)]["overlay" if self.view == "overlay" else "film"][None]

        def read() -> Tensor:
            features, maps = self._read({"film": film, "overlay": film})
            used = [self.model.classify(features)] if self.fit_to.classifies else []
            used += [features] if self.frozen else []  # else what is only of the last feature map is used by nothing
            used += [maps] if maps is not None else []
            return torch.cat([part.flatten() for part in used])

        return distributed.leaves_unused(self.model, read)

    def _read(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Features of a batch, and its maps' logits where they are learnt."""
        film = batch["overlay" if self.view == "overlay" else "film"]
        if self.fit_to.maps_weight:
            assert isinstance(self.model, Classifier)  # one that is shown maps learns none
            return self.model.features_and_maps(film, batch.get("rows"))
        if isinstance(self.model, TwoStep) and "segmenter" in batch:
            return self.model.features(film, self._maps_by_others(self.model, film, batch["segmenter"])), None
        return self.model.features(film), None

    def _maps_by_others(self, model: TwoStep, film: Tensor, films_of: Mapping[int, Tensor]) -> Tensor:
        """The maps (b, 9, h/2, w/2) of films by their segmenters, each with its rows in `films_of`: -1 the model's."""
        maps: Tensor | None = None
        for index, rows in films_of.items():
            with torch.no_grad():
                segmenter = model.segmenter if index < 0 else self.segmenters[0][index]
                part = torch.sigmoid(segmenter.features_and_maps(film[rows])[1])
            maps = part.new_zeros((len(film), *part.shape[1:])) if maps is None else maps
            maps[rows] = part
        assert maps is not None  # a batch has films
        return maps

    def state(self) -> State:
        """All that is needed to go on from here."""
        tensors = {"model": cpu_copy(self.model.state_dict()), "best": self.best}
        if self.ema is not None:
            tensors["ema"] = cpu_copy(self.ema.state_dict())
        self.progress.seconds += time.monotonic() - self.clock
        self.clock = time.monotonic()
        scaler = self.trainer.precision_plugin.state_dict()
        return State(self.progress, tensors, self._optimizer.state_dict(), scaler)

    def result(self) -> dict[str, Tensor]:
        """The weights to hand on: the best epoch's where it may stop early, else the average, else the last."""
        if self.fit_to.patience is not None and self.best:
            return self.best
        return cpu_copy(self.judged.state_dict())

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        found = self.optimizers(use_pl_optimizer=False)
        assert isinstance(found, torch.optim.Optimizer)  # configure_optimizers makes one
        return found

    @property
    def judged(self) -> Model:
        """The model that is validated and handed on."""
        return self.ema.module if self.ema is not None else self.model  # type: ignore[return-value]

    # -- Lightning's hooks

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kind = torch.optim.Adam if self.fit_to.optimizer == "adam" else torch.optim.AdamW
        return kind(self.model.parameters(), lr=self.fit_to.lr, weight_decay=self.fit_to.weight_decay)

    def _left(self) -> Batches:
        """The batches that are left of this epoch."""
        return Batches(
            len(self.films.films),
            self.fit_to.batch,
            seed=self.fit_to.seed,
            epoch=self.progress.epoch,
            start=self.progress.batch,
            stop=min(self.per_epoch, self.total - self.progress.epoch * self.per_epoch),
            part=distributed.part,
            mapped=self.films.mapped,
        )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        if "train" not in self.loaders:
            gpu = self.device.type == "cuda"
            self.loaders["train"] = load(self.films, Left(self._left), self.loader_workers, pin=gpu, stay=True)
        return self.loaders["train"]

    def val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        if not self.validation:
            return []
        if "watched" not in self.loaders:
            gpu, mine = self.device.type == "cuda", self._part_of_validation()
            self.loaders["watched"] = in_order(
                self.validation, self.fit_to.batch * 2, self.loader_workers, mine, pin=gpu, stay=True
            )
        return self.loaders["watched"]

    def _part_of_validation(self) -> slice:
        """This process's films of the validation; all of them where there is not one for each process."""
        count = len(self.validation.films) if self.validation else 0
        return distributed.part(count) if count >= distributed.world() else slice(0, count)

    def on_fit_start(self) -> None:
        for other in (*self.frozen, *self.segmenters[0]):
            other.to(self.device)

    def on_train_start(self) -> None:
        if self.resumed_optimizer:
            self._optimizer.load_state_dict(self.resumed_optimizer)
            # Moments go into their parameter's memory format: the same numbers, but faster steps.
            for parameter, slots in self._optimizer.state.items():
                for slot, value in slots.items():
                    if value.shape == parameter.shape:
                        slots[slot] = torch.empty_like(parameter).copy_(value)
        if self.resumed_scaler:
            self.trainer.precision_plugin.load_state_dict(self.resumed_scaler)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout draws from the step alone, so that a resumed run draws what an uninterrupted one would.
        torch.manual_seed(self.fit_to.seed * 1_000_003 + self.step_now)
        rate = learning_rate(
            self.step_now,
            total=self.total,
            per_epoch=self.per_epoch,
            peak=self.fit_to.lr,
            end=self.fit_to.end_lr,
            shape=self.fit_to.shape,
            warmup_epochs=self.fit_to.warmup_epochs,
            restart_epochs=self.fit_to.restart_epochs,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        features, maps = self._read(batch)
        fit = self.fit_to
        parts: list[tuple[float, Sums]] = []
        if fit.classifies:
            logits = full(self.model.classify(features))
        if fit.label_weight:
            parts.append((fit.label_weight, label_loss(logits, batch["targets"], self.positive_weight)))
        if fit.soft_weight:
            parts.append((fit.soft_weight, label_loss(logits, batch["soft"], film_weights=batch["film_weights"])))
        if fit.presence_weight:
            parts.append((fit.presence_weight, presence_loss(logits, batch["presence"], PRESENCE_GROUPS)))
        if maps is not None:
            maps, known = full(maps), batch["mapped"][batch["rows"]]
            wanted = batch["maps"].to(maps.dtype)
            parts += [(fit.maps_weight * weight, part) for weight, part in maps_loss(maps, wanted, known)]
        for teacher in self.frozen:
            with torch.no_grad():
                taught = teacher.features(batch["overlay"])
            parts.append((fit.feature_weight, feature_loss(full(features), full(taught))))
        return total_loss(parts)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.progress.batch += 1
        self.fresh.append(outputs["loss"].detach())
        if self.ema is not None:
            self.ema.update(self.model, first=self.step_now == 1)
        now = time.monotonic()
        if now - self.told > 1:
            self._tell(now)
        if now - self.kept >= self.pause_s and self.step_now < self.total and self.progress.batch < self.per_epoch:
            self._keep()

    def _look(self) -> None:
        """Fetch the losses since the last look. Only then the processor waits for a GPU, not in every step.

        Raises:
            DivergedError: a loss is not finite; in half precision, whose scaler skips such steps, many in a row.
        """
        if not self.fresh:
            return
        losses = torch.stack(self.fresh).tolist()
        self.fresh.clear()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        for step, loss in enumerate(losses, start=self.step_now - len(losses)):
            self.not_finite = 0 if math.isfinite(loss) else self.not_finite + 1
            if self.not_finite > (SKIPPED if scaler else 0):
                raise self._diverged(f"the loss became {loss} at step {step - self.not_finite + 1}")
        if scaler and scaler.get_scale() < SMALLEST_SCALE:
            raise self._diverged(f"by step {self.step_now} most gradients were too large for 16 bits")
        self.losses += losses

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"{what} with schedule.lr {self.fit_to.lr} and schedule.precision {self.fit_to.precision}",
            "lower schedule.lr, set schedule.clip, or use precision 32 (bf16 instead of 16, where the GPU has it)",
        )

    def _keep(self) -> None:
        """Save; a model that is slow to save is saved less often, so that saving never takes over 5 % of the time."""
        self._look()  # what has diverged is not kept
        begun = time.monotonic()
        if distributed.is_first():
            self.keep(self.state())
        self.kept = time.monotonic()
        self.pause_s = max(self.keep_every_s, 20 * (self.kept - begun)) if self.keep_every_s else 0.0

    def _tell(self, now: float) -> None:
        self.told = now
        self._look()
        seconds = self.progress.seconds + now - self.clock
        speed = self.step_now / max(seconds, 1e-9)
        self.report(
            {
                "epoch": self.progress.epoch + 1,
                "epochs": math.ceil(self.fit_to.epochs),
                "step": self.step_now,
                "steps": self.total,
                "films_per_s": speed * self.fit_to.batch,
                "loss": finite_mean(self.losses[-50:]),
                "auc": self.progress.history[-1]["auc"] if self.progress.history else None,
                "seconds_left": (self.total - self.step_now) / max(speed, 1e-9),
            }
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self.judged(batch["overlay" if self.view == "overlay" else "film"])
        self.scores.append(torch.sigmoid(logits.float()))

    def on_train_epoch_end(self) -> None:
        self._look()
        auc = None
        if self.validation and self.scores:
            scores = torch.cat(self.scores).cpu().numpy()
            if len(scores) < len(self.validation.films):
                scores = distributed.gather_rows(scores)
            auc = macro_auc(self.validation.films.targets, scores)
        self.scores.clear()
        loss = finite_mean(self.losses)
        self.losses.clear()
        rate = self._optimizer.param_groups[0]["lr"]
        done = self.progress
        done.history.append({"epoch": done.epoch + 1, "loss": loss, "auc": auc, "lr": rate})
        self.track({"loss": loss, "lr": rate} | ({"auc": auc} if auc is not None else {}), done.epoch + 1)
        if auc is not None and (done.best is None or auc > done.best):
            done.best, done.epochs_since_best = auc, 0
            if self.fit_to.patience is not None:
                self.best = cpu_copy(self.judged.state_dict())
        else:
            done.epochs_since_best += 1
        if self.fit_to.patience is not None and done.epochs_since_best >= self.fit_to.patience:
            done.stopped = self.trainer.should_stop = True
        done.epoch, done.batch = done.epoch + 1, 0
        self._keep()


def full(values: Tensor) -> Tensor:
    """What comes in 16 bits, in 32: half precision is for a network; a loss sums over more pixels than it can count."""
    return values.float() if values.dtype.itemsize < 4 else values


def finite_mean(values: Sequence[float]) -> float:
    """The mean of what is finite of `values`, NaN where nothing is: a step that half precision skipped has no loss."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
