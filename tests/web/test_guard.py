"""Who may call, from which page, how answers are marked, and what is logged."""

import asyncio
import logging

import pytest
from h11 import LocalProtocolError

from cxrlines.web.guard import HEADERS
from cxrlines.web.serve_settings import ServeSettings

JPEG = {"Content-Type": "image/jpeg"}


def code(response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (
        set(problem) == {"title", "status", "code", "detail", "way_out"} and problem["status"] == response.status_code
    )
    return response.status_code, problem["code"]


def test_a_name_that_points_here_is_not_a_name_of_this_server(web):
    server = web()
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::1", "localhost.evil.example"):
        assert code(server("GET", "/v1/about", headers={"Host": host})) == (421, "host")
    for host in ("127.0.0.1", "localhost:8080", "LOCALHOST", "[::1]:8080", "127.0.0.1:1"):
        assert server("GET", "/v1/about", headers={"Host": host}).status_code == 200


def test_the_address_and_the_names_of_the_settings_are_allowed():
    assert ServeSettings(hosts=("reader.hospital.example",)).allows("Reader.hospital.example")
    assert ServeSettings(host="10.0.0.5").allows("10.0.0.5") and not ServeSettings(host="10.0.0.5").allows("10.0.0.6")
    everywhere = ServeSettings(host="0.0.0.0")
    assert everywhere.allows("10.0.0.6") and not everywhere.allows("reader.hospital.example")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:3000", "http://127.0.0.1"])
def test_the_page_of_another_site_cannot_call(web, origin):
    server = web()
    sent = {"Host": "127.0.0.1:8080", "Origin": origin, **JPEG}
    assert code(server("POST", "/v1/read", headers=sent, content=b"film")) == (403, "origin")
    assert not server.pool.given


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("https://films.hospital", "films.hospital:443", 200),  # as reverse proxies pass it on
        ("https://films.hospital:443", "Films.Hospital", 200),
        ("http://films.hospital", "films.hospital:80", 200),
        ("http://[::1]:8080", "[::1]:8080", 200),
        ("http://[::1]:8080", "[::1]:8081", 403),
        ("http://[::1]:8080", "127.0.0.1:8080", 403),
        ("http://films.hospital", "films.hospital:443", 403),
        ("https://films.hospital:8443", "films.hospital", 403),
        ("http://films.hospital:x", "films.hospital", 403),
        ("file://", "films.hospital", 403),
        ("", "films.hospital", 403),
    ],
)
def test_the_own_page_is_known_with_or_without_the_usual_port(web, origin, host, status):
    server = web(hosts=("films.hospital",))
    assert server("GET", "/v1/about", headers={"Host": host, "Origin": origin}).status_code == status


def test_the_own_page_can_call_and_a_link_to_it_be_followed(web):
    server = web()
    own = {"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin", **JPEG}
    assert server("POST", "/v1/read", headers=own, content=b"film").status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert server("GET", "/", headers=link).status_code == 200
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert code(server("GET", "/v1/about", headers=embedded)) == (403, "origin")
    framed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    assert code(server("GET", "/", headers=framed)) == (403, "origin")


def test_every_answer_is_marked(web):
    server = web()
    for path in ("/", "/healthz", "/nothing", "/v1/about", "/static/main.js"):
        headers = server("GET", path).headers
        for name, value in HEADERS.items():
            assert headers[name] == value
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_a_token_is_asked_for_where_there_is_one(web):
    server = web(tokens="a-token-of-enough-letters")
    for path in ("/v1/about", "/metrics", "/openapi.json", "/v1/films/x/pixels.png", "/nothing"):
        answer = server("GET", path)
        assert code(answer) == (401, "token-missing") and answer.headers["www-authenticate"].startswith("Bearer")
    for path in ("/", "/healthz", "/static/page.css"):
        assert server("GET", path).status_code == 200
    assert code(server("GET", "/v1/about", headers={"Authorization": "Bearer wrong-token"})) == (401, "token-wrong")
    right = {"Authorization": "Bearer a-token-of-enough-letters"}
    assert server("GET", "/v1/about", headers=right).status_code == 200


def test_a_film_without_a_token_is_not_read(web):
    server = web(tokens="a-token-of-enough-letters")
    assert code(server("POST", "/v1/read", headers=JPEG, content=b"film")) == (401, "token-missing")
    assert not server.pool.given


def test_a_server_that_drains_finishes_what_is_under_way_and_begins_nothing(web):
    server = web()

    async def scene():
        server.pool.held = []
        running = asyncio.ensure_future(server.ask("POST", "/v1/read", headers=JPEG, content=b"film"))
        while not server.pool.held:
            await asyncio.sleep(0)
        server.guard.draining = True
        late = await server.ask("POST", "/v1/read", headers=JPEG, content=b"late")
        health = await server.ask("GET", "/healthz")
        server.pool.release()
        return await running, late, health

    running, late, health = asyncio.run(scene())
    assert running.status_code == 200
    assert code(late) == (503, "draining") and late.headers["retry-after"]
    assert (health.status_code, health.json()) == (503, {"status": "draining"})
    assert server.guard.under_way == 0 and server.pool.given == [b"film"]


def test_neither_logs_nor_metrics_say_what_a_caller_wrote(web, caplog):
    server = web()
    secret = "DOE^JANE"
    with caplog.at_level(logging.DEBUG):
        server("GET", f"/v1/{secret}")
        server("GET", f"/v1/films/{secret}/pixels.png?patient={secret}")
        server("GET", "/healthz", headers={"X-Patient": secret, "User-Agent": secret})
        server(secret.replace("^", ""), "/v1/read")
        server("POST", "/v1/read", files={"a": (secret, b"bad " + secret.encode()), "b": (secret, b"film")})
    ours = [record for record in caplog.records if record.name == "cxrlines.web"]
    assert len(ours) == 5 and not any("DOE" in record.getMessage() for record in ours)
    assert "DOE" not in server("GET", "/metrics").text


def test_a_fault_is_named_without_what_it_quotes(web, caplog):
    server = web()

    def fails(source: bytes):
        raise ValueError("DOE^JANE was the patient")

    server.pool.answer = fails
    with caplog.at_level(logging.DEBUG):
        answer = server("POST", "/v1/read", headers=JPEG, content=b"film")
    assert code(answer) == (500, "fault") and "DOE" not in answer.text
    said = " ".join(record.getMessage() for record in caplog.records if record.name == "cxrlines.web")
    assert "ValueError" in said and "web/" in said and "DOE" not in said


def test_a_connection_that_ended_meanwhile_is_no_fault(web, caplog):
    """A body that is no HTTP: uvicorn has answered it by 400 and takes no other answer."""
    server, said = web(), []

    async def receive():
        return {"type": "http.request", "body": b"film", "more_body": False}

    async def send(message):
        said.append(message["type"])
        raise LocalProtocolError("can't handle event type Response when role=SERVER and state=MUST_CLOSE")

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"image/jpeg")]
    scope = {"type": "http", "method": "POST", "path": "/v1/read", "query_string": b"", "headers": headers}
    with caplog.at_level(logging.DEBUG):
        asyncio.run(server.guard(scope, receive, send))
    assert said == ["http.response.start"] and server.pool.given == [b"film"]
    assert "fault" not in caplog.text and server.guard.under_way == 0
