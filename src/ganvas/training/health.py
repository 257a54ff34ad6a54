"""Training warnings: detects common problems of GAN training and says what to do.

Inputs: log records (losses, gradients, augmentation) and evaluations during training, which score the moving average:
distance to real images, diversity, checkerboard artefacts, similarity to training images, and the discriminator's
scores of held-out images.

Each warning is shown once, and again only after it has cleared. During the first steps only exploding gradients are
reported: the networks are still close to their random initial weights. The result depends only on the records, so a
resumed run replays its log.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ganvas.augment import MOST_PROBABLE, TARGET
from ganvas.config import TrainConfig
from ganvas.data.batches import images_at, spaced
from ganvas.data.packing.pack import Pack
from ganvas.losses import LOSSES
from ganvas.records import LogRecord, Score, TrainingReport, Variety, Warned
from ganvas.training.state import TrainState
from ganvas.training.step import START_STEPS

PATIENCE = 8  # consecutive reports that start a warning
GAME = 4 * PATIENCE  # reports for the median loss; the same number without the warning clears it
_MEMORY = 30 * PATIENCE  # reports for the usual length of a gradient, about two minutes
REST = 2  # consecutive evaluations without the warning that clear it
_EXPLOSION, _FAINT = 100.0, 1.0  # multiple of the usual gradient length; lower bound of that length
_WON, _LOST = 0.02, 0.98  # fractions of the loss of a constant discriminator
COLLAPSE = 0.2  # diversity relative to real images; two alternating images have 0.5
FLAT, FLAT_IMAGES = 0.05, 2_000  # pixel variation relative to real images; checked after this many images seen
_RESTARTS, RESTART_UNTIL = 2, 0.25  # maximum number of automatic restarts, and last fraction of the budget for one
_SETTLED = 0.15  # fraction of the budget before which similar images are normal
OVERFITTING = 0.5  # score of held-out images, between training (0) and generated images (1)
COPYING = 0.1  # fraction of images closer to one training image than 98% of images that are not copies
CHECKERBOARD = 3.0  # times the checkerboard level of real images
_GROWTH = 1.3  # factor that counts as growth
_STILL, _A_WHILE = 2e-3, 0.2  # mean pixel change relative to the range, within this last fraction of the images seen
PLATEAU, _LONG = 16, 0.6  # fewest evaluations, and last fraction of the images seen, without improvement
_SMALL, _SURE = 0.15, 0.9  # relative decrease of the score that is too small, and confidence that it is not larger
_RALLY = 3.0  # decrease of the latest scores in standard errors that is a recovery
_PROGRESS = 0.02  # relative decrease of the best score that counts as improvement
_FEWEST_SCORED, _MOST_SCORED, _PIXELS = (
    64,
    256,
    2**20,
)  # limits on the images of each kind that the discriminator scores
_CHANCE = 3.0  # standard errors within which two mean scores count as equal


@dataclass(frozen=True)
class Event:
    """A warning that has started."""

    name: str
    words: str
    """The problem."""
    action: str
    """What to do."""

    def at(self, images: int) -> Warned:
        """The record for the log."""
        return Warned(images, self.name, self.words, self.action)

    def __str__(self) -> str:
        return f"{self.words}: {self.action}"


class Watch:
    """Takes every report (`see`), evaluation (`examine`) and preview (`preview`); returns the warnings that start.

    history: log of an interrupted run, so that no warning is repeated. restarts: automatic restarts so far.
    """

    def __init__(self, config: TrainConfig, history: Iterable[LogRecord] = (), restarts: int = 0) -> None:
        self.config, self.restarts = config, restarts
        self.ignorant = ignorant_loss(config)
        rounds = config.n_critic if config.update == "alternating" else 1
        self.start = START_STEPS * config.batch * rounds  # images
        self.reports: deque[TrainingReport] = deque(maxlen=_MEMORY)
        self.vitals: list[Score] = []
        self.varieties: list[Variety] = []
        self.active: dict[str, int] = {}  # active warnings, and for how many checks in a row each was absent
        for record in history:
            if isinstance(record, Warned):
                self.active[record.health] = 0
            elif isinstance(record, Score):
                self._take(record)
            elif isinstance(record, Variety):
                self.varieties.append(record)
            else:
                self.reports.append(record)

    def see(self, record: TrainingReport) -> list[Event]:
        """Checks a report of the loop."""
        self.reports.append(record)
        latest = [report for report in self.reports if report.images > self.start][-GAME:]
        return self._begun([self._exploding(), self._winner(latest), self._augmentation(latest[-PATIENCE:])], GAME)

    def examine(self, record: Score, progress: float) -> list[Event]:
        """Checks an evaluation. progress: fraction of the budget used, 0 to 1."""
        if not self._take(record) or progress < _SETTLED or record.images <= self.start:
            return []
        states = [self._checkerboard(), self._overfitting(), self._copying(), self._collapse()]
        if progress < 1:
            states += [self._still(), self._plateau()]
        return self._begun(states, REST)

    def preview(self, record: Variety, progress: float) -> list[Event]:
        """Checks the variation of preview images (training/preview.py). progress: fraction of the budget used."""
        self.varieties.append(record)
        if record.images < max(FLAT_IMAGES, self.start // 2):
            return []
        return self._begun([self._flat(progress), self._uniform_class()], REST)

    def may_start_again(self, progress: float) -> bool:
        """Whether a run with identical images may still restart automatically."""
        return progress <= RESTART_UNTIL and self.restarts < _RESTARTS

    def start_again(self) -> None:
        """Counts a restart and clears the values measured with the discarded weights."""
        self.restarts += 1
        self.varieties.clear()
        self.active.pop("flat", None)

    def _flat(self, progress: float) -> tuple[str, Event | None]:
        shown = [record.variety for record in self.varieties if record.images >= FLAT_IMAGES][-2:]
        if len(shown) < 2 or max(shown) >= FLAT:
            return "flat", None
        return "flat", Event(
            "flat",
            f"the generated images are nearly identical (variation {shown[-1]:.1%} of real images)",
            "restarting with new weights and half the learning rate"
            if self.may_start_again(progress)
            else "start a new run with half the --lr or another --seed",
        )

    def _uniform_class(self) -> tuple[str, Event | None]:
        shown = [(one.worst_variety, one.worst) for one in self.varieties if one.worst_variety is not None][-3:]
        if len(shown) < 3 or max(variety for variety, _ in shown) >= FLAT:
            return "uniform class", None
        variety, name = shown[-1]
        return "uniform class", Event(
            "uniform class",
            f"the images of class {name} are nearly identical (variation {variety:.1%} of real images)",
            "train longer, raise --r1-features, or train without labels (--no-conditional)",
        )

    def _varied(self) -> bool:
        """Whether the latest images are diverse enough to check for copies and overfitting."""
        return _measured(self.vitals[-1].diversity, 1.0) >= COLLAPSE

    def _take(self, record: Score) -> bool:
        """Stores an evaluation. False for a second one at the same step, which gives no new evidence."""
        new = not self.vitals or record.images > self.vitals[-1].images
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
        every = [("generator", [one.g_norm for one in self.reports])]
        every += [("discriminator", [one.d_norm for one in self.reports])]
        for network, norms in every:
            # The lower bound is for new networks and for a discriminator whose gradients are temporarily near zero.
            usual = max(_FAINT, statistics.median(norms))
            if len(norms) >= PATIENCE and min(norms[-2:]) > _EXPLOSION * usual:
                return "exploding", Event(
                    "exploding",
                    f"exploding gradients: the {network}'s gradient is {norms[-1] / usual:,.0f} times its usual length",
                    "halve --lr, or double --r1",
                )
        return "exploding", None

    def _winner(self, latest: list[TrainingReport]) -> tuple[str, Event | None]:
        if len(latest) < GAME or self.ignorant is None:
            return "winner", None
        loss = statistics.median(record.loss for record in latest) / self.ignorant
        if loss < _WON:
            return "winner", Event(
                "winner",
                f"the discriminator is too strong: its loss is {loss:.1%} of chance level, so the generator learns "
                "little",
                "raise --r1, lower --lr-d, or raise --augment",
            )
        poor = not self.vitals or (self.vitals[-1].precision or 0.0) < 0.5
        if loss > _LOST and poor:
            return "winner", Event(
                "winner",
                "the discriminator is too weak: it cannot distinguish real images from generated images of low quality",
                "lower --r1, or raise --lr-d or --base",
            )
        return "winner", None

    def _augmentation(self, latest: list[TrainingReport]) -> tuple[str, Event | None]:
        at_cap = (
            self.config.adaptive and len(latest) == PATIENCE and all(r.augment > MOST_PROBABLE - 0.01 for r in latest)
        )
        if at_cap and statistics.mean(r.sign for r in latest) > TARGET:
            return "augmentation", Event(
                "augmentation",
                f"augmentation is at its maximum of {MOST_PROBABLE} and the discriminator still overfits",
                "add images, or use a smaller --base",
            )
        return "augmentation", None

    # ---- from evaluations ----

    def _collapse(self) -> tuple[str, Event | None]:
        values = [_measured(record.diversity, 1.0) for record in self.vitals[-3:]]
        if len(values) < 2 or max(values[-2:]) >= COLLAPSE or values[-1] > _GROWTH * values[0]:  # still growing
            return "collapse", None
        scores = [record.score for record in self.vitals]
        if len(scores) < 4 or min(scores[-3:]) < (1 - _PROGRESS) * min(scores[:-3]):  # still improving
            return "collapse", None
        if decrease(*self._latest(4))[0] > 0:
            return "collapse", None
        words = f"mode collapse: the diversity of the generated images is {values[-1]:.0%} of that of real images"
        return "collapse", Event("collapse", words, "start a new run with twice the --r1 or half the --lr")

    def _overfitting(self) -> tuple[str, Event | None]:
        gaps = [record.d_gap or 0.0 for record in self.vitals[-2:]]
        if len(gaps) < 2 or min(gaps) < OVERFITTING or not self._varied():
            return "overfitting", None
        return "overfitting", Event(
            "overfitting",
            f"the discriminator overfits: its score of held-out images is {min(1.0, gaps[-1]):.0%} of the way from "
            "training to generated images",
            "add images, raise --augment or use --adaptive; the best model so far is kept",
        )

    def _copying(self) -> tuple[str, Event | None]:
        near = [record.near or 0.0 for record in self.vitals[-2:]]
        if len(near) < 2 or min(near) < COPYING or not self._varied():
            return "copying", None
        return "copying", Event(
            "copying",
            f"{near[-1]:.0%} of the generated images are very close to a single training image (chance: 2%)",
            "stop early or add images, and check for copies with `ganvas evaluate`",
        )

    def _checkerboard(self) -> tuple[str, Event | None]:
        values = [_measured(record.checkerboard, 1.0) for record in self.vitals]
        latest = values[-2:]
        if len(values) < 4 or min(latest) < CHECKERBOARD:
            return "checkerboard", None
        grown = min(latest) >= _GROWTH * min(values[:-2])
        falling = _GROWTH * sum(latest) < sum(values[-4:-2])  # common early in training
        if "checkerboard" not in self.active and (falling or not grown):
            return "checkerboard", None
        return "checkerboard", Event(
            "checkerboard",
            f"checkerboard artefacts are growing in the generated images ({values[-1]:.1f} times the level of real "
            "images)",
            "use --model residual or compact, which have no transposed convolutions, or a lower --lr",
        )

    def _still(self) -> tuple[str, Event | None]:
        changes = [_measured(record.change, 1.0) for record in self._since(1 - _A_WHILE)]
        if len(changes) < 2 or sum(changes) > _STILL:
            return "still", None
        return "still", Event(
            "still",
            f"the learning rate is too low: images changed by only {sum(changes):.2%} of their range in the last fifth "
            "of the training",
            "raise --lr",
        )

    def _plateau(self) -> tuple[str, Event | None]:
        if len(self.vitals) < PLATEAU:
            return "plateau", None
        images, scores = self._latest(PLATEAU // 2)
        fall, error, freedom = decrease(images, scores)
        rally, doubt, _ = decrease(images[-PLATEAU // 2 :], scores[-PLATEAU // 2 :])
        if rally > _RALLY * doubt:
            return "plateau", None
        most = fall + float(stats.t.ppf(_SURE, freedom)) * error
        if most > _SMALL * max(statistics.mean(scores), 0.0):
            return "plateau", None
        best = min(record.score for record in self.vitals)
        return "plateau", Event(
            "plateau",
            f"the score does not improve: over the last {len(scores)} evaluations it fell by less than {_SMALL:.0%} "
            f"(best {best:.4g})",
            "stop, or continue with a lower --lr; the best model is kept",
        )

    def _latest(self, least: int) -> tuple[list[int], list[float]]:
        """Images seen and scores of the evaluations in the last 60% of the images seen, at least `least` of them."""
        latest = self.vitals[-max(least, len(self._since(1 - _LONG))) :]
        return [record.images for record in latest], [record.score for record in latest]

    def _since(self, part: float) -> list[Score]:
        """Evaluations after this fraction of the images seen. On a slow machine they can be only a few steps apart."""
        return [record for record in self.vitals if record.images > part * self.vitals[-1].images]


def _measured(value: float | None, usual: float) -> float:
    """The value, or the usual one if it was not measured."""
    return usual if value is None else value


def decrease(images: list[int], scores: list[float]) -> tuple[float, float, int]:
    """Decrease from the first to the last of at least 3 scores, by a straight line; standard error; freedom."""
    x, y = np.array(images, float), np.array(scores)
    x, y = (x - x.mean()) / (x[-1] - x[0]), y - y.mean()
    slope = x @ y / (x @ x)
    freedom = len(y) - 2
    return -float(slope), math.sqrt(float(np.square(y - slope * x).sum() / freedom / (x @ x))), freedom


def ignorant_loss(config: TrainConfig) -> float | None:
    """Lowest loss of a discriminator that gives all images the same logit; None if the loss has no fixed scale."""
    loss = LOSSES[config.loss]
    constants = torch.linspace(-2, 2, 81)
    least = float(torch.stack([loss.discriminator(c[None], c[None]).mean() for c in constants]).min())
    return least if least > 0 else None  # the Wasserstein critic has no fixed scale


@torch.inference_mode()
def heldout_scores(state: TrainState) -> dict[str, float]:
    """Mean discriminator scores of training and held-out images, and their gap; empty without held-out images.

    d_gap: 0 if held-out images score like training images, 1 if they score like generated images (r_v of Karras et al.
    2020, "Training generative adversarial networks with limited data", equation 1). Also 0 if the difference is within
    chance or generated images do not score lower than training images. Deterministic.
    """
    pack: Pack = state.batches.pack
    num = min(max(_FEWEST_SCORED, min(_MOST_SCORED, _PIXELS // (pack.height * pack.width))), len(pack.heldout))
    if num < _FEWEST_SCORED // 4:
        return {}
    labelled = state.model.label_size > 0
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
    """Difference of the means; 0 within chance."""
    difference = float(first.mean() - second.mean())
    error = math.sqrt(float(first.var() / len(first) + second.var() / len(second)))
    return difference if abs(difference) > _CHANCE * error else 0.0


def _pictures(pack: Pack, chosen: np.ndarray, labelled: bool) -> tuple[Tensor, Tensor | None]:
    known = pack.labels if pack.conditions is None else pack.conditions
    labels = torch.from_numpy(known[chosen]) if labelled and known is not None else None
    return images_at(pack, chosen), labels


def _logits(state: TrainState, images: Tensor, labels: Tensor | None) -> Tensor:
    """Discriminator logits (N,) on the CPU, computed in micro-batches."""
    parts = images.to(state.device).split(state.micro_batch)
    asked = [None] * len(parts) if labels is None else labels.to(state.device).split(state.micro_batch)
    logits = [state.discriminator(part, label).float().cpu() for part, label in zip(parts, asked, strict=True)]
    return torch.cat(logits)
