"""What a user does, one function each: the command line and Python call the same ones."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ganvas import files
from ganvas.config import DataConfig, TrainConfig
from ganvas.data.pack import Pack, open_pack
from ganvas.device import barrier, choose_device, prepare, process_group, rank
from ganvas.errors import ConfigError
from ganvas.generator import Generator, to_pixels
from ganvas.judge.copies import CopyFinder
from ganvas.judge.evaluate import Options, pack_of
from ganvas.judge.evaluate import evaluate as judge_run
from ganvas.judge.quick import QuickJudge
from ganvas.pictures import grid, save_picture
from ganvas.run import Run
from ganvas.training import loop
from ganvas.training.compiled import call_networks
from ganvas.training.plan import plan, preset_of
from ganvas.training.progress import Display
from ganvas.training.session import default_folder, open_session
from ganvas.training.show import show_plan
from ganvas.training.snapshots import average as average_of
from ganvas.training.transfer import open_origin


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `train` leaves. signal: the number of the signal that ended it early, else 0."""

    folder: Path
    images_seen: int
    seconds: float
    signal: int = 0


def train(
    data: str | Path,
    out: str | Path | None = None,
    *,
    data_path: str | Path | None = None,
    data_config: DataConfig | None = None,
    config: TrainConfig | None = None,
    start_from: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> Trained:
    """Trains a generator on pictures, or goes on with a run that was interrupted.

    data: a folder, an archive, a data-set file, a pack, or a name such as "digits" or "mnist".
    out: the run folder; default runs/<name of the data>. The same call again resumes; a finished run stays as it is.
    data_path: where a named set's files lie.
    start_from: a run or a model folder: a new run begins with its weights, as far as they fit.
    options: any field of DataConfig or TrainConfig by name, such as minutes=30 or size="64".
    """
    data_config, config = with_options(data_config or DataConfig(), config or TrainConfig(), options)
    data_config, notes = as_preset(data_config, config)
    folder = Path(out) if out is not None else default_folder(data)
    with process_group():
        display = Display(quiet or rank() > 0)
        device = choose_device(config.device)
        prepare(device)
        for note in notes:
            display.say(note)
        pack = open_for_all_ranks(data, data_config, data_path, display)
        examine = QuickJudge(pack, str(device.torch_device))
        start = Path(start_from) if start_from is not None else None
        with Run(folder, writes=rank() == 0) as run:
            session = open_session(run, pack, str(data), config, device, display, examine, start)
            if session.finished:
                display.say(f"{folder} is finished ({session.state.images_seen:,} images); a larger budget goes on")
                return Trained(folder, session.state.images_seen, session.state.seconds)
            if session.config.tensorboard and rank() == 0:
                display.record_events(folder / "tensorboard")
            networks = call_networks(session.state, session.config, display.say)
            with display:
                outcome = loop.train(session.state, networks, session.config, session.info, run, display, examine)
    return Trained(folder, outcome.images_seen, outcome.seconds, outcome.signal)


def dry_run(
    data: str | Path,
    *,
    data_path: str | Path | None = None,
    data_config: DataConfig | None = None,
    config: TrainConfig | None = None,
    start_from: str | Path | None = None,
) -> None:
    """Shows what `train` would do: every choice with its reason, the networks' layers, the memory; then stops."""
    display = Display()
    config = config or TrainConfig()
    data_config, notes = as_preset(data_config or DataConfig(), config)
    for note in notes:
        display.say(note)
    pack = open_for_all_ranks(data, data_config, data_path, display)
    known = open_origin(Path(start_from)).options(pack.height) if start_from is not None else None
    show_plan(plan(pack, config, choose_device(config.device), known), pack, display.console)


def as_preset(data: DataConfig, config: TrainConfig) -> tuple[DataConfig, list[str]]:
    """The pictures that a classic preset is defined by, unless others are asked for; and a sentence that says so."""
    if config.preset is None:
        return data, []
    preset = preset_of(config)
    changes: dict[str, Any] = {}
    if preset.size is not None and data.size is None:
        changes["size"] = preset.size
    if preset.channels is not None and data.channels == "auto":
        changes["channels"] = preset.channels
    if not changes:
        return data, []
    words = " and ".join(f"{name} {value}" for name, value in changes.items())
    return dataclasses.replace(data, **changes), [f"preset {config.preset} ({preset.title}): pictures of {words}"]


def with_options(data: DataConfig, train: TrainConfig, options: dict[str, Any]) -> tuple[DataConfig, TrainConfig]:
    """Sorts keyword options into the two configurations; an unknown name raises ConfigError."""
    in_data = {field.name for field in dataclasses.fields(DataConfig)}
    in_train = {field.name for field in dataclasses.fields(TrainConfig)}
    if unknown := sorted(set(options) - in_data - in_train):
        raise ConfigError(f"unknown option {', '.join(unknown)}: see the fields of ganvas.config.TrainConfig")
    if "size" in options:
        options["size"] = str(options["size"])
    return (
        dataclasses.replace(data, **{name: value for name, value in options.items() if name in in_data}),
        dataclasses.replace(train, **{name: value for name, value in options.items() if name in in_train}),
    )


def open_for_all_ranks(data: str | Path, config: DataConfig, path: str | Path | None, display: Display) -> Pack:
    """Rank 0 packs, the others open what it made."""
    if rank() > 0:
        barrier()
    with display:
        pack = open_pack(data, config, path=path, progress=display.packing)
    if rank() == 0:
        barrier()
        for note in pack.notes:
            display.say(note)
    return pack


def average(run: str | Path, out: str | Path, width: float) -> Path:
    """Writes a model folder whose weights are the run's average of this width; needs a run with --snapshots.

    width: standard deviation of the average's memory as a part of the training, 0.01 to 0.28.
    """
    return average_of(Path(run), width).save(out)


def evaluate(run: str | Path, *, data: str | Path | None = None, quiet: bool = False, **options: Any) -> dict[str, Any]:
    """Judges a run (or, with `data`, a model folder); writes evaluation.json and evaluation/ there and returns it.

    data: the pictures that it was trained on, where the run's own pack is gone.
    options: the fields of `ganvas.judge.evaluate.Options`, such as num=500, features="inception-clean".
    """
    known = {field.name for field in dataclasses.fields(Options)}
    if unknown := sorted(set(options) - known):
        raise ConfigError(f"unknown option {', '.join(unknown)}: expected some of {', '.join(sorted(known))}")
    with Display(quiet) as display:
        return judge_run(run, Options(**options), data=data, progress=display.packing)


def lines(evaluation: dict[str, Any]) -> list[str]:
    """An evaluation for the terminal: a measure a line, then what else was found."""
    arrow = {"lower": "↓", "higher": "↑", "near": "≈"}
    found = []
    for row in evaluation["measures"]:
        real = "" if row["real"] is None else f"   real {row['real']:.4g}"
        flags = "".join(f"  ({flag})" for flag in row["flags"])
        interval = f"({row['low']:.4g} to {row['high']:.4g})"
        found.append(f"{arrow[row['better']]} {row['name']:<46}{row['value']:<9.4g} {interval:<22}{real}{flags}")
    found += [part["sentence"] for name in ("copies", "real_or_fake", "usefulness") if (part := evaluation.get(name))]
    found += [f"{one['severity']}: {one['sentence']}" for one in (evaluation.get("artefacts") or {}).get("findings", [])
              if one["severity"] != "ok"]  # fmt: skip
    protocol = evaluation["protocol"]
    found.append(
        f"{protocol['num_real']:,} {protocol['split']} and {protocol['num_generated']:,} generated pictures, "
        f"95% intervals, {evaluation['seconds']:g} s"
    )
    return found


def sample(
    source: str | Path,
    out: str | Path,
    *,
    num: int = 16,
    seed: int = 0,
    label: str | None = None,
    truncation: float = 1.0,
    as_grid: bool = False,
    form: Literal["png", "tiff"] = "png",
    no_copies: bool = False,
    data: str | Path | None = None,
    device: str | None = None,
) -> list[Path]:
    """Writes pictures of the seeds `seed` to `seed + num - 1` and manifest.csv into the folder `out`.

    source: a run, a model folder or a generator.safetensors file. as_grid: one file `out` instead. form: of the files.
    8 or 16 bit as the data had it, one common scale. no_copies: leave out what copies a training picture (data: where
    those are, if there is no run). Returns the pictures' paths.
    """
    if num < 1:
        raise ConfigError(f"--n {num}: expected at least 1 picture")
    generator = Generator.load(source, device)
    seeds: Sequence[int] = range(seed, seed + num)
    labels = label_names(generator, label, seeds)
    batches = generator.batches(seeds, label, truncation)
    pictures: Iterable[np.ndarray] = (
        picture for images in batches for picture in to_pixels(images, generator.info.depth)
    )
    if no_copies:
        seeds, labels, pictures = without_copies(Path(source), generator, data, seeds, labels, pictures)
    out = Path(out)
    if as_grid:
        path = out if out.suffix.lower() in (".png", ".tif", ".tiff") else out.with_name(f"{out.name}.{form}")
        with files.explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        save_picture(path, grid(np.stack(list(pictures))))
        return [path]
    with files.explained(out):
        out.mkdir(parents=True, exist_ok=True)
    paths = []
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["file", "seed", "label", "truncation"])
    for one, name, pixels in zip(seeds, labels, pictures, strict=True):
        path = out / f"seed{one:06d}{'_' + file_name(name) if name else ''}.{form}"
        save_picture(path, pixels)
        writer.writerow([path.name, one, name, truncation])
        paths.append(path)
    files.write_text(out / "manifest.csv", table.getvalue())
    return paths


def without_copies(
    source: Path,
    generator: Generator,
    data: str | Path | None,
    seeds: Sequence[int],
    labels: list[str],
    pictures: Iterable[np.ndarray],
) -> tuple[list[int], list[str], Iterable[np.ndarray]]:
    """The seeds, labels and pictures that copy no training picture; says how many do. Raises ConfigError if all do."""
    with Display() as display:
        finder = CopyFinder(pack_of(source, generator, data, display.packing), display.packing)
        samples = np.stack(list(pictures))
        kept = np.flatnonzero(~finder.is_copy(samples)).tolist()
    display.say(f"{len(samples) - len(kept)} of {len(samples)} pictures copy a training picture and are left out")
    if not kept:
        raise ConfigError("all of these pictures copy training pictures: take other seeds, or train on more pictures")
    return [seeds[i] for i in kept], [labels[i] for i in kept], samples[kept]


def label_names(generator: Generator, label: str | None, seeds: Sequence[int]) -> list[str]:
    indices = generator.label_indices(label, seeds)
    return [""] * len(seeds) if indices is None else [generator.classes[i] for i in indices.tolist()]


def file_name(label: str) -> str:
    """A label as part of a file name on every system."""
    return "".join(c if c.isalnum() or c in "-+." else "-" for c in label)[:40]
