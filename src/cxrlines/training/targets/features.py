"""Features of a teacher as a training target (feature distillation): mean squared error of feature maps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cxrlines.core.text import did_you_mean
from cxrlines.training.targets.base import BatchOutputs, FilmsSpec, Losses, PositiveFloat, Sums, Target

if TYPE_CHECKING:
    from torch import Tensor


class FeatureTarget(Target):
    """The feature map that an earlier, frozen stage (the teacher) makes of the film with its lines drawn in."""

    key = "features"
    own_films = True
    lacking = "have no annotated lines; their targets are soft and presence"
    classifies = False
    needs_lines = True
    draws_lines = True
    frozen_passes = 1

    of: str  # the teacher: an earlier stage with view: overlay
    weight: PositiveFloat = 0.5  # weight of this loss in the total loss

    def check(self, films: FilmsSpec, earlier: Mapping[str, FilmsSpec]) -> None:
        if self.of not in earlier:
            known = ", ".join(earlier) or "none, it has no earlier stage"
            raise ValueError(f"targets.features.of is {self.of!r}; allowed: {known}{did_you_mean(self.of, earlier)}")
        if earlier[self.of].view != "overlay":
            raise ValueError(
                f"targets.features.of is {self.of!r}, which sees plain films; a teacher is a stage with "
                "films.view: overlay"
            )
        super().check(films, earlier)

    def losses(self, outputs: BatchOutputs, batch: Mapping[str, Any]) -> Losses:
        return [(1.0, feature_loss(outputs.features, outputs.teacher_features))]

    def describe(self) -> tuple[str, str]:
        return f"features of {self.of}", "MSE"


def feature_loss(student: "Tensor", teacher: "Tensor") -> Sums:
    """Mean squared error between two feature maps (batch, channels, height, width) before pooling."""
    from torch.nn import functional

    return Sums.mean(functional.mse_loss(student, teacher, reduction="sum"), student.numel())
