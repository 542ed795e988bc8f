"""Augmentation: every film of a training step is changed at random, its lines with it."""

from cxrlines.augment.policy import POLICIES, Augmented, Policy, make_policy

__all__ = ["POLICIES", "Augmented", "Policy", "make_policy"]
