"""What a GPU does that a processor does not: half precision, NCCL, transfers. Without one these tests are skipped.

`benchmarks/gpu.sh` runs them; its rehearsal sets CXRLINES_REHEARSE, and they run on the processor, as far as that goes.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from cxrlines.core.heatmaps import DrawnLine
from cxrlines.models import HEADS
from cxrlines.models.classifier import Classifier, TwoStep
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene
from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.reader import Reader
from cxrlines.task import LABELS, MAPS, Device
from cxrlines.training import distributed
from cxrlines.training.checkpoint import State, load_state, save_state
from cxrlines.training.config import ScheduleSpec, StageConfig
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.mixing import Mixing
from cxrlines.training.module import StageModule
from cxrlines.training.prediction import predict_films
from cxrlines.training.targets import (
    FeatureTarget,
    LabelTarget,
    MapTarget,
    PresenceTarget,
    RetrievalTarget,
    SoftTarget,
    TargetsSpec,
)
from cxrlines.training.targets.base import Target

GPU = torch.cuda.is_available()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPU and not os.environ.get("CXRLINES_REHEARSE"), reason="no CUDA GPU here"),
]
SIDE, COUNT = (128, 12) if GPU else (32, 4)
BACKBONE = "resnet18d" if GPU else "resnet10t"


class TinyStore:
    """Films whose first label shows as a bright upper half."""

    def __init__(self) -> None:
        self.films = np.random.default_rng(0).integers(0, 60, (COUNT, SIDE, SIDE), dtype=np.uint8)
        self.films[::2, : SIDE // 2] += 120


def film_set(policy: str = "hotwater", **more: Any) -> FilmSet:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (COUNT, len(LABELS))).astype(np.float32)
    truth[:, 0] = np.arange(COUNT) % 2 == 0
    lines = [[DrawnLine(LABELS[0], rng.uniform(2, SIDE - 2, (3, 2)))] for _ in range(COUNT)]
    marks = rng.uniform(2, SIDE - 2, (COUNT, 1, 2))
    films = Films(TinyStore(), np.arange(COUNT), truth, lines, more, marks)  # type: ignore[arg-type]
    return FilmSet(films, policy, SIDE, seed=0, overlay=True, maps="mapped" in more)


def network(head: str = "gap", **options: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(BACKBONE, head, weights="none", **options)


def stage(
    targets: dict[str, Target],
    films: FilmSet,
    model: Any = None,
    schedule: dict[str, Any] | None = None,
    **options: Any,
) -> StageModule:
    fit = ScheduleSpec(**{"epochs": 1, "batch": COUNT // 2, "lr": 1e-3} | (schedule or {}))
    config = StageConfig(fit, TargetsSpec(**targets))
    return StageModule(model or network(), config, films, None, **{"view": "plain"} | options)


TOOLS: dict[str, dict[str, Any]] = {
    "accumulated": {"batch": COUNT, "accumulate": 2, "epochs": 4},  # a step each: in fp16 the first ones may overflow
    "checkpointed": {"checkpoint_gradients": True},
    "frozen at first": {"freeze": "backbone", "freeze_epochs": 0.5},
    "averaged": {"ema": None, "swa_from": 0.5},
    **{optimizer: {"optimizer": optimizer} for optimizer in ("sgd", "nadamw", "lion", "muon")},
}
"""What a schedule may add, on labels and heatmaps."""


def kinds() -> dict[str, Callable[[dict[str, Any]], StageModule]]:
    labels: dict[str, Target] = {"labels": LabelTarget()}
    mapped = np.zeros((COUNT, len(MAPS)), np.float32)
    mapped[::2] = 1
    soft = {"soft": np.full((COUNT, len(LABELS)), 0.3, np.float32), "film_weights": np.ones(COUNT, np.float32)}
    presence = {"presence": np.array([[0, 1, np.nan, np.nan, 1]] * COUNT, np.float32)}
    both = Mixing(mixup=0.4, cutmix=1.0)
    made: dict[str, Callable[[dict[str, Any]], StageModule]] = {
        f"labels, {head}": lambda fit, head=head: stage(labels, film_set(), network(head), fit) for head in HEADS
    }
    return made | {
        "labels, exclusive": lambda fit: stage(labels, film_set(), network(exclusive=True), fit),
        "focal": lambda fit: stage({"labels": LabelTarget(loss="focal", smoothing=0.1)}, film_set(), None, fit),
        "asymmetric": lambda fit: stage({"labels": LabelTarget(loss="asymmetric")}, film_set(), None, fit),
        "mixed": lambda fit: stage(labels, replace(film_set(), mixing=both, overlay=False), None, fit),
        "soft": lambda fit: stage({"soft": SoftTarget(of="other")}, film_set(**soft), None, fit),
        "presence": lambda fit: stage({"presence": PresenceTarget()}, film_set(**presence), None, fit),
        "presence, exclusive": lambda fit: stage(
            {"presence": PresenceTarget()}, film_set(**presence), network(exclusive=True), fit
        ),
        "features": lambda fit: stage(
            labels | {"features": FeatureTarget(of="teacher")}, film_set(), None, fit, teacher=network(in_channels=3)
        ),
        "maps": lambda fit: stage(
            labels | {"maps": MapTarget()}, film_set(mapped=mapped), network(decoder="unet"), fit
        ),
        "overlay": lambda fit: stage(labels, film_set(), network(in_channels=3), fit, view="overlay"),
        "two-step": lambda fit: stage(
            labels, film_set(segmenter=np.arange(COUNT) % 3 - 1),
            TwoStep(network(decoder="unet"), network(in_channels=1 + len(MAPS))), fit,
            segmenters=[network(decoder="unet"), network(decoder="unet")],
        ),
    } | {
        name: lambda fit, tool=tool: stage(
            labels | {"maps": MapTarget()}, film_set(mapped=mapped), network(decoder="unet"), fit | tool
        )
        for name, tool in TOOLS.items()
    }  # fmt: skip


@pytest.mark.parametrize("precision", ["bf16", "16"])
@pytest.mark.parametrize("kind", list(kinds()))
def test_every_kind_of_stage_trains_in_half_precision(kind, precision):
    if not GPU and precision == "16":
        pytest.skip("a processor does not train in 16")
    made = kinds()[kind]({"precision": precision, "ema": 0.9, "clip": 1.0})
    before = {name: value.detach().clone().cpu() for name, value in made.model.named_parameters()}
    after = made.fit()
    assert np.isfinite(made.progress.history[0]["loss"])
    assert all(value.isfinite().all() for value in after.values())
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    frozen = [name for name in before if name.startswith("segmenter.")]
    assert len(changed) > 0.8 * (len(before) - len(frozen)) and not set(changed) & set(frozen)


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    class Killed(Exception):
        pass

    def keep(state: State) -> None:
        save_state(tmp_path / "state", "id", state)
        if state.progress.epoch == 1 and state.progress.batch == 1:
            raise Killed

    def fresh(**options: Any) -> StageModule:
        return stage({"labels": LabelTarget()}, film_set(), None, {"epochs": 3, "precision": "bf16"}, **options)

    start = {name: value.detach().clone().cpu() for name, value in fresh().model.named_parameters()}
    whole = fresh().fit()
    with pytest.raises(Killed):
        fresh(keep=keep, keep_every_s=0).fit()
    resumed = fresh().resume(load_state(tmp_path / "state", "id"))
    assert resumed.step_now == 3
    ends = resumed.fit()
    assert len(resumed.progress.history) == 3
    # A GPU adds up in any order: not bit for bit, but far nearer to one another than to where they began.
    off = sum(float((ends[name] - whole[name]).abs().sum()) for name in start)
    gone = sum(float((whole[name] - value).abs().sum()) for name, value in start.items())
    assert off < 0.2 * gone


def test_it_learns_and_predicts_what_is_there_to_learn():
    made = stage({"labels": LabelTarget()}, film_set("none"), None, {"epochs": 15, "lr": 3e-3, "precision": "bf16"})
    made.model.load_state_dict(made.fit())
    scores = predict_films(made.model, film_set("none"))
    assert scores[::2, 0].min() > scores[1::2, 0].max()


def one_process() -> None:
    """DDP of a process that torchrun began: NCCL, synchronised batch normalisation, collectives."""
    distributed.join()
    # One process has no other's rows to ask for: ask all the same, as several do.
    distributed.of_all = lambda rows: (distributed.all_reduce_sum(rows), slice(None))
    tips = np.random.default_rng(2).random((COUNT, len(Device), 1, 2)).astype(np.float32)
    places = {"tips": tips, "carina": np.full((COUNT, 2), np.nan, np.float32)}
    made = stage({"labels": LabelTarget(), "retrieval": RetrievalTarget()}, film_set(**places))
    distributed.synchronise(made.model, made.in_batch)
    device = "cuda" if GPU else "cpu"
    values = torch.arange(3.0, device=device)
    assert torch.equal(distributed.all_reduce_sum(values), values)
    before = {name: value.detach().clone().cpu() for name, value in made.model.named_parameters()}
    lightning.Trainer(
        **distributed.trainer_options(made.leaves_unused()), accelerator="gpu" if GPU else "cpu",
        precision="bf16-mixed", max_epochs=1, logger=False, enable_checkpointing=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(made)  # fmt: skip
    assert made.step_now == 2
    assert all(not torch.equal(value.cpu(), before[name]) for name, value in made.model.named_parameters())
    print("backend", torch.distributed.get_backend())
    distributed.leave()


def test_data_parallel_training_of_one_process():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"backend {'nccl' if GPU else 'gloo'}" in done.stdout


def test_the_reader_reads_as_on_a_processor(monkeypatch):
    rng = np.random.default_rng(0)
    film = render(make_scene([0, 1], [0, 1, 0], size=512, balance="even", site="a"), difficulty=0.5, site="a", rng=rng)
    here = Reader(load_bundle(EMBEDDED))
    found = here.read(film)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    expected = Reader(load_bundle(EMBEDDED)).read(film)
    assert found.labels is not None and expected.labels is not None
    for label, probability in expected.labels.items():
        assert found.labels[label] == pytest.approx(probability, abs=2e-3)
    assert len(found.lines) == len(expected.lines)


if __name__ == "__main__":
    one_process()
