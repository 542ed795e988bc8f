"""Pseudonyms of patients: keyed hashes, which lineages, bundles, indexes and trackers hold instead of identifiers.

A token is `NAME:HEX`: the name of a key, and the first 16 hex digits of the HMAC-SHA256 of an identifier under it.

| name | the key |
|---|---|
| `site-` and 8 hex digits | this site's secret: made once, kept by its user (`site_key_file`), never in a bundle |
| any other, e.g. `ranzcr` | published, made from the name: of a public data set, that all sites may compare |
| `sha256` | none: a bare hash, as cxrlines wrote until 0.1; read, never written |

With the site key, identifiers can be tried one by one; without it, a file reveals only how many patients it has, and
which are the same in two files of one site.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrlines.core.errors import Error
from cxrlines.io.external.layouts import LAYOUTS

if TYPE_CHECKING:
    from cxrlines.io.external.sets import External
    from cxrlines.io.tables import DataFolder

SITE, BARE, PHANTOM = "site", "sha256", "phantom"
PSEUDO = "pseudo-labels"
"""The kind of a data folder of real films that a bundle labelled."""
PATIENCE_S = 5.0
"""How long the key of another process, which it is about to write, is waited for."""
DIGITS = 16
CUT = 5
"""Digits of the cut tokens in a bundle, which travels: so few that many identifiers share one, should a key get out."""
SOME = "*"
"""In place of a token's digits: some patients of that public set may be among those meant, under other identifiers."""
VARIABLE = "CXRLINES_SITE_KEY"
"""The environment variable that names another file for the site key."""
_OWN = re.compile(rf"{SITE}-[0-9a-f]{{8}}")


class KeyFileError(Error):
    """The site key cannot be made, read, or is not the one that a run was begun with."""


def site_key_file() -> Path:
    """The file of this user's site key: that named by `CXRLINES_SITE_KEY`, else `~/.config/cxrlines/site.key`."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser()
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "cxrlines" / "site.key"


def site_name(*, make: bool = False) -> str | None:
    """The name of this site's key, which does not reveal the key; None where there is none and none is to be made.

    Raises:
        KeyFileError: the key file cannot be read or made, or holds no key.
    """
    secret = _site_secret(make=make)
    return None if secret is None else f"{SITE}-{hashlib.sha256(b'cxrlines site key' + secret).hexdigest()[:8]}"


def key_name(declared: str = SITE, *, phantom: bool = False) -> str:
    """The name of the key for a data set's patients; a site's key is made where there is none.

    `declared`: `site`, or a public data set's name. `phantom`: whether the patients are synthetic.
    """
    if declared != SITE:
        return declared
    return PHANTOM if phantom else str(site_name(make=True))


def is_phantom(dataset: "DataFolder[Any] | External") -> bool:
    """Whether the patients of a data set are synthetic; of devices drawn onto real films, or read on them, not."""
    return bool(dataset.meta) and dataset.meta.get("kind") not in ("onto", PSEUDO)


def tokens(patients: Iterable[str], name: str) -> list[str]:
    """The token of each patient under the key of that name; a patient who is named by such a token keeps it.

    Raises:
        KeyFileError: it is the key of another site.
    """
    if name == SITE:
        raise ValueError("a site's key has a name of its own, see key_name")
    if name == BARE:
        return [f"{BARE}:{hashlib.sha256(_bytes(str(patient))).hexdigest()[:DIGITS]}" for patient in patients]
    secret = hashlib.sha256(f"cxrlines: the published key of {name}".encode()).digest()
    if _OWN.fullmatch(name):
        own = _site_secret()
        if own is None or site_name() != name:
            raise KeyFileError(
                f"patients are kept under {name}, and the key in {site_key_file()} is "
                + ("another" if own else "missing"),
                f"copy the key file of the machine where this was begun, or name it by {VARIABLE}",
            )
        secret = own
    own_token = re.compile(rf"{re.escape(name)}:[0-9a-f]{{{DIGITS}}}")
    return [
        text
        if own_token.fullmatch(text := str(patient))
        else f"{name}:{hmac.digest(secret, _bytes(text), 'sha256').hex()[:DIGITS]}"
        for patient in patients
    ]


def _bytes(patient: str) -> bytes:
    """A patient's name; without a table it is that of a file, which need not be UTF-8."""
    return patient.encode(errors="surrogateescape")


def is_site_token(patient: str) -> bool:
    """Whether a patient is named by a token of some site's key, as in the tables of corrections."""
    name, _, digits = patient.partition(":")
    return bool(_OWN.fullmatch(name) and re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}", digits))


def cut(token: str) -> str:
    """A token with `CUT` digits."""
    name, _, digits = token.partition(":")
    return f"{name}:{digits[:CUT]}"


def names_in(some: Iterable[str]) -> set[str]:
    """The names of the keys of tokens."""
    return {token.partition(":")[0] for token in some}


def sets_shared_with(some: Iterable[str]) -> list[str]:
    """The public sets of which some patients may be among those of tokens, under other identifiers (`SOME`)."""
    return sorted(token.removesuffix(f":{SOME}") for token in some if token.endswith(f":{SOME}"))


def foreign(names: Iterable[str]) -> set[str]:
    """Those of the keys that belong to other sites: their tokens cannot be compared with patients here."""
    mine = site_name()
    return {name for name in names if _OWN.fullmatch(name) and name != mine}


def as_known(patients: Collection[str], names: Collection[str], declared: str = SITE) -> list[set[str]]:
    """For each patient the tokens that may stand for the patient in files that use the keys `names`.

    Under the site's own key, every published one and as bare hashes; of the public sets that number their patients 1,
    2, 3, only under that of the set the patients are `declared` to be of: a hospital's patient 1 is not the set's.
    """
    keys = {*names, declared} - foreign(names) - {SITE} - (LAYOUTS.keys() - {declared})
    columns = [tokens(patients, name) for name in keys]
    return [set(row) for row in zip(*columns, strict=True)] if columns else [set() for _ in patients]


def _site_secret(*, make: bool = False) -> bytes | None:
    path = site_key_file()
    try:
        if make and not path.exists():
            _make_key(path)
        text = path.read_text().strip() if path.exists() else None
    except (OSError, ValueError) as error:
        raise KeyFileError(
            f"{path}: the site key, under which patients are hashed, cannot be read or made "
            f"({getattr(error, 'strerror', None) or type(error).__name__})",
            f"make its folder writable, or name another file by {VARIABLE}",
        ) from error
    if text is not None and not re.fullmatch(r"[0-9a-f]{64}", text):
        raise KeyFileError(
            f"{path}: holds no site key, which is 64 hex digits",
            "put back the file from a backup; with another key, older lineages of this site count as unknown",
        )
    return None if text is None else bytes.fromhex(text)


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}")
    try:
        _write_key(aside)
        os.link(aside, path)
    except FileExistsError:  # of several processes the first makes everyone's key
        pass
    except OSError:
        if not aside.exists():
            raise
        _make_without_links(path)
    finally:
        aside.unlink(missing_ok=True)


def _write_key(path: Path) -> None:
    """Write a new key to a file that is not there yet, for its user alone; `FileExistsError` if it is."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)  # part of a key is none
        raise


def _make_without_links(path: Path) -> None:
    """Make the key where it belongs, on a disk that has no hard links. Others may see it before it is written."""
    try:
        _write_key(path)
    except FileExistsError:
        until = time.monotonic() + PATIENCE_S
        while not path.stat().st_size and time.monotonic() < until:
            time.sleep(0.05)
