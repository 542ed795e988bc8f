"""The claims of the write-up, masks and retrieval, tested on the phantom: `cxrlines experiment claims`.

Each seed is a world of its own: own training films, own external films, own test patients, own folds, own draws in
training. A claim is a difference of macro AUC between two members on the same test films, one for each seed. Its mean
comes with two intervals: Student's t over the seeds, which holds all that varies between worlds and is wide for three;
and resampled patients with the trained networks as they are. Test films choose nothing: each member's last weights
count.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxrlines.core.errors import Error
from cxrlines.core.files import write_text
from cxrlines.lab.experiments.comparisons import CLAIMS, Row, members_of, read_rows, with_neighbours, write_rows
from cxrlines.lab.experiments.neighbour_members import write_retrieval
from cxrlines.phantom.dataset import write_phantom
from cxrlines.recipe.run.pipeline import train
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.recipe import Recipe

RECIPE = str(Path(__file__).with_name("claims.yaml"))
"""The members that are compared."""


@dataclass(frozen=True)
class Films:
    """The benchmark's films, of natural label frequencies; the external sets b and c are of site b."""

    own: int = 900
    external: int = 600
    test: int = 1000
    size: int = 320
    difficulty: float = 0.3
    annotated: float = 0.3

    def write(self, root: Path, seed: int, workers: int | None) -> dict[str, Path]:
        """The folders of the films of one world, `own` and each external set."""
        folders = {"own": self.write_own(root, seed, workers)}
        for name, first_seed in (("b", 2000), ("c", 3000)):
            folders[name] = root / name
            options = self._options(workers) | {"annotated": 0.0, "site": "b"}
            write_phantom(folders[name], studies=self.external, test=0, seed=first_seed + seed, **options)
        return folders

    def write_own(self, root: Path, seed: int, workers: int | None) -> Path:
        """The folder of the own films of one world, test films among them."""
        options = self._options(workers) | {"annotated": self.annotated}
        write_phantom(root / "own", studies=self.own, test=self.test, seed=1000 + seed, **options)
        return root / "own"

    def _options(self, workers: int | None) -> dict[str, Any]:
        return {"size": self.size, "difficulty": self.difficulty, "workers": workers}


def run_claims(
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    claims: Sequence[int] = CLAIMS,
    films: Films = Films(),
    settings: Sequence[str] = (),
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Train what the `claims` need on every seed, claim by claim, and write the table of all that is there.

    Called again it resumes; claims and seeds may be done in parts. `films` and `settings` (laid over the recipe) shrink
    it for a test. `Error` for a claim that does not exist, or for other films or settings than those the folder was
    begun with.
    """
    if strange := [claim for claim in claims if claim not in CLAIMS]:
        raise Error(f"--claims names {strange}", f"there are {', '.join(map(str, CLAIMS))}")
    check_begun(out / "films.json", asdict(films) | {"settings": list(settings)})
    for claim in claims:
        for seed in seeds:
            world = out / f"seed{seed}"
            folders = films.write(world / "data", seed, workers)
            own = folders.pop("own")
            external = [f"external.{name}.folder={folder}" for name, folder in folders.items()]
            seeded = [*settings, f"seed={seed}", f"folds.seed={seed}", *external]
            recipe = only(load_recipe(RECIPE, seeded), members_of(claim))
            say(f"claim {claim}, seed {seed}: {', '.join(recipe.members)}")
            run = train(recipe, own, world / "run", workers=workers, command="cxrlines experiment claims", say=say)
            for member in with_neighbours(claim):
                write_retrieval(run, member, world / f"neighbours/{member}.csv")
    rows = read_rows(out)
    write_rows(rows, out)
    return rows


def check_begun(path: Path, wanted: dict[str, Any]) -> None:
    """Write what a folder is begun with; `Error` if it was begun with something else."""
    begun = json.loads(path.read_text()) if path.is_file() else wanted
    if begun != wanted:
        raise Error(f"{path.parent} was begun with films {begun}, not {wanted}", "give another --out")
    write_text(path, json.dumps(wanted))


def only(recipe: Recipe, members: set[str]) -> Recipe:
    """The recipe with these members and those that they start from or learn soft labels of, and so on."""
    while True:
        sources = [source for source in recipe.sources() if source.member in members]
        parents = {parent.member for source in sources for parent in recipe.parents(source)}
        if parents <= members:
            break
        members = members | parents
    content = recipe.model_dump()
    content["members"] = {name: member for name, member in content["members"].items() if name in members}
    content["ensemble"]["members"] = [n for n in recipe.ensemble.members if n.partition("/")[0] in members]
    return Recipe.model_validate(content)
