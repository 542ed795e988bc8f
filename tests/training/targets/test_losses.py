"""The losses, against their formulas."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from timm.loss import AsymmetricLossMultiLabel
from torchvision.ops import sigmoid_focal_loss

from cxrlines.core.heatmaps import UNKNOWN, draw_maps
from cxrlines.io.external.layouts import PRESENCE
from cxrlines.models.classifier import Classifier
from cxrlines.task import DEVICE_OF, LABELS, MAPS, MapKind
from cxrlines.training.module import total_loss
from cxrlines.training.targets.base import Sums
from cxrlines.training.targets.features import feature_loss
from cxrlines.training.targets.labels import (
    MAX_CLASS_WEIGHT,
    LabelTarget,
    asymmetric_loss,
    balanced_weights,
    focal_loss,
    label_loss,
)
from cxrlines.training.targets.maps import LINE_PIXELS, maps_loss
from cxrlines.training.targets.presence import GROUPS, presence_loss


def value(*parts: tuple[float, Sums] | Sums) -> torch.Tensor:
    """What losses of a whole batch come to."""
    return total_loss([part if isinstance(part, tuple) else (1.0, part) for part in parts])


def test_label_loss_is_the_mean_log_loss_of_scikit_learn():
    logits, targets = torch.randn(8, 11, generator=torch.manual_seed(0)), torch.arange(88).reshape(8, 11) % 2
    oracle = log_loss(targets.flatten().numpy(), torch.sigmoid(logits.double()).flatten().numpy())
    assert float(value(label_loss(logits, targets.float()))) == pytest.approx(oracle, rel=1e-5)


def test_positive_weight_counts_positives_so_many_times():
    logits, targets = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    assert float(value(label_loss(logits, targets, torch.tensor([3.0])))) == pytest.approx(np.log(2) * (3 + 1) / 2)


def hard(scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels, 0 or 1."""
    draw = torch.manual_seed(3)
    return scale * torch.randn(9, 11, generator=draw), torch.randint(0, 2, (9, 11), generator=draw).float()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_loss_is_that_of_torchvision(gamma, alpha):
    logits, labels = hard()
    theirs = sigmoid_focal_loss(logits, labels, -1 if alpha is None else alpha, gamma, reduction="mean")
    torch.testing.assert_close(value(focal_loss(logits, labels, gamma, alpha)), theirs)


@pytest.mark.parametrize(("positive", "negative", "clip"), [(0, 4, 0.05), (1, 4, 0.05), (0, 2, 0), (0.5, 0.5, 0.2)])
def test_asymmetric_loss_is_that_of_timm_and_of_its_formula(positive, negative, clip):
    logits, labels = hard()
    ours = value(asymmetric_loss(logits, labels, positive, negative, clip))
    theirs = AsymmetricLossMultiLabel(gamma_neg=negative, gamma_pos=positive, clip=clip)(logits, labels)
    torch.testing.assert_close(ours, theirs / labels.shape[1], rtol=1e-5, atol=1e-6)
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    shifted = np.maximum(p - clip, 0)
    each = np.where(labels == 1, (1 - p) ** positive * np.log(p), shifted**negative * np.log(1 - shifted))
    assert float(ours) == pytest.approx(-each.mean(), rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, labels: focal_loss(logits, labels, 2.0, 0.25),
        lambda logits, labels: asymmetric_loss(logits, labels, 0.0, 4.0, 0.05),
        lambda logits, labels: asymmetric_loss(logits, labels, 0.5, 0.5, 0.0),
        lambda logits, labels: focal_loss(logits, labels, 0.3),
    ],
)
def test_unknown_labels_soft_ones_and_far_logits_in_losses_of_their_kind(loss):
    logits, labels = hard()
    gaps = labels.clone()
    gaps[::2, 3] = torch.nan
    known = gaps.isfinite()
    assert float(loss(logits, gaps).count) == known.sum() == 99 - 5
    torch.testing.assert_close(value(loss(logits, gaps)), value(loss(logits[known][None], labels[known][None])))
    mixed = 0.3 * labels + 0.7 * (1 - labels)
    expected = 0.3 * value(loss(logits, labels)) + 0.7 * value(loss(logits, 1 - labels))
    torch.testing.assert_close(value(loss(logits, mixed)), expected)
    far = torch.tensor([[-200.0, -30, 0, 30, 200]], requires_grad=True)
    for there in (0.0, 1.0):
        (slope,) = torch.autograd.grad(value(loss(far, torch.full((1, 5), there))), far)
        assert slope.isfinite().all()


class Given:
    """What networks made of a batch."""

    logits = hard()[0]
    exclusive = False


def of_target(labels: torch.Tensor, outputs: object = Given(), **spec) -> torch.Tensor:
    return value(*LabelTarget(**spec).losses(outputs, {"labels": labels}))  # type: ignore[arg-type]


def test_a_target_learns_by_the_loss_it_names_with_its_published_numbers():
    logits, labels = hard()
    torch.testing.assert_close(of_target(labels), value(label_loss(logits, labels)), rtol=0, atol=0)
    torch.testing.assert_close(of_target(labels, loss="focal"), value(focal_loss(logits, labels, 2.0)))
    torch.testing.assert_close(
        of_target(labels, loss="focal", gamma=1, alpha=0.25), value(focal_loss(logits, labels, 1, 0.25))
    )
    torch.testing.assert_close(of_target(labels, loss="asymmetric"), value(asymmetric_loss(logits, labels, 0, 4, 0.05)))
    given = {"gamma_positive": 0.0, "gamma_negative": 0.0, "clip": 0.0}
    torch.testing.assert_close(of_target(labels, loss="asymmetric", **given), value(label_loss(logits, labels)))


@pytest.mark.parametrize("loss", ["bce", "focal", "asymmetric"])
def test_smoothing_moves_known_labels_towards_one_half(loss):
    _, labels = hard()
    labels[2, 2] = torch.nan
    smooth = torch.where(labels == 1, 0.9, torch.where(labels == 0, 0.1, torch.nan))
    torch.testing.assert_close(of_target(labels, loss=loss, smoothing=0.2), of_target(smooth, loss=loss))
    assert of_target(labels, loss=loss, smoothing=0.2) != of_target(labels, loss=loss)


def test_smoothed_labels_of_exclusive_states_leave_none_its_share():
    model = Classifier("resnet10t", "gap", weights="none", exclusive=True)
    labels = torch.zeros(2, len(LABELS))
    labels[0, 1] = 1  # an ETT, borderline; no ETT on the second film
    scores = torch.zeros(2, len(LABELS), requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = of_target(labels, SimpleNamespace(logits=model.logits_of(scores), exclusive=True), smoothing=0.2)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type, no-untyped-call]
    there, absent = model.logits_of(scores).sigmoid().detach()
    torch.testing.assert_close(there[:3], torch.tensor([0.05, 0.85, 0.05]), rtol=0, atol=1e-3)
    torch.testing.assert_close(absent[:3], torch.full((3,), 0.05), rtol=0, atol=1e-3)
    torch.testing.assert_close(there[3:], torch.full((8,), 0.1), rtol=0, atol=1e-3)


def test_a_target_says_its_loss():
    said = [
        ({}, "BCE"),
        ({"class_weights": "balanced", "smoothing": 0.1}, "BCE, balanced, smoothing 0.1"),
        ({"loss": "focal", "alpha": 0.25}, "focal (gamma 2, alpha 0.25)"),
        ({"loss": "asymmetric", "smoothing": 0.05}, "asymmetric (gamma 0 and 4, clip 0.05), smoothing 0.05"),
    ]
    for spec, expected in said:
        assert LabelTarget.model_validate(spec).describe() == ("labels", expected)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"gamma": 1}, "gamma is 1, but loss is 'bce'; it belongs to focal"),
        ({"loss": "asymmetric", "alpha": 0.5}, "alpha is 0.5, but loss is 'asymmetric'; it belongs to focal"),
        ({"loss": "asymmetric", "clip": 1e-9}, "clip is 1e-09: .*allowed: 0, or from 0.0001 on"),
        ({"loss": "focal", "clip": 0.1}, "clip is 0.1, but loss is 'focal'; it belongs to asymmetric"),
        ({"loss": "focal", "class_weights": "balanced"}, "class_weights is 'balanced', but loss is 'focal'"),
        ({"loss": "asymmetric", "class_weights": "balanced"}, "which has gamma_positive and gamma_negative instead"),
        ({"smoothing": 1}, "less than 1"),
        ({"loss": "hinge"}, "'bce', 'focal' or 'asymmetric'"),
    ],
)
def test_what_does_not_go_together_is_refused(spec, said):
    with pytest.raises(ValueError, match=said):
        LabelTarget.model_validate(spec)


def test_feature_loss():
    assert float(value(feature_loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)))) == 1


def test_balanced_weights_are_negatives_per_positive_within_bounds():
    labels = np.zeros((100, 3), np.float32)
    labels[:20, 0] = 1
    labels[:1, 1] = 1
    labels[:90, 2] = 1
    assert balanced_weights(labels).tolist() == [4.0, MAX_CLASS_WEIGHT, 1.0]


def test_film_weights_weigh_films_and_leave_the_divisor():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(4, 11, generator=generator), torch.rand(4, 11, generator=generator)
    alone = torch.stack([value(label_loss(logits[i : i + 1], targets[i : i + 1])) for i in range(4)])
    weights = torch.tensor([0.0, 0.5, 1.0, 2.5])
    weighed = value(label_loss(logits, targets, film_weights=weights))
    assert float(weighed) == pytest.approx(float((alone * weights).mean()))
    even = value(label_loss(logits, targets, film_weights=torch.ones(4)))
    assert torch.equal(even, value(label_loss(logits, targets)))


def test_soft_targets_are_least_at_themselves():
    p = torch.linspace(0.1, 0.9, 11)[None]
    own = float(value(label_loss(torch.logit(p), p)))
    assert own == pytest.approx(float(-(p * p.log() + (1 - p) * (1 - p).log()).mean()))
    for shift in (-0.3, 0.3):
        assert float(value(label_loss(torch.logit(p) + shift, p))) > own


def test_presence_groups_are_each_devices_labels_and_all():
    for name, group in zip(PRESENCE[:-1], GROUPS, strict=False):
        assert [LABELS[i] for i in group] == [label for label in LABELS if str(DEVICE_OF[label]) == name]
    assert GROUPS[-1] == list(range(11)) and len(GROUPS) == len(PRESENCE)
    assert sorted(i for group in GROUPS[:-1] for i in group) == list(range(11))


def test_presence_loss_is_the_log_loss_of_the_noisy_or_of_what_is_known():
    rng = np.random.default_rng(0)
    logits, presence = rng.normal(0, 2, (6, 11)), (rng.random((6, 5)) < 0.5).astype(float)
    presence[0], presence[1, 2], presence[5, :4] = np.nan, np.nan, np.nan
    p = 1 / (1 + np.exp(-logits))
    some = np.stack([1 - np.prod(1 - p[:, group], axis=1) for group in GROUPS], axis=1)
    terms = -(presence * np.log(some) + (1 - presence) * np.log(1 - some))
    found = value(presence_loss(torch.tensor(logits), torch.tensor(presence), GROUPS))
    assert float(found) == pytest.approx(np.nanmean(terms))


def test_presence_pulls_a_devices_labels_towards_what_is_known_of_it_alone():
    logits = torch.zeros(2, 11, requires_grad=True)
    presence = torch.full((2, 5), torch.nan)
    presence[0, 0], presence[1, 1] = 1, 0
    value(presence_loss(logits, presence, GROUPS)).backward()
    pulled = [sorted(np.flatnonzero(row).tolist()) for row in logits.grad.numpy()]
    assert pulled == [GROUPS[0], GROUPS[1]]
    assert (logits.grad[0][GROUPS[0]] < 0).all() and (logits.grad[1][GROUPS[1]] > 0).all()


@pytest.mark.parametrize("logit", [-100.0, -20.0, 20.0, 100.0])
def test_presence_loss_and_its_gradient_are_finite_however_sure_the_model_is(logit):
    for known in (0.0, 1.0, torch.nan):
        logits = torch.full((2, 11), logit, requires_grad=True)
        loss = value(presence_loss(logits, torch.full((2, 5), known), GROUPS))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
        assert known == known or (float(loss.detach()) == 0 and not logits.grad.any()), (
            "nothing is known: nothing is learnt"
        )


def test_a_device_that_is_there_is_learnt_even_by_a_model_sure_that_it_is_not():
    logits = torch.full((1, 11), -20.0, requires_grad=True)
    value(presence_loss(logits, torch.ones(1, 5), GROUPS)).backward()
    assert (logits.grad < 0).all()


def some_maps(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, true maps and what is known of three films: all, the lines and tips, nothing."""
    lines = [(LABELS[0], np.array([[20.0, -5], [30, 40]])), (LABELS[7], np.array([[5.0, 10], [50, 50]]))]
    wanted = [draw_maps(lines, [np.array([40.0, 30])], 64), draw_maps(lines[:1], [np.full(2, np.nan)], 64)]
    wanted.append(draw_maps([], [np.full(2, np.nan)], 64))
    known = torch.ones(3, len(MAPS))
    known[1, -1] = known[2] = 0
    logits = torch.randn(3, len(MAPS), 32, 32, generator=torch.manual_seed(seed)) - 2
    return logits, torch.tensor(np.stack(wanted)), known


def test_unknown_pixels_of_a_line_map_teach_nothing():
    logits, wanted, known = some_maps()
    part = wanted.clone()
    part[:, 0, 5:12, 5:12] = UNKNOWN
    logits.requires_grad_()
    total_loss(maps_loss(logits, part, known)).backward()
    assert not logits.grad[:, 0, 5:12, 5:12].any() and logits.grad[:2, 0].any(dim=(1, 2)).all()
    with torch.no_grad():
        other = logits + 3 * (part == UNKNOWN)
        assert total_loss(maps_loss(other, part, known)) == total_loss(maps_loss(logits, part, known))


def test_maps_loss_is_its_formula_film_by_film_and_map_by_map():
    logits, wanted, known = some_maps()
    z, y, k = (value.double().numpy() for value in (logits, wanted, known))
    p = 1 / (1 + np.exp(-z))
    entropy, dice, focal = [], [], []
    for c, (kind, _) in enumerate(MAPS):
        films = [film for film in range(3) if k[film, c]]
        if kind is MapKind.LINE:
            entropy += [-(y * np.log(p) + (1 - y) * np.log(1 - p))[film, c].mean() for film in films]
            if any(y[film, c].any() for film in films):
                both = sum((p * y)[film, c].sum() for film in films)
                dice.append(1 - (2 * both + 1) / (sum((p + y)[film, c].sum() for film in films) + 1))
            continue
        for film in films:
            total = 0.0
            for said, true in zip(p[film, c].flat, y[film, c].flat, strict=True):
                if true == 1:
                    total -= (1 - said) ** 2 * np.log(said)
                else:
                    total -= (1 - true) ** 4 * said**2 * np.log(1 - said)
            focal.append(total)
    assert len(dice) == 2 and len(entropy) == 8 and len(focal) == 9
    expected = LINE_PIXELS * np.mean(entropy) + np.mean(dice) + np.mean(focal)
    assert float(value(*maps_loss(logits, wanted, known))) == pytest.approx(expected, rel=1e-4)


def test_where_no_map_is_known_nothing_is_learnt():
    logits, wanted, known = some_maps()
    logits.requires_grad_()
    loss = value(*maps_loss(logits, wanted, torch.zeros_like(known)))
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any()


def test_films_and_maps_that_are_unknown_have_no_influence():
    logits, wanted, known = some_maps()
    expected = float(value(*maps_loss(logits, wanted, known)))
    other_logits, other_wanted = logits.clone(), wanted.clone()
    for film, channel in np.argwhere(known.numpy() == 0):
        other_logits[film, channel], other_wanted[film, channel] = 7.0, 1.0
    assert float(value(*maps_loss(other_logits, other_wanted, known))) == pytest.approx(expected, rel=1e-6)
    assert float(value(*maps_loss(logits[:2], wanted[:2], known[:2]))) == pytest.approx(expected, rel=1e-6)
    other_logits.requires_grad_()
    value(*maps_loss(other_logits, other_wanted, known)).backward()
    learnt = other_logits.grad.abs().sum(dim=(2, 3)) > 0
    assert torch.equal(learnt, known > 0)


@pytest.mark.parametrize("logit", [-100.0, 0.0, 100.0])
def test_maps_loss_and_its_gradient_are_finite_however_sure_the_model_is(logit):
    _, wanted, known = some_maps()
    logits = torch.full_like(wanted, logit, requires_grad=True)
    loss = value(*maps_loss(logits, wanted, known))
    loss.backward()
    assert torch.isfinite(loss) and float(loss.detach()) > 0 and torch.isfinite(logits.grad).all()


def test_the_sums_of_parts_of_a_batch_add_up_to_the_whole_batch():
    logits, wanted, known = some_maps()
    generator = torch.Generator().manual_seed(0)
    labels, targets = torch.randn(3, 11, generator=generator), torch.rand(3, 11, generator=generator)
    presence = torch.tensor([[1, 0, torch.nan, torch.nan, 1], [torch.nan] * 5, [0, 0, 0, 0, torch.nan]])
    features, taught = torch.rand(2, 3, 4, 2, 2, generator=generator).unbind()

    def all_of(films: slice) -> list[Sums]:
        return [
            label_loss(labels[films], targets[films], torch.full((11,), 3.0), torch.arange(3.0)[films]),
            presence_loss(labels[films], presence[films], GROUPS),
            feature_loss(features[films], taught[films]),
            *(part for _, part in maps_loss(logits[films], wanted[films], known[films])),
        ]

    whole = all_of(slice(0, 3))
    for cuts in ([0, 1, 3], [0, 2, 3], [0, 0, 3], [0, 1, 2, 3]):  # a part may have no film
        parts = [all_of(slice(start, stop)) for start, stop in itertools.pairwise(cuts)]
        for mine, *shares in zip(whole, *parts, strict=True):
            added = Sums(
                *(sum(getattr(share, name) for share in shares) for name in ("total", "count", "weight")), mine.smooth
            )
            torch.testing.assert_close(added.value(), mine.value(), rtol=1e-5, atol=1e-6)
            assert float(mine.value()) > 0


@pytest.mark.parametrize("at", [(401.5, 401.5), (401.48, 512.3), (100.0, 1000.6)])
def test_a_point_between_pixels_is_one_hit_in_half_precision(at):
    drawn = draw_maps([], [np.array(at)], 1024).astype(np.float16)
    known = torch.zeros(1, len(MAPS))
    known[0, -1] = 1
    logits = torch.full(drawn.shape, -20.0)
    logits[-1].view(-1)[int(drawn[-1].argmax())] = 20.0  # certain of the peak, and of nothing else
    assert float(value(*maps_loss(logits[None], torch.from_numpy(drawn)[None].float(), known))) < 1e-3
