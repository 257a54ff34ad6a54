"""The documentation says what the code does: tables, figures, options, links, public names, the built site."""

from __future__ import annotations

import dataclasses
import functools
import html
import html.parser
import http.server
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import runpy
import shutil
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mkdocstrings", reason="mkdocstrings is missing: install the extra docs")
pytest.importorskip("zensical", reason="zensical is missing: install the extra docs")

from markdown.extensions.toc import slugify

import ganvas
import ganvas.cli
from ganvas.config import DataConfig, ModelConfig, TrainOptions
from ganvas.fields import meanings, owners
from ganvas.models import MODELS
from ganvas.models.summary import summarise_config
from ganvas.presets import PRESETS
from test_guides import BLOCK, DOCS, QUICK, ROOT, SITE

# -- what is made from the code --


def test_the_table_of_plans_is_current() -> None:
    """Run `python docs/plan_table.py` after a change of the plan."""
    table = runpy.run_path(str(DOCS / "plan_table.py"))["content"]()
    assert (DOCS / "plan.md").read_text() == table


def test_the_table_of_presets_has_every_preset_with_its_numbers() -> None:
    rows = {}
    for line in (DOCS / "presets.md").read_text().splitlines():
        if match := re.match(r"\| `([\w-]+)` \|(.*)", line):
            rows[match[1]] = match[2]
    assert rows.keys() == PRESETS.keys()
    for name, row in rows.items():
        options, side = PRESETS[name].options, int(PRESETS[name].size or 64)
        channels = 1 if PRESETS[name].channels == "gray" else 3
        config = ModelConfig(options["model"], side, side, channels, 0, options["z_dim"], options.get("base", 32))
        for summary in summarise_config(config):
            assert f"{summary.parameters:,}" in row, (name, summary.parameters)
        assert options["update"] in row and f"batch {options['batch']}" in row
        assert f"{options['lr']:g}".replace("0.0002", "2e-4").replace("0.0001", "1e-4") in row or "1.5e-4" in row


def test_the_page_of_options_has_every_field_with_its_default_and_a_meaning() -> None:
    page = SITE["options_page"]()
    for config in (DataConfig, TrainOptions):
        for field in dataclasses.fields(config):
            flag = f"--{field.name.replace('_', '-')}"
            flag = flag if field.default is not True else f"--no-{flag[2:]}"
            row = next(line for line in page.splitlines() if line.startswith(f"| `{flag}`"))
            _, values, default, meaning = re.split(r"(?<!\\) \| ", row.strip("| "))
            assert len(meaning) > 10 and values, row
            if field.default is None and default not in ("none", "*chosen*"):  # what the description says
                described = " ".join(meanings(config)[field.name].split())
                assert default.partition(" (")[0] in described and "Default" not in meaning, row
                continue
            shown = {None: ("none", "*chosen*"), (): ("none",), "True": ("yes",), "False": ("no",)}
            key = str(field.default) if isinstance(field.default, bool) else field.default
            assert default in shown.get(key, (f"`{field.default}`",)), row


def test_the_page_of_commands_has_every_command_and_option_of_the_command_line() -> None:
    page = SITE["commands_page"]()
    for name, command in ganvas.cli.COMMANDS.items():
        title = f"## ganvas {name}\n"
        assert title in page
        part = page.partition(title)[2].partition("\n## ")[0]
        rows = dict(re.findall(r"^\| `(?:--(?:no-)?)?([\w-]+)`.*\| (.*) \|$", part, re.M))
        assert all(len(meaning) > 4 for meaning in rows.values()), rows
        listed = {row.lower().replace("-", "_") for row in rows} | {"quiet", "callbacks", "token"}
        listed |= {f"no_{row}" for row in listed}
        owner = owners(command.options)
        assert {field for field in owner if owner[field] not in ganvas.cli.GROUPS} <= listed, title


def described_parts(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The names that a page of the interface asks for, and the members of each that it lists."""
    for block in re.split(r"^::: ", page.read_text(), flags=re.M)[1:]:
        listed = re.search(r"members:\s*\[([^\]]*)\]", block)
        yield block.split()[0], listed[1].split(", ") if listed else re.findall(r"^ +- (\w+)$", block, re.M)


API = sorted((DOCS / "api").glob("*.md"))


@pytest.mark.parametrize("page", API, ids=lambda page: page.stem)
def test_what_pages_of_the_api_name_exists_and_is_described(page: Path) -> None:
    for name, members in described_parts(page):
        assert members or name in WHOLE or not is_module(name), f"{name}: name its members"
        for member in [f".{member}" for member in members] or [""]:
            found = pkgutil.resolve_name(f"{name}{member}")
            plain = not (inspect.isfunction(found) or inspect.isclass(found) or inspect.ismodule(found))
            assert plain or inspect.getdoc(found), f"{name}{member} has no description"


@pytest.mark.slow
@pytest.mark.parametrize("page", API, ids=lambda page: page.stem)
def test_pages_of_the_api_show_what_they_name(page: Path, site: Path) -> None:
    """Modules are shown in parts: the names that users need, in the order of the page, without the helpers."""
    content = (site / "api" / f"{page.stem}.html").read_text()
    shown = re.findall(r'<h[2-6] id="(ganvas[\w.]*)"', content)
    words = re.sub(r"\W+", " ", re.sub(r"<[^>]+>", "", html.unescape(content)))
    for name, members in described_parts(page):
        places = [shown.index(f"{name}.{member}") for member in members] or [shown.index(name)]
        assert places == sorted(places), name
        for member in [f".{member}" for member in members] or [""]:
            found = pkgutil.resolve_name(f"{name}{member}")
            described = inspect.getdoc(found) if inspect.isfunction(found) or inspect.isclass(found) else None
            first = re.sub(r"\W+", " ", (described or "").partition(".")[0]).strip()
            assert first in words, f"{name}{member} without its description"


WHOLE = {"ganvas.losses", "ganvas.evaluation.distances"}
"""Modules in which every function is for users."""


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a function or class of a module
        return False


def test_figures_are_those_of_the_benchmarks() -> None:
    results = ROOT / "benchmarks" / "results"
    copies = json.loads((results / "copies.json").read_text())
    found = {row["data"]: row for row in copies["rows"]}
    few, medical, first = ((DOCS / "guide" / f"{name}.md").read_text() for name in ("few-images", "medical", QUICK))
    few, medical, first = (" ".join(text.split()) for text in (few, medical, first))
    comics, scans, films = found["comics"], found["mednist"], found["chest-xray"]
    assert f"{comics['recall']:.1%} on comic faces at 64 pixels among {comics['training']:,}" in few
    assert f"{scans['recall']:.1%} on MedNIST among {scans['training']:,}" in few
    assert max(comics["false alarms"], scans["false alarms"]) < 0.01
    assert min(comics["calibrating"], scans["calibrating"]) >= 200
    learnt = next(row for row in copies["memorised"] if row["trained on"] == 100)
    assert f"trained on 100 digits of MNIST without augmentation, {learnt['copies']:.0%} were copies" in few
    assert f"{scans['recall']:.1%} on MedNIST at 64 pixels among {scans['training']:,}" in medical
    assert f"(false alarms: {scans['false alarms']:.1%})" in medical
    assert f"{films['recall']:.1%} on {films['training']} chest films at 128 pixels" in medical
    assert f"({films['false alarms'] * films['innocent']:.0f} of {films['innocent']};" in medical
    minute = json.loads((results / "mnist_minute.json").read_text())["summary"]
    share = next(row["share"] for row in minute if row["what"] == "Ganvas" and row["seconds"] == 60)
    assert f"gave {share:.1%} of generated digits classified as the requested class" in first


def test_parameters_become_a_list() -> None:
    assert SITE["escaped"]("in runs/<name>, `a<b`\n    if a < b:") == "in runs/&lt;name>, `a<b`\n    if a < b:"
    text = "Draws.\n\nnum: how many. seed: the first,\nas a number.\nRaises DataError: for none.\n\nIn order."
    assert SITE["listed"](text, {"num", "seed"}) == (
        "Draws.\n\n\n- **num**: how many.\n- **seed**: the first,\n  as a number.\n\n"
        "Raises DataError: for none.\n\nIn order."
    )


# -- the site --

WRITTEN = {"reference/options.md": SITE["options_page"], "reference/commands.md": SITE["commands_page"]}
"""Pages that the build writes, and what writes them."""


@functools.cache
def anchors(page: str) -> set[str]:
    """The names of the headings of a page below docs/, as links write them; none of a page that is not there."""
    file = ROOT / "RESULTS.md" if page == "reference/results.md" else DOCS / page
    text = WRITTEN[page]() if page in WRITTEN else file.read_text() if file.is_file() else ""
    return {slugify(re.sub("[`*]", "", line), "-") for line in re.findall(r"^#+ (.*)$", re.sub(BLOCK, "", text), re.M)}


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_every_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    """As the strict build of the site, which is slow."""
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(BLOCK, "", page.read_text())):
        place, _, anchor = link.partition("#")
        if ":" in place:
            continue
        target = os.path.relpath(page.parent / place, DOCS) if place else str(page.relative_to(DOCS))
        if target.endswith(".md"):
            assert anchors(target) and (not anchor or anchor in anchors(target)), link
        else:
            assert (DOCS / target).is_file(), link


def test_every_page_is_listed_and_every_public_name_has_one() -> None:
    listed = (DOCS / "zensical.toml").read_text()
    for page in DOCS.rglob("*.md"):
        assert f'= "{page.relative_to(DOCS)}"}}' in listed, page
    described = set(re.findall(r"^::: (\S+)$", "\n".join(map(Path.read_text, (DOCS / "api").glob("*.md"))), re.M))
    for name in ganvas.__all__:
        home = f"ganvas.{ganvas._HOME[name]}"
        assert {home, f"{home}.{name}"} & described, name


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    out = tmp_path_factory.mktemp("docs")
    SITE["build"](out)
    return out / "site"


class Loaded(html.parser.HTMLParser):
    """Addresses that a browser loads by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.addresses.append(found.get("href") or "")
        self.addresses += [found.get(name) or "" for name in ("src", "srcset", "poster") if name in found]


@pytest.mark.slow
def test_the_site_needs_no_other_address(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        reader = Loaded()
        reader.feed(page.read_text())
        assert reader.addresses
        assert not [address for address in reader.addresses if re.match(r"(?:\w+:)?//", address)], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", style.read_text()), style.name


@pytest.mark.slow
def test_the_site_has_every_public_name(site: Path) -> None:
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    listed = {line.split(" ")[0] for line in inventory.splitlines()}
    for name in ganvas.__all__:
        assert f"ganvas.{ganvas._HOME[name]}.{name}" in listed, name


@pytest.mark.slow
def test_the_site_says_nothing_of_the_machine_that_built_it(site: Path) -> None:
    for page in [*site.rglob("*.html"), *site.rglob("*.json")]:
        text = page.read_text()
        assert str(ROOT) not in text and str(Path.home()) + "/" not in text, page.name


@pytest.mark.slow
def test_the_site_in_a_browser(site: Path) -> None:
    """On a phone and on a desk: no error, nothing from elsewhere, nothing wider than the screen, search finds."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: install the extra dev")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium is installed")
    handler = functools.partial(QuietHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}/"
    try:
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for width, height in ((390, 844), (1280, 900)):
                page = browser.new_page(viewport={"width": width, "height": height})
                asked, errors = [], []
                page.on("request", lambda request, asked=asked: asked.append(request.url))
                page.on(
                    "console", lambda said, errors=errors: errors.append(said.text) if said.type == "error" else None
                )
                page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
                for name in ("index.html", "guide/artists.html", "reference/options.html", "api/generator.html"):
                    page.goto(home + name)
                    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    assert wide <= 0, (name, width, wide)
                assert not errors
                assert all(url.startswith((home, "data:")) for url in asked)
            page.goto(home)
            page.locator("button.md-search__button").click()
            page.get_by_placeholder("Search").fill("truncation")
            page.get_by_role("option", name="Truncation").first.wait_for(timeout=20_000)
            browser.close()
    finally:
        server.shutdown()
        server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_table_of_networks_is_that_of_the_registry() -> None:
    page = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", (DOCS / "guide" / "your-images.md").read_text())
    for name, one in MODELS.items():
        assert one.classic or f"| `{name}` | {one.about} |" in page, name
