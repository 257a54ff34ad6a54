"""`ganvas report`: one self-contained HTML page about a run, or a comparison of several runs.

    reading.py      reads a run folder
    advice.py       recommends the next steps, with commands
    page.py         charts, tables and images of one run;  comparison.py: of several runs
    charts.py       line charts as inline SVG;  pictures.py: data URIs of limited size
    templates/      the pages; Jinja2 escapes all text

The page has no scripts and loads nothing from the network (enforced by its Content-Security-Policy).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

import ganvas
from ganvas.errors import RunError, duration
from ganvas.fields import takes
from ganvas.options import Report
from ganvas.reporting.advice import Advice, advice, sentence
from ganvas.reporting.comparison import comparison
from ganvas.reporting.page import number_text, page_values, percent, percent_interval
from ganvas.reporting.reading import read
from ganvas.system import files

__all__ = ["Advice", "advice", "report"]


@takes(Report)
def report(asked: Report) -> Path:
    """Write the report of one run, or a comparison of several, to one HTML file below 10 MB; return its path.

    Raises `RunError` if a folder is not a run, is empty, or has a damaged evaluation.json or preview grid.
    """
    runs = [asked.runs] if isinstance(asked.runs, str | Path) else list(asked.runs)
    out = None if asked.out is None else Path(asked.out)
    if not runs:
        raise RunError("no run was given: name at least one run folder")
    contents = [read(Path(run)) for run in runs]
    try:
        if len(contents) == 1:
            path, html = out or contents[0].folder / "report.html", _render("run.html.j2", page_values(contents[0]))
        else:
            path, html = (
                out or contents[0].folder.parent / "comparison.html",
                _render("comparison.html.j2", comparison(contents)),
            )
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, jinja2.UndefinedError) as error:
        if all(one.evaluation is None for one in contents):
            raise
        # evaluation.json is not validated in full, so a damaged one may fail here.
        places = ", ".join(str(one.folder / "evaluation.json") for one in contents if one.evaluation is not None)
        raise RunError(f"{places} cannot be shown ({error!r}): run `ganvas evaluate` again") from error
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, html)
    return path


def _render(template: str, content: dict[str, Any]) -> str:
    """Render the page; all text is escaped, also file and class names."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("ganvas.reporting"), autoescape=True)
    environment.filters |= {
        "text": number_text, "percent": percent, "percent_interval": percent_interval, "duration": duration,
        "sentence": sentence,
    }  # fmt: skip
    return environment.get_template(template).render(content, version=ganvas.__version__)
