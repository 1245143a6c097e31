"""The report: what it says of scores, that it stands alone, and that names cannot break it."""

import base64
import csv
import datetime
import html.parser
import io
import math

import numpy as np
import pytest
from PIL import Image

from osvos_tf.data import davis
from osvos_tf.evaluation import metrics, report, report_page
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import read_mask

HOSTILE = '<b>&"'
VOID_TAGS = {"br", "hr", "img", "meta", "link", "input", "col"}


class Page(html.parser.HTMLParser):
    """Collects what a page holds and checks that its tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def result(sequence, J, F=None, T=0.3, expected=None):
    names = tuple(f"{index:05d}" for index in range(1, len(J) + 1))
    J = np.array(J, float)
    scores = metrics.SequenceScores(J, J if F is None else np.array(F, float), T)
    return report.SequenceResult(sequence, names, scores, expected or names)


def render(results, sequences=None, examples=()):
    names = dict.fromkeys(row.sequence for rows in results.values() for row in rows)
    return report_page.render(
        results,
        sequences or list(names),
        examples,
        split="val",
        resolution="480p",
        date=datetime.date(2017, 7, 21),
        version="1.2.3",
    )


@pytest.fixture
def example(fake_davis):
    """A frame of the invented world with the annotation moved by four pixels as its mask."""
    frame = davis.read_split(fake_davis, "train")[0].frames[1]
    truth = read_mask(frame.mask)
    return report_page.Example(
        method=HOSTILE,
        sequence="bear",
        frame=frame.name,
        J=0.6,
        F=0.25,
        image=open_frames(frame.image.parent).read(frame.name),
        mask=np.roll(truth, 4, axis=1),
        truth=truth,
    )


def test_page_stands_alone_and_names_cannot_break_it(example):
    rows = [result("bear", [0.6, 0.8]), result("goat & <i>kid</i>", [0.9, 1.0])]
    text = render({HOSTILE: rows, "other": rows}, examples=[example])
    page = Page(text)
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any("style" in attributes for _, attributes in page.tags)
    assert HOSTILE not in text and "<i>kid" not in text
    assert HOSTILE in page.text and "goat & <i>kid</i>" in page.text
    assert "21 July 2017" in page.text and "DAVIS val" in page.text and "1.2.3" in page.text


def test_pictures_of_the_worst_frame(example):
    page = Page(render({HOSTILE: [result("bear", [0.6, 0.8])]}, examples=[example]))
    kinds = ["Prediction", "Ground truth", "Difference"]
    assert [image["alt"] for image in page.all("img")] == [
        f"{kind} in bear, frame 00001, {HOSTILE}" for kind in kinds
    ]
    pictures = []
    for image in page.all("img"):
        head, _, data = image["src"].partition(",")
        assert head == "data:image/jpeg;base64"
        pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int))
    assert {picture.shape for picture in pictures} == {(384, 640, 3)}  # 48x80, eight times
    # Between the truth's left edge and the mask's, only the truth has the object.
    left = np.flatnonzero(example.truth.any(axis=0))[0]
    row = np.flatnonzero(example.truth.any(axis=1))[8]
    colour = pictures[2][row * 8, (left + 2) * 8]
    assert colour[2] > colour[1] > colour[0], "not the blue of what was missed"


def test_every_sequence_is_charted():
    page = Page(render({"a": [result("bear", [0.5, 0.1, 0.7]), result("goat", [1.0])]}))
    plots = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert [plot["aria-label"] for plot in plots] == [
        "J over time of bear. a: mean 0.433, lowest 0.100 at frame 00002",
        "J over time of goat. a: mean 1.000, lowest 1.000 at frame 00001",
    ]
    paths = [path["d"] for path in page.all("path")]
    assert [path.count("L") for path in paths] == [3, 1]
    for name in ("00001", "00002", "00003"):
        assert name in page.text


def test_line_has_a_gap_where_a_frame_is_missing():
    expected = ("00001", "00002", "00003", "00004")
    row = report.SequenceResult(
        "bear",
        ("00001", "00003", "00004"),
        metrics.SequenceScores(np.array([0.5, 0.6, 0.7]), np.array([0.5, 0.6, 0.7]), math.nan),
        expected,
    )
    page = Page(render({"a": [row]}, sequences=["bear", "goat"]))
    (path,) = page.all("path")
    assert path["d"].count("M") == 2
    assert "a, bear: partial: 3 of 4 frames" in page.text
    assert "a: left out, no results: goat" in page.text
    assert "nan" not in page.text.lower()


def test_best_values_are_bold_only_where_they_can_be_compared():
    good, bad = [result("bear", [0.9, 0.9], T=0.5)], [result("bear", [0.8, 0.8], T=0.2)]
    page = render({"good": good, "bad": bad})
    assert "<b>0.900</b>" in page and "<b>0.200</b>" in page  # T: lower is better
    assert "<b>0.800</b>" not in page and "<b>0.500</b>" not in page
    assert "<b>" not in render({"good": good})
    other = [*bad, result("goat", [0.7])]
    assert "<b>" not in render({"good": good, "other": other})


def test_published_numbers_say_when_they_can_be_compared():
    def note(names):
        text = render({"a": [result(name, [0.5]) for name in names]})
        assert all(f">{name}</th>" in text for name in ("OSVOS", "OSVOS-S", "OnAVOS"))
        assert "0.798" in text and "0.875" in text and "0.190" in text
        return Page(text).text

    assert "All of them are scored above" in note(report_page.VAL_2016)
    assert "2 of them are scored above: not comparable" in note(["dog", "libby", "bear"])
    assert "None of them is scored above: not comparable" in note(["bear"])
    assert "19 of them are scored above" in note(report_page.VAL_2016[1:])
    assert len(set(report_page.VAL_2016)) == 20
    assert set(metrics.STABLE_SEQUENCES["val"]) < set(report_page.VAL_2016)


def test_worst_frames():
    slump = [0.1, 0.11, 0.12, *[0.9] * 13, 0.3, 1.0]
    results = {
        "a": [result("bear", slump), result("goat", [0.2, 1.0])],
        "b": [result("bear", [0.25] * 18), result("hen", [0.4])],
    }
    chosen = [(method, row.sequence, index) for method, row, index in report.worst_frames(results)]
    # Neighbours of a bad frame look like it, two frames tell of a sequence, perfect ones of none.
    assert chosen == [("a", "bear", 0), ("a", "goat", 0), ("b", "bear", 0), ("b", "hen", 0)]
    assert len(report.worst_frames(results, count=2)) == 2
    assert report.worst_frames({"a": [result("bear", [1.0, 1.0])]}) == []
    assert "every scored frame equals" in render({"a": [result("bear", [1.0])]})


def test_tables_hold_the_statistics():
    rng = np.random.default_rng(0)
    bear = result("bear", rng.random(9), rng.random(9), T=0.25)
    goat = result("goat", rng.random(5), rng.random(5), T=math.nan)
    tables = {
        name: list(csv.reader(io.StringIO(text)))[1:]
        for name, text in report.csv_tables({"a,b": [bear, goat]}).items()
    }
    assert [row[:2] for row in tables["per_sequence.csv"]] == [["a,b", "bear"], ["a,b", "goat"]]
    first, second = (row[2:] for row in tables["per_sequence.csv"])
    wanted = [*metrics.statistics(bear.scores.J), *metrics.statistics(bear.scores.F), 0.25]
    np.testing.assert_allclose([float(cell) for cell in first], wanted, atol=5e-7)
    assert second[-1] == ""
    (whole,) = tables["global.csv"]
    means = np.mean([np.float64(first[:-1]), np.float64(second[:-1])], axis=0)
    np.testing.assert_allclose(np.float64(whole[1:]), [*means, 0.25], atol=1e-6)
    assert len(tables["per_frame.csv"]) == 14
    np.testing.assert_allclose(
        [float(row[3]) for row in tables["per_frame.csv"][:9]], bear.scores.J, atol=5e-7
    )
