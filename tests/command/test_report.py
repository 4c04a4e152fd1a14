"""The report: one page that needs nothing else, and its twin with the same numbers."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from leco.command.charts import Point, Scale, bars, line, scatter
from leco.command.report import pareto, render, sweep

LAYER = {"shape": [4, 8], "word": "3bit", "before": 128, "after": 20, "why": ""}
RESULT: dict[str, Any] = {
    "model": "a/b/<net>|",
    "class": "Net",
    "recipe": {"model": "a/b/<net>|", "to": "3bit"},
    "seconds": 12.3,
    "batches": 3,
    "samples": 96,
    "versions": {"leco": "0", "torch": "2", "python": "3"},
    "machine": "x86_64",
    "bytes": {"before": 1_234_567, "after": 234_567},
    "measured": {"name": "error <x>", "before": 0.5, "after": 0.625},
    "layers": [
        {**LAYER, "name": f"l.{i}.w", "how": "U", "bits": 3.1, "direct": 0.5, "error": 0.1 + i / 64}
        for i in range(4)
    ]
    + [{**LAYER, "name": "<b>", "word": "", "why": "a norm"}],
    "parts": [{"part": "codes", "bytes": 200_000}, {"part": "scales", "bytes": 34_567}],
    "latency": {"dense": 0.0125, "packed": 2.19},
    "records": [
        {"step": k, "compressed_error": 1 / (k + 1), "relative_gap": None} for k in range(3)
    ],
    "notes": ["a note"],
}
POINTS = [
    {"word": "2bit", "folder": "2bit", "bytes": 100, "ratio": 9.0, "value": 3.0},
    {"word": "3bit", "folder": "3bit", "bytes": 150, "ratio": 6.0, "value": 1.0},
    {"word": "<i>", "folder": "i", "bytes": 160, "ratio": 5.0, "value": 2.0},
]


class Page(HTMLParser):
    """The tags, what they refer to, and the text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.links, self.text = list[str](), list[str](), list[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.links += [v or "" for n, v in attrs if n in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else():
    page = Page(render(RESULT)["report.html"])
    assert page.open == []
    assert page.links == []
    assert "script" not in page.tags
    assert "net" not in page.tags  # names are text
    assert "a/b/<net>|" in page.text
    assert "<b>" in page.text
    assert page.tags.count("svg") == 2
    assert "@import" not in page.text
    assert "url(" not in page.text


def test_both_texts_have_the_numbers():
    texts = render(RESULT)
    page = Page(texts["report.html"]).text
    for number in ("1.23 MB", "235 kB", "5.26", "0.625", "0.147", "12.5", "2,190", "a note"):
        assert number in page, number
    for number in ("1,234,567", "234,567", "5.26", "0.625", "0.147", "12.5", "2,190", "a note"):
        assert number in texts["report.md"], number
    assert "b/<net>\\|" not in page
    rows = [row for row in texts["report.md"].splitlines() if row.startswith("| l.")]
    assert any(row.startswith("| l.*.w | 4 | 3bit | 512 B | 80 B | 0.123 |") for row in rows)


def test_a_result_with_little_in_it():
    bare = {**RESULT, "measured": None, "latency": None, "records": [], "notes": []}
    bare["layers"] = [
        {**LAYER, "name": "w", "how": "U", "bits": 3.0, "direct": None, "error": None}
    ]
    texts = render(bare)
    assert "svg" not in Page(texts["report.html"]).tags
    assert "nan" not in texts["report.md"].lower()
    assert "None" not in texts["report.md"]


def test_the_best_points_of_a_sweep():
    assert [p["word"] for p in pareto(POINTS)] == ["2bit", "3bit"]
    ties = [{**POINTS[1], "bytes": 151}, {**POINTS[1], "value": 1.5}]  # worse in one of the two
    assert pareto([*POINTS, *ties]) == pareto(POINTS)
    assert len(pareto([*POINTS, {**POINTS[1]}])) == 3  # the same point twice
    texts = sweep(POINTS, "net", "error")
    page = Page(texts["sweep.html"])
    assert page.text.count("best at its size") == 2
    assert "i" not in page.tags
    assert page.links == ["2bit/report.html", "3bit/report.html", "i/report.html"]
    assert texts["sweep.md"].count("best at its size") == 2


def test_points_are_where_their_numbers_are():
    text = line([Point(0, 0), Point(1, 10), Point(2, 5)], "x", "y")
    places = [(float(a), float(b)) for a, b in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text)]
    assert places[0][0] < places[1][0] < places[2][0]
    assert places[1][1] < places[2][1] < places[0][1]  # up is small
    half = (places[0][1] + places[1][1]) / 2
    assert places[2][1] == pytest.approx(half, abs=0.2)
    assert scatter([Point(1, float("nan"), "a")], "x", "y") == ""
    assert bars([], [], "y") == ""


@pytest.mark.parametrize("high", [0.003, 1.0, 7.0, 42.0, 999.0, 3e6])
def test_ticks_are_few_and_inside(high: float):
    for log in (False, True):
        values = [high / 50, high]
        scale = Scale(values, 0, 100, log)
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 7, (high, log, ticks)
        assert all(-1e-6 <= scale(tick) <= 100 + 1e-6 for tick in ticks)


def test_a_search_shows_its_best_points_first():
    points = [
        {
            "word": f"trial-{k}",
            "folder": f"trial-{k}",
            "bytes": 1000 + 10 * k,
            "ratio": 2.0,
            "value": 1.0 + (k % 3) + 1 / (1 + k),
            "choice": f"{k}bit: <up>",
        }
        for k in range(12)
    ]
    best = {p["word"] for p in pareto(points)}
    texts = sweep(points, "a/b/net", "error of <x>")
    page = Page(texts["sweep.html"])
    assert page.open == []
    assert "up" not in page.tags
    assert len(page.links) == 12
    first = [link.split("/")[0] for link in page.links[: len(best)]]
    assert set(first) == best
    assert f"{12 - len(best)} points that others beat" in page.text
    assert "3bit: <up>" in page.text
    names = re.findall(r">(trial-[0-9]+)</text>", texts["sweep.html"])
    assert set(names) == best  # the chart names these alone
    assert texts["sweep.html"].count("faint") == 12 - len(best) + 1  # and the style
    assert texts["sweep.md"].count("best at its size") == len(best)
    rows = [row for row in texts["sweep.md"].splitlines() if row.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 14
