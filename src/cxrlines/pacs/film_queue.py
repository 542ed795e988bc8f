"""The durable queue of a DICOM node: films and their results as files, their states in SQLite.

    QUEUE/queue.sqlite      states of films and deliveries; outlives a kill at any moment (WAL, synchronous=FULL)
    QUEUE/films/            films as they were sent, until their results are delivered
    QUEUE/results/          their results, likewise
    QUEUE/lock              held by the node that works on it

Files are named by hashes and by numbers of our own. A file is whole and on disk before its row says so, and its row is
gone on before it is deleted; what lies there without a row is of a kill in between, and removed at the next start.
No decision rests on the clock: times are kept for people.
"""

import hashlib
import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrlines.core.files import replacing
from cxrlines.pacs.queue_database import GONE, PRIVATE, FilmState, QueueDatabase, now, revive, unusable

MAX_TRIES = 12
"""How often a destination may defer one result before it is a dead letter; with the waits between, hours."""

DONE = (FilmState.DELIVERED, FilmState.SKIPPED)
"""States of films whose files are deleted."""


@dataclass(frozen=True)
class QueuedFilm:
    """A film of the queue: our number of it, its SOP Instance UID, where it lies, and how often its reading failed."""

    number: int
    sop_uid: str
    path: Path
    tries: int


@dataclass(frozen=True)
class Parcel:
    """A result on its way to one destination.

    Attributes:
        number: Ours, of this delivery.
        film: Number of the film that it is of.
        path: The result, a DICOM file.
        tries: How often the destination deferred it.
    """

    number: int
    film: int
    path: Path
    tries: int


class FilmQueue(QueueDatabase):
    """A queue in a folder, made if it is not there. Threads may share it; another process may look into it.

    Args:
        folder: Its folder.
        model: What reads its films: a film that comes again is read again by another model alone.
        keep: Whether files stay once their results are delivered.
    """

    def __init__(self, folder: Path, *, model: str = "", keep: bool = False) -> None:
        self.model, self.keep = model, keep
        super().__init__(folder)
        self._films, self._results = self.folder / "films", self.folder / "results"
        for place in (self._films, self._results):
            try:
                place.mkdir(PRIVATE, parents=True, exist_ok=True)
            except OSError as error:
                raise unusable(folder, error) from None

    # Films come in.

    def add(self, data: bytes, digest: str, sop_uid: str, peer: str) -> int | None:
        """Keep a film, its DICOM file's bytes, and return its number once it is on disk; None if it is known.

        `digest` is that of its dataset (sha256, hex). A film is known if it is the last version of its UID that came,
        for this model: one that comes back after another is read again, as that one's results were the last word.
        """
        versions = self.rows("SELECT digest, model FROM films WHERE sop_uid=? ORDER BY number", (sop_uid,))
        same = [
            row["digest"] for row in versions if row["digest"].split("#")[0] == digest and row["model"] == self.model
        ]
        is_known = bool(same) and (versions[-1]["digest"], versions[-1]["model"]) == (same[-1], self.model)
        if is_known:
            digest = same[-1]
        elif same:
            digest = f"{digest}#{len(same) + 1}"
        key = (sop_uid, digest, self.model)
        if not is_known:
            path = self._film_path({"sop_uid": sop_uid, "digest": digest, "model": self.model})
            with replacing(path) as aside:
                aside.write_bytes(data)
            with self.transaction() as db:
                inserted = db.execute(
                    "INSERT OR IGNORE INTO films (sop_uid, digest, model, peer, received, state) VALUES (?,?,?,?,?,?)",
                    (*key, peer, now(), FilmState.RECEIVED),
                )
                if inserted.rowcount:
                    return inserted.lastrowid
            row = self.row("SELECT * FROM films WHERE sop_uid=? AND digest=? AND model=?", key)
            if row["state"] in DONE:  # sent twice at once, and done with already: its file came after its end
                self._delete([path])
        self.execute("UPDATE films SET again=again+1 WHERE sop_uid=? AND digest=? AND model=?", key)
        return None

    def count(self, what: str) -> None:
        """Count something that is not kept."""
        self.execute("INSERT INTO counts VALUES (?, 1) ON CONFLICT (what) DO UPDATE SET number=number+1", (what,))

    # Films are read.

    def resume(self, destinations: Sequence[str]) -> None:
        """After a start: take up what a kill left, and delete files without a row.

        Deliveries to destinations that are not among these become dead letters, and wait again once they are.
        """
        with self.transaction() as db:
            db.execute("UPDATE films SET state=? WHERE state=?", (FilmState.RECEIVED, FilmState.READING))
            db.execute("DELETE FROM destinations")
            marks = ",".join("?" * len(destinations))
            revive(db, f"reason=? AND destination IN ({marks})", (GONE, *destinations))
            gone = f"state IN ('waiting', 'dead') AND destination NOT IN ({marks})"
            films = db.execute(f"SELECT DISTINCT film FROM deliveries WHERE {gone}", tuple(destinations)).fetchall()
            db.execute(f"UPDATE deliveries SET state='dead', reason=? WHERE {gone}", (GONE, *destinations))
            for row in films:
                self._settle(db, row["film"])
        if self.keep:
            return
        rows = self.rows("SELECT * FROM films WHERE state NOT IN (?,?)", DONE)
        wanted, numbers = {self._film_path(row) for row in rows}, {row["number"] for row in rows}
        for path in self._films.iterdir():
            if path not in wanted:
                path.unlink(missing_ok=True)
        for path in self._results.iterdir():
            if _film_of(path) not in numbers:
                path.unlink(missing_ok=True)

    def take(self, limit: int) -> list[QueuedFilm]:
        """The next films to read, in the order they came, and mark them as being read.

        Of one instance in several versions one is read at a time, so that each knows the results of those before.
        """
        with self.transaction() as db:
            rows = db.execute(
                "SELECT * FROM films f WHERE state=? AND NOT EXISTS (SELECT 1 FROM films e WHERE e.sop_uid=f.sop_uid "
                "AND e.number<f.number AND e.state IN (?,?)) ORDER BY tries, number LIMIT ?",
                (FilmState.RECEIVED, FilmState.RECEIVED, FilmState.READING, limit),
            ).fetchall()
            for row in rows:
                db.execute("UPDATE films SET state=? WHERE number=?", (FilmState.READING, row["number"]))
        return [QueuedFilm(row["number"], row["sop_uid"], self._film_path(row), row["tries"]) for row in rows]

    def earlier_results(self, film: QueuedFilm) -> tuple[tuple[str, str, str], ...]:
        """(kind, SOP Instance UID, Study Instance UID) of the results of the same instance with other content, or by
        another model; the study is empty where an earlier release did not note it."""
        rows = self.rows(
            "SELECT d.kind, d.sop_uid, coalesce(s.uid, '') study, min(d.number) first FROM deliveries d "
            "JOIN films f ON d.film = f.number LEFT JOIN studies s ON s.film = f.number "
            "WHERE f.sop_uid=? AND f.number<? GROUP BY d.kind, d.sop_uid ORDER BY first",
            (film.sop_uid, film.number),
        )
        return tuple((row["kind"], row["sop_uid"], row["study"]) for row in rows)

    def note_study(self, film: QueuedFilm, study_uid: str) -> None:
        """Note a film's study, for results that replace its own."""
        self.execute("INSERT OR REPLACE INTO studies VALUES (?,?)", (film.number, study_uid))

    def result_places(self, film: QueuedFilm, count: int) -> tuple[Path, ...]:
        """Where the results of a film are to be, whole and on disk, before `add_results`."""
        return tuple(self._result_path(film.number, place) for place in range(count))

    def add_results(
        self, film: QueuedFilm, results: Sequence[tuple[str, str]], urgent: bool, destinations: Sequence[str]
    ) -> None:
        """The results of a film, each (kind, SOP Instance UID), are at their `result_places`, for every destination."""
        with self.transaction() as db:
            for place, (kind, sop_uid) in enumerate(results):
                for name in destinations:
                    db.execute(
                        "INSERT INTO deliveries (film, object, kind, sop_uid, destination, urgent, state) "
                        "VALUES (?,?,?,?,?,?,'waiting')",
                        (film.number, place, kind, sop_uid, name, urgent),
                    )
            db.execute(
                "UPDATE films SET state=?, urgent=?, reason='' WHERE number=?", (FilmState.READ, urgent, film.number)
            )

    def put_back(self, film: QueuedFilm) -> None:
        """A film whose reading failed by no fault of its own is to be tried again."""
        self.execute("UPDATE films SET state=?, tries=tries+1 WHERE number=?", (FilmState.RECEIVED, film.number))

    def give_up(self, film: QueuedFilm, state: FilmState, reason: str) -> None:
        """A film that is not read: `DEAD`, and kept, or `SKIPPED`."""
        self.execute("UPDATE films SET state=?, reason=? WHERE number=?", (state, reason, film.number))
        if state is FilmState.SKIPPED:
            self._delete([film.path])

    # Results are delivered.

    def waiting(self, destination: str, limit: int, deferred: Collection[int] = ()) -> list[Parcel]:
        """The next results for a destination: urgent ones first; those that it deferred after all others, and those of
        them whose numbers are in `deferred` not at all."""
        rows = self.rows(
            "SELECT * FROM deliveries WHERE destination=? AND state='waiting' "
            "AND NOT (tries>0 AND number IN (SELECT value FROM json_each(?))) "
            "ORDER BY tries>0, urgent DESC, number LIMIT ?",
            (destination, json.dumps(list(deferred)), limit),
        )
        return [
            Parcel(row["number"], row["film"], self._result_path(row["film"], row["object"]), row["tries"])
            for row in rows
        ]

    def begin(self, parcel: Parcel) -> None:
        """A result is being sent."""
        change = "UPDATE films SET state=? WHERE number=? AND state=?"
        self.execute(change, (FilmState.DELIVERING, parcel.film, FilmState.READ))

    def delivered(self, parcel: Parcel, reason: str = "") -> None:
        """A destination has a result; `reason` is what it remarked. Files go with the last one of a film."""
        self._end_delivery(parcel, "state='delivered', reason=?, delivered=?", (reason, now()))

    def refused(self, parcel: Parcel, reason: str) -> None:
        """A destination will not take a result: a dead letter."""
        self._end_delivery(parcel, "state='dead', reason=?", (reason,))

    def defer(self, parcel: Parcel, reason: str) -> None:
        """A destination cannot take a result now; after `MAX_TRIES` it is a dead letter."""
        if parcel.tries + 1 >= MAX_TRIES:
            self.refused(parcel, f"deferred {MAX_TRIES} times; the last reason: {reason}")
        else:
            self.execute("UPDATE deliveries SET tries=tries+1, reason=? WHERE number=?", (reason, parcel.number))

    def set_problem(self, destination: str, reason: str) -> None:
        """A destination does not take what it is sent, and why."""
        self.execute(
            "INSERT INTO destinations VALUES (?,?,?) ON CONFLICT (name) DO UPDATE SET problem=excluded.problem",
            (destination, reason, now()),
        )

    def clear_problem(self, destination: str) -> None:
        """A destination takes what it is sent; its problem stays while something waits that it deferred."""
        deferred = "SELECT 1 FROM deliveries WHERE destination=name AND state='waiting' AND tries>0"
        self.execute(f"DELETE FROM destinations WHERE name=? AND NOT EXISTS ({deferred})", (destination,))

    def discard(self) -> tuple[int, int]:
        """Give up dead letters, and films that were not read, for good; how many of each. Files go with them, but those
        of films that others still wait for."""
        with self.transaction() as db:
            films = db.execute("SELECT DISTINCT film FROM deliveries WHERE state='dead'").fetchall()
            dropped = db.execute("UPDATE deliveries SET state='dropped' WHERE state='dead'").rowcount
            done = {row["film"] for row in films if self._settle(db, row["film"])}
            unread = {row["number"] for row in db.execute("SELECT number FROM films WHERE state=?", (FilmState.DEAD,))}
            change = "UPDATE films SET state=?, reason='discarded: ' || reason WHERE state=?"
            db.execute(change, (FilmState.SKIPPED, FilmState.DEAD))
            waiting = "SELECT 1 FROM deliveries WHERE destination=name AND state='waiting'"
            db.execute(f"DELETE FROM destinations WHERE NOT EXISTS ({waiting})")
        self._delete_films(done | unread)
        return dropped, len(unread)

    # Within.

    def _end_delivery(self, parcel: Parcel, change: str, values: tuple[Any, ...]) -> None:
        """Change a delivery to its last state, and its film with the last of its deliveries; then its files go."""
        with self.transaction() as db:
            db.execute(f"UPDATE deliveries SET {change} WHERE number=?", (*values, parcel.number))
            done = self._settle(db, parcel.film)
        if done:
            self._delete_films({parcel.film})

    @staticmethod
    def _settle(db: sqlite3.Connection, film: int) -> bool:
        """The state of a film by those of its deliveries; whether all of them are delivered or dropped."""
        states = {row["state"] for row in db.execute("SELECT DISTINCT state FROM deliveries WHERE film=?", (film,))}
        if "waiting" in states:
            return False
        if "dead" in states:
            state, reason = FilmState.DEAD, "a result was not delivered"
        elif "delivered" in states:
            state, reason = FilmState.DELIVERED, ""
        else:
            state, reason = FilmState.SKIPPED, "discarded: no result was delivered"
        db.execute("UPDATE films SET state=?, reason=? WHERE number=?", (state, reason, film))
        return state in DONE

    def _delete_films(self, numbers: Set[int]) -> None:
        """Delete the files of films, and their results."""
        rows = [self.row("SELECT * FROM films WHERE number=?", (number,)) for number in numbers]
        results = [path for path in self._results.iterdir() if _film_of(path) in numbers]
        self._delete([*map(self._film_path, rows), *results])

    def _delete(self, paths: Sequence[Path]) -> None:
        """Delete files, unless all are kept."""
        if not self.keep:
            for path in paths:
                with suppress(OSError):  # removed at the next start
                    path.unlink(missing_ok=True)

    def _film_path(self, row: Mapping[str, Any] | sqlite3.Row) -> Path:
        key = f"{row['sop_uid']} {row['digest']} {row['model']}"
        return self._films / f"{hashlib.sha256(key.encode()).hexdigest()}.dcm"

    def _result_path(self, film: int, place: int) -> Path:
        return self._results / f"{film}-{place}.dcm"


def _film_of(result: Path) -> int | None:
    """The number of the film that a file of results is of; None: it is none of ours."""
    head = result.name.partition("-")[0]
    return int(head) if head.isdecimal() else None
