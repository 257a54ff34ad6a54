"""The distances between real and generated images as rows of a table, each with its meaning and its protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

import ganvas
from ganvas.judge import distances
from ganvas.judge.features import Features
from ganvas.judge.intervals import Interval

INCEPTION = ("inception-original", "inception-clean")
"""Networks in which a Frechet distance is an FID: with other weights than the published ones their name differs."""

Row = dict[str, Any]
Found = TypeVar("Found")


def as_row(
    key: str, name: str, found: Interval, better: str, real: float | None, meaning: str, protocol: str, *flags: str
) -> Row:
    return {
        "key": key,
        "name": name,
        **found._asdict(),
        "better": better,
        "real": real,
        "meaning": meaning,
        "protocol": protocol,
        "flags": list(flags),
    }


def of(measure: Callable[[np.ndarray, np.ndarray], Found], real: np.ndarray, floor: np.ndarray | None) -> Found | None:
    """What other real images get; None where there are too few of them."""
    return None if floor is None else measure(real, floor)


class Measures:
    """The distances between the sets, each with its protocol."""

    def __init__(
        self, features: Features, sampling: str, split: str, num_real: int, num_fake: int,
        trained_with: str | None = None,
    ) -> None:  # fmt: skip
        """sampling: how the generated images were drawn, for the protocol. split: which real ones these are.

        trained_with: the pretrained network that took part in the training; its features are flagged.
        """
        self.features, self.sampling, self.trained_with = features, sampling, trained_with
        self.split, self.num_real, self.num_fake = split, num_real, num_fake

    def row(
        self, key: str, name: str, found: Interval, better: str, real: float | None, meaning: str, more: str = "",
        flags: tuple[str, ...] = (),
    ) -> Row:  # fmt: skip
        protocol = (
            f"{self.num_real:,} real ({self.split}), {self.num_fake:,} generated ({self.sampling})"
            f"{', ' + more if more else ''}; {self.features.protocol}; "
            f"ganvas {ganvas.__version__}, torch {torch.__version__}"
        )
        if self.features.name == self.trained_with:
            flags = (*flags, "too favourable: this network took part in the training")
        return as_row(key, f"{name} ({self.features.name})", found, better, real, meaning, protocol, *flags)

    def rows(
        self, real: np.ndarray, floor: np.ndarray | None, fake: np.ndarray, logits: np.ndarray, force: bool
    ) -> list[Row]:
        """real, floor, fake: features (N, D) of the reference, of other real images and of the generated ones.

        floor: None where there are too few others; what real images would get is then left open.
        force: an FID of too few images all the same.
        """
        inception = self.features.name in INCEPTION
        rows = [
            self.row(
                "kid", "KID", distances.kid_interval(real, fake), "lower", of(distances.kid, real, floor),
                "Distance of the two sets, without the bias of small numbers: 0 for a perfect generator.",
            ),
        ]  # fmt: skip
        if inception:
            rows += self.fid(real, floor, fake, force)
        else:
            rows.append(
                self.row(
                    "frechet", "Frechet distance", distances.frechet_interval(real, fake), "lower",
                    of(distances.frechet, real, floor),
                    "Distance of the sets' means and spreads in this network: no FID; it grows as images get few.",
                )
            )  # fmt: skip
        found, ideal = distances.manifold(real, fake), of(distances.manifold, real, floor)
        for key, name, meaning in (
            ("precision", "Precision", "Share of the generated images that look like some real one: quality."),
            ("recall", "Recall", "Share of the real images that the generator could have made: variety."),
            (
                "density",
                "Density",
                "How deep within the real images the generated ones lie: quality, robustly.",
            ),
            ("coverage", "Coverage", "Share of the real images that have a generated one nearby: variety, robust."),
        ):
            more = "k = 3" if key in ("precision", "recall") else "k = 5"
            best = None if ideal is None else getattr(ideal, key).value
            rows.append(self.row(key, name, getattr(found, key), "higher", best, meaning, more))
        num = min(len(real), len(fake), len(real if floor is None else floor))
        mind = of(distances.mind, real, floor)
        rows += [
            self.row(
                "mind", "MIND", distances.mind(real, fake), "lower", mind and mind.value,
                "Sliced Wasserstein distance of the two sets: like the Frechet distance, but of their whole shape.",
                "1,000 projections, seed 0",
            ),
            self.row(
                "vendi", "Vendi score", distances.vendi(fake[:num]), "near", distances.vendi(real[:num]).value,
                "How many quite different images there are in effect; compare it with the real pictures' number.",
                f"{num:,} images of each kind",
            ),
        ]  # fmt: skip
        if inception:
            rows.append(
                self.row(
                    "inception_score", "Inception score", distances.inception_score(logits), "higher", None,
                    "Clear and varied things by ImageNet's classes; says little of images that are none of those.",
                    "10 splits in order",
                )
            )  # fmt: skip
        return rows

    def fid(self, real: np.ndarray, floor: np.ndarray | None, fake: np.ndarray, force: bool) -> list[Row]:
        """Refused for too few images unless forced, and then marked."""
        biased = distances.check_fid(len(real), len(fake), force)
        flags = (f"biased: fewer than {distances.MINIMUM_FOR_FID:,} pictures",) if biased else ()
        rows = [
            self.row(
                "fid", "FID", distances.frechet_interval(real, fake), "lower", of(distances.frechet, real, floor),
                "Distance of the sets' means and spreads; comparable only at equal numbers and resize.", flags=flags,
            )
        ]  # fmt: skip
        if min(len(real), len(fake)) > 2 * real.shape[1]:
            rows.append(
                self.row(
                    "fid_infinity", "FID, infinite samples", distances.fid_infinity(real, fake), "lower", None,
                    "The FID that endless samples would have, by a straight line in 1/N.", "halves drawn with seed 0",
                    flags,
                )
            )  # fmt: skip
        return rows

    def second(self, real: np.ndarray, floor: np.ndarray | None, fake: np.ndarray) -> Row:
        """KID in another kind of network."""
        return self.row(
            "kid_second", "KID", distances.kid_interval(real, fake), "lower", of(distances.kid, real, floor),
            "The same in another kind of network. Two models that the two rank differently are not clearly ranked.",
        )  # fmt: skip

    def other(self, key: str, split: str, reference: np.ndarray, floor: np.ndarray, fake: np.ndarray) -> Row:
        """KID to the other part of the real images: one that learnt by heart is nearer to the training part."""
        measures = Measures(self.features, self.sampling, split, len(reference), len(fake))
        meaning = {
            "kid_training": "The same to images trained on: far below the other means learnt by heart.",
            "kid_heldout": "The same to images never trained on: far above the other means learnt by heart.",
        }[key]
        return measures.row(
            key, f"KID to {split} pictures", distances.kid_interval(reference, fake), "lower",
            distances.kid(reference, floor), meaning,
        )  # fmt: skip
