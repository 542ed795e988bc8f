"""Heatmaps of a teacher as a training target (distillation): they need no annotation of the film.

The teacher is frozen and reads the very film that the student reads, augmented and at its size, so that nothing is
stored. Where several teach, the heatmaps are the mean of theirs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from cxrlines.core.text import did_you_mean
from cxrlines.core.transform import Size, size_text
from cxrlines.task import MAPS, MapKind
from cxrlines.training.targets.base import BatchOutputs, CodePart, FilmsSpec, Losses, Sums, Target
from cxrlines.training.targets.maps import KINDS, LINE_PIXELS, MapKinds

if TYPE_CHECKING:
    from torch import Tensor


_NAMES = [kind.value for kind, _ in MAPS]
_PLACES = {kind: slice(_NAMES.index(kind), _NAMES.index(kind) + _NAMES.count(kind)) for kind in _NAMES}
"""The heatmaps of a kind, which lie side by side: slices, since a list of channels makes a GPU wait."""


class Taught(NamedTuple):
    """What a stage that learns heatmaps can teach: its kinds, the size of its films, and whether it saw flips.

    Of a file, size and flips may not be known (None).
    """

    kinds: tuple[str, ...]
    size: Size | None
    flips: bool | None


class SoftMapTarget(Target):
    """Heatmaps that frozen networks find on the film: stages of the recipe, or a file of weights.

    A stage is that which holds out the same fold, so that nobody a student is judged on was seen by its teacher. Films
    of every set have them, annotated or not; `maps` beside them teaches annotated films the ground truth as well.
    """

    key = "soft_maps"
    classifies = False
    reads_maps = True

    # a member (its last stage), or member/stage; of several, the mean
    of: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    # weights.safetensors of a run, or of a bundle beside its bundle.json; `{fold}` in it: the fold held out. It sees
    # films of this stage's size, and teaches flipped ones where it was trained with flips.
    file: str | None = None
    ancestry: Literal["trusted"] | None = None  # of file, as in a start from a file
    kinds: MapKinds = KINDS  # which heatmaps are learnt

    @model_validator(mode="after")
    def _agrees(self) -> "SoftMapTarget":
        if (self.of is None) == (self.file is None):
            raise ValueError("name either `of`, a stage or several, or `file`, weights of a network with heatmaps")
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError(f"of is {', '.join(self.teachers)}: name each once")
        if self.ancestry and not self.file:
            raise ValueError("ancestry is that of a file; that of a stage is known")
        return self

    @property
    def teachers(self) -> tuple[str, ...]:
        """The members, or `member/stage`, whose heatmaps are averaged; none where they are a file's."""
        return (self.of,) if isinstance(self.of, str) else self.of or ()

    def file_of(self, fold: int) -> Path | None:
        """The weights that teach a step which holds out `fold`."""
        return Path(self.file.replace("{fold}", str(fold))) if self.file else None

    def check(self, films: FilmsSpec, earlier: Mapping[str, FilmsSpec]) -> None:
        super().check(films, earlier)
        if films.view == "overlay" or films.maps_of:
            raise ValueError(
                "targets.soft_maps: a stage that is shown lines or heatmaps cannot learn to find them; use view: plain "
                "without maps_of"
            )

    def check_teachers(self, student: Taught, known: Mapping[str, Taught]) -> None:
        """`ValueError`, from the field's name on, where a teacher has not what this `student` is to learn.

        `known`: the stages that learn heatmaps, as `member/stage`, and the members whose last stage does.
        """
        for name in self.teachers:
            if name not in known:
                able = ", ".join(known) or "none, no stage has targets.maps"
                raise ValueError(
                    f"targets.soft_maps.of is {name!r}; stages that learn heatmaps: {able}{did_you_mean(name, known)}"
                )
            self._check_kinds(name, known[name])
            check_films(f"targets.soft_maps.of is {name!r}", known[name], student)

    def check_file(self, student: Taught, teacher: Taught) -> None:
        """As `check_teachers` for the network of `file`.

        Of a `teacher` whose films' size is not known any is taken; flips that are not known are refused.
        """
        self._check_kinds(str(self.file), teacher)
        check_films(f"targets.soft_maps.file is {self.file!r}", teacher, student)

    def _check_kinds(self, name: str, teacher: Taught) -> None:
        if lacking := [kind for kind in self.kinds if kind not in teacher.kinds]:
            raise ValueError(
                f"targets.soft_maps.kinds names {', '.join(lacking)}, but {name} learns "
                f"{', '.join(teacher.kinds) or 'none'}; name what it learns"
            )

    def losses(self, outputs: BatchOutputs, batch: Mapping[str, Any]) -> Losses:
        kinds = [kind for kind in self.kinds if kind in outputs.map_kinds]
        return soft_maps_loss(outputs.all_maps, outputs.teacher_maps, kinds)

    def describe(self) -> tuple[str, str]:
        return f"heatmaps of {' and '.join(self.teachers) or Path(self.file or '').name}", "soft maps"

    def code(self) -> tuple[CodePart, ...]:
        return (
            *super().code(),
            CodePart("training/targets/maps.py", ("LINE_PIXELS",)),
            CodePart("recipe/run/map_teachers.py"),
        )


def check_films(what: str, teacher: Taught, student: Taught) -> None:
    """`ValueError`, from `what` on, where a frozen network would be shown films of another size, or flips it never saw.

    `student`: the stage whose films it reads.
    """
    if teacher.size and student.size and teacher.size != student.size:
        raise ValueError(
            f"{what}, which sees {size_text(teacher.size)}, and this stage {size_text(student.size)}: both read the "
            "same film, make it one size"
        )
    if student.flips and teacher.flips is None:
        raise ValueError(
            f"{what}, of which nothing says whether it was trained with flips, and this stage flips films: a network "
            "that never saw a flipped film misreads one; set films.flip: false, or name the file where it was made, in "
            "its run's folder or beside its bundle.json"
        )
    if student.flips and not teacher.flips:
        raise ValueError(
            f"{what}, which was trained without flips, and this stage flips films: a network that never saw a flipped "
            "film misreads one; make films.flip the same"
        )


def soft_maps_loss(logits: "Tensor", wanted: "Tensor", kinds: Sequence[str] = KINDS) -> Losses:
    """Loss of the heatmaps of some kinds towards a teacher's, in weighted parts.

    `logits` and `wanted` (probabilities) are (batch, maps, height, width) in `task.MAPS` order. Every part is 0, and
    without slope, where both are the same. Lines: the Kullback-Leibler divergence, a mean over pixels times
    `LINE_PIXELS`, and the Dice loss with squared sizes (Milletari et al., 2016, V-Net), which unlike the common one is
    least at the teacher's own values; for each device over all films of the batch. Keypoints: the quality focal loss
    (Li et al., 2020, Generalized focal loss, beta 2), a film and map; of a sure teacher it is that of `maps_loss`.
    """
    import torch
    from torch.nn import functional

    predicted = torch.sigmoid(logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    parts: Losses = []
    if MapKind.LINE in kinds:
        some = _PLACES[MapKind.LINE]
        truth, off = wanted[:, some], (predicted - wanted)[:, some].square().sum(dim=(0, 2, 3))
        divergence = (entropy[:, some] - torch.special.entr(truth) - torch.special.entr(1 - truth)).mean(dim=(2, 3))
        sizes = (predicted[:, some].square() + truth.square()).sum(dim=(0, 2, 3))
        dice = Sums(off, sizes, truth.sum(dim=(0, 2, 3)), smooth=1.0)
        parts += [(LINE_PIXELS, Sums.mean(divergence.sum(), divergence.numel())), (1.0, dice)]
    if points := [_PLACES[kind] for kind in kinds if kind != MapKind.LINE]:
        focal = ((predicted - wanted).square() * entropy).sum(dim=(2, 3))
        some_focal = torch.cat([focal[:, place] for place in points], dim=1)
        parts.append((1.0, Sums.mean(some_focal.sum(), some_focal.numel())))
    return parts
