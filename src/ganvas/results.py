"""evaluation.json: the results of an evaluation, with a class for each of its parts.

Every field has a default, for evaluations of versions that did not write it.
"""

from __future__ import annotations

import dataclasses
import html
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ganvas.errors import ConfigError, RunError
from ganvas.fields import fits, from_dict
from ganvas.system import files

EVALUATION_FORMAT = 2
_PARTS = ("model", "data", "protocol", "measures")  # that every evaluation has
Better = Literal["lower", "higher", "near"]
_ARROWS: dict[Better, str] = {"lower": "↓", "higher": "↑", "near": "≈"}
"""Sign for the field `better` of a measure: lower or higher is better, or closer to real images."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measure(Interval):
    """A row of the table of measures."""

    key: str = ""
    name: str = ""
    better: Better = "lower"
    real: float | None = None
    """The measure between two sets of real images, which is the value to expect."""
    meaning: str = ""
    protocol: str = ""
    flags: list[str] = field(default_factory=list)
    """Reasons to mistrust the value."""

    @property
    def arrow(self) -> str:
        return _ARROWS[self.better]

    @property
    def short(self) -> str:
        """The name without the feature network in brackets."""
        return self.name.partition(" (")[0]

    @property
    def decimals(self) -> int:
        """Number of decimals such that the width of the interval has two significant digits."""
        width = self.high - self.low
        size = width if width > 0 else abs(self.value) / 10
        return max(0, min(6, 1 - math.floor(math.log10(size)))) if size > 0 else 2

    def text(self, value: float | None) -> str:
        """A value of this measure with these decimals."""
        return figure(value, self.decimals)


def figure(value: float | None, decimals: int) -> str:
    """A number with a minus sign and thousands separators; "–" for None."""
    if value is None:
        return "–"
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")  # + 0.0: no minus before a zero


@dataclass(frozen=True)
class ModelFacts:
    """What was evaluated. weights: the first 8 digits of the hash of the weights file."""

    model: str = ""
    height: int = 0
    width: int = 0
    channels: int = 0
    images_seen: int = 0
    weights: str = ""


@dataclass(frozen=True)
class DataFacts:
    """The real images."""

    source: str = ""
    hash: str = ""
    num_training: int = 0
    num_heldout: int = 0
    classes: list[str] = field(default_factory=list)
    conditions: str = ""
    licence: str | None = None
    attribution: str | None = None


@dataclass(frozen=True)
class Protocol:
    """How the images were compared. seed, truncation, ema: None for images of another program."""

    num_real: int = 0
    num_generated: int = 0
    split: str = ""
    """Part of the real images: training or held-out."""
    seed: int | None = None
    truncation: float | None = None
    ema: str | None = None
    features: str = ""
    trained_with: str | None = None
    """Pretrained network used in training."""
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureMap:
    """Points [x, y] of images; see `evaluation.measures.feature_map`."""

    real: list[list[float]] = field(default_factory=list)
    generated: list[list[float]] = field(default_factory=list)
    explained: float | None = None
    features: str = ""


@dataclass(frozen=True)
class ClassResult:
    """Results of one class; None for values that need missing images."""

    name: str
    real_share: float | None = None
    """Share of the class in the data, 0..1."""
    generated_share: float | None = None
    """Share of generated images that are classified as this class, with its interval."""
    generated_low: float | None = None
    generated_high: float | None = None
    kid: float | None = None
    agreement: float | None = None
    """Share of the images requested of this class that are classified as this class."""
    confused_with: str | None = None
    """The most frequent wrong class."""
    num: int | None = None
    """Images requested of this class; without labels, those that are classified as this class."""


@dataclass(frozen=True)
class Modes:
    """`covered` of `of` modes have a generated image; `divergence`: KL(generated || data) of the shares."""

    covered: Interval
    of: int
    divergence: Interval


@dataclass(frozen=True)
class ClassResults:
    """Results of all classes."""

    rows: list[ClassResult] = field(default_factory=list)
    total_variation: float | None = None
    """Distance between the class shares of generated images and of the data, 0..1, lower is better."""
    chance: float | None = None
    """Mean of that distance at this number of images if the true shares were equal."""
    agreement: Interval | None = None
    """Class accuracy over all images; None if no class was requested."""
    worst: str | None = None
    """The class with the lowest accuracy."""
    judged: bool = True
    """Whether the images resemble the data, so that the results mean something."""
    missing: list[str] = field(default_factory=list)
    sentence: str = ""
    modes: Modes | None = None
    judge: str = ""
    """The classifier, in words."""


@dataclass(frozen=True)
class Pair:
    """A generated image and its nearest training image."""

    file: str = ""
    seed: int | None = None
    image: str | None = None
    """Name of the generated image, of another program."""
    label: str | None = None
    training: str = ""
    score: float | None = None
    copy: bool = False
    alteration: str | None = None


@dataclass(frozen=True)
class CopyResults:
    """Copies of training images in a set of samples."""

    num: int | None = None
    rate: Interval | None = None
    """Share of samples flagged as copies; compare with the false alarms."""
    caught: bool = False
    """Whether the rate exceeds chance and the false-alarm rate."""
    meaningful: bool = True
    """Whether the samples resemble the data; otherwise the absence of copies means nothing."""
    false_alarms: float | None = None
    threshold: float | None = None
    authenticity: Interval | None = None
    """Share of samples farther from their nearest training image than that image is from its nearest neighbour, and
    not flagged as copies."""
    closer_than_heldout: Interval | None = None
    """Probability that a sample is closer to a training image than a held-out image is; 0.5 is ideal."""
    training_duplicates: int | None = None
    leaks: int | None = None
    sentence: str = ""
    closest: list[Pair] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """A sentence about an artefact. severity: ok, note or bad."""

    what: str
    sentence: str
    severity: str


@dataclass(frozen=True)
class Compared(Interval):
    """A measure of both sets; the interval is of their ratio (generated / real), or of the difference for shares."""

    real: float
    generated: float


@dataclass(frozen=True)
class Period:
    """Checkerboard artefacts with this period in pixels, along the rows (horizontal) and the columns (vertical)."""

    period: int
    horizontal: Compared | None = None
    vertical: Compared | None = None

    @property
    def directions(self) -> dict[str, Compared]:
        """The measured ones; at least one."""
        both = {"horizontal": self.horizontal, "vertical": self.vertical}
        return {name: one for name, one in both.items() if one is not None}

    @property
    def worse(self) -> Compared:
        return max(self.directions.values(), key=lambda one: one.value)


@dataclass(frozen=True)
class Spectrum:
    """Curves of the power (white noise gives its variance): geometric mean over images."""

    frequency: list[float]
    """Cycles per pixel."""
    real: list[float]
    generated: list[float]


@dataclass(frozen=True)
class Largest(Interval):
    """The largest difference of two spectra."""

    frequency: float


@dataclass(frozen=True)
class Power:
    """Ratios of the power: coarse (below 1/8 cycles per pixel), middle, fine (above 1/4), and the largest one."""

    largest: Largest
    coarse: Interval | None = None
    middle: Interval | None = None
    fine: Interval | None = None


@dataclass(frozen=True)
class Tones(Interval):
    """Wasserstein-1 distance of pixel values as a fraction of the range; for colour, the mean over 13 directions of the
    colour cube."""

    real: float
    """Mean between 500 pairs of samples of real images."""
    real_high: float
    """Maximum of these."""
    channels: dict[str, float]
    brighter: float
    """Difference of the means."""


@dataclass(frozen=True)
class Correlation:
    """Mean correlation of two images."""

    real: float
    generated: float
    low: float
    """Range over 200 samples of nine real images."""
    high: float
    variety: Interval
    """Ratio of the mean distances 1 - correlation."""


@dataclass(frozen=True)
class Artefacts:
    """Artefacts of generated images relative to real images. None: not measured."""

    findings: list[Finding] = field(default_factory=list)
    checkerboard: list[Period] = field(default_factory=list)
    spectrum: Spectrum | None = None
    power: Power | None = None
    sharpness: Compared | None = None
    """Laplacian variance."""
    alternating: Interval | None = None
    """Amplitude of patterns of period 2 beyond that of real images, as a fraction of the range."""
    blocks: Interval | None = None
    """Steps across the borders of blocks of 8 pixels relative to steps elsewhere: ratio to real images."""
    compressed: Interval | None = None
    """Share of fine frequencies that are empty in blocks of 8 pixels, minus that in moved blocks, and minus this
    difference in real images."""
    noise: Interval | None = None
    """Deviation of white noise, or of another pattern of single pixels, beyond that of real images, as a fraction of
    the range."""
    tones: Tones | None = None
    correlation: Correlation | None = None
    quarter: Correlation | None = None
    """Of the upper left quarters of the images."""
    blank: Compared | None = None
    """Share of (nearly) uniform images."""
    saturated: Compared | None = None
    """Share of images whose pure black or white area exceeds that of 99% of the real images by a tenth."""
    duplicates: Compared | None = None
    """Share of images that are nearly identical to another image of their set (sets of equal size)."""


@dataclass(frozen=True)
class MarkResult:
    """A burned-in mark: an image of it, its box (top, left, height, width), and the shares of images that have it."""

    file: str = ""
    box: list[int] = field(default_factory=list)
    real_share: float = 0.0
    generated_share: float = 0.0


@dataclass(frozen=True)
class TellingApart:
    """The real-vs-generated classifier, and an image of the areas that it uses."""

    accuracy: Interval | None = None
    map: str = ""
    sentence: str = ""


@dataclass(frozen=True)
class Mixture:
    """Accuracy of a classifier trained on this mixture of images."""

    name: str
    accuracy: Interval


@dataclass(frozen=True)
class UsefulnessResults:
    """Accuracy on held-out real images of classifiers trained on each mixture, mean over seeds."""

    rows: list[Mixture] = field(default_factory=list)
    differences: dict[str, Interval] = field(default_factory=dict)
    """By mixture: accuracy minus that of real-only; below 0 is a loss."""
    sentence: str = ""
    seeds: int | None = None


@dataclass(frozen=True)
class Grids:
    """Image files, relative to the folder. per_class: one row for each class."""

    real: str = ""
    generated: str = ""
    per_class: bool = False
    note: str = ""


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The content of evaluation.json. `lines()` is its text, and notebooks show a table."""

    ganvas: str = ""
    made: str = ""
    run: str = ""
    model: ModelFacts = field(default_factory=ModelFacts)
    data: DataFacts = field(default_factory=DataFacts)
    protocol: Protocol = field(default_factory=Protocol)
    measures: list[Measure] = field(default_factory=list)
    unlike: bool = False
    """Whether the generated images do not resemble the data."""
    feature_map: FeatureMap | None = None
    classes: ClassResults | None = None
    copies: CopyResults | None = None
    artefacts: Artefacts | None = None
    marks: list[MarkResult] = field(default_factory=list)
    real_or_fake: TellingApart | None = None
    usefulness: UsefulnessResults | None = None
    grids: Grids | None = None
    left_out: list[str] = field(default_factory=list)
    """What was not evaluated, and why."""
    seconds: float = 0.0
    format: int = EVALUATION_FORMAT

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "the evaluation") -> Evaluation:
        """Leaves measures without numbers out. Raises ConfigError, with `where` in the message, for other damage."""
        numbers = ("value", "low", "high")
        rows = [
            row for row in values.get("measures", [])
            if not isinstance(row, dict) or all(fits(row.get(name), float) for name in numbers)
        ]  # fmt: skip
        return from_dict(cls, values | {"measures": rows}, where, ignore_unknown=True)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def measure(self, key: str) -> Measure:
        """A measure, such as "kid". Raises KeyError."""
        return self.by_key[key]

    @property
    def by_key(self) -> dict[str, Measure]:
        return {row.key: row for row in self.measures}

    def lines(self) -> list[str]:
        """One line per measure, then the other findings."""
        lines = []
        for row in self.measures:
            real = "" if row.real is None else f"   real {row.real:.4g}"
            flags = "".join(f"  ({flag})" for flag in row.flags)
            interval = f"({row.low:.4g} to {row.high:.4g})"
            lines.append(f"{row.arrow} {row.name:<46}{row.value:<9.4g} {interval:<22}{real}{flags}")
        return lines + self.sentences()

    def sentences(self) -> list[str]:
        """The findings that are not measures, and what was not evaluated."""
        parts = (self.classes, self.copies, self.real_or_fake, self.usefulness)
        sentences = [part.sentence for part in parts if part is not None]
        artefacts = self.artefacts.findings if self.artefacts else []
        sentences += [f"{one.severity}: {one.sentence}" for one in artefacts if one.severity != "ok"]
        sentences += [f"not evaluated: {sentence}" for sentence in self.left_out]
        protocol = self.protocol
        counts = f"{protocol.num_real:,} {protocol.split} and {protocol.num_generated:,} generated images"
        return [*sentences, f"{counts}, 95% intervals, {self.seconds:g} s"]

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{row.arrow} {html.escape(row.name)}</td><td>{row.value:.4g}</td>"
            f"<td>{row.low:.4g} to {row.high:.4g}</td>"
            f"<td>{'' if row.real is None else format(row.real, '.4g')}</td></tr>"
            for row in self.measures
        )
        head = "<tr><th>measure</th><th>value</th><th>95% interval</th><th>real images</th></tr>"
        notes = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        return f"<table>{head}{rows}</table><ul>{notes}</ul>"

    def is_of(self, weights: Path) -> bool:
        """Whether this weights file was evaluated."""
        return self.model.weights == files.sha256(weights)[:8]


def read_evaluation(folder: Path) -> Evaluation | None:
    """evaluation.json of a folder; None if there is none. Raises RunError if it is damaged or of another version."""
    path = folder / "evaluation.json"
    again = f"run `ganvas evaluate {folder}` again"
    try:
        values = files.parse_json(path.read_bytes())
        if not isinstance(values, dict) or values.get("format") != EVALUATION_FORMAT:
            raise RunError(f"{path} is not an evaluation of format {EVALUATION_FORMAT}: {again}")
        if not {*_PARTS} <= values.keys() or not isinstance(values["measures"], list):
            raise RunError(f"{path} is damaged: {again}")
        return Evaluation.from_dict(values, str(path))
    except FileNotFoundError:
        return None
    except (ValueError, ConfigError) as error:
        raise RunError(f"{path} is damaged: {again}") from error
