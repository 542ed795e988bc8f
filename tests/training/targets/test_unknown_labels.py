"""Labels that are unknown (NaN here, `task.UNKNOWN` in tables) are left out of losses, class weights and AUC."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxrlines.task import LABELS
from cxrlines.training.outputs import total_loss
from cxrlines.training.targets.labels import balanced_weights, label_loss
from cxrlines.training.watching import macro_auc


def test_unknown_labels_are_left_out_of_loss_and_class_weights() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(6, len(LABELS), generator=rng, requires_grad=True)
    labels = torch.randint(0, 2, logits.shape, generator=rng).float()
    labels[:4, 3] = torch.nan  # of four films
    labels[:, 7] = torch.nan  # of all
    known = labels.isfinite()
    loss = total_loss([(1.0, label_loss(logits, labels, torch.full_like(logits, 2.0)))])
    loss.backward()
    bare = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[known], labels[known], pos_weight=torch.full_like(labels[known], 2.0)
    )
    assert float(loss.detach()) == pytest.approx(float(bare.detach()))
    assert torch.equal(logits.grad != 0, known)
    table = labels.numpy()
    weights = balanced_weights(table)
    assert np.isfinite(weights).all() and weights[7] == 1
    assert weights[3] == balanced_weights(table[4:, 3:4])[0]


def test_a_batch_of_unknown_labels_has_no_loss_and_a_gradient_of_zeros() -> None:
    logits = torch.zeros(2, len(LABELS), requires_grad=True)
    loss = total_loss([(1.0, label_loss(logits, torch.full_like(logits, torch.nan)))])
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any()


def test_the_watched_auc_is_of_the_labels_that_are_known() -> None:

    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, (40, 3)).astype(np.float32), rng.random((40, 3))
    labels[:10, 1], labels[:, 2] = np.nan, np.nan
    expected = [roc_auc_score(labels[:, 0], scores[:, 0]), roc_auc_score(labels[10:, 1], scores[10:, 1])]
    assert macro_auc(labels, scores) == pytest.approx(np.mean(expected))
    assert macro_auc(np.full((4, 2), np.nan), np.zeros((4, 2))) is None
