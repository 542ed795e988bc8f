"""What a node did, line by line as JSON: own numbers, times, states, peers, reasons of ours; nothing of a patient."""

import json
import logging
import logging.handlers
from contextlib import suppress
from pathlib import Path

from cxrlines.pacs.queue_database import now

AUDIT = "audit.jsonl"


class AuditLog:
    """The log of a queue's folder. A rotated file is noticed; a full disk costs lines, not films."""

    def __init__(self, folder: Path) -> None:
        self._handler = logging.handlers.WatchedFileHandler(folder / AUDIT, encoding="utf-8")
        self._handler.handleError = lambda record: None  # type: ignore[method-assign]

    def write(self, event: str, **facts: str | int) -> None:
        """A line: the time, what happened, and facts that hold no patient data."""
        line = json.dumps({"time": now(), "event": event, **facts})
        with suppress(OSError):  # of opening it again, which the handler does not guard
            self._handler.handle(logging.LogRecord("audit", logging.INFO, "", 0, line, None, None))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
