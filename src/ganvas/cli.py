"""The command line: parse, call one function, print. Nothing else in Ganvas knows the command-line library."""

from __future__ import annotations

import io
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import DisallowNone, OmitArgPrefixes, Positional, PositionalMetavarFromFieldName, arg
from tyro.extras import SubcommandApp

from ganvas.config import DataConfig, TrainConfig
from ganvas.errors import GanvasError

app = SubcommandApp()
data_app = SubcommandApp()
app.command(data_app, name="data", help="check, pack and list data sets")

STYLE = (DisallowNone, PositionalMetavarFromFieldName)  # of the help: no option takes the word None
INTERRUPTED = 128  # plus the signal's number: the exit code of a run that was stopped


@app.command
def train(
    source: Positional[str],
    picture: OmitArgPrefixes[DataConfig],
    training: OmitArgPrefixes[TrainConfig],
    out: Path | None = None,
    data: Path | None = None,
    start: Annotated[Path | None, arg(name="from")] = None,
    dry_run: bool = False,
) -> int:
    """Train a generator on pictures; the same command again resumes.

    Args:
        source: a folder or archive of pictures, or a named set (see `ganvas data list`)
        out: run folder; default runs/<name of the source>
        data: where a named set's files lie, for example the four files of MNIST
        start: a run or model folder whose weights a new run begins with, as far as they fit
        dry_run: show the plan, the networks and the memory, then stop
    """
    from ganvas import verbs

    if dry_run:
        verbs.dry_run(source, data_path=data, data_config=picture, config=training, start_from=start)
        return 0
    trained = verbs.train(source, out, data_path=data, data_config=picture, config=training, start_from=start)
    if os.environ.get("RANK", "0") != "0":
        return 0
    if trained.signal:
        print(f"stopped and saved; to go on: ganvas {shlex.join(sys.argv[1:])}")
        return INTERRUPTED + trained.signal
    grids = sorted((trained.folder / "samples").glob("*.png"))
    print(f"grid   {grids[-1] if grids else 'none'}")
    print(f"model  {trained.folder / 'model'}")
    name = shlex.quote(str(trained.folder))
    print(f"next   ganvas sample {name} --n 64 --out samples/; ganvas video {name}")
    return 0


@app.command
def sample(
    source: Positional[Path],
    out: Path = Path("samples"),
    n: int = 16,
    seed: int = 0,
    label: str | None = None,
    truncation: float = 1.0,
    grid: bool = False,
    form: Annotated[Literal["png", "tiff"], arg(name="format")] = "png",
    no_copies: Annotated[bool, arg(name="no-copies")] = False,
    data: str | None = None,
    device: str | None = None,
) -> int:
    """Draw pictures from a trained generator: PNG or TIFF files and manifest.csv, or one grid.

    Args:
        source: a run, a model folder or a generator.safetensors file
        out: folder of the pictures; with --grid the file
        n: how many
        seed: seed of the first picture; the next ones count up
        label: class of all pictures; default: all classes in turn
        truncation: 1 shows all the variety, towards 0 ever more average pictures
        grid: one picture of all
        form: png or tiff, 16 bit where the data had 16
        no_copies: leave out pictures that copy a training picture
        data: with --no-copies, the training pictures where there is no run
        device: cpu, cuda or mps; default: the fastest
    """
    from ganvas import verbs

    paths = verbs.sample(
        source,
        out,
        num=n,
        seed=seed,
        label=label,
        truncation=truncation,
        as_grid=grid,
        form=form,
        no_copies=no_copies,
        data=data,
        device=device,
    )
    print(paths[0] if grid else f"{len(paths)} pictures and manifest.csv in {out}")
    return 0


@app.command
def evaluate(
    run: Positional[Path],
    data: str | None = None,
    features: str = "efficientnet-lite0",
    weights: Path | None = None,
    n: int | None = None,
    seed: int = 1_000_000,
    truncation: float = 1.0,
    usefulness: bool = False,
    force: bool = False,
    device: str | None = None,
) -> int:
    """Judge a generator: quality, variety and novelty with intervals, into evaluation.json beside the model.

    Args:
        run: a run, or a model folder with --data
        data: the pictures that it was trained on, where the run's own pack is gone
        features: efficientnet-lite0, inception-clean, inception-original, dinov2-vits14, dinov2-vitb14, random
        weights: the weights of that network, where they come from a file
        n: pictures of each kind; default 2,000, fewer where they are large
        seed: seed of the first generated picture
        truncation: 1 shows all the variety, towards 0 ever more average pictures
        usefulness: also train classifiers with and without generated pictures (needs labels)
        force: an FID of fewer than 2,048 pictures all the same, marked as biased
        device: cpu, cuda or mps; default: the fastest
    """
    from ganvas import verbs

    found = verbs.evaluate(
        run,
        data=data,
        features=features,
        weights=weights,
        num=n,
        seed=seed,
        truncation=truncation,
        usefulness=usefulness,
        force=force,
        device=device,
    )
    for line in verbs.lines(found):
        print(line)
    print(f"next   ganvas report {shlex.quote(str(run))}")
    return 0


@app.command
def report(runs: Positional[list[Path]], out: Path | None = None) -> int:
    """Write one self-contained HTML page about a run, with advice; or one that compares several.

    Args:
        runs: one or more run folders
        out: the page; default report.html in the run, or comparison.html beside several
    """
    from ganvas.report import report as write

    print(write(runs, out))
    return 0


@app.command
def average(run: Positional[Path], out: Path, width: float = 0.1) -> int:
    """Make a model whose weights are averaged over another part of the training; needs a run with --snapshots.

    Args:
        run: a run folder
        out: the new model folder
        width: standard deviation of the average's memory, as a part of the training: 0.01 to 0.28
    """
    from ganvas import verbs

    print(verbs.average(run, out, width))
    return 0


@app.command
def video(run: Positional[Path], out: Path | None = None, max_mb: float = 8.0, formats: str | None = None) -> int:
    """Make the film of a training from its preview grids.

    Args:
        run: a run folder
        out: folder of the films; default: the run folder
        max_mb: largest GIF in MB
        formats: some of gif,webp,mp4; default: all that can be made here
    """
    from ganvas.film import video as make

    for path in make(run, out, max_mb, formats):
        print(path)
    return 0


@data_app.command
def check(
    source: Positional[str],
    picture: OmitArgPrefixes[DataConfig],
    data: Path | None = None,
    save: Annotated[Path | None, arg(name="json")] = None,
) -> int:
    """Look at pictures before training: counts, sizes, classes, broken files, duplicates, blanks.

    Args:
        source: a folder, an archive, a pack or a named set
        data: where a named set's files lie
        save: also write the report to this file
    """
    from ganvas import files
    from ganvas.data.checkup import check as examine
    from ganvas.training.progress import Display

    with Display() as display:
        report = examine(source, picture, path=data, progress=display.packing)
    for line in report.lines():
        print(line)
    if save is not None:
        files.write_text(save, report.to_json() + "\n")
    return 0


@data_app.command
def pack(
    source: Positional[str],
    out: Positional[Path],
    picture: OmitArgPrefixes[DataConfig],
    data: Path | None = None,
) -> int:
    """Turn pictures into a pack: one size, memory-mapped, ready to train from.

    Args:
        source: a folder, an archive or a named set
        out: folder of the pack
        data: where a named set's files lie
    """
    from ganvas.data import open_pack
    from ganvas.training.progress import Display

    with Display() as display:
        packed = open_pack(source, picture, path=data, folder=out, progress=display.packing)
    for note in packed.notes:
        print(note)
    print(f"{packed.num_images:,} pictures of {packed.height}x{packed.width}x{packed.channels} in {out}")
    return 0


@data_app.command(name="list")
def list_sets() -> int:
    """List the data sets that Ganvas knows by name."""
    from ganvas.data.catalog import CATALOG

    for entry in CATALOG.values():
        print(f"{entry.name:<15}{entry.title}")
    return 0


@app.command
def doctor() -> int:
    """Show versions, the device and why it was chosen, and what is missing with the command that installs it."""
    from ganvas.doctor import lines

    for line in lines():
        print(line)
    return 0


def main() -> int:
    """Runs the command line; a user's error is one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        try:
            return app.cli(prog="ganvas", description="Train GANs on your own pictures.", config=STYLE)
        finally:
            sys.stdout.flush()  # here, where it is noticed that nobody reads
    except GanvasError as error:
        print(f"ganvas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ganvas: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a disk or a network place that fails where nobody expects it
        print(f"ganvas: {error}", file=sys.stderr)
        return 2
