"""What a schedule says beside rates changes the weights as it should, and a killed run ends with the same ones."""

import copy
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from cxrlines.core.heatmaps import DrawnLine
from cxrlines.models.backbones import BackboneError
from cxrlines.models.classifier import Classifier
from cxrlines.task import LABELS, MAPS
from cxrlines.training.checkpoint import State
from cxrlines.training.config import LABELS_ALONE, ScheduleSpec, StageConfig
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.module import StageModule
from cxrlines.training.sampling import epoch_batches
from cxrlines.training.targets import LabelTarget, MapTarget, TargetsSpec

from .small_stages import killed_and_resumed, noise_store, same

COUNT = 9
FIT = ScheduleSpec(epochs=2, batch=4, lr=1e-3)


def film_set(maps: bool = False) -> FilmSet:
    labels = np.random.default_rng(1).integers(0, 2, (COUNT, len(LABELS))).astype(np.float32)
    labels[:, 2] = 0  # without an AUC
    lines = [[DrawnLine(LABELS[0], np.array([[5.0, 5.0], [30.0, 30.0]]))]] * COUNT
    more = {"mapped": np.ones((COUNT, len(MAPS)), np.float32)} if maps else {}
    films = Films(noise_store(COUNT), np.arange(COUNT), labels, lines, more, np.full((COUNT, 1, 2), 20.0))
    return FilmSet(films, "light", 32, seed=5, maps=maps)


def stage(targets: TargetsSpec = LABELS_ALONE, *, watch: bool = False, options: dict | None = None, **schedule):
    torch.manual_seed(1)
    model = Classifier("resnet10t", "gap", weights="none", dropout=0.5, decoder="unet" if targets.reads_maps else None)
    fit = StageConfig(ScheduleSpec(**{**FIT.model_dump(), **schedule}), targets, seed=5)
    seen = film_set(targets.reads_maps)
    return StageModule(model, fit, seen, film_set() if watch else None, view="plain", **(options or {}))


WAYS = {
    "passes": {"accumulate": 2},
    "checkpoints": {"checkpoint_gradients": True},
    "sgd": {"optimizer": "sgd", "nesterov": True},
    "nadamw": {"optimizer": "nadamw", "weight_decay": 0.01},
    "lion": {"optimizer": "lion", "lr": 1e-4},
    "muon": {"optimizer": "muon"},
    "frozen at first": {"freeze": "backbone", "freeze_epochs": 1.5},
    "rates": {"layer_decay": 0.7, "head_lr": 5},
    "averaged": {"swa_from": 0.3, "swa_lr": 1e-3},
}


@pytest.fixture(scope="module")
def usual() -> dict[str, Tensor]:
    return stage().fit()


@pytest.mark.parametrize("way", WAYS)
def test_each_ends_with_other_weights_than_usual_and_resumed_with_the_same_bit_for_bit(tmp_path, way, usual):
    made = stage(**WAYS[way])
    whole = made.fit()
    assert whole.keys() == usual.keys() and same(whole, usual) == (way == "checkpoints")
    saves = count(1)
    resumed = killed_and_resumed(
        tmp_path / "state",
        lambda **options: stage(options=options, **WAYS[way]),
        is_last=lambda state: next(saves) == 3,  # inside the second epoch
    )
    assert 0 < resumed.step_now < resumed.total
    assert same(whole, resumed.fit())
    assert resumed.progress.history == made.progress.history


CHANGES: dict[str, tuple[dict, object]] = {
    "epochs": ({}, 0.7),
    "batch": ({}, 3),
    "accumulate": ({}, 2),
    "optimizer": ({}, "adamw"),
    "momentum": ({"optimizer": "sgd"}, 0.5),
    "nesterov": ({"optimizer": "sgd"}, True),
    "lr": ({}, 2e-3),
    "end_lr": ({}, 5e-4),
    "shape": ({}, "constant"),
    "restart_epochs": ({"shape": "restarts", "restart_epochs": 1}, 0.7),
    "warmup_epochs": ({}, 0.7),
    "layer_decay": ({}, 0.5),
    "head_lr": ({}, 5),
    "freeze": ({}, "backbone.net.conv1"),
    "freeze_epochs": ({"freeze": "backbone.net.conv1"}, 0.3),
    "weight_decay": ({"optimizer": "adamw"}, 0.1),
    "clip": ({}, 0.01),
    "precision": ({}, "bf16"),
    "ema": ({}, 0.5),
    "swa_from": ({}, 0.5),
    "swa_lr": ({"swa_from": 0.5}, 5e-3),
}
"""Fields of a schedule: with what else, and a value that ends with other weights."""
NO_OTHER_WEIGHTS = {"checkpoint_gradients", "compile"}
WATCHING = {"keep", "patience", "validate_films"}
"""Which weights are handed on, and by which films that is decided."""


def test_every_field_of_a_schedule_is_looked_at():
    assert CHANGES.keys() | NO_OTHER_WEIGHTS | WATCHING == ScheduleSpec.model_fields.keys()


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_alone_changes_what_is_learnt(field):
    others, value = CHANGES[field]
    short = {"epochs": 1} | others
    assert not same(stage(**short).fit(), stage(**short | {field: value}).fit())


def moves(**schedule) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters before a single step, and by how much it moves them."""
    plain = {"optimizer": "sgd", "momentum": 0, "shape": "constant", "lr": 0.5, "epochs": 1 / 3, "weight_decay": 0}
    one = stage(**plain | schedule)
    before = {name: parameter.detach().clone() for name, parameter in one.model.named_parameters()}
    after = one.fit()
    return before, {name: after[name] - tensor for name, tensor in before.items()}


def test_a_gradient_is_clipped_to_its_norm_and_none_that_is_smaller():
    free, clipped, wide = (moves(**clip)[1] for clip in ({}, {"clip": 0.05}, {"clip": 1e6}))
    norm = torch.stack([move.norm() for move in free.values()]).norm() / 0.5
    assert norm > 0.1
    for name, move in free.items():
        torch.testing.assert_close(clipped[name], move * (0.05 / norm), rtol=1e-3, atol=1e-6)
        assert torch.equal(wide[name], move)


def test_weights_decay_in_proportion_to_themselves():
    before, free = moves()
    for name, move in moves(weight_decay=0.1)[1].items():
        torch.testing.assert_close(move, free[name] - 0.5 * 0.1 * before[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("targets", [LABELS_ALONE, TargetsSpec(labels=LabelTarget(), maps=MapTarget())])
def test_checkpoints_keep_fewer_activations_and_change_no_weight(targets):
    kept = {}
    for wanted in (False, True):
        one, sizes = stage(targets), []
        one.model.backbone.checkpoint_gradients(wanted)
        batch = one.films.collate([one.films[(0, place)] for place in range(4)])
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            one.training_step(batch, 0)
        kept[wanted] = sum(sizes)
    assert kept[True] < 0.8 * kept[False]
    assert same(stage(targets, checkpoint_gradients=True, accumulate=2).fit(), stage(targets, accumulate=2).fit())


def test_checkpoints_that_timm_does_not_have_are_refused(monkeypatch):
    one = stage(checkpoint_gradients=True)
    one.model.backbone.net = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(BackboneError, match=r"checkpoint_gradients: timm cannot, for Conv2d"):
        one.fit()


def test_frozen_weights_and_moments_do_not_move_and_all_are_free_afterwards():
    one = stage(freeze="backbone", watch=True)  # what watches sets modules to evaluate, and back
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    after = one.fit()
    assert {n.split(".")[0] for n, tensor in after.items() if not torch.equal(tensor, before[n])} == {"head"}
    assert all(parameter.requires_grad for parameter in one.model.parameters())


def test_what_is_frozen_for_an_epoch_moves_from_then_on():
    steps, weights = [], []

    def keep(state: State) -> None:
        steps.append((state.progress.epoch, state.progress.batch))
        weights.append(state.tensors["model"])

    one = stage(freeze="backbone", freeze_epochs=1, options={"keep": keep, "keep_every_s": 0})
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    one.fit()
    assert steps == [(0, 1), (1, 0), (1, 1), (2, 0)]
    for after, parts in zip(weights, [{"head"}, {"head"}, {"head", "backbone"}, {"head", "backbone"}], strict=True):
        moved = {n.split(".")[0] for n, t in after.items() if not torch.equal(t, before[n])}
        assert moved == parts


def test_the_moving_average_of_the_weights_is_that_of_its_formula():
    seen: list[dict[str, Tensor]] = []

    class Watched(StageModule):
        def on_train_batch_end(self, *arguments):
            super().on_train_batch_end(*arguments)
            seen.append({name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()})

    one = stage(ema=0.3, epochs=3)
    one.__class__ = Watched
    found = one.fit()
    wanted = seen[0]
    for step, weights in enumerate(seen[1:], start=2):
        share = max(0.7, 9 / (9 + step))
        wanted = {name: tensor + share * (weights[name] - tensor) for name, tensor in wanted.items()}
    assert len(seen) == 6
    for name, tensor in found.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-6)


def test_stochastic_weight_averaging_is_the_mean_of_the_steps_with_moments_taken_anew():
    seen: list[dict[str, Tensor]] = []

    class Watched(StageModule):
        def on_train_batch_end(self, *arguments):
            super().on_train_batch_end(*arguments)
            seen.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

    one = stage(swa_from=0.5, epochs=3, swa_lr=2e-3)
    one.__class__ = Watched
    found = one.fit()
    assert len(seen) == 6 and one.progress.history[-1]["lr"] == 2e-3
    oracle = copy.deepcopy(one.model)
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            parameter.copy_(torch.stack([step[name] for step in seen[3:]]).mean(dim=0))
            torch.testing.assert_close(found[name], parameter, msg=lambda m, n=name: f"{n}: {m}")
    after = epoch_batches(COUNT, 4, seed=5, epoch=3)
    update_bn([one.films.collate([one.films[key] for key in keys])["film"] for keys in after], oracle)
    for name, buffer in oracle.named_buffers():
        if name in found:
            torch.testing.assert_close(found[name], buffer, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("freeze_epochs", [1, 2])
def test_an_average_of_a_finished_run_is_the_same_again(freeze_epochs):
    states: list[State] = []
    schedule = {"swa_from": 0.0, "freeze": "backbone", "freeze_epochs": freeze_epochs}
    weights = stage(options={"keep": states.append}, **schedule).fit()
    again = stage(**schedule).resume(states[-1])
    start = again.average.module.state_dict()
    assert again.finished and same(weights, again.fit())
    name = "backbone.net.bn1.running_var"
    assert torch.equal(weights[name], start[name]) == (freeze_epochs == 2), "moments of what is frozen stay"


@pytest.mark.long
def test_compiled_parts_have_the_same_names_and_weights_and_go_on_after_a_kill(tmp_path, monkeypatch):
    compiled, usual = [], torch.compile

    def by_eager(function, **options):
        compiled.append(function)
        return usual(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", by_eager)
    targets = TargetsSpec(labels=LabelTarget(), maps=MapTarget())
    found = stage(targets, compile=True, epochs=0.5).fit()
    assert len(compiled) == 3, "backbone, head and decoder"
    wanted = stage(targets, epochs=0.5).fit()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")

    def longer(**options) -> StageModule:
        return stage(targets, options=options, compile=True, epochs=1)

    resumed = killed_and_resumed(tmp_path / "state", longer, is_last=lambda _: True)
    assert 0 < resumed.step_now < resumed.total
    assert same(longer().fit(), resumed.fit())


@pytest.mark.parametrize(("keep", "epoch"), [("best", 2), ("last", 3)])
def test_the_best_epoch_is_kept_without_stopping_early(monkeypatch, keep, epoch):
    aucs = iter([0.6, 0.9, 0.8])
    monkeypatch.setattr("cxrlines.training.watching.macro_auc", lambda truth, scores: next(aucs))
    states: list[State] = []
    one = stage(watch=True, keep=keep, epochs=3, options={"keep": states.append, "keep_every_s": 99})
    weights = one.fit()
    assert [row["auc"] for row in one.progress.history] == [0.6, 0.9, 0.8]
    assert same(weights, states[epoch - 1].tensors["model"])


def test_the_history_has_the_auc_of_every_label_and_trackers_what_is_defined():
    tracked = []
    one = stage(watch=True, epochs=1, options={"track": lambda values, epoch: tracked.append(values)})
    one.fit()
    (row,), (values,) = one.progress.history, tracked
    assert list(row) == ["epoch", "loss", "auc", "lr", *(f"auc {label}" for label in LABELS)]
    assert row[f"auc {LABELS[2]}"] is None and f"auc/{LABELS[2]}" not in values
    known = [row[f"auc {label}"] for label in LABELS if row[f"auc {label}"] is not None]
    assert len(known) == len(LABELS) - 1 and row["auc"] == pytest.approx(np.mean(known))
    assert values == {"loss": row["loss"], "lr": row["lr"], "auc": row["auc"]} | {
        f"auc/{label}": row[f"auc {label}"] for label in LABELS if row[f"auc {label}"] is not None
    }
    blind = stage(epochs=1)
    blind.fit()
    assert list(blind.progress.history[0]) == ["epoch", "loss", "auc", "lr"]
