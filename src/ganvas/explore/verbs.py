"""The user-facing functions that use a generator. The command line and Python call the same ones."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganvas import film, hub
from ganvas.config import CHANNELS, DataConfig
from ganvas.data.opening import open_pack
from ganvas.errors import ConfigError, amount
from ganvas.evaluation.copies import CopyFinder
from ganvas.evaluation.samples import pack_of
from ganvas.explore import directions as directions_of
from ganvas.explore import morph, projection, sampling
from ganvas.explore.recipes import Direction, Favourites, Mix, Recipe, parse_depths, parse_seeds, resolve
from ganvas.fields import part, takes
from ganvas.generator import BATCH, Generator, to_pixels
from ganvas.image_files import FORMATS, check_size, enlarged, save_picture, sheet
from ganvas.image_files import grid as grid_of
from ganvas.model_file import find_weights
from ganvas.options import Directions, Files, Interpolate, KeepFavourites, MixImages, Project, Sample
from ganvas.provenance import provenance
from ganvas.system import files
from ganvas.training.progress import Display


@takes(Sample)
def sample(asked: Sample) -> list[Path]:
    """Generate images with the seeds `seed` to `seed + n - 1`; write them and manifest.csv to the folder `out`.

    If interrupted, call again with the same arguments to continue. Returns the paths of the images.
    """
    out, form = _place_of(asked)
    generator = Generator.load(asked.source, asked.device)
    if asked.fast:
        generator.fast()
    more = None
    if asked.per_class is not None:
        if asked.seeds is not None or asked.label is not None or asked.conditions is not None:
            raise ConfigError("--per-class: remove --seeds and --label, and --conditions")
        plan = (generator, asked.per_class, asked.seed, asked.truncation, form)
        planned, more = sampling.plan_per_class(*plan), sampling.replacements(*plan)
    else:
        seeds = range(asked.seed, asked.seed + asked.n) if asked.seeds is None else _numbers(asked.seeds)
        label = generator.one_of(asked.label, asked.conditions)
        planned = sampling.plan(generator, seeds, label, asked.truncation, form)
    one_file = out.suffix.lower() in FORMATS
    if one_file and not asked.grid and len(planned) > 1:
        raise ConfigError(f"--out {out} is one file, but {len(planned):,} images were asked for: add --grid or --n 1")
    _check_sides(generator, asked, out if one_file else Path(planned[0].file), len(planned))
    with Display(asked.quiet) as display:
        gate = None
        if asked.no_copies:
            pack = pack_of(hub.local(asked.source), generator, asked.data, display.packing)
            finder = CopyFinder(pack, display.packing)
            gate = finder.is_copy
            if finder.share_compared < 1:
                display.say(
                    f"copies of {finder.share_compared:.1%} of the training images, drawn at random, are left out: "
                    "the others were not compared"
                )
        if one_file:
            return [_one_grid(generator, out, planned, form, asked, gate, more)]
        written = sampling.write(
            generator, out, planned, asked.truncation, form=form, gate=gate, more=more, progress=display.packing
        )
    wanted = None if asked.per_class is None else asked.per_class * len(generator.classes)
    for note in _notes(written, out, gate is not None, wanted):
        display.say(note)
    return written.paths


def _notes(written: sampling.Written, out: Path, gated: bool, wanted: int | None) -> Iterator[str]:
    """What to tell the user about written images. wanted: their number, if those left out were to be replaced."""
    if written.damaged:
        lines = f"{written.damaged:,} damaged line{'s' if written.damaged > 1 else ''}"
        yield f"{out / 'manifest.csv'} had {lines}: removed; missing images are generated again"
    if written.known:
        yield f"{written.known:,} of {written.planned:,} images existed already"
    if gated:
        yield f"{written.left_out:,} of {written.planned:,} images were flagged as copies and left out"
    if wanted is not None and (missing := wanted + written.left_out - written.planned):
        lacking = amount(missing, "image is", "images are")
        yield f"{lacking} missing: {sampling.TRIES} times as many were tried in their classes"


def _check_sides(generator: Generator, asked: Sample, file: Path, num: int) -> None:
    """Raises ConfigError before the first image if the enlarged images or their grid are too large for the format."""
    columns = asked.per_class or math.ceil(math.sqrt(num)) if asked.grid else 1
    rows = math.ceil(num / columns) if asked.grid else 1
    config = generator.info.config
    width, height = (side * asked.enlarge for side in (columns * config.width, rows * config.height))
    check_size(FORMATS[file.suffix.lower()], width, height)


def _place_of(asked: Sample) -> tuple[Path, Files]:
    """Output path and the options of the files, with the format from the ending of the path."""
    out, form = Path(asked.out), part(asked, Files)
    known = FORMATS.get(out.suffix.lower())
    if known is not None and form.format is not None and FORMATS[f".{form.format}"] != known:
        raise ConfigError(f"--format {form.format}: --out ends in {out.suffix}; remove one of them")
    if asked.grid and known is None:
        if out.suffix.lower() == ".zip":
            raise ConfigError(f"--grid: {out} cannot be a zip file; give an image file such as grid.png")
        out = out.with_name(f"{out.name}.{form.format or 'png'}")
    return out, form


def _numbers(seeds: str | Sequence[int]) -> list[int]:
    """Seeds as text, such as "0-9,42", or as numbers."""
    return parse_seeds(seeds) if isinstance(seeds, str) else [int(seed) for seed in seeds]


def _one_grid(
    generator: Generator,
    path: Path,
    planned: Sequence[sampling.Planned],
    form: Files,
    asked: Sample,
    gate: sampling.Gate | None,
    more: sampling.More | None,
) -> Path:
    """Write one image, or one grid of all planned images that pass the copy check, one row per class if asked so."""
    drawn: list[tuple[sampling.Planned, np.ndarray]] = []
    while planned:
        left_out = []
        for batch, pixels in sampling.drawn_batches(generator, planned, asked.truncation):
            flags = gate(pixels) if gate is not None else np.zeros(len(batch), bool)
            drawn += [(one, picture) for one, picture, flag in zip(batch, pixels, flags, strict=True) if not flag]
            left_out += [one for one, flag in zip(batch, flags, strict=True) if flag]
        planned = more(left_out) if more is not None else []
    if not drawn:
        raise ConfigError("all of these images are flagged as copies of training images: use other --seeds")
    if asked.per_class is not None:
        drawn.sort(key=lambda pair: generator.label_index(pair[0].label or ""))  # replacements come last
    pixels = enlarged(np.stack([picture for _, picture in drawn]), form.enlarge, form.filter)
    seeds = [one.seed for one, _ in drawn]
    recipe: dict[str, Any] = {"seeds": seeds, "truncation": asked.truncation}
    if not asked.grid:
        recipe = Recipe(seeds[0], label=drawn[0][0].label, truncation=asked.truncation).to_dict()
    image = grid_of(pixels, asked.per_class) if asked.grid else pixels[0]
    _save_sheet(generator, path, image, recipe, form.dpi)
    return path


def _save_sheet(
    generator: Generator, path: Path, pixels: np.ndarray, recipe: dict[str, Any], dpi: int | None = None
) -> None:
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(path, pixels, provenance(generator.hash, recipe), dpi=dpi)


@takes(Interpolate)
def interpolate(asked: Interpolate) -> Path:
    """Write a video that morphs from image to image. The ending of `out` selects GIF, WebP, MP4, WebM or MOV."""
    generator = Generator.load(asked.source, asked.device)
    directions: dict[str, Direction] = {}
    if asked.favourites is not None:
        kept = Favourites.read(Path(asked.favourites), generator)
        recipes, directions = kept.recipes, kept.directions
    else:
        labels = _labels_of(generator, asked)
        default = [0] if len(labels) > 1 else [0, 1, 2, 3]
        recipes = _recipes_of(default if asked.seeds is None else _numbers(asked.seeds), labels)
        recipes = [dataclasses.replace(one, truncation=asked.truncation) for one in recipes]
    with Display(asked.quiet) as display:
        return morphed(generator, recipes, directions, asked, display.packing)


def morphed(
    generator: Generator,
    recipes: Sequence[Recipe],
    directions: Mapping[str, Direction],
    asked: Interpolate,
    progress: film.Progress,
    keep: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Path:
    """Write the video `asked.out` of these recipes; sources and seeds in `asked` are not used.

    keep: which frames (N, H, W, C) to keep, as (N,) bool. Raises ConfigError if a recipe or an option does not fit,
    before the first frame.
    """
    if len(recipes) < 2:
        raise ConfigError("a video needs at least two images: give several --seeds or several --labels or --conditions")
    resolve(generator, recipes, directions)  # report errors before the first frame
    num, out = asked.num_frames, Path(asked.out)
    shown = morph.frames(generator, recipes, num, loop=asked.loop, easing=asked.easing, directions=directions)
    text = provenance(generator.hash, {"interpolation": [one.to_dict() for one in recipes]})
    counted = film.counted(shown, out.name, num, progress)
    kept = counted if keep is None else _filtered(counted, keep)
    return film.write(kept, out, asked, fps=asked.fps, enlarge=asked.enlarge, text=text)


def _filtered(frames: Iterator[np.ndarray], keep: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
    while some := list(itertools.islice(frames, BATCH)):
        yield from itertools.compress(some, keep(np.stack(some)))


def _labels_of(generator: Generator, asked: Interpolate) -> list[str]:
    """The classes or conditions of the images of a video."""
    if asked.conditions is not None:
        given = asked.conditions.split(";") if isinstance(asked.conditions, str) else asked.conditions
        return [generator.label_name(generator.one_of(None, one)) or "" for one in given]
    labels = asked.labels.split(",") if isinstance(asked.labels, str) else list(asked.labels or ())
    generator.one_of(labels or None, None)
    return labels


def _recipes_of(seeds: Sequence[int], labels: Sequence[str] = ()) -> list[Recipe]:
    """Combine seeds and labels. A single seed is used with all labels, and a single label with all seeds."""
    if not labels:
        return [Recipe(seed) for seed in seeds]
    num = max(len(seeds), len(labels))
    if len(seeds) not in (1, num) or len(labels) not in (1, num):
        raise ConfigError(f"{len(seeds)} seeds and {len(labels)} labels: give equal numbers, or one of either")
    return [Recipe(seeds[i % len(seeds)], label=labels[i % len(labels)]) for i in range(num)]


@takes(MixImages)
def mix(asked: MixImages) -> Path:
    """Mix the image of the first seed with each of the others. Writes a grid, and a favourites file next to it.

    The grid shows the other images on top, the first image on the left, and each result below its second image.
    """
    generator = Generator.load(asked.source, asked.device)
    seeds = _numbers(asked.seeds)
    if len(seeds) < 2:
        raise ConfigError("mixing needs at least two --seeds: the first image, then the images to take layers from")
    chosen = parse_depths(asked.depths, generator.num_depths)
    label = generator.label_name(generator.one_of(asked.label, asked.conditions))
    first, *others = (Recipe(seed, label=label, truncation=asked.truncation) for seed in seeds)
    mixed = [dataclasses.replace(first, mix=Mix(other, chosen)) for other in others]
    pixels = to_pixels(generator.show(resolve(generator, [*others, first, *mixed])), generator.info.depth)
    blank = np.full_like(pixels[:1], np.iinfo(pixels.dtype).max)
    path = Path(asked.out) if Path(asked.out).suffix.lower() in FORMATS else Path(f"{asked.out}.png")
    recipe = {"mix": seeds, "depths": list(chosen), "truncation": asked.truncation}
    layers = ", ".join(map(str, chosen))
    title = f"Left image with layers {layers} (0 is coarsest) of the images above"
    above, left = ["", *(f"seed {seed}" for seed in seeds[1:])], ["", f"seed {seeds[0]}"]
    _save_sheet(generator, path, sheet(np.concatenate([blank, pixels]), title, above, left), recipe)
    Favourites(generator.hash, mixed).save(path.with_suffix(".json"))
    return path


@takes(Directions)
def directions(asked: Directions) -> list[tuple[Direction, Path]]:
    """Find latent directions, save them with the model (directions.json), and draw an image strip for each.

    Returns each direction with the path of its strip.
    """
    local = hub.local(asked.source)
    generator = Generator.load(local, asked.device)
    method = asked.method or ("features" if asked.data is None else "labels")
    with Display(asked.quiet) as display:
        if method == "labels":
            if asked.data is None:
                raise ConfigError("--method labels needs --data: images in class folders, or images with --labels")
            pack = open_pack(asked.data, _data_like(generator, asked.labels), progress=display.packing)
            new = directions_of.supervised(generator, pack, label=asked.label, progress=display.packing)
        elif method == "weights":
            new = directions_of.from_weights(generator, asked.n)
        else:
            new = directions_of.principal(generator, asked.n, depth=asked.depth, seed=asked.seed)
    place = find_weights(local).parent
    directions_of.save(local, new, generator)
    folder = Path(asked.out) if asked.out is not None else place / "directions"
    seeds = range(asked.seed, asked.seed + 4)
    strips = []
    for one, name in zip(new, sampling.file_names([one.name for one in new]), strict=True):
        path = folder / f"{name}.png"
        pixels = directions_of.strip(generator, one, seeds)
        _save_sheet(generator, path, pixels, {"direction": one.name, "seeds": list(seeds)})
        strips.append((one, path))
    return strips


def _data_like(generator: Generator, labels: str | None) -> DataConfig:
    """Image options that match the training images of the model."""
    config = generator.info.config
    kind: Any = generator.info.kind
    size, channels = f"{config.height}x{config.width}", CHANNELS[config.channels]
    return DataConfig(size=size, channels=channels, kind=kind, labels=labels)


@takes(Project)
def project(asked: Project) -> projection.Projection:
    """Find the latent whose image is closest to a given image. Writes a comparison image, the loss curve and a
    favourites file for use in videos, mixes and the studio.
    """
    generator = Generator.load(asked.source, asked.device)
    image, out = Path(asked.image), Path(asked.out)
    with Display(asked.quiet) as display:
        label = generator.label_name(generator.one_of(asked.label, asked.conditions))
        projected = projection.project(
            generator, image, label=label, steps=asked.steps, seed=asked.seed, progress=display.packing
        )
    projection.save(projected, out)
    Favourites(generator.hash, [projected.recipe], names=[image.name]).save(out / "favourites.json")
    return projected


@takes(KeepFavourites)
def favourites(asked: KeepFavourites) -> list[Path]:
    """Generate the images of a favourites file again and write them to the folder `out`, if given; return their paths.

    keep: seeds that are added to the file first, except those that it has; the file is created if needed.
    """
    generator, file = Generator.load(asked.source, asked.device), Path(asked.file)
    is_known = file.exists() or asked.keep is None
    kept = Favourites.read(file, generator) if is_known else Favourites(generator.hash)
    if asked.keep is not None:
        label = generator.label_name(generator.one_of(asked.label, asked.conditions))
        added = [Recipe(seed, label=label, truncation=asked.truncation) for seed in dict.fromkeys(_numbers(asked.keep))]
        resolve(generator, added)  # report a wrong label before saving it
        fresh = [recipe for recipe in added if recipe not in kept.recipes]
        kept.names = [*(kept.names or [""] * len(kept.recipes)), *([""] * len(fresh))]
        kept.recipes += fresh
        with files.explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        kept.save(file)
    if asked.out is None:
        return []
    if not kept.recipes:
        raise ConfigError(f"{file} has no images: add some in the studio, or with --keep 3,7")
    folder = Path(asked.out)
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, (recipe, pixels) in enumerate(rendered(generator, kept.recipes, kept.directions)):
        path = folder / f"favourite{i:04d}.{asked.format or 'png'}"
        sampling.write_one(path, pixels, provenance(generator.hash, recipe.to_dict()), part(asked, Files))
        paths.append(path)
    return paths


def rendered(
    generator: Generator, recipes: Sequence[Recipe], directions: Mapping[str, Direction]
) -> Iterator[tuple[Recipe, np.ndarray]]:
    """Each recipe with its image (H, W, C), uint8 or uint16, generated in batches."""
    for start in range(0, len(recipes), BATCH):
        some = recipes[start : start + BATCH]
        images = generator.show(resolve(generator, some, directions))
        yield from zip(some, to_pixels(images, generator.info.depth), strict=True)
