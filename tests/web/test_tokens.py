"""Bearer tokens: of a file, of the environment, their end, and a file that changes."""

import logging
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cxrlines.core.errors import Error
from cxrlines.web.problems import Problem
from cxrlines.web.tokens import GRACE_S, Tokens

ONE, OTHER = "first-token-of-letters", "second-token-of-letters"


def refused(tokens: Tokens, header: str | None) -> str | None:
    try:
        tokens.check(header)
    except Problem as problem:
        assert problem.status == 401 and "WWW-Authenticate" in problem.headers
        assert ONE not in str(problem.as_dict()) and OTHER not in str(problem.as_dict())
        return problem.code
    return None


def test_without_any_everybody_is_accepted():
    tokens = Tokens(None)
    assert not tokens and refused(tokens, None) is None


def test_each_of_a_file_and_of_the_environment_is_accepted(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"# the ward\n{ONE}\n\n")
    tokens = Tokens(file, OTHER)
    assert tokens
    for good in (f"Bearer {ONE}", f"bearer {OTHER}"):
        assert refused(tokens, good) is None
    for bad in (None, "", "Bearer", f"Basic {ONE}", ONE):
        assert refused(tokens, bad) == "token-missing"
    for bad in (f"Bearer {ONE}x", f"Bearer {ONE[:-1]}", f"Bearer {ONE} {OTHER}", "Bearer \xe9\xe9"):
        assert refused(tokens, bad) == "token-wrong"


def test_an_expired_one_is_refused_as_such():
    now = datetime.now(UTC)
    ends = {ONE: now - timedelta(seconds=1), OTHER: now + timedelta(hours=1)}
    tokens = Tokens(None, "\n".join(f"{token} {end.isoformat()}" for token, end in ends.items()))
    assert refused(tokens, f"Bearer {ONE}") == "token-expired"
    assert refused(tokens, f"Bearer {OTHER}") is None


def test_a_file_that_changes_is_read_again_and_one_that_goes_leaves_the_last(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(ONE)
    tokens = Tokens(file)
    file.write_text(OTHER)
    os.utime(file, ns=(1, 1))  # whatever the clock's steps are
    assert refused(tokens, f"Bearer {ONE}") == "token-wrong" and refused(tokens, f"Bearer {OTHER}") is None
    file.write_text("short")
    os.utime(file, ns=(2, 2))
    assert refused(tokens, f"Bearer {OTHER}") is None
    file.unlink()
    assert refused(tokens, f"Bearer {OTHER}") is None


@pytest.fixture
def later(monkeypatch):
    """Lets a number of seconds go by."""
    now = time.time

    def pass_by(seconds: float) -> None:
        monkeypatch.setattr("cxrlines.web.tokens.time.time", lambda: now() + seconds)

    return pass_by


INVALID = {
    "a short word": f"{OTHER}\nshort\n",
    "no date": f"{OTHER} 31.01.2027\n",
    "a year before all": f"{OTHER} 0001-01-01\n",
    "empty": "",
    "no text": b"\xff\xfe",
    "gone": None,
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_a_token_taken_from_a_file_that_is_invalid_then_ends_and_the_log_says_why(tmp_path, later, caplog, text):
    file = tmp_path / "tokens"
    file.write_text(f"{ONE}\n{OTHER}\n")
    tokens = Tokens(file)
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for header in (f"Bearer {ONE}", f"Bearer {OTHER}"):  # an editor may be writing it
        assert refused(tokens, header) is None
    (record,) = caplog.records  # once for each change, not each request
    assert record.levelno == logging.ERROR and str(file) in record.getMessage()
    assert ONE not in caplog.text and OTHER not in caplog.text and "31.01" not in caplog.text
    later(GRACE_S + 1)
    for header in (f"Bearer {ONE}", f"Bearer {OTHER}"):
        assert refused(tokens, header) == "token-wrong"
    assert tokens and refused(tokens, None) == "token-missing"  # no token at all never means everybody
    assert len(caplog.records) == 1
    file.write_text(f"{OTHER}\n")
    assert refused(tokens, f"Bearer {OTHER}") is None and refused(tokens, f"Bearer {ONE}") == "token-wrong"
    file.write_text("short")
    later(2 * (GRACE_S + 1))
    assert refused(tokens, f"Bearer {OTHER}") == "token-wrong" and len(caplog.records) == 2


def test_a_file_that_was_invalid_for_long_gives_no_grace_to_the_next_request(tmp_path, later):
    file = tmp_path / "tokens"
    file.write_text(f"{ONE}\n{OTHER}\n")
    tokens = Tokens(file)
    file.write_text(f"{OTHER}\nshort\n")
    later(GRACE_S + 1)
    assert refused(tokens, f"Bearer {ONE}") == "token-wrong"


def test_the_token_of_the_environment_outlives_an_invalid_file(tmp_path, later):
    file = tmp_path / "tokens"
    file.write_text(ONE)
    tokens = Tokens(file, OTHER)
    file.unlink()
    assert refused(tokens, f"Bearer {ONE}") is None
    later(GRACE_S + 1)
    assert refused(tokens, f"Bearer {ONE}") == "token-wrong" and refused(tokens, f"Bearer {OTHER}") is None


def test_a_file_that_cannot_be_read_for_a_moment_is_read_again(tmp_path, later, monkeypatch):
    file = tmp_path / "tokens"
    file.write_text(ONE)
    tokens = Tokens(file)
    os.utime(file, ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(
            "pathlib.Path.read_text", lambda *given: (_ for _ in ()).throw(OSError(24, "Too many open files"))
        )
        later(GRACE_S + 1)
        assert refused(tokens, f"Bearer {ONE}") == "token-wrong"
    assert refused(tokens, f"Bearer {ONE}") is None


def test_a_pipe_is_read_once(later):
    reading, writing = os.pipe()
    os.write(writing, ONE.encode())
    os.close(writing)
    tokens = Tokens(Path(f"/dev/fd/{reading}"))
    later(GRACE_S + 1)
    assert tokens and refused(tokens, f"Bearer {ONE}") is None and refused(tokens, None) == "token-missing"
    os.close(reading)
    assert refused(tokens, f"Bearer {ONE}") is None


def test_a_file_with_the_time_and_size_of_the_last_is_read_as_well(tmp_path):
    file, new = tmp_path / "tokens", tmp_path / "new"
    file.write_text(ONE)
    tokens = Tokens(file)
    new.write_text(OTHER[: len(ONE)])
    os.utime(new, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    new.replace(file)
    assert refused(tokens, f"Bearer {ONE}") == "token-wrong"


@pytest.mark.parametrize(
    "text",
    ["", "# none\n", "short", f"{ONE} tomorrow", f"{ONE} 0001-01-01", f"{OTHER} {ONE}", f"{ONE} 2027-01-01 more"],
)
def test_what_holds_no_token_is_refused_without_quoting_it(tmp_path, text):
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(Error) as raised:
        Tokens(file)
    assert str(file) in str(raised.value) and ONE not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Error, match=r"--token-file .* cannot be read \((No such file|it is no text)"):
        Tokens(tmp_path / "none")
