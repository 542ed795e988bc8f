"""One Lightning module for every stage: a start, films, targets, losses, a schedule in; a classifier out."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from cxrlines.evaluation.metrics import macro_auc
from cxrlines.models.classifier import Classifier
from cxrlines.models.two_step import Model, TwoStep
from cxrlines.training import distributed
from cxrlines.training.checkpoint import Progress, State, cpu_copy
from cxrlines.training.fit import Fit, Report, Track
from cxrlines.training.loader import Batches, FilmSet, View, batches_per_epoch, in_order
from cxrlines.training.losses import PRESENCE_GROUPS, feature_loss, label_loss, maps_loss, presence_loss
from cxrlines.training.schedule import learning_rate


class StageModule(lightning.LightningModule):
    """Fits `model` on `films`, seen as `view`; with a `teacher`, also to the teacher's features of the overlay.

    A `TwoStep` model's maps of a training film come from that of `segmenters` which `films` says did not see it.
    """

    def __init__(
        self,
        model: Model,
        fit: Fit,
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
        self.positive_weight = positive_weight
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
        self.ema = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(fit.ema), use_buffers=True) if fit.ema else None
        )
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()
        self.resumed_optimizer: dict[str, Any] = {}
        self.resumed_scaler: dict[str, Any] = {}
        if state:
            self._restore(state)
        self.pause_s = keep_every_s
        self.scores: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.loss = math.nan
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
            parts = [self.model.classify(features) if self.fit_to.classifies else features, maps]
            return torch.cat([part.flatten() for part in parts if part is not None])

        return distributed.leaves_unused(self.model, read)

    def _read(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Features of a batch, and its maps' logits where they are learnt."""
        film = batch["overlay" if self.view == "overlay" else "film"]
        if self.fit_to.maps_weight:
            assert isinstance(self.model, Classifier)  # one that is shown maps learns none
            return self.model.features_and_maps(film, batch.get("rows"))
        if isinstance(self.model, TwoStep) and "segmenter" in batch:
            return self.model.features(film, self._maps_by_others(self.model, film, batch["segmenter"])), None
        return self.model.features(film), None

    def _maps_by_others(self, model: TwoStep, film: Tensor, which: Tensor) -> Tensor:
        """The maps (b, 9, h/2, w/2) of each film by the segmenter it names: -1 the model's own."""
        maps = film.new_zeros(0)
        for index in which.unique().tolist():
            mine = which == index
            with torch.no_grad():
                segmenter = model.segmenter if index < 0 else self.segmenters[0][index]
                part = torch.sigmoid(segmenter.features_and_maps(film[mine])[1])
            if not len(maps):
                maps = part.new_zeros((len(film), *part.shape[1:]))
            maps[mine] = part
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

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        stop = min(self.per_epoch, self.total - self.progress.epoch * self.per_epoch)
        batches = Batches(
            len(self.films.films),
            self.fit_to.batch,
            seed=self.fit_to.seed,
            epoch=self.progress.epoch,
            start=self.progress.batch,
            stop=stop,
            part=distributed.part,
        )
        return DataLoader(
            self.films,
            batch_sampler=batches,
            num_workers=self.loader_workers,
            pin_memory=self.device.type == "cuda",
        )

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        if not self.validation:
            return []
        mine = self._part_of_validation()
        return in_order(self.validation, self.fit_to.batch * 2, self.loader_workers, mine)

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

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.fit_to.maps_weight:
            batch = {**batch, "rows": mapped_rows(batch["mapped"])}
        features, maps = self._read(batch)
        loss = features.new_zeros(())
        fit = self.fit_to
        mine = len(features) * distributed.world() / self.in_batch  # 1 but for an uneven part of a batch
        if fit.classifies:
            logits = full(self.model.classify(features))
        if fit.label_weight:
            weight = self.positive_weight.to(logits.device) if self.positive_weight is not None else None
            loss = loss + fit.label_weight * label_loss(logits, batch["targets"], weight)
        if fit.soft_weight:
            soft = label_loss(logits, batch["soft"], film_weights=batch["film_weights"])
            loss = loss + fit.soft_weight * soft
        if fit.presence_weight:
            known = distributed.share(torch.isfinite(batch["presence"]).sum()) / mine
            loss = loss + fit.presence_weight * known * presence_loss(logits, batch["presence"], PRESENCE_GROUPS)
        if maps is not None:
            rows, maps = batch["rows"], full(maps)
            wanted = batch["maps"][rows].to(maps.dtype)
            loss = loss + fit.maps_weight * maps_loss(maps, wanted, batch["mapped"][rows])
        for teacher in self.frozen:
            with torch.no_grad():
                wanted = teacher.features(batch["overlay"])
            loss = loss + fit.feature_weight * feature_loss(features, wanted)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss.item()} at step {self.step_now}: lower schedule.lr (now {self.fit_to.lr}), "
                "set schedule.clip, or use precision 32"
            )
        return loss * mine

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.progress.batch += 1
        self.losses.append(outputs["loss"].detach())
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        now = time.monotonic()
        if now - self.told > 1:
            self._tell(now)
        if now - self.kept >= self.pause_s and self.step_now < self.total and self.progress.batch < self.per_epoch:
            self._keep()

    def _keep(self) -> None:
        """Save; a model that is slow to save is saved less often, so that saving never takes over 5 % of the time."""
        begun = time.monotonic()
        if distributed.is_first():
            self.keep(self.state())
        self.kept = time.monotonic()
        self.pause_s = max(self.keep_every_s, 20 * (self.kept - begun)) if self.keep_every_s else 0.0

    def _tell(self, now: float) -> None:
        self.told = now
        self.loss = float(torch.stack(self.losses[-50:]).mean())
        seconds = self.progress.seconds + now - self.clock
        speed = self.step_now / max(seconds, 1e-9)
        self.report(
            {
                "epoch": self.progress.epoch + 1,
                "epochs": math.ceil(self.fit_to.epochs),
                "step": self.step_now,
                "steps": self.total,
                "films_per_s": speed * self.fit_to.batch,
                "loss": self.loss,
                "auc": self.progress.history[-1]["auc"] if self.progress.history else None,
                "seconds_left": (self.total - self.step_now) / max(speed, 1e-9),
            }
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self.judged(batch["overlay" if self.view == "overlay" else "film"])
        self.scores.append(torch.sigmoid(logits.float()).cpu())

    def on_train_epoch_end(self) -> None:
        auc = None
        if self.validation and self.scores:
            scores = torch.cat(self.scores).numpy()
            if len(scores) < len(self.validation.films):
                scores = distributed.gather_rows(scores)
            auc = macro_auc(self.validation.films.targets, scores)
        self.scores.clear()
        loss = distributed.mean(float(torch.stack(self.losses).mean())) if self.losses else math.nan
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


def mapped_rows(known: Tensor) -> Tensor:
    """Rows (m,) int64 of a batch's films that the decoder is run on: those with a map that is `known` (b, 9), not 0.

    The others would cost a half more and teach it nothing. Where there is none, the first: every parameter gets its
    gradient, here 0, in every step.
    """
    rows = known.any(dim=1).nonzero().flatten()
    return rows if len(rows) else rows.new_zeros(1)
