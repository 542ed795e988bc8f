"""The journal: what is acknowledged stays, what is not leaves no trace."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from cxrlines.core.files import OutputError
from cxrlines.corrections.correction_journal import Journal, JournalError


def add(path: Path, worker: int, count: int) -> None:
    journal = Journal(path)
    for number in range(count):
        with journal.locked():
            journal.append({"worker": worker, "number": number, "before": len(journal.entries)})


def test_many_processes_lose_nothing(tmp_path):
    path = tmp_path / "j.jsonl"
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=add, args=(path, worker, 15)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(e["worker"], e["number"]) for e in entries} == {(w, n) for w in range(3) for n in range(15)}
    assert [e["before"] for e in entries] == list(range(45))  # each saw all that came before it


def test_a_line_cut_by_a_kill_is_not_read_and_then_replaced(tmp_path):
    path = tmp_path / "j.jsonl"
    add(path, 0, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"worker": 9, "num')
    journal = Journal(path)
    journal.refresh()
    assert len(journal.entries) == 2
    add(path, 1, 1)
    assert path.read_bytes().startswith(whole + b'{"worker":1') and b'"worker": 9' not in path.read_bytes()
    journal.refresh()
    assert len(journal.entries) == 3


@pytest.mark.parametrize("count", [1, 3])
def test_a_full_disk_leaves_it_as_it_was(tmp_path, monkeypatch, count):
    path = tmp_path / "j.jsonl"
    add(path, 0, 1)
    whole, write = path.read_bytes(), os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) > 20:
            return write(handle, data[:20])
        raise OSError(28, "No space left on device")

    journal = Journal(path)
    with journal.locked():
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OutputError, match=r"j\.jsonl: cannot be written \(No space left.*free space"):
            journal.append(*[{"comment": "x" * 27}] * count)
        monkeypatch.undo()
        assert path.read_bytes() == whole and len(journal.entries) == 1
        journal.append(*[{"again": True}] * count)
    assert [json.loads(line) for line in path.read_text().splitlines()][1:] == [{"again": True}] * count
    add(path, 1, 1)
    journal.refresh()
    assert len(journal.entries) == count + 2


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text('{"a":1}\nnothing\n{"b":1}\n')
    with pytest.raises(JournalError, match=r"j\.jsonl: line 2 is no JSON object"):
        Journal(path).refresh()


@pytest.mark.parametrize("grown", [0, 1, 4], ids=["shorter", "as long", "longer"])
def test_one_that_was_put_back_from_a_backup_meanwhile_is_not_written(tmp_path, grown):
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    for number in range(3):
        with journal.locked():
            journal.append({"number": number})
    whole = path.read_bytes()
    path.write_bytes(whole[: -2 * len(whole) // 3])  # the first line
    add(path, 7, grown)
    restored = path.read_bytes()
    for _ in range(2):
        with pytest.raises(JournalError, match=r"j\.jsonl: .*was replaced or cut.*start .* again"):
            journal.refresh()
        with pytest.raises(JournalError), journal.locked():
            journal.append({"number": 3})
    assert path.read_bytes() == restored and len(journal.entries) == 3
    again = Journal(path)  # after a restart
    again.refresh()
    assert len(again.entries) == 1 + grown
    path.write_bytes(whole)
    with journal.locked():
        journal.append({"number": 3})
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]


def test_one_that_is_gone_is_not_begun_anew(tmp_path):
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    with journal.locked():
        journal.append({"number": 0})
    path.unlink()
    with pytest.raises((JournalError, OutputError), match=r"j\.jsonl: cannot be .*No such file"), journal.locked():
        journal.append({"number": 1})
    assert not path.exists()
