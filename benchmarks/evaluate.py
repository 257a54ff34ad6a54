"""How fast features and a whole FID are found, beside pytorch-fid, torch-fidelity and torchmetrics.

    python benchmarks/evaluate.py --data cifar-10-batches-1-2.tar.xz --num 1000 --json evaluate.json

All read the same weights (random ones in the published format, unless --weights gives a file) and the same images:
real ones, and real ones that were blurred. Peers that are not installed (see peers.txt) are left out with a message;
ganvas itself must be (pip install --no-deps -e .).

images/s: the network on images in memory, resize included, batches of --batch for everybody: their own defaults of
50 and 64 are slower on a CPU. Repeats alternate between all of them; the median is shown, with the least and the most.
Peers get tensors in PyTorch's usual layout, as from their own loaders; handed channels-last ones by somebody who knows,
pytorch-fid is 1.4 times faster (21.6 images/s where torch-fidelity made 15.3 and ganvas 29.2), the others are not.
FID s: from images to the distance through each one's public front door, with loading the network and the distance
itself; no caches. pytorch-fid reads PNG files and enlarges images in another way, so its FID is another number.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.utils.data import Dataset

from common import machine, table, write_json
from ganvas import open_pack
from ganvas.config import DataConfig
from ganvas.evaluation.features import Features
from ganvas.evaluation.frechet import frechet
from ganvas.evaluation.inception import Inception

TARGET = 1.95  # times the fastest peer
TOLERANCE = 1e-3  # of the FID, relative
LIBRARIES: list[torch.library.Library] = []


@dataclass(frozen=True)
class Way:
    """One library: makes a function of images (N, H, W, 3) uint8, and the whole FID of two sets of them."""

    package: str
    extractor: Callable[[Path, int], Callable[[np.ndarray], object]]
    fid: Callable[[Path, int, np.ndarray, np.ndarray], float]
    same_resize: bool = True


# ---- ours ----


def ours(weights: Path, _: int) -> Callable[[np.ndarray], object]:
    return Features.load("inception-original", "cpu", weights=weights)


def our_fid(weights: Path, _: int, real: np.ndarray, fake: np.ndarray) -> float:
    features = Features.load("inception-original", "cpu", weights=weights)
    return frechet(features(real), features(fake))


# ---- peers: imported when they are called, as they may be missing ----


def batches(pixels: np.ndarray, batch: int) -> list[Tensor]:
    """(n, 3, H, W) uint8, one channel after the other in memory, as the peers' own loaders make them."""
    return list(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().split(batch))


def pytorch_fid(weights: Path, batch: int) -> Callable[[np.ndarray], object]:
    inception: Any = importlib.import_module("pytorch_fid.inception")
    inception.load_state_dict_from_url = lambda *_, **__: torch.load(weights, weights_only=True)
    network = inception.InceptionV3([3]).eval()
    return lambda pixels: [network(part / 255)[0] for part in batches(pixels, batch)]


def pytorch_fid_fid(weights: Path, batch: int, real: np.ndarray, fake: np.ndarray) -> float:
    inception: Any = importlib.import_module("pytorch_fid.inception")
    fid_score = importlib.import_module("pytorch_fid.fid_score")
    inception.load_state_dict_from_url = lambda *_, **__: torch.load(weights, weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, pixels in (("real", real), ("fake", fake)):
            (Path(folder) / name).mkdir()
            for i, picture in enumerate(pixels):
                Image.fromarray(picture).save(Path(folder) / name / f"{i:05}.png")
        paths = [f"{folder}/real", f"{folder}/fake"]
        return float(fid_score.calculate_fid_given_paths(paths, batch, "cpu", 2048, num_workers=0))


class Bytes(Dataset):
    """Images as torch-fidelity needs them: (3, H, W) uint8."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index]


def torch_fidelity(weights: Path, batch: int) -> Callable[[np.ndarray], object]:
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    network = module.FeatureExtractorInceptionV3("peer", ["2048"], feature_extractor_weights_path=str(weights))
    return lambda pixels: [network(part) for part in batches(pixels, batch)]


def torch_fidelity_fid(weights: Path, batch: int, real: np.ndarray, fake: np.ndarray) -> float:
    calculate_metrics = importlib.import_module("torch_fidelity").calculate_metrics
    sets = {f"input{i}": Bytes(pixels) for i, pixels in ((1, fake), (2, real))}
    options = {"cuda": False, "fid": True, "cache": False, "verbose": False, "batch_size": batch}
    found = calculate_metrics(**sets, feature_extractor_weights_path=str(weights), **options)
    return found["frechet_inception_distance"]


def torchmetrics_metric(weights: Path) -> Any:
    module = importlib.import_module("torchmetrics.image.fid")
    return module.FrechetInceptionDistance(feature_extractor_weights_path=str(weights), antialias=False)


def torchmetrics(weights: Path, batch: int) -> Callable[[np.ndarray], object]:
    network = torchmetrics_metric(weights).inception
    return lambda pixels: [network(part) for part in batches(pixels, batch)]


def torchmetrics_fid(weights: Path, batch: int, real: np.ndarray, fake: np.ndarray) -> float:
    metric = torchmetrics_metric(weights)
    for pixels, is_real in ((real, True), (fake, False)):
        for part in batches(pixels, batch):
            metric.update(part, real=is_real)
    return float(metric.compute())


WAYS = {
    "ganvas": Way("ganvas", ours, our_fid),
    "pytorch-fid": Way("pytorch-fid", pytorch_fid, pytorch_fid_fid, same_resize=False),
    "torch-fidelity": Way("torch-fidelity", torch_fidelity, torch_fidelity_fid),
    "torchmetrics": Way("torchmetrics", torchmetrics, torchmetrics_fid),
}


# ---- what all of them get ----


def random_weights(path: Path) -> Path:
    """A file in the published format, in which every layer passes on what it gets."""
    torch.manual_seed(0)
    network = Inception()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    return path


def pictures(data: str, size: str, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of `num` different images (N, H, W, 3); the second is blurred a little."""
    pack = open_pack(data, DataConfig(size=size, channels="color"))
    chosen = np.random.default_rng(0).permutation(pack.num_images)[: 2 * num]
    if len(chosen) < 2 * num:
        raise SystemExit(f"{data} has {pack.num_images} images: --num {num} takes {2 * num}")
    real, fake = pack.images[np.sort(chosen[:num])], pack.images[np.sort(chosen[num:])]
    blur = ImageFilter.GaussianBlur(0.7)
    return real, np.stack([np.asarray(Image.fromarray(picture).filter(blur)) for picture in fake])


def installed() -> list[str]:
    """The libraries at hand, those that are not being named."""
    if not hasattr(torch.ops.torchvision, "nms"):  # torchvision's two operators, for a PyTorch without them
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        LIBRARIES.append(library)  # which would take its operators along when it goes
    names = []
    for name, way in WAYS.items():
        try:
            version(way.package)
            names.append(name)
        except PackageNotFoundError:
            if name == "ganvas":
                raise SystemExit("ganvas is not installed in this environment: pip install --no-deps -e .") from None
            print(f"{name} is left out: pip install -r benchmarks/peers.txt")
    return names


def quietly(call: Callable[[], float]) -> float:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        return call()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="images: a path, or a set of the catalogue")
    parser.add_argument("--size", default="32")
    parser.add_argument("--num", type=int, default=500, help="images of each of the two sets of the FID")
    parser.add_argument("--timed", type=int, default=32, help="images of one measurement of images/s")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names = installed()
    real, fake = pictures(arguments.data, arguments.size, arguments.num)
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights or random_weights(Path(folder) / "random.pth")
        extractors = {name: WAYS[name].extractor(weights, arguments.batch) for name in names}
        speeds: dict[str, list[float]] = {name: [] for name in names}
        some = real[: arguments.timed]
        for repeat in range(arguments.repeats + 1):
            for name, extract in extractors.items():
                began = time.perf_counter()
                extract(some)
                if repeat:  # the first is a warm-up
                    speeds[name].append(len(some) / (time.perf_counter() - began))
        del extractors
        seconds, found = {}, {}
        for name in names:
            began = time.perf_counter()
            found[name] = quietly(lambda name=name: WAYS[name].fid(weights, arguments.batch, real, fake))
            seconds[name] = time.perf_counter() - began
            print(f"{name}: {statistics.median(speeds[name]):.3g} images/s, FID in {seconds[name]:.3g} s", flush=True)
    rows: list[dict[str, Any]] = [
        {
            "library": name,
            "version": version(WAYS[name].package),
            "images/s": statistics.median(speeds[name]),
            "least": min(speeds[name]),
            "most": max(speeds[name]),
            "FID s": seconds[name],
            "FID": found[name],
            "off by": abs(found[name] / found["ganvas"] - 1) if WAYS[name].same_resize else "other resize",
        }
        for name in names
    ]
    table(f"2 x {arguments.num} images, batches of {arguments.batch}, {torch.get_num_threads()} threads", rows)
    peers = [row for row in rows if row["library"] != "ganvas"]
    summary = {}
    if peers:
        summary = {
            "times_the_fastest_peer": rows[0]["images/s"] / max(row["images/s"] for row in peers),
            "fid_times_the_fastest_peer": min(row["FID s"] for row in peers) / rows[0]["FID s"],
            "fid_off_by": max((row["off by"] for row in peers if row["off by"] != "other resize"), default=None),
        }
        print(summary, f"(aims: at least {TARGET}, off by less than {TOLERANCE})")
    if arguments.json:
        options = {key: str(value) for key, value in vars(arguments).items() if key not in ("json", "weights")}
        options["data"] = Path(arguments.data).name
        about = machine("torch", "numpy", "scipy", *(name for name in ("onnxruntime",) if has(name)))
        threads = torch.get_num_threads()
        write_json(
            arguments.json, {"machine": about, "options": options, "threads": threads, "rows": rows, "summary": summary}
        )


def has(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
