"""Bearer tokens: from a file, which may be changed while the server runs, or the environment; never a command line."""

import hashlib
import hmac
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cxrlines.core.errors import Error
from cxrlines.web.problems import Problem

VARIABLE = "CXRLINES_TOKEN"
MIN_LENGTH = 16
"""Characters of a token, at least."""
GRACE_S = 10.0
"""How long the last tokens hold after the file became invalid: an editor's half-written file costs nobody access."""
LOG = logging.getLogger("cxrlines.web")


class Token(NamedTuple):
    """The sha256 of a token, and when it ends (None: never)."""

    digest: bytes
    ends: datetime | None


class Tokens:
    """The tokens that are accepted; without a file and a variable everybody is.

    A file has one a line, with the time it ends after a space if it does (ISO 8601, e.g. 2027-01-31T00:00:00+00:00);
    lines that begin with # are passed over. The file is read again when it changes. Once it cannot be read, or is no
    file of tokens, those read last are accepted for `GRACE_S` after its change, and then none of a file.

    Raises:
        Error: a file or variable without a token, a token that is too short, or a time that is none.
    """

    def __init__(self, file: Path | None, environment: str | None = None) -> None:
        self._file = file
        self._fixed = () if environment is None else _parsed(environment, VARIABLE)
        self._tokens = self._fixed
        self._stamp: _Stamp | None = None  # of the file as it was read last
        self._warned: tuple[_Stamp | None, str] | None = None  # of which invalid file the log knows
        self._holds_until: float | None = None  # None: the file is valid
        if file is not None:
            can_change = file.is_file()
            self._load()
            if not can_change:  # a pipe, which is empty once it is read
                self._file, self._fixed = None, self._tokens

    def __bool__(self) -> bool:
        return self._file is not None or bool(self._fixed)

    @classmethod
    def configured(cls, file: Path | None) -> "Tokens":
        """Those of a file and of this process's environment."""
        return cls(file, os.environ.get(VARIABLE))

    def check(self, authorization: str | None) -> None:
        """`Problem` 401 unless the header holds a token that is accepted now. Compares in constant time."""
        self._refresh()
        if not self:
            return
        kind, _, given = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not given.strip():
            raise _refused("token-missing", "the request has no bearer token", "")
        digest = hashlib.sha256(given.strip().encode()).digest()
        matching = [token for token in self._tokens if hmac.compare_digest(token.digest, digest)]
        if not matching:
            raise _refused("token-wrong", "the bearer token is not one of this server's", "invalid_token")
        if all(token.ends is not None and token.ends <= datetime.now(UTC) for token in matching):
            raise _refused("token-expired", "the bearer token has expired", "invalid_token")

    def _refresh(self) -> None:
        """Read the file again if it has changed; or if it is invalid, which a full disk or the like may have been."""
        if self._file is None:
            return
        stamp = _stamp(self._file)
        if stamp is not None and stamp == self._stamp:
            return
        try:
            self._load()
        except Error as error:
            self._expire(stamp, error)

    def _load(self) -> None:
        """Read the file. `Error` where it cannot be read, or holds what is no token."""
        assert self._file is not None
        try:
            stamp, text = _stamp(self._file), self._file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text in UTF-8"
            raise Error(
                f"--token-file {self._file}: cannot be read ({why})", "name a file of tokens, one a line"
            ) from None
        self._tokens, self._stamp = self._fixed + _parsed(text, f"--token-file {self._file}"), stamp
        self._warned, self._holds_until = None, None

    def _expire(self, stamp: "_Stamp | None", error: Error) -> None:
        """End the file's tokens, once `GRACE_S` have gone since it became invalid; log each change of it."""
        now = time.time()
        if self._holds_until is None:
            changed = now if stamp is None else stamp.changed_ns / 1e9
            self._holds_until = min(now, changed) + GRACE_S
        self._stamp = None
        if now >= self._holds_until:
            self._tokens = self._fixed
        if self._warned != (stamp, error.what):
            end = datetime.fromtimestamp(self._holds_until).astimezone()
            LOG.error("%s; the tokens read before hold until %s, then none of the file", error.what, f"{end:%H:%M:%S}")
            self._warned = stamp, error.what


class _Stamp(NamedTuple):
    """What differs once a file has changed, whatever time it is given."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int


def _stamp(file: Path) -> _Stamp | None:
    """Of a file; None where it is not there, or cannot be asked."""
    try:
        found = file.stat()
    except OSError:
        return None
    return _Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _parsed(text: str, where: str) -> tuple[Token, ...]:
    """The tokens of a text, one a line; `Error` names the line, by `where` the text lies."""
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2 or len(words[0]) < MIN_LENGTH:
            allowed = f"token of at least {MIN_LENGTH} letters, with the time it ends after a space"
            what = f"{where}: line {number} is no {allowed}"
            raise Error(what, "make one by: python -c 'import secrets; print(secrets.token_urlsafe())'")
        ends = None
        if len(words) == 2:
            try:
                ends = datetime.fromisoformat(words[1])
                ends = ends if ends.tzinfo else ends.astimezone()
            except (ValueError, OverflowError):
                what = f"{where}: line {number}: what follows its token is no time"  # and may be a token: not quoted
                raise Error(what, "write ISO 8601, e.g. 2027-01-31T00:00:00+00:00") from None
        tokens.append(Token(hashlib.sha256(words[0].encode()).digest(), ends))
    if not tokens:
        raise Error(f"{where}: holds no token", "write one a line")
    return tuple(tokens)


def _refused(code: str, what: str, error: str) -> Problem:
    """A 401 with its challenge; `error` is RFC 6750's word, empty where no token was sent."""
    challenge = 'Bearer realm="cxrlines"' + (f', error="{error}"' if error else "")
    return Problem(401, code, what, "send Authorization: Bearer TOKEN", {"WWW-Authenticate": challenge})
