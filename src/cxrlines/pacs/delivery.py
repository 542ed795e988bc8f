"""Results on their way: C-STORE to a node, STOW-RS to a DICOMweb service, and which answers are final.

Each `send` yields an answer for each result in turn, and raises `Unreachable` where the destination itself is the
matter; what had no answer then stays as it was. Where a connection ends over a result, that one is deferred and is the
last to be answered: an object that a destination breaks on does not keep back all others. The same object sent twice is
the same bytes.
"""

import random
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urljoin

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import UID
from pynetdicom import AE, build_context
from urllib3.exceptions import ProtocolError

from cxrlines.core.errors import Error
from cxrlines.pacs.node_settings import Certificates, Peer, client_tls
from cxrlines.pacs.receiver import TIMEOUT_S

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
CUT = "the connection ended over it, or no answer came in time"
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


def pause_s(failures: int, rng: random.Random) -> float:
    """Seconds to wait after so many failures in a row (from 1 on): doubled each time, with jitter."""
    return min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE_S) * rng.uniform(0.5, 1.0)


class StorageNode:
    """A node that takes results by C-STORE."""

    def __init__(self, peer: Peer, aet: str, tls: ssl.SSLContext | None = None) -> None:
        self.name, self._peer, self._tls = str(peer), peer, tls
        self._ae = AE(ae_title=aet)
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = TIMEOUT_S
        self._ae.connection_timeout = TIMEOUT_S

    def send(self, results: Sequence[Path]) -> Iterator[Answer]:
        """As `Destination`."""
        kinds = [_kind(path) for path in results]
        association = self._ae.associate(
            self._peer.host,
            self._peer.port,
            [build_context(sop_class, syntax) for sop_class, syntax in dict.fromkeys(kinds)],
            self._peer.aet,
            tls_args=(self._tls, self._peer.host) if self._tls else None,
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
                if (sop_class, syntax) not in accepted:
                    yield _not_accepted(sop_class, syntax)
                    continue
                if not association.is_established:
                    raise Unreachable("the association was cut")
                status = association.send_c_store(path)
                if "Status" not in status:
                    yield Answer(Verdict.DEFERRED, CUT)
                    return
                yield answer_to_status(int(status.Status))
        finally:
            if association.is_established:
                association.release()


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
            try:
                result = pydicom.dcmread(path)
                reply = self._client.store_instances([result])
            except requests.HTTPError as error:
                yield answer_to_http(error, str(result.SOPInstanceUID))
            except (requests.RequestException, ValueError) as error:  # no answer, or one that is no DICOM
                if _ended_over_it(error):
                    yield Answer(Verdict.DEFERRED, CUT)
                    return
                raise Unreachable(f"no answer that can be understood ({type(error).__name__})") from None
            else:
                yield answer_to_stow(reply, str(result.SOPInstanceUID))

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
    return Answer(Verdict.REFUSED, f"does not accept {UID(sop_class).name} in {UID(syntax).name}")


def _rejection(association: object) -> str:
    """Why an association was not established, for people."""
    if not getattr(association, "is_rejected", False):
        return "does not answer, or cuts the connection"
    primitive = association.acceptor.primitive  # type: ignore[attr-defined]
    return f"rejects the association ({primitive.reason_str})" if primitive else "rejects the association"
