"""The page of a node's queue in a browser, beside the node that serves it."""

import shutil

import pytest

from .conftest import free_port
from .node_process import dicom_film, until

pytestmark = pytest.mark.doors


def test_a_node_shows_its_queue(node, orthanc, films):
    from axe_playwright_python import sync_playwright as axe
    from playwright import sync_api as playwright

    chromium = shutil.which("chromium-headless-shell")
    assert chromium, "chromium-headless-shell is missing: apt-get install chromium-headless-shell"
    port = free_port()
    running = node([f"{orthanc.aet}@127.0.0.1:{orthanc.port}"], status_port=port).start()
    assert running.store(*films(*map(dicom_film, range(2)))).returncode == 0
    running.settled(2)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.goto(f"http://127.0.0.1:{port}/?still")
        tiles = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
        assert tiles["delivered"] == "2" and tiles["dead"] == "0"
        # The style is taken. `wait_for_function` cannot poll an expression here: the page's policy forbids eval.
        until(lambda: page.evaluate("getComputedStyle(document.body).maxWidth") == "1060px")
        assert "lanted" not in page.content() and "PLANTED" not in page.content()
        assert axe.Axe().run(page).violations_count == 0
        page.get_by_role("link", name="Update every 10 seconds").click()
        until(lambda: page.get_by_role("link", name="Stop updating").count())
        browser.close()
    assert not [text for text in problems if "favicon" not in text], problems
    running.stop()
