"""The losses, against their formulas."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from cxrlines.training.losses import MOST_WEIGHT, balanced_weights, feature_loss, label_loss


def test_label_loss_is_the_mean_log_loss_of_scikit_learn():
    logits, targets = torch.randn(8, 11, generator=torch.manual_seed(0)), torch.arange(88).reshape(8, 11) % 2
    oracle = log_loss(targets.flatten().numpy(), torch.sigmoid(logits.double()).flatten().numpy())
    assert float(label_loss(logits, targets.float())) == pytest.approx(oracle, rel=1e-5)


def test_positive_weight_counts_positives_so_many_times():
    logits, targets = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    assert float(label_loss(logits, targets, torch.tensor([3.0]))) == pytest.approx(np.log(2) * (3 + 1) / 2)


def test_feature_loss():
    assert float(feature_loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))) == 1


def test_balanced_weights_are_negatives_per_positive_within_bounds():
    labels = np.zeros((100, 3), np.float32)
    labels[:20, 0] = 1
    labels[:1, 1] = 1
    labels[:90, 2] = 1
    assert balanced_weights(labels).tolist() == [4.0, MOST_WEIGHT, 1.0]
