"""Command line: each command parses its options, calls one function and prints. Only this module imports tyro."""

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
app.command(data_app, name="data", help="Check, pack and list data sets")
app.command(hub_app, name="hub", help="Upload and download models")

STYLE = (DisallowNone, PositionalMetavarFromFieldName)  # help style: no option accepts the word None
INTERRUPTED = 128  # exit code of a stopped run: this plus the signal number


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
    """Train a generator on images. Run the same command again to resume.

    Args:
        source: folder or archive of images, named data set (see `ganvas data list`), or run folder to resume
        out: run folder (default: runs/<name of the source>)
        data: folder with the files of a named data set, for example the four files of MNIST
        start: run or model folder to start from; copies every weight whose shape fits
        dry_run: show the chosen options, the networks and the memory needed, then exit without training
    """
    from ganvas import verbs

    if dry_run:
        verbs.dry_run(source, data_path=data, data_config=picture, config=training, start_from=start)
        return 0
    trained = verbs.train(source, out, data_path=data, data_config=picture, config=training, start_from=start)
    if trained.rank:
        return 0
    if trained.signal:
        print(f"stopped and saved; to continue: ganvas {shlex.join(sys.argv[1:])}")
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
    format: Literal["png", "tiff"] = "png",
    no_copies: Annotated[bool, arg(name="no-copies")] = False,
    data: str | None = None,
    device: str | None = None,
    fast: bool = False,
) -> int:
    """Generate images with a trained generator: PNG or TIFF files with manifest.csv, a zip file, or one grid.

    If interrupted, rerun the same command to continue.

    Args:
        source: run folder, model folder, generator.safetensors file, or hf://owner/name on the Hugging Face Hub
        out: output folder or .zip file; with --grid, the image file
        n: number of images
        seed: seed of the first image; each further image uses the next seed
        seeds: seeds to use, overrides --seed and --n, e.g. 0-9,42
        label: class of all images (default: all classes in turn)
        per_class: number of images of every class, written to one folder per class
        truncation: 0 to 1; 1 = full variety, 0 = average image
        grid: write one grid of all images instead of single files
        format: png or tiff; 16 bit if the training images had 16 bit
        no_copies: leave out generated images that are flagged as copies of a training image
        data: training images for --no-copies, needed only if the source is not a run
        device: cpu, cuda or mps (default: the fastest available)
        fast: use half precision and torch.compile on a GPU
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
        grid=grid,
        format=format,
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
    """Make a video that morphs from image to image: GIF, WebP or MP4.

    Args:
        source: run folder, model folder, or hf://owner/name on the Hugging Face Hub
        out: video file; .gif, .webp or .mp4 selects the format
        seeds: seeds of the images, e.g. 1,5,9 (default: 0-3; with several labels: 0)
        favourites: favourites file with the images to use; overrides --seeds
        labels: classes, e.g. Hand,Head: one for all images, one per image, or several with one seed
        truncation: 0 to 1; 1 = full variety, 0 = average image
        frames: number of frames of the whole video, 2 or more
        loop: return to the first image at the end
        fps: frames per second
        scale: enlarge each pixel by this factor (default: chosen from the image size)
        max_mb: maximum size of a GIF in MB
        device: cpu, cuda or mps (default: the fastest available)
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
    """Mix images: take some generator layers (style) from other images and the rest from the first image.

    Args:
        source: run folder, model folder, or hf://owner/name on the Hugging Face Hub
        seeds: the first image, then the images to take layers from, e.g. 3,8,9
        out: grid of the results: first image on the left, the others on top; recipes are saved as .json next to it
        depths: layers to take from the other images: coarse, middle, fine, all, or numbers such as 0-1 (0 = coarsest)
        label: class of all images
        truncation: 0 to 1; 1 = full variety, 0 = average image
        device: cpu, cuda or mps (default: the fastest available)
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
    """Find latent directions that each change one property; save them with the model and draw an image strip for each.

    Args:
        source: run folder or model folder
        out: folder for the strips (default: directions/ in the model folder)
        data: labelled images, for directions learned from labels
        label: class that the direction leads to (default: one direction per class)
        labels: labels of --data, as in training: a csv file, or CelebA attributes such as Smiling
        n: number of directions
        method: features (principal components, default), weights (closed form) or labels (default with --data)
        depth: layer whose features are analysed (0 = coarsest)
        seed: seed of the first image in each strip
        device: cpu, cuda or mps (default: the fastest available)
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
    """Find the latent whose image is closest to a given image, for use in videos, mixes and the studio.

    Args:
        source: run folder, model folder, or hf://owner/name on the Hugging Face Hub
        picture: image file
        out: folder for the comparison image, the loss curve and the recipe
        label: class of the image (default: the class that fits best)
        steps: number of optimisation steps, 1 or more
        seed: seed of the starting point
        device: cpu, cuda or mps (default: the fastest available)
    """
    from ganvas import verbs

    found = verbs.project(source, picture, out, label=label, steps=steps, seed=seed, device=device)
    print(f"distance {found.losses[0]:.4f} at the start, {found.losses[-1]:.4f} at the end: {out / 'projection.png'}")
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
    format: Literal["png", "tiff"] = "png",
    device: str | None = None,
) -> int:
    """Generate the images of a favourites file again at full quality, or add images to the file.

    Args:
        source: run folder, model folder, or hf://owner/name on the Hugging Face Hub
        file: favourites file, written by this command or by the studio
        out: folder for the images
        keep: seeds to add to the file, e.g. 3,7; creates the file if needed
        label: class of the added images
        truncation: truncation of the added images, 0 to 1; 1 = full variety, 0 = average image
        format: png or tiff; 16 bit if the training images had 16 bit
        device: cpu, cuda or mps (default: the fastest available)
    """
    from ganvas import verbs

    paths = verbs.favourites(
        source, file, out, keep=keep, label=label, truncation=truncation, format=format, device=device
    )
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
    """Open the studio in a browser: explore a generator, save favourites, mix, morph, and follow a training run.

    Args:
        folder: run folder, model folder, or a folder of runs
        data: training images for the nearest-image search, needed only if the run's own pack was deleted
        port: port of the server
        host: address to listen on; any address other than this machine's own needs a token
        token: password for the page; visible in the process list, so prefer --token-file or GANVAS_TOKEN
        token_file: file whose first line is the token (default: the environment variable GANVAS_TOKEN)
        device: cpu, cuda or mps (default: the fastest available)
        browser: open the page in the browser
        no_copies: do not serve generated images that are flagged as copies of a training image
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
        browser=browser,
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
    """Export a generator as an ONNX model, a self-contained web page, a torch.export file, or a model folder.

    Args:
        source: run folder, model folder, or hf://owner/name on the Hugging Face Hub
        out: output folder; for onnx and torch also a file name ending in .onnx or .pt2
        to: export format: onnx, web, torch or folder
        weights: number format of the weights in ONNX: float32, float16 or int8
        runtime: folder or .tgz of onnxruntime-web, for --to web (default: downloaded once with npm and cached)
        no_copies: stop with an error if generated images are flagged as copies of training images
        data: training images for --no-copies, needed only if the source is not a run
    """
    from ganvas import verbs

    for path in verbs.export(source, out, to=to, weights=weights, runtime=runtime, no_copies=no_copies, data=data):
        print(path)
    return 0


@app.command
def publish(run: Positional[Path], out: Positional[Path], data_licence: str | None = None, max_mb: float = 25.0) -> int:
    """Write a folder to publish: the model and a README with video, grids, scores and model card.

    Args:
        run: run folder
        out: new folder, or the folder of an earlier publication
        data_licence: licence of the training images; real images are shown only if it allows that
        max_mb: maximum size of a file in MB
    """
    from ganvas.share.publish import publish as write

    print(write(run, out, data_licence=data_licence, max_mb=max_mb))
    return 0


@hub_app.command
def push(source: Positional[Path], repo: Positional[str], public: bool = False, endpoint: str | None = None) -> int:
    """Upload a model (weights, configuration, card). Log in with `hf auth login` or set HF_TOKEN first.

    Args:
        source: run folder or model folder
        repo: owner/name on the Hugging Face Hub, or a local folder
        public: make the model visible to everybody (default: private)
        endpoint: URL of another server with the same protocol (default: the Hugging Face Hub)
    """
    from ganvas import hub

    print(hub.push(source, repo, public=public, endpoint=endpoint))
    return 0


@hub_app.command
def pull(
    repo: Positional[str], out: Path | None = None, revision: str | None = None, endpoint: str | None = None
) -> int:
    """Download a model. No code from the download is executed.

    Args:
        repo: owner/name on the Hugging Face Hub, or a local folder
        out: folder for the model (default: the cache)
        revision: branch, tag or commit (default: the main branch)
        endpoint: URL of another server with the same protocol (default: the Hugging Face Hub)
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
    """Evaluate a generator: quality, diversity and copying, with 95% intervals; write evaluation.json.

    Args:
        run: run folder, or a model folder with --data
        data: training images, needed only if the run's own pack was deleted
        features: feature network: efficientnet-lite0, inception-clean, inception-original, dinov2-vits14, dinov2-vitb14
            or random (default: efficientnet-lite0, or random if that network was used in training)
        weights: weights file of that network, if it is not downloaded
        n: number of real and of generated images (default: 2,000, fewer for large images)
        seed: seed of the first generated image
        truncation: 0 to 1; 1 = full variety, 0 = average image
        usefulness: also train classifiers with and without generated images (needs labels)
        force: compute FID even with fewer than 2,048 images; the result is marked as biased
        device: cpu, cuda or mps (default: the fastest available)
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
    """Write one self-contained HTML report on a run, with advice, or a comparison of several runs.

    Args:
        runs: one or more run folders
        out: HTML file (default: report.html in the run folder; for several runs comparison.html next to them)
    """
    from ganvas.report import report as write

    print(write(runs, out))
    return 0


@app.command
def average(run: Positional[Path], out: Path, width: float = 0.1) -> int:
    """Make a model with another length of weight average (EMA). Needs a run trained with --snapshots.

    Args:
        run: run folder
        out: new model folder
        width: length of the average: standard deviation as a fraction of the training, 0.01 to 0.28
    """
    from ganvas import verbs

    print(verbs.average(run, out, width))
    return 0


@app.command
def video(run: Positional[Path], out: Path | None = None, max_mb: float = 8.0, formats: str | None = None) -> int:
    """Make a video of the training from its preview grids.

    Args:
        run: run folder
        out: folder for the videos (default: the run folder)
        max_mb: maximum size of a GIF in MB
        formats: one or more of gif,webp,mp4 (default: all that are available here)
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
    """Check images before training: counts, sizes, classes, broken files, duplicates, blank images.

    Args:
        source: folder, archive, pack, or named data set
        data: folder with the files of a named data set
        save: also write the report to this JSON file
    """
    from ganvas import verbs

    for line in verbs.check(source, data_path=data, data_config=picture, save=save).lines():
        print(line)
    return 0


@data_app.command
def pack(
    source: Positional[str],
    out: Positional[Path],
    picture: OmitArgPrefixes[DataConfig],
    data: Path | None = None,
) -> int:
    """Convert images to a pack: all images at one size, in memory-mapped files ready for training.

    Args:
        source: folder, archive, or named data set
        out: folder for the pack
        data: folder with the files of a named data set
    """
    from ganvas import verbs

    packed = verbs.pack(source, out, data_path=data, data_config=picture)
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
    """Show versions, the chosen device and why, and missing optional packages with the command that installs them."""
    from ganvas.doctor import lines

    for line in lines():
        print(line)
    return 0


def main() -> int:
    """Run the command line. User errors print one sentence and exit with code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may not be valid text
    try:
        try:
            return app.cli(prog="ganvas", description="Train GANs on your own images.", config=STYLE)
        finally:
            sys.stdout.flush()  # raises BrokenPipeError here if the reader has gone
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
        from ganvas.system.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        what = str(error).partition("\n")[0] or "allocation failed"
        advice = "close other programs, or use smaller images or a smaller batch"
        print(f"ganvas: not enough memory ({what}): {advice}", file=sys.stderr)
        return 2
    except OSError as error:  # unexpected failure of a disk or network folder
        print(f"ganvas: {error}", file=sys.stderr)
        return 2
