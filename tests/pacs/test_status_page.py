"""The page of a node's queue: what it says, to whom, and that nothing on it is markup of someone else's."""

import http.client
import json
import re
import socket
from html import unescape

import pytest
from pydantic import ValidationError

from cxrlines.core.errors import Error
from cxrlines.pacs.film_queue import FilmQueue
from cxrlines.pacs.node_settings import load_settings
from cxrlines.pacs.queue_database import FilmState
from cxrlines.pacs.status_page import MOST, page, status_page

HOST = "127.0.0.1"
TO = "PACS@10.0.0.5:104"


@pytest.fixture
def queue(tmp_path):
    """Four films: delivered, dead, urgent and read, received; a destination that is down."""
    made = FilmQueue(tmp_path / "queue")
    for number in range(4):
        made.add(b"film", f"PLANTED {number}", f"1.2.{number}", "PLANTED@10.0.0.7")
    for film in made.take(3):
        (place,) = made.result_places(film, 1)
        place.write_bytes(b"report")
        if film.number == 2:
            made.give_up(film, FilmState.DEAD, "<script>alert(1)</script>")
        else:
            made.add_results(film, [("sr", f"2.25.{film.number}")], film.number == 3, [TO])
    made.delivered(next(parcel for parcel in made.waiting(TO, 9) if parcel.film == 1))
    made.set_problem(TO, "does not answer")
    made.count("CT Image Storage")
    yield made
    made.close()


@pytest.fixture
def port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def words(text: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", text))


def get(port: int, path: str = "/", host: str = "127.0.0.1") -> tuple[int, dict[str, str], str]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        line.request("GET", path, headers={"Host": host})
        answer = line.getresponse()
        return answer.status, dict(answer.headers), answer.read().decode()
    finally:
        line.close()


def test_it_says_what_the_status_says(queue):
    status = queue.status()
    text = words(page("NODE", status))
    said = dict(re.findall(r"(\w+) +(\d+)", text[text.index("received") : text.index("Urgent")]))
    assert {state: int(n) for state, n in said.items()} == status["films"]
    assert "2 matters need a person" in text and "The oldest film under way is 3" in text
    assert "Destinations with a problem" in text and "does not answer" in text
    assert "CT Image Storage" in text and "Urgent, not delivered" in text
    empty = status | {"dead_letters": [], "unreachable": [], "urgent_waiting": [], "oldest_waiting": None}
    text = words(page("NODE", empty))
    assert "All is well" in text and "Dead letters" not in text and "Urgent" not in text


def test_neither_markup_nor_a_patient_nor_a_thousand_rows_get_in(queue):
    status = queue.status()
    made = page("<b>NODE", status)
    assert "<script" not in made and "&lt;script&gt;" in made and "<b>" not in made
    assert "PLANTED" not in made and "1.2.0" not in made
    many = page("NODE", status | {"dead_letters": status["dead_letters"] * (MOST + 5)})
    assert many.count("&lt;script&gt;") == MOST and "and 5 more" in many


def test_it_is_served_to_this_computer_by_its_own_name(queue, port):
    with status_page(HOST, port, "NODE", queue.status):
        code, headers, text = get(port)
        assert (code, text) == (200, page("NODE", queue.status())) and headers["Refresh"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Refresh" not in get(port, "/?still")[1]
        assert get(port, "/page.css")[1]["Content-Type"].startswith("text/css")
        assert json.loads(get(port, "/status.json")[2]) == queue.status()
        assert get(port, "/queue.sqlite")[0] == 404 and get(port, host="evil.example")[0] == 421
        with pytest.raises(Error, match=f"--status-port {port}"), status_page(HOST, port, "NODE", queue.status):
            pytest.fail("two on one port")
    with pytest.raises(OSError):
        get(port)


def test_where_it_listens_and_who_calls_it(queue, port):
    with status_page("0.0.0.0", port, "NODE", queue.status):  # as in a container, whose port is passed on
        assert get(port)[0] == 200 and get(port, host=f"localhost:{port}")[0] == 200
        assert get(port, host="0.0.0.0")[0] == 421
    elsewhere = "192.0.2.1"  # of documentation: no computer has it
    with pytest.raises(Error, match=f"--status-port {port}: {elsewhere} cannot"):
        status_page(elsewhere, port, "NODE", queue.status).__enter__()


def test_a_queue_that_cannot_be_read_is_said(port):
    def broken() -> dict[str, object]:
        raise OSError("PLANTED")

    with status_page(HOST, port, "NODE", broken):
        code, _, text = get(port)
        assert code == 503 and "OSError" in text and "PLANTED" not in text


def test_without_a_port_there_is_none():
    with status_page(HOST, None, "NODE", lambda: pytest.fail("asked")):
        assert load_settings(None, {"aet": "A", "queue": "q", "stow": ("http://pacs",)}).status_port is None
    with pytest.raises((Error, ValidationError), match="a port is 1 to 65535"):
        load_settings(None, {"aet": "A", "queue": "q", "stow": ("http://pacs",), "status_port": 0})
