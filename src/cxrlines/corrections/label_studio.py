"""Exchange with Label Studio: lines as `vectorlabels`, landmarks as `keypointlabels`, labels as `choices`.

A line may have choices of its own: that its tip is not seen, and that its state is not known; Label Studio keeps them
as a region of the same id. It gives points in percent of the image's sides, from its left upper corner: a point [x, y]
px (pixel centres at whole numbers) of a film of width w is at 100 (x + 0.5) / w.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.files import replacing, write_text
from cxrlines.corrections.correction import CorrectedLine, Correction, CorrectionError, Mark, Point
from cxrlines.corrections.project import Project, SavedFilm
from cxrlines.io.films import read_film
from cxrlines.task import DEVICE_OF, LABEL_COLOURS, LABELS, LABELS_OF, STATE_OF, Device, Landmark, State

IMAGE, LINES, LANDMARKS, PRESENT, ABSENT, COMMENT = "image", "lines", "landmarks", "present", "absent", "comment"
END = "end"
"""Names of the tags of the labeling configuration."""
TIP_UNSEEN, STATE_UNKNOWN = "tip not seen", "state not known"
"""What may be said of the end of a line."""
SAME = 0.1
"""px within which a line that comes back is the one that was given."""


class LabelStudioError(Error):
    """An export of Label Studio that cannot be taken over; nothing of it is."""


def labeling_config() -> str:
    """The labeling configuration (XML) of a Label Studio project for films."""

    def choices(name: str, title: str) -> list[str]:
        labels = "".join(f"<Choice value={quoteattr(label)}/>" for label in LABELS)
        return [
            f"  <Header value={quoteattr(title)}/>",
            f'  <Choices name="{name}" toName="{IMAGE}" choice="multiple" showInline="true">{labels}</Choices>',
        ]

    lines = [
        f'    <Label value={quoteattr(label)} background="#{"".join(f"{c:02x}" for c in LABEL_COLOURS[label])}"/>'
        for label in LABELS
    ]
    ends = "".join(f"<Choice value={quoteattr(end)}/>" for end in (TIP_UNSEEN, STATE_UNKNOWN))
    points = [f"    <Label value={quoteattr(name)}/>" for name in Landmark]
    return "\n".join(
        [
            "<View>",
            '  <Header value="Draw each line from where it enters to its tip, or as far as it is seen"/>',
            f'  <Image name="{IMAGE}" value="${IMAGE}" zoom="true" zoomControl="true" brightnessControl="true" '
            'contrastControl="true"/>',
            f'  <VectorLabels name="{LINES}" toName="{IMAGE}" closable="false" curves="false" minPoints="2">',
            *lines,
            "  </VectorLabels>",
            f'  <Choices name="{END}" toName="{IMAGE}" perRegion="true" choice="multiple" showInline="true" '
            f'visibleWhen="region-selected" whenTagName="{LINES}">{ends}</Choices>',
            f'  <KeyPointLabels name="{LANDMARKS}" toName="{IMAGE}">',
            *points,
            "  </KeyPointLabels>",
            *choices(PRESENT, "Present"),
            *choices(ABSENT, "Absent (leave open what cannot be said)"),
            f'  <TextArea name="{COMMENT}" toName="{IMAGE}" rows="2" maxSubmissions="1"/>',
            "</View>\n",
        ]
    )


def export_tasks(project: Project, file: Path, image_url: str | None = None) -> list[Path]:
    """Write the films of a project as tasks of Label Studio; the paths of what was written.

    Beside `file` (JSON) come its labeling configuration (`.xml`) and a folder (`.films`) of the films as PNG, as the
    reader sees them: Label Studio shows no DICOM. What a person said is an annotation, what the model found a
    prediction.

    Args:
        image_url: What stands before an image's name; default: Label Studio's path of local files, where the folder of
            `file` is its document root.

    Raises:
        OutputError: something cannot be written. FilmError: a film is no longer readable.
    """
    folder, config = beside_json(file, ".films"), beside_json(file, ".xml")
    prefix = f"/data/local-files/?d={folder.name}/" if image_url is None else image_url
    tasks = []
    for film in project.films():
        with replacing(folder / f"{film.id}.png") as aside:
            written, png = cv2.imencode(".png", read_film(film.file).pixels)
            assert written
            aside.write_bytes(png.tobytes())
        tasks.append(_task(film, f"{prefix}{film.id}.png"))
    write_text(config, labeling_config())
    write_text(file, json.dumps(tasks, indent=1) + "\n")
    return [file, config, folder]


def beside_json(file: Path, ending: str) -> Path:
    """The file that goes with a JSON file: `tasks.json` -> `tasks.xml`."""
    return file.with_name(file.name.removesuffix(".json") + ending)


def import_tasks(project: Project, file: Path, author: str | None = None) -> dict[str, int]:
    """Take over the annotations of an export of Label Studio (JSON, not JSON-MIN); all of them, or none.

    Of a film's annotations the latest counts. A line that is one of the model's, within `SAME`, is accepted; one that
    bears its id is moved; the model's that are missing are rejected. What the project has already is left.

    Args:
        author: Who annotated; default: as the export says, an address or a number.

    Returns:
        How many films were `corrected`, left `unchanged` and had `no annotation`.

    Raises:
        LabelStudioError: it is no such export, or annotations cannot be taken over: how many, for what reasons, and the
            first of each.
    """
    counts = {"corrected": 0, "unchanged": 0, "no annotation": 0}
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
    for film, correction in found:
        same = correction == film.correction
        counts["unchanged" if same else "corrected"] += 1
        if not same:
            project.correct(film.id, correction)
    return counts


class _Refused(Exception):
    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def _read(file: Path) -> list[Any]:
    try:
        tasks = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabelStudioError(f"{file}: cannot be read as JSON ({type(error).__name__})", "export JSON") from None
    if not isinstance(tasks, list):
        raise LabelStudioError(f"{file}: is no list of tasks", "export JSON, not JSON-MIN, COCO or another format")
    return tasks


def _task(film: SavedFilm, image: str) -> dict[str, Any]:
    said, findings = film.correction, film.findings
    kept = [(k, line) for k, line in enumerate(said.lines) if line.kept]
    result = [
        region
        for (k, line), row in zip(kept, said.table_lines(), strict=True)
        for region in _line(
            f"line-{k}" if line.of is None else f"model-{line.of}",
            row.label, row.points, film.shape, tip_seen=row.tip_seen, state_known=line.state is not None,
        )
    ]  # fmt: skip
    result += [_point(name, point, film.shape) for name, point in said.landmarks.items()]
    for name, value in ((PRESENT, 1), (ABSENT, 0)):
        if chosen := [label for label in LABELS if said.labels.get(label) == value]:
            result.append(_region(f"{name}-0", name, "choices", {"choices": chosen}))
    if said.comment:
        result.append(_region("comment-0", COMMENT, "textarea", {"text": [said.comment]}))
    when = said.time.isoformat()
    annotation = {"result": result, "completed_by": {"email": said.author}, "created_at": when, "updated_at": when}
    task: dict[str, Any] = {"data": {IMAGE: image, "film": film.id}, "annotations": [annotation]}
    if findings:
        lines = [region for k in range(len(findings["lines"])) for region in _model_line(findings, k, film.shape)]
        points = [_point(name, value["xy"], film.shape) for name, value in findings.get("landmarks", {}).items()]
        version = str(findings.get("bundle", "cxrlines"))
        task["predictions"] = [{"model_version": version, "result": [*lines, *points]}]
    return task


def _model_line(findings: Mapping[str, Any], k: int, shape: tuple[int, int]) -> list[dict[str, Any]]:
    """A line of the model: of its device's most probable label, as Label Studio's lines have one, and of unknown state
    where its tip is not seen."""
    line, probable = findings["lines"][k], findings.get("labels") or {}
    own = LABELS_OF[Device[line["device"]]]
    seen = line.get("followed_to") is None
    may_be = own if seen else [label for label in own if STATE_OF[label] is not State.INCOMPLETE]
    label = max(may_be, key=lambda each: probable.get(each, 0.0))
    return _line(f"model-{k}", label, line["path"], shape, tip_seen=seen, state_known=seen or len(own) == 1)


def _region(id: str, name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": id, "from_name": name, "to_name": IMAGE, "type": kind, "value": value}


def _sized(region: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    return region | {"original_width": shape[1], "original_height": shape[0], "image_rotation": 0}


def _percent(point: Any, shape: tuple[int, int]) -> dict[str, float]:
    return {"x": 100 * (point[0] + 0.5) / shape[1], "y": 100 * (point[1] + 0.5) / shape[0]}


def _line(
    id: str, label: str, points: Any, shape: tuple[int, int], *, tip_seen: bool, state_known: bool
) -> list[dict[str, Any]]:
    """The region of a line, and that of what is said of its end."""
    vertices = [
        {"id": f"{id}-{k}", "prevPointId": f"{id}-{k - 1}" if k else None, "isBezier": False} | _percent(point, shape)
        for k, point in enumerate(points)
    ]
    value = {"vertices": vertices, "closed": False}
    regions = [_sized(_region(id, LINES, "vectorlabels", value | {"vectorlabels": [label]}), shape)]
    if end := [what for what, known in ((TIP_UNSEEN, tip_seen), (STATE_UNKNOWN, state_known)) if not known]:
        regions.append(_sized(_region(id, END, "choices", value | {"choices": end}), shape))
    return regions


def _point(name: str, point: Any, shape: tuple[int, int]) -> dict[str, Any]:
    value = {**_percent(point, shape), "width": 0.5, "keypointlabels": [str(name)]}
    return _sized(_region(f"{name}-0", LANDMARKS, "keypointlabels", value), shape)


def _annotation(task: Any, films: Mapping[str, SavedFilm]) -> tuple[SavedFilm, dict[str, Any] | None]:
    """The film of a task, and its latest annotation that counts."""
    data = task.get("data") if isinstance(task, dict) else None
    annotations = task.get("annotations") if isinstance(task, dict) else None
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise _Refused("no task", "has no `data` and `annotations`")
    id = data.get("film")
    if not isinstance(id, str) or id not in films:
        raise _Refused("film that is not in the project", f"film {str(id)[:80]!r}")
    valid = [each for each in annotations if isinstance(each, dict) and not each.get("was_cancelled")]
    return films[id], max(valid, key=lambda each: str(each.get("updated_at") or each.get("created_at")), default=None)


def _correction(annotation: Mapping[str, Any], film: SavedFilm, author: str | None) -> Correction:
    model = [np.array(line["path"], float) for line in (film.findings or {}).get("lines", ())]
    devices = [Device[line["device"]] for line in (film.findings or {}).get("lines", ())]
    lines: list[CorrectedLine] = []
    said: dict[str, Any] = {"landmarks": {}, "labels": {}, "comment": ""}
    try:
        ends = _ends(annotation["result"])
        for region in annotation["result"]:
            kind, value = region["type"], region["value"]
            match kind:
                case "vectorlabels":
                    label = _known(value["vectorlabels"], LABELS, "label")
                    points = _points(region, film.shape)
                    mark, of = _mark(region.get("id"), points, DEVICE_OF[label], model, devices, {x.of for x in lines})
                    end, state = ends.get(region.get("id"), frozenset()), STATE_OF[label]
                    lines.append(
                        CorrectedLine(
                            device=DEVICE_OF[label],
                            state=None if STATE_UNKNOWN in end else state,
                            # What leaves the film ends there, whatever else is said of its end.
                            tip_seen=TIP_UNSEEN not in end or (state is State.INCOMPLETE and STATE_UNKNOWN not in end),
                            points=tuple(points),
                            mark=mark,
                            of=of,
                        )
                    )
                case "keypointlabels":
                    name = _known(value["keypointlabels"], tuple(Landmark), "landmark")
                    said["landmarks"][name] = _px(region, value, film.shape)
                case "choices" if region["from_name"] in (PRESENT, ABSENT):
                    for label in value["choices"]:
                        known = _known([label], LABELS, "label")
                        if said["labels"].setdefault(known, int(region["from_name"] == PRESENT)) != int(
                            region["from_name"] == PRESENT
                        ):
                            raise _Refused("contradiction", f"{known} is both present and absent")
                case "textarea":
                    text = value["text"]
                    said["comment"] = text if isinstance(text, str) else "\n".join(text)
                case "choices" if region["from_name"] == END:
                    pass  # of a line
                case "labels" | "vector" | "relation" | "keypoint":
                    pass  # Label Studio repeats regions without their labels
                case _:
                    raise _Refused("region of another kind", f"type {str(kind)[:40]!r}")
        by = annotation.get("completed_by")
        by = by.get("email") or by.get("id") if isinstance(by, dict) else by
        when = annotation.get("updated_at") or annotation["created_at"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _Refused("annotation not readable", f"{type(error).__name__}: {str(error)[:80]}") from None
    gone = set(range(len(model))) - {line.of for line in lines}
    rejected = [
        CorrectedLine(device=devices[k], points=tuple((x, y) for x, y in model[k]), mark=Mark.REJECTED, of=k)
        for k in sorted(gone)
    ]
    return Correction.of(
        {"author": str(author or by or "Label Studio"), "time": when, **said, "lines": lines + rejected}
    )


def _ends(regions: Any) -> dict[str, frozenset[str]]:
    """What is said of the ends of lines, by the id of their region."""
    found = {}
    for region in regions:
        if region["type"] == "choices" and region["from_name"] == END:
            said = frozenset(map(str, region["value"]["choices"]))
            if unknown := said - {TIP_UNSEEN, STATE_UNKNOWN}:
                raise _Refused("unknown end of a line", repr(min(unknown)[:80]))
            found[region["id"]] = said
    return found


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
    if value.get("closed") or any(vertex.get("isBezier") for vertex in vertices):
        raise _Refused("closed or curved line", f"region {str(region.get('id'))[:40]}")
    before = [vertex.get("prevPointId") for vertex in vertices[1:]]
    if any(before) and before != [vertex.get("id") for vertex in vertices[:-1]]:
        raise _Refused("line with branches", f"region {str(region.get('id'))[:40]}")
    return [_px(region, vertex, shape) for vertex in vertices]


def _mark(
    id: Any, points: list[Point], device: Device, model: list[np.ndarray], devices: list[Device], taken: set[int | None]
) -> tuple[Mark, int | None]:
    path = np.array(points)
    for k, line in enumerate(model):
        if k not in taken and devices[k] is device and line.shape == path.shape and np.abs(line - path).max() <= SAME:
            return Mark.ACCEPTED, k
    named = [k for k in range(len(model)) if id == f"model-{k}" and k not in taken and devices[k] is device]
    return (Mark.MOVED, named[0]) if named else (Mark.DRAWN, None)
