"""The user-facing functions. The command line and the Python API call the same ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ganvas import hub
from ganvas.config import DataConfig, TrainConfig
from ganvas.data.batches import Batches
from ganvas.data.checkup import Checkup
from ganvas.data.checkup import check as checkup_of
from ganvas.data.opening import open_pack
from ganvas.data.packing.pack import Pack
from ganvas.errors import ConfigError
from ganvas.evaluation.copies import CopyFinder
from ganvas.evaluation.evaluate import Options, pack_of, pictures_of
from ganvas.evaluation.evaluate import evaluate as judge_run
from ganvas.evaluation.training_score import QuickJudge
from ganvas.explore import morph, sampling
from ganvas.explore.recipes import Direction, Favourites, Mix, Recipe, parse_depths, parse_seeds, resolve
from ganvas.generator import BATCH, Generator, find_weights, to_pixels
from ganvas.image_files import grid as grid_of
from ganvas.image_files import save_picture
from ganvas.provenance import provenance
from ganvas.records import ARROWS
from ganvas.run import Run
from ganvas.share.export import Form, Weights
from ganvas.share.export import export as export_of
from ganvas.system import files
from ganvas.system.device import choose_device, first_rank_first, prepare, process_group, rank
from ganvas.training import loop
from ganvas.training.autotune import choose_workers
from ganvas.training.compiled import call_networks
from ganvas.training.plan import plan, preset_of
from ganvas.training.plan_text import show_plan
from ganvas.training.progress import Display
from ganvas.training.session import default_folder, open_session
from ganvas.training.snapshots import average as average_of
from ganvas.training.state import TrainState
from ganvas.training.transfer import open_origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained(loop.Outcome):
    """Result of `train`. folder: of the run. rank: rank of this process."""

    folder: Path
    rank: int


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
    """Train a generator on images, or resume an interrupted run.

    data: a folder, an archive, a data-set file, a pack, a name such as "digits" or "mnist", or a run folder to resume
    (it may have been moved).
    out: run folder; default runs/<name of the data>. Call again with the same arguments to resume; a finished run is
    not changed.
    data_path: folder with the files of a named data set.
    start_from: run or model folder to start from; copies every weight whose shape fits.
    options: fields of DataConfig or TrainConfig by name, such as minutes=30 or size="64".
    """
    data_config, config = with_options(data_config or DataConfig(), config or TrainConfig(), options)
    if out is None and (run := Run(Path(data), writes=False)).has_config() and run.checkpoints.is_dir():
        out, (data, data_config) = data, pictures_of(run.config()["data"], Path(data))
    data_config, notes = as_preset(data_config, config)
    folder = Path(out) if out is not None else default_folder(data)
    with process_group(Display(quiet).say):
        display = Display(quiet or rank() > 0)
        device = choose_device(config.device)
        prepare(device)
        for note in notes:
            display.say(note)
        pack = open_for_all_ranks(data, data_config, data_path, display)
        examine = QuickJudge(pack, str(device.torch_device))
        start = Path(start_from) if start_from is not None else None
        with Run(folder, writes=rank() == 0) as run:
            if run.writes and not run.is_locked:
                display.say(files.no_locks(folder))
            session = open_session(run, pack, str(data), config, device, display, examine, start)
            if session.finished:
                display.say(
                    f"{folder} is finished ({session.state.images_seen:,} images); increase --minutes, --images or "
                    "--epochs to continue"
                )
                return Trained(session.state.images_seen, session.state.seconds, folder=folder, rank=rank())
            if session.config.tensorboard and rank() == 0:
                display.record_events(folder / "tensorboard")
            networks = call_networks(session.state, session.config, display.say)
            with display:
                outcome = loop.train(session.state, networks, session.config, session.info, run, display, examine)
            return Trained(**vars(outcome), folder=folder, rank=rank())


def dry_run(
    data: str | Path,
    *,
    data_path: str | Path | None = None,
    data_config: DataConfig | None = None,
    config: TrainConfig | None = None,
    start_from: str | Path | None = None,
) -> None:
    """Show what `train` would do, without training: every chosen option with its reason, the layers, the memory, and
    the number of images that fit in the budget (measured in a few steps)."""
    display = Display()
    config = config or TrainConfig()
    data_config, notes = as_preset(data_config or DataConfig(), config)
    for note in notes:
        display.say(note)
    pack = open_for_all_ranks(data, data_config, data_path, display)
    known = open_origin(Path(start_from)).options(pack.height) if start_from is not None else None
    device = choose_device(config.device)
    planned = plan(pack, config, device, known)
    show_plan(planned, pack, display.console)
    batches = Batches(
        pack, planned.config.batch or 1, seed=planned.config.seed, device=device.torch_device, mirror=pack.mirror
    )
    state = TrainState(planned.model, planned.config, batches, device)
    networks = call_networks(state, dataclasses.replace(planned.config, compile=False), display.say)
    choose_workers(state, networks, planned.config, pack.kind, display.say)
    batches.close()


def as_preset(data: DataConfig, config: TrainConfig) -> tuple[DataConfig, list[str]]:
    """`data` with the image size and channels of the preset, unless the user chose others; and notes for the user."""
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
    return dataclasses.replace(data, **changes), [f"preset {config.preset} ({preset.title}): images of {words}"]


def with_options(data: DataConfig, train: TrainConfig, options: dict[str, Any]) -> tuple[DataConfig, TrainConfig]:
    """Distribute keyword options to the two configurations. Raises ConfigError for an unknown name."""
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
    """Rank 0 makes the pack; the other ranks then open it."""
    with first_rank_first(), display:
        pack = open_pack(data, config, path=path, progress=display.packing)
    if rank() == 0:
        for note in pack.notes:
            display.say(note)
    return pack


def check(
    data: str | Path,
    *,
    data_path: str | Path | None = None,
    data_config: DataConfig | None = None,
    save: str | Path | None = None,
) -> Checkup:
    """Check images before training: counts, sizes, classes, broken files, duplicates, blank images.

    data, data_path: as in `train`. save: also write the report to this JSON file.
    """
    with Display() as display:
        report = checkup_of(data, data_config, path=data_path, progress=display.packing)
    if save is not None:
        files.write_text(Path(save), report.to_json() + "\n")
    return report


def pack(
    data: str | Path, out: str | Path, *, data_path: str | Path | None = None, data_config: DataConfig | None = None
) -> Pack:
    """Convert images to a pack in the folder `out`: all images at one size, ready for training.

    data, data_path: as in `train`.
    """
    with Display() as display:
        return open_pack(data, data_config, path=data_path, folder=out, progress=display.packing)


def average(run: str | Path, out: str | Path, width: float) -> Path:
    """Write a model folder with a weight average of another length. Needs a run trained with --snapshots.

    width: standard deviation of the average as a fraction of the training, 0.01 to 0.28.
    """
    return average_of(Path(run), width).save(out)


def evaluate(run: str | Path, *, data: str | Path | None = None, quiet: bool = False, **options: Any) -> dict[str, Any]:
    """Evaluate a run (or, with `data`, a model folder). Writes evaluation.json and evaluation/ there; returns the
    content of evaluation.json.

    data: the training images, needed only if the run's own pack was deleted.
    options: fields of `ganvas.evaluation.evaluate.Options`, such as num=500 or features="inception-clean".
    """
    known = {field.name for field in dataclasses.fields(Options)}
    if unknown := sorted(set(options) - known):
        raise ConfigError(f"unknown option {', '.join(unknown)}: expected some of {', '.join(sorted(known))}")
    with Display(quiet) as display:
        return judge_run(run, Options(**options), data=data, progress=display.packing)


def lines(evaluation: dict[str, Any]) -> list[str]:
    """An evaluation as lines for the terminal: one line per measure, then the other findings."""
    found = []
    for row in evaluation["measures"]:
        real = "" if row["real"] is None else f"   real {row['real']:.4g}"
        flags = "".join(f"  ({flag})" for flag in row["flags"])
        interval = f"({row['low']:.4g} to {row['high']:.4g})"
        found.append(f"{ARROWS[row['better']]} {row['name']:<46}{row['value']:<9.4g} {interval:<22}{real}{flags}")
    found += [
        part["sentence"]
        for name in ("classes", "copies", "real_or_fake", "usefulness")
        if (part := evaluation.get(name))
    ]
    found += [f"{one['severity']}: {one['sentence']}" for one in (evaluation.get("artefacts") or {}).get("findings", [])
              if one["severity"] != "ok"]  # fmt: skip
    found += [f"not evaluated: {sentence}" for sentence in evaluation["left_out"]]
    protocol = evaluation["protocol"]
    found.append(
        f"{protocol['num_real']:,} {protocol['split']} and {protocol['num_generated']:,} generated images, "
        f"95% intervals, {evaluation['seconds']:g} s"
    )
    return found


def open_generator(source: str | Path, device: str | None = None) -> Generator:
    """Load the generator of a run, a model folder, a weights file, or "hf://owner/name" on the Hugging Face Hub."""
    return Generator.load(hub.local(source), device)


def sample(
    source: str | Path,
    out: str | Path,
    *,
    num: int = 16,
    seed: int = 0,
    seeds: str | Sequence[int] | None = None,
    label: str | None = None,
    per_class: int | None = None,
    truncation: float = 1.0,
    grid: bool = False,
    format: Literal["png", "tiff"] = "png",
    no_copies: bool = False,
    data: str | Path | None = None,
    device: str | None = None,
    fast: bool = False,
) -> list[Path]:
    """Generate images with the seeds `seed` to `seed + num - 1`; write them and manifest.csv to the folder `out`.

    If interrupted, call again with the same arguments to continue.

    source: run folder, model folder, generator.safetensors file or "hf://owner/name" on the Hugging Face Hub.
    out: folder or .zip file. seeds: seeds to use, overrides num and seed, e.g. "0-9,42".
    per_class: number of images of every class, in one folder per class; seeds count up from `seed`.
    grid: write one grid image to `out` instead. format: png or tiff; 8 or 16 bit as in the training images.
    no_copies: leave out images flagged as copies of a training image (data: the training images, if source is not a
    run). fast: half precision on a GPU. Returns the paths of the images.
    """
    generator = open_generator(source, device)
    if fast:
        generator.fast()
    chosen = seeds_of(seeds, num, seed)
    if per_class is not None:
        if per_class < 1 or seeds is not None or label is not None:
            raise ConfigError("--per-class: expected 1 or more, without --seeds and --label")
        planned = sampling.plan_per_class(generator, per_class, seed, truncation, format)
    else:
        planned = sampling.plan(generator, chosen, label, truncation, format)
    out = Path(out)
    with Display() as display:
        gate = None
        if no_copies:
            gate = CopyFinder(pack_of(Path(source), generator, data, display.packing), display.packing).is_copy
        if grid:
            path = out if out.suffix.lower() in (".png", ".tif", ".tiff") else out.with_name(f"{out.name}.{format}")
            return [one_grid(generator, path, planned, truncation, gate)]
        written = sampling.write(generator, out, planned, truncation, gate=gate, progress=display.packing)
    if written.damaged:
        lines = f"{written.damaged:,} damaged line{'s' if written.damaged > 1 else ''}"
        display.say(f"{out / 'manifest.csv'} had {lines}: removed; missing images are generated again")
    if written.known:
        display.say(f"{written.known:,} of {len(planned):,} images existed already")
    if gate is not None:
        display.say(f"{written.left_out} of {len(planned)} images were flagged as copies and left out")
    return written.paths


def export(
    source: str | Path,
    out: str | Path,
    *,
    to: Form = "onnx",
    weights: Weights = "float32",
    runtime: Path | None = None,
    no_copies: bool = False,
    data: str | Path | None = None,
) -> list[Path]:
    """Export a generator as an ONNX model, a web page, a torch.export file or a model folder; return the files.

    to, weights, runtime: see `ganvas.share.export.export`. no_copies: first generate images, and raise ConfigError if
    any is flagged as a copy of a training image (data: the training images, if `source` is not a run).
    """
    if no_copies:
        Display().say(refuse_copies(source, data))
    return export_of(hub.local(source), out, to=to, weights=weights, runtime=runtime)


def refuse_copies(source: str | Path, data: str | Path | None = None, device: str | None = None) -> str:
    """Check before an export. Raises ConfigError if generated images are flagged as copies of training images.

    data: the training images, if `source` is not a run. Returns the result as a sentence.
    """
    place = hub.local(source)
    generator = Generator.load(place, device)
    with Display() as display:
        finder = CopyFinder(pack_of(place, generator, data, display.packing), display.packing)
        pixels = to_pixels(generator.sample(GATE_SAMPLES, seed=GATE_SEED), generator.info.depth)
        found = finder.judge(pixels)
    if found.caught:
        raise ConfigError(f"not exported, because {found.sentence}: train on more images or for a shorter time")
    return found.sentence


GATE_SAMPLES, GATE_SEED = 500, 1_000_000  # number of images checked, and the first seed, as in an evaluation


def seeds_of(seeds: str | Sequence[int] | None, num: int, seed: int) -> Sequence[int]:
    if isinstance(seeds, str):
        return parse_seeds(seeds)
    if seeds is not None:
        return seeds
    if num < 1:
        raise ConfigError(f"--n {num}: expected at least 1 image")
    return range(seed, seed + num)


def one_grid(
    generator: Generator, path: Path, planned: Sequence[sampling.Planned], truncation: float, gate: sampling.Gate | None
) -> Path:
    """Write one grid of all planned images that pass the copy check."""
    parts = [pixels for _, pixels in sampling.drawn(generator, planned, truncation)]
    pixels = np.concatenate(parts)
    if gate is not None:
        pixels = pixels[~gate(pixels)]
        if not len(pixels):
            raise ConfigError("all of these images are flagged as copies of training images: use other --seeds")
    seeds = [one.seed for one in planned]
    save_sheet(generator, path, grid_of(pixels), {"seeds": seeds, "truncation": truncation})
    return path


def save_sheet(generator: Generator, path: Path, pixels: np.ndarray, recipe: dict[str, Any]) -> None:
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(path, pixels, provenance(generator.hash, recipe))


def interpolate(
    source: str | Path,
    out: str | Path,
    *,
    seeds: str | Sequence[int] | None = None,
    favourites: str | Path | None = None,
    labels: Sequence[str] = (),
    truncation: float = 1.0,
    frames: int = 96,
    loop: bool = True,
    fps: int = 24,
    scale: int | None = None,
    max_mb: float = 8.0,
    device: str | None = None,
) -> Path:
    """Write a video that morphs from image to image. The ending of `out` selects GIF, WebP or MP4.

    seeds: seeds of the images, e.g. "1,5,9". favourites: a favourites file, overrides seeds. labels: one for all
    images, one per image, or several with one seed. frames: number of frames of the whole video. loop: return to the
    first image at the end.
    """
    generator = open_generator(source, device)
    directions: dict[str, Direction] = {}
    if favourites is not None:
        kept = Favourites.read(Path(favourites), generator)
        recipes, directions = kept.recipes, kept.directions
    else:
        default = (0,) if len(labels) > 1 else (0, 1, 2, 3)
        recipes = recipes_of(parse_seeds(seeds) if isinstance(seeds, str) else list(seeds or default), labels)
        recipes = [dataclasses.replace(one, truncation=truncation) for one in recipes]
    if len(recipes) < 2:
        raise ConfigError("a video needs at least two images: give several --seeds or several --labels")
    if frames < 2:
        raise ConfigError(f"--frames {frames}: expected 2 or more")
    resolve(generator, recipes, directions)  # report errors before the first frame
    shown = morph.frames(generator, recipes, frames, loop=loop, directions=directions)
    out = Path(out)
    with files.explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    return morph.film(shown, out, fps=fps, scale=scale, max_mb=max_mb)


def recipes_of(seeds: Sequence[int], labels: Sequence[str] = ()) -> list[Recipe]:
    """Combine seeds and labels. A single seed is used with all labels, and a single label with all seeds."""
    if not labels:
        return [Recipe(seed) for seed in seeds]
    num = max(len(seeds), len(labels))
    if len(seeds) not in (1, num) or len(labels) not in (1, num):
        raise ConfigError(f"{len(seeds)} seeds and {len(labels)} labels: give equal numbers, or one of either")
    return [Recipe(seeds[i % len(seeds)], label=labels[i % len(labels)]) for i in range(num)]


def mix(
    source: str | Path,
    out: str | Path,
    *,
    seeds: str | Sequence[int],
    depths: str = "fine",
    label: str | None = None,
    truncation: float = 1.0,
    device: str | None = None,
) -> Path:
    """Mix the image of the first seed with each of the others. Writes a grid, and a favourites file next to it.

    depths: layers to take from the other images: coarse, middle, fine, all, or numbers such as 0-1 (0 = coarsest).
    The grid shows the other images on top, the first image on the left, and each result below its second image.
    """
    generator = open_generator(source, device)
    numbers = parse_seeds(seeds) if isinstance(seeds, str) else list(seeds)
    if len(numbers) < 2:
        raise ConfigError("mixing needs at least two --seeds: the first image, then the images to take layers from")
    chosen = parse_depths(depths, generator.num_depths)
    first, *others = (Recipe(seed, label=label, truncation=truncation) for seed in numbers)
    mixed = [dataclasses.replace(first, mix=Mix(other, chosen)) for other in others]
    pixels = to_pixels(generator.show(resolve(generator, [*others, first, *mixed])), generator.info.depth)
    blank = np.full_like(pixels[:1], np.iinfo(pixels.dtype).max)
    path = Path(out) if Path(out).suffix else Path(f"{out}.png")
    recipe = {"mix": numbers, "depths": list(chosen), "truncation": truncation}
    save_sheet(generator, path, grid_of(np.concatenate([blank, pixels]), columns=len(numbers)), recipe)
    Favourites(generator.hash, mixed).save(path.with_suffix(".json"))
    return path


def directions(
    source: str | Path,
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    label: str | None = None,
    labels: str | None = None,
    num: int = 8,
    method: Literal["features", "weights", "labels"] | None = None,
    depth: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> list[tuple[Direction, Path]]:
    """Find latent directions, save them with the model (directions.json), and draw an image strip for each.

    data: labelled images, for directions learned from labels. label: class that the direction leads to (default: one
    direction per class). labels: source of the labels, as in training. method: features (principal components,
    default), weights (closed form) or labels (default with data). out: folder for the strips (default: directions/ in
    the model folder).
    """
    from ganvas.explore import directions as directions_of

    local = hub.local(source)
    generator = Generator.load(local, device)
    method = method or ("features" if data is None else "labels")
    with Display() as display:
        if method == "labels":
            if data is None:
                raise ConfigError("--method labels needs --data: images in class folders, or images with --labels")
            pack = open_pack(data, data_like(generator, labels), progress=display.packing)
            found = directions_of.supervised(generator, pack, label=label, progress=display.packing)
        elif method == "weights":
            found = directions_of.from_weights(generator, num)
        else:
            found = directions_of.principal(generator, num, depth=depth, seed=seed)
    place = find_weights(local).parent
    directions_of.save(local, found, generator)
    folder = Path(out) if out is not None else place / "directions"
    strips = []
    for one, name in zip(found, sampling.file_names([one.name for one in found]), strict=True):
        path = folder / f"{name}.png"
        pixels = directions_of.strip(generator, one, range(seed, seed + 4))
        save_sheet(generator, path, pixels, {"direction": one.name, "seeds": list(range(seed, seed + 4))})
        strips.append((one, path))
    return strips


def data_like(generator: Generator, labels: str | None) -> DataConfig:
    """Image options that match the training images of the model."""
    config = generator.info.config
    channels: Any = {1: "gray", 3: "color", 4: "alpha"}[config.channels]
    kind: Any = generator.info.kind
    return DataConfig(size=f"{config.height}x{config.width}", channels=channels, kind=kind, labels=labels)


def project(
    source: str | Path,
    picture: str | Path,
    out: str | Path,
    *,
    label: str | None = None,
    steps: int = 300,
    seed: int = 0,
    device: str | None = None,
) -> Any:
    """Find the latent whose image is closest to a given image. Writes a comparison image, the loss curve and a
    favourites file for use in videos, mixes and the studio.
    """
    from ganvas.explore import projection

    generator = open_generator(source, device)
    if steps < 1:
        raise ConfigError(f"--steps {steps}: expected 1 or more")
    with Display() as display:
        found = projection.project(
            generator, Path(picture), label=label, steps=steps, seed=seed, progress=display.packing
        )
    projection.save(found, Path(out))
    Favourites(generator.hash, [found.recipe], names=[Path(picture).name]).save(Path(out) / "favourites.json")
    return found


def favourites(
    source: str | Path,
    file: str | Path,
    out: str | Path | None = None,
    *,
    keep: str | Sequence[int] | None = None,
    label: str | None = None,
    truncation: float = 1.0,
    format: Literal["png", "tiff"] = "png",
    device: str | None = None,
) -> list[Path]:
    """Generate the images of a favourites file again and write them to the folder `out`.

    keep: seeds to add to the file first, except those that it has; the file is created if needed.
    Returns the paths of the images.
    """
    generator, file = open_generator(source, device), Path(file)
    kept = Favourites.read(file, generator) if file.exists() or keep is None else Favourites(generator.hash)
    if keep is not None:
        seeds = parse_seeds(keep) if isinstance(keep, str) else keep
        asked = [Recipe(seed, label=label, truncation=truncation) for seed in dict.fromkeys(seeds)]
        resolve(generator, asked)  # report a wrong label before saving it
        fresh = [recipe for recipe in asked if recipe not in kept.recipes]
        kept.names = [*(kept.names or [""] * len(kept.recipes)), *([""] * len(fresh))]
        kept.recipes += fresh
        with files.explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        kept.save(file)
    if out is None:
        return []
    if not kept.recipes:
        raise ConfigError(f"{file} has no images: add some in the studio, or with --keep 3,7")
    folder = Path(out)
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, len(kept.recipes), BATCH):
        recipes = kept.recipes[start : start + BATCH]
        images = generator.show(resolve(generator, recipes, kept.directions))
        for i, (recipe, pixels) in enumerate(zip(recipes, to_pixels(images, generator.info.depth), strict=True), start):
            path = folder / f"favourite{i:04d}.{format}"
            save_picture(path, pixels, provenance(generator.hash, recipe.to_dict()))
            paths.append(path)
    return paths
