"""From evidence to the next command: pure functions of an evaluation, a log and a configuration.

First comes one diagnosis: not evaluated, not trained enough, unstable, collapsed, overfitted, still improving, or
limited by the network. Artefacts and augmentation are checked only if none applies. At most two actions are given.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ganvas.config import BUDGET_FIELDS
from ganvas.errors import amount, duration
from ganvas.models import MODELS
from ganvas.models.residual import SIZES
from ganvas.records import LogRecord, Warned
from ganvas.reporting.reading import sorted_out
from ganvas.results import Artefacts, ClassResults, CopyResults, Evaluation, Interval
from ganvas.run_config import RunConfig
from ganvas.training.autotune import RECOGNISABLE
from ganvas.training.health import CHECKERBOARD, COLLAPSE, COPYING, OVERFITTING

_MOST_ACTIONS = 2
_FALLING = 0.1  # relative fall of the best score in the last quarter that means: still improving
_FLAT = 0.03  # the same in the last half: converged
_NO_OVERFITTING = 0.15  # discriminator gap below which augmentation is not needed
_STRONG = 0.4  # a high probability of augmentation
_OVERFITTED_BELOW = 2_000  # training images below which overfitting is the rule (Karras et al. 2020a, figure 1)
_UNRECOGNISABLE = 0.2  # precision relative to real images below which only more training is recommended
_SHORT_OF = 0.7  # precision relative to real images of a good generator
_COLLAPSED = 0.5  # coverage or recall relative to real images that means: diversity is lost
_BLUNT, _HARSH = 0.6, 1.6  # sharpness relative to real images
_RECOGNISED = 0.8  # class accuracy relative to the mean that means: a weak class
_SHARE = 0.05  # difference of shares that is more than chance
_MORE, _TWICE, _HALF = 3, 2.0, 0.5
_PATTERNS = {"noise", "checkerboard", "blocks"}
_NEXT_SIZE = dict(itertools.pairwise(SIZES))


@dataclass(frozen=True)
class Advice:
    """One thing to do."""

    title: str
    evidence: str
    """The measured figures, in one or two sentences."""
    command: str
    """The command to run next."""


def advice(evaluation: Evaluation | None, log: list[LogRecord], config: RunConfig, run: str = "RUN") -> list[Advice]:
    """At most two actions, the most urgent first; empty if no problem was found.

    run: the run folder as it is written in the commands.
    """
    case = _Case(evaluation or Evaluation(), log, config, run)
    first = [] if evaluation is not None else [_not_evaluated(case)]
    diagnosis = next((actions for rule in _DIAGNOSES if (actions := [*rule(case)])), None)
    if diagnosis and diagnosis[0].title == _TRAIN_LONGER:
        return [*first, *diagnosis][:_MOST_ACTIONS]  # all else may change with training
    others = [one for rule in _OTHERS for one in rule(case)]
    appearance = [] if diagnosis else [one for rule in _APPEARANCE for one in rule(case)]
    by_command: dict[str, Advice] = {}
    for one in [*first, *(diagnosis or []), *others, *appearance]:
        by_command.setdefault(one.command, one)  # one command may solve two problems
    return [*by_command.values()][:_MOST_ACTIONS]


class _Case:
    """The evidence by name."""

    def __init__(self, evaluation: Evaluation, log: list[LogRecord], config: RunConfig, run: str) -> None:
        self.evaluation, self.config, self.run = evaluation, config, run
        self.reports, self.vitals, health = sorted_out(log)
        self.health = {event.health: event.words for event in health if self.lasts(event)}
        self.train, self.num_training = config.train, config.data.num_training
        self.measures = evaluation.by_key
        self.copies, self.artefacts = evaluation.copies or CopyResults(), evaluation.artefacts or Artefacts()
        self.classes = evaluation.classes or ClassResults()
        self.unlike = evaluation.unlike or not self.copies.meaningful
        self.wrong = {one.what: one.sentence for one in self.artefacts.findings if one.severity == "bad"}
        self.overfitted = _overfitting(self)

    def lasts(self, event: Warned) -> bool:
        """Whether a training warning still holds: later evaluations do not show the opposite."""
        since = [record for record in self.vitals if record.images > event.images]
        before = [record.score for record in self.vitals if record.images <= event.images]
        if not since:
            return True
        last = since[-1]
        match event.health:
            case "collapse":
                return last.diversity is None or last.diversity < COLLAPSE
            case "copying":
                return last.near is None or last.near >= COPYING
            case "overfitting":
                return last.d_gap is None or last.d_gap >= OVERFITTING
            case "checkerboard":
                return last.checkerboard is None or last.checkerboard >= CHECKERBOARD
        best = min(record.score for record in since)
        return not before or best > (1 - _FALLING) * min(before)

    @property
    def spoiled(self) -> bool:
        """Whether blur, or a pattern, of images that resemble the data lowers their precision, whatever the training.

        Images of a short run are blurred as well, and need more training.
        """
        blurred = self.blurred and (self.is_flat() or not self.images_seen)
        return not self.unlike and (blurred or bool(_PATTERNS & self.wrong.keys()))

    @property
    def blurred(self) -> bool:
        return self.wrong.get("sharpness", "").startswith("Blurrier")

    @property
    def images_seen(self) -> int:
        return self.reports[-1].images if self.reports else 0

    def vital(self, name: str) -> float | None:
        """The value of the last evaluation during training."""
        values = (getattr(record, name) for record in reversed(self.vitals))
        return next((value for value in values if value is not None), None)

    def compared(self, key: str) -> float:
        """The upper end of the interval of a measure divided by its value for real images; 1 if unknown."""
        row = self.measures.get(key)
        return row.high / row.real if row and row.real else 1.0

    def best_scores(self, part: float) -> tuple[float, float] | None:
        """Best score before the last `part` of the evaluations, and within it; None for fewer than 8."""
        scores = [record.score for record in self.vitals]
        if len(scores) < 8:
            return None
        cut = len(scores) - max(2, round(part * len(scores)))
        return min(scores[:cut]), min(scores[cut:])

    def falls(self) -> float:
        """Relative fall of the best score in the last quarter; 0 if unknown."""
        before, since = self.best_scores(0.25) or (0.0, 0.0)
        return (before - since) / before if before > 0 else 0.0

    def is_flat(self) -> bool:
        scores = self.best_scores(0.5)
        return "plateau" in self.health or (scores is not None and scores[1] > scores[0] - _FLAT * abs(scores[0]))

    # ---- commands ----

    def again(self, **changes: Any) -> str:
        """The command of this run with changes, into a new folder that they name; None removes an option."""
        names = [name.replace("_", "-") for name, value in changes.items() if value is not None]
        return train_command(self.config, "-".join([self.run.rstrip("/"), *names]), changes)

    def longer(self) -> str:
        """The command of this run with a larger budget; it resumes the run."""
        return train_command(self.config, self.run, self.budget(_MORE))

    def budget(self, times: float) -> dict[str, float]:
        name = next((name for name in BUDGET_FIELDS if getattr(self.train, name)), "minutes")
        value = times * (getattr(self.train, name) or 10)
        return {name: int(value) if name == "images" else float(f"{value:.3g}")}


def train_command(config: RunConfig, out: str, changes: Mapping[str, object]) -> str:
    """The command of the run with this config.json, with changes; None removes an option."""
    wanted = {**config.wanted(), **changes}
    given = _as_arguments({name: value for name, value in wanted.items() if value is not None})
    return " ".join(["ganvas train", shlex.quote(config.data.source), *given, f"--out {shlex.quote(out)}"])


def _as_arguments(options: Mapping[str, object]) -> list[str]:
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            words.append(f"--{flag} {shlex.join(map(str, value))}")
        else:
            words.append(f"--{flag} {f'{value:g}' if isinstance(value, float) else shlex.quote(str(value))}")
    return words


# ---- evidence that several rules share ----


def _overfitting(case: _Case) -> list[str]:
    """Signs of overfitting, one clause each."""
    signs = []
    if case.copies.caught:
        alarms = case.copies.false_alarms or 0.0
        signs.append(
            f"{_interval(case.copies.rate)} of the samples are copies of training images (false-alarm rate: "
            f"{alarms:.1%})"
        )
    seen, unseen = case.measures.get("kid_training"), case.measures.get("kid")
    if case.measures.get("kid_heldout"):
        seen, unseen = case.measures.get("kid"), case.measures["kid_heldout"]
    if seen and unseen and seen.high < unseen.low:
        signs.append(f"KID is {seen.value:.3g} to training images and {unseen.value:.3g} to held-out images")
    gap = case.vital("d_gap")
    if gap is not None and gap > OVERFITTING:
        signs.append(
            f"the discriminator scores held-out images {min(1.0, gap):.0%} of the way from training to generated images"
        )
    signs += [case.health[name] for name in ("copying", "augmentation") if name in case.health]
    return signs


def _interval(share: Interval | None) -> str:
    return "–" if share is None else f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


# ---- diagnoses: the first that applies is given ----

_TRAIN_LONGER = "Train longer"


def _not_evaluated(case: _Case) -> Advice:
    evidence = "No evaluation yet: quality, diversity and copying are unknown."
    return Advice("Evaluate the generator", evidence, f"ganvas evaluate {shlex.quote(case.run)}")


def _untrained(case: _Case) -> Iterator[Advice]:
    """Too early for any other conclusion."""
    precision = case.measures.get("precision")
    early = (
        0 < case.images_seen < RECOGNISABLE and "precision" in case.measures and case.compared("precision") < _SHORT_OF
    )
    rough = case.unlike or (case.compared("precision") < _UNRECOGNISABLE and not case.spoiled)
    rough = rough and not case.is_flat() and case.best_scores(0.25) is None
    if case.overfitted or precision is None or not (early or rough):
        return
    expected = "" if precision.real is None else f" (real images: {precision.real:.2f})"
    seen = f"After {case.images_seen:,} images precision" if case.images_seen else "Precision"
    evidence = f"{seen} is {precision.value:.2f}{expected}. This is too early for other conclusions."
    yield Advice(_TRAIN_LONGER, f"{evidence} {_estimate(case)}", case.longer())


def _estimate(case: _Case) -> str:
    """What the larger budget of `Case.longer` means."""
    seconds = case.reports[-1].seconds if case.reports else None
    if not seconds:
        return "The command resumes the run with a larger budget."
    return (
        f"The command resumes the run with a budget of {_MORE} times the size: about {_MORE * case.images_seen:,} "
        f"images and {duration(_MORE * seconds)} in total."
    )


def _unstable(case: _Case) -> Iterator[Advice]:
    for name in ("diverged", "exploding"):
        if name in case.health:
            evidence = f"{sentence(case.health[name])} A lower learning rate or a larger penalty stabilises training."
            yield Advice("Training is unstable", evidence, case.again(lr=_HALF * case.train.lr))
            return


def _collapsed(case: _Case) -> Iterator[Advice]:
    signs = [case.health["collapse"]] if "collapse" in case.health else []
    similar = case.wrong.get("variety", "")
    blurred = case.blurred and not similar.startswith("Generated images repeat")
    signs += [similar] if similar and not blurred else []  # a blur alone makes images more similar
    # Poor images lack diversity as well, and precision comes first; blur or a pattern in all images changes features.
    good = case.compared("precision") > _SHORT_OF and not {*_PATTERNS, "sharpness"} & case.wrong.keys()
    for key in ("recall", "coverage", "vendi"):
        if good and case.compared(key) < _COLLAPSED:
            row = case.measures[key]
            name = "the Vendi score" if key == "vendi" else key
            signs.append(f"{name} is {row.value:.3g} (real images: {row.real:.3g})")
    if not signs and case.copies.caught:
        return  # altered copies, such as mirrored digits, can be taken for other classes
    signs += [case.classes.sentence] if case.classes.missing else []
    if not signs or (case.falls() > _FALLING and "collapse" not in case.health):
        return  # diversity may still grow
    if case.train.loss != "relativistic" and _is_classic(case.train.model):
        changes: dict[str, object] = {"preset": None, "model": None, "loss": "relativistic"}
        how = "The relativistic loss compares real and generated images in pairs, which reduces mode collapse."
    else:
        changes = {"r1": _TWICE * case.train.r1 or 1.0, "lr": _HALF * case.train.lr}
        how = "A larger penalty and a lower learning rate reduce mode collapse."
    yield Advice("Mode collapse", f"{_joined(signs)} {how}", case.again(**changes))


def _overfitted(case: _Case) -> Iterator[Advice]:
    if not case.overfitted:
        return
    evidence, augment = _joined(case.overfitted), case.train.augment
    exhausted = augment >= _STRONG or case.train.adaptive or case.num_training < _OVERFITTED_BELOW // 4
    if not exhausted:
        more = f"The probability of augmentation is {augment:.2g} and can be raised."
        yield Advice("Overfitting: use more augmentation", f"{evidence} {more}", case.again(adaptive=True))
        return
    few = f"{case.num_training:,} training images are too few, even with augmentation ({augment:.2g})."
    how = "Add images (MORE_IMAGES is the larger folder) and start from the weights of this run."
    command = (
        f"ganvas train MORE_IMAGES --from {shlex.quote(case.run)} --out {shlex.quote(case.run.rstrip('/') + '-more')}"
    )
    yield Advice("Overfitting: too little data", f"{evidence} {few} {how}", command)


def _improving(case: _Case) -> Iterator[Advice]:
    """The score was still improving when the budget ended."""
    if {"plateau", "diverged"} & set(case.health):
        return
    if case.falls() > _FALLING:
        before, since = case.best_scores(0.25) or (0.0, 0.0)
        evidence = (
            f"The score still fell by {case.falls():.0%} in the last quarter of training ({before:.3g} to {since:.3g})."
        )
        yield Advice(_TRAIN_LONGER, f"{evidence} {_estimate(case)}", case.longer())
    elif case.best_scores(0.25) is None and case.compared("precision") < _SHORT_OF and not case.spoiled:
        row = case.measures["precision"]
        evidence = (
            f"Precision is {row.value:.2f} (real images: {row.real:.2f}). The run is too short to show "
            "whether it still improves."
        )
        yield Advice(_TRAIN_LONGER, f"{evidence} {_estimate(case)}", case.longer())


def _limited(case: _Case) -> Iterator[Advice]:
    if case.compared("precision") >= _SHORT_OF or not case.is_flat() or case.spoiled:
        return
    row = case.measures["precision"]
    evidence = (
        f"The score has stopped falling, there is no overfitting, and precision is {row.value:.2f} (real images: "
        f"{row.real:.2f}): the size of the network is the limit."
    )
    size = case.train.model_size
    larger = {"model_size": _NEXT_SIZE[size]} if size in _NEXT_SIZE else {"base": int(_TWICE * case.train.base)}
    yield Advice("The network is too small", evidence, case.again(**larger, **case.budget(_TWICE)))


# ---- problems of the data and of single classes: given in addition to a diagnosis ----


def _leaks(case: _Case) -> Iterator[Advice]:
    num = case.copies.leaks or 0
    if num:
        evidence = (
            f"{num:,} held-out images have a near duplicate among the training images: measures against "
            "held-out images are too favourable."
        )
        yield Advice("Duplicates in the held-out set", evidence, case.again(drop_duplicates=True))


def _marks(case: _Case) -> Iterator[Advice]:
    if case.config.model.channels > 1:  # often parts of the figures, such as pupils
        return
    frequent = [one for one in case.evaluation.marks if one.generated_share > _SHARE]
    if not frequent:
        return
    most = max(frequent, key=lambda one: one.generated_share)
    evidence = (
        f"{amount(len(frequent), 'burned-in mark')}: the most frequent is in {most.real_share:.0%} of the real and "
        f"{most.generated_share:.0%} of the generated images. Look at the crops in the report "
        "first: the generator learns the marks, and letters may identify people."
    )
    yield Advice("Burned-in marks are generated", evidence, case.again(mask_marks=True))


def _classes(case: _Case) -> Iterator[Advice]:
    results = case.classes
    if not results.judged:
        return
    mean, worst = results.agreement, next((row for row in results.rows if row.name == results.worst), None)
    if mean and worst and worst.agreement is not None and worst.agreement < _RECOGNISED * mean.value:
        taken = f", most often as {worst.confused_with}" if worst.confused_with else ""
        evidence = (
            f"{worst.agreement:.0%} of the samples of class {worst.name} are classified as this class (mean of all "
            f"classes: {mean.value:.0%}); the others are misclassified{taken}. Check whether the class is rare or "
            "mixed."
        )
        command = (
            f"ganvas sample {shlex.quote(case.run)} --label {shlex.quote(worst.name)} --n 64 --grid --out class.png"
        )
        yield Advice(f"Class {worst.name} is weak", evidence, command)
    distance, chance = results.total_variation, results.chance
    unequal = distance is not None and chance is not None and distance > max(_TWICE * chance, _SHARE)
    if unequal and not case.train.conditional:
        evidence = (
            f"The class shares differ from the data by {distance:.1%} (total variation; {chance:.1%} by chance). A "
            "conditional generator samples each class as often as requested."
        )
        yield Advice("Class shares differ from the data", evidence, case.again(conditional=True))


def _is_classic(model: str) -> bool:
    """Whether a model is a network of the reference projects; these upsample by transposed convolutions."""
    return model in MODELS and MODELS[model].classic


# ---- appearance and augmentation: only where no diagnosis applies ----


def _artefacts(case: _Case) -> Iterator[Advice]:
    wrong, checkerboard, rate = case.wrong, case.vital("checkerboard") or 1.0, _HALF * case.train.lr
    measured = case.artefacts.sharpness
    sharpness = (measured.value if measured else case.vital("sharpness")) or 1.0
    if "blocks" in wrong:
        how = f"{sentence(wrong['blocks'])} A lower learning rate reduces them, unless images were saved as JPEG."
        yield Advice("Blocks of 8 pixels", how, case.again(lr=rate))
    elif "checkerboard" in wrong or "checkerboard" in case.health or checkerboard > CHECKERBOARD:
        peak = f"the spectral peak is {checkerboard:.1f} times that of real images in the last evaluation"
        seen = sentence(wrong.get("checkerboard") or case.health.get("checkerboard") or peak)
        if _is_classic(case.train.model):
            how = "Transposed convolutions cause them; the modern networks do not use transposed convolutions."
            command = case.again(preset=None, model="compact")
        else:
            how, command = "A lower learning rate reduces them.", case.again(lr=rate)
        yield Advice("Checkerboard artefacts", f"{seen} {how}", command)
    seen = sentence(wrong.get("sharpness") or f"sharpness is {sharpness:.2g} times that of real images")
    if sharpness < _BLUNT:
        if case.train.r1:
            how = "A smaller penalty allows finer detail."
            yield Advice("Images are blurred", f"{seen} {how}", case.again(r1=_HALF * case.train.r1))
        elif case.train.discriminator == "features":
            how = "A discriminator of pixels, in addition to that of features, sees finer detail."
            yield Advice("Images are blurred", f"{seen} {how}", case.again(discriminator="both"))
    elif not {"blocks", "checkerboard"} & wrong.keys() and (
        sharpness > _HARSH or "noise" in wrong
    ):  # patterns raise both
        seen = sentence(wrong["noise"]) if "noise" in wrong else seen
        yield Advice("Images are noisy", f"{seen} A lower learning rate reduces noise.", case.again(lr=rate))


def _augmentation(case: _Case) -> Iterator[Advice]:
    augment = case.train.augment
    if "tone" in case.wrong and augment >= _STRONG:
        evidence = (
            f"{case.wrong['tone']} Augmentation of brightness and colour shows in the samples if it is applied too "
            f"often (here with probability {augment:.2g})."
        )
        half = round(_HALF * augment, 2)
        yield Advice("Augmentation shows in the samples", evidence, case.again(augment=half, adaptive=None))
        return
    gap = case.vital("d_gap")
    if gap is None or gap > _NO_OVERFITTING or augment < _STRONG or case.train.adaptive:
        return
    evidence = (
        f"The probability of augmentation is {augment:.2g}, but the discriminator scores held-out images like training "
        f"images (gap {gap:.0%}): less augmentation gives sharper images sooner."
    )
    yield Advice("Augmentation is too strong", evidence, case.again(augment=round(_HALF * augment, 2)))


_Rule = Callable[[_Case], Iterator[Advice]]
_DIAGNOSES: tuple[_Rule, ...] = (_untrained, _unstable, _collapsed, _overfitted, _improving, _limited)
_OTHERS: tuple[_Rule, ...] = (_leaks, _marks, _classes)
_APPEARANCE: tuple[_Rule, ...] = (_artefacts, _augmentation)


def _joined(clauses: list[str]) -> str:
    return " ".join(map(sentence, clauses))


def sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:] + ("" if clause.endswith((".", "!", "?")) else ".")
