"""The recipe `hotwater` in small: its phantoms, public weights, and the recipe `hotwater-small` on them.

Site a is the own set. Three sets of site b stand for NIH, PadChest and VinBigData; some films of the first are
twins of own films, processed otherwise, as a part of NIH's are RANZCR's. The public weights come from a network trained
on other films of site b: a file whose ancestry this run does not know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxrlines.core.files import replacing
from cxrlines.io.films import read_film
from cxrlines.io.tables import read_dataset
from cxrlines.models.weights import load_weights, save_weights
from cxrlines.phantom.dataset import write_phantom
from cxrlines.recipe.run.pipeline import train
from cxrlines.recipe.spec.load import load_recipe

SETS = ("nih", "padchest", "vinbigdata")


@dataclass(frozen=True)
class Films:
    """Numbers of films: own, test, of each external set, twins in the first set, and behind the public weights."""

    own: int = 360
    test: int = 200
    external: int = 150
    twins: int = 15
    stranger: int = 150
    size: int = 320
    difficulty: float = 0.1
    seed: int = 0  # of all films, and of folds and training

    @classmethod
    def of(cls, own: int, test: int, seed: int = 0) -> "Films":
        """So many own and test films, the others in proportion."""
        usual = cls()
        counts = {name: round(getattr(usual, name) * own / usual.own) for name in ("external", "twins", "stranger")}
        return cls(own=own, test=test, seed=seed, **counts)


def run_small(
    out: Path,
    *,
    films: Films = Films(),
    settings: list[str] | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Make the films, train the public weights, train `hotwater-small`; the run's folder. Called again, resume."""
    data = out / "data"
    more: dict[str, Any] = {"size": films.size, "difficulty": films.difficulty, "balance": "even", "workers": workers}
    first = 1000 * films.seed
    write_phantom(data / "own", studies=films.own, test=films.test, seed=first, annotated=0.5, **more)
    for number, name in enumerate(SETS):
        write_phantom(data / name, studies=films.external, test=0, seed=first + 100 + number, site="b", **more)
    write_phantom(data / "stranger", studies=films.stranger, test=20, seed=first + 200, site="b", **more)
    plant_twins(data / "own", data / "nih", films.twins)

    say("public weights: one network, one stage, other films of site b")
    theirs = load_recipe("demo", ["folds.count=2", "members.baseline.stages.only.schedule.epochs=2", *(settings or [])])
    theirs = theirs.model_copy(update={"members": {"baseline": theirs.members["baseline"]}})
    train(theirs, data / "stranger", out / "stranger", folds=[0], workers=workers, say=say)
    public = out / "public.safetensors"
    # A stranger's file does not name its training patients.
    save_weights(public, load_weights(out / "stranger/baseline/fold0/only/weights.safetensors")[0], {})

    laid = [f"external.{name}.folder={data / name}" for name in SETS]
    laid.append(f"members.public.stages.nih.start.file={public}")
    laid += [f"seed={films.seed}", f"folds.seed={films.seed}"] if films.seed else []
    recipe = load_recipe("hotwater-small", [*laid, *(settings or [])])
    train(recipe, data / "own", out / "run", workers=workers, command="cxrlines experiment small", say=say)
    return out / "run"


def plant_twins(own: Path, other: Path, count: int) -> list[tuple[str, str]]:
    """Replace `count` films of `other` by films of `own`, windowed, cropped and re-encoded; (own, other) studies."""
    mine, theirs = read_dataset(own).studies, read_dataset(other).studies
    rng = np.random.default_rng(0)
    pairs = []
    chosen = rng.choice(len(mine), count, replace=False), rng.choice(len(theirs), count, replace=False)
    for a, b in zip(*chosen, strict=True):
        film = read_film(Path(mine["film"][a])).pixels.astype(np.float32) / 255
        top, left, bottom, right = (rng.uniform(0, 0.04, 4) * film.shape[0]).astype(int)
        film = film[top : len(film) - bottom, left : film.shape[1] - right]
        windowed = np.clip(film ** rng.uniform(0.8, 1.25) * rng.uniform(0.9, 1.1), 0, 1)
        small = cv2.resize((windowed * 255).astype(np.uint8), (256, 256), interpolation=cv2.INTER_AREA)
        encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
        with replacing(Path(theirs["film"][b])) as aside:
            aside.write_bytes(encoded.tobytes())
        pairs.append((mine["study"][a], theirs["study"][b]))
    return pairs
