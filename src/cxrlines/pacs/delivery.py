"""Results on their way: C-STORE to a node, STOW-RS to a DICOMweb service, and which answers are final.

Each `send` yields an answer for each result in turn, and raises `Unreachable` where the destination itself is the
matter; what had no answer then stays as it was. Where a connection ends over a result, that one is deferred and is the
last to be answered: an object that a destination breaks on does not keep back all others. The same object sent twice is
the same bytes.
"""

import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urljoin

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProtocolError

from cxrlines.core.errors import Error
from cxrlines.pacs.node_settings import Certificates, Peer, client_tls
from cxrlines.pacs.receiver import TIMEOUT_S

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
SLOWEST = 50_000
"""Bytes/s that a result may take to get there."""
CUT = "the connection ended over it"
NOT_NAMED = "the response names it neither as stored nor as failed"
MEDIA_TYPES = ("application/dicom+json", "application/json", "application/dicom+xml", "application/xml")
"""Of a Store Instances Response."""
# Scheme, host with port, and the path up to its first part with anything but letters: UIDs and the like are left out.
_PLACE = re.compile(r"(https?://)(?:[^/?#]*@)?([\w.:\[\]-]+(?=[/?#]|$)(?:/[a-z_.-]+(?=[/;?#]|$))*/?)", re.A | re.I)


class Verdict(StrEnum):
    """What a destination says to a result."""

    TAKEN = "taken"
    REFUSED = "refused"  # and would be again
    DEFERRED = "deferred"


class Answer(NamedTuple):
    """An answer to a result; `reason` has codes of standards alone."""

    verdict: Verdict
    reason: str = ""


class Unreachable(Exception):
    """A destination takes nothing now: it is down, rejects us, or asks for another certificate or token."""


class Destination(Protocol):
    """Where results go."""

    name: str

    def send(self, results: Sequence[Path]) -> Iterator[Answer]:
        """Send DICOM files; an answer for each, in their order, up to one that ends the connection. Raises
        `Unreachable`."""
        ...

    def cut(self) -> None:
        """End what another thread sends: its result is deferred, or the destination unreachable."""
        ...


def allowed_s(result: Path) -> float:
    """Seconds that a result may take from its first byte to the answer."""
    return TIMEOUT_S + result.stat().st_size / SLOWEST


def pause_s(failures: int, rng: random.Random) -> float:
    """Seconds to wait after so many failures in a row (from 1 on): doubled each time, with jitter."""
    return min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE_S) * rng.uniform(0.5, 1.0)


class StorageNode:
    """A node that takes results by C-STORE."""

    def __init__(self, peer: Peer, aet: str, tls: ssl.SSLContext | None = None) -> None:
        self.name, self._peer, self._tls = str(peer), peer, tls
        self._connection: socket.socket | None = None
        self._ae = AE(ae_title=aet)
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = TIMEOUT_S
        self._ae.connection_timeout = TIMEOUT_S

    def send(self, results: Sequence[Path]) -> Iterator[Answer]:
        """As `Destination`."""
        kinds = [_kind(path) for path in results]
        # The default transfer syntax too (PS3.5 10.1), in a context of its own: who takes both gets files as they are.
        offered = dict.fromkeys(each for kind in kinds for each in (kind, (kind[0], str(ImplicitVRLittleEndian))))
        association = self._ae.associate(
            self._peer.host,
            self._peer.port,
            [build_context(sop_class, syntax) for sop_class, syntax in offered],
            self._peer.aet,
            tls_args=(self._tls, self._peer.host) if self._tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, self._opened)],
        )
        if not association.is_established:
            if association.rejected_contexts and not association.accepted_contexts:
                # Aborted by us, as it accepts none of these: that is a matter of the results.
                yield from (_not_accepted(*kind) for kind in kinds)
                return
            raise Unreachable(_rejection(association))
        try:
            accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
            for path, (sop_class, syntax) in zip(results, kinds, strict=True):
                implicit = (sop_class, syntax) not in accepted
                if implicit and (sop_class, str(ImplicitVRLittleEndian)) not in accepted:
                    yield _not_accepted(sop_class, syntax)
                    continue
                if not association.is_established:
                    raise Unreachable("the association was cut")
                association.dimse_timeout, begun = allowed_s(path), time.monotonic()
                status = association.send_c_store(_in_implicit_vr(path) if implicit else path)
                if "Status" not in status:
                    yield Answer(Verdict.DEFERRED, _no_answer(path, begun, allowed_s(path)))
                    return
                yield answer_to_status(int(status.Status))
        finally:
            if association.is_established:
                association.release()

    def cut(self) -> None:
        """As `Destination`."""
        if self._connection is not None:
            _shut(self._connection)

    def _opened(self, event: Any) -> None:
        self._connection = event.assoc.dul.socket.socket
        self._connection.settimeout(TIMEOUT_S)  # for a peer that reads no more; the answer has a time of its own


class StowService:
    """A DICOMweb service that takes results by STOW-RS.

    Args:
        url: Its address.
        token: File of a bearer token. It is read again for each batch, as tokens are renewed.
        tls: Certificates towards it.

    Raises:
        Error: The file cannot be read, or holds no token.
    """

    def __init__(self, url: str, token: Path | None = None, tls: Certificates | None = None) -> None:
        self.name, self._token = url, token
        self._session = session = requests.Session()
        self._connections = _Connections()
        session.mount("http://", self._connections)
        session.mount("https://", self._connections)
        if tls is not None:
            session.verify = str(tls.ca) if tls.ca else True
            if tls.cert:
                session.cert = (str(tls.cert), str(tls.key)) if tls.key else str(tls.cert)
        if token is not None:
            self._authorize(read_token(token))
        # Whole messages: chunked transfer is refused by some servers.
        self._client = DICOMwebClient(url, session=session, callback=no_other_page, timeout=TIMEOUT_S, chunk_size=2**31)
        self._client.set_http_retry_params(retry=False)

    def send(self, results: Sequence[Path]) -> Iterator[Answer]:
        """As `Destination`."""
        if self._token is not None:
            with suppress(Error):  # while the file is being replaced the last token holds
                self._authorize(read_token(self._token))
        for path in results:
            allowed, begun = TIMEOUT_S + allowed_s(path), time.monotonic()  # to connect, too
            late = threading.Timer(allowed, self.cut)  # a time for each read is none for an answer byte by byte
            late.daemon = True
            late.start()
            try:
                result = pydicom.dcmread(path)
                reply = self._client.store_instances([result])
            except requests.HTTPError as error:
                yield answer_to_http(error, str(result.SOPInstanceUID))
            except (requests.RequestException, ValueError) as error:  # no answer, or one that is no DICOM
                why = _no_answer(path, begun, TIMEOUT_S if isinstance(error, requests.ReadTimeout) else allowed)
                if _ended_over_it(error) or why != CUT:
                    yield Answer(Verdict.DEFERRED, why)
                    return
                raise Unreachable(f"no answer that can be understood ({type(error).__name__})") from None
            except Unreachable:  # also of an answer that was cut within its head, as its time was over
                if (why := _no_answer(path, begun, allowed)) == CUT:
                    raise
                yield Answer(Verdict.DEFERRED, why)
                return
            else:
                yield answer_to_stow(reply, str(result.SOPInstanceUID))
            finally:
                late.cancel()

    def cut(self) -> None:
        """As `Destination`."""
        for connection in self._connections.opened:
            _shut(connection)

    def _authorize(self, token: str) -> None:
        self._session.headers["Authorization"] = f"Bearer {token}"


def read_token(path: Path) -> str:
    """The bearer token that is alone in a file. `Error`, which never holds it: the file cannot be read, or has none."""
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise Error(f"stow_token {path}: cannot be read ({why})", "name a file with the bearer token alone") from None
    if not re.fullmatch("[!-~]+", token):
        what = "is empty" if not token else "holds more than a bearer token, which is ASCII without spaces"
        raise Error(f"stow_token {path}: {what}", "write the token, and nothing else, into the file")
    return token


def answer_to_status(status: int) -> Answer:
    """What a C-STORE status means (PS3.4 B.2.3, PS3.7 annex C)."""
    text = f"status 0x{status:04X}"
    if status in (0x0000, 0x0111) or 0xB000 <= status <= 0xBFFF:  # 0x0111: it has that instance already
        return Answer(Verdict.TAKEN, text if status else "")
    final = status in (0x0117, 0x0122, 0x0124, 0x0115, 0x0106) or status >> 8 == 0xA9 or status >> 12 == 0xC
    return Answer(Verdict.REFUSED if final else Verdict.DEFERRED, text)


def no_other_page(response: requests.Response, *_: Any, **__: Any) -> requests.Response:
    """A hook of a session: passes errors and what may be a Store Instances Response, its Content-Type bare.

    Raises `Unreachable` for a redirect, which would make a GET of the POST, and for any other success: the page of a
    login or of another service has stored nothing.
    """
    code = response.status_code
    if 300 <= code < 400:
        place = _PLACE.match(urljoin(response.url, response.headers.get("Location", "")))
        where = "".join(place.groups()) if place else "elsewhere"
        raise Unreachable(f"HTTP {code}: it redirects to {where}, and no redirect is followed")
    if code < 300:
        if not response.content:
            raise Unreachable(f"HTTP {code} without a body: no Store Instances Response")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in MEDIA_TYPES:
            raise Unreachable(f"HTTP {code} with a page that is neither JSON nor XML: no Store Instances Response")
        response.headers["Content-Type"] = kind  # the client compares it as a whole
    return response


def answer_to_stow(reply: pydicom.Dataset, sop_uid: str) -> Answer:
    """What the response to one instance says of it (PS3.18 10.5.3): it is taken only where it is named."""
    failed = [item for name in ("FailedSOPSequence", "OtherFailuresSequence") for item in reply.get(name) or ()]
    if failed:
        reason = int(failed[0].get("FailureReason") or 0x0110)
        answer = answer_to_status(reason)
        known = reason == 0x0111 and failed[0].get("ReferencedSOPInstanceUID") == sop_uid  # it has it already
        return answer if known or answer.verdict is not Verdict.TAKEN else Answer(Verdict.DEFERRED, answer.reason)
    stored = [item.get("ReferencedSOPInstanceUID") for item in reply.get("ReferencedSOPSequence") or ()]
    return Answer(Verdict.TAKEN) if sop_uid in stored else Answer(Verdict.DEFERRED, NOT_NAMED)


def answer_to_http(error: requests.HTTPError, sop_uid: str) -> Answer:
    """What an HTTP error says of one instance; raises `Unreachable` where it is no matter of the instance."""
    response = error.response
    code = response.status_code if response is not None else 500
    text = f"HTTP {code}"
    if code in (401, 403, 407):
        raise Unreachable(f"{text}: it wants another token or certificate")
    if code in (404, 405, 410):
        raise Unreachable(f"{text}: no STOW-RS service is at this address")
    if code == 409 and response is not None:  # the instance is named, with why
        try:
            answer = answer_to_stow(pydicom.Dataset.from_json(response.text), sop_uid)
        except Exception:  # the body is whatever the server writes
            return Answer(Verdict.REFUSED, text)
        return Answer(Verdict.REFUSED, text) if answer.reason in ("", NOT_NAMED) else answer
    if 400 <= code < 500 and code not in (408, 425, 429):
        return Answer(Verdict.REFUSED, text)
    return Answer(Verdict.DEFERRED, text)


def destinations_of(
    peers: Sequence[Peer], urls: Sequence[str], aet: str, token: Path | None, tls: Certificates | None
) -> list[Destination]:
    """The destinations of a node. `Error` for certificates, or a file of the token, that cannot be used."""
    context = client_tls(tls)
    return [
        *(StorageNode(peer, aet, context) for peer in peers),
        *(StowService(url, token, tls) for url in urls),
    ]


class _Connections(HTTPAdapter):
    """Opens connections of a session.

    Attributes:
        opened: The last one, which another thread may end.
    """

    def __init__(self) -> None:
        self.opened: list[socket.socket] = []
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        """As of `HTTPAdapter`."""
        super().init_poolmanager(*args, **more)
        opened = self.opened

        def noting(pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
            class Connection(pool.ConnectionCls):  # type: ignore[name-defined,misc]
                def connect(self) -> None:
                    super().connect()
                    opened[:] = [self.sock]

            return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

        pools = {"http": noting(HTTPConnectionPool), "https": noting(HTTPSConnectionPool)}
        self.poolmanager.pool_classes_by_scheme = pools


def _shut(connection: socket.socket) -> None:
    """End a connection that another thread reads or writes."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _no_answer(path: Path, begun: float, allowed: float) -> str:
    """Why a result that was begun at a time (`time.monotonic`) has no answer: too slow, or the connection ended."""
    if time.monotonic() - begun < allowed:
        return CUT
    return f"no answer within {allowed:.0f} s, for {path.stat().st_size} bytes"


def _in_implicit_vr(path: Path) -> pydicom.Dataset:
    """A file in explicit VR little endian, to be sent in implicit VR; values stay as they are, byte for byte."""
    dataset = pydicom.dcmread(path)
    _made_implicit(dataset)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def _made_implicit(dataset: pydicom.Dataset) -> None:
    for tag, element in list(dataset.items()):
        if element.VR == "SQ":
            for item in dataset[tag].value:
                _made_implicit(item)
    dataset.set_original_encoding(True, True)  # or names would be read and encoded anew


def _ended_over_it(error: Exception) -> bool:
    """Whether a service took a connection, and ended it, or was silent, instead of an answer."""
    ended = isinstance(error, requests.ConnectionError) and isinstance(error.args[0], ProtocolError)
    return ended or isinstance(error, requests.ReadTimeout | requests.exceptions.ChunkedEncodingError)


def _kind(path: Path) -> tuple[str, str]:
    """(SOP class, transfer syntax) of a DICOM file."""
    meta = pydicom.filereader.read_file_meta_info(path)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def _not_accepted(sop_class: str, syntax: str) -> Answer:
    """The answer to a result whose presentation context a node does not accept."""
    names = " or ".join(UID(each).name for each in dict.fromkeys((syntax, str(ImplicitVRLittleEndian))))
    return Answer(Verdict.REFUSED, f"does not accept {UID(sop_class).name} in {names}")


def _rejection(association: object) -> str:
    """Why an association was not established, for people."""
    if not getattr(association, "is_rejected", False):
        return "does not answer, or cuts the connection"
    primitive = association.acceptor.primitive  # type: ignore[attr-defined]
    return f"rejects the association ({primitive.reason_str})" if primitive else "rejects the association"
