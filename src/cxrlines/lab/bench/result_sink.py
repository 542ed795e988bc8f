"""A DICOM node that takes results and keeps none: what the measured node sends to, in a process of its own."""

import io
import pickle
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

import pydicom
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
)

from cxrlines.core.processes import serving

AET = "SINK"
KINDS = (Comprehensive3DSRStorage, GrayscaleSoftcopyPresentationStateStorage, SecondaryCaptureImageStorage)


class Arrival(NamedTuple):
    """A result that came: of which study, which instance, and when (s, of the clock that processes share)."""

    study: str
    instance: str
    when: float


def serve() -> None:
    """The process's side: answers its first message by the port, later ones by all `Arrival`s until then, pickled."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the parent
    arrivals: list[Arrival] = []

    def taken(event: evt.Event) -> int:
        when = time.monotonic()
        head = pydicom.dcmread(
            io.BytesIO(event.encoded_dataset()), specific_tags=["StudyInstanceUID", "SOPInstanceUID"]
        )
        arrivals.append(Arrival(str(head.StudyInstanceUID), str(head.SOPInstanceUID), when))
        return 0x0000

    node = AE(ae_title=AET)
    node.maximum_pdu_size = 0
    for kind in KINDS:
        node.add_supported_context(kind, ExplicitVRLittleEndian)
    server = node.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, taken)])
    assert server is not None
    port = server.server_address[1]
    asked = False

    def answer(receive: Callable[[], bytes], send: Callable[[bytes | memoryview], None]) -> None:
        nonlocal asked
        receive()
        send(pickle.dumps(list(arrivals) if asked else port))
        asked = True

    serving(answer)
