"""The page is parsed with the standard library's HTML parser and looked at as a browser would see it."""

import base64
from html.parser import HTMLParser

import pytest
from PIL import Image

from coatnet.pages.page import Picture, Section, Table, write_page

VOID = {"meta", "img", "link", "br"}


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    return Picture(path=tmp_path / "red.png", alt="a red square", caption="red")


def outline(path, sections):
    write_page(path, "Report", sections)
    return Outline(path.read_text(encoding="utf-8"))


def test_everything_given_stands_in_the_page(tmp_path, picture):
    section = Section(
        title="Scores",
        headline="93.4 %",
        text=["a paragraph"],
        bullets=["a reason"],
        facts={"device": "cpu"},
        pictures=[picture],
        tables=[Table(columns=["class", "recall"], rows=[["rose", "0.9"]], caption="per class")],
        commands=["coatnet predict run a.jpg"],
    )
    page = outline(tmp_path / "new" / "report.html", [section])
    assert page.open == []
    given = ["Report", "Scores", "93.4 %", "a paragraph", "a reason", "device", "cpu", "red", "class", "recall", "rose"]
    assert [text for text in [*given, "0.9", "per class", "coatnet predict run a.jpg"] if text not in page.text] == []


def test_pictures_are_inside_and_nothing_is_loaded(tmp_path, picture):
    page = outline(tmp_path / "a.html", [Section(title="x", pictures=[picture])])
    [source] = [value for name, value in page.attributes if name == "src"]
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == picture.path.read_bytes()
    assert ("alt", "a red square") in page.attributes
    assert {"script", "link", "iframe"} & set(page.tags) == set()
    [policy] = [value for name, value in page.attributes if name == "content" and "default-src" in value]
    assert ("http-equiv", "Content-Security-Policy") in page.attributes
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "http:" not in (text := (tmp_path / "a.html").read_text())
    assert "https:" not in text


def test_names_from_a_data_set_are_text_never_markup(tmp_path, picture):
    evil = "<script>alert(1)</script>\"'><img src=x>"
    section = Section(
        title=evil,
        headline=evil,
        text=[evil],
        bullets=[evil],
        facts={evil: evil},
        pictures=[Picture(path=picture.path, alt=evil, caption=evil)],
        tables=[Table(columns=[evil], rows=[[evil]], caption=evil)],
        commands=[evil],
    )
    page = outline(tmp_path / "a.html", [section])
    assert page.open == []
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert page.text.count(evil) == 11


def test_what_is_empty_is_left_out(tmp_path):
    page = outline(tmp_path / "a.html", [Section(title="x")])
    assert {"ul", "dl", "table", "pre", "figure", "p"} & set(page.tags) == set()


@pytest.mark.parametrize(("size", "is_wide"), [((30, 10), True), ((20, 10), False), ((10, 30), False)])
def test_only_panels_side_by_side_get_all_the_width(tmp_path, size, is_wide):
    Image.new("RGB", size).save(tmp_path / "a.png")
    page = outline(tmp_path / "a.html", [Section(title="a", pictures=[Picture(path=tmp_path / "a.png", alt="a")])])
    assert (("class", "wide") in page.attributes) == is_wide
