"""Similar films on the page of a server that is given an index."""

import shutil

import numpy as np
import pytest

from cxrlines.io.annotations import Line
from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.index import Index, IndexedFilm, embedder_of
from cxrlines.reading.reader import Reader

from .serving import DEADLINE_S, EXAMPLE, serving

pytestmark = pytest.mark.doors


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Three films near the example, with an endotracheal tube each."""
    bundle = load_bundle(EMBEDDED)
    (example,) = Reader(bundle).embed([EXAMPLE])
    near = example.vector + np.random.default_rng(0).normal(size=(3, len(example.vector))) * 0.01
    tube = Line("ETT - Normal", np.array([[0.5, 0.02], [0.51, 0.2], [0.5, 0.38]]))
    line = Line("CVC - Normal", np.array([[0.2, 0.1], [0.4, 0.2], [0.45, 0.5]]))
    films = tuple(
        IndexedFilm(f"1.2.{k}", f"phantom:p{k}", f"{k:016x}", ("ETT - Normal", "CVC - Normal"), (tube, line))
        for k in range(3)
    )
    path = tmp_path_factory.mktemp("index") / "index.safetensors"
    Index(films, (near / np.linalg.norm(near, axis=1)[:, None]).astype(np.float16), embedder_of(bundle)).save(path)
    return path


def test_they_are_shown_when_they_are_asked_for(index):
    from axe_playwright_python import sync_playwright as axe
    from playwright import sync_api as playwright

    chromium = shutil.which("chromium-headless-shell")
    assert chromium, "chromium-headless-shell is missing: apt-get install chromium-headless-shell"
    with serving("--index", index) as server, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(DEADLINE_S * 1000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.wait())
        page.locator("#what-reads", has_text="weights").wait_for()
        page.set_input_files("#file", str(EXAMPLE))
        page.get_by_role("button", name="Search").click()
        page.locator(".similar li").nth(2).wait_for()
        assert page.locator(".similar .sketch polyline").count() == 6
        assert "ETT - Normal, CVC - Normal" in page.locator(".similar li").first.inner_text()
        page.keyboard.press("l")  # the panel is rebuilt
        assert page.locator(".similar li").count() == 3
        serious = ("serious", "critical")
        assert not [each for each in axe.Axe().run(page).response["violations"] if each["impact"] in serious]
        browser.close()
        assert not problems
