"""A plan as text: what it comes to, then a line for each stage of each member, then what the estimate rests on."""

from collections.abc import Collection, Sequence

from cxrlines.core.text import plural
from cxrlines.lab.price.estimate import WITHIN, Estimate, gigabytes
from cxrlines.recipe.run.folder import Role, Step, StepId
from cxrlines.recipe.run.plan import files_of
from cxrlines.recipe.spec.recipe import Recipe, Source
from cxrlines.recipe.spec.stage import FileStart
from cxrlines.training.targets.base import OWN, TEST_SET

_COLUMNS = {
    "member": "<", "stage": "<", "steps": ">", "done": ">", "epochs": ">", "films": ">", "which": "<", "GPU h": ">",
    "GPU memory": ">", "disk": ">", "made from": "<",
}  # fmt: skip
"""Column -> its alignment."""
_TAKEN = {
    Role.START: "",
    Role.TEACHER: "features of ",
    Role.SOFT: "soft labels of ",
    Role.SOFT_MAPS: "heatmaps of ",
    Role.MAPS: "seen with heatmaps of ",
}
"""What a stage takes from a parent."""


def plan_text(
    recipe: Recipe,
    steps: Sequence[Step],
    price: Estimate,
    done: Collection[StepId] = (),
    notes: Sequence[str] = (),
) -> str:
    """The totals of a plan, notes, and its table; `done`: the steps of the plan that are finished."""
    planned: dict[Source, list[Step]] = {}
    for step in steps:
        planned.setdefault(step.key.source, []).append(step)
    stages = [source for source in recipe.sources() if source in planned]
    members = {source.member for source in stages}
    counts = (plural(len(members), "member"), plural(len(stages), "stage"), plural(len(steps), "step"))
    left = sum(cost.hours for key, cost in price.steps.items() if key not in done)
    state, gpu = max(cost.state for cost in price.steps.values()), price.gpu
    lines = [
        f"{recipe.name}: {', '.join(counts)}{f', {len(done)} of them done' if done else ''}",
        f"  {_hours(price.hours)} GPU h on one {gpu.name} (assumed, whatever this machine has), to a factor of"
        f" {WITHIN:g}{f'; {_hours(left)} of them to do' if done else ''}",
        f"  {gigabytes(price.memory)} of GPU memory for the largest step",
        f"  {gigabytes(price.disk)} on disk, {gigabytes(price.store)} of it films; {gigabytes(state)} more for each"
        " step while it trains",
    ]
    if price.memory > gpu.memory:
        needed, there = gigabytes(price.memory), gigabytes(gpu.memory)
        lines.append(f"  {needed} do not fit into {there}: lower schedule.batch or size")
    lines += [f"  note: {note}" for note in notes]
    rows, before = [{name: name for name in _COLUMNS}], ""
    for source in stages:
        member = "" if source.member == before else source.member
        rows.append({"member": member, **_row(recipe, planned[source], price, done)})
        before = source.member
    shown = [name for name in _COLUMNS if name != "done" or done]
    wide = {name: max(len(row[name]) for row in rows) for name in shown}
    table = ["  ".join(f"{row[name]:{_COLUMNS[name]}{wide[name]}}" for name in shown).rstrip() for row in rows]
    meaning = ["films: of a step, the mean of the folds; GPU h and disk: of all steps; GPU memory: of the largest"]
    if any(step.fold is None for step in steps):
        meaning.append("steps a+b: a of the folds, b nested ones, which only make soft labels or heatmaps for others")
    return "\n".join([*lines, "", *table, "", *meaning, price.basis()])


def _row(recipe: Recipe, steps: Sequence[Step], price: Estimate, done: Collection[StepId]) -> dict[str, str]:
    """The line of a stage, of which `steps` are all; by column."""
    outer = [step for step in steps if step.fold is not None]
    like = outer or steps
    costs = [price.steps[step.key] for step in steps]
    source = steps[0].key.source
    stage = recipe.spec(source)
    which = {OWN: stage.films.which, TEST_SET: "test"}.get(stage.films.set, stage.films.set)
    return {
        "stage": source.stage,
        "steps": f"{len(outer)}+{len(steps) - len(outer)}" if len(steps) > len(outer) else f"{len(outer)}",
        "done": str(sum(step.key in done for step in steps)),
        "epochs": f"{stage.schedule.epochs:g}",
        "films": f"{sum(step.films for step in like) / len(like):,.0f}",
        "which": which + (", overlay" if stage.films.view == "overlay" else ""),
        "GPU h": f"{sum(cost.hours for cost in costs):,.2f}",
        "GPU memory": gigabytes(max(cost.memory for cost in costs)),
        "disk": gigabytes(sum(cost.disk for cost in costs)),
        "made from": ", ".join(_made_from(recipe, like[0])),
    }


def _made_from(recipe: Recipe, step: Step) -> list[str]:
    """What a step starts from, and what it takes from other stages and from files."""
    stage = recipe.spec(step.key.source)
    taken: dict[str, list[str]] = {}
    if not step.parent(Role.START):
        taken[""] = [stage.start.file if isinstance(stage.start, FileStart) else stage.start]
    for role, source in dict.fromkeys((parent.role, parent.key.source) for parent in step.parents):
        name = source.stage if source.member == step.key.member else str(source)
        shift = f" of fold k+{stage.fold_shift}" if role is Role.START and stage.fold_shift else ""
        taken.setdefault(_TAKEN[role], []).append(f"{name}{shift}")
    for key, path in files_of(stage, step.key.held[0]).items():
        if key != "start":
            taken.setdefault(_TAKEN[Role.SOFT if key == "targets.soft" else Role.SOFT_MAPS], []).append(str(path))
    return [f"{what}{' and '.join(names)}" for what, names in taken.items()]


def _hours(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 else f"{count:.1f}" if count >= 1 else f"{count:.2f}"
