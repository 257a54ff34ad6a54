"""The user-facing functions for training, evaluation and export. The command line and Python call the same ones.

Their options are the classes of options.py. data_verbs.py has the functions for data, explore/verbs.py those that use a
generator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganvas import film, hub
from ganvas.callbacks import Callback
from ganvas.config import CHANNELS, DataConfig, TrainOptions
from ganvas.config_files import from_file, template
from ganvas.data.batches import Batches
from ganvas.data.opening import open_pack
from ganvas.data.packing.kept import Kept
from ganvas.data.packing.pack import Pack, is_pack
from ganvas.errors import ConfigError
from ganvas.evaluation.copies import CopyFinder
from ganvas.evaluation.evaluate import evaluate as judge_run
from ganvas.evaluation.evaluate import evaluate_images
from ganvas.evaluation.samples import images_of, pack_of
from ganvas.evaluation.training_score import TrainingScorer
from ganvas.fields import changed, part, takes
from ganvas.generator import Generator, to_pixels
from ganvas.options import Average, Evaluate, Export, Init, PathLike, Train, Video
from ganvas.presets import PRESETS
from ganvas.results import Evaluation
from ganvas.run import Run
from ganvas.share.export import export as export_of
from ganvas.system import files
from ganvas.system.device import Device, choose_device, first_rank_first, prepare_device, process_group, rank
from ganvas.training import loop
from ganvas.training.autotune import choose_workers
from ganvas.training.compiled import call_networks
from ganvas.training.plan import Plan, plan
from ganvas.training.plan_text import show_plan
from ganvas.training.progress import Display
from ganvas.training.session import default_folder, first_images, open_session
from ganvas.training.snapshots import averaged as average_of
from ganvas.training.starting_weights import NONE, NOTICE, SHIPPED, start_for
from ganvas.training.state import TrainState
from ganvas.training.tracking import trackers
from ganvas.training.transfer import open_origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained(loop.Outcome):
    """Result of `train`. folder: of the run. rank: rank of this process."""

    folder: Path
    rank: int

    @property
    def run(self) -> Run:
        """The run folder."""
        return Run(self.folder, writes=False)

    def generator(self, device: str | None = None) -> Generator:
        """The trained generator."""
        return Generator.load(self.folder, device)

    def _repr_html_(self) -> str:
        return self.run._repr_html_()


@takes(Train, from_file)
def train(asked: Train) -> Trained:
    """Train a generator on images, or resume an interrupted run.

    Call again with the same arguments to resume; a finished run is not changed. Returns images seen, seconds, run
    folder, and the signal that stopped the training early (0: none). With dry_run nothing is written.
    """
    source, out = str(asked.source), asked.out
    data, wanted = part(asked, DataConfig), part(asked, TrainOptions)
    if out is None and (run := Run(Path(source), writes=False)).has_config() and run.checkpoints.is_dir():
        record = run.config()
        out, data = source, record.data.options
        source = record.data.source if asked.add else images_of(record.data)
        if asked.dry_run:
            wanted = dataclasses.replace(record.asked, **changed(wanted))
    data, notes = _as_preset(data, wanted)
    folder = Path(out) if out is not None else default_folder(source)
    with process_group(Display(asked.quiet).say):
        display = Display(asked.quiet or rank() > 0)
        device = choose_device(wanted.device)
        prepare_device(device)
        for note in notes:
            display.say(note)
        kept = None
        run = Run(folder, writes=False)
        if run.has_config() and not is_pack(Path(source)) and (asked.add or run.config().data.grown):
            data, kept = _as_before(run, data)
        pack = _open_for_all_ranks(source, data, asked.data, display, kept)
        start = _absolute(asked.start_from)
        if asked.dry_run:
            _show_dry_run(pack, wanted, device, start, display)
            return Trained(0, 0.0, folder=folder, rank=rank())
        callbacks = [*asked.callbacks, *trackers(wanted.track, folder)] if rank() == 0 else []
        return _train_on(pack, source, folder, wanted, device, start, display, callbacks, asked.add)


def _absolute(start_from: PathLike | None) -> str | None:
    """The run or model folder of `--from` as an absolute path; none and the default stay as they are."""
    if start_from is None or str(start_from) == NONE:
        return None if start_from is None else NONE
    return str(Path(start_from).resolve())


def _as_before(run: Run, data: DataConfig) -> tuple[DataConfig, Kept]:
    """Options and held-out images for a run whose images have grown: what was chosen for its first images stays."""
    first, kept = first_images(run)
    changes: dict[str, Any] = {
        "size": data.size or first.size,
        "channels": CHANNELS[first.channels] if data.channels == "auto" else data.channels,
        "kind": data.kind or first.kind,
        "levels": data.levels or f"{first.levels[0]!r}-{first.levels[1]!r}",
    }
    return dataclasses.replace(data, **changes), kept


def _train_on(
    pack: Pack,
    source: str,
    folder: Path,
    asked: TrainOptions,
    device: Device,
    start: str | None,
    display: Display,
    callbacks: list[Callback],
    add: bool = False,
) -> Trained:
    """Start or resume the run `folder` on an open pack."""
    examine = TrainingScorer(pack, str(device.torch_device))
    with Run(folder, writes=rank() == 0) as run:
        if run.writes and not run.is_locked:
            display.say(files.no_locks(folder))
        session = open_session(run, pack, source, asked, device, display, examine, start, add)
        if session.finished:
            display.say(
                f"{folder} is finished ({session.state.images_seen:,} images); increase --minutes, --images or "
                "--epochs to continue"
            )
            return Trained(session.state.images_seen, session.state.seconds, folder=folder, rank=rank())
        networks = call_networks(session.state, session.config, display.say)
        with display, run.informing(callbacks, lambda: session.state.images_seen):
            outcome = loop.train(session.state, networks, session.config, session.info, run, display, examine)
        return Trained(**vars(outcome), folder=folder, rank=rank())


def _show_dry_run(pack: Pack, asked: TrainOptions, device: Device, start: str | None, display: Display) -> None:
    """Show every chosen option with its reason, the layers, the memory, and the number of images that fit in the budget
    (measured in a few steps)."""
    origin = open_origin(Path(start)) if start not in (None, NONE) else None
    planned = plan(pack, asked, device, origin.options(pack.height) if origin is not None else None)
    show_plan(planned, pack, display.console)
    if start_for(planned.model, start) == SHIPPED:
        display.say(f"  {NOTICE}")
    measured_speed(planned, pack, device, display.say)


def measured_speed(planned: Plan, pack: Pack, device: Device, say: Callable[[str], None]) -> float | None:
    """Images per second in a few steps of this plan, and sentences about them; None for budgets below a minute."""
    batches = Batches(
        pack, planned.config.batch, seed=planned.config.seed, device=device.torch_device, mirror=pack.mirror
    )
    state = TrainState(planned.model, planned.config, batches, device)
    try:
        networks = call_networks(state, dataclasses.replace(planned.config, compile=False), say)
        return choose_workers(state, networks, planned.config, pack.kind, say)
    finally:
        batches.close()


def _as_preset(data: DataConfig, asked: TrainOptions) -> tuple[DataConfig, list[str]]:
    """`data` with the image size and channels of the preset, unless the user chose others; and notes for the user."""
    if asked.preset is None:
        return data, []
    preset = PRESETS[asked.preset]
    changes: dict[str, Any] = {}
    if preset.size is not None and data.size is None:
        changes["size"] = preset.size
    if preset.channels is not None and data.channels == "auto":
        changes["channels"] = preset.channels
    if not changes:
        return data, []
    words = " and ".join(f"{name} {value}" for name, value in changes.items())
    return dataclasses.replace(data, **changes), [f"preset {asked.preset} ({preset.title}): images of {words}"]


def _open_for_all_ranks(
    source: str, config: DataConfig, data: PathLike | None, display: Display, kept: Kept | None = None
) -> Pack:
    """Rank 0 makes the pack; the other ranks then open it."""
    with first_rank_first(), display:
        pack = open_pack(source, config, data=data, kept=kept, progress=display.packing)
    if rank() == 0:
        for note in pack.notes:
            display.say(note)
    return pack


@takes(Init)
def init(asked: Init) -> Path:
    """Write a TOML file with every option of `train` and its meaning, as comments. Raises ConfigError if it exists."""
    path = Path(asked.out)
    if path.exists():
        raise ConfigError(f"{path} exists: choose another --out, or delete the file")
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, template(path.name, None if asked.source is None else str(asked.source)))
    return path


@takes(Average)
def average(asked: Average) -> Path:
    """Write a model folder with a weight average of another length. Needs a run trained with --snapshots."""
    return average_of(Path(asked.run), asked.width).save(asked.out)


@takes(Video)
def video(asked: Video) -> list[Path]:
    """Make a video of the training from its preview grids: training.gif, training.webp and training.mp4, or the file
    `out`. Returns the paths.
    """
    with Display(asked.quiet) as display:
        return film.of_training(asked, display.packing)


@takes(Evaluate)
def evaluate(asked: Evaluate) -> Evaluation:
    """Evaluate a run, a model folder (with `data`), or a folder of images (with `against`).

    Writes evaluation.json and evaluation/ there; returns the content of evaluation.json.
    """
    with Display(asked.quiet) as display:
        if asked.against is not None:
            return evaluate_images(asked, display.packing, display.overall)
        return judge_run(asked, display.packing, display.overall)


@takes(Export)
def export(asked: Export) -> list[Path]:
    """Export a generator as an ONNX model, a web page, a torch.export file or a model folder; return the files.

    no_copies: first generate images, and raise ConfigError if any is flagged as a copy of a training image.
    """
    place = hub.local(asked.source)
    if asked.no_copies:
        Display(asked.quiet).say(_refuse_copies(place, asked.data, asked.quiet))
    runtime = None if asked.runtime is None else Path(asked.runtime)
    return export_of(place, asked.out, to=asked.to, weights=asked.weights, runtime=runtime)


def _refuse_copies(source: Path, data: PathLike | None = None, quiet: bool = False) -> str:
    """Check before an export. Raises ConfigError if generated images are flagged as copies of training images.

    data: the training images, if `source` is not a run. Returns the result as a sentence.
    """
    generator = Generator.load(source)
    with Display(quiet) as display:
        finder = CopyFinder(pack_of(source, generator, data, display.packing), display.packing)
        pixels = to_pixels(generator.sample(GATE_SAMPLES, seed=_GATE_SEED), generator.info.depth)
        judged = finder.judge(pixels)
    if judged.caught:
        raise ConfigError(f"not exported, because {judged.sentence}: train on more images or for a shorter time")
    return judged.sentence


GATE_SAMPLES, _GATE_SEED = 500, 1_000_000  # number of images checked, and the first seed, as in an evaluation
