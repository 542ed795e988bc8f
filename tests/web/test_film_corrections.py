"""Corrections over HTTP: saved in a project as they were sent, read back, and refused where they do not fit."""

import json

import pytest

from cxrlines.corrections.project import Project

from .conftest import EXAMPLE, found

JPEG = {"Content-Type": "image/jpeg"}
LINE = {"device": "ETT", "points": [[600.0, 20.0], [610.0, 480.0]], "mark": "moved", "state": "Normal", "of": 0}
LINE |= {"tip_seen": True}
FADED = {
    "device": "NGT",
    "points": [[600.0, 20.0], [605.0, 90.0]],
    "mark": "drawn",
    "state": None,
    "of": None,
    "tip_seen": False,
}
SAID = {
    "name": "ward.jpg",
    "author": "A reader",
    "lines": [LINE, FADED],
    "labels": {"NGT - Normal": 0},
    "comment": "moved",
}


def kept(server) -> str:
    return f"/v1/films/{server('POST', '/v1/films', headers=JPEG, content=EXAMPLE).json()['id']}/corrections"


def test_a_correction_comes_back_as_it_was_saved(web, tmp_path):
    server = web(project=tmp_path / "project")
    path = kept(server)
    assert server("GET", path).json() == {"correction": None, "same": False, "count": 0}
    answer = server("PUT", path, json=SAID)
    assert answer.status_code == 200, answer.text
    saved = server("GET", path).json()
    assert saved["same"] is True and saved["count"] == 1
    assert saved["correction"] == answer.json()["correction"]
    for field in ("author", "lines", "labels", "comment"):
        assert saved["correction"][field] == SAID[field]
    film = Project(tmp_path / "project").find(EXAMPLE)
    assert film is not None and film.name == "ward.jpg" and film.correction.time.tzinfo is not None
    assert film.findings == json.loads(json.dumps(found().as_dict()))


def test_the_same_film_dropped_again_has_its_corrections_and_keeps_the_old_ones(web, tmp_path):
    server = web(project=tmp_path / "project")
    server("PUT", kept(server), json=SAID)
    server("PUT", kept(server), json=SAID | {"comment": "again"})
    saved = server("GET", kept(server)).json()
    assert saved["correction"]["comment"] == "again" and saved["count"] == 2


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"author": ""}, "author"),
        ({"author": " \t "}, "author"),
        ({"lines": [LINE | {"points": [[600.0, 20.0], [9999.0, 480.0]]}]}, "lines.0"),
        ({"lines": [LINE | {"of": 7}]}, "7"),
        ({"lines": [LINE | {"state": None}]}, "state"),
        ({"labels": {"ETT - Sideways": 1}}, "Sideways"),
        ({"time": "yesterday", "more": 1}, "more"),
    ],
)
def test_one_that_does_not_fit_is_refused_and_nothing_is_saved(web, tmp_path, changed, names):
    server = web(project=tmp_path / "project")
    path = kept(server)
    answer = server("PUT", path, json=SAID | changed)
    assert (answer.status_code, answer.json()["code"]) == (422, "correction") and names in answer.json()["detail"]
    assert server("GET", path).json()["correction"] is None


def test_a_name_of_half_a_character_is_saved_without_it_and_an_author_without_the_spaces_around(web, tmp_path):
    server = web(project=tmp_path / "project")
    said = json.dumps(SAID | {"name": "ward\ud800.jpg", "author": " A reader "})
    answer = server("PUT", kept(server), content=said)
    assert answer.status_code == 200, answer.text
    film = Project(tmp_path / "project").find(EXAMPLE)
    assert film is not None and (film.name, film.correction.author) == ("ward?.jpg", "A reader")


def test_what_is_no_correction_at_all_is_a_problem(web, tmp_path):
    server = web(project=tmp_path / "project")
    path = kept(server)
    for content, wanted in ((b"{", (400, "json")), (b"[1]", (422, "correction")), (b"[" * 10**5, (400, "json"))):
        answer = server("PUT", path, content=content)
        assert (answer.status_code, answer.json()["code"]) == wanted
    assert server("PUT", path, content=bytes(6 * 10**6)).json()["code"] == "too-large"
    assert server("PUT", "/v1/films/unknown/corrections", json=SAID).json()["code"] == "film-not-kept"


def test_a_folder_that_cannot_be_written_is_named_and_the_film_stays(web, tmp_path):
    server = web(project=tmp_path / "project")
    path = kept(server)
    (tmp_path / "project/train").rmdir()
    (tmp_path / "project/train").write_text("in the way")
    answer = server("PUT", path, json=SAID)
    assert (answer.status_code, answer.json()["code"]) == (507, "project-not-writable")
    (tmp_path / "project/train").unlink()
    assert server("PUT", path, json=SAID).status_code == 200


def test_without_a_project_there_is_nothing_to_save_to(web):
    server = web()
    assert server("GET", "/v1/about").json()["project"] is False
    assert server("PUT", kept(server), json=SAID).json()["code"] == "not-found"


def test_a_correction_does_not_replace_one_that_its_author_never_saw(web, tmp_path):
    """Two people correct a film at once: the second learns of it, and may replace what the first said, knowing it."""
    server = web(project=tmp_path / "project")
    one, other = kept(server), kept(server)
    assert server("PUT", one, json=SAID | {"author": "A", "after": 0}).status_code == 200
    late = server("PUT", other, json=SAID | {"author": "B", "after": 0})
    assert (late.status_code, late.json()["code"]) == (409, "corrected-meanwhile")
    saved = server("GET", other).json()
    assert saved["count"] == 1 and saved["correction"]["author"] == "A"
    assert server("PUT", other, json=SAID | {"author": "B", "after": 1}).status_code == 200
    assert server("GET", one).json()["correction"]["author"] == "B"
    for wrong in ("1", True, 1.5):
        assert server("PUT", one, json=SAID | {"after": wrong}).status_code == 422


def test_a_project_that_was_put_back_from_a_backup_meanwhile_takes_none_until_a_restart(web, tmp_path):
    server, journal = web(project=tmp_path / "project"), tmp_path / "project/corrections.jsonl"
    path = kept(server)
    server("PUT", path, json=SAID)
    journal.write_bytes(restored := journal.read_bytes().splitlines(keepends=True)[0])
    for method, code, given in (("GET", "readable", {}), ("PUT", "writable", {"json": SAID})):
        answer = server(method, path, **given)
        assert (answer.status_code, answer.json()["code"]) == (507, f"project-not-{code}"), answer.text
        assert "again" in answer.json()["way_out"]
    assert journal.read_bytes() == restored
