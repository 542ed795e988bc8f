"""What `cxrlines serve` is set to: its flags, and the rest in a TOML file whose fields are those of `ServeSettings`."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxrlines.core.errors import Error
from cxrlines.core.text import did_you_mean, must_be
from cxrlines.core.toml_file import read_config

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MB = 10**6
PATHS = ("bundle", "project", "index", "token_file", "tls_certificate", "tls_key")
"""Fields of the file that are paths."""


class ServeSettings(BaseModel):
    """Settings of the server.

    Attributes:
        host, port: Where it listens; port 0: a free one. Other than loopback needs a token.
        hosts: Further names by which it is called, as a reverse proxy passes them on.
        bundle: Bundle folder; None: the embedded reader.
        project: Folder that corrections are saved in; None: nothing is stored.
        index: File of an index of known films, which the page shows similar films from; None: it shows none.
        processes: Workers that read.
        token_file: File of bearer tokens, see `tokens`.
        tls_certificate, tls_key: PEM files; both, or none.
        max_body_mb: Largest request.
        max_films: Most films of one request.
        queue: Requests with films under way at once; further ones are answered by 429.
        memory_mb: Most of the requests under way together, and most of the films kept for the page.
        timeout_s: Longest that a film may be read, and longest that similar films may be searched.
        body_s: Longest that a request may take to arrive.
        keep: Films kept in memory for the page.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    hosts: tuple[str, ...] = ()
    bundle: Path | None = None
    project: Path | None = None
    index: Path | None = None
    processes: Annotated[int, Field(ge=1, le=256)] = 1
    token_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    max_body_mb: Annotated[float, Field(gt=0, le=2000)] = 150
    max_films: Annotated[int, Field(ge=1, le=1000)] = 50
    queue: Annotated[int, Field(ge=1, le=10_000)] = 64
    memory_mb: Annotated[float, Field(gt=0)] = 1000
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60
    body_s: Annotated[float, Field(gt=0, le=3600)] = 60
    keep: Annotated[int, Field(ge=1, le=1000)] = 50

    @property
    def max_body(self) -> int:
        """Bytes of the largest request."""
        return int(self.max_body_mb * MB)

    @property
    def memory(self) -> int:
        """Bytes, at least those of one request."""
        return max(int(self.memory_mb * MB), self.max_body)

    def allows(self, host: str) -> bool:
        """Whether a request may name this host (without its port).

        The loopback names, the address it is bound to, and `hosts`; bound to all addresses any address, but no name: a
        page elsewhere can point a name of its own at this machine, not an address.
        """
        host = host.strip("[]").lower()
        if host in (*LOOPBACK, self.host.lower(), *(name.lower() for name in self.hosts)):
            return True
        return self.host in ("0.0.0.0", "::") and _address(host) is not None


def load_settings(config: Path | None, given: Mapping[str, Any]) -> ServeSettings:
    """The settings of a TOML file, over which those given go that are not None.

    Paths in the file are relative to it. `Error` names the file or the field, the value, and what is allowed.
    """
    values = read_config(config, PATHS) | {name: value for name, value in given.items() if value is not None}
    try:
        settings = ServeSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        flag = given.get(str(first["loc"][0])) is not None
        place = f"--{field.replace('_', '-')}" if flag else f"--config {config}: {field}"
        if first["type"] == "extra_forbidden":
            known = ServeSettings.model_fields
            hint = did_you_mean(field, known)
            raise Error(f"{place} is not a setting{hint}", f"there are: {', '.join(known)}") from None
        raise Error(f"{place} is {str(first['input'])[:80]!r}", must_be(first)) from None
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise Error("TLS needs a certificate and its key; one is named", "name both tls_certificate and tls_key")
    return settings


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
