"""The losses a stage may name: labels by binary cross-entropy, a teacher's features by mean squared error."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MOST_WEIGHT = 20.0
"""A balanced label weighs its positives at most this much: 79 ETT-abnormal films in 30,083 would weigh 380."""


def label_loss(logits: Tensor, targets: Tensor, positive_weight: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of `logits` against `targets` in [0, 1], both (batch, labels)."""
    return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=positive_weight)


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error between two feature maps (batch, channels, height, width) before pooling."""
    return functional.mse_loss(student, teacher)


def balanced_weights(labels: np.ndarray) -> Tensor:
    """(labels,) float32: negatives per positive of each label of (films, labels), between 1 and `MOST_WEIGHT`."""
    positives = labels.sum(axis=0)
    return torch.tensor(np.clip((len(labels) - positives) / np.maximum(positives, 1), 1, MOST_WEIGHT)).float()
