"""Pseudo-labels: what a bundle reads on unlabelled films in two views alike, as a data folder to train on.

The folder is in RANZCR's layout: `train.csv` (-1 where nothing is known), `train_annotations.csv`, `landmarks.csv` and
`train/`. Its `phantom.json` says which bundle labelled the films and whom that saw, which the guard of a run asks.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cxrlines.core.errors import Error, ReadingFault
from cxrlines.core.files import file_names
from cxrlines.core.findings import Findings
from cxrlines.core.pool import cores, in_processes
from cxrlines.core.text import plural
from cxrlines.io.films import read_film
from cxrlines.io.marks import backdrop_patient, patients_of
from cxrlines.reading.batch import FILMS_A_PROCESS, worker_reader
from cxrlines.reading.bundle import Bundle
from cxrlines.reading.engines.choice import computed_by, reads_on_gpu
from cxrlines.reading.journal import Journal, Reading
from cxrlines.reading.reader import Progress, Reader, guarded
from cxrlines.reading.results.pseudo_label_files import LabelledFilm, check_folder, write_films, write_origin
from cxrlines.reading.sources import Found, patient_of
from cxrlines.reading.training_patients import is_training_patient, training_patients
from cxrlines.reading.view_agreement import GAMMA, SCALE, TURN, Agreement, agreement, on_first, second_view
from cxrlines.task import Device

JOURNAL = "pseudo-labels.journal.jsonl"
UNREAD, REFUSED, TURNED = "cannot be read", "is no frontal chest film that can be read", "turned otherwise in a view"
NOTHING, SEEN = "the views agree on no device", "of a patient whom the bundle was trained on"


@dataclass
class Counts:
    """Films and lines kept, and left out by reason; `lines` by device as found, kept, and with an agreed tip."""

    films: int = 0
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    lines: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, found: Findings, agreed: Agreement) -> None:
        """Count the lines of a film that was read."""
        kept = [line.line for line in agreed.lines]
        for line in found.lines:
            counts = self.lines.setdefault(line.device.name, Counter())
            counts.update(["found", "kept"] if line in kept else ["found", agreed.doubts[line.device].value])
        for each in agreed.lines:
            self.lines[each.line.device.name]["tips"] += each.tip_seen

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        lines = {name: dict(sorted(self.lines[name].items())) for name in Device.__members__ if name in self.lines}
        return {"films": self.films, "kept": self.kept, "left_out": dict(sorted(self.left_out.items())), "lines": lines}

    def text(self) -> str:
        """Sentences, one a line."""
        texts = [f"{self.kept} of {self.films} films kept"]
        texts += [f"  left out: {count} x {reason}" for reason, count in sorted(self.left_out.items())]
        for name, counts in self.as_dict()["lines"].items():
            doubts = [f"{n} x {why}" for why, n in counts.items() if why not in ("found", "kept", "tips")]
            kept = f"{counts.get('kept', 0)} of {counts['found']} lines kept, {counts.get('tips', 0)} with their tips"
            texts.append(f"{name}: {kept}{''.join(f'; left out: {doubt}' for doubt in doubts)}")
        return "\n".join(texts)


def write_pseudo_labels(
    found: Found, bundle: Bundle, out: Path, *, keep_seen: bool = False, progress: Progress | None = None
) -> Counts:
    """Read films in two views each, and write what both agree on as a data folder; see `view_agreement`.

    A film is kept where at least one device is known. Readings go to a journal in `out`; the same call after a kill
    goes on there, and removes it at its end. Memory does not grow with the films, except by their names. Patients are
    those of an `index.csv` beside the films, else the PatientID of DICOM files, else each film is its own.

    Args:
        found: the films.
        out: the folder; its tables are replaced, where an earlier call wrote them.
        keep_seen: keep films of patients whom the bundle was trained on, or may have been, which the guard of a run
            then refuses.

    Raises:
        Error: `out` holds another data folder or one of the films, the bundle does not list its training patients or a
            film's patient is named by nobody (nor `keep_seen`), or no film is kept.
        BundleError: the bundle was exchanged meanwhile.
        JournalError: the journal in `out` is of another call.
        OutputError: the disk is full.
    """
    paths = [path for path, _ in found.films]
    check_folder(out, JOURNAL, paths)
    seen = training_patients(bundle)
    if seen is None and not keep_seen:
        raise Error(
            f"{bundle.folder}: does not list the patients that it was trained on: it may have seen any of these",
            "export it again with `cxrlines bundle`, or keep all films with --seen keep",
        )
    patients = _patients(found)
    unnamed = len(paths) - len(patients) if seen else 0
    if unnamed and not keep_seen:
        raise Error(
            f"{unnamed} of {plural(len(paths), 'film')}: neither an index.csv beside them nor a DICOM header names "
            f"their patients, whom {bundle.folder} may have been trained on",
            "name them in an index.csv of file and patient_id, or keep all films with --seen keep",
        )
    way = f"turned {TURN}, {SCALE} of its size, gamma {GAMMA}"
    settings = {"bundle": bundle.identity, "second view": way, "engine": computed_by(bundle)}
    journal = Journal(out / JOURNAL, [path for path in paths for _ in range(2)], settings, resume=True)
    with closing(journal):
        _read(paths, bundle, journal, progress)
        kept = _Kept(found, journal, patients, seen or frozenset(), leave_out=not keep_seen)
        count, counts = write_films(out, kept), kept.counts
        if not count:
            raise Error(f"no film is kept:\n{counts.text()}", "give other films, or another bundle")
        write_origin(out, count, _labelled_by(bundle, seen, unnamed), counts.as_dict())
        journal.remove()
    return counts


def _read(paths: Sequence[Path], bundle: Bundle, journal: Journal, progress: Progress | None) -> None:
    """Read what the journal lacks: of film k the plain view at place 2 k, the second one after it."""
    todo = [k for k in range(len(paths)) if 2 * k not in journal or 2 * k + 1 not in journal]
    done, work = len(paths) - len(todo), partial(_views_there, bundle.folder, bundle.identity)
    films = [paths[k] for k in todo]
    if cores() > 1 and len(films) >= FILMS_A_PROCESS * cores() and not reads_on_gpu():
        readings = in_processes(work, films, cores())
    else:
        reader = Reader(bundle, tta=(), batch_size=2)
        readings = ((index, both_views(reader, film)) for index, film in enumerate(films))
    if progress and done:
        progress(done, len(paths))
    for index, both in readings:
        died = ReadingFault(f"{films[index]}: a process that read it ended")
        for view, reading in enumerate(both or (died, died)):
            journal.add(2 * todo[index] + view, reading)
        done += 1
        if progress:
            progress(done, len(paths))
    journal.sync()


def _views_there(folder: Path, identity: str, film: Path) -> tuple[Reading, Reading]:
    return both_views(worker_reader(folder, identity, tta=(), batch_size=2, lines=True), film)


def both_views(reader: Reader, film: Path) -> tuple[Reading, Reading]:
    """A film's readings: plain, and as the second view in that view's own px; of one that cannot be read its error."""
    changed = guarded(str(film), lambda: second_view(read_film(film)).pixels)
    if isinstance(changed, Exception):
        return changed, changed
    one, other = reader.read_many([film, changed])
    return one, other


@dataclass(frozen=True)
class _Kept:
    """The films that are kept, in order, from their readings; a loop over it counts them.

    `patients`: of the films whose patient is named. `leave_out`: whether those of patients in `seen` are left out.
    """

    found: Found
    journal: Journal
    patients: Mapping[Path, str]
    seen: frozenset[str]
    leave_out: bool
    counts: Counts = field(default_factory=Counts)

    def __iter__(self) -> Iterator[LabelledFilm]:
        counts, films = self.counts, [path for path, _ in self.found.films]
        names = self.found.names(self._studies(films))
        ids = file_names(names.values(), "")
        for place, path in enumerate(films):
            counts.films += 1
            one, other = self.journal.reading(2 * place), self.journal.reading(2 * place + 1)
            known = _known(one, other)
            patient = self.patients.get(path) or ids[names[path]]
            by = next(
                (name for name in (patient, backdrop_patient(patient)) if is_training_patient(name, self.seen)), None
            )
            if by is not None and self.leave_out:
                counts.left_out[SEEN] += 1
            elif isinstance(known, str):
                counts.left_out[known] += 1
            else:
                assert isinstance(one, Findings)
                counts.add(one, known)
                if known.lines or known.absent:
                    counts.kept += 1
                    # The guard of a run knows a patient as the bundle does.
                    yield LabelledFilm(ids[names[path]], by or patient, path, known)
                else:
                    counts.left_out[NOTHING] += 1

    def _studies(self, films: Sequence[Path]) -> dict[Path, str]:
        """Path -> StudyInstanceUID, of the films that have one and can be used."""
        readings = ((path, self.journal.reading(2 * place)) for place, path in enumerate(films))
        used = ((path, one) for path, one in readings if isinstance(one, Findings) and one.quality.usable)
        return {path: one.study_uid for path, one in used if one.study_uid}


def _patients(found: Found) -> dict[Path, str]:
    """The patients of the films whose patient is named: by an `index.csv` beside them, or their DICOM header."""
    of_folder = {folder: patients_of(folder) for folder in {folder for _, folder in found.films}}
    named = ((path, patient_of(path, of_folder[folder])) for path, folder in found.films)
    return {path: patient for path, patient in named if patient}


def _labelled_by(bundle: Bundle, seen: frozenset[str] | None, unnamed: int) -> dict[str, Any]:
    """Which bundle labels films, and whom it was trained on, as `recipe.run.step_lineage` reads it.

    `unnamed`: of how many films nobody can say whether it saw their patients.
    """
    origins = {kind: bundle.manifest.meta.get(f"ancestry_{kind}") or [] for kind in ("unknown", "trusted")}
    if seen is None:
        origins["unknown"] = [*origins["unknown"], "it does not list the patients that it was trained on"]
    if unnamed:
        films = plural(unnamed, "film")
        origins["unknown"] = [*origins["unknown"], f"the patients of {films} that it labelled are not named"]
    return {"bundle": bundle.identity, "patients": sorted(seen or ()), **origins}


def _known(one: Reading, other: Reading) -> Agreement | str:
    """What two readings of a film agree on, or why it is left out."""
    if not isinstance(one, Findings) or not isinstance(other, Findings):
        return UNREAD
    if not one.quality.usable or not other.quality.usable:
        return REFUSED
    if (one.quality.rotation, one.quality.inverted) != (other.quality.rotation, other.quality.inverted):
        return TURNED
    return agreement(one, on_first(other))
