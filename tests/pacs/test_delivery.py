"""What answers of destinations mean, and how long is waited."""

import random

import pydicom
import pytest
import requests

from cxrlines.pacs.delivery import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Unreachable,
    Verdict,
    answer_to_http,
    answer_to_status,
    answer_to_stow,
    pause_s,
)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.TAKEN),
        (0x0111, Verdict.TAKEN),
        (0xB000, Verdict.TAKEN),
        (0xB007, Verdict.TAKEN),
        (0xA700, Verdict.PUT_OFF),
        (0x0110, Verdict.PUT_OFF),
        (0xA900, Verdict.REFUSED),
        (0xA9FF, Verdict.REFUSED),
        (0xC000, Verdict.REFUSED),
        (0xCFFF, Verdict.REFUSED),
        (0x0122, Verdict.REFUSED),
        (0x0124, Verdict.REFUSED),
    ],
)
def test_statuses(status, verdict):
    answer = answer_to_status(status)
    assert answer.verdict is verdict
    assert bool(answer.reason) is bool(status)


def http_error(code: int, body: bytes = b"") -> requests.HTTPError:
    response = requests.Response()
    response.status_code, response._content = code, body
    return requests.HTTPError(response=response)


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(400, Verdict.REFUSED), (404, Verdict.REFUSED), (409, Verdict.REFUSED), (413, Verdict.REFUSED)]
    + [(code, Verdict.PUT_OFF) for code in (408, 425, 429, 500, 502, 503, 507)],
)
def test_http_errors(code, verdict):
    assert answer_to_http(http_error(code, b"<html>")) == (verdict, f"HTTP {code}")


@pytest.mark.parametrize("code", [401, 403, 407])
def test_a_wrong_token_is_no_matter_of_the_result(code):
    with pytest.raises(Unreachable, match=str(code)):
        answer_to_http(http_error(code))


def reply(reason: int | None) -> pydicom.Dataset:
    answer = pydicom.Dataset()
    if reason is not None:
        item = pydicom.Dataset()
        item.FailureReason = reason
        answer.FailedSOPSequence = [item]
    return answer


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [(None, Verdict.TAKEN), (0x0111, Verdict.TAKEN), (0xA700, Verdict.PUT_OFF), (0xC122, Verdict.REFUSED)],
)
def test_what_a_service_says_of_an_instance(reason, verdict):
    assert answer_to_stow(reply(reason)).verdict is verdict
    if reason is not None:  # services say so with 409 as well
        assert answer_to_http(http_error(409, reply(reason).to_json().encode())).verdict is verdict


def test_pauses_grow_to_a_limit_with_jitter():
    rng = random.Random(0)
    for failures in (1, 2, 3, 8, 9, 100, 10_000):
        full = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 60), LONGEST_PAUSE_S)
        pauses = [pause_s(failures, rng) for _ in range(100)]
        assert full / 2 <= min(pauses) < max(pauses) <= full
        assert len(set(pauses)) > 90
