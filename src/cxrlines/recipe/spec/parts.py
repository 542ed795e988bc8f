"""The parts of a recipe beside its members: where films come from and which are left out, folds, trackers."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cxrlines.io.patients import BARE, SITE
from cxrlines.io.prepare import LeaveOut
from cxrlines.tracking.settings import TrackingSettings
from cxrlines.training.targets.base import Strict


def key_of_patients(name: str) -> str:
    """The name, if it may be that of a patient key; else `ValueError`."""
    if not name.replace("-", "").isalnum() or name != name.lower() or name == BARE or name.startswith(f"{SITE}-"):
        raise ValueError(f"allowed: {SITE}, or the name of a public data set, in small letters, digits and -")
    return name


PatientKey = Annotated[str, AfterValidator(key_of_patients)]
"""Under which key patients are hashed (`data.patients`): `site`, or a published one: a public data set's name."""


class QualitySpec(Strict):
    """How films are assessed and turned upright in the store, and which are left out of training (docs/quality.md).

    `probe` is `embedded`, `none` (rules alone), or a file that `cxrlines quality` wrote. Test films are predicted
    whatever they are.
    """

    probe: str = "embedded"  # embedded, none or a file
    # not-films: pictures that are no frontal chest film; doubtful: turned, inverted, unsure and cropped films too
    leave_out: LeaveOut = "not-films"


class ExternalSpec(Strict):
    """Films besides the own set: NIH, PadChest, VinBigData, CheXpert as distributed, or a folder like the own one.

    The folder is usually given on the command line: `--external NAME=FOLDER`.
    """

    folder: str | None = None  # folder of its films and tables
    laterals: bool = False  # take lateral films too
    children: bool = False  # take films of children too
    # own: its identifiers are those of the own films, and films of held-out patients are left out. site, or a public
    # name: its patients are others. none: NIH, PadChest, VinBigData, CheXpert are public, all others are the site's
    patients: Literal["own"] | PatientKey | None = None


class FoldsSpec(Strict):
    """Patient-disjoint folds, stratified by label: drawn with `count` and `seed`, or read from `file`."""

    file: str | None = None  # a table as `cxrlines folds` writes it; null: folds are drawn
    count: Annotated[int, Field(ge=2, le=50)] = 5  # number of folds to draw
    seed: Annotated[int, Field(ge=0)] = 0  # seed of the draw


class TrackingSpec(Strict):
    """Trackers of a run; see `tracking.settings.TrackingSettings`. Nothing of it changes what is trained."""

    # trackers that get the figures
    use: tuple[Literal["tensorboard", "csv", "mlflow", "neptune", "wandb"], ...] = ("tensorboard",)
    project: str = "cxrlines"  # project name in the trackers
    mlflow: str | None = None  # address of an MLflow server; null: SQLite in the run's folder
    # address of a self-hosted Neptune server; null: offline (the hosted service ended in March 2026)
    neptune: str | None = None
    wandb: str = "offline"  # offline, online, or the address of a self-hosted server
    # seconds after which a tracker that hangs at the end is killed
    patience_s: Annotated[float, Field(gt=0, le=3600)] = 60.0

    def settings(self, root: Path) -> TrackingSettings:
        """With what all steps of the run in `root` share in there."""
        return TrackingSettings(**self.model_dump(), root=str(root / "tracking"))
