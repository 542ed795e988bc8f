"""The page in a real browser, with the real reader behind it."""

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from cxrlines.io.films import read_film
from cxrlines.task import LABELS_OF, STUDY_COLUMN, Device

from .serving import DEADLINE_S, EXAMPLE, serving

pytestmark = pytest.mark.doors
CHROMIUM = shutil.which("chromium-headless-shell")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip
PICTURE = 'document.querySelector(".pane:not([hidden]) canvas").toDataURL("image/png")'
LATE_FRAMES = """{
  const next = requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (draw) => next(() => setTimeout(() => next(draw), 50));
}"""
"""A test that looks before what it asked is drawn fails always, and not once on a busy machine."""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page") / "project"


@pytest.fixture(scope="module")
def address(project):
    with serving("--project", project) as server:
        yield server.wait()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "chromium-headless-shell is missing: apt-get install chromium-headless-shell"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    """The page, of which nothing asks elsewhere, and nothing breaks or is blocked."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    context.set_default_timeout(DEADLINE_S * 1000)
    opened = context.new_page()
    opened.add_init_script(LATE_FRAMES)
    asked: list[str] = []
    broken: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.on("console", lambda line: broken.append(line.text) if "Content Security Policy" in line.text else None)
    opened.goto(address)
    opened.locator("#what-reads", has_text="weights").wait_for()
    yield opened
    context.close()
    assert not broken
    assert [url for url in asked if not url.startswith((address, f"blob:{address}"))] == []


SHOWN = """() => {
  const pane = document.querySelector(".pane:not([hidden])"), wait = pane.querySelector(".wait");
  const name = pane.querySelector(".bar").firstElementChild.textContent;
  if (!wait.hidden) return !/Loading|Reading/.test(wait.textContent);
  return pane.querySelector("canvas").getAttribute("aria-label").startsWith(`${name}. `);
}"""
"""Whether the film that is chosen is shown, with its findings in words, or a sentence instead of it."""


SIDES = ("x", "width"), ("y", "height")


def drop(page, *films: Path) -> None:
    """Give films to the page and wait until all are read and one is shown."""
    page.set_input_files("#file", [str(film) for film in films])
    page.locator(".film").nth(len(films) - 1).wait_for()
    while page.locator(".film.reading, .film.waiting").count():
        page.wait_for_timeout(100)
    loaded(page)


def loaded(page) -> None:
    """Wait until the film that is chosen is shown, and drawn with its lines, or why it is not is said."""
    page.wait_for_function(SHOWN)
    drawn(page)


def drawn(page) -> None:
    """Wait until what was asked is drawn: with the next frame, and where the size changes with one after it."""
    frame = "await new Promise(requestAnimationFrame);"
    page.evaluate(f"async () => {{ {3 * frame} }}")


def until(page, condition: Callable[[], bool]) -> None:
    """Wait for what the page draws."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        page.wait_for_timeout(20)


def shown(page) -> np.ndarray:
    """Gray values (h, w) uint8 of the canvas, once what was asked is drawn."""
    drawn(page)
    png = base64.b64decode(page.evaluate(PICTURE).partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))


def dicom(name: str) -> Path:
    path = get_testdata_file(name)
    assert path is not None, "pip install pydicom-data"
    return Path(str(path))


def accessible(page) -> list[str]:
    """What axe finds that is serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in found if each["impact"] in ("serious", "critical")
    ]


def test_a_film_shows_its_lines_findings_and_what_read_it(page, address):
    drop(page, EXAMPLE)
    content, kind = EXAMPLE.read_bytes(), {"Content-Type": "image/jpeg"}
    answer = httpx.post(f"{address}/v1/read", content=content, headers=kind, timeout=DEADLINE_S).json()
    lines = answer["lines"]
    assert lines and page.locator("svg path.line").count() == len(lines)
    assert page.locator("svg circle.ring").count() == sum(line["tip"] is not None for line in lines)
    assert page.locator("svg rect.ring").count() == sum(line["followed_to"] is not None for line in lines)
    assert page.locator("svg path.carina").count() == len(answer["landmarks"])
    assert page.locator("svg path.measure").count() == 1  # of the endotracheal tube
    said = page.locator("#findings").inner_text()
    for words in ("Endotracheal tube", "By rule abnormal", "See first", "Not found is not absent"):
        assert words in said
    assert re.search(r"(above|below) 0\.\d\d", said)  # the operating point beside a probability
    foot = page.locator("footer").inner_text()
    assert "research only" in foot and answer["bundle"] in foot and re.search(r"cxrlines \d+\.\d+", foot)
    assert page.locator("canvas").first.get_attribute("aria-label").startswith("example.jpg. Endotracheal tube")


def test_at_one_to_one_the_canvas_shows_the_film_s_own_pixels(page):
    drop(page, EXAMPLE)
    page.keyboard.press("z")
    film, seen = read_film(EXAMPLE).pixels, shown(page)
    height, width = (min(a, b) for a, b in zip(film.shape, seen.shape, strict=True))
    top, left = (max(0, (a - b) // 2) for a, b in zip(film.shape, seen.shape, strict=True))
    part = seen[(seen.shape[0] - height) // 2 :, (seen.shape[1] - width) // 2 :][: height - 4, : width - 4]
    offsets = [(dy, dx) for dy in range(-2, 5) for dx in range(-2, 5)]
    same = [
        np.array_equal(part, film[top + dy :, left + dx :][: part.shape[0], : part.shape[1]])
        for dy, dx in offsets
        if top + dy >= 0 and left + dx >= 0
    ]
    assert any(same)
    page.keyboard.press("i")
    inverted = shown(page)
    np.testing.assert_array_equal(inverted[300:400, 300:400], 255 - seen[300:400, 300:400])
    page.keyboard.press("r")
    np.testing.assert_array_equal(shown(page), seen)


def test_window_pan_and_zoom(page):
    drop(page, EXAMPLE)
    before = shown(page)
    box = page.locator(".stage").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 120, y, steps=4)
    page.mouse.up()
    narrow = shown(page)
    assert narrow.std() > 1.2 * before.std()  # a narrower window is harder
    page.keyboard.press("r")
    for key in "n" * 8:
        page.keyboard.press(key)
    assert shown(page).std() > 1.2 * before.std()
    assert page.locator(".readout").first.text_content().endswith("W 127  L 128")
    for key in "w" * 8 + "dddd" + "bbbb":
        page.keyboard.press(key)
    np.testing.assert_array_equal(shown(page), before)
    page.keyboard.press("d")
    assert shown(page).mean() < before.mean()
    page.keyboard.press("r")
    tip = page.locator("svg circle.ring").first
    drawn(page)
    place = tip.bounding_box()
    at = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(*at)
    page.mouse.wheel(0, -400)
    until(page, lambda: tip.bounding_box() != place)
    drawn(page)
    now = tip.bounding_box()
    assert (now["x"] + now["width"] / 2, now["y"] + now["height"] / 2) == pytest.approx(at, abs=1.5)
    assert not np.array_equal(shown(page), before)
    page.keyboard.press("f")
    np.testing.assert_array_equal(shown(page), before)


def test_a_finding_is_zoomed_to_and_its_words_and_files_are_taken(page, address):
    drop(page, EXAMPLE)
    line = page.locator("svg path.line").first
    before = line.bounding_box()
    page.locator("#findings button.tip").first.click()
    drawn(page)
    assert line.bounding_box()["height"] > 1.3 * before["height"]
    page.locator("#findings button.tip").first.click()  # and back
    drawn(page)
    assert line.bounding_box() == before
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.keyboard.press("c")
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".sentence").inner_text()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as without TLS elsewhere
    page.keyboard.press("c")
    page.get_by_role("button", name="Select and copy it").wait_for()
    files = []
    for name in ("JSON", "Picture"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        files.append(Path(download.value.path()).read_bytes())
    asked = {"content": EXAMPLE.read_bytes(), "timeout": DEADLINE_S}
    (found,) = json.loads(files[0])
    answer = httpx.post(f"{address}/v1/read", headers={"Content-Type": "image/jpeg"}, **asked).json()
    named = {"film": "example.jpg", STUDY_COLUMN: "example.jpg"}  # not by the API, which gets its bytes alone
    assert {**found, "seconds": 0} == {**answer, **named, "seconds": 0}
    drawing = httpx.post(f"{address}/v1/read", headers={"Content-Type": "image/jpeg", "Accept": "image/png"}, **asked)
    assert files[1] == drawing.content


def test_keys_turn_lines_off_and_on_and_help_says_which(page):
    drop(page, EXAMPLE)
    count = page.locator("svg path.line").count()
    page.keyboard.press("l")
    drawn(page)
    assert page.locator("svg path.line, svg path.carina, svg .ring").count() == 0
    page.keyboard.press("l")
    page.keyboard.press(str(list(Device).index(Device.ETT) + 1))
    drawn(page)
    assert page.locator("svg path.line").count() == count - 1
    page.keyboard.press("?")
    assert "all lines on or off" in page.locator("dialog[open]").inner_text()
    assert accessible(page) == []
    page.keyboard.press("Escape")
    until(page, lambda: page.locator("dialog[open]").count() == 0)


def test_keys_act_on_the_film_alone_where_a_person_says_so(page):
    drop(page, EXAMPLE)
    count = page.locator("svg path.line").count()
    eye = page.get_by_role("button", name="Shown lines of the endotracheal tube")
    eye.press("Enter")
    hidden = page.get_by_role("button", name="Hidden lines of the endotracheal tube")
    assert hidden.evaluate("button => button === document.activeElement")  # the panel was built anew
    hidden.press("Enter")
    page.keyboard.press("?")
    page.get_by_label("Letters, digits and signs").uncheck()
    assert accessible(page) == []
    page.keyboard.press("Escape")
    until(page, lambda: page.locator("dialog[open]").count() == 0)
    for focus, there in ((eye, count), (page.locator(".stage").first, 0), (page.locator(".stage").first, count)):
        focus.focus()
        page.keyboard.press("l")
        drawn(page)
        assert page.locator("svg path.line").count() == there
    page.reload()
    page.locator("#what-reads", has_text="weights").wait_for()
    page.get_by_role("button", name="Keys").click()
    assert not page.get_by_label("Letters, digits and signs").is_checked()


def test_many_films_urgent_first_refused_and_unreadable_with_their_reason(page, tmp_path):
    letter = tmp_path / "letter.dcm"
    letter.write_text("a letter")
    drop(page, dicom("RG3_UNCR.dcm"), letter, dicom("RG1_UNCR.dcm"), EXAMPLE)
    names = page.locator(".film .name").all_inner_texts()
    assert names == ["example.jpg", "RG1_UNCR.dcm", "RG3_UNCR.dcm", "letter.dcm"]
    assert page.locator("#count").inner_text() == "2 of 4 read, 1 refused, 1 cannot be read"
    page.locator(".film", has_text="RG3_UNCR").click()
    assert "Refused" in page.locator("#findings").inner_text()
    loaded(page)
    assert accessible(page) == []
    page.locator(".film", has_text="letter").click()
    assert "is not a film" in page.locator("#findings").inner_text()
    page.locator(".film", has_text="example").click()
    page.keyboard.press("p")
    page.locator(".pane:not([hidden])").nth(1).wait_for()
    assert page.locator("select[aria-label='Prior film']").inner_text().split() == ["RG1_UNCR.dcm", "RG3_UNCR.dcm"]
    assert accessible(page) == []
    page.keyboard.press("j")
    assert page.locator(".film[aria-current]").inner_text().startswith("RG1_UNCR.dcm")
    with page.expect_download() as download:
        page.get_by_role("button", name="DICOM SR").click()
    assert Path(download.value.path()).read_bytes()[128:132] == b"DICM"
    with page.expect_download() as download:
        page.get_by_role("button", name="DICOM capture").click()
    capture = pydicom.dcmread(download.value.path())
    assert download.value.suggested_filename == "RG1_UNCR.sc.dcm"
    assert capture.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7" and capture.PhotometricInterpretation == "RGB"


def test_no_text_covers_a_tip_in_narrow_panes(page):
    page.set_viewport_size({"width": 1100, "height": 700})
    drop(page, EXAMPLE, dicom("RG1_UNCR.dcm"))
    page.locator(".film", has_text="example").click()
    page.keyboard.press("p")
    drawn(page)
    pane = page.locator(".pane").first
    texts, rings = ([each.bounding_box() for each in pane.locator(f"svg {kind}").all()] for kind in ("text", ".ring"))
    assert len(texts) >= 4 and len(rings) >= 2
    for text in texts:
        for ring in rings:
            shares = [min(text[at] + text[far], ring[at] + ring[far]) - max(text[at], ring[at]) for at, far in SIDES]
            assert min(shares) <= 2


def test_films_of_one_name_differ_in_the_list_and_a_prior_that_is_removed_is_gone(page, tmp_path):
    films = [tmp_path / folder / "film.jpg" for folder in "ab"]
    for film in films:
        film.parent.mkdir()
        film.write_bytes(EXAMPLE.read_bytes())
    drop(page, *films)
    assert page.locator(".film .name").all_inner_texts() == ["film.jpg", "film (2).jpg"]
    page.keyboard.press("p")
    prior, beside = page.get_by_label("Prior film", exact=True), page.locator(".pane").nth(1)
    assert prior.locator("option").all_inner_texts() == ["film (2).jpg"]
    drop(page, *films, dicom("RG1_UNCR.dcm"))
    assert prior.locator("option").all_inner_texts() == ["film (2).jpg", "film (3).jpg", "film (4).jpg", "RG1_UNCR.dcm"]
    assert prior.locator("option:checked").inner_text() == "film (2).jpg"
    for _ in range(2):
        page.keyboard.press("p")
    page.locator(".film", has_text="RG1").click()  # another film is shown, and the prior stays
    assert prior.locator("option:checked").inner_text() == "film (2).jpg"
    page.locator(".film", has_text="film.jpg").click()
    for k in (2, 3, 4):
        page.get_by_label(f"Remove film ({k}).jpg", exact=True).click()
    assert prior.locator("option").all_inner_texts() == ["RG1_UNCR.dcm"]
    until(page, lambda: beside.locator("canvas").get_attribute("aria-label").startswith("RG1_UNCR.dcm"))
    page.get_by_label("Remove RG1_UNCR.dcm").click()
    assert beside.is_hidden() and page.locator(".film .name").all_inner_texts() == ["film.jpg"]


def test_films_that_are_removed_while_they_are_read_hold_up_no_other(page, tmp_path):
    films = [tmp_path / f"{k}.jpg" for k in range(4)]
    for film in films:
        film.write_bytes(EXAMPLE.read_bytes())
    held = []
    page.route("**/v1/films", lambda route: held.append(route) if len(held) < 2 else route.continue_())
    page.set_input_files("#file", [str(film) for film in films])
    page.locator(".film.reading").nth(1).wait_for()
    until(page, lambda: len(held) == 2)
    for _ in range(2):
        page.locator("li:has(.film.reading) .remove").first.click()
    for route in held:
        route.continue_()
    page.locator(".film.done, .film.urgent").nth(1).wait_for()
    assert page.locator(".film .name").all_inner_texts() == ["2.jpg", "3.jpg"]


def test_a_jpeg_gets_dicom_objects_of_the_patient_and_study_that_a_person_gives(page, address):
    drop(page, EXAMPLE)
    assert page.get_by_role("button", name="DICOM SR").count() == 0  # a JPEG names no patient
    page.locator(".identifiers summary").click()
    report, film = (page.get_by_role("button", name=name) for name in ("DICOM SR", "Film as DICOM"))
    page.get_by_label("Patient ID").fill(" PAGE-7 ")
    page.get_by_label("Study Instance UID").fill("not a UID")
    report.click()
    page.locator("#findings .problem", has_text="Digits and points").wait_for()
    page.get_by_label("Study Instance UID").fill("1.2.826.0.1.3680043.10.1.007")
    report.click()
    page.locator("#findings .problem", has_text="not both given and valid").wait_for()  # as the server says
    assert accessible(page) == []
    study = "1.2.826.0.1.3680043.10.1.77"
    page.get_by_label("Study Instance UID").fill(study)
    named = {"Patient-ID": "PAGE-7", "Study-Instance-UID": study}
    for button, path in ((report, "read"), (film, "film.dcm")):
        with page.expect_download() as download:
            button.click()
        headers = {"Content-Type": "image/jpeg", "Accept": "application/dicom"} | named
        made = httpx.post(f"{address}/v1/{path}", content=EXAMPLE.read_bytes(), headers=headers, timeout=DEADLINE_S)
        assert Path(download.value.path()).read_bytes() == made.content
    assert page.locator("#findings .problem").inner_text() == ""
    page.locator(".eye").first.click()  # what rebuilds the panel keeps what was given
    assert page.get_by_label("Study Instance UID").input_value() == study


def asked_for_a_token(browser, server):
    """The page of a server with tokens, and its field for one."""
    page = browser.new_page()
    page.set_default_timeout(DEADLINE_S * 1000)
    page.goto(server.wait())
    return page, page.get_by_label("Token", exact=True)


def test_a_token_is_asked_for_and_asked_for_again(browser, tmp_path):
    (tmp_path / "tokens").write_text("a-token-of-enough-letters")
    with serving("--token-file", tmp_path / "tokens") as server:
        page, token = asked_for_a_token(browser, server)
        token.fill("a-töken-of-enough-letters")  # which no header takes
        token.press("Enter")
        page.locator("#token-problem", has_text="letters without accents").wait_for()
        token.fill("a-wrong-token-of-letters")
        token.press("Enter")
        page.locator("#token-problem", has_text="not one of").wait_for()
        assert accessible(page) == []
        token.fill(" a-token-of-enough-letters ")
        token.press("Enter")
        page.locator("#what-reads", has_text="weights").wait_for()
        drop(page, EXAMPLE)
        assert page.locator("svg path.line").count() > 0
        assert page.get_by_role("button", name="Correct").count() == 0  # without a project nothing is saved
        page.close()


def test_a_token_that_ends_costs_no_correction(browser, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("the-first-token-of-letters")
    with serving("--token-file", tokens, "--project", tmp_path / "project") as server:
        page, token = asked_for_a_token(browser, server)
        token.fill("the-first-token-of-letters")
        token.press("Enter")
        page.locator("#what-reads", has_text="weights").wait_for()
        drop(page, EXAMPLE)
        page.keyboard.press("e")
        page.get_by_role("button", name="Accept all").click()
        page.get_by_label("Your name").fill("A reader")
        tokens.write_text("the-next-token-of-letters")
        page.get_by_role("button", name="Save").click()
        page.locator("#token-problem", has_text="not one of").wait_for()
        token.fill("the-next-token-of-letters")
        token.press("Enter")
        page.locator(".correct", has_text="Saved by A reader").wait_for()
        assert len(pd.read_csv(tmp_path / "project/train.csv")) == 1
        page.close()


def test_at_400_percent_all_of_it_is_in_one_column(browser, address):
    """A window of 1,280 x 720 px, zoomed: nothing is cut off to the sides, or out of reach (WCAG 1.4.10)."""
    page = browser.new_page(viewport={"width": 320, "height": 180})
    page.set_default_timeout(DEADLINE_S * 1000)
    page.goto(address)
    page.locator("#what-reads", has_text="weights").wait_for()
    wide = "document.scrollingElement.scrollWidth"
    assert page.evaluate(wide) <= 320 and accessible(page) == []
    drop(page, EXAMPLE)
    page.get_by_role("button", name="Correct").click()
    page.locator(".correct").wait_for()
    loaded(page)
    assert page.evaluate(wide) <= 320 and accessible(page) == []
    for part in (page.locator("#tools button"), page.locator(".correct button"), page.locator(".states").first):
        for one in part.all():
            one.scroll_into_view_if_needed()
            box = one.bounding_box()
            assert box and box["x"] >= 0 and box["x"] + box["width"] <= 320.5, one.inner_text()
    stage = page.locator(".stage").first.bounding_box()
    assert stage["width"] > 300 and stage["height"] > 200
    assert "research only" in page.locator("footer").inner_text()
    foot = page.locator("footer").bounding_box()
    assert foot["y"] >= 0 and foot["y"] + foot["height"] <= 180.5  # always in view
    page.close()


def test_what_was_corrected_is_undone_step_by_step(page):
    drop(page, EXAMPLE)
    page.keyboard.press("e")
    undo = page.get_by_role("button", name="Undo")
    assert undo.is_disabled()
    path = page.locator("svg path.line").first.get_attribute("d")
    page.locator(".correct .name", has_text="ETT").click()
    stage = page.locator(".stage").first
    stage.focus()
    drawn(page)
    handle = page.locator("svg circle.handle").last.bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y - 20, steps=6)  # one step, however many moves
    page.mouse.up()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.get_by_role("button", name="Reject CVC").click()
    assert page.locator(".correct li.gone").count() == 1
    page.keyboard.press("Control+z")
    assert page.locator(".correct li.gone").count() == 0
    assert page.locator(".correct .name", has_text="ETT, moved").count() == 1
    for _ in range(2):
        page.keyboard.press("Control+z")
    assert page.locator(".correct .name", has_text="ETT, moved").count() == 1  # by the mouse
    undo.click()
    assert page.locator(".correct .name", has_text="ETT, moved").count() == 0 and undo.is_disabled()
    drawn(page)
    assert page.locator("svg path.line").first.get_attribute("d") == path


def test_a_correction_is_saved_and_is_there_when_the_film_comes_again(page, project):
    assert accessible(page) == []
    drop(page, EXAMPLE)
    page.keyboard.press("e")
    page.locator(".correct").wait_for()
    assert accessible(page) == []
    save = page.get_by_role("button", name="Save")
    assert save.is_disabled()  # no line is decided
    page.get_by_role("button", name="Accept all").click()
    page.get_by_role("button", name="Reject CVC").click()
    page.locator(".correct .name", has_text="ETT").click()
    page.locator(".stage").first.focus()
    page.keyboard.press(".")  # its tip
    page.keyboard.press("Shift+ArrowUp")
    page.get_by_label("State of ETT, moved").select_option("Borderline")
    page.get_by_label("Comment").fill("tip moved")
    page.get_by_label("Your name").fill("A reader")
    save.click()
    page.locator(".correct", has_text="Saved by A reader").wait_for()
    table = pd.read_csv(project / "train.csv")
    assert table["ETT - Borderline"].tolist() == [1] and table["ETT - Abnormal"].tolist() == [0]
    lines = pd.read_csv(project / "train_annotations.csv")
    assert set(lines["label"]) == {"ETT - Borderline", "NGT - Incompletely Imaged"} and lines["tip_seen"].all()
    page.reload()
    page.locator("#what-reads", has_text="weights").wait_for()
    drop(page, EXAMPLE)
    page.keyboard.press("e")
    page.locator(".correct", has_text="Saved by A reader").wait_for()
    assert page.get_by_label("Comment").input_value() == "tip moved"
    assert page.locator(".correct li.gone").inner_text().startswith("CVC")
    assert page.locator(".correct .name", has_text="ETT, moved").count() == 1
    assert save.is_enabled()


def test_what_is_said_while_it_is_saved_is_not_saved_yet(page, project, tmp_path):
    film = tmp_path / "twice.png"
    Image.open(EXAMPLE).save(film, compress_level=4)  # no film that another test corrects
    drop(page, film)
    page.keyboard.press("e")
    page.get_by_role("button", name="Accept all").click()
    page.get_by_label("Your name").fill("A reader")
    for device in ENDINGS:
        page.get_by_label(f"State of {device}").select_option("Normal")
    held = []
    page.route("**/corrections", lambda route: held.append(route))
    page.get_by_role("button", name="Save").dblclick()
    page.get_by_label("Comment").fill("meanwhile")
    until(page, lambda: held)
    page.wait_for_timeout(100)  # a second one would follow at once
    assert len(held) == 1
    held[0].continue_()
    page.unroute("**/corrections")
    page.locator(".correct", has_text="Saved by A reader").wait_for()
    journal = (project / "corrections.jsonl").read_text().splitlines()
    assert sum('"twice"' in line for line in journal) == 1 and "meanwhile" not in journal[-1]
    assert page.get_by_label("Comment").input_value() == "meanwhile"
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.get_by_label("Remove twice.png").click()
    until(page, lambda: asked)
    assert len(asked) == 1 and "not saved" in asked[0]
    page.get_by_role("button", name="Save").click()
    page.locator(".correct .main:not([aria-disabled])").wait_for()
    page.get_by_label("Remove twice.png").click()
    assert len(asked) == 1 and "meanwhile" in (project / "corrections.jsonl").read_text()


def test_what_is_being_typed_outlasts_a_panel_that_is_built_anew(page, tmp_path):
    film = tmp_path / "typed.png"
    Image.open(EXAMPLE).save(film, compress_level=5)
    drop(page, film)
    page.keyboard.press("e")
    page.get_by_label("Your name").fill("A r")
    page.get_by_label("Device to draw").select_option("CVC")
    page.get_by_label("Comment").press_sequentially("tip low")
    page.keyboard.press("ArrowLeft")
    page.evaluate("document.querySelector('[data-do=lines]').click()")  # as a search of similar films that ends
    page.keyboard.type("s")
    assert page.get_by_label("Comment").input_value() == "tip losw"
    assert page.get_by_label("Your name").input_value() == "A r"
    assert page.get_by_label("Device to draw").input_value() == "CVC"


ENDINGS = {"ETT": "Normal", "NGT": "Tip not seen", "CVC": "Tip not seen, normal"}


def chosen(page, device: str) -> str:
    """What is said of the state and the end of its line."""
    return str(page.get_by_label(f"State of {device}").evaluate("select => select.selectedOptions[0].text"))


def test_a_tip_that_is_not_seen_is_said_and_saved(page, address, project, tmp_path):
    film = tmp_path / "faded.png"
    Image.open(EXAMPLE).save(film, compress_level=1)
    drop(page, film)
    page.keyboard.press("e")
    page.get_by_role("button", name="Accept all").click()
    sent = {"content": film.read_bytes(), "headers": {"Content-Type": "image/png"}, "timeout": DEADLINE_S}
    for line in httpx.post(f"{address}/v1/read", **sent).json()["lines"]:
        followed = chosen(page, line["device"]) == "Tip not seen"  # what is not said begins as what the model found
        assert followed == (line["followed_to"] is not None)
    for device, ending in ENDINGS.items():
        page.get_by_label(f"State of {device}").select_option(ending)
    drawn(page)
    assert page.locator("svg rect.ring").count() == 2 and page.locator("svg circle.ring").count() == 1
    assert page.locator("svg text", has_text="NGT followed to here").count() == 1
    assert accessible(page) == []
    page.get_by_label("Your name").fill("A reader")
    kept = httpx.post(f"{address}/v1/films", **sent).json()["id"]  # meanwhile somebody else corrects it
    said = {"author": "Another", "name": film.name, "comment": "seen"}
    httpx.put(f"{address}/v1/films/{kept}/corrections", json=said, timeout=DEADLINE_S).raise_for_status()
    page.get_by_role("button", name="Save").click()
    page.locator(".correct", has_text="Another corrected this film meanwhile").wait_for()
    page.get_by_role("button", name="Save").click()
    page.locator(".correct", has_text="Saved by A reader").wait_for()
    lines = pd.read_csv(project / "train_annotations.csv").query("StudyInstanceUID == 'faded'")
    assert dict(zip(lines["label"].str[:3], lines["tip_seen"], strict=True)) == {"ETT": 1, "NGT": 0, "CVC": 0}
    (row,) = pd.read_csv(project / "train.csv").query("StudyInstanceUID == 'faded'").to_dict("records")
    assert {row[label] for label in LABELS_OF[Device.NGT]} == {-1} and row["CVC - Normal"] == 1
    page.reload()
    page.locator("#what-reads", has_text="weights").wait_for()
    drop(page, film)
    page.locator("#findings", has_text="Saved by A reader").wait_for()
    assert page.locator(".correct").count() == 0
    page.keyboard.press("e")
    page.locator(".correct", has_text="Saved by A reader").wait_for()
    assert {device: chosen(page, device) for device in ENDINGS} == ENDINGS


def test_a_line_is_drawn_and_the_carina_moved_by_the_keyboard(page, tmp_path):
    film = tmp_path / "keys.png"
    Image.open(EXAMPLE).save(film, compress_level=6)
    drop(page, film)
    page.keyboard.press("e")
    page.get_by_role("button", name="Draw a line").click()
    steps = ["ArrowUp", "Space", *["Shift+ArrowDown"] * 3, "Space", "ArrowLeft", "Space", "Backspace"]
    for key in [*steps, "Enter"]:
        page.keyboard.press(key)
    assert page.locator(".correct .name", has_text="drawn").count() == 1
    drawn(page)
    handles = page.locator("svg circle.handle")
    first, second = (handles.nth(k).bounding_box() for k in range(handles.count()))
    assert (second["x"] - first["x"], second["y"] - first["y"]) == pytest.approx((0, 120), abs=1)
    for key in (",", "a", "Shift+ArrowRight"):  # the line's last point, a new one before it, which is moved
        page.keyboard.press(key)
    drawn(page)
    assert handles.count() == 3
    middle, last = (handles.nth(k).bounding_box() for k in (1, 2))
    assert last == second and middle["x"] > first["x"]
    assert middle["y"] - first["y"] == pytest.approx(60, abs=1)
    page.keyboard.press("Delete")
    drawn(page)
    assert [handles.nth(k).bounding_box() for k in range(handles.count())] == [first, second]
    carina = "document.querySelector('svg path.carina')?.getAttribute('d')"
    before = page.evaluate(carina)
    for key in (".", ".", "Shift+ArrowUp"):  # the line's end, then the carina
        page.keyboard.press(key)
    drawn(page)
    (x, y), (to_x, to_y) = (map(float, d[1:].split("L")[0].split()) for d in (before, page.evaluate(carina)))
    assert to_y < y and to_x == pytest.approx(x, abs=0.5)
    page.keyboard.press("Control+z")
    drawn(page)
    assert page.evaluate(carina) == before
    for _ in range(4):  # the new point that was taken away, moved and set, and the line
        page.keyboard.press("Control+z")
    assert page.locator(".correct .name", has_text="drawn").count() == 0
    page.get_by_role("button", name="Draw a line").click()
    page.get_by_role("button", name="Cancel").press("Enter")  # it is not the stage's
    assert page.get_by_role("button", name="Draw a line").is_visible()


def test_a_carina_that_was_not_found_is_placed_and_saved(page, project, tmp_path):
    film = tmp_path / "no_carina.png"
    Image.open(EXAMPLE).save(film, compress_level=8)  # no film that another test corrects

    def without_carina(route):
        answer = route.fetch(timeout=1000 * DEADLINE_S)
        content = answer.json()
        assert content["findings"]["landmarks"].pop("carina")
        route.fulfill(response=answer, json=content)

    page.route("**/v1/films", without_carina)
    drop(page, film)
    assert page.locator("svg path.carina").count() == 0
    page.keyboard.press("e")
    place = page.get_by_role("button", name="Place the carina")
    place.click()
    drawn(page)
    assert page.locator("svg path.carina").count() == 1 and not place.count()
    page.get_by_role("button", name="Accept all").click()
    page.get_by_label("Your name").fill("A reader")
    page.get_by_role("button", name="Save").click()
    page.locator(".correct", has_text="The carina is still in the middle: drag it to its place, or undo.").wait_for()
    page.locator(".stage:visible").first.focus()
    for key in ["ArrowRight"] * 3:
        page.keyboard.press(key)
    page.get_by_role("button", name="Save").click()
    page.locator(".correct", has_text="Saved by A reader").wait_for()
    saved = pd.read_csv(project / "landmarks.csv").query("StudyInstanceUID == 'no_carina'").iloc[0]
    width, height = Image.open(EXAMPLE).size
    assert (saved["carina_x"], saved["carina_y"]) == pytest.approx((width / 2 + 3, height / 2), abs=1)


def test_a_drawn_line_is_saved_once_its_state_is_chosen(page, project, tmp_path):
    film = tmp_path / "drawn.png"
    Image.open(EXAMPLE).save(film, compress_level=2)  # no film that another test corrects
    drop(page, film)
    page.keyboard.press("e")
    page.get_by_role("button", name="Accept all").click()
    page.get_by_label("Your name").fill("A reader")
    page.get_by_label("Device to draw").select_option("CVC")
    page.get_by_role("button", name="Draw a line").click()
    box = page.locator(".stage").first.bounding_box()
    for down in (0.3, 0.5):
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + down * box["height"])
    page.keyboard.press("Enter")
    save = page.get_by_role("button", name="Save")
    page.locator(".correct", has_text="1 line needs a state.").wait_for()
    assert save.is_disabled() and chosen(page, "CVC 2, drawn") == "State?" and accessible(page) == []
    page.get_by_label("State of CVC 2, drawn").select_option("Borderline")
    save.click()
    page.locator(".correct", has_text="Saved by A reader").wait_for()
    lines = pd.read_csv(project / "train_annotations.csv").query("StudyInstanceUID == 'drawn'")
    assert "CVC - Borderline" in set(lines["label"])


def test_another_model_s_answer_replaces_the_first_and_unsaved_corrections_stay(page, address, tmp_path):
    """After a restart by another bundle, here by a changed answer; nor do they go with a film unasked."""
    ids = []
    page.on("request", lambda sent: ids.append(sent.url.split("/")[-2]) if sent.url.endswith("pixels.png") else None)
    film = tmp_path / "another.png"
    Image.open(EXAMPLE).save(film, compress_level=3)  # no film that another test corrects
    drop(page, film)
    page.keyboard.press("e")
    page.get_by_role("button", name="Accept all").click()
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.get_by_label("Remove another.png").click()
    until(page, lambda: asked)
    assert len(asked) == 1 and "not saved" in asked[0] and page.locator("#films li").count() == 1

    def changed(route):
        answer = route.fetch(timeout=1000 * DEADLINE_S)
        route.fulfill(response=answer, body=answer.text().replace(weights, "f" * 12))

    weights = httpx.get(f"{address}/v1/about").json()["bundle"]
    for place in ("films", "about"):
        page.route(f"**/v1/{place}", changed)
    httpx.delete(f"{address}/v1/films/{ids[0]}").raise_for_status()
    page.get_by_label("Your name").fill("A reader")
    page.get_by_role("button", name="Save").click()
    page.locator("#what-reads", has_text="f" * 12).wait_for()
    page.locator("#findings", has_text="Read again by another model").wait_for()
    page.keyboard.press("e")
    page.locator(".correct .name", has_text="drawn").first.wait_for()
    assert page.locator(".correct .name").count() == 2 * page.locator(".correct .name", has_text="drawn").count()
    assert page.get_by_role("button", name="Save").is_disabled()  # until the new model's lines are decided on
