"""At which teacher self-distillation begins to pay, on the phantom: `cxrlines experiment distillation`.

A student learns from soft labels alone, of a teacher like itself that was trained on a third of the own films, on
two thirds, or on all of them. The first two never saw the films they label (nested cross-fitting in 3 or 6 folds);
the third labels the very films it learnt from, as published. Every student learns from as many films, and holds out
fold 0, which no teacher saw. It is compared with a plain member of as many passes, and with one of as much compute, the
teachers' included; on test films, seed by seed, as the claims are (`experiments.claims`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from cxrlines.core.files import write_text
from cxrlines.evaluation.predictions import write_predictions
from cxrlines.lab.experiments.claims import Films, check_begun, only
from cxrlines.lab.experiments.comparisons import Comparison, Row, read_rows, table_of
from cxrlines.recipe.run.folder import Run, StepId
from cxrlines.recipe.run.pipeline import train
from cxrlines.recipe.run.training_data import load_step, plain_view, predict_rows
from cxrlines.recipe.spec.load import load_recipe

RECIPE = str(Path(__file__).with_name("distillation.yaml"))
BUDGETS = (1, 4)
"""Times three epochs, of teacher and student alike."""
STUDENT = 600
"""Films that a student learns from."""


@dataclass(frozen=True)
class Teacher:
    """A kind of teacher: what it is called in files and rows, its folds, and what it costs with its student.

    Attributes:
        member: the student's name, before its budget.
        compute: passes of the student and of all its teachers, in those of the student.
    """

    number: int
    name: str
    text: str
    folds: int
    member: str
    compute: int

    def comparisons(self, budgets: Sequence[int]) -> list[Comparison]:
        """Its students against plain members."""
        rows = []
        for budget in budgets:
            for plain, what in ((budget, "as many passes"), (self.compute * budget, "as much compute")):
                question = f"teacher of {self.text}, budget {budget}, against {what}"
                rows.append(Comparison(self.number, question, f"{self.member}-{budget}", f"plain-{plain}", "?"))
        return rows


TEACHERS = (
    Teacher(1, "thirds", "a third of the films", 3, "self", 2),
    Teacher(2, "sixths", "two thirds of the films", 6, "self", 5),
    Teacher(3, "thirds", "all the films it labels", 3, "seen", 2),
)
"""`name` is the folder: teachers of as many folds share films and plain members."""


def run_distillation(
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    budgets: Sequence[int] = BUDGETS,
    teachers: Sequence[Teacher] = TEACHERS,
    student: int = STUDENT,
    films: Films = Films(),
    settings: Sequence[str] = (),
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Train all students, teachers and plain members on every seed, and write the table of all that is there.

    Called again it resumes; seeds may be done in parts. `student`, `films` and `settings` (laid over the recipe) shrink
    it for a test. `Error` for other films or settings than those the folder was begun with.
    """
    check_begun(out / "films.json", asdict(films) | {"student": student, "settings": list(settings)})
    rows: list[Row] = []
    for name, folds in dict.fromkeys((teacher.name, teacher.folds) for teacher in teachers):
        questions = [c for teacher in teachers if teacher.name == name for c in teacher.comparisons(budgets)]
        for seed in seeds:
            world = out / name / f"seed{seed}"
            own = replace(films, own=student * folds // (folds - 1)).write_own(world / "data", seed, workers)
            laid = [*settings, f"seed={seed}", f"folds.seed={seed}", f"folds.count={folds}"]
            train_on = partial(_train, own, world / "run", workers, say)
            members = {member for question in questions for member in (question.arm, question.against)}
            seen = {member: f"plain-{member.removeprefix('seen-')}" for member in members if member.startswith("seen-")}
            say(f"{name}, seed {seed}: {', '.join(sorted(members))}")
            run = train_on((members - seen.keys()) | {*seen.values()}, laid)
            if seen:
                train_on(members, [*laid, *_label_own(run, seen, world / "soft")])
        rows += read_rows(out / name, questions)
    rows.sort(key=lambda row: row.claim)
    write_text(out / "distillation.md", table_of(rows) + "\n")
    content = [asdict(row) | {"verdict": row.verdict} for row in rows]
    write_text(out / "distillation.json", json.dumps(content, indent=1) + "\n")
    return rows


def _train(
    own: Path, root: Path, workers: int | None, say: Callable[[str], None], members: set[str], settings: list[str]
) -> Run:
    """These members, fold 0 held out."""
    recipe, command = only(load_recipe(RECIPE, settings), members), "cxrlines experiment distillation"
    return train(recipe, own, root, folds=[0], workers=workers, command=command, say=say)


def _label_own(run: Run, seen: Mapping[str, str], folder: Path) -> list[str]:
    """Write the soft labels that teachers give the films they learnt from; settings that name each student's file."""
    settings = []
    for student, teacher in seen.items():
        (stage,) = run.recipe.members[teacher].stages
        key = StepId(teacher, (0,), stage)
        rows = run.films.training(run.recipe.members[teacher].stages[stage], key.held)
        labels = predict_rows(run.train, run.store, rows, load_step(run, key), plain_view(run.recipe, key.source))
        path = folder / f"{teacher}.csv"
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(labels, path)
        settings.append(f"members.{student}.stages.only.targets.soft.file={path}")
    return settings
