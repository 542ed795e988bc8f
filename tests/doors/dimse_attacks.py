"""Messages to a DICOM node that are wrong on purpose, drawn by a seed, and what the node says to them."""

import io
import random
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian

from cxrlines.lab.robustness import DAMAGES

from .node_process import DEADLINE, DX, dicom_film

CT, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"
CONTEXTS = {1: VERIFICATION, 3: DX, 5: CT}
"""Presentation contexts that are asked for: (id, SOP class), of explicit VR in little-endian order."""
ACCEPTED, REJECTED, DATA, RELEASED, ABORTED = 2, 3, 4, 6, 7
"""Types of PDUs (PS3.8 9.3)."""


class Said(NamedTuple):
    """What the node answered.

    Attributes:
        end: Type of the last PDU; 0 where it closed the connection without one.
        status: Of a C-STORE or C-ECHO response; None without one.
    """

    end: int
    status: int | None


def item(kind: int, content: bytes) -> bytes:
    """An item of an association request."""
    return struct.pack(">BxH", kind, len(content)) + content


def request(called: str, calling: str = "MODALITY") -> bytes:
    """An A-ASSOCIATE-RQ."""
    syntax = item(0x40, ExplicitVRLittleEndian.encode())
    contexts = b"".join(
        item(0x20, bytes([number, 0, 0, 0]) + item(0x30, kind.encode()) + syntax) for number, kind in CONTEXTS.items()
    )
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4"))
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    return pdu(1, b"\0\1\0\0" + titles + bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user)


def pdu(kind: int, content: bytes, length: int | None = None) -> bytes:
    """A PDU; its length may lie."""
    return struct.pack(">BxI", kind, len(content) if length is None else length) + content


def fragment(context: int, control: int, content: bytes, length: int | None = None) -> bytes:
    """A P-DATA-TF PDU of one fragment; control bits: 1 command, 2 last. The fragment's length may lie."""
    return pdu(DATA, struct.pack(">IBB", len(content) + 2 if length is None else length, context, control) + content)


def command(field: int, sop_class: str, sop_uid: str | None = None, **more: int) -> bytes:
    """An encoded command set: C-STORE-RQ 0x0001, C-ECHO-RQ 0x0030."""
    made = pydicom.Dataset()
    made.AffectedSOPClassUID, made.CommandField, made.MessageID = sop_class, field, 7
    made.CommandDataSetType = 0x0101 if sop_uid is None else 1
    if sop_uid is not None:
        made.Priority, made.AffectedSOPInstanceUID = 0, sop_uid
    for name, value in more.items():
        setattr(made, name, value)
    out = pydicom.filebase.DicomBytesIO()
    out.is_implicit_VR = out.is_little_endian = True
    pydicom.filewriter.write_dataset(out, made)
    content = out.getvalue()
    return struct.pack("<HHII", 0, 0, 4, len(content)) + content


def data_set(film: bytes) -> tuple[str, bytes]:
    """(SOP Instance UID, data set as it is sent) of a DICOM film."""
    read = pydicom.dcmread(io.BytesIO(film))
    out = pydicom.filebase.DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = False, True
    pydicom.filewriter.write_dataset(out, read)
    return str(read.SOPInstanceUID), out.getvalue()


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Damaged as films are by `bench robustness`."""
    damage = DAMAGES[rng.choice([name for name in DAMAGES if name != "element changed"])]
    return damage(np.random.default_rng(rng.getrandbits(32)), data)


class Line:
    """A connection to a node."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)

    def close(self) -> None:
        self.socket.close()

    def send(self, *messages: bytes) -> None:
        """Send; a node that has closed the connection before is no matter."""
        with suppress(OSError):
            for message in messages:
                self.socket.sendall(message)

    def no_more(self) -> None:
        """Nothing more comes, nor what a length has promised."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def heard(self, most: int = 8) -> Said:
        """What comes until the node closes, ends the association, or has answered a command."""
        said = Said(0, None)
        for _ in range(most):
            head = self._exactly(6)
            if head is None:
                return said
            kind, length = struct.unpack(">BxI", head)
            content = self._exactly(length) or b""
            said = Said(kind, said.status)
            if kind == DATA:
                answer = pydicom.filereader.read_dataset(io.BytesIO(content[6:]), True, True)
                return Said(kind, int(answer.Status))
            if kind != ACCEPTED or most == 1:
                return said
        return said

    def associate(self, called: str) -> None:
        """As a modality does; `AssertionError` unless the node agrees."""
        self.socket.sendall(request(called))
        assert self.heard(1).end == ACCEPTED

    def _exactly(self, count: int) -> bytes | None:
        found = b""
        while len(found) < count:
            try:
                part = self.socket.recv(count - len(found))
            except ConnectionError:
                return None
            if not part:
                return None
            found += part
        return found


def store(context: int, sop_class: str, uid: str, content: bytes, size: int = 16_000) -> list[bytes]:
    """The messages of a C-STORE."""
    parts = [content[place : place + size] for place in range(0, max(1, len(content)), size)]
    last = len(parts) - 1
    return [
        fragment(context, 3, command(1, sop_class, uid)),
        *(fragment(context, 2 * (number == last), part) for number, part in enumerate(parts)),
    ]


def attack(rng: random.Random, port: int, called: str, number: int) -> tuple[str, Said, bytes | None]:
    """One attack: (its kind, what the node said, the data set if all of it was sent as a film's C-STORE)."""
    uid, content = data_set(dicom_film(1000 + number))
    kind = list(KINDS)[number % len(KINDS)]
    line = Line(port)
    try:
        if kind == "request":
            line.send(mutated(rng, request(called)))
            line.no_more()
            return kind, line.heard(1), None
        line.associate(called)
        whole = KINDS[kind](rng, line, uid, content)
        if kind == "cut":
            return kind, Said(0, None), None
        if kind != "data set":
            line.no_more()
        return kind, line.heard(), whole
    finally:
        line.close()


def _data_set(rng: random.Random, line: Line, uid: str, content: bytes) -> bytes:
    content = mutated(rng, content)
    line.send(*store(3, DX, uid, content, rng.choice([1, 50, 16_000]) if len(content) < 4000 else 16_000))
    return content


def _command(rng: random.Random, line: Line, uid: str, content: bytes) -> None:
    told = mutated(rng, command(1, DX, uid))
    line.send(fragment(3, 3, told), fragment(3, 2, content))


def _other_class(rng: random.Random, line: Line, uid: str, content: bytes) -> None:
    field = rng.choice([0x0001, 0x0020, 0x0010, 0x0021, 0x0030, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0FFF, 0x8001])
    sop_class = rng.choice([DX, CT, VERIFICATION, "1.2.840.10008.5.1.4.1.2.2.1", "1.2.3", "x" * 64, ""])
    line.send(fragment(rng.choice([1, 3, 5]), 3, command(field, sop_class, rng.choice([uid, None]))))
    line.send(fragment(rng.choice([1, 3, 5]), 2, content))


def _lengths(rng: random.Random, line: Line, uid: str, content: bytes) -> None:
    lie = rng.choice([0, 1, 2, 5, 100, 2**16, 2**20, 2**31, 2**32 - 1])
    first = fragment(3, 3, command(1, DX, uid))
    if rng.random() < 0.5:
        line.send(first, pdu(DATA, struct.pack(">IBB", len(content) + 2, 3, 2) + content, lie))
    else:
        line.send(first, fragment(3, 2, content, lie))


def _contexts(rng: random.Random, line: Line, uid: str, content: bytes) -> None:
    messages = store(rng.choice([0, 2, 7, 99, 255]), DX, uid, content)
    line.send(*(messages if rng.random() < 0.5 else reversed(messages)))


def _order(rng: random.Random, line: Line, uid: str, content: bytes) -> None:
    messages = [
        *store(3, DX, uid, content),
        request("CXRLINES"),
        pdu(RELEASED, bytes(4)),
        pdu(ABORTED, bytes(4)),
        pdu(rng.randrange(256), rng.randbytes(rng.randrange(60))),
        fragment(3, rng.randrange(256), rng.randbytes(50)),
    ]
    line.send(*rng.sample(messages, rng.randrange(1, len(messages))))


def _cut(rng: random.Random, line: Line, uid: str, content: bytes) -> None:
    sent = b"".join(store(3, DX, uid, content))
    line.send(sent[: rng.randrange(1, len(sent) - 1)])


def _endless(rng: random.Random, line: Line, uid: str, content: bytes) -> None:
    """A command that never ends."""
    piece = fragment(3, 1, bytes(100_000))
    line.send(*[piece] * 40)


KINDS = {
    "request": _data_set,  # of the association
    "data set": _data_set,
    "command": _command,
    "class": _other_class,
    "lengths": _lengths,
    "contexts": _contexts,
    "order": _order,
    "cut": _cut,
    "endless": _endless,
}
