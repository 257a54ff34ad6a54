"""records.py and results.py: lines of log.jsonl and evaluations, whole, damaged and of other versions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ganvas.errors import ConfigError
from ganvas.records import Score, TrainingReport, Variety, Warned, line_of, read_log, read_reports, record_of, typed
from ganvas.results import (
    Artefacts,
    ClassResult,
    ClassResults,
    CopyResults,
    Evaluation,
    Finding,
    Interval,
    Largest,
    Measure,
    ModelFacts,
    Modes,
    Pair,
    Power,
    Protocol,
    UsefulnessResults,
)  # fmt: skip

REPORT = TrainingReport(64, 1.4, 1.5, 40.0, 9.0, 0.2, -0.2, 1e-3, 13, 0.5, 0.6, 0.1, 0.3, 0.0)


def test_the_end_of_a_log_is_read_without_damaged_lines(tmp_path: Path) -> None:
    assert list(read_log(tmp_path)) == []
    lines = [json.dumps({"images": number}) for number in range(10)]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"images": 10', "[]", '{"images": "1"}']))
    assert [record["images"] for record in read_log(tmp_path)] == list(range(10))
    assert [record["images"] for record in read_log(tmp_path, most=65)] == [8, 9]


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    heads = dataclasses.replace(REPORT, r1_features=0.05, lead=0.4)
    lines = [line_of(REPORT), {"images": 64, "score": 0.1}, line_of(heads) | {"of_a_later_version": 1}, {"images": 64}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_reports(tmp_path) == [REPORT, heads]
    assert line_of(REPORT).keys() == line_of(heads).keys() - {"r1_features", "lead"}


def test_each_line_of_a_log_is_read_as_what_it_is() -> None:
    lines = [REPORT, Score(64, 0.1), Score(128, 0.1, near=0.5), Variety(64, 0.9, 0.2, "cat"), Warned(9, "flat", "a")]
    others = [{"images": 64, "finished": True}, {"images": 16, "score": "1"}, {"images": 16, "health": 5}]
    assert [*typed([*map(line_of, lines), *others])] == lines


@pytest.mark.parametrize("value", ["1", None, True, float("nan"), [1]])
def test_a_damaged_report_is_none(value: object) -> None:
    assert record_of(TrainingReport, line_of(REPORT) | {"loss": value}) is None


JUDGED = Evaluation(
    ganvas="0.1.0",
    model=ModelFacts("light", 64, 64, 3, 1000, "0" * 8),
    protocol=Protocol(200, 100, "held-out", seed=0, truncation=1.0, versions={"torch": "2.13"}),
    measures=[Measure(0.5, 0.4, 0.6, "kid", "KID (random)", real=0.01, flags=["few"])],
    classes=ClassResults(
        [ClassResult("cat", 0.5, 0.4)],
        agreement=Interval(0.9, 0.8, 1.0),
        modes=Modes(Interval(1.0, 1.0, 1.0), 2, Interval(0.1, 0.0, 0.2)),
    ),
    copies=CopyResults(rate=Interval(0.0, 0.0, 0.1), closest=[Pair("a.png", 7, copy=True)]),
    artefacts=Artefacts(
        [Finding("noise", "Noise.", "bad")], power=Power(Largest(2.0, 1.0, 3.0, 0.4), fine=Interval(1.5, 1.2, 1.9))
    ),
    usefulness=UsefulnessResults(differences={"synthetic": Interval(-0.1, -0.2, 0.0)}),
)


def test_an_evaluation_is_read_as_it_was_written() -> None:
    values = json.loads(json.dumps(JUDGED.to_dict()))
    assert Evaluation.from_dict(values) == JUDGED
    values["of_a_later_version"] = values["classes"]["of_a_later_version"] = [1]
    del values["marks"], values["copies"]["meaningful"], values["classes"]["rows"][0]["generated_low"]
    assert Evaluation.from_dict(values) == JUDGED
    lines = JUDGED.lines()
    assert lines[0].startswith("↓ KID (random)") and "(few)" in lines[0] and "bad: Noise." in lines


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("copies", {"rate": 3}),
        ("copies", {"rate": {"value": 1.0, "low": 0.5}}),
        ("copies", {"closest": [{"seed": "7"}]}),
        ("classes", {"rows": [{}]}),
        ("protocol", {"num_real": 1.5}),
        ("usefulness", {"differences": {"synthetic": {"value": float("inf"), "low": 0.0, "high": 1.0}}}),
    ],
)
def test_damaged_values_of_an_evaluation_are_named(part: str, change: dict) -> None:
    values = JUDGED.to_dict()
    values[part] |= change
    with pytest.raises(ConfigError, match="the evaluation is damaged"):
        Evaluation.from_dict(values)
