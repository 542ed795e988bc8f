"""What a step is made from and which patients it sees; refused before it trains, if it is scored on one of them."""

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.io.patients import PSEUDO
from cxrlines.io.tables import META_FILE, Dataset
from cxrlines.models.adopt import Adoption
from cxrlines.recipe.run.folder import Role, Run, Step, lineage_of
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.training.lineage import TRUSTED, LeakError, Lineage, UntracedError
from cxrlines.training.targets.base import OWN


def made_from(run: Run, step: Step, stage: StageSpec, rows: np.ndarray, adoption: Adoption | None) -> Lineage:
    """The lineage of a step that trains on `rows`, and starts from the weights adopted, if any."""
    parents = {parent.name: run.lineage(parent.key) for parent in step.parents}
    unknown: list[str] = []
    trusted: list[str] = []
    files = []
    if adoption and isinstance(stage.start, FileStart):
        files.append((Role.START, stage.start.of(step.key.held[0]), adoption.source, stage.start.ancestry))
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


def refuse_held_out(run: Run, lineage: Lineage, held_out: np.ndarray) -> str | None:
    """Refuse a step whose ancestry saw patients of the own films it holds out (rows).

    With guard: report, return what the leak is instead.

    Raises:
        LeakError: it saw one of them, or may have seen one.
    """
    return _refuse_seen(run, lineage, _identifiers(run, run.films.own, held_out))


def refuse_test(run: Run, lineage: Lineage) -> str | None:
    """As `refuse_held_out` for the test films, which may be seen under soft labels where a stage allows it."""
    if run.test is None:
        return None
    return _refuse_seen(run, lineage, _identifiers(run, run.test), pseudo_labelled=run.recipe.allows_pseudo_labels)


def _refuse_seen(run: Run, lineage: Lineage, patients: set[str], *, pseudo_labelled: bool = False) -> str | None:
    try:
        lineage.refuse_seen(patients, run.recipe.patients, pseudo_labelled=pseudo_labelled)
    except LeakError as error:
        if run.recipe.guard == "refuse":
            raise
        return None if isinstance(error, UntracedError) else str(error)  # the lineage itself lists what is unknown
    return None


def _identifiers(run: Run, dataset: Dataset | None, rows: np.ndarray | None = None) -> set[str]:
    """All identifiers of the patients of some rows, or of all."""
    if dataset is None:
        return set()
    patients = dataset.studies["patient"].astype(str)
    return run.groups.identifiers(patients if rows is None else patients.iloc[rows])
