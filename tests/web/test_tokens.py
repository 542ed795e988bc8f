"""Bearer tokens: of a file, of the environment, their end, and a file that changes."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from cxrlines.core.errors import Error
from cxrlines.web.problems import Problem
from cxrlines.web.tokens import Tokens

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


@pytest.mark.parametrize("text", ["", "# none\n", "short", f"{ONE} tomorrow", f"{ONE} 2027-01-01 more"])
def test_what_holds_no_token_is_refused_without_quoting_it(tmp_path, text):
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(Error) as raised:
        Tokens(file)
    assert str(file) in str(raised.value) and ONE not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Error, match=r"--token-file .* cannot be read \((No such file|it is no text)"):
        Tokens(tmp_path / "none")
