"""Watches a training: what goes wrong, in words, and what to do about it.

There are two kinds of evidence. Every report brings the losses, the gradients and the state of the augmentation; every
examination brings vitals of the moving average: its distance to real images, its variety, its lattice, its nearness
to training images, and what the discriminator thinks of images that it was never trained on.

A state is said once, when it begins, and again only after a rest. Of the first steps only an explosion is said: the
discriminator of fresh networks knows nothing, and their images are all alike. The watch is a function of the records
alone: a resumed run replays its log.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganvas.augment import MOST
from ganvas.config import TrainConfig
from ganvas.data.batches import images_at, spaced
from ganvas.data.pack import Pack
from ganvas.losses import LOSSES
from ganvas.training.state import TrainState
from ganvas.training.step import START_STEPS

PATIENCE = 8  # reports in a row that make a state
GAME = 4 * PATIENCE  # reports whose median loss says who wins; as many without a state end it
MEMORY = 30 * PATIENCE  # reports that say how long a gradient usually is: two minutes of them
REST = 2  # examinations in a row without a state that end it
EXPLOSION, FAINT = 100.0, 1.0  # times the usual length of a gradient, which counts as this at least
WON, LOST = 0.02, 0.98  # parts of the loss of a discriminator that knows nothing
COLLAPSE = 0.2  # variety of the generated images, of the real ones'; two images by turns have a half
FLAT, FLAT_IMAGES = 0.05, 2_000  # variety, of the real images', below which all are the same, after so many images seen
RESTARTS, RESTART_UNTIL = 2, 0.25  # how often a flat run starts again, and in which part of the budget
SETTLED = 0.15  # part of the budget before which all images may still be alike
OVERFITTING = 0.5  # part of the way from training to generated images at which the held-out ones are scored
COPYING = 0.1  # share of images that are nearer to one training image than 98% of those that are no copies
LATTICE = 3.0  # times the real pictures'
GROWTH = 1.3  # what has become so many times as large has grown
STILL, A_WHILE = 2e-3, 0.2  # mean change of a pixel, of its range, in this last part of the images seen
PLATEAU, LONG = 8, 0.25  # examinations, and the last part of the images seen, that the score may stand still
PROGRESS = 0.02  # the part by which the best score must have fallen meanwhile
FEWEST_SCORED, MOST_SCORED, PIXELS = 64, 256, 2**20  # images of each kind that the discriminator is asked about
CHANCE = 3.0  # standard errors within which two mean scores count as the same


@dataclass(frozen=True)
class Event:
    """A state that has begun."""

    name: str
    words: str
    """What is seen."""
    action: str
    """What to do."""

    def record(self, images: int) -> dict[str, Any]:
        """For the log."""
        return {"images": images, "health": self.name, "words": self.words, "action": self.action}

    def __str__(self) -> str:
        return f"{self.words}: {self.action}"


class Watch:
    """Told of every report (`see`) and every examination (`examine`), it answers with the states that begin.

    history: the log of an interrupted run, so that nothing is said twice. restarts: how often it started again.
    """

    def __init__(self, config: TrainConfig, history: Iterable[dict[str, Any]] = (), restarts: int = 0) -> None:
        self.config, self.restarts = config, restarts
        self.ignorant = ignorant_loss(config)
        rounds = config.n_critic or 1 if config.update == "alternating" else 1
        self.start = START_STEPS * (config.batch or 0) * rounds  # images
        self.reports: deque[dict[str, Any]] = deque(maxlen=MEMORY)
        self.vitals: list[dict[str, Any]] = []
        self.varieties: list[dict[str, Any]] = []
        self.active: dict[str, int] = {}  # states, and how often in a row each was not seen
        for record in history:  # a line that lacks what is read here, or has something else in its place, says nothing
            if "health" in record:
                self.active[str(record["health"])] = 0
            elif has_numbers(record, ("score", "diversity", "lattice"), ("d_gap", "near", "change", "precision")):
                self._take(record)
            elif has_numbers(record, ("variety",), ("worst_variety",)) and ("worst" in record) == (
                "worst_variety" in record
            ):
                self.varieties.append(record)
            elif has_numbers(record, ("loss", "g_norm", "d_norm", "augment", "sign")):
                self.reports.append(record)

    def see(self, record: dict[str, Any]) -> list[Event]:
        """A report of the loop: images, d_real, d_fake, loss, sign, augment, g_norm, d_norm."""
        self.reports.append(record)
        latest = [told for told in self.reports if told["images"] > self.start][-GAME:]
        return self._begun([self._exploding(), self._winner(latest), self._augmentation(latest[-PATIENCE:])], GAME)

    def examine(self, record: dict[str, Any], progress: float) -> list[Event]:
        """The vitals of an examination (judge/quick.py, `heldout_scores`); progress: part of the budget used."""
        if not self._take(record) or progress < SETTLED or record["images"] <= self.start:
            return []
        states = [self._lattice(), self._overfitting(), self._copying(), self._collapse()]
        if progress < 1:
            states += [self._still(), self._plateau()]
        return self._begun(states, REST)

    def preview(self, record: dict[str, Any], progress: float) -> list[Event]:
        """The variety of a preview's images (training/preview.py); progress: part of the budget used."""
        if "variety" not in record:
            return []
        self.varieties.append(record)
        if record["images"] < max(FLAT_IMAGES, self.start // 2):
            return []
        return self._begun([self._flat(progress), self._uniform_class()], REST)

    def may_start_again(self, progress: float) -> bool:
        """Whether a run whose images are all the same still starts again by itself."""
        return progress <= RESTART_UNTIL and self.restarts < RESTARTS

    def start_again(self) -> None:
        """Forgets the variety of the weights that were given up."""
        self.restarts += 1
        self.varieties.clear()
        self.active.pop("flat", None)

    def _flat(self, progress: float) -> tuple[str, Event | None]:
        shown = [record["variety"] for record in self.varieties if record["images"] >= FLAT_IMAGES][-2:]
        if len(shown) < 2 or max(shown) >= FLAT:
            return "flat", None
        return "flat", Event(
            "flat",
            f"the generated images are nearly all the same: they vary {shown[-1]:.1%} as much as real ones",
            "starting again with other weights and half the learning rate"
            if self.may_start_again(progress)
            else "start a new run with half the --lr or another --seed",
        )

    def _uniform_class(self) -> tuple[str, Event | None]:
        shown = [record for record in self.varieties if "worst" in record][-3:]
        if len(shown) < 3 or max(record["worst_variety"] for record in shown) >= FLAT:
            return "uniform class", None
        return "uniform class", Event(
            "uniform class",
            f"the images of class {shown[-1]['worst']} are nearly all the same: they vary "
            f"{shown[-1]['worst_variety']:.1%} as much as real ones",
            "train longer, raise --r1-features, or train without labels (--no-conditional)",
        )

    def _varied(self) -> bool:
        """Whether the latest images are varied enough for copies and overfitting to mean anything."""
        return self.vitals[-1].get("diversity", 1.0) >= COLLAPSE

    def _take(self, record: dict[str, Any]) -> bool:
        """Keeps an examination; False for another one at the same step, as the last one may be: it is no evidence."""
        new = not self.vitals or record["images"] > self.vitals[-1]["images"]
        if new:
            self.vitals.append(record)
        return new

    def _begun(self, states: list[tuple[str, Event | None]], rest: int) -> list[Event]:
        begun = [event for name, event in states if event is not None and name not in self.active]
        for name, event in states:
            if event is not None:
                self.active[name] = 0
            elif name in self.active:
                self.active[name] += 1
                if self.active[name] >= rest:
                    del self.active[name]
        return begun

    # ---- from reports ----

    def _exploding(self) -> tuple[str, Event | None]:
        for name, network in (("g_norm", "generator"), ("d_norm", "discriminator")):
            norms = [record[name] for record in self.reports]
            # Fresh networks, and a discriminator that has nothing to learn for a while, are no measure.
            usual = max(FAINT, statistics.median(norms))
            if len(norms) >= PATIENCE and min(norms[-2:]) > EXPLOSION * usual:
                return "exploding", Event(
                    "exploding",
                    f"the {network}'s gradient is {norms[-1] / usual:,.0f} times as long as usual",
                    "halve --lr, or double --r1",
                )
        return "exploding", None

    def _winner(self, latest: list[dict[str, Any]]) -> tuple[str, Event | None]:
        if len(latest) < GAME or self.ignorant is None:
            return "winner", None
        loss = statistics.median(record["loss"] for record in latest) / self.ignorant
        if loss < WON:
            return "winner", Event(
                "winner",
                f"the discriminator has won: its loss is {loss:.1%} of a guess's, and the generator learns little",
                "raise --r1, lower --lr-d, or let it see less with --augment",
            )
        poor = not self.vitals or self.vitals[-1].get("precision", 0.0) < 0.5
        if loss > LOST and poor:
            return "winner", Event(
                "winner",
                "the discriminator has lost: it cannot tell real from generated images that are not yet good",
                "lower --r1, or raise --lr-d or --base",
            )
        return "winner", None

    def _augmentation(self, latest: list[dict[str, Any]]) -> tuple[str, Event | None]:
        at_cap = self.config.adaptive and len(latest) == PATIENCE and all(r["augment"] > MOST - 0.01 for r in latest)
        if at_cap and statistics.mean(r["sign"] for r in latest) > self.config.adaptive_target:
            return "augmentation", Event(
                "augmentation",
                f"augmentation is at its cap of {MOST}, and the discriminator still knows its training pictures",
                "add images, or use a smaller --base",
            )
        return "augmentation", None

    # ---- from examinations ----

    def _collapse(self) -> tuple[str, Event | None]:
        values = [record["diversity"] for record in self.vitals[-3:]]
        if len(values) < 2 or max(values[-2:]) >= COLLAPSE or values[-1] > GROWTH * values[0]:  # young images grow
            return "collapse", None
        scores = [record["score"] for record in self.vitals]
        if len(scores) < 4 or min(scores[-3:]) < (1 - PROGRESS) * min(scores[:-3]):  # it may go on to improve
            return "collapse", None
        words = f"mode collapse: the generated images vary {values[-1]:.0%} as much as the real ones"
        return "collapse", Event("collapse", words, "start again with twice the --r1 or half the --lr")

    def _overfitting(self) -> tuple[str, Event | None]:
        gaps = [record.get("d_gap", 0.0) for record in self.vitals[-2:]]
        if len(gaps) < 2 or min(gaps) < OVERFITTING or not self._varied():
            return "overfitting", None
        return "overfitting", Event(
            "overfitting",
            "the discriminator knows its training images by heart: it scores held-out ones "
            f"{min(1.0, gaps[-1]):.0%} of the way down to generated ones",
            "add images, raise --augment or use --adaptive; the best model so far is kept",
        )

    def _copying(self) -> tuple[str, Event | None]:
        near = [record.get("near", 0.0) for record in self.vitals[-2:]]
        if len(near) < 2 or min(near) < COPYING or not self._varied():
            return "copying", None
        return "copying", Event(
            "copying",
            f"{near[-1]:.0%} of the generated images lie close to one single training image (by chance: 2%)",
            "stop early or add images, and look at `ganvas evaluate`",
        )

    def _lattice(self) -> tuple[str, Event | None]:
        values = [record["lattice"] for record in self.vitals]
        latest = values[-2:]
        if len(values) < 4 or min(latest) < LATTICE:
            return "lattice", None
        grown = min(latest) >= GROWTH * min(values[:-2])
        falling = GROWTH * sum(latest) < sum(values[-4:-2])  # as it often does by itself in young images
        if "lattice" not in self.active and (falling or not grown):
            return "lattice", None
        return "lattice", Event(
            "lattice",
            f"a lattice grows in the generated images ({values[-1]:.1f} times the real ones')",
            "use --model residual or compact, which do not upsample by transposed convolutions, or a lower --lr",
        )

    def _still(self) -> tuple[str, Event | None]:
        changes = [record.get("change", 1.0) for record in self._since(1 - A_WHILE)]
        if len(changes) < 2 or sum(changes) > STILL:
            return "still", None
        return "still", Event(
            "still",
            f"the learning rate has no effect: images change by {sum(changes):.2%} of their range in a fifth of the "
            "training",
            "raise --lr",
        )

    def _plateau(self) -> tuple[str, Event | None]:
        num = max(PLATEAU, len(self._since(1 - LONG)))
        scores = [record["score"] for record in self.vitals]
        if len(scores) < num + PLATEAU:
            return "plateau", None
        before, since = min(scores[:-num]), scores[-num:]
        first, second = (statistics.median(part) for part in (since[: num // 2], since[num // 2 :]))
        rallies = second < first - PROGRESS * abs(first)  # after a time that was worse
        if rallies or min(since) < before - PROGRESS * abs(before):
            return "plateau", None
        return "plateau", Event(
            "plateau",
            f"the score has not fallen for {num} examinations (best {before:.4g})",
            "further training will not help as it is: stop, or go on with a lower --lr; the best model is kept",
        )

    def _since(self, part: float) -> list[dict[str, Any]]:
        """The examinations after this part of the images seen: where the machine is slow, they come close together."""
        return [record for record in self.vitals if record["images"] > part * self.vitals[-1]["images"]]


def has_numbers(record: dict[str, Any], needed: Iterable[str], optional: Iterable[str] = ()) -> bool:
    """Whether a record has all of `needed`, and only numbers there and in `optional`."""
    values = [*(record.get(name) for name in needed), *(record.get(name, 0.0) for name in optional)]
    return all(type(value) in (int, float) for value in values)


def ignorant_loss(config: TrainConfig) -> float | None:
    """The loss of a discriminator that gives all images the same logit, the best one; None where it says nothing."""
    loss = LOSSES[config.loss or ""]
    constants = torch.linspace(-2, 2, 81)
    least = float(torch.stack([loss.discriminator(c[None], c[None]).mean() for c in constants]).min())
    return least if least > 0 else None  # the critic of Wasserstein's loss has no scale


@torch.inference_mode()
def heldout_scores(state: TrainState) -> dict[str, float]:
    """What the discriminator makes of images that it never saw; empty where none were set aside.

    d_gap: 0 where it scores held-out images like training ones, 1 where like generated ones (r_v of Karras et al.
    2020, "Training generative adversarial networks with limited data", equation 1); 0 as well where the difference is
    within chance, and where it takes generated images for training ones. Nothing random is drawn.
    """
    pack: Pack = state.batches.pack
    num = min(max(FEWEST_SCORED, min(MOST_SCORED, PIXELS // (pack.height * pack.width))), len(pack.heldout))
    if num < FEWEST_SCORED // 4:
        return {}
    labelled = bool(state.model.num_classes)
    was_training = state.discriminator.training
    state.discriminator.eval()
    seen = _logits(state, *_pictures(pack, spaced(pack.training, num), labelled))
    unseen = _logits(state, *_pictures(pack, spaced(pack.heldout, num), labelled))
    latents = np.random.default_rng(0).standard_normal((num, state.model.z_dim), np.float32)
    z = torch.from_numpy(latents).to(state.device)
    labels = _pictures(pack, spaced(pack.heldout, num), labelled)[1]
    fake = _logits(state, state.ema.average(z, None if labels is None else labels.to(state.device)), labels)
    state.discriminator.train(was_training)
    known, told_apart = _difference(seen, unseen), _difference(seen, fake)
    gap = known / told_apart if told_apart > 0 else 0.0
    return {"d_training": float(seen.mean()), "d_heldout": float(unseen.mean()), "d_gap": gap}


def _difference(first: Tensor, second: Tensor) -> float:
    """Of the means; 0 within chance."""
    difference = float(first.mean() - second.mean())
    error = math.sqrt(float(first.var() / len(first) + second.var() / len(second)))
    return difference if abs(difference) > CHANCE * error else 0.0


def _pictures(pack: Pack, chosen: np.ndarray, labelled: bool) -> tuple[Tensor, Tensor | None]:
    labels = torch.from_numpy(pack.labels[chosen]) if labelled and pack.labels is not None else None
    return images_at(pack, chosen), labels


def _logits(state: TrainState, images: Tensor, labels: Tensor | None) -> Tensor:
    """In micro-batches; (N,) on the CPU."""
    parts = images.to(state.device).split(state.micro_batch)
    asked = [None] * len(parts) if labels is None else labels.to(state.device).split(state.micro_batch)
    found = [state.discriminator(part, label).float().cpu() for part, label in zip(parts, asked, strict=True)]
    return torch.cat(found)
