"""The database of a node's queue: states of films and deliveries in SQLite, and how they stand."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from cxrlines.core.errors import Error

DATABASE = "queue.sqlite"
PRIVATE = 0o700
"""Mode of a queue's folder: it holds films of patients."""
GONE = "its destination is no longer in the settings"
"""Why a delivery is a dead letter that nobody can take up: it waits for its destination to be named again."""


class FilmState(StrEnum):
    """What became of a film."""

    RECEIVED = "received"  # on disk, to be read
    READING = "reading"
    READ = "read"  # its results are on disk
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    DEAD = "dead"  # not read, or a result was refused; see its reason
    SKIPPED = "skipped"  # not to be read; see its reason


SCHEMA = """
CREATE TABLE IF NOT EXISTS films (
  number INTEGER PRIMARY KEY AUTOINCREMENT, sop_uid TEXT NOT NULL, digest TEXT NOT NULL, model TEXT NOT NULL,
  peer TEXT NOT NULL, received TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
  urgent INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, again INTEGER NOT NULL DEFAULT 0,
  UNIQUE (sop_uid, digest, model));
CREATE INDEX IF NOT EXISTS films_by_state ON films (state, number);
CREATE TABLE IF NOT EXISTS deliveries (
  number INTEGER PRIMARY KEY AUTOINCREMENT, film INTEGER NOT NULL REFERENCES films, object INTEGER NOT NULL,
  kind TEXT NOT NULL, sop_uid TEXT NOT NULL, destination TEXT NOT NULL, urgent INTEGER NOT NULL,
  state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', tries INTEGER NOT NULL DEFAULT 0, delivered TEXT,
  UNIQUE (film, object, destination));
CREATE INDEX IF NOT EXISTS deliveries_by_state ON deliveries (destination, state, urgent, number);
CREATE INDEX IF NOT EXISTS deliveries_by_film ON deliveries (film);
CREATE TABLE IF NOT EXISTS studies (film INTEGER PRIMARY KEY, uid TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counts (what TEXT PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS destinations (name TEXT PRIMARY KEY, problem TEXT NOT NULL, since TEXT NOT NULL);
"""


def now() -> str:
    """The time in UTC, for people to read."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class QueueDatabase:
    """The database in a queue's folder, made if it is not there. Threads may share it; a kill loses no commit.

    `Error` where it cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock = Path(folder), threading.RLock()
        try:
            self.folder.mkdir(PRIVATE, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.folder / DATABASE, isolation_level=None, check_same_thread=False, timeout=60
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise unusable(folder, error) from None

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._connection.close()

    def retry(self) -> int:
        """Take up dead letters, and films that were not read, once more; how many films. Not those that are `GONE`."""
        with self.transaction() as db:
            films = revive(db, "reason<>?", (GONE,))
            unread = db.execute(
                "UPDATE films SET state=?, tries=0, reason='' WHERE state=? "
                "AND NOT EXISTS (SELECT 1 FROM deliveries WHERE film=films.number)",
                (FilmState.RECEIVED, FilmState.DEAD),
            )
        return films + unread.rowcount

    def status(self) -> dict[str, Any]:
        """JSON values: films by state, what was passed over, the oldest film waiting, dead letters, destinations."""
        films = {state.value: 0 for state in FilmState}
        films |= {row["state"]: row["n"] for row in self.rows("SELECT state, count(*) n FROM films GROUP BY state")}
        final_states = (FilmState.DELIVERED, FilmState.DEAD, FilmState.SKIPPED)
        oldest = self.row(
            "SELECT number, received, state FROM films WHERE state NOT IN (?,?,?) ORDER BY number LIMIT 1", final_states
        )
        dead = self.rows(
            "SELECT f.number film, f.received, d.destination, d.reason FROM deliveries d "
            "JOIN films f ON f.number = d.film WHERE d.state='dead' UNION ALL "
            "SELECT number, received, NULL, reason FROM films WHERE state=? "
            "AND NOT EXISTS (SELECT 1 FROM deliveries WHERE film=films.number) ORDER BY film",
            (FilmState.DEAD,),
        )
        urgent = self.rows(
            "SELECT number film, received, state FROM films WHERE urgent AND state IN (?,?,?) ORDER BY number",
            (FilmState.READ, FilmState.DELIVERING, FilmState.DEAD),
        )
        return {
            "films": films,
            "sent_again": self.row("SELECT coalesce(sum(again), 0) n FROM films")["n"],
            "skipped": {
                row["reason"]: row["n"]
                for row in self.rows(
                    "SELECT reason, count(*) n FROM films WHERE state=? GROUP BY reason", (FilmState.SKIPPED,)
                )
            },
            "not_films": {row["what"]: row["number"] for row in self.rows("SELECT * FROM counts ORDER BY what")},
            "results": {
                row["state"]: row["n"]
                for row in self.rows("SELECT state, count(*) n FROM deliveries GROUP BY state ORDER BY state")
            },
            "oldest_waiting": dict(oldest) if oldest else None,
            "urgent_waiting": [dict(row) for row in urgent],
            "dead_letters": [dict(row) for row in dead],
            "unreachable": [dict(row) for row in self.rows("SELECT * FROM destinations ORDER BY name")],
        }

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is done in the block, all or nothing, on disk once it ends."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        """One statement, as a transaction."""
        with self.transaction() as db:
            db.execute(statement, values)

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """All rows that a query finds."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def row(self, query: str, values: tuple[Any, ...] = ()) -> Any:
        """The first row that a query finds; None if there is none."""
        with self._lock:
            return self._connection.execute(query, values).fetchone()


def revive(db: sqlite3.Connection, which: str, values: tuple[Any, ...]) -> int:
    """Dead letters for which `which` (SQL) holds wait once more; of how many films they are."""
    which = f"state='dead' AND {which}"
    films = db.execute(f"SELECT DISTINCT film FROM deliveries WHERE {which}", values).fetchall()
    db.execute(f"UPDATE deliveries SET state='waiting', tries=0, reason='' WHERE {which}", values)
    for row in films:
        change = "UPDATE films SET state=?, reason='' WHERE number=? AND state=?"
        db.execute(change, (FilmState.DELIVERING, row["film"], FilmState.DEAD))
    return len(films)


def unusable(folder: Path, error: Exception) -> Error:
    """What is said of a queue's folder that cannot be used."""
    why = getattr(error, "strerror", None) or str(error)
    return Error(f"--queue {folder}: cannot be used ({why})", "name a folder that can be written")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a queue's folder, until the block or the process ends. `Error` where another node holds it."""
    try:
        folder.mkdir(PRIVATE, parents=True, exist_ok=True)
        lock = sqlite3.connect(folder / "lock", isolation_level=None, timeout=0)
    except (OSError, sqlite3.Error) as error:
        raise unusable(folder, error) from None
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" in str(error):
            raise Error(f"--queue {folder}: another node works on it", "stop it, or name another folder") from None
        raise unusable(folder, error) from None
    try:
        yield
    finally:
        lock.close()
