"""Annotations of Label Studio taken over into a project; their format is that of `label_studio`."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.corrections.correction import CorrectedLine, Correction, CorrectionError, Mark, Point
from cxrlines.corrections.label_studio import ABSENT, END, PRESENT, STATE_UNKNOWN, TIP_UNSEEN
from cxrlines.corrections.project import Project, SavedFilm
from cxrlines.task import DEVICE_OF, LABELS, STATE_OF, Device, Landmark, State

SAME = 0.1
"""px within which a line or a landmark that comes back is the one that was given."""
_EXPORTED = re.compile(r"(?:model|line)-[0-9]+-([0-9]+)")
"""Ids of vertices as they were exported."""
_REPEATED = ("labels", "vector", "keypoint", "relation")
"""Kinds of regions that say nothing more: Label Studio repeats regions without their labels, and relates them."""


class LabelStudioError(Error):
    """An export of Label Studio that cannot be taken over; nothing of it is."""


def import_tasks(project: Project, file: Path, author: str | None = None) -> dict[str, int]:
    """Take over the annotations of an export of Label Studio (JSON, not JSON-MIN); all of them, or none.

    Of a film's annotations the latest counts. A line that is one of the model's, within `SAME`, is accepted; one that
    has its id is moved; the model's that are missing are rejected. An annotation that says what the project has,
    or had, is left: Label Studio gives every film back, with who imported it and when, whether or not anybody looked at
    it, and the page may have corrected it meanwhile. So is one that is older than what the project has.

    Args:
        author: Who annotated, and looked at every film: one that says what the project has becomes theirs. Default: as
            the export says, an address or a number.

    Returns:
        How many films were `corrected`, left `unchanged`, left as they were `older than the project's` and had `no
        annotation`.

    Raises:
        LabelStudioError: it is no such export, or annotations cannot be taken over: how many, for what reasons, and the
            first of each.
        OutputError: the disk is full, read-only or the like; it says so where only the tables could not be written.
    """
    counts = {"corrected": 0, "unchanged": 0, "older than the project's": 0, "no annotation": 0}
    found: list[tuple[SavedFilm, Correction]] = []
    problems: Counter[str] = Counter()
    first: dict[str, str] = {}
    films = {film.id: film for film in project.films()}
    for number, task in enumerate(_read(file)):
        try:
            film, annotation = _annotation(task, films)
            if annotation is None:
                counts["no annotation"] += 1
                continue
            correction = _correction(annotation, film, author)
            correction.check(film.shape)
            found.append((film, correction))
        except _Refused as error:
            problems[error.kind] += 1
            first.setdefault(error.kind, f"task {number}: {error}")
        except CorrectionError as error:
            problems["contradiction"] += 1
            first.setdefault("contradiction", f"task {number}: {error.what}")
    if problems:
        each = "; ".join(f"{count} x {kind} (first in {first[kind]})" for kind, count in problems.items())
        raise LabelStudioError(f"{file}: {each}", "correct them there; nothing was taken over")
    histories = {film.id: film.history for film in project.films()}
    new: list[tuple[str, Correction]] = []
    for film, correction in found:
        outcome = _outcome(correction, histories[film.id], author)
        counts[outcome] += 1
        if outcome == "corrected":
            histories[film.id] += (correction,)
            new.append((film.id, correction))
    project.correct_all(new)
    return counts


def _outcome(new: Correction, history: Sequence[Correction], author: str | None) -> str:
    """What becomes of an annotation of a film with that history: the name of its count."""
    latest, same = history[-1], [said for said in history if _same(new, said)]
    signed = latest in same and author not in (None, *(said.author for said in same))
    if same and not signed:
        return "unchanged"
    return "older than the project's" if new.time < latest.time else "corrected"


class _Refused(Exception):
    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def _read(file: Path) -> list[Any]:
    try:
        tasks = json.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        way_out = "give the path of a file that Label Studio exported"
        raise LabelStudioError(f"{file}: cannot be read ({error.strerror})", way_out) from None
    except (ValueError, RecursionError) as error:
        raise LabelStudioError(f"{file}: cannot be read as JSON ({type(error).__name__})", "export JSON") from None
    if not isinstance(tasks, list):
        raise LabelStudioError(f"{file}: is no list of tasks", "export JSON, not JSON-MIN, COCO or another format")
    return tasks


def _annotation(task: Any, films: Mapping[str, SavedFilm]) -> tuple[SavedFilm, dict[str, Any] | None]:
    """The film of a task, and its latest annotation that counts."""
    data = task.get("data") if isinstance(task, dict) else None
    annotations = task.get("annotations") if isinstance(task, dict) else None
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise _Refused("no task", "has no `data` and `annotations`, as tasks of the format JSON have")
    id = data.get("film")
    if not isinstance(id, str) or id not in films:
        raise _Refused("film that is not in the project", f"film {str(id)[:80]!r}")
    valid = [each for each in annotations if isinstance(each, dict) and not each.get("was_cancelled")]
    return films[id], max(valid, key=lambda each: str(each.get("updated_at") or each.get("created_at")), default=None)


def _correction(annotation: Mapping[str, Any], film: SavedFilm, author: str | None) -> Correction:
    try:
        regions = annotation["result"]
        for region in regions:
            _check_kind(region)
        lines = _lines(regions, film)
        values = {
            "author": str(author or _author(annotation) or "Label Studio"),
            "time": annotation.get("updated_at") or annotation["created_at"],
            "lines": [*lines, *_rejected(lines, film)],
            "labels": _labels(regions),
            "landmarks": _landmarks(regions, film.shape),
            "comment": _comment(regions),
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _Refused("annotation not readable", f"{type(error).__name__}: {str(error)[:80]}") from None
    return Correction.of(values)


def _check_kind(region: Mapping[str, Any]) -> None:
    kind = region["type"]
    if kind in _REPEATED or kind in ("vectorlabels", "keypointlabels", "textarea"):
        return
    if kind != "choices" or region["from_name"] not in (PRESENT, ABSENT, END):
        raise _Refused("region of another kind", f"type {str(kind)[:40]!r}")


def _author(annotation: Mapping[str, Any]) -> Any:
    """Address or number of its user; None where the export names none."""
    by = annotation.get("completed_by")
    return (by.get("email") or by.get("id")) if isinstance(by, dict) else by


def _of(regions: Sequence[Mapping[str, Any]], kind: str, *tags: str) -> list[Mapping[str, Any]]:
    """The regions of a kind, and of the tags that are named."""
    return [region for region in regions if region["type"] == kind and (not tags or region["from_name"] in tags)]


def _lines(regions: Sequence[Mapping[str, Any]], film: SavedFilm) -> list[CorrectedLine]:
    """The lines that were kept, moved or drawn."""
    model, ends = _model(film), _ends(regions)
    lines: list[CorrectedLine] = []
    for region in _of(regions, "vectorlabels"):
        label = _known(region["value"]["vectorlabels"], LABELS, "label")
        device, state, end = DEVICE_OF[label], STATE_OF[label], ends.get(region.get("id"), frozenset())
        points = _points(region, film.shape)
        free = {k: path for k, (of, path) in enumerate(model) if of is device and k not in {line.of for line in lines}}
        mark, of = _mark(region.get("id"), points, free)
        # What leaves the film ends there, whatever else is said of its end.
        tip_seen = TIP_UNSEEN not in end or (state is State.INCOMPLETE and STATE_UNKNOWN not in end)
        known = None if STATE_UNKNOWN in end else state
        lines.append(
            CorrectedLine(device=device, state=known, tip_seen=tip_seen, points=tuple(points), mark=mark, of=of)
        )
    return lines


def _model(film: SavedFilm) -> list[tuple[Device, np.ndarray]]:
    """Device and points (n, 2) px of each of the model's lines."""
    return [(Device[line["device"]], np.array(line["path"], float)) for line in (film.findings or {}).get("lines", ())]


def _mark(id: Any, points: Sequence[Point], free: Mapping[int, np.ndarray]) -> tuple[Mark, int | None]:
    """What was done to a line, and its index among the model's; `free`: those of its device that no other line is."""
    path = np.array(points)
    for k, line in free.items():
        if line.shape == path.shape and np.abs(line - path).max() <= SAME:
            return Mark.ACCEPTED, k
    return next(((Mark.MOVED, k) for k in free if id == f"model-{k}"), (Mark.DRAWN, None))


def _rejected(lines: Sequence[CorrectedLine], film: SavedFilm) -> list[CorrectedLine]:
    """The model's lines that none of the annotation's is."""
    kept = {line.of for line in lines}
    return [
        CorrectedLine(device=device, points=tuple((x, y) for x, y in path), mark=Mark.REJECTED, of=k)
        for k, (device, path) in enumerate(_model(film))
        if k not in kept
    ]


def _ends(regions: Sequence[Mapping[str, Any]]) -> dict[Any, frozenset[str]]:
    """What is said of the ends of lines, by the id of their region."""
    found = {}
    for region in _of(regions, "choices", END):
        said = frozenset(map(str, region["value"]["choices"]))
        if unknown := said - {TIP_UNSEEN, STATE_UNKNOWN}:
            raise _Refused("unknown end of a line", repr(min(unknown)[:80]))
        found[region["id"]] = said
    return found


def _labels(regions: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """1 or 0 by label, of those chosen as present or absent."""
    found: dict[str, int] = {}
    for region in _of(regions, "choices", PRESENT, ABSENT):
        value = int(region["from_name"] == PRESENT)
        for label in region["value"]["choices"]:
            if found.setdefault(_known([label], LABELS, "label"), value) != value:
                raise _Refused("contradiction", f"{label} is both present and absent")
    return found


def _landmarks(regions: Sequence[Mapping[str, Any]], shape: tuple[int, int]) -> dict[str, Point]:
    return {
        _known(region["value"]["keypointlabels"], tuple(Landmark), "landmark"): _px(region, region["value"], shape)
        for region in _of(regions, "keypointlabels")
    }


def _comment(regions: Sequence[Mapping[str, Any]]) -> str:
    texts = [region["value"]["text"] for region in _of(regions, "textarea")]
    return "" if not texts else texts[-1] if isinstance(texts[-1], str) else "\n".join(texts[-1])


def _known(names: Any, allowed: tuple[str, ...], what: str) -> str:
    if not isinstance(names, list) or len(names) != 1:
        raise _Refused(f"region without one {what}", str(names)[:80])
    if names[0] not in list(allowed):
        raise _Refused(f"unknown {what}", repr(str(names[0])[:80]))
    return str(names[0])


def _px(region: Mapping[str, Any], value: Mapping[str, Any], shape: tuple[int, int]) -> Point:
    size = (region["original_height"], region["original_width"])
    if size != shape or region.get("image_rotation"):
        text = f"{size[1]} x {size[0]} px, rotated by {region.get('image_rotation') or 0}"
        raise _Refused("image that is not the film", f"{text}; the film has {shape[1]} x {shape[0]} px")
    x, y = float(value["x"]) * shape[1] / 100 - 0.5, float(value["y"]) * shape[0] / 100 - 0.5
    return round(x, 3) + 0.0, round(y, 3) + 0.0  # + 0.0: never -0.0


def _points(region: Mapping[str, Any], shape: tuple[int, int]) -> list[Point]:
    value = region["value"]
    vertices = value["vertices"]
    which = f"region {str(region.get('id'))[:40]}"
    if value.get("closed") or any(vertex.get("isBezier") for vertex in vertices):
        raise _Refused("closed or curved line", which)
    if any(vertex.get("prevPointId") for vertex in vertices):
        vertices = _in_order(vertices, which)
    return [
        _px(region, vertex, shape) for k, vertex in enumerate(vertices) if not k or not _again(vertex, vertices[k - 1])
    ]


def _again(vertex: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a vertex repeats the one before, as the second of a line that is drawn in Label Studio does."""
    drawn = not _EXPORTED.fullmatch(str(vertex.get("id")))
    return drawn and (vertex["x"], vertex["y"]) == (before["x"], before["y"])


def _in_order(vertices: Sequence[Mapping[str, Any]], which: str) -> list[Mapping[str, Any]]:
    """The vertices as the line runs, each of which names the one that it was drawn from.

    Who draws on from a line's first vertex makes a fork there, or, in later versions of Label Studio, turns the line
    round. The ids of the vertices that were exported say which way it ran.
    """
    after: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for vertex in vertices:
        after[vertex.get("prevPointId")].append(vertex)
    first = after[None]
    arms: list[list[Mapping[str, Any]]] = []
    for vertex in after[first[0].get("id")] if len(first) == 1 else ():
        arm = [vertex]
        while len(arm) < len(vertices) and len(more := after[arm[-1].get("id")]) == 1:
            arm += more
        arms.append(arm)
    line = [*reversed(arms[1] if len(arms) == 2 else []), *first, *(arms[0] if arms else [])]
    if len(arms) > 2 or len(line) != len(vertices):
        raise _Refused("line with branches", which)
    own = [int(number[1]) for vertex in line if (number := _EXPORTED.fullmatch(str(vertex.get("id"))))]
    return line[::-1] if own and own[0] > own[-1] else line


def _same(new: Correction, old: Correction) -> bool:
    """Whether two corrections say the same, whoever said it and when."""

    def near(a: Sequence[Point], b: Sequence[Point]) -> bool:
        return len(a) == len(b) and bool(np.abs(np.array(a) - np.array(b)).max() <= SAME)

    def in_order(correction: Correction) -> list[CorrectedLine]:
        return sorted(correction.lines, key=lambda line: (line.device, -1 if line.of is None else line.of, line.points))

    return (
        (new.labels, new.comment, new.landmarks.keys()) == (old.labels, old.comment, old.landmarks.keys())
        and all(near([new.landmarks[name]], [point]) for name, point in old.landmarks.items())
        and len(new.lines) == len(old.lines)
        and all(
            (a.device, a.state, a.tip_seen, a.mark, a.of) == (b.device, b.state, b.tip_seen, b.mark, b.of)
            and near(a.points, b.points)
            for a, b in zip(in_order(new), in_order(old), strict=True)
        )
    )
