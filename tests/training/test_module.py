"""A stage learns, resumes inside an epoch bit for bit, and learns from its teacher what it should."""

import dataclasses
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import dataloader

from cxrlines.core.heatmaps import DrawnLine
from cxrlines.models.classifier import Classifier, TwoStep
from cxrlines.task import LABELS, MAPS, Device
from cxrlines.training.checkpoint import DivergedError, State, load_state, save_state
from cxrlines.training.config import LABELS_ALONE, ScheduleSpec, StageConfig
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.mixing import Mixing
from cxrlines.training.module import Outputs, StageModule, total_loss
from cxrlines.training.prediction import predict_films
from cxrlines.training.sampling import epoch_batches
from cxrlines.training.targets import FeatureTarget, LabelTarget, MapTarget, TargetsSpec, labels, maps
from cxrlines.training.targets.labels import label_loss
from cxrlines.training.targets.maps import maps_loss

from .small_stages import Killed, MemoryStore, killed_and_resumed, same

FIT = ScheduleSpec(epochs=3, batch=4, lr=1e-3)


def config(targets: TargetsSpec = LABELS_ALONE, **schedule) -> StageConfig:
    """How a stage of a test is trained; what is named differs from `FIT`."""
    return StageConfig(FIT.model_copy(update=schedule), targets, seed=5)


def films(count: int = 18) -> Films:
    """Films whose first label shows as a bright upper half."""
    pixels = np.random.default_rng(0).integers(0, 60, (count, 40, 40), dtype=np.uint8)
    pixels[::2, :20] += 120
    targets = np.zeros((count, len(LABELS)), np.float32)
    targets[::2, 0] = 1
    line = np.array([[5.0, 5.0], [30.0, 30.0]])
    return Films(MemoryStore(pixels), np.arange(count), targets, [[DrawnLine(LABELS[0], line)]] * count)


def model(channels: int = 1) -> Classifier:
    torch.manual_seed(1)
    return Classifier("resnet10t", "gap", in_channels=channels, weights="none", dropout=0.5)


def module(fit: StageConfig | None = None, *, view="plain", teacher=None, policy="hotwater", **options) -> StageModule:
    fit = fit or config()
    overlay = view == "overlay" or teacher is not None
    train = FilmSet(films(), policy, 32, seed=fit.seed, overlay=overlay, colour_by="device")
    watch = FilmSet(films(8), "none", 32, seed=0, overlay=overlay, colour_by="device")
    return StageModule(model(3 if view == "overlay" else 1), fit, train, watch, view=view, teacher=teacher, **options)


@pytest.mark.parametrize("stop_after", [1, 4, 6, 11])
@pytest.mark.parametrize("ema", [None, 0.8])
def test_resumed_inside_an_epoch_the_weights_are_the_same_bit_for_bit(tmp_path, stop_after, ema):
    fit = config(ema=ema)
    whole = module(fit).fit()
    saves = itertools.count(1)
    resumed = killed_and_resumed(
        tmp_path / "state", partial(module, fit), is_last=lambda state: next(saves) == stop_after
    )
    assert 0 < resumed.step_now < resumed.total
    assert same(whole, resumed.fit())
    assert len(resumed.progress.history) == 3


def test_processes_that_make_the_films_change_no_weight_and_begin_once(monkeypatch):
    begun, usual = [], dataloader._MultiProcessingDataLoaderIter.__init__

    def begin(self, *arguments):
        begun.append(self)
        usual(self, *arguments)

    alone = module().fit()
    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter, "__init__", begin)
    assert same(alone, module(loader_workers=2).fit())
    assert len(begun) == 2, "for three epochs: those of the training films, and those of the watched ones"


@pytest.mark.parametrize(
    "batches", [{"mixing": Mixing(mixup=0.4)}, {"mixing": Mixing(cutmix=1.0)}, {"rare_below": 0.6}], ids=str
)
def test_mixed_and_sampled_batches_change_what_is_learnt_and_resume_bit_for_bit(tmp_path, batches):
    def stage(**options) -> StageModule:
        made = module(config(epochs=2), policy="none", **options)
        made.films = dataclasses.replace(made.films, **batches)
        return made

    whole = stage().fit()
    assert not same(whole, module(config(epochs=2), policy="none").fit())
    resumed = killed_and_resumed(tmp_path / "state", stage, is_last=lambda state: state.progress.batch == 2)
    assert same(whole, resumed.fit())


def test_a_finished_state_trains_no_further(tmp_path):
    states: list[State] = []
    done = module(keep=states.append)
    weights = done.fit()
    again = module().resume(states[-1])
    assert again.finished
    assert same(weights, again.fit())


def test_it_learns_what_is_there_to_learn(tmp_path):
    fitted = module(config(epochs=12, batch=6, lr=3e-3), policy="none")
    weights = fitted.fit()
    fitted.model.load_state_dict(weights)
    scores = predict_films(fitted.model, FilmSet(films(), "none", 32, seed=0, overlay=False, colour_by="label"))
    assert scores.shape == (18, 11)
    assert scores[::2, 0].min() > scores[1::2, 0].max()


def test_half_an_epoch_is_half_the_steps(tmp_path):
    half = module(config(epochs=1.5))
    half.fit()
    assert half.total == 6
    assert [row["epoch"] for row in half.progress.history] == [1, 2]


def test_the_student_moves_towards_the_features_of_its_teacher(tmp_path):
    torch.manual_seed(2)
    teacher = Classifier("resnet10t", "gap", in_channels=3, weights="none").eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    fit = config(TargetsSpec(features=FeatureTarget(of="teacher", weight=1)), epochs=30, lr=2e-3)
    student = module(fit, teacher=teacher, policy="none")
    student.fit()
    losses = [row["loss"] for row in student.progress.history]
    assert losses[-1] < 0.5 * losses[0]
    assert same(before, teacher.state_dict()), "the teacher is frozen"


def mapping(known: list[int]) -> StageModule:
    """A stage that learns labels and line maps, of six films of which some are annotated."""
    mapped = np.zeros((6, len(MAPS)), np.float32)
    mapped[known, : len(Device)] = 1
    six = dataclasses.replace(films(6), more={"mapped": mapped})
    torch.manual_seed(1)
    network = Classifier("resnet10t", "gap", weights="none", decoder="unet").train()
    fit = config(TargetsSpec(labels=LabelTarget(), maps=MapTarget()), batch=6)
    return StageModule(network, fit, FilmSet(six, "none", 32, seed=0, maps=True), None, view="plain")


def batch_of(stage: StageModule) -> dict[str, torch.Tensor]:
    (keys,) = epoch_batches(6, 6, seed=0, epoch=0, mapped=stage.films.mapped)
    return stage.films.collate([stage.films[key] for key in sorted(keys)])


def test_the_decoder_is_run_on_films_with_a_known_map_alone_and_learns_from_their_maps():
    stage, seen = mapping([1, 4]), []
    stage.model.decoder.register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    batch = batch_of(stage)
    loss = stage.training_step(batch, 0)
    ((given, maps),) = seen
    normal = stage.model._normal(batch["film"])
    assert torch.equal(given, normal[[1, 4]])
    assert batch["rows"].tolist() == [1, 4] and len(batch["maps"]) == 2, "no map of the others is drawn"
    of_labels = total_loss([(1.0, label_loss(mapping([1, 4]).model(batch["film"]), batch["labels"]))]).detach()
    lines = total_loss(maps_loss(maps.detach(), batch["maps"].float(), batch["mapped"][[1, 4]]))
    assert float(lines) > 0 and float(loss.detach()) == pytest.approx(float(of_labels + lines), rel=1e-5)


def test_losses_are_taken_in_full_precision_where_the_network_runs_in_half(monkeypatch):
    # A sum over the pixels of a map is beyond what 16 bits hold.
    stage, given = mapping([1, 4]), []
    for file, name in ((labels, "label_loss"), (maps, "maps_loss")):
        real = getattr(file, name)

        def loss(first, second, *rest, real=real):
            given.extend([first.dtype, second.dtype])
            return real(first, second, *rest)

        monkeypatch.setattr(file, name, loss)
    batch = batch_of(stage)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = Outputs(stage, batch)
        half = stage.training_step(batch, 0)
    assert outputs._features.dtype == outputs._maps.dtype == torch.bfloat16
    assert given == [torch.float32] * 4 and half.dtype == torch.float32
    whole = mapping([1, 4]).training_step(batch, 0)
    assert float(half.detach()) == pytest.approx(float(whole.detach()), rel=0.05)


def test_a_batch_without_a_known_map_teaches_the_decoder_nothing_but_every_parameter_has_its_gradient():
    stage = mapping([])
    stage.training_step(batch_of(stage), 0).backward()
    for name, parameter in stage.model.named_parameters():
        assert parameter.grad is not None, name  # or several processes would wait for it
        if name.startswith("decoder."):
            assert not parameter.grad.any(), name
    assert any(parameter.grad.any() for parameter in stage.model.head.parameters()), "labels are learnt"


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_is_the_number_of_epochs_without_a_better_auc(tmp_path, patience, monkeypatch):
    monkeypatch.setattr("cxrlines.training.watching.macro_auc", lambda truth, scores: 0.7)
    stubborn = module(config(epochs=50, patience=patience))
    stubborn.fit()
    assert stubborn.progress.stopped
    assert len(stubborn.progress.history) == 1 + patience


def test_early_stopping_hands_on_the_best_epoch_even_after_a_kill(tmp_path, monkeypatch):
    aucs = iter([0.6, 0.9, 0.8, 0.7])
    monkeypatch.setattr("cxrlines.training.watching.macro_auc", lambda truth, scores: next(aucs))
    fit = config(epochs=50, patience=2)
    states: list[State] = []

    def keep(state: State) -> None:
        save_state(tmp_path / "state", "id", state)
        states.append(state)
        if len(states) == 3:
            raise Killed

    with pytest.raises(Killed):
        module(config(epochs=50, patience=9), keep=keep, keep_every_s=99).fit()
    resumed = module(fit).resume(load_state(tmp_path / "state", "id"))
    weights = resumed.fit()
    assert [row["auc"] for row in resumed.progress.history] == [0.6, 0.9, 0.8, 0.7]
    assert same(weights, states[1].tensors["model"])


def test_half_precision_with_clipping_resumes_as_well(tmp_path):
    fit = config(precision="bf16", clip=0.5, optimizer="adamw", shape="restarts", restart_epochs=1)
    whole = module(fit).fit()
    resumed = killed_and_resumed(
        tmp_path / "state", partial(module, fit), is_last=lambda state: state.progress.batch == 2
    )
    assert same(whole, resumed.fit())


def test_a_loss_that_is_no_number_is_said(tmp_path):
    with pytest.raises(DivergedError, match=r"at step \d+ with schedule.lr 1e\+20") as diverged:
        module(config(epochs=9, lr=1e20, end_lr=1e20, optimizer="adamw")).fit()
    assert "lower schedule.lr" in diverged.value.way_out


def test_without_films_to_watch_it_trains_all_the_same(tmp_path):
    blind = module()
    blind.validation = None
    blind.fit()
    assert [row["auc"] for row in blind.progress.history] == [None] * 3


class _Marked(torch.nn.Module):
    """A segmenter whose maps are all of one value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.asked = value, 0

    def features_and_maps(self, x):
        self.asked += len(x)
        return x, torch.full((len(x), len(MAPS), x.shape[2] // 2, x.shape[3] // 2), self.value).logit()


def test_each_film_is_seen_with_the_maps_of_the_segmenter_it_names():
    own, others = _Marked(0.125), [_Marked(0.25), _Marked(0.5)]
    reader = Classifier("resnet10t", "gap", in_channels=1 + len(MAPS), weights="none")
    seen = []
    reader.features = lambda x: seen.append(x) or torch.zeros(len(x), reader.backbone.channels, 1, 1)
    which = np.array([-1, 0, 1, 1, 0, -1, -1, 0])
    some = dataclasses.replace(films(8), more={"segmenter": which})
    train = FilmSet(some, "none", 32, seed=0)
    stage = StageModule(TwoStep(own, reader), config(), train, None, view="plain", segmenters=others)
    batch = train.collate([train[(0, place)] for place in range(8)])
    stage._losses(batch)
    (x,) = seen
    assert torch.equal(x[:, 0], batch["film"][:, 0] / 255), "the film itself"
    for film, index in zip(x, which, strict=True):
        torch.testing.assert_close(film[1:], torch.full_like(film[1:], [0.25, 0.5, 0.125][index]))
    assert (own.asked, others[0].asked, others[1].asked) == (3, 3, 2), "each is asked for its films alone"


def test_what_a_step_leaves_unused_is_tried_where_it_is_trained(monkeypatch):
    """NCCL has nothing for a processor: what processes add up must lie on their GPUs, for which "meta" stands here."""
    here, moved = StageModule.to, []
    monkeypatch.setattr(StageModule, "to", lambda self, device: here(self, "meta"))
    teacher = Classifier("resnet10t", "gap", in_channels=3, weights="none")
    stage = module(config(TargetsSpec(features=FeatureTarget(of="teacher", weight=1))), teacher=teacher)

    def losses(batch):
        moved.extend(batch.values())
        moved.extend([*stage.model.parameters(), *teacher.parameters()])
        return usual(batch)

    usual = stage._losses
    monkeypatch.setattr(stage, "_losses", losses)
    assert stage.leaves_unused(), "features are learnt without the head"
    assert {tensor.device.type for tensor in moved} == {"meta"}
