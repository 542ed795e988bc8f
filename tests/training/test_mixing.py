"""MixUp and CutMix: as torchvision mixes, whatever the number of processes; unknown stays unknown."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.transforms.v2 import CutMix, MixUp

from cxrlines.training import distributed, mixing
from cxrlines.training.mixing import Mixing, mix
from cxrlines.training.targets.labels import label_loss


def batch(films: int = 6) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "film": torch.randint(0, 256, (films, 1, 20, 30), dtype=torch.uint8, generator=draw),
        "labels": torch.randint(0, 2, (films, 11), generator=draw).float(),
    }


def share_of(mixed, given) -> float:
    """The share of the own film, by the labels alone."""
    step = given["labels"] - given["labels"].roll(1, 0)
    where = step.abs() == 1
    shares = ((mixed["labels"] - given["labels"].roll(1, 0)) / step)[where]
    assert shares.std() < 1e-6
    return float(shares.mean())


@pytest.mark.parametrize("draw", range(8))
@pytest.mark.parametrize(("kind", "oracle"), [("mixup", MixUp), ("cutmix", CutMix)])
def test_it_mixes_as_torchvision_does(kind, oracle, draw):
    given = batch()
    mixed = mix(given, Mixing(**{kind: 1.0}), (3, 1, draw))
    share = share_of(mixed, given)
    parameters = {"lam": share, "labels": given["labels"], "batch_size": 6}
    if kind == "cutmix":
        changed = (mixed["film"] != given["film"]).any(dim=0)[0].nonzero()
        if not len(changed):  # a box of no pixel
            assert share == 1
            return
        (top, left), (bottom, right) = changed.amin(dim=0).tolist(), (changed.amax(dim=0) + 1).tolist()
        assert share == pytest.approx(1 - (bottom - top) * (right - left) / 600, abs=1e-6)
        parameters |= {"box": (left, top, right, bottom), "lam_adjusted": share}
    theirs = oracle(alpha=1.0)
    films = given["film"] if kind == "cutmix" else given["film"].float()
    expected = theirs.transform(films, parameters)
    assert mixed["film"].dtype == torch.uint8
    assert (mixed["film"].float() - expected.float()).abs().max() <= (0 if kind == "cutmix" else 0.5001)
    torch.testing.assert_close(mixed["labels"], theirs.transform(given["labels"], parameters))


def test_shares_and_boxes_are_drawn_from_the_distribution():
    rng_shares = [share_of(mix(batch(2), Mixing(mixup=0.4), (0, 0, step)), batch(2)) for step in range(400)]
    assert np.mean(rng_shares) == pytest.approx(0.5, abs=0.06)
    assert np.var(rng_shares) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.15)


def test_with_both_each_batch_is_mixed_in_one_way():
    given = batch()
    cut = 0
    for step in range(60):
        mixed = mix(given, Mixing(mixup=1.0, cutmix=1.0), (0, 0, step))["film"]
        cut += bool(((mixed == given["film"]) | (mixed == given["film"].roll(1, 0))).all())
    assert 18 <= cut <= 42


def test_it_hangs_on_seed_epoch_and_batch_alone_and_leaves_what_is_given():
    given = batch()
    before = {name: value.clone() for name, value in given.items()}
    one, same, *others = (
        mix(given, Mixing(mixup=1.0), draw)["film"] for draw in [(1, 2, 3), (1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3)]
    )
    assert torch.equal(one, same) and not any(torch.equal(one, other) for other in others)
    assert all(torch.equal(given[name], value) for name, value in before.items())


def test_unknown_in_either_is_unknown():
    given = batch()
    given["labels"][2, 4] = torch.nan
    given["presence"] = torch.ones(6, 5)
    given["presence"][5, 0] = torch.nan
    mixed = mix(given, Mixing(cutmix=1.0), (0, 0, 1))
    assert mixed["labels"].isnan().nonzero().tolist() == [[2, 4], [3, 4]]
    assert mixed["presence"].isnan().nonzero().tolist() == [[0, 0], [5, 0]]


def test_soft_labels_of_weighted_films_have_the_mixture_of_their_losses():
    given = batch()
    draw = torch.Generator().manual_seed(1)
    given |= {"soft": torch.rand(6, 11, generator=draw), "film_weights": torch.tensor([0.0, 0.0, 1, 2, 0.5, 3])}
    mixed = mix(given, Mixing(mixup=1.0), (0, 0, 2))
    share, logits = share_of(mixed, given), torch.randn(6, 11, generator=draw)
    each = [
        functional.binary_cross_entropy_with_logits(logits, soft, reduction="none").sum(dim=1) * weights
        for soft, weights in (
            (given["soft"], given["film_weights"]), (given["soft"].roll(1, 0), given["film_weights"].roll(1, 0)),
        )
    ]  # fmt: skip
    expected = share * each[0] + (1 - share) * each[1]
    loss = label_loss(logits, mixed["soft"], film_weights=mixed["film_weights"])
    torch.testing.assert_close(loss.total[0], expected.sum())


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("kind", [Mixing(mixup=0.7), Mixing(cutmix=0.7)])
def test_several_processes_mix_as_one(monkeypatch, world, kind):
    given = batch(7)
    whole = mix(given, kind, (1, 0, 5))
    parts = []
    for rank in range(world):
        with monkeypatch.context() as one:
            one.setattr(distributed, "rank", rank)
            one.setattr(distributed, "world", world)
            mine = distributed.rank_slice(7)
            rows = [*range(7)[mine], mine.start - 1]
            parts.append(mix({name: value[rows] for name, value in given.items()}, kind, (1, 0, 5)))
    for name, value in whole.items():
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), value, rtol=0, atol=0)


def test_a_box_stays_on_the_film():
    rng = np.random.default_rng(0)
    for _ in range(200):
        for part, side in zip(mixing._box(20, 30, 0.3, rng), (20, 30), strict=True):
            assert 0 <= part.start <= part.stop <= side
