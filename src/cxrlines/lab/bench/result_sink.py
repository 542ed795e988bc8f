"""A DICOM node that takes results and keeps none: what the measured node sends to, in a process of its own."""

import io
import json
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
RESULT_CLASSES = (Comprehensive3DSRStorage, GrayscaleSoftcopyPresentationStateStorage, SecondaryCaptureImageStorage)
SUCCESS = 0x0000


class Arrival(NamedTuple):
    """A result that arrived: UIDs of its study and instance, and when (s; processes share the monotonic clock)."""

    study: str
    instance: str
    when: float


def serve() -> None:
    """The process's side: answers its first message by its port, later ones by all `Arrival`s until then, as JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the parent
    arrivals: list[Arrival] = []

    def on_store(event: evt.Event) -> int:
        when = time.monotonic()
        header = pydicom.dcmread(
            io.BytesIO(event.encoded_dataset()), specific_tags=["StudyInstanceUID", "SOPInstanceUID"]
        )
        arrivals.append(Arrival(str(header.StudyInstanceUID), str(header.SOPInstanceUID), when))
        return SUCCESS

    node = AE(ae_title=AET)
    node.maximum_pdu_size = 0
    for result_class in RESULT_CLASSES:
        node.add_supported_context(result_class, ExplicitVRLittleEndian)
    server = node.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    assert server is not None
    port = server.server_address[1]
    port_is_known = False

    def answer(receive: Callable[[], bytes], send: Callable[[bytes | memoryview], None]) -> None:
        nonlocal port_is_known
        receive()
        send(json.dumps(list(arrivals) if port_is_known else port).encode())
        port_is_known = True

    serving(answer)
