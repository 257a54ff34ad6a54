"""Every reference project beside a modern recipe: same pictures, same machine, same wall time, same judge.

    python benchmarks/reference_projects.py DATA --quick --out reference          # a CPU, within 30 minutes
    python benchmarks/reference_projects.py DATA --gpu --only simpsons --out reference   # again and again: it resumes

DATA is a folder with mnist/, cifar10/, celeba/, mednist/, simpsons_faces/, comic_faces/ and chest_xray/. For each the
classic preset of that project and what `ganvas train` chooses by itself are trained for the same time. Both are judged
by the kernel distance (KID, smaller is better) to the same real pictures in the features of EfficientNet-lite0, with
its 95% interval; chest films also by their lattice, sharpness and diversity. Real pictures against other real ones of
the same number are the floor. --quick trains at reduced sizes; --gpu at the projects' own, in calls of at most ten
minutes that resume each other (`--parts` cuts checkpoints into files of 16 MB for the way between machines).
Grids (real, classic, modern) lie beside the runs.
"""

from __future__ import annotations

import argparse
import dataclasses
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
import torch

import ganvas
from common import machine, table, write_json
from ganvas.config import PRESETS, DataConfig
from ganvas.data import Pack, open_pack
from ganvas.generator import Generator, to_pixels
from ganvas.judge.artefacts import lattice, pairwise_correlation, sharpness
from ganvas.judge.distances import kid_interval
from ganvas.judge.features import Features
from ganvas.pictures import grid, save_png
from ganvas.run import Run

PART_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class Project:
    """One data set with its project's preset. bar: the modern KID must be at most this part of the classic one.

    quick, gpu: picture sizes of the two forms. kind: what the pictures are, where no named set says so.
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
    """How long and how large: minutes of training of each recipe, pictures judged, seeds."""

    minutes: float
    num: int
    seeds: list[int]
    gpu: bool
    call_minutes: float


def packed(project: Project, data: Path, gpu: bool, recipe: str) -> Pack:
    """The project's pictures at the form's size; a classic preset that wants colour gets its gray ones as colour."""
    channels: Any = (PRESETS[project.preset].channels or "auto") if recipe == "classic" else "auto"
    config = DataConfig(size=project.size(gpu), kind=project.kind, channels=channels)  # ty: ignore
    if project.named:
        return open_pack(project.named, config, path=data / project.source)
    return open_pack(data / project.source, config)


def train(pack: Pack, recipe: str, project: Project, seed: int, out: Path, setting: Setting) -> dict[str, Any]:
    """Trains, or goes on; "done" is False where the call's time ended first."""
    options: dict[str, Any] = {"minutes": setting.minutes, "seed": seed, "previews": 8, "keep": 1}
    if recipe == "classic":
        options |= {"preset": project.preset, "size": project.size(setting.gpu)}
    with stopped_after(60 * setting.call_minutes):
        trained = ganvas.train(pack.folder, out, quiet=True, **options)
    return {"images": trained.images_seen, "seconds": trained.seconds, "done": trained.signal == 0}


@contextmanager
def stopped_after(seconds: float) -> Yields[None]:
    """Sends this process the signal that training ends on, checkpoint and all."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def judged(generator: Generator, labels: np.ndarray | None, num: int, batch: int = 50) -> torch.Tensor:
    """`num` pictures of fresh seeds; labels as often as in the real pictures."""
    asked = None if labels is None or not generator.classes else labels.tolist()
    parts = [
        generator.sample(min(batch, num - start), seed=1_000_000 + start, label=asked and asked[start : start + batch])
        for start in range(0, num, batch)
    ]
    return torch.cat(parts)


def measures(pictures: torch.Tensor) -> dict[str, float]:
    """What is wrong with chest films: the measures of judge/artefacts.py."""
    peaks = lattice(pictures)
    return {
        "sharpness": sharpness(pictures),
        "correlation": pairwise_correlation(pictures[:9]),
        "quarter": pairwise_correlation(pictures[:9], quarter=True),
        **{f"lattice {period}": peaks[period] for period in (2, 4, 8)},
    }


def as_tensor(pack: Pack, chosen: np.ndarray) -> torch.Tensor:
    top = (2**pack.depth - 1) / 2
    return torch.from_numpy(pack.images[chosen].astype(np.float32)).permute(0, 3, 1, 2) / top - 1


def compare(project: Project, data: Path, out: Path, setting: Setting, features: Features) -> list[dict[str, Any]]:
    """Rows of one project: the floor, then classic and modern for each seed."""
    pack = packed(project, data, setting.gpu, "modern")
    num = min(setting.num, pack.num_images // 2)
    order = np.random.default_rng(0).permutation(pack.num_images)
    chosen, others = np.sort(order[:num]), np.sort(order[num : 2 * num])
    labels = None if pack.labels is None else pack.labels[chosen]
    real = features(pack.images[chosen])
    rows: list[dict[str, Any]] = []

    def add(what: str, seed: int, pictures: torch.Tensor, known: dict[str, Any]) -> None:
        found = features(pictures)
        distance, low, high = kid_interval(real, found)
        row = {"data": project.name, "what": what, "seed": seed, "kid": distance, "low": low, "high": high}
        shown = pictures if pictures.shape[1] == pack.channels else pictures.mean(dim=1, keepdim=True)
        rows.append(row | known | (measures(shown) if project.kind == "xray" else {}))
        print(f"{project.name} {what} seed {seed}: KID {row['kid']:.4f} ({low:.4f} to {high:.4f}) {known}", flush=True)

    add("real", 0, as_tensor(pack, others), {})
    shown = np.random.default_rng(1).permutation(num)[:36]  # the pictures lie class by class
    sheets = [pack.images[chosen[shown]]]
    for seed in setting.seeds:
        for recipe in ("classic", "modern"):
            run = out / f"{project.name}-{recipe}-{seed}"
            trained = train(packed(project, data, setting.gpu, recipe), recipe, project, seed, run, setting)
            if not trained.pop("done"):
                raise SystemExit(f"{run} has {trained['seconds']:.0f} s: call again to go on")
            generator = Generator.load(run)
            pictures = judged(generator, labels, num)
            model = Run(run).config()["model"]["model"]
            add(recipe, seed, pictures, trained | {"model": model})
            if seed == setting.seeds[0]:
                pixels = to_pixels(pictures[shown], pack.depth)
                sheets.append(pixels if pixels.shape[3] == pack.channels else pixels[..., :1])
    columns = 6
    sheet = np.concatenate([grid(pixels, columns) for pixels in sheets], axis=1)
    save_png(out / f"{project.name}.png", sheet)
    return rows


def summary(project: Project, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the seeds, their ratio and whether it meets the bar."""
    median = {what: statistics.median(row["kid"] for row in rows if row["what"] == what) for what in KINDS}
    ratio = median["modern"] / median["classic"]
    bar = "-" if project.bar is None else f"{'met' if ratio <= project.bar else 'missed'} ({project.bar:.2f})"
    images = {
        what: statistics.median(row["images"] for row in rows if row["what"] == what) for what in ("classic", "modern")
    }
    return {
        "data": project.name,
        "preset": project.preset,
        **{what: median[what] for what in KINDS},
        "ratio": ratio,
        "bar": bar,
        "classic seen": int(images["classic"]),
        "modern seen": int(images["modern"]),
    }


KINDS = ("real", "classic", "modern")


def cut(folder: Path) -> None:
    """Writes every newest checkpoint below `folder` as parts of 16 MB, for a way that takes no larger files."""
    for run in sorted(path.parent for path in folder.glob("*/checkpoints")):
        newest = Run(run).saved()[-1].path
        content = newest.read_bytes()
        for i, start in enumerate(range(0, len(content), PART_BYTES)):
            part = run / "checkpoints" / f"{newest.name}.part{i:03}"
            part.write_bytes(content[start : start + PART_BYTES])
        newest.unlink()


def join(folder: Path) -> None:
    """The reverse of `cut`."""
    for checkpoints in folder.glob("*/checkpoints"):
        parts = sorted(checkpoints.glob("*.part*"))
        if parts:
            whole = checkpoints / parts[0].name.rpartition(".part")[0]
            whole.write_bytes(b"".join(part.read_bytes() for part in parts))
            for part in parts:
                part.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--quick", action="store_true", help="reduced sizes, one seed: a CPU, within 30 minutes")
    form.add_argument("--gpu", action="store_true", help="the projects' own sizes, in resumable calls")
    parser.add_argument("--only", nargs="*", default=[], help="names of projects")
    parser.add_argument("--minutes", type=float, help="training time of each recipe; default 1.5 or 10")
    parser.add_argument("--num", type=int, help="pictures judged; default 300 or 5000")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--call-minutes", type=float, default=9.0, help="longest training in one call")
    parser.add_argument("--parts", action="store_true", help="keep checkpoints as files of at most 16 MB")
    parser.add_argument("--out", type=Path, default=Path("reference"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    setting = Setting(
        options.minutes or (10.0 if options.gpu else 1.5),
        options.num or (5000 if options.gpu else 300),
        options.seeds,
        options.gpu,
        options.call_minutes,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    join(options.out)
    features = Features.load("efficientnet-lite0")
    began = time.monotonic()
    rows, lines = [], []
    try:
        for project in (p for p in PROJECTS if not options.only or p.name in options.only):
            found = compare(project, options.data, options.out, setting, features)
            rows += found
            lines.append(summary(project, found))
    finally:
        if options.parts:
            cut(options.out)
        if lines:
            table(f"KID after {setting.minutes:g} minutes of each: smaller is better; pictures seen", lines)
        films = [row for row in rows if "sharpness" in row]
        if films:
            table("Chest films", [{k: v for k, v in row.items() if k in FILM_COLUMNS} for row in films])
        if options.json:
            content = {"machine": machine("torch"), "protocol": features.protocol, "minutes": setting.minutes}
            content |= {"num": setting.num, "wall_minutes": (time.monotonic() - began) / 60}
            write_json(options.json, content | {"summary": lines, "rows": rows})


FILM_COLUMNS = ("what", "seed", "sharpness", "correlation", "quarter", "lattice 2", "lattice 4", "lattice 8")


if __name__ == "__main__":
    main()
