"""The user-facing functions that use a generator. The command line and Python call the same ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganvas import hub
from ganvas.config import DataConfig
from ganvas.data.opening import open_pack
from ganvas.errors import ConfigError
from ganvas.evaluation.copies import CopyFinder
from ganvas.evaluation.samples import pack_of
from ganvas.explore import directions as directions_of
from ganvas.explore import morph, projection, sampling
from ganvas.explore.recipes import Direction, Favourites, Mix, Recipe, parse_depths, parse_seeds, resolve
from ganvas.fields import takes
from ganvas.generator import BATCH, Generator, to_pixels
from ganvas.image_files import grid as grid_of
from ganvas.image_files import save_picture
from ganvas.model_file import find_weights
from ganvas.options import Directions, Interpolate, KeepFavourites, MixImages, Project, Sample
from ganvas.provenance import provenance
from ganvas.system import files
from ganvas.training.progress import Display


@takes(Sample)
def sample(asked: Sample) -> list[Path]:
    """Generate images with the seeds `seed` to `seed + n - 1`; write them and manifest.csv to the folder `out`.

    If interrupted, call again with the same arguments to continue. Returns the paths of the images.
    """
    generator = Generator.load(asked.source, asked.device)
    if asked.fast:
        generator.fast()
    if asked.per_class is not None:
        if asked.seeds is not None or asked.label is not None:
            raise ConfigError("--per-class: remove --seeds and --label")
        planned = sampling.plan_per_class(generator, asked.per_class, asked.seed, asked.truncation, asked.format)
    else:
        seeds = range(asked.seed, asked.seed + asked.n) if asked.seeds is None else numbers(asked.seeds)
        planned = sampling.plan(generator, seeds, asked.label, asked.truncation, asked.format)
    out = Path(asked.out)
    with Display(asked.quiet) as display:
        gate = None
        if asked.no_copies:
            pack = pack_of(hub.local(asked.source), generator, asked.data, display.packing)
            gate = CopyFinder(pack, display.packing).is_copy
        if asked.grid:
            is_image = out.suffix.lower() in (".png", ".tif", ".tiff")
            path = out if is_image else out.with_name(f"{out.name}.{asked.format}")
            return [one_grid(generator, path, planned, asked.truncation, gate)]
        written = sampling.write(generator, out, planned, asked.truncation, gate=gate, progress=display.packing)
    if written.damaged:
        lines = f"{written.damaged:,} damaged line{'s' if written.damaged > 1 else ''}"
        display.say(f"{out / 'manifest.csv'} had {lines}: removed; missing images are generated again")
    if written.known:
        display.say(f"{written.known:,} of {len(planned):,} images existed already")
    if gate is not None:
        display.say(f"{written.left_out} of {len(planned)} images were flagged as copies and left out")
    return written.paths


def numbers(seeds: str | Sequence[int]) -> list[int]:
    """Seeds as text, such as "0-9,42", or as numbers."""
    return parse_seeds(seeds) if isinstance(seeds, str) else [int(seed) for seed in seeds]


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


@takes(Interpolate)
def interpolate(asked: Interpolate) -> Path:
    """Write a video that morphs from image to image. The ending of `out` selects GIF, WebP or MP4."""
    generator = Generator.load(asked.source, asked.device)
    directions: dict[str, Direction] = {}
    if asked.favourites is not None:
        kept = Favourites.read(Path(asked.favourites), generator)
        recipes, directions = kept.recipes, kept.directions
    else:
        labels = asked.labels.split(",") if isinstance(asked.labels, str) else list(asked.labels or ())
        default = [0] if len(labels) > 1 else [0, 1, 2, 3]
        recipes = recipes_of(default if asked.seeds is None else numbers(asked.seeds), labels)
        recipes = [dataclasses.replace(one, truncation=asked.truncation) for one in recipes]
    if len(recipes) < 2:
        raise ConfigError("a video needs at least two images: give several --seeds or several --labels")
    resolve(generator, recipes, directions)  # report errors before the first frame
    shown = morph.frames(generator, recipes, asked.frames, loop=asked.loop, directions=directions)
    out = Path(asked.out)
    with files.explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    return morph.film(shown, out, fps=asked.fps, scale=asked.scale, max_mb=asked.max_mb)


def recipes_of(seeds: Sequence[int], labels: Sequence[str] = ()) -> list[Recipe]:
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
    seeds = numbers(asked.seeds)
    if len(seeds) < 2:
        raise ConfigError("mixing needs at least two --seeds: the first image, then the images to take layers from")
    chosen = parse_depths(asked.depths, generator.num_depths)
    label = generator.label_name(asked.label)
    first, *others = (Recipe(seed, label=label, truncation=asked.truncation) for seed in seeds)
    mixed = [dataclasses.replace(first, mix=Mix(other, chosen)) for other in others]
    pixels = to_pixels(generator.show(resolve(generator, [*others, first, *mixed])), generator.info.depth)
    blank = np.full_like(pixels[:1], np.iinfo(pixels.dtype).max)
    path = Path(asked.out) if Path(asked.out).suffix else Path(f"{asked.out}.png")
    recipe = {"mix": seeds, "depths": list(chosen), "truncation": asked.truncation}
    save_sheet(generator, path, grid_of(np.concatenate([blank, pixels]), columns=len(seeds)), recipe)
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
            pack = open_pack(asked.data, data_like(generator, asked.labels), progress=display.packing)
            found = directions_of.supervised(generator, pack, label=asked.label, progress=display.packing)
        elif method == "weights":
            found = directions_of.from_weights(generator, asked.n)
        else:
            found = directions_of.principal(generator, asked.n, depth=asked.depth, seed=asked.seed)
    place = find_weights(local).parent
    directions_of.save(local, found, generator)
    folder = Path(asked.out) if asked.out is not None else place / "directions"
    seeds = range(asked.seed, asked.seed + 4)
    strips = []
    for one, name in zip(found, sampling.file_names([one.name for one in found]), strict=True):
        path = folder / f"{name}.png"
        pixels = directions_of.strip(generator, one, seeds)
        save_sheet(generator, path, pixels, {"direction": one.name, "seeds": list(seeds)})
        strips.append((one, path))
    return strips


def data_like(generator: Generator, labels: str | None) -> DataConfig:
    """Image options that match the training images of the model."""
    config = generator.info.config
    channels: Any = {1: "gray", 3: "color", 4: "alpha"}[config.channels]
    kind: Any = generator.info.kind
    return DataConfig(size=f"{config.height}x{config.width}", channels=channels, kind=kind, labels=labels)


@takes(Project)
def project(asked: Project) -> projection.Projection:
    """Find the latent whose image is closest to a given image. Writes a comparison image, the loss curve and a
    favourites file for use in videos, mixes and the studio.
    """
    generator = Generator.load(asked.source, asked.device)
    image, out = Path(asked.image), Path(asked.out)
    with Display(asked.quiet) as display:
        found = projection.project(
            generator, image, label=asked.label, steps=asked.steps, seed=asked.seed, progress=display.packing
        )
    projection.save(found, out)
    Favourites(generator.hash, [found.recipe], names=[image.name]).save(out / "favourites.json")
    return found


@takes(KeepFavourites)
def favourites(asked: KeepFavourites) -> list[Path]:
    """Generate the images of a favourites file again and write them to the folder `out`, if given; return their paths.

    keep: seeds that are added to the file first, except those that it has; the file is created if needed.
    """
    generator, file = Generator.load(asked.source, asked.device), Path(asked.file)
    is_known = file.exists() or asked.keep is None
    kept = Favourites.read(file, generator) if is_known else Favourites(generator.hash)
    if asked.keep is not None:
        label = generator.label_name(asked.label)
        added = [Recipe(seed, label=label, truncation=asked.truncation) for seed in dict.fromkeys(numbers(asked.keep))]
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
    for start in range(0, len(kept.recipes), BATCH):
        recipes = kept.recipes[start : start + BATCH]
        images = generator.show(resolve(generator, recipes, kept.directions))
        for i, (recipe, pixels) in enumerate(zip(recipes, to_pixels(images, generator.info.depth), strict=True), start):
            path = folder / f"favourite{i:04d}.{asked.format}"
            save_picture(path, pixels, provenance(generator.hash, recipe.to_dict()))
            paths.append(path)
    return paths
