"""Training and measuring the quality probe: films in eight poses, cropped and whole, against other pictures."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional

from cxrlines.lab.probe.not_films import SEEN, SIDE, UNSEEN, Maker, of_films, part
from cxrlines.lab.probe.views import posed, toned, view
from cxrlines.models.orientation import OTHER, POSES, SIZE, OrientationNet, Probe

BATCH = 32
STEPS = 400
RATE, DECAY = 2e-3, 1e-2
BAD = 0.12
"""Share of the films that are badly cropped."""
Say = Callable[[str], None]
Films = Sequence[np.ndarray]


def fit_quality(
    groups: Sequence[Films],
    others: Films = (),
    *,
    seed: int = 0,
    steps: int = STEPS,
    start: str = "imagenet",
    say: Say = lambda text: None,
) -> Probe:
    """Train a probe.

    Args:
        groups: groups of upright frontal films, (SIDE, SIDE) uint8, stretched to a square; every group is seen as often
            as the others, however few its films.
        others: images (h, w) uint8 that are no frontal chest films; whole and in parts, in any pose.
        seed: of weights, of how the films are seen, and of what is no film; the same gives the same probe.
        steps: batches of `BATCH` to learn from.
        start: the weights to begin with; see `OrientationNet`.

    Raises ValueError for no film or one of another shape; `WeightsError` where the weights to begin with are missing.
    """
    if not groups or not all(len(films) for films in groups):
        raise ValueError("no films to fit the probe on; give one or more in every group")
    if wrong := [film for films in groups for film in films if film.shape != (SIDE, SIDE) or film.dtype != np.uint8]:
        raise ValueError(f"a film is {wrong[0].dtype} {wrong[0].shape}; give uint8 ({SIDE}, {SIDE})")
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = OrientationNet(start)
        weights = [p for name, p in net.named_parameters() if not name.startswith("early")]
        optimizer = torch.optim.AdamW(weights, RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
        net.train()
        begun = time.process_time()
        for step in range(steps):
            loss = _loss(net, *_batch(groups, others, rng))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 2.0)
            optimizer.step()
            schedule.step()
            if (step + 1) % 50 == 0:
                say(f"{step + 1} of {steps}: loss {loss.item():.3f}, {time.process_time() - begun:.0f} s of processor")
    return Probe(net)


def _batch(
    groups: Sequence[Films], others: Films, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shown, classes, cropped = [], [], []
    for place in range(BATCH):
        films = groups[int(rng.integers(len(groups)))]
        if place % 5 < 3:
            bad = rng.random() < BAD
            film = view(films[int(rng.integers(len(films)))], rng, cut=bool(bad))
            # Most films come upright: to reject or re-orient those is worse than to miss others.
            pose = 0 if rng.random() < 0.3 else int(rng.integers(len(POSES)))
            shown.append(posed(film, pose))
        else:
            bad, pose = False, OTHER
            shown.append(not_film(films, others, rng))
        classes.append(pose)
        cropped.append(float(bad))
    return torch.from_numpy(np.stack(shown)), torch.tensor(classes), torch.tensor(cropped)


def not_film(films: Films, others: Films, rng: np.random.Generator) -> np.ndarray:
    """An image (SIZE, SIZE) uint8 that is no frontal chest film: one of `others`, made of films, or drawn."""
    kind = rng.random()
    if others and kind < 0.5:
        image = part(others[int(rng.integers(len(others)))], rng, (0.15, 1.0))
    elif kind < 0.65:
        image = of_films(films, rng)
    else:
        image = SEEN[int(rng.integers(len(SEEN)))](rng)
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    image = toned(image, rng) if rng.random() < 0.5 else image
    return posed(image, int(rng.integers(len(POSES))))


def _loss(net: OrientationNet, films: torch.Tensor, classes: torch.Tensor, cropped: torch.Tensor) -> torch.Tensor:
    scores = net(films)
    film = classes != OTHER
    cut = functional.binary_cross_entropy_with_logits(scores[film, OTHER + 1], cropped[film])
    return functional.cross_entropy(scores[:, : OTHER + 1], classes) + 0.3 * cut


def measured(probe: Probe, films: Films, seed: int = 0, views: int = 0) -> dict[str, Any]:
    """How a probe assesses upright frontal films: counts, of the films in each pose and of other views of them.

    Args:
        films: (h, w) uint8.
        views: how many ways each upright film is also seen, as in fitting but whole.
    """
    rng = np.random.default_rng(seed)
    poses: Counter[str] = Counter(films=len(films))
    upright: Counter[str] = Counter(shown=0)
    for film in films:
        for pose, (rotation, inverted) in enumerate(POSES):
            quality = probe(posed(film, pose))
            found = quality.rotation, quality.inverted
            poses.update(
                shown=1,
                rejected=not quality.usable,
                pose_right=quality.usable and found == (rotation, inverted),
                reoriented_wrongly=found not in ((rotation, inverted), (0, False)),
                inverted_wrongly=quality.inverted and not inverted,
            )
        square = cv2.resize(film, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for image in [film, *(view(square, rng) for _ in range(views))]:
            quality = probe(image)
            upright.update(
                shown=1,
                rejected=not quality.usable,
                reoriented=(quality.rotation, quality.inverted) != (0, False),
                called_cropped=quality.cropped is not None and quality.cropped >= 0.5,
            )
    return {"poses": dict(poses), "upright": dict(upright)}


def rejection_rates(probe: Probe, makers: Sequence[Maker] = SEEN + UNSEEN, each: int = 20) -> dict[str, float]:
    """Share of made pictures of each kind that a probe rejects."""
    rng = np.random.default_rng(1)
    return {
        maker.__name__.strip("_"): sum(not probe(maker(rng)).usable for _ in range(each)) / each for maker in makers
    }
