"""Training targets, a file each, and their registry. A recipe names them under `targets`."""

from collections.abc import Mapping

from cxrlines.training.targets.base import FilmsSpec, Strict, Target
from cxrlines.training.targets.features import FeatureTarget
from cxrlines.training.targets.labels import LabelTarget
from cxrlines.training.targets.maps import KINDS, MapTarget
from cxrlines.training.targets.presence import PresenceTarget
from cxrlines.training.targets.retrieval import RetrievalTarget
from cxrlines.training.targets.soft import SoftTarget
from cxrlines.training.targets.soft_maps import SoftMapTarget


class TargetsSpec(Strict):
    """The losses of a stage; the total loss is the weighted sum of those named. This is the registry of targets."""

    labels: LabelTarget | None = None  # classification loss on the labels
    # feature distillation (mean squared error) from a teacher that sees the drawn lines
    features: FeatureTarget | None = None
    soft: SoftTarget | None = None  # classification loss on soft labels
    presence: PresenceTarget | None = None  # classification loss on the presence of each device
    maps: MapTarget | None = None  # heatmap loss on annotated lines, tips and landmarks
    retrieval: RetrievalTarget | None = None  # contrastive loss for an embedding
    soft_maps: SoftMapTarget | None = None  # heatmap distillation from other networks

    @property
    def named(self) -> dict[str, Target]:
        """The targets there are, by name, in the order of the fields."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: target for name, target in fields.items() if target is not None}

    @property
    def classifies(self) -> bool:
        """Whether a stage that learns these predicts labels: one that learns heatmaps alone is a segmenter."""
        return any(target.classifies for target in self.named.values())

    @property
    def needs_lines(self) -> bool:
        """Whether every film must be annotated."""
        return any(target.needs_lines for target in self.named.values())

    @property
    def draws_lines(self) -> bool:
        """Whether films are drawn with their lines in."""
        return any(target.draws_lines for target in self.named.values())

    @property
    def reads_maps(self) -> bool:
        """Whether the network has a decoder of heatmaps."""
        return any(target.reads_maps for target in self.named.values())

    @property
    def draws_maps(self) -> bool:
        """Whether annotated films come with their true heatmaps."""
        return any(target.draws_maps for target in self.named.values())

    @property
    def maps_all(self) -> bool:
        """Whether the decoder runs on all films, and not on annotated ones alone."""
        return any(target.reads_maps and not target.draws_maps for target in self.named.values())

    @property
    def map_teachers(self) -> tuple[str, ...]:
        """The stages whose heatmaps are learnt: members, or `member/stage`."""
        return self.soft_maps.teachers if self.soft_maps else ()

    @property
    def map_kinds(self) -> tuple[str, ...]:
        """The kinds of heatmaps learnt: `line`, `tip`, `landmark`."""
        learnt = {kind for target in (self.maps, self.soft_maps) if target for kind in target.kinds}
        return tuple(kind for kind in KINDS if kind in learnt)

    def check(self, films: FilmsSpec, earlier: Mapping[str, FilmsSpec]) -> None:
        """`ValueError`, from the field's name on, where none is named or one cannot be learnt."""
        if not self.named:
            raise ValueError(f"targets is empty; name one or more of {', '.join(type(self).model_fields)}")
        for target in self.named.values():
            target.check(films, earlier)
