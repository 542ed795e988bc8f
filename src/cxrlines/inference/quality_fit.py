"""How the probe of `quality` is made: upright films in eight poses, cropped and whole, against what is no film.

What is no film is made by rule: noise, textures, gradients, shapes, pages of text, and patches of films far too small
to know the chest. Photographs can be given besides. What is unlike all of it is refused by its distance.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from cxrlines.augment.policy import make_policy
from cxrlines.inference.bundle import Bundle
from cxrlines.inference.quality import OTHER, POSES, SIZE, Probe, pooled, projected
from cxrlines.models.weights import save_weights

KEPT = 96
"""Directions of the features that are kept."""
SHARE_HELD = 0.2
"""Films kept apart: the limit of the distance is a quantile of theirs."""
QUANTILE, MARGIN = 0.998, 1.15
"""The limit is this quantile of the distance of films kept apart, times the margin."""
CUT = (0.15, 0.42)
"""Share of the film's area that a bad crop leaves."""
BATCH = 32


def fit_quality(
    bundle: Bundle, films: np.ndarray, seed: int = 0, *, others: Sequence[np.ndarray] = (), views: int = 2
) -> Probe:
    """The probe for a bundle's first model.

    Args:
        films: (n, s, s) uint8 upright frontal films, as a store of aspect `stretch` has them; 100 or more.
        seed: of the augmentation and of what is no film; the same gives the same probe.
        others: images (h, w) uint8 that are no frontal chest films; each is seen whole, in parts and in all poses.
        views: times that each film is seen.

    Raises ValueError for fewer films or another type.
    """
    if films.dtype != np.uint8 or films.ndim != 3 or len(films) < 100:
        raise ValueError(f"films: {films.dtype} {films.shape}; give 100 or more, uint8 (n, s, s)")
    rng = np.random.default_rng(seed)
    network = bundle.models[0]
    policy = replace(make_policy("wild", SIZE, flip=False), invert=0.0)
    cutting = replace(policy, crop_area=CUT)
    held = rng.permutation(len(films)) < SHARE_HELD * len(films)
    shown, classes, cropped, apart = [], [], [], []
    for place, film in enumerate(films):
        for view in range(views):
            bad = view % 2 == 1 and rng.random() < 0.4
            plain = view == 0 and rng.random() < 0.5
            seen = cv2.resize(film, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            if bad or not plain:
                seen = (cutting if bad else policy)(film, rng).film
            for k in {0, *rng.choice(len(POSES), 4, replace=False).tolist()}:
                shown.append(posed(seen, k))
                classes.append(k)
                cropped.append(bad)
                apart.append(held[place])
    for image in not_films(films, others, rng, count=2 * len(films)):
        shown.append(image)
        classes.append(OTHER)
        cropped.append(False)
        apart.append(rng.random() < SHARE_HELD)
    features = features_of(bundle, shown)
    return _fitted(network, features, np.array(classes), np.array(cropped), np.array(apart))


def write_probe(probe: Probe, path: Path) -> Path:
    """The probe as safetensors, ready for `extend_bundle` as `quality.FILE`."""
    save_weights(path, {name: torch.from_numpy(value) for name, value in probe.tensors.items()}, {})
    return path


def posed(film: np.ndarray, pose: int) -> np.ndarray:
    """A film in a pose: the index in `POSES`."""
    rotation, inverted = POSES[pose]
    turned = np.rot90(film, rotation // 90)
    return np.ascontiguousarray(255 - turned if inverted else turned)


def features_of(bundle: Bundle, films: Sequence[np.ndarray]) -> np.ndarray:
    """Pooled features (n, d) of many films (SIZE, SIZE)."""
    starts = range(0, len(films), BATCH)
    return np.concatenate([pooled(bundle.models[0], np.stack(films[at : at + BATCH])) for at in starts])


def not_films(
    films: np.ndarray, others: Sequence[np.ndarray], rng: np.random.Generator, count: int
) -> list[np.ndarray]:
    """`count` images (SIZE, SIZE) uint8 that are no frontal chest films, an equal share of each kind."""
    kinds = [_noise, _texture, _gradient, _shapes, _page]
    made = []
    for k in range(count):
        kind = k % (len(kinds) + 1 + 2 * bool(others))
        if kind < len(kinds):
            image = kinds[kind](rng)
        elif kind == len(kinds):
            image = _patch(films[rng.integers(len(films))], rng, (0.08, 0.2))
        else:
            image = _patch(others[int(rng.integers(len(others)))], rng, (0.25, 1.0))
        made.append(posed(image, int(rng.integers(len(POSES)))))
    return made


def _patch(image: np.ndarray, rng: np.random.Generator, sides: tuple[float, float]) -> np.ndarray:
    share = rng.uniform(*sides)
    height, width = (max(8, round(side * share)) for side in image.shape)
    top, left = (
        int(rng.integers(0, max(1, whole - part + 1))) for whole, part in zip(image.shape, (height, width), strict=True)
    )
    part = image[top : top + height, left : left + width]
    way = cv2.INTER_AREA if min(part.shape) > SIZE else cv2.INTER_LINEAR
    return cv2.resize(part, (SIZE, SIZE), interpolation=way)


def _noise(rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.normal(rng.uniform(30, 220), rng.uniform(3, 90), (SIZE, SIZE)), 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Noise of several widths, longer one way."""
    image = np.zeros((SIZE, SIZE))
    for _ in range(rng.integers(1, 4)):
        layer = cv2.GaussianBlur(rng.normal(0, 1, (SIZE, SIZE)), (0, 0), *np.exp(rng.uniform(-0.5, 3.2, 2)).tolist())
        image += rng.uniform(0.3, 1) * layer / layer.std()
    return np.clip(rng.uniform(60, 200) + rng.uniform(10, 60) * image, 0, 255).astype(np.uint8)


def _gradient(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]  # type: ignore[misc]
    a, b, c = rng.normal(0, 1, 3)
    image = a * x + b * y + c * np.hypot(x - rng.uniform(-1, 1), y - rng.uniform(-1, 1))
    image = 255 * (image - image.min()) / np.ptp(image)
    return np.clip(image + rng.normal(0, rng.uniform(0, 8), image.shape), 0, 255).astype(np.uint8)


def _shapes(rng: np.random.Generator) -> np.ndarray:
    image = np.full((SIZE, SIZE), int(rng.integers(256)), np.uint8)
    for _ in range(rng.integers(1, 25)):
        gray, at, size = int(rng.integers(256)), rng.integers(0, SIZE, 4).tolist(), int(rng.integers(3, 60))
        width = -1 if rng.random() < 0.6 else int(rng.integers(1, 6))
        match rng.integers(4):
            case 0:
                cv2.circle(image, at[:2], size, gray, width)
            case 1:
                cv2.rectangle(image, at[:2], at[2:], gray, width)
            case 2:
                cv2.line(image, at[:2], at[2:], gray, max(1, width))
            case _:
                cv2.ellipse(image, at[:2], (size, size // 2 + 1), float(rng.uniform(0, 180)), 0, 360, gray, width)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 4)) if rng.random() < 0.6 else image


def _page(rng: np.random.Generator) -> np.ndarray:
    image = np.full((SIZE, SIZE), int(rng.integers(180, 256)), np.uint8)
    step = int(rng.integers(8, 28))
    for y in range(step, SIZE, step):
        words = "".join(chr(rng.integers(97, 123)) if rng.random() > 0.18 else " " for _ in range(rng.integers(4, 60)))
        cv2.putText(
            image, words, (int(rng.integers(2, 20)), y), cv2.FONT_HERSHEY_SIMPLEX, step / 34, 30, 1, cv2.LINE_AA
        )
    return image


def _fitted(
    network: object, features: np.ndarray, classes: np.ndarray, cropped: np.ndarray, apart: np.ndarray
) -> Probe:
    """Directions and distances of the films, then the classes and the crops by logistic regression."""
    film = classes != OTHER
    fit = film & ~apart
    mean = features[fit].mean(axis=0)
    centred = torch.from_numpy(features[fit] - mean)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    basis = vectors[:, values.argsort(descending=True)[: min(KEPT, len(values))]].T.numpy().copy()
    kept = len(basis)
    inside, rest = projected(features, mean, basis, np.eye(kept, dtype=np.float32))
    centres = np.stack([inside[fit & (classes == k)].mean(axis=0) for k in range(OTHER)])
    within = inside[fit] - centres[classes[fit]]
    covariance = within.T @ within / len(within)
    whiten = np.linalg.cholesky(np.linalg.inv(covariance + 1e-4 * np.trace(covariance) / kept * np.eye(kept)))
    whitened = (inside @ whiten).astype(np.float32)
    tensors = {"mean": mean, "basis": basis, "whiten": whiten, "centres": centres @ whiten}
    tensors["weights"], tensors["bias"] = _regressed(whitened[~apart], classes[~apart], OTHER + 1)
    weights, bias = _regressed(whitened[fit], cropped[fit].astype(np.int64), 2)
    tensors["crop_weights"], tensors["crop_bias"] = weights[1] - weights[0], bias[1:] - bias[:1]
    tensors["rest"] = rest[fit].mean(keepdims=True)
    tensors["limit"] = np.ones(1)
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    distances = Probe(network, tensors).scores(features[film & apart & ~cropped])[2]  # type: ignore[arg-type]
    tensors["limit"] = np.array([MARGIN * np.quantile(distances, QUANTILE)], np.float32)
    return Probe(network, tensors)  # type: ignore[arg-type]


def _regressed(x: np.ndarray, classes: np.ndarray, count: int, decay: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Weights (count, k) and bias (count) of multinomial logistic regression, classes weighing alike."""
    inputs, targets = torch.from_numpy(x), torch.from_numpy(classes)
    share = torch.bincount(targets, minlength=count).clamp(min=1).float()
    weight = share.sum() / share / count
    weights = torch.zeros(count, x.shape[1], requires_grad=True)
    bias = torch.zeros(count, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(inputs @ weights.T + bias, targets, weight) + decay * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return weights.detach().numpy(), bias.detach().numpy()
