"""What a DICOM node is to do: from a TOML file, from flags, or both; flags go before."""

import ipaddress
import re
import socket
import ssl
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cxrlines.core.errors import Error
from cxrlines.core.pool import cores
from cxrlines.core.text import did_you_mean, must_be
from cxrlines.core.toml_file import read_config
from cxrlines.reading.results.dicom.objects import Kind

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PATHS = (
    "queue",
    "bundle",
    "stow_token",
    *(f"{tls}.{file}" for tls in ("tls", "tls_to") for file in ("cert", "key", "ca")),
)
"""Fields of the file that are paths."""
_AET = re.compile(r"[ -\[\]-~]{1,16}")
_NODE = re.compile(r"(?P<aet>[^@]+)@(?P<host>\[[0-9a-fA-F:.]+\]|[^@:\[\]]+):(?P<port>[0-9]+)")


def _aet(title: str) -> str:
    if not _AET.fullmatch(title) or not title.strip() or title != title.strip():
        raise ValueError("an AE title has 1 to 16 characters of ASCII, no backslash, no space at its ends")
    return title


def _port(number: int) -> int:
    if not 1 <= number <= 65535:
        raise ValueError("a port is 1 to 65535")
    return number


AETitle = Annotated[str, AfterValidator(_aet)]
Port = Annotated[int, AfterValidator(_port)]


class Peer(BaseModel):
    """A DICOM node that results are sent to, written AET@HOST:PORT."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    aet: AETitle
    host: str
    port: Port

    def __str__(self) -> str:
        return f"{self.aet}@{self.host}:{self.port}"


def _peer(value: Any) -> Any:
    if isinstance(value, str):
        if not (parts := _NODE.fullmatch(value)):
            raise ValueError("a node is written AET@HOST:PORT, e.g. PACS@10.0.0.5:104")
        return {"aet": parts["aet"], "host": parts["host"].strip("[]"), "port": int(parts["port"])}
    return value


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@]+(/\S*)?", value):
        raise ValueError("a DICOMweb service is written http(s)://HOST[:PORT]/PATH, without a user name")
    return value.rstrip("/")


def _once(destinations: tuple[Any, ...]) -> tuple[Any, ...]:
    """Destinations as they are; the queue keeps one delivery of a result to each name."""
    names = [str(destination) for destination in destinations]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"each destination is named once, and {twice[0]} is there {names.count(twice[0])} times")
    return destinations


def _some(kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
    if not kinds:
        raise ValueError(f"must name at least one of {', '.join(Kind)}")
    return kinds


class Certificates(BaseModel):
    """Files (PEM) of one side of a TLS connection.

    Attributes:
        cert, key: Its own certificate, with its chain, and key.
        ca: Certificates that the other side's must be signed by. A server then asks for one; a client without it trusts
            those of the system.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None


class NodeSettings(BaseModel):
    """Settings of `cxrlines listen`.

    Attributes:
        aet: The node's AE title.
        port, host: Where it listens; the default host lets no other computer in.
        queue: Folder of films, results and their states; one node's alone.
        to: Nodes that results are sent to by C-STORE.
        stow: DICOMweb services that results are sent to by STOW-RS.
        stow_token: File with the bearer token of the latter, which may be renewed while the node runs.
        calling: AE titles that may send; none: any.
        addresses: Networks that may connect (10.0.0.0/8); none: any.
        associations: Open at once, at most.
        film_mib: Largest film accepted.
        free_mib: Films are refused (out of resources) while the queue's disk has less space than that.
        results: Kinds of results that are made and sent: `sr` report, `pr` presentation state, `sc` capture.
        bundle: Folder of the bundle that reads; none: the embedded reader.
        processes: That read, each with the models in its memory.
        film_s: Seconds that reading a film may take, and so many again its results.
        keep: Whether films and results stay in the queue's folder once they are delivered.
        status_port: Where the page of the queue is, for this computer alone; none: there is none.
        status_host: Address that the page listens on; another than 127.0.0.1 in a container alone, whose computer then
            passes the port on. It answers who calls it 127.0.0.1 or localhost.
        tls: Of the node itself; without, it speaks plain DICOM.
        tls_to: Towards `to` and `stow`; without, `to` is sent plain DICOM.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    aet: AETitle
    port: Port = 11112
    host: str = "127.0.0.1"
    queue: Path
    to: Annotated[tuple[Annotated[Peer, BeforeValidator(_peer)], ...], AfterValidator(_once)] = ()
    stow: Annotated[tuple[Annotated[str, AfterValidator(_url)], ...], AfterValidator(_once)] = ()
    stow_token: Path | None = None
    results: Annotated[tuple[Kind, ...], AfterValidator(_some)] = tuple(Kind)
    calling: tuple[AETitle, ...] = ()
    addresses: tuple[Network, ...] = ()
    associations: Annotated[int, Field(ge=1, le=1000)] = 8
    film_mib: Annotated[int, Field(ge=1, le=512)] = 128
    free_mib: Annotated[int, Field(ge=0)] = 1024
    bundle: Path | None = None
    processes: Annotated[int, Field(ge=1, le=256)] = Field(default_factory=lambda: max(1, cores() // 2))
    film_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    keep: bool = False
    status_port: Port | None = None
    status_host: str = "127.0.0.1"
    tls: Certificates | None = None
    tls_to: Certificates | None = None


def load_settings(config: Path | None, flags: dict[str, Any]) -> NodeSettings:
    """The settings of a TOML file, if there is one, and of flags that are given (not None, nor empty).

    Paths in the file are relative to it. `Error` names the file or flag, the value, and what is allowed.
    """
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    found = {**read_config(config, PATHS), **given}
    try:
        made = NodeSettings.model_validate(found)
    except ValidationError as error:
        raise _problem(error, config, given) or _missing(found, config) from None
    if not made.to and not made.stow:
        raise _missing(found, config)
    if itself := next((peer for peer in made.to if _is_itself(peer, made)), None):
        where = "--to" if "to" in given or config is None else f"--config {config}: field to"
        what = f"{where} is {str(itself)!r}: that is this node itself, which would get its own results"
        raise Error(what, "name the PACS, AET@HOST:PORT")
    return made


def _is_itself(peer: Peer, settings: NodeSettings) -> bool:
    """Whether a destination has the node's AE title and port, and an address of this computer."""
    if (peer.aet, peer.port) != (settings.aet, settings.port):
        return False
    try:
        address = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)[0][4]
        with socket.socket(socket.AF_INET6 if len(address) == 4 else socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.bind((address[0], 0))  # which only an address of this computer allows
    except OSError:
        return False
    return True


def server_tls(files: Certificates | None) -> ssl.SSLContext | None:
    """The context of a node that accepts TLS, of other sides with certificates alone if `files.ca` is given."""
    if files is None:
        return None
    if files.cert is None or files.key is None:
        raise Error("tls: a node needs cert and key", "name both files")
    context = _context(ssl.PROTOCOL_TLS_SERVER, files, "tls")
    if files.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(files: Certificates | None) -> ssl.SSLContext | None:
    """The context towards other nodes: their certificates, and the names in them, are checked."""
    if files is None:
        return None
    context = _context(ssl.PROTOCOL_TLS_CLIENT, files, "tls_to")
    if files.ca is None:
        context.load_default_certs()
    return context


def _context(protocol: int, files: Certificates, field: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if files.cert is not None:
            context.load_cert_chain(files.cert, files.key)
        if files.ca is not None:
            context.load_verify_locations(files.ca)
    except (OSError, ValueError) as error:
        names = ", ".join(str(path) for path in (files.cert, files.key, files.ca) if path)
        why = getattr(error, "strerror", None) or type(error).__name__
        raise Error(f"{field}: {names} cannot be used ({why})", "give files in PEM form that belong together") from None
    return context


def _missing(found: dict[str, Any], config: Path | None) -> Error:
    """All that has to be given and is not."""
    fields = NodeSettings.model_fields
    flags = [f"--{name}" for name, field in fields.items() if field.is_required() and name not in found]
    if not found.get("to") and not found.get("stow"):
        flags.append("--to (or --stow)")
    where = f"--config {config}: " if config else ""
    what = f"{where}{' and '.join(flags)} {'is' if len(flags) == 1 else 'are'} missing"
    example = "cxrlines listen --aet CXRLINES --queue queue --to PACS@10.0.0.5:104"
    return Error(what, f"give flags, as in `{example}`, or fields of these names in the file of --config")


def _problem(error: ValidationError, config: Path | None, flags: dict[str, Any]) -> Error | None:
    """What is wrong first of all; None if it is that a setting is missing."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")  # a misspelt name explains the rest
    place = [str(part) for part in first["loc"] if not str(part).startswith(("IPv4", "IPv6"))]
    field = place[0] if place else "content"
    path = ".".join(place)
    flag = f"--{field.replace('_', '-')}"
    where = flag if field in flags or config is None else f"--config {config}: field {path}"
    if first["type"] == "missing" and len(place) == 1:
        return None
    if first["type"] == "missing":
        return Error(f"{where} is missing", "add it")
    if first["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {"tls": Certificates, "tls_to": Certificates}
        known = (parts.get(field, NodeSettings) if len(place) > 1 else NodeSettings).model_fields
        hint = did_you_mean(place[-1], known)
        return Error(f"{where} is not a setting{hint}; there are: {', '.join(known)}", "correct its name")
    return Error(f"{where} is {str(first['input'])[:80]!r}: {must_be(first)}", "correct it")
