"""Augmentation: every film a training step sees is drawn anew, its lines with it."""

from cxrlines.augment.policy import POLICIES, Augmented, Policy, make_policy

__all__ = ["POLICIES", "Augmented", "Policy", "make_policy"]
