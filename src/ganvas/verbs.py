"""What a user does, one function each: the command line and Python call the same ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ganvas import files, hub
from ganvas.config import DataConfig, TrainConfig
from ganvas.data.batches import Batches
from ganvas.data.pack import Pack, open_pack
from ganvas.device import choose_device, first_rank_first, prepare, process_group, rank
from ganvas.errors import ConfigError
from ganvas.explore import morph, sampling
from ganvas.explore.recipes import Direction, Favourites, Mix, Recipe, parse_depths, parse_seeds, resolve
from ganvas.generator import BATCH, Generator, find_weights, to_pixels
from ganvas.judge.copies import CopyFinder
from ganvas.judge.evaluate import Options, pack_of, pictures_of
from ganvas.judge.evaluate import evaluate as judge_run
from ganvas.judge.quick import QuickJudge
from ganvas.pictures import grid, save_picture
from ganvas.provenance import provenance
from ganvas.run import Run
from ganvas.training import loop
from ganvas.training.autotune import choose_workers
from ganvas.training.compiled import call_networks
from ganvas.training.plan import plan, preset_of
from ganvas.training.progress import Display
from ganvas.training.session import default_folder, open_session
from ganvas.training.show import show_plan
from ganvas.training.snapshots import average as average_of
from ganvas.training.state import TrainState
from ganvas.training.transfer import open_origin


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `train` leaves. signal: the number of the signal that ended it early, else 0. rank: of this process."""

    folder: Path
    images_seen: int
    seconds: float
    signal: int = 0
    rank: int = 0


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
    """Trains a generator on images, or goes on with a run that was interrupted.

    data: a folder, an archive, a data-set file, a pack, or a name such as "digits" or "mnist"; or a run folder, moved
    perhaps, which then goes on. out: the run folder; default runs/<name of the data>. The same call again resumes; a
    finished run stays as it is.
    data_path: where a named set's files lie.
    start_from: a run or a model folder: a new run begins with its weights, as far as they fit.
    options: any field of DataConfig or TrainConfig by name, such as minutes=30 or size="64".
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
                display.say(f"{folder} is finished ({session.state.images_seen:,} images); a larger budget goes on")
                return Trained(folder, session.state.images_seen, session.state.seconds, rank=rank())
            if session.config.tensorboard and rank() == 0:
                display.record_events(folder / "tensorboard")
            networks = call_networks(session.state, session.config, display.say)
            with display:
                outcome = loop.train(session.state, networks, session.config, session.info, run, display, examine)
            return Trained(folder, outcome.images_seen, outcome.seconds, outcome.signal, rank())


def dry_run(
    data: str | Path,
    *,
    data_path: str | Path | None = None,
    data_config: DataConfig | None = None,
    config: TrainConfig | None = None,
    start_from: str | Path | None = None,
) -> None:
    """Shows what `train` would do: every choice with its reason, the networks' layers, the memory, and how many images
    the budget buys, measured in a few steps; then stops."""
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
    """The images that a classic preset is defined by, unless others are asked for; and a sentence that says so."""
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
    with first_rank_first(), display:
        pack = open_pack(data, config, path=path, progress=display.packing)
    if rank() == 0:
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

    data: the images that it was trained on, where the run's own pack is gone.
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
    found += [f"not judged: {sentence}" for sentence in evaluation["left_out"]]
    protocol = evaluation["protocol"]
    found.append(
        f"{protocol['num_real']:,} {protocol['split']} and {protocol['num_generated']:,} generated images, "
        f"95% intervals, {evaluation['seconds']:g} s"
    )
    return found


def open_generator(source: str | Path, device: str | None = None) -> Generator:
    """The generator of a run, a model folder, a weights file, or "hf://owner/name" on the hub."""
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
    as_grid: bool = False,
    form: Literal["png", "tiff"] = "png",
    no_copies: bool = False,
    data: str | Path | None = None,
    device: str | None = None,
    fast: bool = False,
) -> list[Path]:
    """Writes images of the seeds `seed` to `seed + num - 1` and manifest.csv into the folder `out`.

    source: a run, a model folder, a generator.safetensors file or "hf://owner/name" on the hub. out: a folder, or a
    .zip file. seeds: in place of num and seed, such as "0-9,42". per_class: so many of every class in class folders,
    seeds counting on from `seed`. as_grid: one image `out` of all instead. form: of the files, 8 or 16 bit as the
    data had it, one common scale. no_copies: leave out what copies a training image (data: where those are, if there
    is no run). fast: half precision on a GPU. An interrupted call goes on when made again. Returns the pictures' paths.
    """
    generator = open_generator(source, device)
    if fast:
        generator.fast()
    chosen = seeds_of(seeds, num, seed)
    if per_class is not None:
        if per_class < 1 or seeds is not None or label is not None:
            raise ConfigError("--per-class: expected 1 or more, without --seeds and --label")
        planned = sampling.plan_per_class(generator, per_class, seed, truncation, form)
    else:
        planned = sampling.plan(generator, chosen, label, truncation, form)
    out = Path(out)
    with Display() as display:
        gate = None
        if no_copies:
            gate = CopyFinder(pack_of(Path(source), generator, data, display.packing), display.packing).is_copy
        if as_grid:
            path = out if out.suffix.lower() in (".png", ".tif", ".tiff") else out.with_name(f"{out.name}.{form}")
            return [one_grid(generator, path, planned, truncation, gate)]
        written = sampling.write(generator, out, planned, truncation, gate=gate, progress=display.packing)
    if written.damaged:
        lines = f"{written.damaged:,} damaged line{'s' if written.damaged > 1 else ''}"
        display.say(f"{out / 'manifest.csv'} had {lines}: left out, and what is missing is drawn again")
    if written.known:
        display.say(f"{written.known:,} of {len(planned):,} images were there already")
    if gate is not None:
        display.say(f"{written.left_out} of {len(planned)} images copy a training image and are left out")
    return written.paths


def refuse_copies(source: str | Path, data: str | Path | None = None, device: str | None = None) -> str:
    """The gate of an export: raises ConfigError where the generator copies its training images.

    data: where those are, if there is no run. Returns what was found, in a sentence.
    """
    place = hub.local(source)
    generator = Generator.load(place, device)
    with Display() as display:
        finder = CopyFinder(pack_of(place, generator, data, display.packing), display.packing)
        pixels = to_pixels(generator.sample(GATE_SAMPLES, seed=GATE_SEED), generator.info.depth)
        found = finder.judge(pixels)
    if found.caught:
        raise ConfigError(f"not exported, since {found.sentence}: train on more images or for a shorter time")
    return found.sentence


GATE_SAMPLES, GATE_SEED = 500, 1_000_000  # images that decide, and the first one's seed, as in an evaluation


def seeds_of(seeds: str | Sequence[int] | None, num: int, seed: int) -> Sequence[int]:
    if isinstance(seeds, str):
        return parse_seeds(seeds)
    if seeds is not None:
        return seeds
    if num < 1:
        raise ConfigError(f"--n {num}: expected at least 1 picture")
    return range(seed, seed + num)


def one_grid(
    generator: Generator, path: Path, planned: Sequence[sampling.Planned], truncation: float, gate: sampling.Gate | None
) -> Path:
    """All planned images, less those that the gate leaves out, in one image."""
    parts = [pixels for _, pixels in sampling.drawn(generator, planned, truncation)]
    pixels = np.concatenate(parts)
    if gate is not None:
        pixels = pixels[~gate(pixels)]
        if not len(pixels):
            raise ConfigError("all of these images copy training images: take other seeds")
    seeds = [one.seed for one in planned]
    save_sheet(generator, path, grid(pixels), {"seeds": seeds, "truncation": truncation})
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
    """Writes a film that passes through images in turn: GIF, WebP or MP4 by the ending of `out`.

    seeds: such as "1,5,9"; or favourites: a file of kept images. labels: one for all, one each, or several with one
    seed for a way between classes. frames: of the whole film. loop: the last image leads back to the first.
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
        raise ConfigError("a film needs two images or more: give several seeds, or several labels")
    if frames < 2:
        raise ConfigError(f"--frames {frames}: expected 2 or more")
    resolve(generator, recipes, directions)  # says now what is wrong, before the first frame
    shown = morph.frames(generator, recipes, frames, loop=loop, directions=directions)
    out = Path(out)
    with files.explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    return morph.film(shown, out, fps=fps, scale=scale, max_mb=max_mb)


def recipes_of(seeds: Sequence[int], labels: Sequence[str] = ()) -> list[Recipe]:
    """Seeds with labels: one of either goes with all of the other."""
    if not labels:
        return [Recipe(seed) for seed in seeds]
    num = max(len(seeds), len(labels))
    if len(seeds) not in (1, num) or len(labels) not in (1, num):
        raise ConfigError(f"{len(seeds)} seeds and {len(labels)} labels: give one of either, or as many of both")
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
    """Mixes the first seed's image with each of the others: a sheet, and a favourites file beside it.

    depths: what the others lend: coarse, middle, fine, all, or numbers such as 0-1. In the sheet the lenders stand
    above, the first image on the left, and what came of each below its lender.
    """
    generator = open_generator(source, device)
    numbers = parse_seeds(seeds) if isinstance(seeds, str) else list(seeds)
    if len(numbers) < 2:
        raise ConfigError("to mix takes two seeds or more: the first image, and those that lend to it")
    chosen = parse_depths(depths, generator.num_depths)
    first, *others = (Recipe(seed, label=label, truncation=truncation) for seed in numbers)
    mixed = [dataclasses.replace(first, mix=Mix(other, chosen)) for other in others]
    pixels = to_pixels(generator.show(resolve(generator, [*others, first, *mixed])), generator.info.depth)
    blank = np.full_like(pixels[:1], np.iinfo(pixels.dtype).max)
    path = Path(out) if Path(out).suffix else Path(f"{out}.png")
    recipe = {"mix": numbers, "depths": list(chosen), "truncation": truncation}
    save_sheet(generator, path, grid(np.concatenate([blank, pixels]), columns=len(numbers)), recipe)
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
    """Finds directions, saves them by name beside the model (directions.json), and draws a strip of each.

    data: labelled images, for directions from labels: `label` names the class that a direction leads to (default: one
    for each class), `labels` says where labels come from, as in training. method: features (principal components,
    the default), weights (closed form), or labels (the default with data). out: folder of the strips; default:
    directions/ beside the model.
    """
    from ganvas.explore import directions as directions_of

    local = hub.local(source)
    generator = Generator.load(local, device)
    method = method or ("features" if data is None else "labels")
    with Display() as display:
        if method == "labels":
            if data is None:
                raise ConfigError("directions from labels need --data: images with classes, or with --labels")
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
    """Pictures as the model's own."""
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
    """Finds the code that comes nearest to an image; writes the side by side, the loss curve and a favourites file.

    The recipe in it can be used wherever recipes can: films, mixtures, the studio.
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
    form: Literal["png", "tiff"] = "png",
    device: str | None = None,
) -> list[Path]:
    """Re-makes the kept images of a favourites file into the folder `out`.

    keep: seeds to add to the file first, but for those that it holds; it is made where there is none.
    Returns the pictures' paths.
    """
    generator, file = open_generator(source, device), Path(file)
    kept = Favourites.read(file, generator) if file.exists() or keep is None else Favourites(generator.hash)
    if keep is not None:
        seeds = parse_seeds(keep) if isinstance(keep, str) else keep
        asked = [Recipe(seed, label=label, truncation=truncation) for seed in dict.fromkeys(seeds)]
        resolve(generator, asked)  # a wrong label is said before it is kept
        fresh = [recipe for recipe in asked if recipe not in kept.recipes]
        kept.names = [*(kept.names or [""] * len(kept.recipes)), *([""] * len(fresh))]
        kept.recipes += fresh
        with files.explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        kept.save(file)
    if out is None:
        return []
    if not kept.recipes:
        raise ConfigError(f"{file} holds no images: keep some in the studio, or with --keep 3,7")
    folder = Path(out)
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, len(kept.recipes), BATCH):
        recipes = kept.recipes[start : start + BATCH]
        images = generator.show(resolve(generator, recipes, kept.directions))
        for i, (recipe, pixels) in enumerate(zip(recipes, to_pixels(images, generator.info.depth), strict=True), start):
            path = folder / f"favourite{i:04d}.{form}"
            save_picture(path, pixels, provenance(generator.hash, recipe.to_dict()))
            paths.append(path)
    return paths
