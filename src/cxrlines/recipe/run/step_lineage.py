"""What a step is made from and which patients it sees; refused before it trains, if it is scored on one of them.

Identifiers may be corrected after a training, test films and their patients come later, and the key of the patients
change: what finished steps have of all that is renewed on every run.
"""

import json
from collections.abc import Sequence

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.files import write_text
from cxrlines.io.patients import PSEUDO
from cxrlines.io.tables import META_FILE, Dataset
from cxrlines.models.weights import load_weights, save_weights
from cxrlines.recipe.run.folder import (
    LINEAGE,
    LINEAGE_ENTRY,
    RECORD,
    WEIGHTS,
    Role,
    Run,
    Step,
    StepId,
    lineage_of,
)
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.training.lineage import TRUSTED, LeakError, Lineage, UntracedError
from cxrlines.training.targets.base import OWN


def made_from(run: Run, step: Step, stage: StageSpec, rows: np.ndarray, adopted: str | None) -> Lineage:
    """The lineage of a step that trains on `rows`, and starts from the weights adopted (`Adoption.source`), if any."""
    parents = {parent.name: run.lineage(parent.key) for parent in step.parents}
    unknown: list[str] = []
    trusted: list[str] = []
    files = []
    if adopted and isinstance(stage.start, FileStart):
        files.append((Role.START, stage.start.of(step.key.held[0]), adopted, stage.start.ancestry))
    if (maps := stage.targets.soft_maps) and (file := maps.file_of(step.key.held[0])):
        files.append((Role.SOFT_MAPS, file, f"heatmaps by {file.name}", maps.ancestry))
    for role, path, source, ancestry in files:
        trusts = ancestry == TRUSTED
        gaps = [source]
        if earlier := lineage_of(path):
            scored = _identifiers(run, run.films.own, run.films.held(step.key.held)) | _identifiers(run, run.test)
            gaps = [f"{source}: {gap}" for gap in earlier.gaps(scored, run.recipe.patients)]
            parents[role] = earlier.trusting() if trusts else earlier
        (trusted if trusts else unknown).extend(gaps)
    if (soft := stage.targets.soft) and (file := soft.file_of(step.key.held[0])):
        (trusted if soft.ancestry == TRUSTED else unknown).append(f"soft labels of {file.name}")
    if bundle := _labelled_by(run, stage.films.set):
        scored = _identifiers(run, run.films.own, run.films.held(step.key.held)) | _identifiers(run, run.test)
        unknown += [f"{bundle.step}: {gap}" for gap in bundle.gaps(scored, run.recipe.patients)]
        parents[PSEUDO] = bundle
    if stage.films.set == OWN:
        patients = run.groups.tokens(run.films.own.studies["patient"].iloc[rows].astype(str))
    else:
        patients = run.external[stage.films.set][0].tokens(rows, run.groups)
    return Lineage(
        step.name,
        frozenset(patients),
        tuple(parents.items()),
        tuple(unknown),
        tuple(trusted),
        pseudo_labelled=stage.films.pseudo_labels is not None,
    )


def _labelled_by(run: Run, name: str) -> Lineage | None:
    """The lineage of the bundle that labelled a set of films; None where people, or a phantom, did."""
    meta = run.films.own.meta if name == OWN else run.external[name][0].meta
    if meta.get("kind") != PSEUDO:
        return None
    try:
        by = meta["labelled_by"]
        patients, unknown, trusted = ([str(each) for each in by[name]] for name in ("patients", "unknown", "trusted"))
        return Lineage(f"bundle {by['bundle'][:12]}", frozenset(patients), (), tuple(unknown), tuple(trusted))
    except (KeyError, TypeError):
        where = run.data / META_FILE if name == OWN else f"external.{name}: its {META_FILE}"
        raise Error(
            f"{where}: does not say whom the bundle that labelled these films was trained on",
            "make the folder again with `cxrlines pseudo-label`",
        ) from None


def renew_lineages(run: Run, steps: Sequence[Step]) -> list[str]:
    """Renew what finished steps have of their patients; the names of those whose lineage changed. Trains nothing.

    `steps` are a plan's, parents first. A step waits for a parent that is not finished. What was seen of the patients
    scored now is recorded: under guard: refuse such a step counts as not done, and is refused when it is begun.
    """
    renewed: list[str] = []
    finished: set[StepId] = set()
    for step in steps:
        record = run.record(step.key)
        if record.get("identity") != step.identity or not {parent.key for parent in step.parents} <= finished:
            continue
        finished.add(step.key)
        stage, lineage = run.recipe.spec(step.key.source), run.lineage(step.key)
        adopted = record["weights"]["source"] if isinstance(stage.start, FileStart) else None
        anew = made_from(run, step, stage, run.films.training(stage, step.key.held), adopted)
        if _says(anew) != _says(lineage):
            _write_lineage(run, step, lineage := anew)
            renewed.append(step.name)
        said = lineage_record(lineage) | {
            "leak": _leak_text(_held_out_leak(run, lineage, run.films.held(step.key.held))),
            "test_leak": _leak_text(_test_leak(run, lineage)),
        }
        if record | said != record:
            write_text(run.folder(step.key) / RECORD, json.dumps(record | said, indent=1))
    return renewed


def _says(lineage: Lineage) -> object:
    """What of a lineage makes it another one. Names of files do not: they may be moved."""
    patients = {(ancestor.step, ancestor.patients) for _, ancestor in lineage.walk()}
    return patients, len(lineage.untraced()), len(lineage.vouched_for())


def _write_lineage(run: Run, step: Step, lineage: Lineage) -> None:
    """Put a lineage in the place of a finished step's. Its own file is last: by it a killed try is known."""
    weights = run.folder(step.key) / WEIGHTS
    tensors, header = load_weights(weights)
    save_weights(weights, tensors, header | {LINEAGE_ENTRY: lineage.text()})
    write_text(run.folder(step.key) / LINEAGE, lineage.text())


def lineage_record(lineage: Lineage) -> dict[str, list[str]]:
    """What a step's record says of its lineage."""
    return {
        "unknown": lineage.untraced(),
        "trusted": lineage.vouched_for(),
        "pseudo_labels": lineage.pseudo_labels(),
    }


def refuse_held_out(run: Run, lineage: Lineage, held_out: np.ndarray) -> str | None:
    """Refuse a step whose ancestry saw patients of the own films it holds out (rows).

    With guard: report, return what the leak is instead.

    Raises:
        LeakError: it saw one of them, or may have seen one.
    """
    return _refused(run, _held_out_leak(run, lineage, held_out))


def refuse_test(run: Run, lineage: Lineage) -> str | None:
    """As `refuse_held_out` for the test films, which may be seen under soft labels where a stage allows it."""
    return _refused(run, _test_leak(run, lineage))


def _held_out_leak(run: Run, lineage: Lineage, held_out: np.ndarray) -> LeakError | None:
    return _leak(run, lineage, _identifiers(run, run.films.own, held_out))


def _test_leak(run: Run, lineage: Lineage) -> LeakError | None:
    if run.test is None:
        return None
    return _leak(run, lineage, _identifiers(run, run.test), pseudo_labelled=run.recipe.allows_pseudo_labels)


def _leak(run: Run, lineage: Lineage, patients: set[str], *, pseudo_labelled: bool = False) -> LeakError | None:
    try:
        lineage.refuse_seen(patients, run.recipe.patients, pseudo_labelled=pseudo_labelled)
    except LeakError as error:
        return error
    return None


def _refused(run: Run, leak: LeakError | None) -> str | None:
    if leak and run.recipe.guard == "refuse":
        raise leak
    return _leak_text(leak)


def _leak_text(leak: LeakError | None) -> str | None:
    """What a record says of a leak; of what is unknown nothing, as the lineage itself lists it."""
    return None if leak is None or isinstance(leak, UntracedError) else str(leak)


def _identifiers(run: Run, dataset: Dataset | None, rows: np.ndarray | None = None) -> set[str]:
    """All identifiers of the patients of some rows, or of all."""
    if dataset is None:
        return set()
    patients = dataset.studies["patient"].astype(str)
    return run.groups.identifiers(patients if rows is None else patients.iloc[rows])
