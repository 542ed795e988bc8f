"""The types of findings are read-only, and their JSON is what the schema in docs says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cxrlines import cli
from cxrlines.core.findings import SCHEMA_VERSION, Distance, Findings, Keypoint, Line, json_schema, presence_of
from cxrlines.core.notes import Code, Note
from cxrlines.task import LABELS, LABELS_OF, Device, Landmark, State

DOCUMENTED = Path(__file__).parents[2] / "docs/findings.schema.json"
FOUND = Findings(
    (1000, 800),
    (Line(Device.ETT, np.array([[400.0, 0.04], [400.15, 300.25]]), np.array([400.15, 300.25]), 0.876543),),
    {Landmark.CARINA: Keypoint(np.array([-0.01, 400.0]), 0.5)},
    (Distance("ETT tip above the carina", 0, 99.75, patient_cm=(-0.001, 2.345), state=State.NORMAL, agrees=True),),
    dict.fromkeys(LABELS, 0.123456789),
    notes=(Note(Code.SMALL, "it is small"),),
)


def test_the_schema_in_docs_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(cli.app, ["schema"]).stdout
    assert DOCUMENTED.read_text() == printed
    assert json.loads(printed) == json_schema() and str(SCHEMA_VERSION) in json_schema()["title"]


def agrees(value: Any, schema: dict[str, Any], where: str = "") -> None:
    """As much of JSON schema as ours uses, with no key more and none less."""
    if "$ref" in schema:
        schema = json_schema()["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        schema = next(each for each in schema["anyOf"] if (each.get("type") == "null") == (value is None))
        return agrees(value, schema, where)
    if "enum" in schema:
        assert value in schema["enum"], where
    kinds = {"object": dict, "array": list, "string": str, "number": int | float, "integer": int, "boolean": bool}
    assert schema.get("type") in (None, "null") or isinstance(value, kinds[schema["type"]]), where
    if "properties" in schema:
        assert list(value) == list(schema["properties"]) and schema["required"] == list(value), where
    if isinstance(value, dict):
        for name, each in value.items():
            rest = schema.get("additionalProperties", {})
            agrees(each, schema.get("properties", {}).get(name, rest), f"{where}.{name}")
    if isinstance(value, list):
        for each, item in zip(value, schema.get("prefixItems", [schema.get("items")] * len(value)), strict=True):
            agrees(each, item, f"{where}[]")


def test_the_json_is_what_the_schema_says() -> None:
    plain = FOUND.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    (film,) = [json_schema()["$defs"]["PredictionJson"]]
    film["properties"] = {name: each for name, each in film["properties"].items() if name in plain}
    film["required"] = list(film["properties"])
    agrees(plain, film)


def test_numbers_are_rounded_and_those_of_the_table_are_not() -> None:
    plain = FOUND.as_dict()
    assert plain["labels"] == FOUND.labels and plain["schema_version"] == SCHEMA_VERSION
    (line,), (distance,) = plain["lines"], plain["distances"]
    assert line == {
        "device": "ETT",
        "path": [[400.0, 0.0], [400.1, 300.2]],
        "tip": [400.1, 300.2],
        "confidence": 0.8765,
        "followed_to": None,
    }
    assert plain["landmarks"] == {"carina": {"xy": [0.0, 400.0], "confidence": 0.5}} and "-0.0" not in json.dumps(plain)
    assert (distance["px"], distance["patient_cm"], distance["state"]) == (99.8, [0.0, 2.35], "Normal")
    assert plain["notes"] == [{"code": "small", "text": "it is small"}]


def test_arrays_are_read_only_and_the_caller_s_own_stay_as_they_are() -> None:
    path = np.array([[1.0, 2.0], [3.0, 4.0]])
    line, spot = Line(Device.CVC, path, path[-1]), Keypoint(path[0], 0.5)
    for array in (line.path, line.tip, spot.xy):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
    path[0] = 0


def test_a_line_ends_at_a_tip_or_is_followed_to_a_point_or_leaves_the_film() -> None:
    path = np.array([[1.0, 2.0], [3.0, 4.0]])
    tip, off, faded = (Line(Device.NGT, path, *ends) for ends in ((path[-1],), (None,), (None, 0.5, path[-1])))
    assert [line.leaves_film for line in (tip, off, faded)] == [False, True, False]
    plain = [line["followed_to"] for line in Findings((9, 9), (tip, off, faded), {}, ()).as_dict()["lines"]]
    assert plain == [None, None, [3.0, 4.0]]
    with pytest.raises(ValueError, match="read-only"):
        faded.followed_to[0] = 5  # type: ignore[index]
    with pytest.raises(ValueError, match="both a tip and a point"):
        Line(Device.NGT, path, path[-1], 1.0, path[-1])


def test_a_film_without_a_frame_is_within_nothing():
    whole, framed = ((0, 0, 800, 1000), (0, 3, 800, 1000))
    assert FOUND.within is replace(FOUND, within=whole).within is None
    assert replace(FOUND, within=whole).as_dict()["within"] is None
    assert replace(FOUND, within=framed).as_dict()["within"] == list(framed)


def test_presence_is_of_devices_that_have_labels() -> None:
    labels = {label: 0.2 for label in LABELS_OF[Device.ETT]} | {label: 0.5 for label in LABELS_OF[Device.CVC]}
    found = presence_of(labels)
    assert list(found) == ["ETT", "CVC"]
    assert found["ETT"] == pytest.approx(0.6) and found["CVC"] == pytest.approx(1 - 0.5**3)
    maps = Findings((9, 9), (), {}, (), labels, evidence={"ETT": 0.15, "NGT": 0.9})
    assert maps.presence == {"ETT": pytest.approx(0.3), "CVC": found["CVC"]}, "the geometric mean where there is a map"
