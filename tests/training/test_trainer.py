"""Precision, steps that half precision skips, and what predicting leaves of a model."""

from functools import partial
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from cxrlines.models.classifier import Classifier
from cxrlines.task import LABELS
from cxrlines.training import module as stage_module
from cxrlines.training.checkpoint import MAX_SKIPPED, MIN_SCALE, DivergedError, LossLog, State
from cxrlines.training.config import ScheduleSpec, StageConfig, precision_of
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.module import StageModule
from cxrlines.training.prediction import predict_films

from .small_stages import killed_and_resumed, noise_store, same

FIT = ScheduleSpec(epochs=3, batch=4, lr=1e-3, precision="16")


def config(**schedule: Any) -> StageConfig:
    return StageConfig(FIT.model_copy(update=schedule), seed=5)


def film_set(count: int = 18) -> FilmSet:
    targets = np.random.default_rng(1).integers(0, 2, (count, len(LABELS))).astype(np.float32)
    films = Films(noise_store(count), np.arange(count), targets, [[]] * count)
    return FilmSet(films, "none", 32, seed=0)


def model() -> Classifier:
    torch.manual_seed(1)
    return Classifier("resnet10t", "gap", weights="none")


class Overflowing(StageModule):
    """Its loss is multiplied at some steps, as by too large an activation; `None` spoils the gradients alone."""

    factors: dict[int, float | None]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss, factor = super().training_step(batch, batch_idx), self.factors.get(self.step_now, 1.0)
        if factor is None:
            return loss + sum((parameter * 0).sum().sqrt() for parameter in self.model.parameters())
        return loss * factor


def stage(factors: dict[int, float | None], fit: StageConfig | None = None, **options: Any) -> Overflowing:
    made = Overflowing(model(), fit or config(), film_set(), None, view="plain", **options)
    made.factors = factors
    return made


@pytest.fixture
def scaled(monkeypatch) -> list[torch.amp.GradScaler]:
    """Training with torch's own scaler, as `precision: 16` has on a GPU; here on the processor, in 32 bits."""
    scalers: list[torch.amp.GradScaler] = []

    class Scaled(MixedPrecision):
        def forward_context(self) -> Any:
            return torch.autocast("cpu", enabled=False)

    class Trainer(lightning.Trainer):
        def __init__(self, *, precision: str, plugins: list[Any], **options: Any) -> None:
            assert precision == "16-mixed"
            scalers.append(torch.amp.GradScaler("cpu"))
            super().__init__(plugins=[*plugins, Scaled("16-mixed", "cpu", scalers[-1])], **options)

    monkeypatch.setattr(lightning, "Trainer", Trainer)
    monkeypatch.setattr(stage_module, "precision_of", lambda schedule: schedule.precision)
    return scalers


def finite(weights: dict[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_half_precision_skips_steps_whose_loss_is_not_finite(scaled):
    kept: list[State] = []
    some = stage({2: float("inf"), 3: float("nan"), 6: float("inf")}, keep=kept.append, keep_every_s=0)
    weights = some.fit()
    (scaler,) = scaled
    assert some.finished and finite(weights) and scaler.get_scale() == 65536 / 8
    assert all(np.isfinite(row["loss"]) for row in some.progress.history), "the mean is of the steps that were taken"
    assert all(finite(state.tensors["model"]) for state in kept)
    untouched = stage({}).fit()
    assert any(not torch.equal(untouched[name], weights[name]) for name in weights)


def overflowing_inside(some: StageModule, steps: set[int]) -> StageModule:
    """The stage with an activation that is infinite at these steps, as where half precision overflows in a pass."""

    def spoil(norm: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if some.step_now not in steps or not norm.training:
            return None
        spoilt = given[0].clone()
        spoilt[0, 0, 0, 0] = float("inf")
        return (spoilt, *given[1:])

    some.model.backbone.net.bn1.register_forward_pre_hook(spoil)
    return some


@pytest.mark.parametrize("schedule", [{}, {"ema": 0.5}, {"accumulate": 2}, {"checkpoint_gradients": True}])
def test_a_pass_that_overflows_leaves_no_trace_in_batch_norms(scaled, schedule):
    kept: list[State] = []
    some = overflowing_inside(stage({}, config(**schedule), keep=kept.append, keep_every_s=0), {2, 5})
    weights = some.fit()
    assert some.finished and scaled[0].get_scale() == 65536 / 4, "two steps were skipped"
    assert finite(weights) and all(finite(group) for state in kept for group in state.tensors.values())
    some.model.load_state_dict(weights)
    assert np.isfinite(predict_films(some.model, film_set())).all()
    before, after = (state.tensors["model"] for state in kept[1:3])
    moved = {name for name in before if not torch.equal(before[name], after[name]) and "num_batches" not in name}
    there = {f"backbone.net.bn1.{name}" for name in ("running_mean", "running_var")}
    assert all(torch.equal(before[name][:1], after[name][:1]) for name in there), "of the channel that overflowed"
    stem = {name for name in before if "net.conv1" in name and "running" in name}
    assert moved == there | stem, "what comes before it and beside it saw the batch; what comes after nothing finite"


class Spoilt(StageModule):
    """Its running statistics are no numbers from step 2 on; in training no loss shows it."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.step_now == 2:
            self.model.backbone.net.bn1.running_mean.fill_(float("nan"))
        return super().training_step(batch, batch_idx)


def test_a_state_that_is_not_finite_is_not_kept():
    kept: list[State] = []
    some = Spoilt(model(), config(precision="32"), film_set(), None, view="plain", keep=kept.append, keep_every_s=0)
    with pytest.raises(DivergedError, match=r"by step 3 backbone\.net\.bn1\.running_mean was no longer finite"):
        some.fit()
    assert len(kept) == 2 and all(finite(state.tensors["model"]) for state in kept)


def test_predictions_that_are_not_finite_are_watched_by_no_auc():
    some = Spoilt(model(), config(precision="32"), film_set(), film_set(6), view="plain")
    with pytest.raises(DivergedError, match="by step 4 predictions were no longer finite"):
        some.fit()
    assert not some.progress.history


def test_a_step_of_several_passes_is_skipped_as_a_whole(scaled):
    factors = {1: float("inf")}
    some = stage(factors, config(accumulate=2, epochs=0.5))
    weights = some.fit()
    assert some.total == 2 and finite(weights) and scaled[0].get_scale() == 65536 / 2
    once = stage({}, config(accumulate=2, epochs=0.5, lr=0.0, end_lr=0.0)).fit()
    assert any(not torch.equal(once[name], weights[name]) for name in once), "the first step was taken"


def test_a_resumed_run_goes_on_with_the_scale_it_had(scaled, tmp_path):
    factors = {1: float("inf"), 2: float("inf")}
    whole = stage(factors).fit()

    resumed = killed_and_resumed(
        tmp_path / "state", partial(stage, factors), is_last=lambda state: state.progress.epoch == 1
    ).fit()
    assert scaled[-1].get_scale() == 65536 / 4
    assert same(resumed, whole)


@pytest.mark.parametrize(
    ("factor", "said"), [(float("nan"), "the loss became nan at step 5"), (None, "too large for 16 bits")]
)
def test_half_precision_is_given_up_after_many_skipped_steps(scaled, factor, said):
    fit = config(epochs=12)
    assert fit.schedule.epochs * 4 > max(MAX_SKIPPED, 36) + 5
    with pytest.raises(DivergedError, match=said) as diverged:
        stage({step: factor for step in range(5, 10_000)}, fit).fit()
    assert "bf16" in diverged.value.way_out
    assert scaled[0].get_scale() < (MIN_SCALE if factor is None else 65536 * 2.0**-MAX_SKIPPED)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_in_full_precision_the_first_loss_that_is_not_finite_ends_it_and_is_not_kept(precision):
    kept: list[State] = []
    bad = stage({6: float("nan")}, config(precision=precision), keep=kept.append, keep_every_s=0)
    with pytest.raises(DivergedError, match=r"the loss became nan at step 6 with schedule.lr 0\.001"):
        bad.fit()
    assert kept and all(finite(state.tensors["model"]) for state in kept)


def test_losses_are_fetched_at_reports_and_not_at_every_step(monkeypatch):
    seconds = [0.0]

    def monotonic() -> float:
        seconds[0] += 0.1  # a step seems to take some tenths of a second, so that a report comes after several
        return seconds[0]

    monkeypatch.setattr(stage_module.time, "monotonic", monotonic)
    fetched: list[int] = []
    usual = LossLog.fetch

    def fetch(self: LossLog, *arguments: Any) -> list[float]:
        fetched.append(len(self.fresh))
        return usual(self, *arguments)

    monkeypatch.setattr(LossLog, "fetch", fetch)
    reports: list[dict[str, Any]] = []
    stage({}, config(precision="32", epochs=10), report=reports.append).fit()
    assert sum(fetched) == 40 and max(fetched) > 1
    assert reports and all(np.isfinite(report["loss"]) for report in reports)


@pytest.mark.parametrize("batch", [FIT.batch, 64])
def test_speed_and_time_left_are_those_of_this_run_and_not_of_the_killed_one(tmp_path, monkeypatch, batch):
    reports: list[dict[str, Any]] = []
    make = partial(stage, {}, config(precision="32", epochs=10, batch=batch), report=reports.append)
    resumed = killed_and_resumed(tmp_path / "state", make, lambda state: state.progress.epoch == 5)
    resumed.progress.seconds = 86400.0  # as of a process that was stopped for a day
    reports.clear()
    seconds = [stage_module.time.monotonic()]

    def monotonic() -> float:
        seconds[0] += 0.4
        return seconds[0]

    monkeypatch.setattr(stage_module.time, "monotonic", monotonic)
    resumed.fit()
    assert len(reports) > 1 and all(report["films_per_s"] > 1 for report in reports)
    first = reports[0]
    left = (first["steps"] - first["step"]) * min(batch, 18)
    assert left > 0 and first["seconds_left"] == pytest.approx(left / first["films_per_s"])


@pytest.mark.parametrize(("gpu", "bf16", "wanted"), [(False, False, "32"), (True, True, "bf16"), (True, False, "16")])
def test_auto_is_what_the_card_computes_in_itself(monkeypatch, gpu, bf16, wanted):
    asked: list[bool] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation=True: asked.append(including_emulation) or bf16
    )
    assert precision_of(ScheduleSpec()) == wanted
    assert asked == ([False] if gpu else []), "emulated bf16 is slower than 16"


def test_a_model_that_predicted_can_be_trained():
    """Moved within inference mode, as to channels last, its weights would never take a gradient again."""
    one = model()
    before = predict_films(one, film_set())
    fit = config(precision="32", lr=1e-2)
    trained = StageModule(one, fit, film_set(), film_set(5), view="plain").fit()
    one.load_state_dict(trained)
    assert np.abs(predict_films(one, film_set()) - before).max() > 1e-3
    one.train()
    loss = one(torch.rand(2, 1, 32, 32)).sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in one.parameters())
