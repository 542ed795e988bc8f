"""The routes: what is answered to a film, to many, to what is none; limits and the queue."""

import asyncio
import json

import jsonschema
import numpy as np
import pytest

from cxrlines.core.errors import OverTime, ReadingFault
from cxrlines.core.film import NotAFilm
from cxrlines.core.findings import json_schema
from cxrlines.io.films import read_film

from .conftest import EXAMPLE, found

JPEG = {"Content-Type": "image/jpeg"}


def problem(response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    assert response.json()["status"] == response.status_code
    return response.status_code, response.json()["code"]


def test_a_film_is_answered_by_its_findings_by_the_schema(web):
    server = web()
    for media in ("application/json", "*/*", "text/html, */*;q=0.8"):
        answer = server("POST", "/v1/read", headers={**JPEG, "Accept": media}, content=EXAMPLE)
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
        jsonschema.validate([answer.json()], json_schema())
        assert answer.json()["lines"] == json.loads(json.dumps(found().as_dict()["lines"]))
        assert answer.json()["bundle"] == server.service.bundle.identity
    assert server.pool.given == 3 * [EXAMPLE]
    assert len(server.service.kept) == 0  # nothing is stored


def test_a_refused_film_is_an_answer_not_a_problem(web):
    answer = web()("POST", "/v1/read", headers=JPEG, content=b"refuse")
    assert answer.status_code == 200 and answer.json()["quality"]["usable"] is False
    jsonschema.validate([answer.json()], json_schema())


def test_many_films_each_get_what_is_theirs(web):
    server = web()
    files = [("film", (name, name.encode())) for name in ("good1", "bad", "refuse", "good2")]
    answer = server("POST", "/v1/read", files=files)
    assert answer.status_code == 200
    assert [film["film"] for film in answer.json()["films"]] == ["good1", "refuse", "good2"]
    (bad,) = answer.json()["problems"]
    assert (bad["film"], bad["code"], bad["way_out"]) == ("bad", "film-unreadable", "copy it again")
    jsonschema.validate(answer.json()["films"], json_schema())


def test_an_empty_file_among_many_is_a_problem_of_its_name(web):
    server = web()
    files = [("film", ("good.dcm", b"good")), ("film", ("empty.dcm", b""))]
    answer = server("POST", "/v1/read", files=files)
    assert [film["film"] for film in answer.json()["films"]] == ["good.dcm"]
    (empty,) = answer.json()["problems"]
    assert (empty["film"], empty["status"], empty["code"]) == ("empty.dcm", 400, "empty")
    assert server.pool.given == [b"good"]


def test_what_is_no_film_says_so_and_the_way_out(web):
    server = web()
    answer = server("POST", "/v1/read", headers=JPEG, content=b"bad")
    assert problem(answer) == (422, "film-unreadable") and answer.json()["detail"] == "the film: is damaged"
    server.pool.answer = lambda _: NotAFilm("the film: is a DICOMDIR", "name a film", "DICOMDIR")
    assert problem(server("POST", "/v1/read", headers=JPEG, content=b"dir")) == (422, "not-a-film")


def test_a_film_over_the_time_limit_is_no_fault_of_the_servers_code(web):
    server = web()
    server.pool.answer = lambda _: OverTime(
        "the film: not read in 2 tries; the last worker process: took longer than 60 s"
    )
    answer = server("POST", "/v1/read", headers=JPEG, content=b"slow")
    assert problem(answer) == (504, "over-time") and "60 s" in answer.json()["detail"]
    server.pool.answer = lambda _: ReadingFault("the film: not read in 2 tries; the last worker process: ended")
    assert problem(server("POST", "/v1/read", headers=JPEG, content=b"dies")) == (500, "fault")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"headers": {"Content-Type": "text/plain"}, "content": b"x"}, (415, "media-type")),
        ({"content": b"x"}, (415, "media-type")),
        ({"headers": JPEG}, (400, "empty")),
        ({"headers": {"Content-Type": "multipart/form-data"}, "content": b"x"}, (400, "multipart-malformed")),
        ({"headers": {**JPEG, "Accept": "text/html"}, "content": b"x"}, (406, "not-acceptable")),
        ({"headers": {"Accept": "image/png"}, "files": {"a": b"x"}}, (406, "not-acceptable")),
        ({"headers": JPEG, "content": bytes(1001)}, (413, "too-large")),
        ({"files": {name: b"x" for name in "abcd"}}, (413, "too-many-films")),
    ],
)
def test_a_request_that_cannot_be_answered_is_a_problem(web, given, wanted):
    server = web(max_body_mb=0.001, max_films=3)
    assert problem(server("POST", "/v1/read", **given)) == wanted
    assert not server.pool.given and server.service.intake.under_way == 0


def test_a_body_whose_length_is_not_announced_is_bounded_too(web):
    server = web(max_body_mb=0.001)

    async def body():
        for _ in range(20):
            yield bytes(100)

    assert problem(server("POST", "/v1/read", headers=JPEG, content=body())) == (413, "too-large")


def test_a_body_that_does_not_arrive_is_given_up(web):
    server = web(body_s=0.05)

    async def body():
        yield b"begun"
        await asyncio.sleep(30)

    assert problem(server("POST", "/v1/read", headers=JPEG, content=body())) == (408, "too-slow")
    assert server.service.intake.under_way == 0


def test_a_full_queue_says_when_to_come_again_and_loses_nothing(web):
    server = web(queue=2)

    async def scene():
        server.pool.held = []
        running = [asyncio.ensure_future(server.ask("POST", "/v1/read", headers=JPEG, content=b"f")) for _ in range(2)]
        while len(server.pool.held) < 2:
            await asyncio.sleep(0)
        late = await server.ask("POST", "/v1/read", headers=JPEG, content=b"late")
        server.pool.release()
        done = await asyncio.gather(*running)
        again = await server.ask("POST", "/v1/read", headers=JPEG, content=b"again")
        return late, done, again

    late, done, again = asyncio.run(scene())
    assert problem(late) == (429, "queue-full") and int(late.headers["retry-after"]) >= 1
    assert [answer.status_code for answer in (*done, again)] == [200, 200, 200]
    assert server.pool.given == [b"f", b"f", b"again"]


def test_requests_together_are_bounded_in_bytes(web):
    server = web(queue=50, memory_mb=0.001, max_body_mb=0.001)

    async def scene():
        server.pool.held = []
        running = asyncio.ensure_future(server.ask("POST", "/v1/read", headers=JPEG, content=bytes(600)))
        while not server.pool.held:
            await asyncio.sleep(0)
        late = await server.ask("POST", "/v1/read", headers=JPEG, content=bytes(600))
        small = asyncio.ensure_future(server.ask("POST", "/v1/read", headers=JPEG, content=bytes(300)))
        while len(server.pool.held) < 2:
            await asyncio.sleep(0)
        server.pool.release()
        return late, await running, await small

    late, running, small = asyncio.run(scene())
    assert problem(late) == (429, "queue-full") and running.status_code == small.status_code == 200


def test_films_of_the_page_are_kept_by_a_random_name_until_they_are_forgotten(web):
    server = web()
    first, second = (server("POST", "/v1/films", headers=JPEG, content=EXAMPLE).json() for _ in range(2))
    assert first["id"] != second["id"] and first["findings"] == second["findings"]
    path = f"/v1/films/{first['id']}"
    pixels = server("GET", f"{path}/pixels.png")
    assert pixels.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(read_film(pixels.content).pixels, read_film(EXAMPLE).pixels)
    assert server("DELETE", path).status_code == 204
    assert problem(server("GET", f"{path}/pixels.png")) == (404, "film-not-kept")
    assert server("GET", f"/v1/films/{second['id']}/drawing.png").status_code == 200


@pytest.mark.parametrize(
    ("accept", "status", "given"),
    [
        ("image/png;q=0.1, application/json", 200, "application/json"),
        ("application/json;q=0.5, image/png;q=0.6", 200, "image/png"),
        ("text/html, application/json;q=0.9, image/png; q=0.9", 200, "application/json"),
        ("*/*;q=0.1, image/png", 200, "image/png"),
        ("image/png;q=0, */*;q=0", 406, "application/problem+json"),
        ("image/png;q=often", 200, "image/png"),
    ],
)
def test_the_weights_of_accept_count(web, accept, status, given):
    server = web()
    answer = server("POST", "/v1/read", headers={**JPEG, "Accept": accept}, content=EXAMPLE)
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (status, given)


def test_head_is_answered_where_services_are_watched(web):
    server = web()
    for path in ("/", "/healthz"):
        answer = server("HEAD", path)
        assert answer.status_code == 200 and answer.content == b""


def test_a_drawing_is_given_to_who_accepts_pictures(web):
    answer = web()("POST", "/v1/read", headers={**JPEG, "Accept": "image/png"}, content=EXAMPLE)
    assert answer.headers["content-type"] == "image/png"
    drawn, film = read_film(answer.content).pixels, read_film(EXAMPLE).pixels
    assert drawn.shape[0] == film.shape[0] and drawn.shape[1] > film.shape[1]  # the film and its strip


def test_unknown_paths_and_methods_are_problems(web):
    server = web()
    assert problem(server("GET", "/v1/nothing")) == (404, "not-found")
    assert problem(server("GET", "/v1/read")) == (405, "method")
    for path in ("/healthz/", "/v1/about/", "/static"):  # and none is redirected
        assert problem(server("GET", path)) == (404, "not-found")
    assert problem(server("GET", "/static/../serve_settings.py")) == (404, "not-found")
    assert problem(server("GET", "/static/%2e%2e/server.py")) == (404, "not-found")


def test_metrics_count_films_by_what_became_of_them(web):
    server = web()
    for film in (b"good", b"good", b"refuse", b"bad"):
        server("POST", "/v1/read", headers=JPEG, content=film)
    text = server("GET", "/metrics").text
    for outcome, count in (("read", 2), ("refused", 1), ("unreadable", 1), ("fault", 0)):
        assert f'cxrlines_films_total{{outcome="{outcome}"}} {count}.0' in text
    assert 'cxrlines_requests_total{method="POST",route="/v1/read",status="422"} 1.0' in text
    assert f'bundle="{server.service.bundle.identity}"' in text
    server("GET", "/v1/read/../../etc")
    assert "etc" not in server("GET", "/metrics").text


def test_its_description_names_every_route_and_resolves(web):
    server = web()
    description = server("GET", "/openapi.json").json()
    assert {"/v1/read", "/v1/films", "/v1/about", "/healthz", "/metrics"} <= set(description["paths"])
    open_ones = {
        path
        for path, methods in description["paths"].items()
        for operation in methods.values()
        if operation.get("security", description["security"]) != [{"token": []}]
    }
    assert open_ones == {"/healthz"} and "token" in description["components"]["securitySchemes"]
    text = json.dumps(description)
    parts = description["components"]["schemas"]
    named = {piece.split('"')[0] for piece in text.split("#/components/schemas/")[1:]}
    assert named and named <= set(parts)
    assert "http://" not in text.replace("http://json-schema.org", "")
    film = {"components": description["components"], **parts["PredictionJson"]}
    answer = server("POST", "/v1/read", headers=JPEG, content=EXAMPLE).json()
    jsonschema.validate(answer, film)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**answer, "lines": 3}, film)
