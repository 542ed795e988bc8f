"""The fields of a recipe that say where films come from, whose patients they show and which are left out."""

from typing import Annotated

from pydantic import AfterValidator

from cxrlines.io.patients import BARE, SITE
from cxrlines.io.prepare import LeaveOut
from cxrlines.training.targets.base import Strict


def _is_key(name: str) -> str:
    if not name.replace("-", "").isalnum() or name != name.lower() or name == BARE or name.startswith(f"{SITE}-"):
        raise ValueError(f"allowed: {SITE}, or the name of a public data set, in small letters, digits and -")
    return name


PatientKey = Annotated[str, AfterValidator(_is_key)]
"""Under which key patients are hashed (`data.patients`): `site`, or a published one: a public data set's name."""


class QualitySpec(Strict):
    """How films are assessed and righted as the store is made, and which are left out of training (docs/quality.md).

    `probe` is `box` (the one that ships), `none` (rules alone), or a file that `cxrlines quality` wrote. Test films are
    predicted whatever they are.
    """

    probe: str = "box"
    leave_out: LeaveOut = "not-films"  # or nothing; or doubtful: turned, inverted, unsure and cropped ones as well


class ExternalSpec(Strict):
    """Films besides the own set: NIH, PadChest, VinBigData, CheXpert as distributed, or a folder like the own one.

    The folder is usually given on the command line: `--external NAME=FOLDER`.
    """

    folder: str | None = None
    laterals: bool = False
    children: bool = False
    # none: NIH, PadChest, VinBigData, CheXpert are public, all others are the site's
    patients: PatientKey | None = None
