"""The options of every command and of the Python function behind it, stated once.

`ganvas sample runs/mine --n 4` and `ganvas.sample("runs/mine", n=4)` both make `Sample(source="runs/mine", n=4)`.
The command line shows the docstrings as help. Fields without a default are positional on the command line, unless
they are keyword-only. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ganvas import image_formats
from ganvas.callbacks import Callback
from ganvas.config import DataConfig, TrainOptions
from ganvas.errors import ConfigError
from ganvas.fields import FRACTION, NOT_NEGATIVE, POSITIVE, Bounds, Registry, check_bounds

PathLike = str | Path
Format = Annotated[str, Registry(image_formats.__name__, "WRITTEN")]
Filter = Literal["lanczos", "bicubic", "nearest"]
Easing = Literal["cosine", "cubic", "linear"]
_ExportForm = Literal["onnx", "web", "torch", "folder"]
_Weights = Literal["float32", "float16", "int8"]
_Method = Literal["features", "weights", "labels"]

LEAST_EVALUATED = 24  # fewest images of each kind for the measures
EVALUATION_SEED = 1_000_000  # of the first sample; previews and evaluations during training use other seeds
_MOST_ENLARGED = Bounds(1, 64)
_FPS = Bounds(0.1, 120)
_PYTHON_ONLY = {"python_only": True}  # metadata of fields that the command line does not have
_POSITIONAL = {"positional": True}  # metadata of fields that are positional although they have a default


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command."""

    quiet: bool = False
    """Print no progress and no notes."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class _OnDevice(Common):
    """Options of the commands that run a network."""

    device: str | None = None
    """cpu, cuda or mps. Default: the fastest available."""


@dataclass(frozen=True, kw_only=True)
class _Truncated:
    """Options of the commands that sample a generator."""

    truncation: Annotated[float, FRACTION] = 1.0
    """0 to 1; 1 = full variety, 0 = average image."""


@dataclass(frozen=True, kw_only=True)
class Enlarged:
    """Options of the commands that enlarge images."""

    filter: Filter = "lanczos"
    """Filter that enlarges: lanczos (sharp), bicubic (softer), or nearest (keeps pixels square, for pixel art)."""


@dataclass(frozen=True, kw_only=True)
class Files(Enlarged):
    """Options of the commands that write generated images."""

    format: Format | None = None
    """Image format: png or tiff without loss, 16 bit if the training images had 16 bit; jpg (transparent parts become
    white) or webp. Default: by the ending of --out, else png."""
    enlarge: Annotated[int, _MOST_ENLARGED] = 1
    """Enlarge the images by this factor."""
    dpi: Annotated[int | None, Bounds(1, 10_000)] = None
    """Resolution for printing, in dots per inch, stored in the file."""


@dataclass(frozen=True, kw_only=True)
class Frames(Enlarged, Common):
    """Options of the commands that write videos."""

    size: str | None = None
    """Width x height of the video in pixels, e.g. 1080x1080, 1920x1080 or 1080x1920. Images keep their shape; the rest
    is filled with --background."""
    background: str | None = None
    """Colour beside the images and behind transparent ones, such as black or #ffcc00. Default: black, but white for a
    training, whose grids show transparency as a checkerboard; for transparent images none, or white in mp4."""
    max_mb: Annotated[float | None, POSITIVE] = None
    """Maximum size of a GIF in MB (10^6 bytes); frames are reduced until it fits. Default: 8, or none with --size."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.size is not None and self.max_mb is not None:
            raise ConfigError("--size and --max-mb: give one of them")


@dataclass(frozen=True, kw_only=True)
class FromImages(Common, DataConfig):
    """Options of the commands that read images."""

    data: PathLike | None = None
    """Folder with the files of a named data set, such as the four files of MNIST."""

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)


@dataclass(frozen=True)
class _FromGenerator(_OnDevice):
    """Options of the commands that use a trained generator."""

    source: PathLike
    """Run folder, model folder, generator.safetensors file, or hf://owner/name on the Hugging Face Hub."""


# -- train --


@dataclass(frozen=True)
class Train(FromImages, TrainOptions):
    """Train a generator on images. Run the same command again to resume."""

    source: PathLike
    """Folder or archive of images, pack, named data set (see `ganvas data list`), or run folder to resume."""
    out: PathLike | None = None
    """Run folder. Default: runs/<name of the source>."""
    _: KW_ONLY
    start_from: PathLike | None = None
    """Run or model folder to start from; copies every weight whose shape fits. none: start from new weights. Default:
    the weights in this package if they fit the networks, else new weights. Short: `--from`."""
    config: PathLike | None = None
    """File with options: a TOML file as written by `ganvas init`, or the config.json of a run. Options that are given
    directly take precedence."""
    add: bool = False
    """Continue a run to whose images others were added. The held-out images stay held out; all others are trained on.
    Continuing is not bit-exact."""
    dry_run: bool = False
    """Show the chosen options, the networks and the memory needed, without training."""
    callbacks: Sequence[Callback] = field(default=(), metadata=_PYTHON_ONLY)
    """Objects to inform during training (see ganvas.Callback)."""

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        TrainOptions.__post_init__(self)


@dataclass(frozen=True)
class Init(Common):
    """Write a file with all options of `ganvas train`, as comments to edit; use it with `ganvas train --config`."""

    out: PathLike = "run.toml"
    """New TOML file."""
    source: PathLike | None = None
    """Images to train on. Default: to be given on the command line."""


# -- use a generator --


@dataclass(frozen=True)
class Sample(_Truncated, Files, _FromGenerator):
    """Generate images with a trained generator: image files with manifest.csv, a zip file, one image, or one grid.

    If interrupted, rerun the same command to continue.
    """

    out: PathLike = "samples"
    """Output folder or .zip file; with --grid or --n 1, the image file."""
    _: KW_ONLY
    n: Annotated[int, Bounds(1)] = 16
    """Number of images."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the first image; each further image uses the next seed."""
    seeds: str | Sequence[int] | None = None
    """Seeds to use, overrides --seed and --n, e.g. 0-9,42."""
    label: str | int | None = None
    """Class of all images. Default: all classes in turn."""
    conditions: str | Mapping[str, Any] | None = None
    """Conditions of all images, for a model of conditions, e.g. hair=red,glasses=yes,age=60. Other columns are taken
    from combinations of training images that fit."""
    per_class: Annotated[int | None, Bounds(1)] = None
    """Number of images of every class, written to one folder per class; with --no-copies, images that are left out
    are replaced."""
    grid: bool = False
    """Write one grid of all images instead of single files."""
    no_copies: bool = False
    """Leave out generated images that are flagged as copies of a training image."""
    data: PathLike | None = None
    """Training images for --no-copies, needed only if the source is not a run."""
    fast: bool = False
    """Use half precision and torch.compile on a GPU."""


@dataclass(frozen=True)
class Interpolate(_Truncated, Frames, _FromGenerator):
    """Make a video that morphs from image to image: GIF, WebP, MP4, WebM or MOV."""

    out: PathLike = "morph.gif"
    """Video file; .gif, .webp, .mp4, .webm or .mov (ProRes, for video editors) selects the format."""
    _: KW_ONLY
    seeds: str | Sequence[int] | None = None
    """Seeds of the images, e.g. 1,5,9. Default: 0-3; with several labels: 0."""
    favourites: PathLike | None = None
    """Favourites file with the images to use; overrides --seeds."""
    labels: str | Sequence[str] | None = None
    """Classes, e.g. Hand,Head: one for all images, one per image, or several with one seed."""
    conditions: str | Sequence[str | Mapping[str, Any]] | None = None
    """Conditions, separated by semicolons, e.g. "hair=red;hair=black": for all images, one per image, or several with
    one seed."""
    seconds: Annotated[float | None, POSITIVE] = None
    """Length of the whole video. Default: by --frames."""
    frames: Annotated[int | None, Bounds(2)] = None
    """Number of frames of the whole video, 2 or more. Default: 96, or by --seconds."""
    fps: Annotated[float, _FPS] = 24
    """Frames per second."""
    loop: bool = True
    """Return to the first image at the end."""
    easing: Easing = "cosine"
    """Speed between two images: cosine (slow at the images), cubic (slower still), or linear (constant)."""
    enlarge: Annotated[int | None, _MOST_ENLARGED] = None
    """Enlarge the images by this factor. Default: to --size, else to at least 256 pixels."""

    def __post_init__(self) -> None:
        Frames.__post_init__(self)
        if self.seconds is not None and self.frames is not None:
            raise ConfigError("--seconds and --frames: give one of them; --fps is the number of frames per second")
        if self.enlarge is not None and self.size is not None:
            raise ConfigError("--enlarge and --size: give one of them")
        if self.num_frames < 2:
            raise ConfigError(f"--seconds {self.seconds:g}: a video needs at least 2 frames; increase it, or --fps")

    @property
    def num_frames(self) -> int:
        """Number of frames of the whole video."""
        return round(self.seconds * self.fps) if self.seconds is not None else self.frames or 96


@dataclass(frozen=True)
class MixImages(_Truncated, _FromGenerator):
    """Mix images: take some generator layers (style) from other images and the rest from the first image."""

    out: PathLike = "mix.png"
    """Grid of the results: first image on the left, the others on top; recipes are saved as .json next to it."""
    _: KW_ONLY
    seeds: str | Sequence[int]
    """The first image, then the images to take layers from, e.g. 3,8,9."""
    depths: str = "fine"
    """Layers to take from the other images: coarse, middle, fine, all, or numbers such as 0-1 (0 = coarsest)."""
    label: str | int | None = None
    """Class of all images."""
    conditions: str | Mapping[str, Any] | None = None
    """Conditions of all images, e.g. hair=red,age=60."""


@dataclass(frozen=True)
class Directions(_FromGenerator):
    """Find latent directions that each change one property; save them with the model, and an image strip of each."""

    out: PathLike | None = None
    """Folder for the strips. Default: directions/ in the model folder."""
    _: KW_ONLY
    data: PathLike | None = None
    """Labelled images, for directions learned from labels."""
    label: str | None = None
    """Class that the direction leads to. Default: one direction per class."""
    labels: str | None = None
    """Labels of --data, as in training: a csv file, or CelebA attributes such as Smiling."""
    n: Annotated[int, Bounds(1)] = 8
    """Number of directions."""
    method: _Method | None = None
    """features (principal components), weights (closed form) or labels. Default: features, or labels with --data."""
    depth: int | None = None
    """Layer whose features are analysed (0 = coarsest)."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the first image in each strip."""


@dataclass(frozen=True)
class Project(_FromGenerator):
    """Find the latent whose image is closest to a given image, for use in videos, mixes and the studio."""

    image: PathLike
    """Image file."""
    out: PathLike = "projection"
    """Folder for the comparison image, the loss curve and the recipe."""
    _: KW_ONLY
    label: str | None = None
    """Class of the image. Default: the class that fits best."""
    conditions: str | Mapping[str, Any] | None = None
    """Conditions of the image, e.g. hair=red,age=60. Default: the stored combination that fits best."""
    steps: Annotated[int, Bounds(1)] = 300
    """Number of optimisation steps, 1 or more."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the starting point."""


@dataclass(frozen=True)
class KeepFavourites(Files, _FromGenerator):
    """Generate the images of a favourites file again at full quality, or add images to the file."""

    file: PathLike
    """Favourites file, written by this command or by the studio."""
    out: PathLike | None = None
    """Folder for the images."""
    _: KW_ONLY
    keep: str | Sequence[int] | None = None
    """Seeds to add to the file, e.g. 3,7; creates the file if needed."""
    label: str | int | None = None
    """Class of the added images."""
    conditions: str | Mapping[str, Any] | None = None
    """Conditions of the added images, e.g. hair=red,age=60."""
    truncation: Annotated[float, FRACTION] = 1.0
    """Truncation of the added images, 0 to 1; 1 = full variety, 0 = average image."""


@dataclass(frozen=True)
class Studio(_OnDevice):
    """Open the studio in a browser: train on your images, follow the training, evaluate it, explore the generator, save
    favourites, mix and morph.
    """

    folder: PathLike = field(default="runs", metadata=_POSITIONAL)
    """Folder of runs, where new ones are also written; or one run or model folder."""
    _: KW_ONLY
    train: bool | None = None
    """Let the page start trainings and evaluations, upload images, and read the folders of --images. Default: yes if
    only this machine can open the page (no --host); a token is then made if none is given."""
    images: tuple[str, ...] = ()
    """Folders from which the page may read images, with their subfolders. Default: the home folder and the current one;
    none with --host."""
    data: str | None = None
    """Training images for the nearest-image search, needed only if the run's own pack was deleted."""
    port: int = 7860
    """Port of the server; 0 for any free port."""
    host: str = "127.0.0.1"
    """Address to listen on; any address other than this machine's own needs a token."""
    token: str | None = None
    """Password for the page, 16 or more characters; visible in the process list, so prefer --token-file or
    GANVAS_TOKEN."""
    token_file: PathLike | None = None
    """File whose first line is the token. Default: the environment variable GANVAS_TOKEN."""
    browser: bool = True
    """Open the page in the browser."""
    no_copies: bool = False
    """Do not serve generated images that are flagged as copies of a training image."""


# -- evaluate and report --


@dataclass(frozen=True)
class Evaluate(_Truncated, _OnDevice):
    """Evaluate a generator: quality, diversity and copying, with 95% intervals; write evaluation.json.

    With --against, evaluate a folder of generated images of any program against a folder of real images.
    """

    source: PathLike
    """Run folder; model folder with --data; or folder or archive of generated images with --against."""
    _: KW_ONLY
    against: PathLike | None = None
    """Folder or archive of real images to compare the images of the source with. They are read at the size of these
    images, or at --size."""
    out: PathLike | None = None
    """Folder for evaluation.json and its images. Default: the run or model folder; <name>-evaluation next to the source
    with --against, or here for a model on the Hub."""
    size: str | int | None = None
    """With --against: size of the images in pixels, as in training."""
    data: PathLike | None = None
    """Training images, needed only if the run's own pack was deleted."""
    features: str | None = None
    """Feature network: efficientnet-lite0, inception-clean, inception-original, dinov2-vits14, dinov2-vitb14 or random.
    Default: efficientnet-lite0, or random if that network was used in training."""
    weights: PathLike | None = None
    """Weights file of that network, if it is not downloaded."""
    n: int | None = None
    """Number of real and of generated images. Default: 2,000, fewer for large images."""
    seed: Annotated[int, NOT_NEGATIVE] = EVALUATION_SEED
    """Seed of the first generated image; the next images use the following seeds."""
    usefulness: bool = False
    """Also train classifiers with and without generated images (needs labels)."""
    force: bool = False
    """Compute FID even with fewer than 2,048 images; the result is marked as biased."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.n is not None and self.n < LEAST_EVALUATED:
            raise ConfigError(f"--n {self.n}: an evaluation needs at least {LEAST_EVALUATED} images")
        if self.against is None and self.size is not None:
            raise ConfigError("--size works with --against only: a run has its own size")
        if self.against is not None and self.data is not None:
            raise ConfigError("--data works with a run or model folder: with --against, remove it")


@dataclass(frozen=True)
class Report(Common):
    """Write one self-contained HTML report on a run, with advice, or a comparison of several runs."""

    runs: PathLike | Sequence[PathLike] = field(metadata={"many": True})
    """One or more run folders."""
    out: PathLike | None = None
    """HTML file. Default: report.html in the run folder; for several runs comparison.html next to them."""


@dataclass(frozen=True)
class Average(Common):
    """Make a model with another length of weight average (EMA). Needs a run trained with --snapshots."""

    run: PathLike
    """Run folder."""
    _: KW_ONLY
    out: PathLike
    """New model folder."""
    width: float = 0.1
    """Length of the average: standard deviation as a fraction of the training, 0.01 to 0.28."""


@dataclass(frozen=True)
class Video(Frames):
    """Make a video of the training from its preview grids."""

    run: PathLike
    """Run folder."""
    out: PathLike | None = None
    """Folder for the videos, or a file ending in .gif, .webp, .mp4, .webm or .mov. Default: the run folder."""
    _: KW_ONLY
    formats: str | None = None
    """One or more of gif,webp,mp4,webm,mov. Default: gif,webp and, with the extra video, mp4."""
    seconds: Annotated[float | None, POSITIVE] = None
    """Length of the whole video, including 2.5 seconds for the last grid. Default: by --fps."""
    fps: Annotated[float | None, _FPS] = None
    """Grids per second. Default: 8.3, or by --seconds."""
    filter: Filter = "nearest"

    def __post_init__(self) -> None:
        Frames.__post_init__(self)
        if self.seconds is not None and self.fps is not None:
            raise ConfigError("--seconds and --fps: give one of them")


# -- share --


@dataclass(frozen=True)
class Export(Common):
    """Export a generator as an ONNX model, a self-contained web page, a torch.export file, or a model folder."""

    source: PathLike
    """Run folder, model folder, or hf://owner/name on the Hugging Face Hub."""
    _: KW_ONLY
    out: PathLike
    """Output folder; for onnx and torch also a file name ending in .onnx or .pt2."""
    to: _ExportForm = "onnx"
    """Export format."""
    weights: _Weights = "float32"
    """Number format of the weights in ONNX."""
    runtime: PathLike | None = None
    """Folder or .tgz of onnxruntime-web, for --to web. Default: downloaded once with npm and cached."""
    no_copies: bool = False
    """Stop with an error if generated images are flagged as copies of training images."""
    data: PathLike | None = None
    """Training images for --no-copies, needed only if the source is not a run."""


@dataclass(frozen=True)
class Publish(Common):
    """Write a folder to publish: the model and a README with video, grids, scores and model card."""

    run: PathLike
    """Run folder."""
    out: PathLike
    """New folder, or the folder of an earlier publication."""
    _: KW_ONLY
    data_licence: str | None = None
    """Licence of the training images, such as "CC BY 4.0"; real images are shown only if it allows that."""
    max_mb: float = 25.0
    """Maximum size of a file in MB (10^6 bytes), at least 1."""


@dataclass(frozen=True)
class Sign(Common):
    """Sign generated images and videos with C2PA (Content Credentials). The files are changed in place."""

    source: PathLike
    """Image, video, or folder of them, with its subfolders."""
    _: KW_ONLY
    certificate: PathLike
    """File of your certificate and its chain, in PEM format. It must be issued by
    an authority, for the use emailProtection."""
    key: PathLike
    """File of the private key that belongs to the certificate, in PEM format."""


@dataclass(frozen=True)
class Push(Common):
    """Upload a model (weights, configuration, card). Log in with `hf auth login` or set HF_TOKEN first."""

    source: PathLike
    """Run folder or model folder."""
    repo: str
    """owner/name on the Hugging Face Hub, or a local folder."""
    _: KW_ONLY
    public: bool = False
    """Make the model visible to everybody. Default: private."""
    endpoint: str | None = None
    """URL of another server with the same protocol. Default: the Hugging Face Hub."""
    token: str | None = field(default=None, metadata=_PYTHON_ONLY)
    """Access token with write permission. Default: HF_TOKEN, or the token saved by `hf auth login`."""


@dataclass(frozen=True)
class Pull(Common):
    """Download a model. No code from the download is executed."""

    repo: str
    """owner/name on the Hugging Face Hub, or a local folder."""
    _: KW_ONLY
    out: PathLike | None = None
    """Folder for the model. Default: the cache."""
    revision: str | None = None
    """Branch, tag or commit. Default: the main branch."""
    endpoint: str | None = None
    """URL of another server with the same protocol. Default: the Hugging Face Hub."""
    token: str | None = field(default=None, metadata=_PYTHON_ONLY)
    """Access token for private models. Default: HF_TOKEN, or the token saved by `hf auth login`."""


# -- data --


@dataclass(frozen=True)
class Check(FromImages):
    """Check images before training: counts, sizes, classes, broken files, duplicates, blank images."""

    source: PathLike
    """Folder, archive, pack, or named data set."""
    _: KW_ONLY
    save: PathLike | None = None
    """Also write the report to this JSON file."""


@dataclass(frozen=True)
class MakePack(FromImages):
    """Convert images to a pack: all images at one size, in memory-mapped files ready for training."""

    source: PathLike
    """Folder, archive, or named data set."""
    out: PathLike
    """Folder for the pack."""


@dataclass(frozen=True)
class ListSets(Common):
    """List the data sets that Ganvas knows by name."""


@dataclass(frozen=True)
class Doctor(Common):
    """Show versions, the chosen device and why, and missing optional packages with the command that installs them."""
