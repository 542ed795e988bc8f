"""Requests that are wrong at random, by a seed: every answer is one that docs/api.md names, and the next is right."""

import asyncio
import json
import os
import random
from collections import Counter
from typing import Any, NamedTuple

import pytest

from .conftest import EXAMPLE, Web

SEED = int(os.environ.get("CXRLINES_SEED", "0"))
TOKEN, FORM = "a-token-of-enough-letters", "multipart/form-data; boundary="
ODD = (
    *("", " ", "\0", "\x7f", "é", "\xff\xfe", "*/*", "null", "http://[", "http://[::1", "//", "[", "]:", "%", "\t"),
    *("..", "../..", "a" * 9000, "9" * 5000, "-1", "1e400", "²", "'", '"', ";", "; ;=", "boundary", "127.0.0.1"),
    *(FORM, f'{FORM}"', f"{FORM}x; boundary=y", "multipart/form-data; boundary*=utf-8''x", "Bearer ", "Basic x"),
    *(
        "application/dicom, image/png",
        "[::1]:99999999",
        f"Bearer {TOKEN}",
        "same-origin",
        "image/jpeg;q=",
        "=",
        "Basic x",
    ),
)
HEADERS = ("host", "origin", "accept", "content-type", "content-length", "authorization", "sec-fetch-site", "expect")
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "FOO")
PATHS = (
    *("/", "/v1/read", "/v1/films", "/v1/about", "/v1/example.jpg", "/healthz", "/metrics", "/openapi.json"),
    *("/static/", "/static/main.js", "/static/{}", "/v1/films/{}", "/v1/films/{}/pixels.png", "/{}"),
    "/v1/films/{}/corrections",
)


class Answer(NamedTuple):
    """What a request was answered."""

    status: int
    headers: dict[str, str]
    body: bytes


async def asked(server: Web, method: str, path: str, headers: list[tuple[bytes, bytes]], body: list[bytes]) -> Answer:
    """The answer of the server to a request as it is, which no client would send."""
    plain, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
        "method": method, "path": plain, "raw_path": plain.encode(), "query_string": query.encode(), "headers": headers,
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8080),
    }  # fmt: skip
    left, sent = list(body), []

    async def receive() -> dict[str, Any]:
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await server.guard(scope, receive, send)
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], named, b"".join(message.get("body", b"") for message in sent[1:]))


def ask(server: Web, *request: Any) -> Answer:
    """As `asked`, in time."""
    return asyncio.run(asyncio.wait_for(asked(server, *request), 60))


def damaged(rng: random.Random, data: bytes) -> bytes:
    """With bytes changed, lost, doubled."""
    made = bytearray(data)
    for _ in range(rng.randrange(4)):
        place, length = rng.randrange(len(made) + 1), rng.randrange(12)
        put = rng.choice([rng.randbytes(length), bytes(made[:length]), b"\r\n", b"--"])
        made[place : place + length * rng.randrange(2)] = put
    return bytes(made)


def multipart(rng: random.Random) -> tuple[bytes, bytes]:
    """(Content-Type, body) of films, one of them called oddly."""
    parts = []
    for number in range(rng.randrange(1, 5)):
        name = rng.choice([*ODD, "film.dcm"]).encode("utf-8", "replace")
        content = rng.choice([b"refuse", b"bad", b"", b"film", rng.randbytes(40)])
        parts.append(
            b'--edge\r\nContent-Disposition: form-data; name="a%d"; filename="%s"\r\n\r\n' % (number, name) + content
        )
    return b"multipart/form-data; boundary=edge", damaged(rng, b"\r\n".join(parts) + b"\r\n--edge--\r\n")


def request(rng: random.Random, film: str) -> tuple[str, str, list[tuple[bytes, bytes]], list[bytes]]:
    """A request that is right but for some of its parts."""
    method, path = rng.choice([("POST", "/v1/read"), ("POST", "/v1/films"), (rng.choice(METHODS), rng.choice(PATHS))])
    path = path.format(rng.choice([*ODD, film, film])) + rng.choice(["", "", "?x=1", "?" + rng.choice(ODD)])
    kind, body = rng.choice([(b"image/jpeg", damaged(rng, rng.choice([b"film", b"refuse", b"bad"]))), multipart(rng)])
    headers = {b"host": b"127.0.0.1:8080", b"content-type": kind, b"authorization": f"Bearer {TOKEN}".encode()}
    for _ in range(rng.choice([0, 1, 1, 2])):
        name = rng.choice(HEADERS).encode()
        headers[name] = damaged(rng, rng.choice(ODD).encode("utf-8", "replace"))
    place = rng.randrange(len(body) + 1)
    return method, path, list(headers.items()), [body[:place], body[place:]]


def fuzz_requests(server: Web, cases: int) -> Counter[int]:
    rng = random.Random(SEED)
    headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {TOKEN}"}
    film = server("POST", "/v1/films", headers=headers, content=EXAMPLE).json()["id"]
    said: Counter[int] = Counter()
    for number in range(cases):
        made = request(rng, film)
        answer = ask(server, *made)
        said[answer.status] += 1
        assert answer.status < 500 or answer.status == 501, (number, made, answer)
        if answer.status >= 400 and made[0] != "HEAD":
            problem = json.loads(answer.body)
            assert problem["status"] == answer.status and problem["detail"], (number, made)
            assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert server.service.intake.under_way == 0 and server.guard.under_way == 0
    right = server("POST", "/v1/read", headers=headers, content=EXAMPLE)
    assert right.status_code == 200 and right.json()["lines"]
    return said


def test_400_requests(web):
    said = fuzz_requests(web(tokens=TOKEN, max_films=3), 400)
    assert {200, 400, 401, 403, 404, 405, 406, 413, 415, 421, 422} <= set(said), said


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_200_000_requests(web):
    fuzz_requests(web(tokens=TOKEN, max_films=3), 200_000)


VALUES = (
    *(None, True, -1, 0, 1, 0.5, 1e308, -1e308, 10**400, float("nan"), float("inf"), [], {}, [[]], [[1, 2]], [{}]),
    *("", "x", "\0", "\ud800", "a" * 100_000, {"": ""}, "ETT", "Normal", "moved", "2026-01-01T00:00:00Z", "../../etc"),
    *("=1+1", "\r\n"),
)
SAID: dict[str, Any] = {
    "name": "ward.jpg", "author": "A reader", "labels": {"NGT - Normal": 0}, "comment": "moved",
    "landmarks": {"carina": [620.0, 530.0]},
    "lines": [
        {"device": "ETT", "points": [[600.0, 20.0], [610.0, 480.0]], "mark": "moved", "state": "Normal", "of": 0}
    ],
}  # fmt: skip


def changed(rng: random.Random, value: Any) -> Any:
    """A JSON value with one part another, or missing, or more."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        made = {key: changed(rng, one) if key == name else one for key, one in value.items()}
        return {**made, rng.choice(["x", "\ud800", name]): rng.choice(VALUES)} if rng.random() < 0.1 else made
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], changed(rng, value[place]), *value[place + 1 :]] * rng.choice([1, 1, 1, 40])
    return rng.choice(VALUES)


def fuzz_corrections(server: Web, cases: int) -> Counter[int]:
    rng = random.Random(SEED)
    film = server("POST", "/v1/films", headers={"Content-Type": "image/jpeg"}, content=EXAMPLE).json()["id"]
    path, headers = f"/v1/films/{film}/corrections", [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    said: Counter[int] = Counter()
    latest, count = None, 0
    for number in range(cases):
        body = json.dumps(changed(rng, SAID), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        body = damaged(rng, body) if rng.random() < 0.2 else b"[" * 100_000 if rng.random() < 0.01 else body
        answer = ask(server, "PUT", path, headers, [body])
        said[answer.status] += 1
        assert answer.status in (200, 400, 422), (number, body[:2000], answer)
        if answer.status == 200:
            latest, count = json.loads(answer.body)["correction"], count + 1
        else:
            assert json.loads(answer.body)["code"] in ("json", "correction"), (number, body[:2000])
    saved = json.loads(ask(server, "GET", path, headers, [b""]).body)
    assert (saved["count"], saved["correction"]) == (count, latest)
    return said


def test_200_corrections(web, tmp_path):
    said = fuzz_corrections(web(project=tmp_path / "project"), 200)
    assert said[200] > 10 and said[422] > 50 and said[400] > 5


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_20_000_corrections(web, tmp_path):
    fuzz_corrections(web(project=tmp_path / "project"), 20_000)
