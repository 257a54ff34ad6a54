"""The report: one page that stands alone, says what was measured, shows what was made, and executes nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from ganvas.errors import RunError
from ganvas.image_files import grid, save_png
from ganvas.reporting import report
from ganvas.reporting.charts import Series, label, line_chart, scatter_chart
from ganvas.reporting.comparison import disagreements, winner
from ganvas.reporting.methods import methods
from ganvas.reporting.page import agreement_sentence, number_text, percent_interval, protocols
from ganvas.reporting.pictures import embed
from ganvas.results import Evaluation, Interval, Measure

Record = dict[str, Any]
EVIL = "<script>alert('1')</script>\"&"
VOID = {"meta", "img", "br", "source", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, text by element, and a check that all are closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.said: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.said.append((self.open[-1], data.strip()))

    @property
    def text(self) -> str:
        return " ".join(" ".join(said for _, said in self.said).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a real run that was never judged."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    return folder


def change_config(run: Path, **data: Any) -> None:
    path = run / "config.json"
    config = json.loads(path.read_text())
    config["data"] |= data
    path.write_text(json.dumps(config))


def interval(value: float, margin: float) -> Record:
    return {"value": value, "low": value - margin, "high": value + margin}


def judge(run: Path, classes: tuple[str, str] = ("lying", "standing"), **changes: Any) -> Record:
    """Writes an evaluation with every part into the run."""
    rng = np.random.default_rng(0)
    (run / "evaluation").mkdir()

    def picture(name: str, num: int, columns: int) -> str:
        save_png(run / "evaluation" / name, grid(rng.integers(0, 256, (num, 16, 16, 1), np.uint8), columns))
        return f"evaluation/{name}"

    def measure(key: str, name: str, value: float, margin: float, better: str, real: float | None) -> Record:
        protocol = f"20 real, 20 generated{', k = 3' if better == 'higher' else ''}; some network; ganvas 0.1.0"
        return {
            "key": key, "name": f"{name} (net)", **interval(value, margin), "better": better, "real": real,
            "meaning": f"Meaning of {name}.", "protocol": protocol, "flags": ["biased: few"] if key == "kid" else [],
        }  # fmt: skip

    rate = interval(0.05, 0.01)
    content = {
        "format": 2,
        "ganvas": "0.1.0",
        "made": "2026-11-25T05:30:00",
        "run": "run",
        "model": {"model": "compact", "height": 16, "width": 16, "channels": 1, "images_seen": 48, "weights": "0" * 8},
        "data": {"source": "bars", "hash": "abc", "classes": list(classes), "licence": None, "attribution": None},
        "protocol": {"num_real": 20, "num_generated": 20, "split": "held-out", "seed": 1_000_000, "truncation": 1.0,
                     "features": "net", "machine": "a machine", "versions": {"torch": "2.13", "python": "3.11"}},
        "measures": [
            measure("kid", "KID", 0.1234567, 0.004, "lower", -0.0012),
            measure("precision", "Precision", 0.7, 0.05, "higher", 0.9),
            measure("vendi", "Vendi score", 12.3, 1.1, "near", None),
        ],
        "classes": {
            "rows": [{"name": name, "real_share": 0.5, "generated_share": share, "kid": None, "agreement": 0.9,
                      "confused_with": None, "num": 10} for name, share in zip(classes, (0.4, 0.6), strict=True)],
            "total_variation": 0.1, "chance": 0.2, "agreement": interval(0.9, 0.05), "worst": classes[1],
            "modes": {"covered": interval(2, 0), "of": 2, "divergence": interval(0, 0)}, "judge": "a classifier",
            "missing": [], "sentence": "No class is clearly missing.",
        },
        "copies": {
            "num": 20, "rate": rate, "false_alarms": 0.01, "authenticity": rate, "closer_than_heldout": rate,
            "sentence": "1 of 20 is a copy.", "training_duplicates": 4, "leaks": 1,
            "closest": [{"file": picture("closest-00.png", 2, 2), "seed": 7, "label": "x", "training": f"{EVIL}.png",
                         "score": 0.5, "copy": True, "alteration": "mirrored"},
                        {"file": picture("closest-01.png", 2, 2), "seed": 8, "label": None, "training": "b.png",
                         "score": 0.4, "copy": False, "alteration": None}],
        },
        "artefacts": {"findings": [{"what": "checkerboard", "sentence": "There is a checkerboard.", "severity": "bad"}],
                      "spectrum": {"frequency": [0.1, 0.2, 0.5], "real": [9, 3, 1], "generated": [9, 3, 2]},
                      "checkerboard": [{"period": 4, "horizontal": interval(5, 1) | {"real": 1.1, "generated": 5.5}}],
                      "duplicates": interval(0.058, 0.01) | {"real": 0.012, "generated": 0.07},
                      "sharpness": {"value": 0.8, "low": 0.7, "high": 0.95, "real": 1.0, "generated": 0.8},
                      "blank": interval(0.03, 0.01) | {"real": 0.0, "generated": 0.03},
                      "tones": interval(0.02, 0.01)
                      | {"real": 0.004, "real_high": 0.01, "channels": {}, "brighter": 0.1},
                      "correlation": {"generated": 0.3, "real": 0.2, "low": 0.1, "high": 0.4, "variety": rate}},
        "feature_map": {"real": [[0.0, 0.5], [0.1, 0.5]], "generated": [[1.0, -0.5]], "explained": 0.312,
                        "features": "net"},
        "marks": [{"file": picture("mark-00.png", 1, 1), "box": [1, 2, 3, 4], "real_share": 0.6,
                   "generated_share": 0.4}],
        "real_or_fake": {"accuracy": rate, "map": picture("map.png", 1, 1), "sentence": "Easily told apart."},
        "usefulness": {"rows": [{"name": "real", "accuracy": interval(0.9, 0.01)},
                                {"name": "real + synthetic", "accuracy": interval(0.91, 0.01)}],
                       "differences": {"real + synthetic": interval(-0.01, 0.02)}, "sentence": "It does not help.",
                       "seeds": 3},
        "grids": {"real": picture("real.png", 16, 8), "generated": picture("generated.png", 16, 8),
                     "per_class": True, "note": "uncurated: seeds 1 to 16"},
        "seconds": 3.0,
    }  # fmt: skip
    content |= changes
    (run / "evaluation.json").write_text(json.dumps(content))
    return content


# ---- the page of one run ----


def test_everything_that_was_measured_is_said(run: Path) -> None:
    judge(run)
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"images": 40, "health": "winner", "words": "it has won", "action": "raise it"}) + "\n")
    path = report([run])
    assert path == run / "report.html"
    page = Page(path)
    for said in (
        "0.1235", "(0.1195 to 0.1275)", "−0.0012", "Meaning of Precision.", "biased: few".capitalize(), "k = 3",
        "Class shares differ from the data by 10.0%", "Worst class: standing", "No class is clearly missing.",
        "a classifier",
        "1 of 20 is a copy.", "5.0% (4.0 to 6.0%)", "flagged, mirrored; seed 7, x", "4 among the training images",
        "60.0% of the real", "There is a checkerboard.",
        "Checkerboard artefacts, period 4 pixels 5.50 1.10", "0.80 (0.70 to 0.95)", "2.0% 0.4%",
        "0.30 0.10 to 0.40", "3.0% 0.0%", "7.0% 1.2%",
        "Easily told apart.", "It does not help.", "−1.0% (−3.0 to 1.0%)",
        "uncurated: seeds 1 to 16", "it has won", "raise it", "not stated", "torch 2.13", "ganvas train",
        "best for small images on a CPU", "Duplicates in the held-out set",
        "Meaning of KID. Lower is better.", "Share of held-out images flagged as copies.",
    ):  # fmt: skip
        assert said in page.text, said
    assert [said for tag, said in page.said if tag == "li"][:4] == ["lying", "standing", "lying", "standing"]
    assert ("p", "seed 8; b.png; score 0.400") in page.said  # no copy
    assert {"aria-label": "lower is better", "title": "lower is better"} in page.all("span")
    num_grids = len(list((run / "samples").glob("*.png")))
    assert len(page.all("img")) == 2 + 2 + 1 + 1 + 1 + min(5, num_grids)  # grids, pairs, mark, map, film, stages


def test_the_map_shows_an_image_as_a_point_and_says_how_much_it_holds(run: Path) -> None:
    judge(run)
    page = Page(report([run]))
    assert "Real images without generated ones nearby show what the generator misses" in page.text
    assert "The map shows 31.2% of the variance" in page.text and "generated (crosses)" in page.text
    (drawing,) = [svg for svg in page.all("svg") if "features" in (svg.get("aria-label") or "")]
    assert drawing["aria-label"].endswith("2 real and 1 generated images.")
    dots = [dot for dot in page.all("circle") if dot.get("r") == "2.4" and dot["class"] == "dot s0"]
    assert len(dots) >= 2
    (crosses,) = [path["d"] for path in page.all("path") if path.get("class") == "cross s1"]
    assert crosses is not None and crosses.count("M") == 1


def test_values_for_real_images_and_the_network_of_a_curve_are_those_measured(run: Path) -> None:
    judge(run)
    with (run / "log.jsonl").open("a") as log:
        log.writelines(json.dumps({"images": n, "score": 0.3, "kid": 0.3}) + "\n" for n in (100, 200))
    page = Page(report([run]))
    assert "real 1.0%" in page.text  # false alarms of the search for copies
    assert "KID (random network) of the averaged weights" in page.text  # not the network of the evaluation


def test_the_page_stands_alone(run: Path) -> None:
    judge(run)
    page = Page(report([run]))
    links = [value for _, attributes in page.elements for name, value in attributes.items()
             if name in ("src", "href", "srcset", "action", "data", "xlink:href")]  # fmt: skip
    assert links
    assert all(link is not None and link.startswith(("data:image/", "data:text/csv", "#")) for link in links)
    raw = (run / "report.html").read_text()
    assert not re.search(r"https?:|@import|url\(|//cdn", re.sub(r"base64,[A-Za-z0-9+/=]+", "", raw))
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not page.all("script")
    assert "prefers-color-scheme: dark" in raw
    assert all(image.get("alt") for image in page.all("img"))
    drawings = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert drawings
    assert all(svg["aria-label"] for svg in drawings)


def test_no_text_is_markup(run: Path) -> None:
    """Of classes, files, the source, the log, the licence: whatever comes from outside."""
    change_config(run, source=EVIL, licence=EVIL, attribution=EVIL)
    judge(run, classes=(EVIL, f"</title>{EVIL}"))
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"images": 40, "health": EVIL, "words": EVIL, "action": EVIL}) + "\n")
    folder = run.rename(run.parent / "<b onload=x>'run")
    page = Page(report([folder]))
    assert not page.all("script")
    assert not page.all("b")
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert sum(EVIL in said for _, said in page.said) >= 6
    page = Page(report([folder, folder]))
    assert not page.all("script")
    assert not page.all("b")


def test_not_judged_yet(run: Path) -> None:
    page = Page(report([run]))
    assert "No evaluation yet." in page.text
    assert f"ganvas evaluate {run}" in page.text
    assert "Last preview" in page.text
    assert "Share of generated images that resemble a real image (quality). Higher is better." in page.text
    assert page.all("img")
    assert "Measures" not in page.text


def test_only_what_an_evaluation_always_has(run: Path) -> None:
    content = judge(run)
    always = ("format", "ganvas", "made", "run", "model", "data", "protocol", "measures", "seconds")
    (run / "evaluation.json").write_text(json.dumps({name: content[name] for name in always}))
    page = Page(report([run]))
    assert "0.1235" in page.text
    assert "Copies" not in page.text
    assert "Usefulness" not in page.text


def test_evaluation_of_other_weights_is_called_stale(run: Path) -> None:
    judge(run)
    assert "other weights" in Page(report([run])).text


def test_nothing_and_damaged_things_are_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run was given"):
        report([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="not a run folder"):
        report([tmp_path / "empty"])
    for damaged, words in (
        ("{", "damaged"),
        ("[]", "format 2"),
        ('{"format": 1}', "format 2"),
        ('{"format": 2}', "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"format": 2, "measures": [{"name": 5}], "model": {}, "data": 3, "protocol": {}}', "damaged"),
        ('{"format": 2, "measures": [3], "model": {}, "data": {}, "protocol": {}}', "damaged"),
        ('{"format": 2, "measures": [], "model": {"weights": 1}, "data": {}, "protocol": {}}', "damaged"),
    ):
        (run / "evaluation.json").write_text(damaged)
        with pytest.raises(RunError, match=words):
            report([run])
    content = judge(run)
    for change, words in (
        ({"artefacts": {"blank": {"a": 1}}}, "damaged"),
        ({"feature_map": {"real": [[0.0]], "generated": [[1.0, 0.5]]}}, "cannot be shown"),
    ):
        (run / "evaluation.json").write_text(json.dumps(content | change))
        with pytest.raises(RunError, match=words):
            report([run])
    (run / "evaluation.json").unlink()
    last = max((run / "samples").glob("*.png"))
    last.write_bytes(b"nothing")
    with pytest.raises(RunError, match="is damaged: delete it"):
        report([run])
    shutil.rmtree(run / "samples")
    (run / "log.jsonl").unlink()
    with pytest.raises(RunError, match="no log and no images yet"):
        report([run])


def test_missing_and_foreign_pictures(run: Path) -> None:
    """An image that is gone is said to be; one outside of the run is not shown."""
    Image.new("L", (4, 4)).save(run.parent / "secret.png")
    judge(run, grids={"real": "evaluation/gone.png", "generated": "../secret.png", "per_class": False, "note": "n"})
    assert Page(report([run])).text.count("The image file is missing.") == 2
    assert embed(run, "../secret.png", 10**6) is None
    assert embed(run, "config.json", 10**6) is None


def test_large_pictures_stay_within_the_budget(run: Path) -> None:
    """Noise of 290x290 pixels, which no format makes small, as grids, previews and pairs."""
    judge(run)
    noise = np.random.default_rng(0).integers(0, 256, (600, 300, 3), np.uint8)
    for path in [*(run / "evaluation").glob("*.png"), *(run / "samples").glob("*.png")]:
        Image.fromarray(noise).save(path, compress_level=0)
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["copies"]["closest"] *= 10
    evaluation["marks"] *= 30
    evaluation["model"] |= {"height": 290, "width": 290}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    assert report([run]).stat().st_size < 10e6
    assert report([run] * 4).stat().st_size < 10e6


def test_the_numbers_and_the_method_can_be_taken_along(run: Path) -> None:
    judged = judge(run)
    page = Page(report([run]))
    (link,) = [found["href"] for name, found in page.elements if name == "a" and "download" in found]
    assert link is not None
    rows = list(csv.DictReader(unquote(link.partition(",")[2]).splitlines()))
    for measure in judged["measures"]:
        (row,) = [row for row in rows if (row["part"], row["name"]) == ("measures", measure["name"])]
        assert [float(row[key]) for key in ("value", "low", "high")] == [
            measure[key] for key in ("value", "low", "high")
        ]
    assert float(next(row for row in rows if row["name"] == "rate")["value"]) == judged["copies"]["rate"]["value"]
    told = methods(Evaluation.from_dict(judged))
    assert told in page.text and "generated images were compared with" in told


def test_the_contents_name_every_section(run: Path) -> None:
    judge(run)
    page = Page(report([run]))
    targets = [
        (found.get("href") or "")[1:] for name, found in page.elements if name == "a" and "download" not in found
    ]
    assert targets == [found["id"] for name, found in page.elements if name == "h2"]


# ---- several runs ----


def test_comparison(run: Path, tmp_path: Path) -> None:
    other, third = tmp_path / "other", tmp_path / "third"
    shutil.copytree(run, other)
    shutil.copytree(run, third)
    judge(run)
    content = judge(other)
    content["measures"][0] |= interval(0.05, 0.01)
    content["protocol"]["num_generated"] = 50
    (other / "evaluation.json").write_text(json.dumps(content))
    path = other / "config.json"
    config = json.loads(path.read_text())
    config["train"]["lr"], config["name"] = 0.125, "other"
    path.write_text(json.dumps(config))
    page = Page(report([run, other]))
    assert page.said  # parsed
    assert (tmp_path / "comparison.html").exists()
    best = [cell for cell in page.all("td") if "best" in str(cell.get("class"))]
    assert [cell["data-of"] for cell in best] == ["other"]
    assert "0.125" in page.text
    assert "different protocols (number of generated images)" in page.text
    assert "different data" not in page.text
    assert len(page.all("img")) == 2
    aside = tmp_path / "new" / "page.html"
    assert report([run, third], aside) == aside
    page = Page(aside)
    assert f"No evaluation yet: {third}" in page.text  # two runs of one name go by their folders
    assert "The configurations are identical." in page.text


def test_best_only_beyond_the_intervals() -> None:
    near, far = Measure(0.2, 0.15, 0.25), Measure(0.5, 0.45, 0.55)
    assert winner([near, far]) is near
    higher = [dataclasses.replace(one, better="higher") for one in (near, far)]
    assert winner(higher) is higher[1]
    assert winner([near, Measure(0.25, 0.2, 0.3)]) is None
    assert winner([dataclasses.replace(one, better="near") for one in (near, far)]) is None
    assert winner([near]) is None


# ---- numbers and drawings ----


def test_the_map_shows_each_point_at_its_place() -> None:
    """To the right of the middle for positive x, above it for positive y: crosses as dots."""
    points = [(0.0, 0.0), (0.5, 0.5), (-1.0, -0.5)]
    chart = scatter_chart("Map", points, points)
    assert chart is not None
    found = re.findall(r'cx="(.*?)" cy="(.*?)"', chart.svg), re.findall(r"M(\S+) (\S+?)l5 5", chart.svg)
    dots, crosses = (np.array(places, float) for places in found)
    np.testing.assert_allclose(crosses + 2.5, dots, atol=0.11)
    side = dots[0, 0] - dots[2, 0]
    assert side > 100
    np.testing.assert_allclose(dots - dots[0], [[0, 0], [side / 2, -side / 2], [-side, side / 2]], atol=0.11)


def test_figures_follow_the_interval() -> None:
    assert Measure(0.1234, 0.12, 0.127).decimals == 4
    assert Measure(30.0, 28.6, 31.4).decimals == 1
    assert Measure(1.0, 1.0, 1.0).decimals == 2
    assert Measure(-0.00001, -0.01, 0.01).text(-0.00001) == "0.000"
    assert number_text(-1234.5, 1) == "−1,234.5"
    assert number_text(0.0123456) == "0.0123"
    assert number_text(0) == "0"
    assert number_text(None) == number_text(float("nan")) == "–"
    assert percent_interval(Interval(0.031, 0.02, 0.048)) == "3.1% (2.0 to 4.8%)"


def test_protocols_are_said_once() -> None:
    said = {"w": "20 real; net; v1", "x": "20 real, k = 3; net; v1", "y": "20 real; net; v1", "z": "alone"}
    letters, shared = protocols([Measure(1.0, 0.9, 1.1, key, protocol=one) for key, one in said.items()])
    assert shared == "net; v1"
    assert letters == {"w": ("a", "20 real"), "x": ("b", "20 real, k = 3"), "y": ("a", "20 real"), "z": ("c", "alone")}
    assert protocols([]) == ({}, "")


def points(svg: str) -> np.ndarray:
    match = re.search(r'<polyline[^>]*points="([^"]+)"', svg)
    assert match is not None
    return np.array([pair.split(",") for pair in match[1].split()], float)


def test_a_line_is_where_its_values_are() -> None:
    chart = line_chart("c", [Series("a", [0, 50, 100], [0.0, 1.0, 0.5])])
    assert chart is not None
    x, y = points(chart.svg).T
    assert np.allclose(np.diff(x), (410 - 52) / 2, atol=0.1)
    assert y[1] < y[2] < y[0]
    assert (y[0] - y[2]) / (y[0] - y[1]) == pytest.approx(0.5, abs=0.01)
    assert chart.legend == []
    logarithmic = line_chart("c", [Series("a", [0, 1, 2], [1.0, 10.0, 100.0])])
    assert logarithmic is not None
    steps = np.diff(points(logarithmic.svg)[:, 1])
    assert steps[0] == pytest.approx(steps[1], abs=0.2)


@pytest.mark.parametrize(
    ("high", "ticks"),
    [(30, [0, 10, 20, 30]), (8, [0, 2, 4, 6, 8]), (20, [0, 5, 10, 15, 20]), (0.4, [0, 0.1, 0.2, 0.3, 0.4])],
)
def test_ticks_are_round_numbers(high: float, ticks: list[float]) -> None:
    chart = line_chart("c", [Series("a", [0, 50], [0, high])], log_y=False)
    assert chart is not None
    assert [float(text) for text in re.findall(r'"end">([\d.]+)</text>', chart.svg)] == ticks


def test_what_is_not_finite_or_too_much() -> None:
    assert line_chart("c", [Series("a", [1, 2], [np.nan, 1.0])]) is None
    chart = line_chart("<c>", [Series(EVIL, range(5000), [float("inf"), *range(4999)]), Series("b", [0, 9], [-1, 1])])
    assert chart is not None
    assert len(points(chart.svg)) == 240
    assert [name for _, name in chart.legend] == [EVIL, "b"]
    assert "<script" not in chart.svg
    assert "<c>" not in chart.svg
    flat = line_chart("c", [Series("a", [1, 2], [0.31, 0.31])])
    assert flat is not None
    assert np.isfinite(points(flat.svg)).all()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (0.1, 0.2, "Both feature networks distinguish"),
        (0.0, 0.01, "Neither feature network"),
        (0.1, 0.01, "by KID (lite0) the generated images differ from real ones, by KID (random) they do not"),
        (0.0, 0.2, "by KID (random) the generated images differ from real ones, by KID (lite0) they do not"),
    ],
)
def test_the_headline_says_whether_both_networks_agree(first: float, second: float, words: str) -> None:
    values = {"kid": ("KID (lite0)", first), "kid_second": ("KID (random)", second)}
    rows = [Measure(value, value - 0.02, value + 0.02, key, name, real=-0.001) for key, (name, value) in values.items()]
    assert words in agreement_sentence(Evaluation(measures=rows))
    assert "do not resemble" in agreement_sentence(Evaluation(measures=rows, unlike=True))
    assert agreement_sentence(Evaluation(measures=rows[:1])) == agreement_sentence(Evaluation()) == ""


def test_networks_that_rank_two_runs_in_opposite_orders_are_named() -> None:
    def told(name: str, first: float, second: float) -> Any:
        values = (("kid", "KID (one)", first), ("kid_second", "KID (other)", second))
        rows = [Measure(x, x - 0.1, x + 0.1, key, title) for key, title, x in values]
        return SimpleNamespace(name=name, folder=Path(name), evaluation=Evaluation(measures=rows))

    (said,) = disagreements([told("a", 1.0, 2.0), told("b", 2.0, 1.0)])
    assert said.startswith("a has the lower KID (one) and b the lower KID (other): the networks disagree")
    assert disagreements([told("a", 1.0, 1.0), told("b", 2.0, 1.05)]) == []


def test_numbers_at_the_axes_have_three_digits_and_a_unit() -> None:
    values = {
        0.002: "0.002",
        50: "50",
        999.4: "999",
        999.7: "1k",
        1500: "1.5k",
        999_936: "1M",
        -2e6: "−2M",
        1e-5: "1e−5",
    }
    assert {value: label(value) for value in values} == values
