"""The log of a node: what it says, and what it costs where it cannot be written."""

import json

from cxrlines.pacs.audit_log import AUDIT, AuditLog


def test_a_file_that_is_rotated_is_started_again(tmp_path):
    audit = AuditLog(tmp_path)
    audit.write("received", film=1, peer="MODALITY\n@10.0.0.7")
    (tmp_path / AUDIT).rename(tmp_path / "old")
    audit.write("read", film=1)
    audit.close()
    for name, event in (("old", "received"), (AUDIT, "read")):
        (line,) = map(json.loads, (tmp_path / name).read_text().splitlines())
        assert line["event"] == event and line["film"] == 1 and line["time"].endswith("+00:00")


def test_one_that_cannot_be_written_costs_lines_and_no_more(tmp_path, monkeypatch):
    """Rotated away, and nothing can be made in its place."""
    audit = AuditLog(tmp_path)
    (tmp_path / AUDIT).rename(tmp_path / "old")
    (tmp_path / AUDIT).mkdir()
    audit.write("received", film=1)
    audit.write("received", film=2)
    (tmp_path / AUDIT).rmdir()
    audit.write("received", film=3)
    audit.close()
    assert json.loads((tmp_path / AUDIT).read_text())["film"] == 3
