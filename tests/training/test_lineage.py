"""Lineage finds every patient that got in, and says by which way."""

import pytest

from cxrlines.training.lineage import LeakError, Lineage, patient_key, read_lineage


def family() -> Lineage:
    """A fine-tune of a student of a teacher; only the teacher saw patient t."""
    teacher = Lineage.of("m/fold0/teacher", ["a", "t"])
    student = Lineage.of("m/fold0/student", ["a"], [("teacher", teacher)])
    return Lineage.of("m/fold0/finetune", ["a", "b"], [("start", student)])


def test_seen_is_the_union_of_all_ancestors():
    assert family().seen() == {patient_key(p) for p in "abt"}


def test_unseen_patients_pass():
    family().refuse_seen(["c", "d"])


def test_a_patient_of_the_step_itself_is_refused():
    with pytest.raises(LeakError, match=r"refused to score m/fold0/finetune: 1 of 2 patients"):
        family().refuse_seen(["b", "c"])


def test_a_patient_that_only_a_teacher_saw_is_refused_with_the_way_it_got_in():
    way = r"by way of m/fold0/finetune <- start m/fold0/student <- teacher m/fold0/teacher"
    with pytest.raises(LeakError, match=way):
        family().refuse_seen(["t"])


def test_errors_and_files_do_not_spell_patients(tmp_path):
    lineage = Lineage.of("step", ["MRN-1234567"])
    with pytest.raises(LeakError) as error:
        lineage.refuse_seen(["MRN-1234567"])
    assert "1234567" not in str(error.value)
    assert "1234567" not in str(lineage.as_dict())


def test_as_dict_and_from_dict_are_inverse():
    assert Lineage.from_dict(family().as_dict()) == family()


def test_read_lineage(tmp_path):
    import json

    path = tmp_path / "lineage.json"
    path.write_text(json.dumps(family().as_dict()))
    assert read_lineage(path) == family()


def test_unknown_origins_are_named_through_every_generation():
    public = Lineage.of("m/start", [], unknown=["public.pth"])
    child = Lineage.of("m/only", ["a"], [("start", public)])
    assert child.untraced() == ["m/start: public.pth"]
    assert family().untraced() == []
