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
hub_app = SubcommandApp()
app.command(data_app, name="data", help="check, pack and list data sets")
app.command(hub_app, name="hub", help="push and pull models")

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
    """Train a generator on images; the same command again resumes.

    Args:
        source: a folder or archive of images, or a named set (see `ganvas data list`)
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
    if trained.rank:
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
    source: Positional[str],
    out: Path = Path("samples"),
    n: int = 16,
    seed: int = 0,
    seeds: str | None = None,
    label: str | None = None,
    per_class: int | None = None,
    truncation: float = 1.0,
    grid: bool = False,
    form: Annotated[Literal["png", "tiff"], arg(name="format")] = "png",
    no_copies: Annotated[bool, arg(name="no-copies")] = False,
    data: str | None = None,
    device: str | None = None,
    fast: bool = False,
) -> int:
    """Draw images from a trained generator: PNG or TIFF files and manifest.csv, a zip file, or one grid.

    An interrupted call goes on when it is made again.

    Args:
        source: a run, a model folder, a generator.safetensors file, or hf://owner/name on the hub
        out: folder of the images, or a .zip file; with --grid the image
        n: how many
        seed: seed of the first image; the next ones count up
        seeds: in place of these two, numbers and ranges such as 0-9,42
        label: class of all images; default: all classes in turn
        per_class: so many images of every class, in class folders
        truncation: 1 shows all the variety, towards 0 ever more average images
        grid: one image of all
        form: png or tiff, 16 bit where the data had 16
        no_copies: leave out images that copy a training image
        data: with --no-copies, the training images where there is no run
        device: cpu, cuda or mps; default: the fastest
        fast: half precision and compiled on a GPU
    """
    from ganvas import verbs

    paths = verbs.sample(
        source,
        out,
        num=n,
        seed=seed,
        seeds=seeds,
        label=label,
        per_class=per_class,
        truncation=truncation,
        as_grid=grid,
        form=form,
        no_copies=no_copies,
        data=data,
        device=device,
        fast=fast,
    )
    one_file = grid or out.suffix.lower() == ".zip"
    print(paths[0] if one_file else f"{len(paths)} images and manifest.csv in {out}")
    return 0


@app.command
def interpolate(
    source: Positional[str],
    out: Path = Path("morph.gif"),
    seeds: str | None = None,
    favourites: Path | None = None,
    labels: str | None = None,
    truncation: float = 1.0,
    frames: int = 96,
    loop: bool = True,
    fps: int = 24,
    scale: int | None = None,
    max_mb: float = 8.0,
    device: str | None = None,
) -> int:
    """Make a film that passes through images in turn: GIF, WebP or MP4.

    Args:
        source: a run, a model folder, or hf://owner/name on the hub
        out: the film; its ending says the format
        seeds: the images, such as 1,5,9; default 0-3, with several labels 0
        favourites: in place of seeds, a file of kept images
        labels: classes, such as Hand,Head: one for all, one each, or several with one seed
        truncation: 1 shows all the variety, towards 0 ever more average images
        frames: of the whole film
        loop: the last image leads back to the first
        fps: frames a second
        scale: pixels of the film for each pixel
        max_mb: largest GIF in MB
        device: cpu, cuda or mps; default: the fastest
    """
    from ganvas import verbs

    print(
        verbs.interpolate(
            source,
            out,
            seeds=seeds,
            favourites=favourites,
            labels=labels.split(",") if labels else (),
            truncation=truncation,
            frames=frames,
            loop=loop,
            fps=fps,
            scale=scale,
            max_mb=max_mb,
            device=device,
        )
    )
    return 0


@app.command
def mix(
    source: Positional[str],
    seeds: str,
    out: Path = Path("mix.png"),
    depths: str = "fine",
    label: str | None = None,
    truncation: float = 1.0,
    device: str | None = None,
) -> int:
    """Mix images: the first keeps its structure, each of the others lends its looks at the chosen depths.

    Args:
        source: a run, a model folder, or hf://owner/name on the hub
        seeds: the first image and the lenders, such as 3,8,9
        out: a sheet: lenders above, the first on the left, mixtures below; the mixtures' recipes beside it as .json
        depths: coarse, middle, fine, all, or numbers such as 0-1 (0 is the coarsest)
        label: class of all images
        truncation: 1 shows all the variety, towards 0 ever more average images
        device: cpu, cuda or mps; default: the fastest
    """
    from ganvas import verbs

    print(verbs.mix(source, out, seeds=seeds, depths=depths, label=label, truncation=truncation, device=device))
    return 0


@app.command
def directions(
    source: Positional[str],
    out: Path | None = None,
    data: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    n: int = 8,
    method: Literal["features", "weights", "labels"] | None = None,
    depth: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> int:
    """Find directions, each of which changes one thing; saved by name beside the model, with a strip of images each.

    Args:
        source: a run or a model folder
        out: folder of the strips; default: directions/ beside the model
        data: labelled images, for directions from labels
        label: the class that the direction leads to; default: one direction for each class
        labels: where the labels of --data come from, as in training: a csv file, or CelebA attributes such as Smiling
        n: how many directions
        method: features (principal components, the default), weights (closed form), labels (the default with --data)
        depth: whose features (0 is the coarsest)
        seed: of the images in the strips
        device: cpu, cuda or mps; default: the fastest
    """
    from ganvas import verbs

    for direction, path in verbs.directions(
        source,
        out,
        data=data,
        label=label,
        labels=labels,
        num=n,
        method=method,
        depth=depth,
        seed=seed,
        device=device,
    ):
        print(f"{direction.name:<24}{path}  {direction.source}")
    return 0


@app.command
def project(
    source: Positional[str],
    picture: Positional[Path],
    out: Path = Path("projection"),
    label: str | None = None,
    steps: int = 300,
    seed: int = 0,
    device: str | None = None,
) -> int:
    """Find the latent that comes nearest to a given image, for use in films, mixtures and the studio.

    Args:
        source: a run, a model folder, or hf://owner/name on the hub
        image: an image file
        out: folder for the side by side, the loss curve and the recipe
        label: class of the image; default: whichever comes nearest
        steps: of the optimisation
        seed: of its start
        device: cpu, cuda or mps; default: the fastest
    """
    from ganvas import verbs

    found = verbs.project(source, picture, out, label=label, steps=steps, seed=seed, device=device)
    print(f"distance {found.losses[0]:.4f} at the start, {found.losses[-1]:.4f} now: {out / 'projection.png'}")
    print(f"recipe   {out / 'favourites.json'}")
    return 0


@app.command
def favourites(
    source: Positional[str],
    file: Positional[Path],
    out: Path | None = None,
    keep: str | None = None,
    label: str | None = None,
    truncation: float = 1.0,
    form: Annotated[Literal["png", "tiff"], arg(name="format")] = "png",
    device: str | None = None,
) -> int:
    """Re-make kept images at full quality, and keep more: a favourites file holds their recipes.

    Args:
        source: a run, a model folder, or hf://owner/name on the hub
        file: a favourites file, from here or from the studio
        out: folder of the images
        keep: seeds to add, such as 3,7; makes the file where there is none
        label: class of the added images
        truncation: of the added images
        form: png or tiff, 16 bit where the data had 16
        device: cpu, cuda or mps; default: the fastest
    """
    from ganvas import verbs

    paths = verbs.favourites(source, file, out, keep=keep, label=label, truncation=truncation, form=form, device=device)
    print(f"{len(paths)} images in {out}" if out is not None else file)
    return 0


@app.command
def studio(
    folder: Positional[Path],
    data: str | None = None,
    port: int = 7860,
    host: str = "127.0.0.1",
    token: str | None = None,
    token_file: Path | None = None,
    device: str | None = None,
    browser: bool = True,
    no_copies: Annotated[bool, arg(name="no-copies")] = False,
) -> int:
    """Open a page in the browser: explore a generator, keep images, mix, morph, watch a training.

    Args:
        folder: a run, a model folder, or a folder of runs
        data: the training images, for the nearest one beside each, where the run's own pack is gone
        port: of the page
        host: where to listen; anything but this machine's own address needs a token
        token: a password that the page asks for; others see it in the list of processes, unlike GANVAS_TOKEN's
        token_file: a file whose first line is the token; without it, the environment variable GANVAS_TOKEN
        device: cpu, cuda or mps; default: the fastest
        browser: open it in the browser at once
        no_copies: hand out no image that copies a training image
    """
    from ganvas import studio as page

    page.serve(
        folder,
        host=host,
        port=port,
        token=token,
        token_file=token_file,
        data=data,
        device=device,
        open_browser=browser,
        no_copies=no_copies,
    )
    return 0


@app.command
def export(
    source: Positional[str],
    out: Path,
    to: Literal["onnx", "web", "torch", "folder"] = "onnx",
    weights: Literal["float32", "float16", "int8"] = "float32",
    runtime: Path | None = None,
    no_copies: Annotated[bool, arg(name="no-copies")] = False,
    data: str | None = None,
) -> int:
    """Export a generator: an ONNX model, a web page that runs by itself, a torch.export file, or a model folder.

    Args:
        source: a run, a model folder, or hf://owner/name on the hub
        out: folder of what is written; for onnx and torch also a file name ending in .onnx or .pt2
        to: onnx, web, torch or folder
        weights: how numbers are stored in ONNX: float32, float16 or int8
        runtime: onnxruntime-web for --to web, a folder or .tgz; default: fetched by npm once and kept
        no_copies: refuse a generator that copies training images
        data: with --no-copies, the training images where there is no run
    """
    from ganvas import hub, verbs
    from ganvas.export import export as write

    if no_copies:
        print(verbs.refuse_copies(source, data))
    for path in write(hub.local(source), out, to=to, weights=weights, runtime=runtime):
        print(path)
    return 0


@app.command
def publish(run: Positional[Path], out: Positional[Path], data_licence: str | None = None, max_mb: float = 25.0) -> int:
    """Write a folder to publish: README with film, grids, numbers and card, and the model.

    Args:
        run: a run
        out: a new folder, or one that was published before
        data_licence: of the training images; real ones are shown only where it allows that
        max_mb: largest file in MB
    """
    from ganvas.publish import publish as write

    print(write(run, out, data_licence=data_licence, max_file_mb=max_mb))
    return 0


@hub_app.command
def push(source: Positional[Path], repo: Positional[str], public: bool = False, endpoint: str | None = None) -> int:
    """Upload a model: weights, configuration and card; needs the token of `hf auth login` or HF_TOKEN.

    Args:
        source: a run or a model folder
        repo: owner/name, or a folder
        public: visible for everybody
        endpoint: another server of the same protocol
    """
    from ganvas import hub

    print(hub.push(source, repo, private=not public, endpoint=endpoint))
    return 0


@hub_app.command
def pull(
    repo: Positional[str], out: Path | None = None, revision: str | None = None, endpoint: str | None = None
) -> int:
    """Download a model; nothing in it is ever run.

    Args:
        repo: owner/name, or a folder
        out: folder for the model; default: the cache
        revision: branch, tag or commit
        endpoint: another server of the same protocol
    """
    from ganvas import hub

    print(hub.pull(repo, revision=revision, endpoint=endpoint, out=out))
    return 0


@app.command
def evaluate(
    run: Positional[Path],
    data: str | None = None,
    features: str | None = None,
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
        data: the images that it was trained on, where the run's own pack is gone
        features: efficientnet-lite0, inception-clean, inception-original, dinov2-vits14, dinov2-vitb14 or random;
            default: efficientnet-lite0, but random where that network took part in the training
        weights: the weights of that network, where they come from a file
        n: images of each kind; default 2,000, fewer where they are large
        seed: seed of the first generated image
        truncation: 1 shows all the variety, towards 0 ever more average images
        usefulness: also train classifiers with and without generated images (needs labels)
        force: an FID of fewer than 2,048 images all the same, marked as biased
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
    """Look at images before training: counts, sizes, classes, broken files, duplicates, blanks.

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
    """Turn images into a pack: one size, memory-mapped, ready to train from.

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
    print(f"{packed.num_images:,} images of {packed.height}x{packed.width}x{packed.channels} in {out}")
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
            return app.cli(prog="ganvas", description="Train GANs on your own images.", config=STYLE)
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
    except (RuntimeError, MemoryError) as error:
        from ganvas.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        what = str(error).partition("\n")[0] or "no more can be had"
        advice = "close other programs, or use smaller images or a smaller batch"
        print(f"ganvas: the memory does not suffice ({what}): {advice}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk or a network place that fails where nobody expects it
        print(f"ganvas: {error}", file=sys.stderr)
        return 2
