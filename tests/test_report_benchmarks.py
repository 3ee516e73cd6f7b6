import base64
import io
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image

from physflow.report import write_benchmarks
from physflow.results import Picture, Quantity, Results, Table

TITLE = "<script>alert('x')</script> & $K$"
ROWS = [
    {"method": method, "seed": seed, "steps": steps, "score": base + steps * (1 + seed), "seconds": 1.5}
    for method, base in (("<i>b</i>", 0.0), ("a", 100.0))
    for seed in (0, 1)
    for steps in (10, 2)
]
TABLES = (
    Table("Scores <by> steps", ("method",), (Quantity("score", "score <s>"),), across="steps", note="Less & better."),
    Table("At two steps", ("method", "steps"), (Quantity("score", "score"), Quantity("seconds", "time", "s"))),
    Table("Nothing", ("unknown",), (Quantity("score", "score"),), note="A note without rows."),
)


def save(folder, **given):
    values = {
        "title": TITLE,
        "text": "What was <done>,\nin two lines.\n\n\n  How to read it.\n",
        "command": "python benchmarks/rings.py --out DIR --name '<b>'",
        "settings": {"model": {"width": 8, "sizes": [2, 3]}, "name": "<b>"},
        "seeds": (3, 5),
        "rows": tuple(ROWS),
        "tables": TABLES,
        "pictures": (),
        "hardware": {"processor": "two <cores>", "threads": 7},
        "versions": {"torch": "2.6.1"},
        "commit": "0123456789+",
    }
    return Results(**values | given).write(folder)


def draw(path, inches=3.0):
    figure = Figure(figsize=(inches, 1))
    figure.add_subplot().plot([0, 1])
    figure.savefig(path, dpi=100)


class Page(HTMLParser):
    """What a reader sees of a page: its text, its tables as lists of lines of cells, its pictures and links."""

    void = ("meta", "img")

    def __init__(self, path):
        super().__init__()
        self.source, self.text, self.tables, self.cells = path.read_text(), "", [], []
        self.links, self.ids, self.images, self.tags, self.open, self.paragraphs = [], [], [], [], [], []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[key] for key in ("href", "src", "srcset", "data", "action") if key in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.images += [attrs] if tag == "img" else []
        self.open += [tag] if tag not in self.void else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.cells.append((tag, attrs))
        elif tag == "p":
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if "p" in self.open:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two benchmarks, one of them deeper, of one seed and with little to show."""
    root = tmp_path_factory.mktemp("benchmarks")
    save(
        root / "rings & more",
        pictures=(Picture("curve.png", 'A "<curve>".'), Picture("gone.png", "Gone <far>."), Picture("no.png", "No.")),
    )
    draw(root / "rings & more" / "curve.png")
    (root / "rings & more" / "no.png").write_text("not a picture")
    save(root / "couplings" / "deep", title="Couplings", text="", seeds=(0,), settings={}, commit="", tables=TABLES[:1])
    return root


@pytest.fixture(scope="module")
def page(folder):
    found = [folder / "rings & more", folder / "couplings" / "deep" / "results.json"]
    return Page(write_benchmarks(folder / "new" / "page.html", found))


def test_the_page_is_one_file(page):
    assert not page.open
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not re.search(r"https?://|url\(|@import", page.source)


def test_it_looks_like_the_report_of_an_experiment(page):
    assert "prefers-color-scheme: dark" in page.source
    assert "max-width: 560px" in page.source
    assert 'name="viewport"' in page.source


def test_the_contents_lead_to_each_benchmark_and_table(page):
    links = [link for link in page.links if link.startswith("#")]
    assert links == ["#b1", "#b1-t1", "#b1-t2", "#b1-t3", "#b2", "#b2-t1"]
    assert page.ids == [link[1:] for link in links]


def test_what_others_write_is_escaped(page):
    for words in (TITLE, "<i>b</i>", "What was <done>", "score <s>", "Scores <by> steps", "--name '<b>'", "name: <b>"):
        assert words in page.text
        assert words not in page.source
    assert "two <cores>" in page.text
    assert page.images[0]["alt"] == 'A "<curve>".'


def test_tables_are_those_of_the_results(page):
    heads, lines = TABLES[0].lines(ROWS)
    assert page.tables[0] == [["", "score <s>, by steps"], heads, *lines]
    assert page.tables[0][2] == ["<i>b</i>", "15.0 ± 7.1", "3.0 ± 1.4"]
    heads, lines = TABLES[1].lines(ROWS)
    assert page.tables[1] == [heads, *lines]
    assert page.tables[1][1] == ["<i>b</i>", "10", "15.0 ± 7.1", "1.50 s"]


def test_wide_tables_scroll_and_numbers_do_not_wrap(page):
    assert page.source.count('<div class="scroll"><table class="results">') == 3
    assert re.search(r"^th, td \{[^}]*white-space: nowrap", page.source, re.MULTILINE)
    assert all("class" not in attrs for tag, attrs in page.cells if tag == "td")


def test_below_each_table_is_its_note(page):
    places = [page.source.index(words) for words in ('id="b1-t1"', "115.0 ± 7.1", "Less &amp; better.", 'id="b1-t2"')]
    assert places == sorted(places)
    assert "No row of the results belongs to this table." in page.paragraphs
    assert "A note without rows." in page.paragraphs


def test_the_deviation_is_explained_once_where_there_is_one(page):
    assert page.paragraphs.count("With a ±: mean ± standard deviation over 2 seeds.") == 1
    assert page.text.count("standard deviation over") == 1


def test_the_text_has_paragraphs(page):
    start = page.paragraphs.index("What was <done>,\nin two lines.")
    assert page.paragraphs[start + 1].strip() == "How to read it."


def test_what_made_the_numbers_is_told(page):
    plain = [line for table in page.tables for line in table if len(line) == 2]
    for line in (
        ["seeds", "3, 5"],
        ["seeds", "0"],
        ["commit", "0123456789+"],
        ["commit", "unknown: no checkout"],
        ["rows", "8"],
        ["processor", "two <cores>"],
        ["threads", "7"],
        ["torch", "2.6.1"],
    ):
        assert line in plain
    for words in ("python benchmarks/rings.py --out DIR", "model:\n  width: 8\n  sizes:\n  - 2\n  - 3\n"):
        assert words in page.text
    assert page.tags.count("details") == 1, "the second has no settings"


def test_a_benchmark_is_named_by_its_folder_but_not_by_the_machine_s(page, folder):
    assert "rings & more" in page.text
    assert "couplings/deep" in page.text
    assert str(folder) not in page.source


def test_pictures_are_in_the_page_with_their_captions(page):
    assert len(page.images) == 1
    image = page.images[0]
    shown = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
    assert shown.size[0] == int(image["width"]) == 300
    assert 'A "<curve>".' in page.text


def test_a_missing_or_broken_picture_is_said(page):
    notices = [text for text in page.paragraphs if text.startswith("The picture")]
    assert notices == [
        "The picture gone.png is missing beside the results; run the benchmark again. It shows: Gone <far>.",
        "The picture no.png is not a PNG file; run the benchmark again. It shows: No.",
    ]


def test_one_benchmark_gives_the_page_its_title(tmp_path):
    page = Page(write_benchmarks(tmp_path / "r.html", [save(tmp_path / "rings", title="Two rings")]))
    assert "<h1>Two rings</h1>" in page.source
    assert "<title>Two rings</title>" in page.source
    assert "<small>rings</small>" in page.source


def test_a_page_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "r.html"
    for title in ("First", "Second"):
        assert write_benchmarks(path, [save(tmp_path / "rings", title=title)]) == path
    assert "Second" in path.read_text()
    assert "First" not in path.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.html", "rings"]


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="expected the results of at least one benchmark, got none"):
        write_benchmarks(tmp_path / "r.html", [])
    with pytest.raises(
        FileNotFoundError, match=r"expected the results of a benchmark in .*results\.json, found no file"
    ):
        write_benchmarks(tmp_path / "r.html", [tmp_path])
    with pytest.raises(IsADirectoryError, match=r"is a folder; give .*report\.html"):
        write_benchmarks(tmp_path, [save(tmp_path / "rings")])
    assert not (tmp_path / "r.html").exists()


def test_the_text_has_lists(tmp_path):
    text = "The methods are\n\n* one <i>\n  on two lines;\n* two.\n\nAnd\n* three 2 * 3;\n* four.\n\nThe end * is here."
    save(tmp_path, text=text)
    found = Page(write_benchmarks(tmp_path / "page.html", [tmp_path]))
    items = re.findall(r"<li>([^<]*(?:&lt;[^<]*)?)</li>", found.source)
    assert items[-4:] == ["one &lt;i&gt;\n  on two lines;", "two.", "three 2 * 3;", "four."]
    assert [p for p in found.paragraphs if p in ("The methods are", "And", "The end * is here.")] == [
        "The methods are",
        "And",
        "The end * is here.",
    ]


def test_names_in_the_text_are_set_as_code(tmp_path):
    save(tmp_path, text="The names `a<b>` and `c` are code; a lone one is not.\n\nIt's `open.\n\n* item `d`")
    source = write_benchmarks(tmp_path / "page.html", [tmp_path]).read_text()
    assert source.startswith("<!doctype html>")
    assert "<p>The names <code>a&lt;b&gt;</code> and <code>c</code> are code; a lone one is not.</p>" in source
    assert "<p>It&#39;s `open.</p>" in source
    assert "<li>item <code>d</code></li>" in source
