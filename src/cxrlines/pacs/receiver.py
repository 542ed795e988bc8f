"""The receiving side of a DICOM node: C-ECHO, and C-STORE that is answered once the film is on disk.

Nothing of a film is decoded here: its bytes are kept as they were sent.
"""

import hashlib
import io
import ipaddress
import shutil
import socket
import socketserver
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pydicom.uid import UID, AllTransferSyntaxes, DeflatedExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from cxrlines.core.errors import Error
from cxrlines.core.files import OutputError
from cxrlines.pacs.audit_log import AuditLog
from cxrlines.pacs.film_queue import FilmQueue
from cxrlines.pacs.node_settings import Network, NodeSettings, server_tls

FILM_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX for presentation",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX for processing",
}
"""SOP classes whose films are read."""
SUCCESS, OUT_OF_RESOURCES, INVALID_INSTANCE = 0x0000, 0xA700, 0x0117
"""C-STORE statuses (DICOM PS3.4 B.2.3, PS3.7 annex C)."""
MAX_PDU = 131_072
"""Bytes of a PDU that peers are asked to keep to; another is read up to `MAX_PDU_READ`."""
MAX_PDU_READ = 1_048_576
MAX_COMMAND = 65_536
"""Bytes of a command; those of a C-STORE are some 200."""
HALF_OPEN = 16
"""Connections beyond the limit of associations that get as far as a polite rejection."""
TIMEOUT_S = 30.0
"""How long a peer may be silent within an association."""
REQUEST_S = 10.0
"""How long a connection may wait with its request for one."""

_config.LOG_HANDLER_LEVEL = "none"  # its messages quote what peers send
_config.STORE_SEND_CHUNKED_DATASET = True  # results are sent as they lie on disk


class Receiver:
    """A listening node that puts films into a queue; starts at once.

    Args:
        settings: Of the node.
        queue: Where films go.
        audit: What is logged.
        arrived: Called when a film is in the queue.

    Raises:
        Error: The port is taken, or the address is not this computer's.
    """

    def __init__(self, settings: NodeSettings, queue: FilmQueue, audit: AuditLog, arrived: Callable[[], None]) -> None:
        self._settings, self._queue, self._audit, self._arrived = settings, queue, audit, arrived
        self._ae = AE(ae_title=settings.aet)
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = list(settings.calling)
        self._ae.maximum_associations = settings.associations
        self._ae.maximum_pdu_size = MAX_PDU
        self._ae.acse_timeout = REQUEST_S
        self._ae.dimse_timeout = self._ae.network_timeout = TIMEOUT_S
        # A deflated dataset sets no limit to what inflates.
        syntaxes = [uid for uid in AllTransferSyntaxes if uid != DeflatedExplicitVRLittleEndian]
        self._ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            self._ae.add_supported_context(str(context.abstract_syntax), syntaxes)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, _guard_connection),
            (evt.EVT_CONN_CLOSE, _free_place),
            (evt.EVT_PDU_RECV, self._limit_film),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_REJECTED, self._log, ["rejected"]),
            (evt.EVT_ABORTED, self._log, ["aborted"]),
        ]
        try:
            server: Any = self._ae.make_server(
                (settings.host, settings.port),
                ssl_context=server_tls(settings.tls),
                evt_handlers=handlers,
                server_class=_Server,
            )
        except OSError as error:
            raise Error(
                f"--host {settings.host} --port {settings.port}: cannot be listened on ({error.strerror})",
                "stop what listens there, or give another port",
            ) from None
        server.allowed, server.most = settings.addresses, settings.associations + HALF_OPEN
        self._server = server
        threading.Thread(target=server.serve_forever, name="listener", daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Accept nothing more, and end the associations that are open; what was answered is in the queue."""
        self._server.shutdown()
        for association in self._server.active_associations:
            association.abort(block=False)

    def _store(self, event: Any) -> int:
        """Answer a C-STORE by its status, once the film is in the queue; other objects are counted, and dropped."""
        settings, request = self._settings, event.request
        peer = _peer_of(event)
        sop_class, sop_uid = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        if sop_class not in FILM_CLASSES:
            name = UID(sop_class).name if is_uid(sop_class) else "no UID"
            self._queue.count(name if name != sop_class else "other class")
            return SUCCESS
        if not is_uid(sop_uid):
            self._audit.write("refused", peer=peer, why="SOP Instance UID is no UID")
            return INVALID_INSTANCE
        if isinstance(request.DataSet, _Dropped):
            self._audit.write("refused", peer=peer, why=f"larger than {settings.film_mib} MiB")
            return OUT_OF_RESOURCES
        try:
            if shutil.disk_usage(settings.queue).free < settings.free_mib * 2**20:
                self._audit.write("refused", peer=peer, why=f"less than {settings.free_mib} MiB free")
                return OUT_OF_RESOURCES
            data = event.encoded_dataset()
            digest = hashlib.sha256(request.DataSet.getbuffer()).hexdigest()
            number = self._queue.add(data, digest, sop_uid, peer)
        except (OSError, OutputError, sqlite3.Error) as error:
            self._audit.write("refused", peer=peer, why=f"not stored ({type(error).__name__})")
            return OUT_OF_RESOURCES
        if number is not None:
            self._audit.write("received", film=number, peer=peer)
            self._arrived()
        return SUCCESS

    def _log(self, event: Any, what: str) -> None:
        """Log that an association ended otherwise than by a release."""
        self._audit.write(what, peer=_peer_of(event))

    def _limit_film(self, event: Any) -> None:
        """Take in no more of a dataset than is allowed; `_store` refuses it in the end."""
        message = event.assoc.dimse.message
        if message is not None and message.data_set.tell() > self._settings.film_mib * 2**20:
            message.data_set = _Dropped()
        if message is not None and message.encoded_command_set.tell() > MAX_COMMAND:
            _cut(event.assoc)


def is_uid(text: str) -> bool:
    """Whether a text is a valid UID (DICOM PS3.5, 9.1)."""
    return len(text) <= 64 and UID(text).is_valid


class _Dropped(io.BytesIO):
    """A dataset that is too large: nothing is kept of it."""

    def write(self, data: Any, /) -> int:
        return len(data)


class _Server(ThreadedAssociationServer):
    """A server for some addresses alone, whose TLS handshakes do not hold up other peers."""

    allowed: tuple[Network, ...] = ()
    most = HALF_OPEN

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a connection is taken; others are closed at once."""
        if self.allowed:
            address = ipaddress.ip_address(client_address[0].partition("%")[0])
            address = getattr(address, "ipv4_mapped", None) or address
            if not any(address in network for network in self.allowed):
                return False
        return len(self.active_associations) < self.most

    def get_request(self) -> tuple[socket.socket, Any]:
        """A connection; its handshake is made by the first read, in the thread of its association."""
        connection, address = self.socket.accept()  # type: ignore[union-attr]
        connection.settimeout(TIMEOUT_S)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def shutdown(self) -> None:
        """Stop serving and close the socket."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()


def _peer_of(event: Any) -> str:
    """AE title and address of the other side, as they are logged."""
    requestor = event.assoc.requestor
    return f"{requestor.ae_title or '?'}@{requestor.address_info.address if requestor.address_info else '?'}"


def _guard_connection(event: Any) -> None:
    """What a peer sends ends its own connection at worst.

    A PDU that claims to be larger than any sensible one is not read. What pynetdicom does not foresee would end its
    thread with a traceback that may quote it, and leave the connection open.
    """
    connection = event.assoc.dul.socket
    receive, act = connection.recv, event.assoc.dul.state_machine.do_action

    def limited(count: int) -> bytearray:
        if count > MAX_PDU_READ:
            raise OSError("PDU too large")
        return receive(count)  # type: ignore[no-any-return]

    def guarded(name: str) -> None:
        try:
            act(name)
        except Exception:
            _cut(event.assoc)

    connection.recv, event.assoc.dul.state_machine.do_action = limited, guarded


def _cut(association: Any) -> None:
    """End an association whose state is no longer known, as pynetdicom does: by an A-ABORT past its state machine."""
    association.is_aborted, association.is_established = True, False
    association._kill = association.dul._kill_thread = True
    abort = A_ABORT_RQ()
    abort.source = 2  # the provider
    abort.reason_diagnostic = 0
    with suppress(OSError):
        association.dul.socket.send(abort.encode())
    association.dul.socket.close()


def _free_place(event: Any) -> None:
    """A connection that closes before it asks for an association makes room at once, not after `REQUEST_S`."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)  # what waiting in vain for a request gives
