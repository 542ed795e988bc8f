"""The page in a real browser: a person corrects what they see, none of it is lost, and what fails is said."""

import json

import numpy as np
import pytest
from PIL import Image

from . import test_page as whole
from .serving import EXAMPLE
from .test_page import dicom, drawn, drop, loaded, shown, until

pytestmark = pytest.mark.doors
project, address, browser, page = whole.project, whole.address, whole.browser, whole.page
PROBLEM = {"status": 507, "code": "project-not-readable", "detail": "the folder is gone", "way_out": "mount it"}

WATCHED = """{
  const match = window.matchMedia.bind(window);
  window.watched = [];
  window.matchMedia = (query) => (watched.push(match(query)), watched.at(-1));
}"""
"""Headless Chromium changes the ratio without the event: the test gives it."""


def failing(route, *, status: int = 507, **headers: str) -> None:
    route.fulfill(status=status, body=json.dumps(PROBLEM), headers={"Content-Type": "application/json"} | headers)


def centre(locator) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, start: tuple[float, float], dx: float, dy: float) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + dx, start[1] + dy, steps=4)
    page.mouse.up()
    drawn(page)


def correct(page, device: str | None = None) -> None:
    """Begin, with a line of the device in hand."""
    page.keyboard.press("e")
    page.locator(".correct").wait_for()
    if device:
        page.locator(".correct .name", has_text=device).click()
    drawn(page)


def draw(page, device: str, *places: tuple[float, float]) -> None:
    """A line through places in shares of the stage; it isn't ended."""
    page.get_by_label("Device to draw").select_option(device)
    page.get_by_role("button", name="Draw a line").click()
    box = page.locator(".stage").first.bounding_box()
    for x, y in places:
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def names(page) -> list[str]:
    return list(page.locator(".correct .name").all_inner_texts())


def asks_before_it_ends(page) -> bool:
    return not page.evaluate("dispatchEvent(new Event('beforeunload', {cancelable: true}))")


def test_on_a_monitor_of_finer_pixels_the_film_stays_under_its_lines(page):
    page.add_init_script(WATCHED)
    page.reload()
    page.locator("#what-reads", has_text="weights").wait_for()
    drop(page, EXAMPLE)
    before, line = shown(page), page.locator("svg path.line").first.get_attribute("d")
    metrics = {"width": 1280, "height": 720, "deviceScaleFactor": 2, "mobile": False}
    page.context.new_cdp_session(page).send("Emulation.setDeviceMetricsOverride", metrics)
    until(page, lambda: page.evaluate("devicePixelRatio") == 2)
    page.evaluate("watched.filter((each) => !each.matches).forEach((each) => each.dispatchEvent(new Event('change')))")
    until(page, lambda: shown(page).shape == (2 * before.shape[0], 2 * before.shape[1]))
    assert page.evaluate("watched.filter((each) => each.matches).length") == 2  # of both viewers, for the next change
    after = shown(page).astype(float)
    halved = after.reshape(before.shape[0], 2, before.shape[1], 2).mean((1, 3))
    assert np.abs(halved - before).mean() < 2  # gray values; a film at another size differs by dozens
    assert page.locator("svg path.line").first.get_attribute("d") == line


def test_a_line_that_is_being_drawn_is_neither_saved_without_nor_left_unasked(page):
    drop(page, EXAMPLE)
    correct(page)
    assert not asks_before_it_ends(page)
    draw(page, "CVC", (0.5, 0.3))
    assert asks_before_it_ends(page)
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.get_by_label("Remove example.jpg").click()
    until(page, lambda: asked)
    assert "not saved" in asked[0] and page.locator("#films li").count() == 1
    page.get_by_role("button", name="Accept all").click()
    save = page.get_by_role("button", name="Save")
    assert save.is_disabled() and "A line is being drawn" in page.locator(".correct").inner_text()
    page.get_by_role("button", name="Cancel").click()
    assert save.is_enabled()


def test_lines_of_one_device_have_names_of_their_own_and_keep_the_focus(page):
    drop(page, EXAMPLE)
    correct(page)
    for x in (0.4, 0.6):
        draw(page, "CVC", (x, 0.3), (x, 0.6))
        page.keyboard.press("Enter")
    assert [name for name in names(page) if "CVC" in name] == ["CVC", "CVC 2, drawn", "CVC 3, drawn"]
    state = page.get_by_label("State of CVC 3, drawn")
    state.focus()
    page.keyboard.press("ArrowDown")
    until(page, lambda: state.evaluate("select => select.value") != "")
    assert state.evaluate("select => select === document.activeElement")
    assert page.get_by_label("State of CVC 2, drawn").evaluate("select => select.value") == ""


def test_keys_change_a_point_on_the_film_alone(page):
    drop(page, EXAMPLE)
    correct(page, "ETT")
    handles = page.locator("svg circle.handle")
    count = handles.count()
    for key in (".", "ArrowUp", "Delete", "Backspace"):  # while a button has the focus
        page.keyboard.press(key)
    drawn(page)
    assert "ETT" in names(page) and handles.count() == count
    page.locator(".stage").first.focus()
    page.keyboard.press("ArrowUp")
    assert "ETT, moved" in names(page)
    draw(page, "CVC", (0.5, 0.3), (0.5, 0.5))
    drawn(page)
    page.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Backspace")
    drawn(page)
    assert handles.count() == 2
    page.locator(".stage").first.focus()
    page.keyboard.press("Backspace")
    drawn(page)
    assert handles.count() == 1


def test_what_is_hidden_is_not_taken_hold_of(page):
    drop(page, EXAMPLE)
    correct(page)
    carina = page.locator("svg path.carina")
    tip, at, place = page.locator("svg circle.ring").first, centre(carina), carina.get_attribute("d")
    end = centre(tip)
    page.keyboard.press("l")
    drawn(page)
    for start in (at, end):
        drag(page, start, 30, 20)
    page.keyboard.press("l")
    drawn(page)
    assert carina.get_attribute("d") == place and centre(tip) == end
    assert page.locator(".correct .name[aria-pressed=true]").count() == 0
    assert page.get_by_role("button", name="Undo").is_disabled()
    page.keyboard.press("l")
    page.locator(".correct .name", has_text="ETT").click()  # what is taken in hand is shown
    drawn(page)
    assert page.locator("svg path.line").count() == 1 and page.locator("svg circle.handle").count() > 1


def test_a_click_on_a_line_moves_nothing_and_a_move_is_taken_back(page):
    drop(page, EXAMPLE)
    correct(page, "ETT")
    handles = page.locator("svg circle.handle")
    at = [centre(handle) for handle in handles.all()]
    k = int(np.argmax(np.hypot(*np.diff(at, axis=0).T)))
    middle = (at[k][0] + at[k + 1][0]) / 2, (at[k][1] + at[k + 1][1]) / 2
    drag(page, middle, 1, 1)
    assert "ETT" in names(page) and handles.count() == len(at)
    drag(page, middle, 30, 0)
    assert "ETT, moved" in names(page) and handles.count() == len(at) + 1
    assert page.get_by_role("button", name="Accept ETT").count() == 0
    page.get_by_role("button", name="Back to the model's line, ETT, moved").press("Enter")
    accept = page.get_by_role("button", name="Accept ETT")
    assert "ETT" in names(page) and accept.get_attribute("aria-pressed") == "true"
    assert accept.evaluate("button => button === document.activeElement")


def test_a_line_drawn_beyond_the_film_ends_at_its_edge_and_is_saved(page, tmp_path):
    film = tmp_path / "edge.png"
    Image.open(EXAMPLE).save(film, compress_level=7)
    drop(page, film)
    for _ in range(3):
        page.keyboard.press("-")
    correct(page)
    page.get_by_role("button", name="Accept all").click()
    page.get_by_label("Your name").fill("A reader")
    draw(page, "CVC", (0.01, 0.01), (0.5, 0.5))
    page.keyboard.press("Enter")
    page.get_by_label("State of CVC 2, drawn").select_option("Normal")
    page.get_by_role("button", name="Save").click()
    page.locator(".correct [role=status]", has_text="aved").wait_for()
    assert page.locator(".correct [role=status]").inner_text().startswith("Saved by A reader")


def test_the_error_of_another_film_is_not_written_over_this_one(page, tmp_path):
    films = [tmp_path / f"{k}.png" for k in range(2)]
    for k, film in enumerate(films):
        Image.open(EXAMPLE).save(film, compress_level=k)
    drop(page, *films)
    held: list = []
    page.route("**/pixels.png", lambda route: held.append(route))
    first, other = page.locator(".film[aria-current]"), page.locator(".film:not([aria-current])")
    name = first.locator(".name").inner_text()
    other.click()
    until(page, lambda: held)
    page.locator(".film", has_text=name).click()
    loaded(page)
    with page.expect_response("**/pixels.png"):
        failing(held[0])
    page.wait_for_timeout(100)
    assert page.locator(".wait").first.is_hidden()
    assert page.locator("canvas").first.get_attribute("aria-label").startswith(f"{name}. ")


def test_why_there_is_no_example_or_no_correcting_is_seen(page):
    page.route("**/example.jpg", lambda route: failing(route))
    page.get_by_role("button", name="Read the example").click()
    page.locator("#example-problem", has_text="the folder is gone; mount it").wait_for()
    page.unroute("**/example.jpg")
    drop(page, EXAMPLE)
    page.route("**/corrections", lambda route: failing(route))
    page.keyboard.press("e")
    page.locator("#findings .problem", has_text="the folder is gone; mount it").wait_for()
    page.unroute("**/corrections")
    correct(page)
    assert page.locator("#findings", has_text="the folder is gone").count() == 0


def test_a_film_is_sent_again_where_the_server_is_to_be_asked_later(page):
    tries: list = []

    def late(route):
        tries.append(route)
        failing(route, status=503, **{"Retry-After": "1"}) if len(tries) == 1 else route.continue_()

    page.route("**/v1/films", late)
    drop(page, EXAMPLE)
    assert len(tries) == 2 and page.locator(".film.urgent, .film.done").count() == 1


def test_the_row_of_the_film_that_is_chosen_by_keys_is_in_view(page, tmp_path):
    letters = [tmp_path / f"{k}.dcm" for k in range(20)]
    for letter in letters:
        letter.write_text("a letter")
    drop(page, *letters)
    rows = page.locator("#films").bounding_box()
    for key, name in (("k", "0.dcm"), ("j", "19.dcm")):
        for _ in letters:
            page.keyboard.press(key)
        row = page.locator(".film[aria-current]")
        assert row.inner_text().startswith(name)
        box = row.bounding_box()
        assert box["y"] >= rows["y"] - 1 and box["y"] + box["height"] <= rows["y"] + rows["height"] + 1


def test_what_is_asked_twice_or_of_a_film_left_meanwhile_loses_nothing_and_opens_no_other(page):
    drop(page, EXAMPLE, dicom("RG1_UNCR.dcm"))
    for name in ("RG1", "example"):
        page.locator(".film", has_text=name).click()
        loaded(page)
    held = []
    page.route("**/corrections", lambda route: held.append(route))
    page.keyboard.press("e")
    page.keyboard.press("e")
    until(page, lambda: held)
    page.wait_for_timeout(100)  # a second one would follow at once
    assert len(held) == 1
    page.locator(".film", has_text="RG1").click()
    loaded(page)
    with page.expect_response("**/corrections"):
        held[0].continue_()
    page.unroute("**/corrections")
    page.wait_for_timeout(100)
    assert page.locator(".correct").count() == 0 and page.locator("svg circle.handle").count() == 0
    page.locator(".film", has_text="example").click()
    loaded(page)
    correct(page, "ETT")
    assert page.locator("svg circle.handle").count() > 1


def test_a_film_is_not_corrected_before_its_picture_is_there(page):
    held = []
    page.route("**/pixels.png", lambda route: held.append(route))
    page.set_input_files("#file", str(EXAMPLE))
    until(page, lambda: held)
    correct(page, "ETT")
    for key in (".", "ArrowRight"):
        page.locator(".stage").first.press(key)
    page.get_by_role("button", name="Undo").wait_for()
    assert page.get_by_role("button", name="Undo").is_disabled() and "ETT, moved" not in names(page)
    held[0].continue_()
    loaded(page)
    for key in (".", "ArrowRight"):
        page.locator(".stage").first.press(key)
    drawn(page)
    assert "ETT, moved" in names(page)


def test_removing_all_asks_for_nothing_more_and_focuses_what_is_left(page):
    drop(page, EXAMPLE, dicom("RG1_UNCR.dcm"), dicom("RG3_UNCR.dcm"))
    asked = []
    page.on("request", lambda sent: asked.append((sent.method, sent.url.split("/")[-1])))
    page.get_by_role("button", name="Remove all").click()
    page.locator("#welcome").wait_for()
    page.wait_for_timeout(100)
    assert {method for method, _ in asked} == {"DELETE"} and len(asked) == 3
    assert page.evaluate("document.activeElement.textContent") == "Choose films"


def test_keys_act_on_the_film_that_has_the_focus_and_undo_works_from_a_state(page):
    drop(page, EXAMPLE, dicom("RG1_UNCR.dcm"))
    page.keyboard.press("p")
    until(page, lambda: "%" in page.locator(".readout").nth(1).inner_text())
    main, beside = (page.locator(".readout").nth(k) for k in (0, 1))
    before = main.inner_text(), beside.inner_text()
    page.locator(".stage").nth(1).focus()
    page.keyboard.press("+")
    drawn(page)
    assert main.inner_text() == before[0] and beside.inner_text() != before[1]
    page.keyboard.press("p")
    page.locator(".film", has_text="example").click()
    correct(page)
    page.get_by_label("State of ETT").select_option("Borderline")
    page.keyboard.press("Control+z")
    drawn(page)
    assert page.get_by_label("State of ETT").evaluate("select => select.selectedOptions[0].text") != "Borderline"


def test_a_download_that_fails_is_said_though_the_panel_was_built_anew(page):
    drop(page, EXAMPLE)
    held = []
    page.route("**/drawing.png", lambda route: held.append(route))
    page.get_by_role("button", name="Picture").click()
    until(page, lambda: held)
    page.keyboard.press("l")
    drawn(page)
    failing(held[0])
    page.locator("#findings .problem", has_text="the folder is gone; mount it").wait_for()
