"""The page's files: whole, of this machine alone, and within the content security policy."""

import re
from html.parser import HTMLParser

from cxrlines.web.api import STATIC

HTML = (STATIC / "index.html").read_text("utf-8")
FILES = sorted(path for path in STATIC.iterdir() if path.suffix in (".js", ".css", ".html", ".svg"))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""
        self.text: dict[str, str] = {}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        self.text[self.inside] = self.text.get(self.inside, "") + data


def tags() -> Tags:
    parser = Tags()
    parser.feed(HTML)
    return parser


def test_nothing_is_inline_and_all_that_is_named_is_there():
    parsed = tags()
    assert "script" not in {tag for tag, text in parsed.text.items() if text.strip()}
    named = set()
    for tag, attributes in parsed.tags:
        assert tag != "style" and not any(name == "style" or name.startswith("on") for name in attributes), (
            tag,
            attributes,
        )
        named |= {attributes[name] for name in ("src", "href") if name in attributes}
    assert named and all((STATIC / str(name).removeprefix("/static/")).is_file() for name in named)


def test_modules_import_what_there_is():
    for path in FILES:
        for name in re.findall(r'^import .* from "(.+)";', path.read_text("utf-8"), re.M):
            assert name.startswith("./") and (STATIC / name).is_file(), f"{path.name}: {name}"


def test_nothing_comes_from_elsewhere_and_no_text_is_parsed_as_html():
    for path in FILES:
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "@import" not in text, path.name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), path.name


def test_every_element_that_the_modules_ask_for_is_on_the_page():
    ids = {attributes.get("id") for _, attributes in tags().tags}
    for path in FILES:
        for name in re.findall(r'\$\("([\w-]+)"\)', path.read_text("utf-8")):
            assert name in ids, f"{path.name}: {name}"


def test_every_button_of_the_page_does_something():
    main = (STATIC / "main.js").read_text("utf-8")
    actions = main[main.index("const actions = {") :]
    for _, attributes in tags().tags:
        if name := attributes.get("data-do"):
            assert re.search(rf"^  (async )?{name}[:(]", actions, re.M), name


def test_files_fit_in_the_head():
    for path in FILES:
        assert len(path.read_text("utf-8").splitlines()) <= 420, path.name
