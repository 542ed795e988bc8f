"""The audit of a data folder: every problem at once, each with file, row and way out.

A film is decoded once, and assessed as it is for training and reading (`prepare.assess`). What has to be looked at
before training is a problem; what is odd about a film that is read all the same is a note.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from cxrlines.core.files import readable
from cxrlines.core.text import plural
from cxrlines.io import tables
from cxrlines.io.audit_state import AuditState, FilmNote
from cxrlines.io.film_audit import check_copies, check_films
from cxrlines.io.film_lookup import packed_as
from cxrlines.io.prepare import Probe
from cxrlines.io.rows import Problem
from cxrlines.io.table_audit import (
    check_annotations,
    check_folder,
    check_folds,
    check_landmarks,
    check_test,
    check_train,
)

SHOWN = 20
"""Problems of one kind that the text lists; JSON lists all."""


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        problems: Sorted by kind, file and row.
        counts: Of what was looked at.
        notes: Sorted by code and film.
        absent: Label table -> its absent columns of optional devices; these labels are unknown, which is no problem.
        odd: What is odd about tables, but no problem; sorted by kind, file and row.
    """

    problems: list[Problem]
    counts: dict[str, int]
    notes: list[FilmNote]
    absent: dict[str, list[str]] = field(default_factory=dict)
    odd: list[Problem] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON. `kinds` counts problems, `note_codes` notes; a row may have several problems."""
        return {
            "clean": not self.problems,
            "counts": self.counts,
            "kinds": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [asdict(problem) for problem in self.problems],
            "note_codes": dict(Counter(noted.note.code.value for noted in self.notes)),
            "notes": [{"film": noted.film} | noted.note.as_dict() for noted in self.notes],
            **({"absent_columns": self.absent} if self.absent else {}),
            **({"odd": [asdict(each) for each in self.odd]} if self.odd else {}),
        }

    def text(self) -> str:
        """For people: by kind, at most SHOWN of each; notes by code, with one film each."""
        lines = ["looked at: " + ", ".join(f"{name} {count:,}" for name, count in self.counts.items())]
        for kind, of_kind in groupby(self.problems, lambda problem: problem.kind):
            found = list(of_kind)
            rows = len({(problem.file, problem.row) for problem in found})
            lines += ["", f"{kind} ({len(found):,}{f' in {rows:,} rows' if rows < len(found) else ''})"]
            lines += ["  " + problem.text() for problem in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"  ... and {len(found) - SHOWN:,} more; --json lists all")
        if self.notes or self.absent or self.odd:
            lines += ["", "odd, but no problem (--json lists every film)"]
        for code, of_code in groupby(self.notes, lambda noted: noted.note.code):
            noted = list(of_code)
            lines.append(f"  {code.value} ({len(noted):,}), such as {readable(noted[0].film)}: {noted[0].note.text}")
        for table, columns in self.absent.items():
            lines.append(f"  {table}: has no column {', '.join(columns)}; these labels are unknown")
        lines += ["  " + each.text() for each in self.odd]
        return "\n".join([*lines, "", plural(len(self.problems), "problem") if self.problems else "no problems"])


def audit(root: Path, folds: Path | None = None, workers: int = 1, probe: Probe | None = None) -> Audit:
    """Check everything in a data folder (see `read_dataset` for its layouts), each film decoded once.

    `probe` decides of each film whether it is a frontal chest film, upright and bone white; without one only rules do.
    Rows without any label are counted, not a problem: a film may show no line. Films without a row are counted
    likewise, and in a plain folder what comes along with films (DICOMDIR, structured reports, ...).
    """
    root = Path(root).resolve()
    label_tables = (root / tables.TRAIN_TABLE, root / tables.TEST_TABLE)
    tabled = any(csv.is_file() or packed_as(csv) for csv in label_tables) or (root / "train").is_dir()
    state = AuditState(root, plain=not tabled)
    train = truth = None
    if state.plain:
        check_folder(state)
    else:
        train = check_train(state)
        truth = check_test(state, train)
        state.read(root / tables.META_FILE, tables.read_meta)
    looks = check_films(state, workers, probe)
    check_copies(state, looks)
    check_annotations(state, root / tables.ANNOTATION_TABLE, train, "annotated")
    check_annotations(state, root / tables.TEST_ANNOTATION_TABLE, truth, "annotated test")
    check_landmarks(state, root / tables.LANDMARK_TABLE)
    if folds is not None:
        check_folds(state, Path(folds), train)
    problems, odd = (
        sorted(set(some), key=lambda p: (p.kind, p.file, p.row or 0, p.message)) for some in (state.problems, state.odd)
    )
    notes = sorted(state.notes, key=lambda n: (n.note.code, n.film, n.note.text))
    return Audit(problems, state.counts, notes, state.absent, odd)
