"""Write the model folder of a run and its model card.

The card is Markdown with front matter for the Hugging Face Hub. All text from data (names of runs, files, classes,
licences) is escaped, so it cannot become a link, an image, HTML or front matter.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ganvas
from ganvas.config import TrainConfig
from ganvas.errors import RunError, duration
from ganvas.generator import Generator, weights_hash
from ganvas.model_file import CARD, WEIGHTS, find_weights
from ganvas.models.pretrained import pretrained_network
from ganvas.records import energy_of, read_reports
from ganvas.results import Artefacts, Evaluation, read_evaluation
from ganvas.run import Run
from ganvas.run_config import RunConfig, RunData
from ganvas.system import files
from ganvas.training.starting_weights import description

FOLDER = "path/to/this/folder"  # placeholder in the commands of the card
_REPEATED_BELOW = 1_000  # training images below which a generator may repeat them
SHOWN_CLASSES = 20

_SHARING = re.compile(
    r"apache-2\.0|bsd-[23]-clause|cc-by-(2\.0|2\.5|3\.0|4\.0)|cc-by-sa-[34]\.0|cc0-1\.0|mit|odbl|odc-by|pddl|unlicense"
)
"""Licences (names of the Hugging Face Hub) that permit anybody to show the images, modified or not."""
_RESTRICTED = re.compile(r"cc-by-nc(-sa|-nd)?-[34]\.0|cc-by-nd-4\.0")
"""Licences known to the Hub that forbid commercial use or modification."""
_ALIASES = {"cc0": "cc0-1.0", "public-domain": "cc0-1.0", "apache-2": "apache-2.0", "odc-odbl": "odbl"}

_SYNTHETIC = (
    "A neural network generated these images. They do not show real people or things and must not be presented as real."
)


# -- facts about a model --


@dataclass(frozen=True)
class CardFacts:
    """The content of a card."""

    generator: Generator
    run: RunConfig | None
    """None for a model without its run."""
    evaluation: Evaluation | None = None
    """Only if it is of these weights."""
    stale: bool = False
    """Whether there is an evaluation, but of other weights."""
    seconds: float = 0.0
    """Training time; 0 if unknown."""
    images_seen: int = 0
    """Images seen in the whole training; the weights may be from an earlier step."""
    stated_licence: str | None = None
    """Licence of the data as stated by the user."""
    energy: float | None = None
    """Energy of the training in kWh; None if it was not recorded."""

    @property
    def data(self) -> RunData | None:
        return self.run.data if self.run else None

    @property
    def title(self) -> str:
        return self.run.name if self.run and self.run.name else f"{self.generator.info.kind} generator"

    @property
    def source(self) -> str:
        """Name of the data without its folder."""
        return re.split(r"[\\/]", self.data.source.rstrip("\\/"))[-1] if self.data else "not recorded"

    @property
    def licence(self) -> str | None:
        return self.stated_licence or (self.data.licence if self.data else None)

    @property
    def attribution(self) -> str | None:
        return self.data.attribution if self.data else None

    @property
    def is_medical(self) -> bool:
        return self.generator.info.kind in ("xray", "scan")


def facts_of(path: Path, generator: Generator | None = None, licence: str | None = None) -> CardFacts:
    """Collect the facts from a run or a model folder.

    licence: of the data, if the files do not state it.
    Raises CheckpointError without a model, RunError for a damaged evaluation.json.
    """
    weights = find_weights(path)
    generator = generator or Generator.load(weights, "cpu")
    folder = run_of(weights)
    if folder is None:
        return CardFacts(generator, None, *_evaluation_of(weights.parent, weights), stated_licence=licence)
    config = Run(folder).config()
    return CardFacts(generator, config, *_evaluation_of(folder, weights), *_spent(folder), licence, energy_of(folder))


def run_of(weights: Path) -> Path | None:
    """The run folder whose model/ contains these weights; None if there is none."""
    folder = weights.resolve().parent
    if folder.name != "model":
        return None
    try:
        Run(folder.parent).config()
    except (RunError, OSError):
        return None
    return folder.parent


def _spent(folder: Path) -> tuple[float, int]:
    """(seconds, images seen) of the training, from the last report in the log."""
    reports = read_reports(folder)
    return (reports[-1].seconds, int(reports[-1].images)) if reports else (0.0, 0)


def _evaluation_of(folder: Path, weights: Path) -> tuple[Evaluation | None, bool]:
    """(evaluation.json if it is of these weights, otherwise None; whether it is of other weights)."""
    results = read_evaluation(folder)
    stale = results is not None and not results.is_of(weights)
    return (None, True) if stale else (results, False)


# -- the licence --


def licence_id(licence: str | None) -> str | None:
    """The Hub's identifier of a licence such as "CC BY-SA 4.0"; None for other texts."""
    if licence is None:
        return None
    name = re.sub(r"[\s_-]+", "-", licence.strip().lower()).removesuffix("-license").removesuffix("-licence")
    name = _ALIASES.get(name, name)
    return name if _SHARING.fullmatch(name) or _RESTRICTED.fullmatch(name) else None


def may_show(licence: str | None) -> bool:
    """Whether real images under this licence may be shown publicly; False for unknown licences."""
    return _SHARING.fullmatch(licence_id(licence) or "") is not None


# -- writing --


def write_training_model(generator: Generator, run: Run, images_seen: int) -> None:
    """Write run/model: weights, config.json and the card."""
    generator.info = dataclasses.replace(generator.info, images_seen=images_seen)
    generator.save(run.model, _training_card(generator, run))


def _training_card(generator: Generator, run: Run) -> str:
    """The card of a model at the end of its training, before an evaluation."""
    seconds, images = _spent(run.folder)
    return card(CardFacts(generator, run.config(), seconds=seconds, images_seen=images, energy=energy_of(run.folder)))


def write_card(run: Run) -> None:
    """Write the card of the model again, if there is a model, because a fact about its training has changed."""
    if (run.model / WEIGHTS).is_file():
        files.write_text(run.model / CARD, _training_card(Generator.load(run.model, "cpu"), run))


def card(facts: CardFacts, repo: str | None = None) -> str:
    """The model card with front matter. repo: name of the model on the Hub, if it is published there."""
    parts = [
        _front_matter(facts),
        f"# {escape(facts.title)}",
        notice(facts),
        about(facts),
        "## Use",
        _how_to_use(facts, repo),
        "## Intended use",
        intended(facts),
        "## Prohibited use",
        forbidden(facts),
        "## Training data",
        training_data(facts),
        "## Evaluation",
        evaluation(facts),
        "## Limits",
        limits(facts),
        "## Training and its cost",
        cost(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: CardFacts) -> str:
    """Front matter for the Hub: licence, tags, task, library and measures."""
    known, generator, task = licence_id(facts.licence), facts.generator, "unconditional-image-generation"
    tags = [
        "gan",
        "generative-adversarial-network",
        "image-generation",
        "synthetic",
        markdown_text(generator.info.kind),
    ]
    tags += ["class-conditional"] if generator.classes else []
    tags += ["attribute-conditional"] if generator.conditions else []
    values: dict[str, Any] = {"license": known or "other"}
    if known is None:
        values["license_name"] = "terms-of-the-training-data"
    values |= {"library_name": "ganvas", "pipeline_tag": task, "tags": tags}
    metrics = [
        {
            "type": markdown_text(row.key),
            "name": f"{markdown_text(row.name)}, 95% {row.text(row.low)} to {row.text(row.high)}",
            "value": round(row.value, row.decimals),
        }
        for row in (facts.evaluation.measures if facts.evaluation else ())
    ]
    if metrics:
        source = markdown_text(facts.source)
        data = {"name": source, "type": re.sub(r"[^a-z0-9-]+", "-", source.lower()).strip("-") or "data"}
        result = {"task": {"type": task, "name": "Unconditional image generation"}, "dataset": data, "metrics": metrics}
        values["model-index"] = [{"name": markdown_text(facts.title), "results": [result]}]
    return f"---\n{yaml(values)}---"


# -- the parts, each Markdown --


def notice(facts: CardFacts) -> str:
    medical = " They do not show real patients and are not for diagnosis." if facts.is_medical else ""
    return f"> **All images are synthetic.** {_SYNTHETIC}{medical}"


def about(facts: CardFacts) -> str:
    info = facts.generator.info
    config = info.config
    network = facts.generator.network
    parameters = sum(p.numel() for p in network.parameters())
    pretrained = pretrained_network(config)
    # Not generator.hash, which is cached: during training the weights of the same generator change.
    weights = weights_hash(network)
    rows = {
        "output": f"images of {config.height}x{config.width} pixels, {_channels(config.channels)}, "
        f"{info.depth} bit, of kind {escape(info.kind)}",
        "classes": class_names(facts.generator.classes),
        "conditions": _condition_names(facts.generator),
        "network": f"{escape(config.model)}, {parameters:,} parameters, {config.z_dim} latent dimensions",
        "training": f"{info.images_seen:,} images seen",
        "starting weights": description(facts.run.start) if facts.run else "",
        "pretrained network": f"training used the ImageNet features of {pretrained}" if pretrained else "",
        "hash of the weights": f"`{weights}`",
        "created with": f"Ganvas {escape(facts.run.ganvas if facts.run else ganvas.__version__)}",
    }
    return _listed("model", rows)


def _how_to_use(facts: CardFacts, repo: str | None) -> str:
    config = facts.generator.info.config
    name = f"hf://{repo}" if repo else FOLDER
    hub = "from ganvas import hub\n" if repo else ""
    load = f'hub.local("{name}")' if repo else f'"{name}"'
    return (
        "```sh\n"
        f"ganvas sample {name} --n 16 --out samples\n"
        "```\n\n"
        "```python\n"
        f"from ganvas import Generator\n{hub}\n"
        f"gan = Generator.load({load})\n"
        f"images = gan.sample(16, seed=0)  "
        f"# float32 (16, {config.channels}, {config.height}, {config.width}) in [-1, 1]\n"
        "```\n\n"
        "The weights are a safetensors file; loading it runs no code."
    )


def intended(facts: CardFacts) -> str:
    useful = (facts.evaluation or Evaluation()).usefulness
    return _bullets(
        [
            "Illustration, art and teaching, with a note that the images are synthetic.",
            "Research on generative models.",
            f"Additional training data for a classifier: {_sentence(useful.sentence)}"
            if useful
            else "Additional training data for other models, after a test that they help.",
        ]
    )


def forbidden(facts: CardFacts) -> str:
    critical = (
        "Diagnosis, treatment, or any decision about a patient. Also as a replacement for patient data in a study, "
        "unless experts have checked privacy and usefulness."
        if facts.is_medical
        else "Medical or other critical decisions."
    )
    uses = [
        "Presenting images as records of something real: evidence, news, identification or measurement.",
        "Deceiving, imitating or harming people.",
        "Proving that the training images are anonymous or protected: a generator may repeat training images.",
        critical,
        f"Any use that violates the terms of the training data ({escape(facts.licence or 'not stated')}).",
    ]
    return _bullets(uses)


def training_data(facts: CardFacts) -> str:
    data, info = facts.data, facts.generator.info
    held_out = f", {data.num_heldout:,} of them held out" if data and data.num_heldout else ""
    rows = {
        "name": escape(facts.source),
        "images": f"{data.num_images:,}{held_out}" if data else "not recorded",
        "licence": escape(facts.licence or "not stated")
        + (" (as stated by the publisher)" if facts.stated_licence and not (data and data.licence) else ""),
        "attribution": escape(facts.attribution or "none recorded"),
        "content hash": f"`{info.data_hash}`" if info.data_hash.isalnum() else "not recorded",
    }
    known = licence_id(facts.licence)
    terms = (
        f"The weights have the licence of the data, {known}."
        if known
        else "The terms of the training data apply to the weights and to the images that they generate."
    )
    return _listed("data", rows) + "\n\n" + terms


def evaluation(facts: CardFacts) -> str:
    """The results of the evaluation, or a sentence that there are none."""
    results = facts.evaluation
    if results is None:
        return (
            "The last evaluation was of other weights; these weights were not evaluated."
            if facts.stale
            else "Not evaluated: the quality was not measured."
        )
    protocol = results.protocol
    rows = [
        [
            f"{escape(row.short)} {row.arrow}",
            row.text(row.value),
            f"{row.text(row.low)} to {row.text(row.high)}",
            row.text(row.real),
            escape("; ".join(row.flags)),
        ]
        for row in results.measures
    ]
    parts = (results.copies, results.real_or_fake, results.usefulness)
    said = [_sentence(part.sentence) for part in parts if part]
    said += [_sentence(one.sentence) for one in (results.artefacts or Artefacts()).findings if one.severity != "ok"]
    how = (
        f"{protocol.num_real:,} real ({escape(protocol.split)}) and {protocol.num_generated:,} generated images, seeds "
        f"from {'–' if protocol.seed is None else format(protocol.seed, ',')}, truncation "
        f"{escape(protocol.truncation)}; features: {escape(protocol.features)}; Ganvas {escape(results.ganvas)}. ↓ "
        "lower is better, ↑ higher is better, ≈ closer to real images is better. *Real images*: value for other real "
        "images, the best to expect."
    )
    columns = 5 if any(row[4] for row in rows) else 4
    head = ["measure", "value", "95% interval", "real images", "note"][:columns]
    parts = [table(head, [row[:columns] for row in rows])] if rows else []
    parts += [_bullets(said)] if said else []
    return "\n\n".join([*parts, how])


def limits(facts: CardFacts) -> str:
    info, data, results = facts.generator.info, facts.data, facts.evaluation
    size = f"{info.config.height}x{info.config.width}"
    said = [
        f"Image size is {size} pixels. Enlarged images have no more detail.",
        "The model has the biases of its training images. What is rare in the data is even rarer in its images.",
    ]
    if data and data.num_images < _REPEATED_BELOW:
        said.append(f"{data.num_images:,} training images are few: the model may repeat them.")
    if not (results and results.copies):
        said.append("Copying of training images was not measured.")
    if info.kind == "face":
        said.append("A face may resemble a real person, by chance or because the data contain images of that person.")
    if facts.is_medical:
        said.append(
            "Images may show anatomy or disease that does not exist, and omit what does exist. Realistic images do not "
            "prove anything."
        )
    if results and results.classes and results.classes.worst:
        said.append(f"The class with the lowest accuracy is {escape(results.classes.worst)}.")
    return _bullets(said)


def cost(facts: CardFacts) -> str:
    run = facts.run
    if run is None:
        return "Not recorded: the run of this model is missing."
    rate = f", {facts.images_seen / facts.seconds:,.0f} per second" if facts.seconds else ""
    rows = {
        "objective": escape(_objective(run.train)),
        "budget": escape(run.budget),
        "time": f"{duration(facts.seconds)} on {escape(run.device)}" if facts.seconds else "",
        "images seen": f"{facts.images_seen:,}{rate}" if facts.images_seen else "",
        "energy": "not recorded"
        if facts.energy is None
        else f"{facts.energy:.3g} kWh, by CodeCarbon (partly estimated)",
    }
    return _listed("training", rows)


def _objective(train: TrainConfig) -> str:
    """Loss, penalties and optimizer in one line."""
    parts = [f"{train.loss} loss"]
    weights = ("r1", "r2", "r1_features", "gradient_penalty", "path_length")
    penalties = [f"{name} {getattr(train, name):g}" for name in weights if getattr(train, name)]
    if penalties:
        every = train.penalty_interval
        parts.append(f"{', '.join(penalties)} (every {f'{every} steps' if every != 1 else 'step'})")
    parts.append(f"{train.optimizer} {train.lr:g}, batch {train.batch}")
    if train.preset:
        parts.append(f"preset {train.preset}")
    return "; ".join(parts)


def _sentence(text: str) -> str:
    text = escape(text)
    return text[:1].upper() + text[1:]


# -- text --


def escape(value: object) -> str:
    """Escape text for Markdown (also GitHub's): no markup, link, HTML, line break or table cell can result."""
    marked = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "~": "&#126;", "$": "&#36;", "@": "&#64;",
              "{": "&#123;", "}": "&#125;"} | {one: f"\\{one}" for one in "\\`*_[]"}  # fmt: skip
    text = "".join(marked.get(one, one) for one in markdown_text(value))
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def markdown_text(value: object) -> str:
    """Convert to one line of printable text."""
    return " ".join("".join(one if one.isprintable() else " " for one in str(value)).split())


def yaml(values: dict[str, Any]) -> str:
    """One line of YAML per entry. The values are plain; they are written as JSON, which is valid YAML."""
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _listed(title: str, rows: dict[str, str]) -> str:
    """A table of names and values, without empty values."""
    return table(["", title], [[name, value] for name, value in rows.items() if value])


def _bullets(said: list[str]) -> str:
    return "\n".join(f"- {one}" for one in said)


def _channels(num: int) -> str:
    return {1: "gray", 3: "colour", 4: "colour with transparency"}.get(num, f"{num} channels")


def _condition_names(generator: Generator) -> str:
    """The columns with their values, what is stored of them, and an example."""
    schema = generator.info.conditions
    return "" if schema is None else escape(f"{schema}. {schema.stored()} Example: {schema.example()}")


def class_names(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    return f"{len(names)}: " + ", ".join(escape(name) for name in names[:SHOWN_CLASSES]) + more
