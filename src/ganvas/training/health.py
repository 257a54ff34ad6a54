"""Watches a training: what goes wrong, in words, and what to do about it.

There are two kinds of evidence. Every report brings the losses, the gradients and the state of the augmentation; every
examination brings vitals of the moving average: its distance to real pictures, its variety, its lattice, its nearness
to training pictures, and what the discriminator thinks of pictures that it was never trained on.

A state is said once, when it begins. The watch is a function of the records alone: a resumed run replays its log.
"""

from __future__ import annotations

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
from ganvas.data.pack import Pack
from ganvas.losses import LOSSES
from ganvas.training.state import TrainState

PATIENCE = 8  # reports in a row that make a state of the losses
EXPLOSION = 100.0  # times the usual length of a gradient
WON, LOST = 0.02, 0.98  # parts of the loss of a discriminator that knows nothing
COLLAPSE = 0.35  # variety of the generated pictures, of the real ones'
SETTLED = 0.15  # part of the budget before which all pictures may still be alike
OVERFITTING = 0.5  # part of the way from training to generated pictures at which the held-out ones are scored
COPYING = 0.1  # share of pictures that are stranger neighbours of a training picture than 98% of the held-out ones
LATTICE, GROWTH = 3.0, 1.3  # times the real pictures' and times its own of three examinations ago
STILL = 2e-3  # mean change of a pixel, of its range, between two examinations
PLATEAU, PROGRESS = 8, 0.02  # examinations, and the part by which the best score must have fallen meanwhile
NUM_SCORED = 64  # pictures of each kind that the discriminator is asked about


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

    history: the log of an interrupted run, so that nothing is said twice.
    """

    def __init__(self, config: TrainConfig, history: Iterable[dict[str, Any]] = ()) -> None:
        self.config = config
        self.ignorant = ignorant_loss(config)
        self.reports: deque[dict[str, Any]] = deque(maxlen=4 * PATIENCE)
        self.vitals: list[dict[str, Any]] = []
        self.active: set[str] = set()
        for record in history:
            if "health" in record:
                self.active.add(record["health"])
            elif "score" in record:
                self.vitals.append(record)
            elif "loss" in record:
                self.reports.append(record)

    def see(self, record: dict[str, Any]) -> list[Event]:
        """A report of the loop: d_real, d_fake, loss, sign, augment, g_norm, d_norm."""
        self.reports.append(record)
        latest = list(self.reports)[-PATIENCE:]
        return self._begun([self._exploding(latest), self._winner(latest), self._augmentation(latest)])

    def examine(self, record: dict[str, Any], progress: float) -> list[Event]:
        """The vitals of an examination (judge/quick.py, `heldout_scores`); progress: part of the budget used."""
        self.vitals.append(record)
        states = [self._lattice(), self._overfitting(), self._copying()]
        if progress >= SETTLED:
            states.append(self._collapse())
        if SETTLED <= progress < 1:
            states += [self._still(), self._plateau()]
        return self._begun(states)

    def _begun(self, states: list[tuple[str, Event | None]]) -> list[Event]:
        begun = [event for name, event in states if event is not None and name not in self.active]
        for name, event in states:
            self.active.discard(name) if event is None else self.active.add(name)
        return begun

    # ---- from reports ----

    def _exploding(self, latest: list[dict[str, Any]]) -> tuple[str, Event | None]:
        for name, network in (("g_norm", "generator"), ("d_norm", "discriminator")):
            usual = statistics.median(record[name] for record in self.reports)
            if len(latest) == PATIENCE and all(record[name] > EXPLOSION * usual for record in latest[-2:]):
                return "exploding", Event(
                    "exploding",
                    f"the {network}'s gradient is {latest[-1][name] / usual:,.0f} times as long as usual",
                    "halve --lr, or double --r1",
                )
        return "exploding", None

    def _winner(self, latest: list[dict[str, Any]]) -> tuple[str, Event | None]:
        if len(latest) < PATIENCE or self.ignorant is None:
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
                "the discriminator has lost: it cannot tell real from generated pictures that are not yet good",
                "lower --r1, or raise --lr-d or --base",
            )
        return "winner", None

    def _augmentation(self, latest: list[dict[str, Any]]) -> tuple[str, Event | None]:
        at_cap = self.config.adaptive and len(latest) == PATIENCE
        if at_cap and all(r["augment"] > MOST - 0.01 and r["sign"] > self.config.adaptive_target for r in latest):
            return "augmentation", Event(
                "augmentation",
                f"augmentation is at its cap of {MOST}, and the discriminator still knows its training pictures",
                "add pictures, or use a smaller --base",
            )
        return "augmentation", None

    # ---- from examinations ----

    def _collapse(self) -> tuple[str, Event | None]:
        diversity = self.vitals[-1]["diversity"]
        if diversity >= COLLAPSE:
            return "collapse", None
        words = f"mode collapse: the generated pictures vary {diversity:.0%} as much as the real ones"
        return "collapse", Event("collapse", words, "start again with twice the --r1 or half the --lr")

    def _overfitting(self) -> tuple[str, Event | None]:
        gaps = [record.get("d_gap", 0.0) for record in self.vitals[-2:]]
        if len(gaps) < 2 or min(gaps) < OVERFITTING:
            return "overfitting", None
        return "overfitting", Event(
            "overfitting",
            "the discriminator knows its training pictures by heart: it scores held-out ones "
            f"{min(1.0, gaps[-1]):.0%} of the way down to generated ones",
            "add pictures, raise --augment or use --adaptive; the best model so far is kept",
        )

    def _copying(self) -> tuple[str, Event | None]:
        near = [record.get("near", 0.0) for record in self.vitals[-2:]]
        if len(near) < 2 or min(near) < COPYING:
            return "copying", None
        return "copying", Event(
            "copying",
            f"{near[-1]:.0%} of the generated pictures lie close to one single training picture (held-out ones: 2%)",
            "stop early or add pictures, and look at `ganvas evaluate`",
        )

    def _lattice(self) -> tuple[str, Event | None]:
        values = [record["lattice"] for record in self.vitals[-4:]]
        if len(values) < 4 or values[-1] < LATTICE or values[-1] < GROWTH * values[0]:
            return "lattice", None
        return "lattice", Event(
            "lattice",
            f"a lattice grows in the generated pictures ({values[-1]:.1f} times the real ones')",
            "use --model residual or compact, which do not upsample by transposed convolutions, or a lower --lr",
        )

    def _still(self) -> tuple[str, Event | None]:
        changes = [record.get("change", 1.0) for record in self.vitals[-2:]]
        if len(changes) < 2 or max(changes) > STILL:
            return "still", None
        return "still", Event(
            "still",
            f"the learning rate has no effect: pictures change by {changes[-1]:.2%} of their range in a while",
            "raise --lr",
        )

    def _plateau(self) -> tuple[str, Event | None]:
        scores = [record["score"] for record in self.vitals]
        if len(scores) < 2 * PLATEAU:
            return "plateau", None
        before, since = min(scores[:-PLATEAU]), min(scores[-PLATEAU:])
        if since < before - PROGRESS * abs(before):
            return "plateau", None
        return "plateau", Event(
            "plateau",
            f"the score has not fallen for {PLATEAU} examinations (best {before:.4g})",
            "further training will not help as it is: stop, or go on with a lower --lr; the best model is kept",
        )


def ignorant_loss(config: TrainConfig) -> float | None:
    """The loss of a discriminator that gives all pictures the same logit, the best one; None where it says nothing."""
    loss = LOSSES[config.loss or ""]
    constants = torch.linspace(-2, 2, 81)
    least = float(torch.stack([loss.discriminator(c[None], c[None]).mean() for c in constants]).min())
    return least if least > 0 else None  # the critic of Wasserstein's loss has no scale


@torch.inference_mode()
def heldout_scores(state: TrainState) -> dict[str, float]:
    """What the discriminator makes of pictures that it never saw; empty where none were set aside.

    d_gap: 0 where it scores held-out pictures like training ones, 1 where like generated ones (r_v of Karras et al.
    2020, "Training generative adversarial networks with limited data", equation 1). Nothing random is drawn.
    """
    pack: Pack = state.batches.pack
    num = min(NUM_SCORED, len(pack.heldout))
    if num < NUM_SCORED // 4:
        return {}
    labelled = bool(state.model.num_classes)
    was_training = state.discriminator.training
    state.discriminator.eval()
    seen = _logits(state, *_pictures(pack, _spread(pack.training, num), labelled))
    unseen = _logits(state, *_pictures(pack, _spread(pack.heldout, num), labelled))
    latents = np.random.default_rng(0).standard_normal((num, state.model.z_dim), np.float32)
    z = torch.from_numpy(latents).to(state.device)
    labels = _pictures(pack, _spread(pack.heldout, num), labelled)[1]
    fake = _logits(state, state.ema.average(z, None if labels is None else labels.to(state.device)), labels)
    state.discriminator.train(was_training)
    gap = (seen - unseen) / max(1e-6, abs(seen - fake))
    return {"d_training": seen, "d_heldout": unseen, "d_gap": gap}


def _spread(indices: np.ndarray, num: int) -> np.ndarray:
    return indices[np.linspace(0, len(indices) - 1, num).astype(int)]


def _pictures(pack: Pack, chosen: np.ndarray, labelled: bool) -> tuple[Tensor, Tensor | None]:
    top = (2**pack.depth - 1) / 2
    images = torch.from_numpy(pack.images[chosen].astype(np.float32)).permute(0, 3, 1, 2) / top - 1
    return images, torch.from_numpy(pack.labels[chosen]) if labelled and pack.labels is not None else None


def _logits(state: TrainState, images: Tensor, labels: Tensor | None) -> float:
    """The mean logit, in micro-batches."""
    parts = images.to(state.device).split(state.micro_batch)
    asked = [None] * len(parts) if labels is None else labels.to(state.device).split(state.micro_batch)
    total = sum(state.discriminator(part, label).float().sum().item() for part, label in zip(parts, asked, strict=True))
    return total / len(images)
