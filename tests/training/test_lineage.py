"""Lineage finds every patient that got in, says by which way, and never who it was."""

import json

import pytest

from cxrlines.io.patients import cut, key_name, tokens
from cxrlines.training.lineage import Ancestry, LeakError, Lineage, UntracedError, read_lineage, state_of


def of(step, patients, parents=(), key="ranzcr", **more) -> Lineage:
    return Lineage(step, frozenset(tokens(patients, key)), tuple(parents), **more)


def family(key="ranzcr") -> Lineage:
    """A fine-tune of a student of a teacher; only the teacher saw patient t."""
    teacher = of("m/fold0/teacher", ["a", "t"], key=key)
    student = of("m/fold0/student", ["a"], [("teacher", teacher)], key=key)
    return of("m/fold0/finetune", ["a", "b"], [("start", student)], key=key)


def test_seen_is_the_union_of_all_ancestors():
    assert family().seen() == set(tokens("abt", "ranzcr"))


@pytest.mark.parametrize("key", ["site", "ranzcr", "sha256"])
def test_patients_are_known_under_every_key_that_is_held(key):
    """Declared or not: a run may declare its patients public after another of the same films did not."""
    lineage = family(key_name(key))
    for declared in ("site", "ranzcr"):
        lineage.refuse_seen(["c", "d"], declared)
        with pytest.raises(LeakError, match=r"refused to score m/fold0/finetune: 1 of 2 patients"):
            lineage.refuse_seen(["b", "c"], declared)


def test_numbers_of_a_public_external_set_are_not_taken_for_a_hospitals_own():
    lineage = of("m/fold0/soft", ["1", "2"], key="nih")
    lineage.refuse_seen(["1", "2"])
    with pytest.raises(LeakError):
        lineage.refuse_seen(["1", "3"], "nih")


def test_a_patient_that_only_a_teacher_saw_is_refused_with_the_way_it_got_in():
    way = r"by way of m/fold0/finetune <- start m/fold0/student <- teacher m/fold0/teacher"
    with pytest.raises(LeakError, match=way):
        family().refuse_seen(["t"])


def test_errors_and_files_spell_neither_patients_nor_their_hashes():
    lineage = of("step", ["MRN-1234567"], key=key_name())
    with pytest.raises(LeakError) as error:
        lineage.refuse_seen(["MRN-1234567"])
    (token,) = lineage.patients
    for text in ("MRN-1234567", *tokens(["MRN-1234567"], "sha256")):
        assert text.removeprefix("sha256:") not in str(error.value) + lineage.text()
    assert token.partition(":")[2] not in str(error.value)


def test_as_dict_and_from_dict_are_inverse():
    grown = of("m/other", ["z"], [("start", family()), ("teacher", family())], trusted=("x.pth",), key=key_name())
    for lineage in (family(), grown, Lineage("empty", frozenset()), grown.cut()):
        assert Lineage.from_dict(json.loads(lineage.text())) == lineage


def test_ancestors_that_are_shared_are_written_once():
    """Thirty generations, each with two parents, would be 2^30 entries."""
    lineage = of("0", [f"p{k}" for k in range(3000)])
    for generation in range(1, 30):
        lineage = of(str(generation), [f"p{k}" for k in range(3000)], [("start", lineage), ("teacher", lineage)])
    text = lineage.text()
    assert len(text) < 80_000
    again = Lineage.from_dict(json.loads(text))
    assert len(again.seen()) == 3000 and len(list(again.walk())) == 30 and again.text() == text


def test_the_form_of_earlier_versions_is_read(tmp_path):
    bare = [token.partition(":")[2] for token in tokens(["a"], "sha256")]
    old = {"step": "m", "patients": [], "unknown": ["x.pth"], "parents": [
        {"role": "start", "step": "t", "patients": bare, "unknown": [], "parents": []}]}  # fmt: skip
    (tmp_path / "lineage.json").write_text(json.dumps(old))
    lineage = read_lineage(tmp_path / "lineage.json")
    assert lineage.untraced() == ["m: x.pth"]
    with pytest.raises(LeakError, match="by way of m <- start t"):
        lineage.refuse_seen(["a"])


@pytest.mark.parametrize(
    "spoilt",
    [
        {"format": 2, "patients": {"ranzcr": ["0" * 16] * 9}, "steps": [{"step": "x", "seen": "gA==", "parents": []}]},
        {"format": 2, "patients": {}, "steps": []},
        {"format": 2},
        {"step": "x"},
    ],
)
def test_a_spoilt_one_is_refused(spoilt):
    with pytest.raises((ValueError, KeyError, TypeError, IndexError)):
        Lineage.from_dict(spoilt)


# -- what cannot be known


def test_unknown_origins_are_named_through_every_generation():
    public = Lineage("m/start", frozenset(), unknown=("public.pth",))
    child = of("m/only", ["a"], [("start", public)])
    assert child.untraced() == ["m/start: public.pth"]
    assert family().untraced() == []


def test_unknown_ancestry_counts_as_having_seen_everybody_until_it_is_trusted():
    unknown = of("m/only", ["a"], [("start", Lineage("m/start", frozenset(), unknown=("public.pth",)))])
    with pytest.raises(UntracedError, match=r"all 2 patients \(m/start: public.pth\).*ancestry: trusted"):
        unknown.refuse_seen(["b", "c"])
    trusted = unknown.trusting()
    trusted.refuse_seen(["b", "c"])
    assert trusted.vouched_for() == ["m/start: public.pth"] and trusted.untraced() == []
    with pytest.raises(LeakError, match="1 of 1"):
        trusted.refuse_seen(["a"])


def test_patients_under_another_sites_key_cannot_be_compared():
    theirs = Lineage("m", frozenset(["site-00000000:0123456789abcdef"]))
    assert theirs.gaps(["a"]) == ["patients under the key of another site (site-00000000)"]
    assert family(key_name()).gaps(["z"]) == family().gaps(["z"]) == []


def test_of_a_public_set_that_may_share_patients_nobody_is_known_to_be_unseen():
    shares = Lineage("n", frozenset(), (("start", family().sharing(["ranzcr"])),))
    why = ["patients of ranzcr may be among its own, under other identifiers"]
    assert shares.gaps(["z"], "ranzcr") == shares.cut().gaps(["z"], "ranzcr") == why
    assert Lineage.from_dict(json.loads(shares.text())).gaps(["z"], "ranzcr") == why
    assert shares.gaps(["z"]) == shares.gaps(["z"], "nih") == []
    shares.refuse_seen(["z"])


def test_of_a_bundles_file_chance_is_told_from_leaks():
    """3,000 patients seen, 600 asked: 1.7 of them are expected to share a cut key."""
    seen = [f"seen {k}" for k in range(3000)]
    bundle = of("m", seen).cut()
    assert all(token == cut(token) for token in bundle.patients)
    strangers = [f"stranger {k}" for k in range(1200)]
    shared = [s for s in strangers if cut(tokens([s], "ranzcr")[0]) in bundle.patients]
    assert 1 <= len(shared) <= 12
    clean = [s for s in strangers if s not in shared][:600]
    bundle.refuse_seen(clean)
    assert bundle.gaps(clean) == []
    assert bundle.gaps([*clean, *shared[:1]]) == [
        "its patients are known by cut keys, some of which these patients share"
    ]
    with pytest.raises(LeakError, match="share the cut key"):
        bundle.refuse_seen([*clean, *shared[:1]])
    vouched = of("n", [], [("start", bundle)], trusted=("bundle",))
    vouched.refuse_seen([*clean, *shared[:1]])
    with pytest.raises(LeakError, match=r"40 of 640 .* by way of n <- start m"):
        vouched.refuse_seen([*clean, *seen[:40]])


def test_the_worst_is_what_is_said_of_models_together():
    clean, unknown = family(), Lineage("m", frozenset(), unknown=("x",))
    trusted = unknown.trusting()
    assert state_of([clean], leaked=False) is Ancestry.CLEAN and state_of([], leaked=False) is Ancestry.CLEAN
    assert state_of([clean, trusted], leaked=False) is Ancestry.TRUSTED
    assert state_of([clean, trusted, unknown], leaked=False) is Ancestry.UNKNOWN
    assert state_of([clean, unknown], leaked=True) is Ancestry.LEAK
