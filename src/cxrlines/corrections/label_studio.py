"""Exchange with Label Studio: lines as `vectorlabels`, landmarks as `keypointlabels`, labels as `choices`.

A line may have choices of its own: that its tip is not seen, and that its state is not known; Label Studio keeps them
as a region of the same id. It gives points in percent of the image's sides, from its left upper corner: a point [x, y]
px (pixel centres at whole numbers) of a film of width w is at 100 (x + 0.5) / w.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import cv2

from cxrlines.core.files import replacing, write_text
from cxrlines.corrections.project import Project, SavedFilm
from cxrlines.io.films import read_film
from cxrlines.task import LABEL_COLOURS, LABELS, LABELS_OF, STATE_OF, Device, Landmark, State

IMAGE, LINES, LANDMARKS, PRESENT, ABSENT, COMMENT = "image", "lines", "landmarks", "present", "absent", "comment"
END = "end"
"""Names of the tags of the labeling configuration."""
TIP_UNSEEN, STATE_UNKNOWN = "tip not seen", "state not known"
"""What may be said of the end of a line."""


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
    # Without its author: Label Studio takes none but its own users, by address.
    annotation = {"result": result, "created_at": when, "updated_at": when}
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
