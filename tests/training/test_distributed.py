"""Two processes end where one does: weights, history, predictions; and say what does not fit."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrlines.core.heatmaps import DrawnLine
from cxrlines.core.transform import Affine
from cxrlines.models.classifier import Classifier, TwoStep
from cxrlines.task import LABELS, MAPS
from cxrlines.training import distributed
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

LABELS_AND_PRESENCE = TargetsSpec(labels=LabelTarget(), presence=PresenceTarget(weight=0.5))
FIT = StageConfig(ScheduleSpec(epochs=2, batch=5, lr=1e-3, ema=0.5, clip=1.0), LABELS_AND_PRESENCE, seed=5)
SIZE = 32


class TinyStore:
    """Noise, the store's interface as the loader uses it."""

    def __init__(self, count: int) -> None:
        self.films = np.random.default_rng(0).integers(0, 256, (count, 40, 40), dtype=np.uint8)
        self.placements = [Affine(((1, 0, 0), (0, 1, 0)))] * count


def films(count: int) -> Films:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, (count, len(LABELS))).astype(np.float32)
    presence = rng.choice([0, 1, np.nan], (count, 5)).astype(np.float32)  # known for more films here than there
    return Films(TinyStore(count), np.arange(count), targets, [[]] * count, {"presence": presence})  # type: ignore[arg-type]


def film_set(count: int, policy: str) -> FilmSet:
    return FilmSet(films(count), policy, SIZE, seed=5, overlay=False, colour_by="device")


def model(head: str = "gap") -> Classifier:
    torch.manual_seed(1)
    return Classifier("resnet10t", head, in_channels=1, weights="none", dropout=0.5)


def fitted(fit: StageConfig, **options) -> tuple[StageModule, dict[str, torch.Tensor]]:
    # In double precision, so that what differs by more than rounding shows: Adam's first steps are of one size however
    # small their gradient is, and make much of little.
    module = StageModule(
        model("attention").double(), fit, film_set(11, "light"), film_set(7, "none"), view="plain", **options
    )
    return module, module.fit()


def only(schedule: dict | None = None, **targets: Target) -> StageConfig:
    usual = {"epochs": 1, "batch": 5, "lr": 1e-3}
    return StageConfig(ScheduleSpec(**usual | (schedule or {})), TargetsSpec(**targets), seed=5)


LABELS_TOO = {"labels": LabelTarget()}


def annotated(known: list[int], **more: np.ndarray) -> FilmSet:
    """Eleven films with a line and a carina each, known of some alone; two batches of five an epoch."""
    rng = np.random.default_rng(2)
    lines = [[DrawnLine(LABELS[film % 4], rng.uniform(5, 35, (3, 2)))] for film in range(11)]
    mapped = np.zeros((11, len(MAPS)), np.float32)
    mapped[known] = 1
    mapped[known[1:], -1] = 0  # and the carina of one
    some = dataclasses.replace(
        films(11), lines=lines, landmarks=rng.uniform(5, 35, (11, 1, 2)), more={"mapped": mapped, **more}
    )
    return FilmSet(some, "none", SIZE, seed=5, maps=True)


def order() -> list[list[int]]:
    """The films of the two whole batches, as one process has them."""
    drawn = np.random.default_rng([5, 0]).permutation(11)  # what `epoch_batches` draws for seed 5, epoch 0
    return [drawn[:5].tolist(), drawn[5:10].tolist()]


def mapping(
    known: list[int], schedule: dict | None = None, backbone: str = "resnet10t", **targets: Target
) -> StageModule:
    torch.manual_seed(1)
    network = Classifier(backbone, "gap", weights="none", decoder="unet").double()
    return StageModule(
        network, only(schedule, **targets, maps=MapTarget(weight=0.7)), annotated(known), None, view="plain"
    )


def taught(fit: StageConfig) -> StageModule:
    torch.manual_seed(3)
    teacher = Classifier("resnet10t", "gap", in_channels=3, weights="none").double()
    seen = FilmSet(annotated([0]).films, "none", SIZE, seed=5, overlay=True)
    return StageModule(model().double(), fit, seen, None, view="plain", teacher=teacher)


def plainly(fit: StageConfig, **more: np.ndarray) -> StageModule:
    train = FilmSet(dataclasses.replace(films(11), more=more), "none", SIZE, seed=5)
    return StageModule(model().double(), fit, train, None, view="plain")


def mixed(fit: StageConfig, mixing: Mixing, rare_below: float | None = None, **more: np.ndarray) -> StageModule:
    stage = plainly(fit, **more)
    stage.films = dataclasses.replace(stage.films, mixing=mixing, rare_below=rare_below)
    return stage


def two_step() -> StageModule:
    torch.manual_seed(4)
    segmenters = [Classifier("resnet10t", "gap", weights="none", decoder="unet").double() for _ in range(3)]
    reader = Classifier("resnet10t", "gap", in_channels=1 + len(MAPS), weights="none").double()
    some = dataclasses.replace(films(11), more={"segmenter": np.arange(11) % 3 - 1})
    train = FilmSet(some, "none", SIZE, seed=5)
    both = TwoStep(segmenters[0], reader)
    return StageModule(both, only(**LABELS_TOO), train, None, view="plain", segmenters=segmenters[1:])


def kinds() -> dict[str, Callable[[], StageModule]]:
    """A stage of every kind of loss, in double precision; two steps each."""
    first, second = order()
    soft = np.random.default_rng(3).random((11, 11)).astype(np.float32)
    certainty = np.linspace(0, 2, 11, dtype=np.float32)
    tips = np.random.default_rng(4).random((11, 4, 2, 2)).astype(np.float32)
    tips[[first[1], second[0]]], tips[1::2, :, 1] = np.nan, np.nan
    carina = np.full((11, 2), np.nan, np.float32)
    carina[:6] = np.random.default_rng(5).random((6, 2))
    places = {"tips": tips, "carina": carina}
    one_each = [first[0], second[4]]  # the other process has none of either batch
    return {
        "labels, balanced": lambda: plainly(
            only(labels=LabelTarget(class_weights="balanced")), positive_weight=np.tile(np.linspace(1, 20, 11), (11, 1))
        ),
        "soft labels": lambda: plainly(
            only(**LABELS_TOO, soft=SoftTarget(of="other", weight=0.6)), soft=soft, film_weights=certainty
        ),
        "mixed soft labels": lambda: mixed(
            only(soft=SoftTarget(of="other")), Mixing(mixup=0.5, cutmix=0.5), soft=soft, film_weights=certainty
        ),
        "cut films, smoothed and focal": lambda: mixed(
            only(labels=LabelTarget(loss="focal", smoothing=0.1)), Mixing(cutmix=1.0), rare_below=0.6
        ),
        "presence": lambda: plainly(only(presence=PresenceTarget()), presence=films(11).more["presence"]),
        "features": lambda: taught(only(features=FeatureTarget(of="teacher", weight=1))),
        "labels and features": lambda: taught(only(**LABELS_TOO, features=FeatureTarget(of="teacher"))),
        "maps of many": lambda: mapping([*first[:4], *second[1:]], **LABELS_TOO),
        "maps of one film a batch": lambda: mapping(one_each, **LABELS_TOO),
        "a batch without maps": lambda: mapping([second[2], second[3]], **LABELS_TOO),
        "maps alone": lambda: mapping(one_each),
        "maps alone, with layers that only labels use": lambda: mapping(one_each, backbone="test_efficientnet"),
        "two steps": two_step,
        "neighbours": lambda: plainly(only(retrieval=RetrievalTarget()), **places),
        "labels and neighbours": lambda: plainly(only(**LABELS_TOO, retrieval=RetrievalTarget(weight=0.3)), **places),
        "maps in two passes": lambda: mapping([*first[:2], *second[1:]], {"batch": 10, "accumulate": 2}, **LABELS_TOO),
        "features in two passes": lambda: taught(
            only({"batch": 10, "accumulate": 2}, features=FeatureTarget(of="teacher", weight=1))
        ),
        "frozen at first": lambda: plainly(only({"freeze": "backbone", "freeze_epochs": 0.5}, **LABELS_TOO)),
        "averaged": lambda: plainly(only({"swa_from": 0.0}, **LABELS_TOO)),
        "checkpoints": lambda: plainly(only({"checkpoint_gradients": True}, **LABELS_TOO)),
    }


def work(folder: Path) -> None:
    """What each of two processes does; what it ends with is left in `folder` for the test to look at."""
    torch.set_num_threads(1)
    distributed.begin(2, 1)
    rank, kept = distributed.rank, 0

    def keep(state: object) -> None:
        nonlocal kept
        kept += 1

    module, weights = fitted(FIT, keep=keep, keep_every_s=0)
    with distributed.first() as shared:
        if shared.mine:
            shared.value = f"by {rank}"
    result = {
        "weights": weights,
        "history": module.progress.history,
        "kept": kept,
        "predicted": {
            count: predict_films(model().eval(), film_set(count, "none"), batch=2) for count in (7, 1)
        },
        "first": shared.value,
        "part": list(range(7))[distributed.rank_slice(7)],
    }  # fmt: skip
    result["kinds"] = {}
    for name, make in kinds().items():
        stage = make()
        result["kinds"][name] = stage.fit(), stage.progress.history[0]["loss"]
    small = scheduled(batch=1)
    with contextlib.suppress(distributed.DevicesError):
        fitted(small)
        result["batch of one"] = "went through"
    for name, action in (
        ("error", fail_first),
        ("differs", lambda: distributed.same_everywhere(rank, "step to go on from")),
    ):
        try:
            action()
        except Exception as error:
            result[name] = f"{type(error).__name__}: {error}"
    torch.save(result, folder / f"rank{rank}.pt")
    distributed.leave()


def scheduled(**schedule) -> StageConfig:
    return dataclasses.replace(FIT, schedule=FIT.schedule.model_copy(update=schedule))


def fail_first() -> None:
    with distributed.first() as shared:
        if shared.mine:
            raise FileNotFoundError("no such folder: data")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run([*torchrun, __file__, folder], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    return fitted(FIT)


@pytest.mark.doors
def test_batches_of_five_over_two_processes_end_with_the_weights_of_one(ranks, alone):
    weights = alone[1]
    start = model("attention").double().state_dict()
    moved = max(float((weights[name] - start[name]).abs().max()) for name in weights if "running" not in name)
    assert moved > 1e-3
    for rank in ranks:
        assert rank["weights"].keys() == weights.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(rank["weights"][name], tensor, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: n + m)
    for name in weights:
        assert torch.equal(ranks[0]["weights"][name], ranks[1]["weights"][name])


@pytest.mark.doors
@pytest.mark.parametrize("kind", list(kinds()))
def test_every_kind_of_loss_ends_on_two_processes_with_the_weights_of_one(ranks, kind):
    stage = kinds()[kind]()
    start = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
    weights = stage.fit()
    moved = {name for name, tensor in weights.items() if not torch.equal(tensor, start[name])}
    parts = {name.split(".")[0] for name in moved}
    assert ("decoder" in parts) == kind.startswith(("maps", "a batch")) and parts & {"backbone", "classifier"}
    for rank in ranks:
        theirs, loss = rank["kinds"][kind]
        assert loss == pytest.approx(stage.progress.history[0]["loss"], rel=1e-6)
        assert theirs.keys() == weights.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.doors
def test_the_history_is_that_of_one_process(ranks, alone):
    for rank in ranks:
        for mine, wanted in zip(rank["history"], alone[0].progress.history, strict=True):
            assert mine["loss"] == pytest.approx(wanted["loss"], rel=1e-6)
            assert mine["auc"] == pytest.approx(wanted["auc"], abs=1e-6)


@pytest.mark.doors
def test_predictions_of_seven_films_and_of_one_are_those_of_one_process(ranks):
    for count in (7, 1):
        wanted = predict_films(model().eval(), film_set(count, "none"), batch=2)
        assert wanted.shape == (count, 11)
        assert count == 1 or np.abs(wanted[0] - wanted[1]).max() > 1e-4, "films differ, so that their order shows"
        for rank in ranks:
            np.testing.assert_allclose(rank["predicted"][count], wanted, rtol=0, atol=1e-6)


@pytest.mark.doors
def test_each_film_has_one_process_and_only_the_first_writes(ranks):
    assert ranks[0]["part"] + ranks[1]["part"] == list(range(7))
    assert [len(rank["part"]) for rank in ranks] == [4, 3]
    assert ranks[0]["kept"] > 2 and ranks[1]["kept"] == 0
    assert [rank["first"] for rank in ranks] == ["by 0", "by 0"]


@pytest.mark.doors
def test_errors_reach_every_process(ranks):
    for rank in ranks:
        assert rank["error"] == "FileNotFoundError: no such folder: data"
        assert "do not see the same step to go on from: [0, 1]" in rank["differs"]
        assert "batch of one" not in rank


def test_alone_nothing_waits_and_everything_is_mine():
    assert (distributed.rank, distributed.world) == (0, 1)
    assert distributed.rank_slice(7) == slice(0, 7)
    with distributed.first() as shared:
        assert shared.mine
        shared.value = "done"
    assert shared.value == "done"
    with pytest.raises(FileNotFoundError):
        fail_first()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_batch_norm_over_the_films_of_all_is_pytorchs_where_all_are_here(monkeypatch, layout):
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: None)
    generator = torch.Generator().manual_seed(2)
    x, towards = (3 + 2 * torch.randn((3, 5, 7, 6), generator=generator) for _ in range(2))
    ends = []
    for over_all in (False, True):
        norm = torch.nn.BatchNorm2d(5)
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-1, 2, 5))
            norm.bias.copy_(torch.linspace(0, 1, 5))
        if over_all:
            distributed.synchronise(norm, batch=3)
        film = x.to(memory_format=layout, copy=True).requires_grad_()
        y = norm(film)
        (y * towards).sum().backward()
        assert norm.num_batches_tracked == 1 and y.is_contiguous(memory_format=layout)
        ends.append([y, film.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    for wanted, found in zip(*ends, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_batch_norm_of_a_process_without_films_takes_the_moments_of_the_others(monkeypatch):
    def from_others(sums: torch.Tensor) -> None:
        if sums.shape == (1, 3):  # the count, mean and variance of a channel
            sums += torch.tensor([[8.0, 2.0, 4.0]])

    monkeypatch.setattr(distributed.dist, "all_reduce", from_others)
    norm = torch.nn.BatchNorm2d(1, momentum=1.0)
    distributed.synchronise(norm, batch=3)
    none = torch.empty((0, 1, 2, 2), requires_grad=True)
    y = norm(none)
    y.sum().backward()
    assert y.shape == none.shape == none.grad.shape and norm.weight.grad.tolist() == norm.bias.grad.tolist() == [0.0]
    assert norm.running_mean.tolist() == [2.0] and norm.running_var.tolist() == pytest.approx([4 * 8 / 7])


def test_slurm_variables_are_no_order_to_wait_for_others(monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    module, _ = fitted(scheduled(epochs=0.5))
    assert module.finished


def test_several_machines_need_torchrun():
    with pytest.raises(distributed.DevicesError, match=r"--nodes is 2") as refused:
        distributed.begin(4, 2)
    assert "torchrun --nnodes 2 --nproc-per-node 4" in refused.value.way_out


def test_devices_on_one_machine_start_torchrun_of_the_same_command(monkeypatch):
    called = []
    monkeypatch.setattr("os.execve", lambda path, arguments, environment: called.append((arguments, environment)))
    monkeypatch.setattr("sys.argv", ["cxrlines", "train", "baseline", "--devices", "3"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(distributed, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    distributed.begin(3)
    arguments, environment = called[0]
    assert environment["OMP_NUM_THREADS"] == "2"  # 8 cores for 3 processes
    assert environment[distributed.LAUNCHER] == str(os.getpid()) and distributed.LAUNCHER not in os.environ
    assert arguments[1:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3",
        "-m", "cxrlines", "train", "baseline", "--devices", "3",
    ]  # fmt: skip
    distributed.begin(1)
    distributed.begin()
    assert len(called) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    distributed.begin(3)
    assert called[1][1]["OMP_NUM_THREADS"] == "5"


def test_a_process_whose_torchrun_was_killed_before_it_began_ends(monkeypatch):
    gone = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", distributed.LAUNCHER: str(2**30)}
    for name, value in gone.items():
        monkeypatch.setenv(name, value)
    ended = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(distributed, "join", lambda: None)
    distributed.begin(2)
    end = time.monotonic() + 60
    while not ended and time.monotonic() < end:
        time.sleep(0.01)
    assert ended == [1]


def test_flags_that_contradict_torchrun(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        distributed.DevicesError, match="--devices is 3, but torchrun was started with --nproc-per-node 2"
    ):
        distributed.begin(3)
    with pytest.raises(distributed.DevicesError, match="--nodes is 4, but torchrun was started with --nnodes 2"):
        distributed.begin(2, 4)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
