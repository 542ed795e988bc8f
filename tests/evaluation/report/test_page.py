import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from cxrlines.evaluation.report.page import Predictions, write_report
from cxrlines.evaluation.scores import evaluate
from cxrlines.task import LABELS, UNKNOWN

VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Text and attributes of a page; fails on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def test_page_stands_alone_and_says_everything(report, tmp_path):
    out = tmp_path / "run" / "report.html"
    write_report(report, out, resamples=30)
    assert sorted(path.name for path in out.parent.iterdir()) == ["metrics.json", "report.html"]
    html = out.read_text(encoding="utf-8")
    page = Page(html)
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert "script" not in page.tags and "@import" not in html and "url(" not in html
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors <= set(re.findall(r'id="(\w+)"', html))
    for words in [
        "Made-up report",
        "For research only, not a medical device.",
        "test films of patients no member saw",
        "film could not be read 3",
        "difficulty 0.5",
        "teacher <fold 0>",  # escaped in the source, itself to the reader
        "unknown: public weights of unknown films",
        "The teacher sees the lines, so its own AUC means little.",
        "cxrlines train demo --data runs/demo/data --out runs/demo",
        "could not be read and are not shown",
        "baseline, not in the ensemble",
    ]:
        assert words in page.text, words
    assert "<fold 0>" not in html
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_metrics_are_those_of_the_predictions(report, tmp_path):
    metrics = write_report(report, tmp_path / "report.html", resamples=30)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert set(metrics["members"]) == {"baseline", "three-stage", "multi-head"}
    for name, figures in metrics["members"].items():
        alone = evaluate(report.main.by_name[name], report.main.truth, resamples=30, seed=7)
        assert figures["macro_auc"] == alone.macro_auc and figures["ci95"] == list(alone.ci95)
    assert metrics["members"]["three-stage"]["seconds"] == 395.2
    assert metrics["ensemble"]["seconds"] == pytest.approx(395.2 + 120)  # the baseline is not part of it
    whole = evaluate(report.main.by_name["ensemble"], report.main.truth, resamples=30, seed=7)
    assert metrics["ensemble"]["macro_auc"] == whole.macro_auc
    assert list(metrics["labels"]) == list(LABELS)
    assert metrics["labels"][LABELS[4]]["positives"] == report.main.truth[LABELS[4]].sum()
    difference = metrics["differences"]["ensemble - baseline"]
    assert difference["macro_auc"] == pytest.approx(whole.macro_auc - metrics["members"]["baseline"]["macro_auc"])
    assert metrics["ancestry_unknown"] == {"multi-head": "public weights of unknown films"}


def test_unknown_ancestry_marks_its_figures_and_the_ensembles(report, tmp_path):
    out = tmp_path / "report.html"
    write_report(report, out, resamples=5)
    assert re.search(r"multi-head\s*†", Page(out.read_text()).text)
    assert re.search(r"ensemble\s*†", Page(out.read_text()).text)
    assert not re.search(r"three-stage\s*†", Page(out.read_text()).text)
    known = replace(report, members=[replace(member, ancestry_unknown="") for member in report.members])
    write_report(known, out, resamples=5)
    assert "†" not in out.read_text()


def test_an_unknown_baseline_does_not_mark_the_ensemble(report, tmp_path):
    members = [replace(m, ancestry_unknown="public" if m.role == "baseline" else "") for m in report.members]
    write_report(replace(report, members=members), tmp_path / "report.html", resamples=5)
    text = Page((tmp_path / "report.html").read_text()).text
    assert re.search(r"baseline\s*†", text) and not re.search(r"ensemble\s*†", text)


def test_an_ensemble_of_one_is_not_compared_with_itself(report, tmp_path):
    members = [member for member in report.members if member.name != "multi-head"]
    alone = {**report.main.by_name, "ensemble": report.main.by_name["three-stage"]}
    one = replace(report, members=members, main=replace(report.main, by_name=alone))
    write_report(one, tmp_path / "report.html", resamples=5)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "It has one member, three-stage: their figures are the same." in text
    assert "than its member" not in text and "than the baseline" in text


def test_an_ensemble_of_several_stages_of_one_member_is_compared_with_it(report, tmp_path):
    members = [member for member in report.members if member.name != "multi-head"]
    write_report(replace(report, members=members), tmp_path / "report.html", resamples=5)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "their figures are the same" not in text and "than its member “three-stage”" in text


def test_ranks_are_shown_as_no_probabilities(report, tmp_path):
    metrics = write_report(replace(report, ranks=True), tmp_path / "report.html", resamples=5)
    page = (tmp_path / "report.html").read_text()
    assert (metrics["ece"], metrics["brier"]) == (None, None) and metrics["ensemble"]["macro_auc"]
    assert "mean ranks, which are no probabilities" in page
    assert 'id="calibration"' not in page and 'id="films"' not in page


def test_patients_in_several_folds_are_counted(report, tmp_path):
    write_report(report, tmp_path / "report.html", resamples=5)
    assert "No patient is in two folds." in (tmp_path / "report.html").read_text()
    patient = report.folds["patient"].iloc[0]
    apart = report.folds.assign(patient=report.folds["patient"].where(report.folds["fold"] == 0, patient))
    write_report(replace(report, folds=apart), tmp_path / "report.html", resamples=5)
    page = (tmp_path / "report.html").read_text()
    assert "No patient is in two folds." not in page and "in several folds" in page


def test_out_of_fold_stands_beside(report, tmp_path):
    beside = Predictions("training films, each by members of other folds", report.main.by_name, report.main.truth)
    metrics = write_report(replace(report, out_of_fold=beside), tmp_path / "report.html", resamples=5)
    assert metrics["out_of_fold"]["ensemble"] == {k: metrics["ensemble"][k] for k in ("macro_auc", "ci95")}
    assert "training films, each by members of other folds" in Page((tmp_path / "report.html").read_text()).text


def test_a_page_without_films_folds_and_steps(without_films, tmp_path):
    write_report(without_films, tmp_path / "report.html", resamples=5)
    page = Page((tmp_path / "report.html").read_text())
    assert "img" not in page.tags and "No patient is in two folds" not in page.text and "0 steps" in page.text


def test_a_label_without_positives_is_undefined_on_the_page(report, tmp_path):
    main = replace(report.main, truth=report.main.truth.assign(**{LABELS[0]: 0}))
    metrics = write_report(replace(report, main=main), tmp_path / "report.html", resamples=5)
    assert metrics["labels"][LABELS[0]]["auc"] is None
    text = Page((tmp_path / "report.html").read_text()).text
    assert f"{LABELS[0]} has no AUC and is not in the macro AUC: none of 300 films is positive." in text
    assert f"on average over {len(LABELS) - 1} labels" in text


def test_a_label_of_unknown_truth_is_undefined_on_the_page_and_no_mistake(report, tmp_path):
    main = replace(report.main, truth=report.main.truth.assign(**{LABELS[0]: UNKNOWN}))
    metrics = write_report(replace(report, main=main), tmp_path / "report.html", resamples=5)
    assert metrics["undefined"] == {LABELS[0]: "no known truth"} and metrics["labels"][LABELS[0]]["brier"] is None
    text = Page((tmp_path / "report.html").read_text()).text
    assert f"{LABELS[0]} has no AUC and is not in the macro AUC: no known truth." in text
    assert f"False negative: {LABELS[0]}" not in text and f"False positive: {LABELS[0]}" not in text


def test_a_page_of_films_none_of_whose_labels_is_known(report, tmp_path):
    main = replace(report.main, truth=report.main.truth.assign(**dict.fromkeys(LABELS, UNKNOWN)))
    metrics = write_report(replace(report, main=main), tmp_path / "report.html", resamples=5)
    assert metrics["ece"] is metrics["brier"] is metrics["ensemble"]["macro_auc"] is None
    assert "ensemble – – – –" in Page((tmp_path / "report.html").read_text()).text, "no AUC, interval, ECE, Brier score"


def test_same_report_same_bytes(report, tmp_path):
    for name in ("a.html", "b.html"):
        write_report(report, tmp_path / name, resamples=5)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_failing_report_leaves_the_old_one(report, tmp_path):
    out = tmp_path / "report.html"
    write_report(report, out, resamples=5)
    before = out.read_bytes()
    missing = {name: frame for name, frame in report.main.by_name.items() if name != "multi-head"}
    with pytest.raises(ValueError, match="no predictions of multi-head on test films of patients no member saw"):
        write_report(replace(report, main=replace(report.main, by_name=missing)), out, resamples=5)
    assert out.read_bytes() == before


def test_out_is_the_page_itself(report, tmp_path):
    with pytest.raises(ValueError, match=r"name the page itself, e\.g\. .*report\.html"):
        write_report(report, tmp_path, resamples=5)
