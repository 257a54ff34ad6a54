"""The model card: all that the hub and a reader need, numbers of these weights only, and no name that breaks it."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ganvas.errors import RunError
from ganvas.generator import Generator
from ganvas.model_file import find_weights
from ganvas.system import files
from ganvas.training.card import (
    FOLDER,
    SHOWN_CLASSES,
    card,
    class_names,
    escape,
    facts_of,
    licence_id,
    markdown_text,
    may_show,
    yaml,
)
from test_report import change_config, judge

EVIL = "<img src=x onerror=alert(1)>|[a](javascript:b)`*_~ @me https://evil.example www.evil.example {{x}} --- $&amp;"
SECTIONS = ["Use", "Intended use", "Prohibited use", "Training data", "Evaluation", "Limits",
            "Training and its cost"]  # fmt: skip


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a real run that was never judged."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    return folder


def judged(run: Path, **changes: Any) -> dict[str, Any]:
    """An evaluation of the run's own weights, written into it."""
    shape = {"model": "compact", "height": 16, "width": 16, "channels": 1, "images_seen": 48}
    return judge(run, model=shape | {"weights": files.sha256(find_weights(run))[:8]}, **changes)


def card_of(path: Path, **options: Any) -> str:
    return card(facts_of(path, **options))


def front(text: str) -> dict[str, Any]:
    """The front matter, as a reader of YAML has it."""
    reader = pytest.importorskip("yaml", reason="needs the extra `hub` or `docs`")
    start, block, _ = text.split("---\n", 2)
    assert start == ""
    return reader.safe_load(block)


class Page(HTMLParser):
    """Elements, attributes and text of rendered Markdown."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.said: list[str] = []
        reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
        self.feed(reader.render(markdown))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        return "".join(self.said)


def body(text: str) -> str:
    return text.split("---\n", 2)[2]


# -- what it says --


def test_front_matter_is_what_the_hub_reads(run: Path) -> None:
    judged(run)
    change_config(run, licence="CC BY-SA 4.0", attribution="Somebody")
    found = front(card_of(run))
    assert found["license"] == "cc-by-sa-4.0"
    assert found["library_name"] == "ganvas"
    assert found["pipeline_tag"] == "unconditional-image-generation"
    assert {"gan", "synthetic", "class-conditional"} <= set(found["tags"])
    metrics = found["model-index"][0]["results"][0]["metrics"]
    assert [one["type"] for one in metrics] == ["kid", "precision", "vendi"]
    assert metrics[0]["value"] == pytest.approx(0.1235) and "0.1195 to 0.1275" in metrics[0]["name"]


def test_the_hubs_own_reader_takes_the_card(run: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("huggingface_hub", reason="needs the extra `hub`")
    judged(run)
    path = tmp_path / "README.md"
    path.write_text(card_of(run), encoding="utf-8")
    data = library.ModelCard.load(path).data
    assert data.license == "other" and data.license_name == "terms-of-the-training-data"
    assert [one.metric_type for one in data.eval_results] == ["kid", "precision", "vendi"]
    assert data.eval_results[1].metric_value == pytest.approx(0.7)


def test_all_sections_are_there_in_order(run: Path) -> None:
    text = card_of(run)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert "synthetic" in text and "must not be presented as real" in text
    assert "24, 2 of them held out" in text or "images | 24" in text
    assert "energy | not recorded" in text and "images seen | 48" in text
    assert "no code" in text


def test_the_python_of_the_card_works(run: Path) -> None:
    code = card_of(run).split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace(FOLDER, str(run / "model")), names)
    assert names["images"].shape == (16, 1, 16, 16)
    assert "float32 (16, 1, 16, 16)" in code


def test_the_hash_is_that_of_the_saved_weights(run: Path) -> None:
    """Also in the card that the training itself wrote, whose average changed after the first checkpoint."""
    digest = Generator.load(run, "cpu").hash
    assert f"`{digest}`" in (run / "model" / "README.md").read_text(encoding="utf-8")
    assert f"`{digest}`" in card_of(run)


def test_numbers_come_with_their_intervals(run: Path) -> None:
    judged(run)
    text = card_of(run)
    assert "| KID ↓ | 0.1235 | 0.1195 to 0.1275 | −0.0012 | biased: few |" in text
    assert "| Precision ↑ | 0.70 | 0.65 to 0.75 | 0.90 |  |" in text
    for words in ("1 of 20 is a copy.", "There is a checkerboard.", "Easily told apart.", "It does not help.",
                  "20 real (held-out) and 20 generated", "seeds from 1,000,000"):  # fmt: skip
        assert words in text
    assert "The class with the lowest accuracy is standing." in text
    assert "was not measured" not in text


def test_without_an_evaluation_it_says_so(run: Path) -> None:
    text = card_of(run)
    assert "Not evaluated" in text and "Copying of training images was not measured." in text
    assert "model-index" not in text


def test_an_evaluation_of_other_weights_is_not_told(run: Path) -> None:
    judge(run)  # of the weights 00000000
    text = card_of(run)
    assert "of other weights; these weights were not evaluated" in text and "0.1235" not in text


def test_numbers_that_are_none_are_left_out(run: Path) -> None:
    content = judged(run)
    content["measures"][0]["value"] = float("nan")
    content["measures"][1]["low"] = None
    (run / "evaluation.json").write_text(json.dumps(content))
    text = card_of(run)
    assert "KID" not in text and "Precision" not in text and "Vendi" in text and "nan" not in text.lower()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 2, "measures": {}}', "[" * 100_000])
def test_a_damaged_evaluation_is_named(run: Path, content: str) -> None:
    (run / "evaluation.json").write_text(content)
    with pytest.raises(RunError, match="evaluate"):
        card_of(run)


def test_a_model_without_its_run(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "alone")
    text = card_of(tmp_path / "alone")
    assert "Not recorded: the run of this model is missing." in text and front(text)["license"] == "other"


def test_no_place_on_this_machine_is_told(run: Path, two_classes: Path) -> None:
    text = card_of(run)
    assert str(two_classes.parent) not in text and str(run.parent) not in text
    assert f"name | {two_classes.name} |" in text
    change_config(run, source="C:\\Users\\somebody\\patients\\")
    assert "somebody" not in card_of(run) and "name | patients |" in card_of(run)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("xray", ["not for diagnosis", "Diagnosis, treatment", "disease that does not exist"]),
        ("scan", ["not for diagnosis"]),
        ("face", ["may resemble a real person"]),
        ("photo", ["Medical or other critical decisions."]),
    ],
)
def test_kinds_of_picture_have_limits_of_their_own(run: Path, kind: str, words: list[str]) -> None:
    generator = Generator.load(run, "cpu")
    generator.info = dataclasses.replace(generator.info, kind=kind)
    text = card(facts_of(run, generator))
    assert all(one in text for one in words)
    assert "24 training images are few" in text


# -- licences --


@pytest.mark.parametrize(
    ("licence", "name", "shown"),
    [
        ("CC BY 4.0", "cc-by-4.0", True),
        ("CC BY-SA 3.0", "cc-by-sa-3.0", True),
        ("cc-by-4.0", "cc-by-4.0", True),
        ("MIT", "mit", True),
        ("MIT License", "mit", True),
        ("CC0", "cc0-1.0", True),
        ("public domain", "cc0-1.0", True),
        ("CC BY-NC 4.0", "cc-by-nc-4.0", False),
        ("CC BY-NC-ND 4.0", "cc-by-nc-nd-4.0", False),
        ("CC BY-SA 4.0 (the sets it was gathered from have terms of their own)", None, False),
        ("non-commercial research only, no redistribution", None, False),
        ("copyrighted frames: for private study only", None, False),
        ("none stated", None, False),
        ("not MIT", None, False),
        ("", None, False),
        (None, None, False),
    ],
)
def test_licences(licence: str | None, name: str | None, shown: bool) -> None:
    assert licence_id(licence) == name
    assert may_show(licence) is shown


def test_a_licence_that_the_publisher_states_is_marked_as_such(run: Path) -> None:
    text = card_of(run, licence="CC BY 4.0")
    assert "CC BY 4.0 (as stated by the publisher)" in text and front(text)["license"] == "cc-by-4.0"


# -- text --


def test_no_text_of_the_data_becomes_markup(run: Path) -> None:
    judged(run, classes=(EVIL, "standing"))
    config = json.loads((run / "config.json").read_text())
    config["name"] = config["device"] = config["budget"] = config["ganvas"] = EVIL
    config["data"] |= {"source": EVIL, "licence": EVIL, "attribution": EVIL}
    (run / "config.json").write_text(json.dumps(config))
    generator = Generator.load(run, "cpu")
    generator.info = dataclasses.replace(generator.info, classes=[EVIL, "b"], data_hash=EVIL)
    content = json.loads((run / "evaluation.json").read_text())
    for row in content["measures"]:
        row["name"] = row["key"] = EVIL
        row["flags"] = [EVIL]
    content["copies"]["sentence"] = content["protocol"]["features"] = EVIL
    (run / "evaluation.json").write_text(json.dumps(content))
    text = card(facts_of(run, generator))
    page = Page(body(text))
    plain_tags = "h1 h2 p blockquote strong em ul li table thead tbody tr th td pre code"
    assert set(page.tags) <= set(plain_tags.split())
    assert {name for name, _ in page.attributes} <= {"class"}
    assert page.text.count(EVIL) >= 10
    found = front(text)
    assert found.keys() == {"license", "license_name", "library_name", "pipeline_tag", "tags", "model-index"}
    assert found["model-index"][0]["name"] == EVIL


def test_a_name_cannot_end_the_front_matter(run: Path) -> None:
    judged(run)
    config = json.loads((run / "config.json").read_text())
    config["name"] = "x\n---\nlicense: mit\n---\n# Another"
    (run / "config.json").write_text(json.dumps(config))
    text = card_of(run)
    assert front(text)["license"] == "other"
    assert front(text)["model-index"][0]["name"] == "x --- license: mit --- # Another"


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    page = Page(f"| a | b |\n| --- | --- |\n| x {escape(text)} y | z |\n")
    assert page.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert " ".join(page.text.split()) == " ".join(f"a b x {markdown_text(text)} y z".split())


@settings(deadline=None)
@given(st.one_of(st.text(), st.sampled_from(["yes", "no", "null", "1e3", "0x1", "~", "- a", "a: b", "#x", "1_0", "y"])))
def test_yaml_reads_back(text: str) -> None:
    reader = pytest.importorskip("yaml", reason="needs the extra `hub` or `docs`")
    said = markdown_text(text)
    values = {"one": said, "list": [said, {"deep": said, "number": 0.5}], "more": {"x": [1, said]}}
    assert reader.safe_load(yaml(values)) == values


def test_entities_are_not_read_twice() -> None:
    assert html.unescape(escape("&lt;b&gt;")) == "&lt;b&gt;"


def test_of_many_classes_the_first_are_named_and_the_others_counted() -> None:
    names = [f"class{i}" for i in range(SHOWN_CLASSES + 3)]
    assert class_names(names[:-3]) == f"{len(names) - 3}: " + ", ".join(names[:-3])
    assert class_names(names) == f"{len(names)}: " + ", ".join(names[:-3]) + " and 3 more"
    assert class_names([]) == ""
