"""What each claim of the write-up, masks and retrieval are worth on the phantom: `cxrlines experiment claims`.

Each seed is a world of its own: own training films, own external films, own test patients, own folds, own draws in
training. A claim is a difference of macro AUC between two members on the same test films, one for each seed. Its mean
comes with two intervals: Student's t over the seeds, which holds all that varies between worlds and is wide for three;
and resampled patients with the trained networks as they are. Test films choose nothing: each member's last weights
count.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cxrlines.core.errors import Error
from cxrlines.core.files import write_text
from cxrlines.lab.experiments.comparisons import BEFORE, BLEND, BLENDED, CLAIMS, COMPARISONS, NEAR
from cxrlines.lab.experiments.retrieval import write_retrieval
from cxrlines.lab.experiments.table import Table, read_table
from cxrlines.phantom.dataset import write_phantom
from cxrlines.recipe.run.train import train
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.recipe import Recipe

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Films:
    """The benchmark's films, of natural label frequencies; site b is the external set."""

    own: int = 900
    external: int = 600
    test: int = 1000
    size: int = 320
    difficulty: float = 0.3
    annotated: float = 0.3

    def write(self, root: Path, seed: int, workers: int | None) -> tuple[Path, Path]:
        """The folders of the own and the external films of one world."""
        own, external = root / "own", root / "b"
        more: dict[str, Any] = {"size": self.size, "difficulty": self.difficulty, "workers": workers}
        write_phantom(own, studies=self.own, test=self.test, seed=1000 + seed, annotated=self.annotated, **more)
        write_phantom(external, studies=self.external, test=0, seed=2000 + seed, annotated=0.0, site="b", **more)
        return own, external


def run_claims(
    out: Path,
    *,
    seeds: Sequence[int] = SEEDS,
    claims: Sequence[int] = CLAIMS,
    films: Films | None = None,
    settings: Sequence[str] = (),
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> Table:
    """Train what the `claims` need on every seed, claim by claim, and write the table of all that is there.

    Killed and called again, it goes on where it was; claims and seeds may be done in parts. `films` and `settings`
    (laid over the recipe) shrink it for a test. `Error` for a claim that does not exist, or for other films or
    settings than those the folder was begun with.
    """
    if strange := [claim for claim in claims if claim not in CLAIMS]:
        raise Error(f"--claims names {strange}", f"there are {', '.join(map(str, CLAIMS))}")
    films = films or Films()
    _same(out / "films.json", asdict(films) | {"settings": list(settings)})
    with resources.as_file(resources.files("cxrlines.lab.experiments") / "claims.yaml") as path:
        text = str(path)
        for claim in claims:
            for seed in seeds:
                world = out / f"seed{seed}"
                own, external = films.write(world / "data", seed, workers)
                laid = [*settings, f"seed={seed}", f"folds.seed={seed}", f"external.b.folder={external}"]
                recipe = _only(load_recipe(text, laid), _members(claim))
                say(f"claim {claim}, seed {seed}: {', '.join(recipe.members)}")
                run = train(recipe, own, world / "run", workers=workers, command="cxrlines experiment claims", say=say)
                for member in _told_by_neighbours(claim):
                    write_retrieval(run, member, world / f"neighbours/{member}.csv")
    table = read_table(out)
    table.write(out)
    return table


def _same(path: Path, wanted: dict[str, Any]) -> None:
    if path.is_file():
        begun = json.loads(path.read_text())
        if begun != wanted:
            raise Error(f"{path.parent} was begun with films {begun}, not {wanted}", "give another --out")
        return
    write_text(path, json.dumps(wanted))


def _members(claim: int) -> set[str]:
    """The members a claim needs trained."""
    needed = {name for c in COMPARISONS if c.claim == claim for name in (c.arm, c.against)}
    members = {name.removeprefix(BEFORE).removeprefix(NEAR) for name in needed if not name.startswith(BLEND)}
    return members | set(BLENDED) if any(name.startswith(BLEND) for name in needed) else members


def _told_by_neighbours(claim: int) -> list[str]:
    """The members a claim asks for with their neighbours."""
    return [c.arm.removeprefix(NEAR) for c in COMPARISONS if c.claim == claim and c.arm.startswith(NEAR)]


def _only(recipe: Recipe, members: set[str]) -> Recipe:
    """The recipe with these members and those whose soft labels they learn."""
    for name in list(members):
        for stage in recipe.members[name].stages.values():
            if stage.targets.soft and stage.targets.soft.of:
                members = members | {recipe.source(stage.targets.soft.of)[0]}
    content = recipe.model_dump()
    content["members"] = {name: member for name, member in content["members"].items() if name in members}
    named = [name for name in recipe.ensemble.members if name.partition("/")[0] in members]
    content["ensemble"]["members"] = named
    return Recipe.model_validate(content)
