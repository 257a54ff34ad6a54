"""`ganvas publish`: present a run as a folder of Markdown and images, for any host of repositories.

    README.md              video, uncurated samples, measures with intervals, use, data, limits, cost
    training.gif           video of the training
    samples.png            the first seeds, uncurated; samples-truncated.png: the same seeds with truncation
    generated.png real.png images of the evaluation; real images only if the licence of the data permits it
    closest.png            generated images next to the nearest training image, under the same condition
    evaluation.json        results of the evaluation, without names of training images
    model/                 the model folder, without weights above the size limit

Repeat the call to update the folder. Folders with other files are refused.
"""

from __future__ import annotations

import hashlib
import io
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganvas import film
from ganvas.errors import ConfigError, PictureError, RunError, duration
from ganvas.fields import takes
from ganvas.generator import Generator, to_pixels
from ganvas.image_files import grid, png_text, to_image
from ganvas.model_file import WEIGHTS, find_weights
from ganvas.options import Publish
from ganvas.provenance import opened_image, provenance
from ganvas.results import Evaluation, Grids
from ganvas.run import Run
from ganvas.system import files
from ganvas.training import card
from ganvas.training.card import CardFacts, escape
from ganvas.training.preview import layout, num_rows

PUBLISH_MARK = ".ganvas-publish.json"
_README, _FILM, _SAMPLES, _TRUNCATED = "README.md", "training.gif", "samples.png", "samples-truncated.png"
_GENERATED, _REAL, _CLOSEST, _NUMBERS = "generated.png", "real.png", "closest.png", "evaluation.json"
_MODEL = f"model/{WEIGHTS}"

_MEANING = {
    _FILM: "video of the training",
    _SAMPLES: "samples of the first seeds",
    _TRUNCATED: "the same seeds with truncation",
    _GENERATED: "generated images of the evaluation",
    _REAL: "real images",
    _CLOSEST: "closest pairs of generated and training images",
    _NUMBERS: "results of the evaluation",
    "model/config.json": "configuration of the model",
    "model/README.md": "model card",
    "model/directions.json": "edit directions",
    _MODEL: "weights",
    _README: "",
}
_NAMES = tuple(_MEANING)
"""All files that `publish` may write, in the order of writing."""

LEAST_MB = 1.0  # smallest size limit; the video needs it
_GIF_MB, _PICTURE_MB = 10.0, 4.0  # size limits of the video and of a grid
_MOST_FRAMES = 60  # frames of the video, including first and last
_TRUNCATION = 0.7
_SHARP, _WIDEST = 480, 1600  # longer side in pixels: small grids are enlarged to SHARP, large ones reduced to WIDEST
_PAIRS = 8  # pairs of a generated image and the nearest training image
_Contents = dict[str, bytes | Path]


@takes(Publish)
def publish(asked: Publish) -> Path:
    """Write the folder `out` about a run; return the path of its README.

    Weights above the size limit are left out, and the README says how to get them.
    Raises RunError if `run` is not a run; ConfigError if the licence contradicts the catalogue, the limit is below
    1 MB, or `out` contains other files or published files that were changed.
    """
    run, out, max_mb, data_licence = Path(asked.run), Path(asked.out), asked.max_mb, asked.data_licence
    if not (math.isfinite(max_mb) and max_mb >= LEAST_MB):
        raise ConfigError(f"--max-mb {max_mb:g}: expected {LEAST_MB:g} or more")
    published = _read_mark(out)
    weights = find_weights(run)
    facts = card.facts_of(run, licence=data_licence)
    if facts.data is None:
        raise RunError(f"{run} is not a run: expected a run folder with config.json, log.jsonl and samples/")
    known = facts.data.licence
    if data_licence is not None and known is not None and data_licence != known:
        raise ConfigError(
            f"--data-licence {data_licence!r}: the catalogue lists {facts.source} under {known!r}; omit the option"
        )
    folder = card.run_of(weights) or run
    _write(out, _Issue(folder, facts, max_mb).contents(weights), published)
    return out / _README


# -- the folder --


def _read_mark(out: Path) -> dict[str, list[str]]:
    """Files that were published into `out` before, with their hashes. Raises ConfigError for any other content."""
    if not out.exists():
        return {}
    if not out.is_dir():
        raise ConfigError(f"{out} is a file: expected a folder to publish into")
    mark = out / PUBLISH_MARK
    if not mark.is_file():
        files.sweep(out)  # of a call that was killed while it wrote the mark
        if any(one.name != ".git" for one in out.iterdir()):
            raise ConfigError(f"{out} contains other files: choose a new or an empty folder")
        return {}
    try:
        listed = files.parse_json(mark.read_bytes())["files"]
        published = {str(name): [str(one) for one in hashes] for name, hashes in listed.items() if name in _NAMES}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(f"{mark} is damaged: delete the folder {out}, or choose another") from None
    for name in _NAMES:
        path = out / name
        if path.exists() and (name not in published or files.sha256(path) not in published[name]):
            raise ConfigError(
                f"{path} was changed after publishing: move your text to another file and delete this one, "
                "or choose another folder"
            )
    return published


def _write(out: Path, contents: _Contents, published: dict[str, list[str]]) -> None:
    """Write all contents, then delete files that were published before and are no longer part of the folder."""
    hashes = {name: _sha256(content) for name, content in contents.items()}
    with files.explained(out):
        out.mkdir(parents=True, exist_ok=True)
    # Written first, so that the next call accepts the folder if this one is interrupted.
    either = {name: sorted({*published.get(name, []), hashes[name]}) for name in contents} | {
        name: allowed for name, allowed in published.items() if name not in contents
    }
    _write_mark(out, either)
    for name, content in contents.items():
        with files.explained(out):
            (out / name).parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            files.write_atomically(out / name, lambda file, content=content: file.write(content))
        else:
            with content.open("rb") as opened:
                files.write_atomically(out / name, lambda file, opened=opened: shutil.copyfileobj(opened, file))
    for name in published:
        if name not in contents:
            with files.explained(out / name):
                (out / name).unlink(missing_ok=True)
    _write_mark(out, {name: [one] for name, one in hashes.items()})


def _write_mark(out: Path, hashes: dict[str, list[str]]) -> None:
    files.write_json(out / PUBLISH_MARK, {"ganvas": "publish", "format": 1, "files": hashes})


def _sha256(content: bytes | Path) -> str:
    return files.sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def _size_of(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


# -- the contents --


@dataclass(frozen=True)
class _Issue:
    """The published files of one run."""

    folder: Path
    facts: CardFacts
    most: float
    """Size limit of a file in MB."""

    @property
    def generator(self) -> Generator:
        return self.facts.generator

    @property
    def shows_real(self) -> bool:
        return card.may_show(self.facts.licence)

    def contents(self, weights: Path) -> _Contents:
        contents: _Contents = self.pictures()
        if self.facts.evaluation is not None:
            contents[_NUMBERS] = files.json_bytes(_nameless(self.facts.evaluation))
        contents["model/config.json"] = weights.parent / "config.json"
        contents["model/README.md"] = card.card(self.facts).encode()
        if (weights.parent / "directions.json").is_file():
            contents["model/directions.json"] = weights.parent / "directions.json"
        if weights.stat().st_size <= self.most * 1e6:
            contents[_MODEL] = weights
        contents[_README] = self.readme(contents, weights).encode()
        contents = {name: contents[name] for name in _NAMES if name in contents}
        if large := [name for name, content in contents.items() if _size_of(content) > self.most * 1e6]:
            size = _size_of(contents[large[0]]) / 1e6
            raise ConfigError(f"--max-mb {self.most:g}: {large[0]} has {size:.1f} MB: use a larger limit")
        return contents

    def pictures(self) -> _Contents:
        contents: _Contents = {}
        if grids := Run(self.folder).grids():
            places = np.unique(np.linspace(0, len(grids) - 1, _MOST_FRAMES).round().astype(int))
            scenes = [film.scene(grids[i][1], grids[i][0]) for i in places]
            contents[_FILM] = film.gif(scenes, film.Timing(film.FRAME_MS, film.LAST_MS), min(_GIF_MB, self.most), None)
        limit = min(_PICTURE_MB, self.most)
        for name, truncation in ((_SAMPLES, 1.0), (_TRUNCATED, _TRUNCATION)):
            pixels, seeds = self.samples(truncation)
            text = provenance(self.generator.hash, {"seeds": seeds, "truncation": truncation})
            contents[name] = png(to_image(pixels), limit, text)
        for name, key in ((_GENERATED, "generated"), (_REAL, "real")):
            picture = self.compared(key)
            if picture is not None and self.shows_real:
                text = provenance(self.generator.hash, {"grid": "evaluation"}) if key == "generated" else None
                contents[name] = png(picture, limit, text)
        if self.shows_real and (pairs := self.closest()):
            contents[_CLOSEST] = png(pairs, limit, None)
        return contents

    def samples(self, truncation: float) -> tuple[np.ndarray, str]:
        """A grid of the first seeds (one row per class or combination of conditions), and the range of seeds."""
        config = self.generator.info.config
        shape = layout(config.height, config.width, num_rows(self.generator.info))
        seeds = range(shape.rows * shape.columns)
        in_turn = self.generator.info.labels_in_turn
        labels = None if in_turn is None else in_turn[[seed // shape.columns for seed in seeds]]
        parts = [to_pixels(images) for images in self.generator.batches(seeds, labels, truncation)]
        return grid(np.concatenate(parts), shape.columns), f"0-{len(seeds) - 1}"

    def compared(self, key: str) -> Image.Image | None:
        """A grid of the evaluation."""
        grids = (self.facts.evaluation or Evaluation()).grids
        return opened_member(self.folder, getattr(grids, key)) if grids else None

    def closest(self) -> Image.Image | None:
        """Pairs of a generated image and its nearest training image, in columns."""
        copies = (self.facts.evaluation or Evaluation()).copies
        rows = copies.closest[:_PAIRS] if copies else []
        pairs = [one for row in rows if (one := opened_member(self.folder, row.file)) is not None]
        if not pairs:
            return None
        width, height = pairs[0].size
        columns, gap = 4, 8
        rows_of = -(-len(pairs) // columns)
        sheet = Image.new("RGB", (columns * (width + gap) - gap, rows_of * (height + gap) - gap), "white")
        for i, pair in enumerate(pairs):
            sheet.paste(pair.convert("RGB"), (i % columns * (width + gap), i // columns * (height + gap)))
        return sheet

    # -- text --

    def readme(self, contents: _Contents, weights: Path) -> str:
        facts = self.facts
        parts = [f"# {escape(facts.title)}", card.notice(facts), *self.sample_words()]
        if _FILM in contents:
            time = f", {duration(facts.seconds)} on {escape(facts.run and facts.run.device)}" if facts.seconds else ""
            parts += [
                "## Training progress",
                _image("Preview grids from the first to the last step of training", _FILM),
                f"*Each cell keeps its latent during the training ({facts.images_seen:,} images seen{time}).*",
            ]
        parts += ["## Use", self.use_words(contents, weights)]
        parts += ["## Evaluation", card.evaluation(facts), *self.real_words(contents)]
        for title, part in (
            ("Model", card.about), ("Intended use", card.intended), ("Prohibited use", card.forbidden),
            ("Training data", card.training_data), ("Limits", card.limits), ("Training and its cost", card.cost),
        ):  # fmt: skip
            parts += [f"## {title}", part(facts)]
        parts += ["## Files", self.file_words(contents, weights)]
        return "\n\n".join(parts) + "\n"

    def sample_words(self) -> list[str]:
        config, classes = self.generator.info.config, self.generator.classes
        shape = layout(config.height, config.width, num_rows(self.generator.info))
        last = shape.rows * shape.columns - 1
        rows = ""
        if classes:
            shown = ", ".join(escape(name) for name in classes[: shape.rows])
            more = f" (of {len(classes)} classes)." if len(classes) > shape.rows else "."
            rows = f" One row per class: {shown}{more}"
        elif names := self.generator.label_names:
            shown = "; ".join(escape(name) for name in names[: shape.rows])
            rows = f" One row per combination of conditions: {shown}."
        both = (
            _image(f"{last + 1} generated images, uncurated", _SAMPLES),
            _image(f"The same {last + 1} seeds with truncation {_TRUNCATION:g}", _TRUNCATED),
        )
        heads = ["truncation 1: full diversity", f"truncation {_TRUNCATION:g}: closer to the mean, less diverse"]
        return [
            card.table(heads, [list(both)]),
            f"*Uncurated: all seeds from 0 to {last}, the same on both sides.{rows}*",
        ]

    def use_words(self, contents: _Contents, weights: Path) -> str:
        if _MODEL in contents:
            commands = "pip install ganvas\nganvas sample model --n 16 --out samples"
            return f"```sh\n{commands}\n```\n\nThe weights are a safetensors file; loading it runs no code."
        size = weights.stat().st_size / 1e6
        return (
            f"The weights ({size:,.1f} MB) are not included, because files here are limited to {self.most:g} MB. "
            "The owner of the run can upload them with `ganvas hub push RUN owner/name`. Then generate images with\n\n"
            "```sh\npip install 'ganvas[hub]'\nganvas sample hf://owner/name --n 16 --out samples\n```\n\n"
            "Alternatively, use Git LFS (`git lfs track '*.safetensors'`) and publish again with "
            f"`--max-mb {math.ceil(size)}`."
        )

    def real_words(self, contents: _Contents) -> list[str]:
        facts = self.facts
        licence = escape(facts.licence or "not stated")
        if not self.shows_real:
            return [
                f"No real images are shown: the licence of the training data ({licence}) is not known to permit it."
            ]
        if _REAL not in contents:
            return ["No real images are shown: these weights have no evaluation."]
        by = f", {escape(facts.attribution)}" if facts.attribution else ""
        note = escape(((facts.evaluation or Evaluation()).grids or Grids()).note)
        both = (
            _image("Generated images of the evaluation", _GENERATED),
            _image("Real images of the data set", _REAL),
        )
        parts = [
            card.table(["generated", "real"], [list(both)]),
            f"*Generated: {note}. Real: images of the training data, scaled; {licence}{by}.*",
        ]
        if _CLOSEST in contents:
            parts += [
                "Generated images closest to a training image (left), and that training image (right):",
                _image("Pairs of a generated image and the nearest training image", _CLOSEST),
            ]
        return parts

    def file_words(self, contents: _Contents, weights: Path) -> str:
        there = [name for name in _NAMES if name in contents]
        rows = [[f"[{name}]({name})", _MEANING[name], _size_words(_size_of(contents[name]))] for name in there]
        if _MODEL not in contents:
            rows.append([_MODEL, "weights: not included, see *Use*", _size_words(weights.stat().st_size)])
        return card.table(["file", "", "size"], rows)


def _image(words: str, name: str) -> str:
    return f"![{words}]({name})"


def _size_words(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


def opened_member(folder: Path, name: object) -> Image.Image | None:
    """The image `name` of the run folder; None if it is outside the folder or not an image."""
    path = files.inside(folder, name)
    if path is None:
        return None
    try:
        with opened_image(path) as picture:
            return film.eight_bit(picture)
    except PictureError:
        return None


def png(picture: Image.Image, limit: float, text: dict[str, str] | None) -> bytes:
    """Encode as PNG of at most `limit` MB: enlarge small images by an integer factor, reduce large ones."""
    longer = max(picture.size)
    if longer < _SHARP:
        times = -(-_SHARP // longer)
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    side = min(_WIDEST, max(picture.size))
    while True:
        smaller = picture.copy()
        smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        smaller.save(buffer, "PNG", optimize=True, pnginfo=png_text(text))
        if buffer.tell() <= limit * 1e6:
            return buffer.getvalue()
        side = int(side * 0.9 * math.sqrt(limit * 1e6 / buffer.tell()))  # bytes are proportional to the area


def _nameless(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation without names and features of training images, which may identify people, and without unpublished
    files."""
    values = evaluation.to_dict()
    del values["grids"], values["feature_map"]
    for pair in (values["copies"] or {}).get("closest", []):
        del pair["training"], pair["file"]
    for mark in values["marks"]:
        del mark["file"]
    if values["real_or_fake"]:
        del values["real_or_fake"]["map"]
    return values
