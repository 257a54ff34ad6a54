"""Compares every reference project with a modern recipe: same images, machine and wall time, same evaluation.

    python benchmarks/reference_projects.py DATA --quick --out reference          # a CPU, half an hour
    python benchmarks/reference_projects.py DATA --gpu --only simpsons --out reference   # again and again: it resumes

DATA is a folder with mnist/, cifar10/, celeba/, mednist/, simpsons_faces/, comic_faces/ and chest_xray/. On each, the
classic preset of that project and the default recipe of `ganvas train` are trained for the same time, on all images
except a held-out tenth. `ganvas evaluate` evaluates both: the targets are of the kernel distance (KID, lower is better)
to held-out images, and "real" is that of other real images. Precision, recall, density and coverage are relative to the
reference of the evaluation: the held-out images if there are 500, otherwise the training images. A classic preset for
colour gets gray images as colour, and is evaluated against them as colour. Networks are evaluated as they are used: the
classic ones without an average of their weights, the modern ones with it.

--quick trains at reduced sizes; --gpu at the sizes of the projects, in calls of at most ten minutes that resume each
other (`--parts` splits large files into parts of 16 MB, to copy them between machines). An evaluated run is not
evaluated again while its weights and --num are the same: delete its evaluation.json after a change of the evaluation.
Grids of real, classic and modern images (the first seeds, not selected) are written next to the runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Generator as Yields
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import ganvas
from common import machine, table, write_json
from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.evaluation.evaluate import drawn_indices
from ganvas.evaluation.samples import file_hash
from ganvas.generator import Generator, to_pixels
from ganvas.image_files import grid, save_png
from ganvas.options import EVALUATION_SEED as SEED
from ganvas.presets import PRESETS
from ganvas.results import Evaluation, read_evaluation

PART_BYTES = 16 * 2**20
RECIPES = ("classic", "modern")
SHOWN = 36  # images of each kind in a grid
START = 30  # seconds, below which no training is begun: it must be able to stop itself
QUALITIES = ("precision", "recall", "density", "coverage")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Project:
    """One data set with its project's preset. bar: the modern KID must be at most this part of the classic one.

    quick, gpu: image sizes of the two forms. kind: what the images are, where no named set says so.
    """

    name: str
    source: str
    preset: str
    bar: float | None
    quick: str
    gpu: str
    kind: str | None = None
    named: str | None = None

    def size(self, gpu: bool) -> str:
        return self.gpu if gpu else self.quick


PROJECTS = [
    Project("mnist", "mnist", "tf-mnist", 1 / 3, "28", "28", named="mnist"),
    Project("cifar10", "cifar10/cifar-10-batches-1-2.tar.xz", "cifar10", 1 / 2, "32", "32"),
    Project("celeba", "celeba/img_align_celeba_5000.zip", "celeba", 1 / 2, "32", "64", kind="face"),
    Project("mednist", "mednist/MedNIST_24000.tar.gz", "mlp64", 1 / 3, "32", "64", kind="scan"),
    Project("simpsons", "simpsons_faces/simpsons_faces_128.zip", "mlp64", 1 / 3, "32", "64", kind="comic"),
    Project("comics", "comic_faces/comic_faces_96_5000.zip", "dcgan", 1 / 3, "32", "64", kind="comic"),
    Project("chest-xray", "chest_xray/chest_xray_normal_300.zip", "xray800", None, "96", "800", kind="xray"),
]


@dataclasses.dataclass(frozen=True)
class Setting:
    """How long and how large: minutes of training of each recipe, images judged (None: the evaluation's own), seeds.

    deadline: of `time.monotonic`, when a training is interrupted so that the call can end.
    """

    minutes: float
    num: int | None
    seeds: list[int]
    gpu: bool
    deadline: float


# ---- one project ----


def packed(project: Project, data: Path, gpu: bool, recipe: str) -> Pack:
    """The project's images at the form's size; a classic preset that wants colour gets its gray ones as colour."""
    channels: Any = (PRESETS[project.preset].channels or "auto") if recipe == "classic" else "auto"
    config = DataConfig(size=project.size(gpu), kind=project.kind, channels=channels)  # ty: ignore
    if project.named:
        return open_pack(project.named, config, data=data / project.source)
    return open_pack(data / project.source, config)


def train(pack: Pack, recipe: str, project: Project, seed: int, out: Path, setting: Setting) -> ganvas.verbs.Trained:
    """Trains, or goes on, until the budget or the call's time ends. Raises SystemExit where it did not finish."""
    options: dict[str, Any] = {"minutes": setting.minutes, "seed": seed, "previews": 8, "keep": 1}
    if recipe == "classic":
        options |= {"preset": project.preset, "size": project.size(setting.gpu)}
    left = setting.deadline - time.monotonic()
    if left < START:
        raise SystemExit(f"the time of this call is over before {out}: call again to go on")
    with stopped_after(left):
        trained = ganvas.train(pack.folder, out, quiet=True, **options)
    if trained.signal:
        raise SystemExit(f"{out} has {trained.seconds:.0f} s: call again to go on")
    return trained


@contextmanager
def stopped_after(seconds: float) -> Yields[None]:
    """Sends this process the signal that training ends on, checkpoint and all."""
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def judged(run: Path, pack: Pack, num: int | None) -> Evaluation:
    """The run's evaluation; the one that is there, if it is of these weights and of as many images."""
    known = read_evaluation(run)
    if known and known.model.weights == file_hash(run) and num in (None, known.protocol.num_generated):
        return known
    return ganvas.evaluate(run, data=pack.folder, quiet=True, n=num)


def row_of(found: Evaluation) -> Row:
    """What the table needs of an evaluation, flat; without an ending "_real" it is of the generated images."""
    measures, protocol, artefacts = found.by_key, found.protocol, found.artefacts
    kid = measures["kid" if protocol.split == "held-out" else "kid_heldout"]
    row = {"kid": kid.value, "low": kid.low, "high": kid.high}
    row["kid_real"] = measures["kid"].real  # never of the held-out images to themselves, however few there are
    for name in QUALITIES:
        row |= {name: measures[name].value, f"{name}_real": measures[name].real}
    asked, copies = measures.get("accuracy_asked"), found.copies
    told = found.real_or_fake.accuracy if found.real_or_fake else None
    assert artefacts and artefacts.sharpness and artefacts.correlation and artefacts.quarter and told
    return row | {
        "reference": protocol.split,
        "num_reference": protocol.num_real,
        "num_heldout": found.data.num_heldout,
        "asked": asked and asked.value,
        "asked_real": asked and asked.real,
        "told": told.value,
        "told_low": told.low,
        "told_high": told.high,
        "copies": copies and copies.rate and copies.rate.value,
        "copies_real": copies and copies.false_alarms,
        "sharpness": artefacts.sharpness.generated,
        "sharpness_real": artefacts.sharpness.real,
        "correlation": artefacts.correlation.generated,
        "correlation_real": artefacts.correlation.real,
        "correlation_of_nine_real": [artefacts.correlation.low, artefacts.correlation.high],
        "quarter": artefacts.quarter.generated,
        "quarter_real": artefacts.quarter.real,
        **{f"checkerboard {one.period}": one.worse.generated for one in artefacts.checkerboard},
        **{f"checkerboard {one.period}_real": one.worse.real for one in artefacts.checkerboard},
        "findings": [f"{one.severity}: {one.sentence}" for one in artefacts.findings if one.severity != "ok"],
        "features": protocol.features,
        "judge_seconds": found.seconds,
    }


def compare(project: Project, data: Path, out: Path, setting: Setting) -> list[Row]:
    """Rows of one project, classic and modern for each seed; writes its grid."""
    packs = {recipe: packed(project, data, setting.gpu, recipe) for recipe in RECIPES}
    if not np.array_equal(packs["classic"].heldout, packs["modern"].heldout):
        raise SystemExit(f"{project.name}: the two packs hold out different images, so their judgements do not compare")
    pack = packs["modern"]
    shown = drawn_indices(pack.heldout if len(pack.heldout) >= SHOWN else pack.training, SHOWN, 4)
    rows, sheets = [], [pack.images[shown]]
    for seed in setting.seeds:
        for recipe in RECIPES:
            run = out / f"{project.name}-{recipe}-{seed}"
            trained = train(packs[recipe], recipe, project, seed, run, setting)
            found = judged(run, packs[recipe], setting.num)
            row: Row = {"data": project.name, "recipe": recipe, "seed": seed, "model": found.model.model}
            row |= {"images": trained.images_seen, "seconds": trained.seconds, **row_of(found)}
            rows.append(row)
            print(f"{project.name} {recipe} seed {seed}: KID {row['kid']:.4f} ({row['low']:.4f} to {row['high']:.4f})")
            print(*(f"  {sentence}" for sentence in row["findings"]), sep="\n", flush=True)
            if seed == setting.seeds[0]:
                sheets.append(to_pixels(Generator.load(run).sample(SHOWN, seed=SEED), packs[recipe].depth))
    widest = max(pixels.shape[3] for pixels in sheets)
    whole = [grid(np.repeat(p, widest, 3) if p.shape[3] < widest else p, 6) for p in sheets]
    save_png(out / f"{project.name}.png", np.concatenate(whole, axis=1))
    return rows


# ---- tables ----


def summary(project: Project, rows: list[Row]) -> Row:
    """Medians over the seeds, their ratio and whether it meets the bar."""

    def median(name: str, recipe: str) -> float:
        return statistics.median(row[name] for row in rows if row["recipe"] == recipe)

    ratio = median("kid", "modern") / median("kid", "classic")
    bar = "-" if project.bar is None else f"{'met' if ratio <= project.bar else 'missed'} ({project.bar:.2f})"
    return {
        "data": project.name,
        "preset": project.preset,
        "real": median("kid_real", "modern"),
        **{recipe: median("kid", recipe) for recipe in RECIPES},
        "ratio": ratio,
        "bar": bar,
        **{f"{recipe} seen": int(median("images", recipe)) for recipe in RECIPES},
    }


def chosen(rows: list[Row], *names: str) -> list[Row]:
    return [{name: "-" if row[name] is None else row[name] for name in names} for row in rows]


def film_rows(rows: list[Row]) -> list[Row]:
    """The real films' own values, then those of each recipe."""
    names = ("sharpness", "correlation", "quarter", "checkerboard 2", "checkerboard 4", "checkerboard 8")
    real = {"recipe": "real", "seed": 0, **{name: rows[-1][f"{name}_real"] for name in names}}
    return [real, *chosen(rows, "recipe", "seed", *names)]


# ---- between machines ----


def cut(folder: Path) -> None:
    """Writes every large file below `folder` as parts of 16 MB, for a way that takes no larger ones."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > PART_BYTES):
        content = path.read_bytes()
        for i, start in enumerate(range(0, len(content), PART_BYTES)):
            path.with_name(f"{path.name}.part{i:03}").write_bytes(content[start : start + PART_BYTES])
        path.unlink()


def join(folder: Path) -> None:
    """The reverse of `cut`."""
    for first in sorted(folder.rglob("*.part000")):
        whole = first.with_suffix("")
        parts = sorted(whole.parent.glob(f"{whole.name}.part*"))
        whole.write_bytes(b"".join(part.read_bytes() for part in parts))
        for part in parts:
            part.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--quick", action="store_true", help="reduced sizes, one seed: a CPU, half an hour")
    form.add_argument("--gpu", action="store_true", help="the projects' own sizes, in resumable calls")
    parser.add_argument("--only", nargs="*", default=[], help="names of projects")
    parser.add_argument("--minutes", type=float, help="training time of each recipe; default 1.5 or 10")
    parser.add_argument("--num", type=int, help="images evaluated; default 300 or, with --gpu, as `ganvas evaluate`")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument(
        "--call-minutes",
        type=float,
        help="no training beyond this; default 7.5 with --gpu, which leaves time to evaluate",
    )
    parser.add_argument("--parts", action="store_true", help="keep no file above 16 MB")
    parser.add_argument("--out", type=Path, default=Path("reference"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    setting = Setting(
        options.minutes or (10.0 if options.gpu else 1.5),
        options.num or (None if options.gpu else 300),
        options.seeds,
        options.gpu,
        time.monotonic() + 60 * (options.call_minutes or (7.5 if options.gpu else math.inf)),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    join(options.out)
    about = machine("torch")
    rows, lines = [], []
    try:
        for project in (p for p in PROJECTS if not options.only or p.name in options.only):
            found = compare(project, options.data, options.out, setting)
            rows += found
            lines.append(summary(project, found))
    finally:
        if options.parts:
            cut(options.out)
        if lines:
            table(f"KID to held-out images after {setting.minutes:g} minutes of each: smaller is better", lines)
            table(
                "As `ganvas evaluate` sees them; told: real or generated, 0.5 is chance",
                chosen(rows, "data", "recipe", "seed", "kid", "low", "high", *QUALITIES, "copies", "told", "asked"),
            )
        if films := [row for row in rows if row["data"] == "chest-xray"]:
            table("Chest films", film_rows(films))
        if options.json:
            content: Row = {"machine": about, "minutes": setting.minutes, "num": setting.num}
            seconds = sum(row["seconds"] + row["judge_seconds"] for row in rows)
            content |= {"training_and_judging_minutes": seconds / 60, "summary": lines, "rows": rows}
            write_json(options.json, content)


if __name__ == "__main__":
    main()
