"""Which findings of an evaluation appear for real images and for planted faults?

    python benchmarks/scenarios.py DATA --sets mnist celeba --nums 300 --json scenarios.json

DATA is a folder with mnist/, mednist/, celeba/, comic_faces/ and chest_xray/. Of each set a pack of --nums images is
judged with 200 other images in the role of the generated ones, as they are or with one planted fault. A row of the
table is a scenario: which finding must appear and did not ("missed"), which must not appear and did ("false").
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from common import machine, table, write_json
from copies import ALTERATIONS, PAIRINGS, SETS, clipped, compressed, cropped, rotated
from ganvas.config import DataConfig, ModelConfig
from ganvas.data import Pack, open_pack
from ganvas.evaluation.evaluate import Evaluator
from ganvas.evaluation.samples import FromGenerator
from ganvas.generator import Generator
from ganvas.model_file import ModelInfo
from ganvas.models import build
from ganvas.options import Evaluate

GENERATED = 200  # images
ANY = {"copies", "missing", "collapsed", "lattice", "spectrum", "sharpness", "noise", "tone", "variety", "blank"}
Rng = np.random.Generator


class Drawn(FromGenerator):
    """A generator that gives these images (M, H, W, C)."""

    def __init__(self, pack: Pack, images: np.ndarray, asked: Evaluate) -> None:
        self.given = images
        config = ModelConfig("mlp", pack.height, pack.width, pack.channels, z_dim=8, base=8)
        super().__init__(Generator(build(config)[0], ModelInfo(config)), asked)

    def pixels(self, pack: Pack, num: int, labels: np.ndarray | None, report: Any) -> np.ndarray:
        return self.given


def findings(content: dict[str, Any]) -> set[str]:
    """Names of what an evaluation found."""
    found = {one["what"] for one in content["artefacts"]["findings"] if one["severity"] == "bad"}
    copies, classes = content["copies"] or {}, content["classes"] or {}
    vendi = next(row for row in content["measures"] if row["key"] == "vendi")
    found |= {"copies"} if copies.get("caught") else set()
    found |= {"unlike the data"} if not copies.get("meaningful", True) else set()
    found |= {"missing"} if classes.get("missing") else set()
    return found | ({"collapsed"} if vendi["high"] < 0.5 * vendi["real"] else set())


# ---- scenarios: unseen images, training images, labels of the unseen ones -> the generated images ----


def blurred(images: np.ndarray) -> np.ndarray:
    return clipped(ndimage.gaussian_filter(images.astype(float), (0, 1.2, 1.2, 0)))


def checkered(images: np.ndarray) -> np.ndarray:
    return clipped(images + 8.0 * (np.indices(images.shape[1:3]).sum(axis=0) % 2)[..., None] - 4)


def each(change: Callable[[np.ndarray, Rng], np.ndarray]) -> Callable[[np.ndarray, Rng], np.ndarray]:
    return lambda images, rng: np.stack([change(one, rng) for one in images])


def paired(pairing: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[np.ndarray, Rng], np.ndarray]:
    def change(images: np.ndarray, rng: Rng) -> np.ndarray:
        others = images[rng.permutation(len(images))]
        return np.stack([pairing(one, other) for one, other in zip(images, others, strict=True)])

    return change


Change = Callable[[np.ndarray, Rng], np.ndarray]
OF_UNSEEN: dict[str, tuple[Change, set[str]]] = {
    "real": (lambda images, rng: images, set()),
    "blurred": (lambda images, rng: blurred(images), {"sharpness"}),
    "noisy": (lambda images, rng: clipped(images + rng.normal(0, 10, images.shape)), {"noise"}),
    "jpeg": (each(compressed), set()),
    "brighter": (lambda images, rng: clipped(images + 40.0), {"tone"}),
    "checkerboard": (lambda images, rng: checkered(images), {"noise"}),
    "50 repeated": (lambda images, rng: np.resize(images[:50], images.shape), {"variety"}),
    "flat": (lambda images, rng: np.broadcast_to(images[:, :1, :1], images.shape), {"unlike the data", "blank"}),
    "static": (lambda images, rng: rng.integers(0, 256, images.shape, np.uint8), {"unlike the data"}),
}  # fmt: skip
OF_TRAINING: dict[str, tuple[Change, set[str]]] = {
    "copies": (lambda images, rng: images, {"copies"}),
    "mirrored copies": (lambda images, rng: images[:, :, ::-1], {"copies"}),
    "cropped copies": (each(cropped), {"copies"}),
    "rotated copies": (each(rotated), {"copies"}),
    "blended copies": (paired(PAIRINGS["blend"]), {"copies"}),
    "collaged copies": (paired(PAIRINGS["collage"]), {"copies"}),
    "negative copies": (each(ALTERATIONS["negative"]), {"copies"}),
}
HARMLESS = {"copies", "missing", "unlike the data", "collapsed"}
"""Findings that a fault of appearance must not cause."""


def judged(pack: Pack, images: np.ndarray) -> set[str]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "evaluation").mkdir()
        source = Drawn(pack, np.ascontiguousarray(images), Evaluate("", n=len(images)))
        return findings(Evaluator(source, pack, source.asked, lambda what, done, total: None).content(Path(folder)))


def scenarios(name: str, data: Path, num: int, chosen: list[str] | None, seed: int = 0) -> list[dict[str, Any]]:
    """The rows of one set with a pack of `num` of its images."""
    path, size, _ = SETS[name]
    every = open_pack(data / path, DataConfig(size=size))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(every.images))
    mine, others = np.sort(order[:num]), order[num : num + GENERATED]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        content = {"images": every.images[mine]} | ({} if every.labels is None else {"labels": every.labels[mine]})
        np.savez(Path(folder) / "images.npz", allow_pickle=False, **content)
        pack = open_pack(Path(folder) / "images.npz", DataConfig(kind=every.kind), folder=Path(folder) / "pack")
        unseen = np.asarray(every.images[others])
        training = np.asarray(pack.images[np.resize(rng.permutation(pack.training), GENERATED)])
        cases = {key: (change(unseen, rng), must) for key, (change, must) in OF_UNSEEN.items()}
        cases |= {key: (change(training, rng), must) for key, (change, must) in OF_TRAINING.items()}
        if every.labels is not None:
            cases["one class missing"] = (unseen[every.labels[others] != every.labels[others[0]]], {"missing"})
        for key, (images, must) in cases.items():
            if chosen and key not in chosen:
                continue
            found = judged(pack, images)
            allowed = must if key == "real" or key in OF_TRAINING else must | (ANY - HARMLESS)
            allowed |= {"collapsed"} if must & {"unlike the data", "variety"} else set()
            row = {"data": name, "images": num, "scenario": key}
            missed, false = (", ".join(sorted(one)) or "-" for one in (must - found, found - allowed))
            rows.append(row | {"missed": missed, "false": false, "all": ", ".join(sorted(found)) or "-"})
            print(*rows[-1].values(), sep="; ", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--nums", nargs="+", type=int, default=[300])
    parser.add_argument("--scenarios", nargs="+", choices=[*OF_UNSEEN, *OF_TRAINING, "one class missing"])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    for name in asked.sets:
        for num in asked.nums:
            rows += scenarios(name, asked.data, num, asked.scenarios)
            table(f"{name}, {num} images", [row for row in rows if (row["data"], row["images"]) == (name, num)])
    if asked.json:
        write_json(asked.json, {"machine": machine("torch", "numpy"), "rows": rows})


if __name__ == "__main__":
    main()
