"""`ganvas report`: one self-contained page about a run, or a comparison of several, from their files alone.

    reading.py      a run folder -> what its files tell
    advice.py       evidence -> what to do next, with the command
    page.py         the same -> charts, tables and images of one run;  comparison.py: of several
    charts.py       lines as inline SVG;  pictures.py: data URIs within a budget of bytes
    templates/      the page; Jinja2 escapes every text

The page has no script, loads nothing, and forbids itself to (Content-Security-Policy).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

import ganvas
from ganvas import files
from ganvas.errors import RunError
from ganvas.report.advice import Advice, advice, sentence
from ganvas.report.comparison import comparison
from ganvas.report.page import page, percent, percent_interval, text
from ganvas.report.reading import read
from ganvas.training.progress import duration

__all__ = ["Advice", "advice", "report"]


def report(runs: list[Path], out: Path | None = None) -> Path:
    """Writes the report of one run, or a comparison of several, as one HTML file below 10 MB; returns its path.

    out: the file; by default report.html in the run, or comparison.html beside the first of several runs.
    Raises `RunError` for a folder that is no run, holds nothing yet, or has a damaged evaluation.json or grid.
    """
    if not runs:
        raise RunError("no run was given: name at least one run folder")
    told = [read(Path(run)) for run in runs]
    try:
        if len(told) == 1:
            path, html = out or told[0].folder / "report.html", render("run.html.j2", page(told[0]))
        else:
            path, html = (
                out or told[0].folder.parent / "comparison.html",
                render("comparison.html.j2", comparison(told)),
            )
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, jinja2.UndefinedError) as error:
        if all(one.evaluation is None for one in told):
            raise
        # An evaluation has too many parts to look at each before: whoever changed or damaged it must make it again.
        places = ", ".join(str(one.folder / "evaluation.json") for one in told if one.evaluation is not None)
        raise RunError(f"{places} cannot be shown ({error!r}): run `ganvas evaluate` again") from error
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, html)
    return path


def render(template: str, content: dict[str, Any]) -> str:
    """The page; every text in it escaped, also that of file and class names."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("ganvas.report"), autoescape=True)
    environment.filters |= {
        "text": text, "percent": percent, "percent_interval": percent_interval, "duration": duration,
        "sentence": sentence,
    }  # fmt: skip
    return environment.get_template(template).render(content, version=ganvas.__version__)
