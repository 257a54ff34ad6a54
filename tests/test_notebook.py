"""The notebooks run from top to bottom in a kernel of their own, and their student gets what the text promises."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import ganvas
from ganvas.errors import GanvasError
from ganvas.share.export_web import runtime_files

nbformat = pytest.importorskip("nbformat", reason="nbformat is missing: install the extra dev")
nbclient = pytest.importorskip("nbclient", reason="nbclient is missing: install the extra dev")
pytest.importorskip("ipykernel", reason="ipykernel is missing: install the extra dev")
pytest.importorskip("matplotlib", reason="matplotlib is missing: install the extra notebook")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOK, FEW = EXAMPLES / "first_gan.ipynb", EXAMPLES / "few_images.ipynb"
CHANCE = 0.1  # ten classes
RESULTS = """import json
print(json.dumps({"judged": judged, "images": trained.images_seen, "strip": strip.shape, "steps": STEPS}))
"""
FEW_RESULTS = """import json
copies = {"rate": judged.copies.rate.value, "pairs": len(pairs)}
print(json.dumps({"trained": pack.num_training, "held": len(pack.heldout), "copies": copies, "files": len(files)}))
"""

# The cells run in a process of their own: what is warned of in this one is the Jupyter machinery's business.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; nothing of the notebook's goes into the home folder."""
    folders = {"GANVAS_CACHE": "cache", "IPYTHONDIR": "ipython", "JUPYTER_DATA_DIR": "jupyter", "MPLCONFIGDIR": "mpl"}
    for name, folder in folders.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    for name in ("GANVAS_MNIST", "GANVAS_TEST_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if "PYTEST_XDIST_WORKER" in os.environ:  # one worker, one core
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def run_here(path: Path) -> dict[str, Any]:
    """Runs every cell in this process; returns the names that they leave."""
    names: dict[str, Any] = {"__name__": path.stem}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, path.name, "exec"), names)
    return names


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that cells show, of which no window is opened."""
    import matplotlib.pyplot as plt

    figures: list[Any] = []
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: (figures.append(plt.gcf()), plt.close()))
    return figures


def execute(folder: Path, path: Path = NOTEBOOK, results: str = RESULTS) -> tuple[Any, dict[str, Any]]:
    """Runs every cell in `folder`, or raises; returns the notebook with its outputs, and its results by name."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(results))
    nbclient.NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook, json.loads(notebook.cells[-1].outputs[0].text)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def check_files(folder: Path, name: str) -> None:
    run = folder / "runs" / f"first-gan-{name}"
    assert (run / "model" / "generator.safetensors").is_file()
    assert (run / "training.gif").is_file()
    assert len(list((folder / "runs" / f"samples-{name}").glob("*.png"))) == 12


def check_what_is_left(folder: Path, name: str, notebook: Any, results: dict[str, Any]) -> None:
    """The model, the film, the samples and the strip are there, no cell warned, and the evaluation works."""
    check_files(folder, name)
    assert results["strip"][0] == 10 * 12
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) == 14
    assert not [output.text for output in outputs(notebook) if "Warning" in output.get("text", "")]
    assert results["judged"]["real, held out"][0] > 0.9
    assert results["judged"]["random pixels"][0] < 2 * CHANCE


@pytest.mark.parametrize("path", [NOTEBOOK, FEW], ids=lambda path: path.stem)
def test_committed_with_outputs(path: Path) -> None:
    """As they were run from top to bottom, without errors and without paths of a machine."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        shows = re.search(r"\b(?:show|print|print_layers|Image)\(|\.show\(\)", LOCAL.sub("", f"{cell.source}\n"))
        assert bool(cell.outputs) or shows is None, cell.source
        assert not [one for one in cell.outputs if one.output_type == "error" or one.get("name") == "stderr"]
        texts = json.dumps([one.get("text", "") or one.get("data", {}).get("text/plain", "") for one in cell.outputs])
        assert not re.search(r"/(?:home|root|tmp|work|Users)/", texts), texts
    assert path.stat().st_size < 1_200_000


LOCAL = re.compile(r"^(?:def|class) .*\n(?:(?: .*)?\n)*", re.M)
"""A function or class that a cell defines."""


@pytest.mark.parametrize("path", [NOTEBOOK, FEW], ids=lambda path: path.stem)
def test_only_public_names_are_used(path: Path) -> None:
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    tree = ast.parse("\n".join(cells))
    imported = [one.module or "" for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)]
    imported += [name.name for one in ast.walk(tree) if isinstance(one, ast.Import) for name in one.names]
    assert [name for name in imported if name.partition(".")[0] == "ganvas"] == ["ganvas"]
    used = {
        one.attr
        for one in ast.walk(tree)
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "ganvas"
    }
    assert used and used <= set(ganvas.__all__), used - set(ganvas.__all__)


@pytest.mark.filterwarnings("error")
def test_every_cell_runs(student: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a budget of half a second: what is learnt is tested in the slow tests."""
    monkeypatch.setenv("GANVAS_NOTEBOOK_MINUTES", "0.01")
    monkeypatch.chdir(student)
    names = run_here(NOTEBOOK)
    check_files(student, "digits")
    assert names["strip"].shape[0] == 10 * 12 and len(drawn) == 14
    assert names["judged"]["real, held out"][0] > 0.9 and names["judged"]["random pixels"][0] < 2 * CHANCE


@pytest.mark.slow
def test_runs_from_top_to_bottom(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANVAS_NOTEBOOK_MINUTES", "0.1")
    notebook, results = execute(student)
    check_what_is_left(student, "digits", notebook, results)
    ours, trained = results["judged"][f"ours, {results['steps']} steps"], results["judged"]["Ganvas"]
    assert ours[0] > 3 * CHANCE  # 60 steps are 60 steps on any machine
    # Six seconds are not as many steps everywhere; the full budget is held to more below.
    assert trained[0] > 2 * CHANCE or results["images"] < 6000


@pytest.mark.slow
def test_full_budget(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GANVAS_NOTEBOOK_MINUTES", raising=False)
    notebook, results = execute(student)
    check_what_is_left(student, "digits", notebook, results)
    share, near, varied = results["judged"]["Ganvas"]
    real = results["judged"]["real, held out"]
    assert share > 0.85
    assert near > 0.5 * real[1]  # no copies
    assert varied > 0.7 * real[2]  # not one digit a class


@pytest.mark.slow
def test_mnist(student: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANVAS_MNIST", str(shared_data / "mnist"))
    monkeypatch.delenv("GANVAS_NOTEBOOK_MINUTES", raising=False)
    notebook, results = execute(student)
    check_what_is_left(student, "mnist", notebook, results)
    assert results["judged"]["Ganvas"][0] > 0.8


@pytest.mark.usefixtures("student", "drawn")
def test_few_images_says_what_it_lacks() -> None:
    with pytest.raises(FileNotFoundError, match="set IMAGES in this cell"):
        run_here(FEW)


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_few_images(student: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real comic faces: 75 to train on, a judgement with copies, a film, and a page where its runtime is there."""
    monkeypatch.setenv("GANVAS_NOTEBOOK_MINUTES", "0.3")
    monkeypatch.setenv("GANVAS_TEST_DATA", str(shared_data))
    try:
        runtime_files(None)  # into this test's own cache, so that the notebook finds it
    except GanvasError as error:
        pytest.skip(f"no page without its runtime: {error}")
    notebook, results = execute(student, FEW, FEW_RESULTS)
    assert (results["trained"], results["held"]) == (75, 25)
    assert 0 <= results["copies"]["rate"] <= 1 and results["copies"]["pairs"] == 12
    assert 1 <= results["files"] <= 40
    assert (student / "runs" / "few-images.gif").stat().st_size > 10_000
    page = student / "runs" / "few-images-page"
    assert {"index.html", "model.onnx", "model.json", "runtime"} <= {path.name for path in page.iterdir()}
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) == 6
    assert sum("image/gif" in output.get("data", {}) for output in outputs(notebook)) == 1
    assert not [output.text for output in outputs(notebook) if "Warning" in output.get("text", "")]
