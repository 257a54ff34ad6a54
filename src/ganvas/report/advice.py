"""From evidence to what to do next, with the command: pure functions of an evaluation, a log and a configuration."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from ganvas.config import DataConfig, TrainConfig
from ganvas.report.reading import Record, number, sorted_out

FALLING = 0.1  # part by which the best score of the last quarter undercuts the best before: training was cut short
FLAT = 0.03  # the same of the last half: training has converged
GAP = 0.5  # r_v of the discriminator (judge/quick.py, training/health.py) from which it knows its pictures by heart
CALM = 0.15  # r_v below which augmentation has nothing left to prevent
STRONG = 0.4  # probability of augmentation that is much
FEW = 2_000  # training pictures with which memorising is the rule (Karras et al. 2020a, figure 1)
LARGE = 128  # pixels of a side from which the skip network is made for few pictures
SHORT_OF = 0.7  # part of the real pictures' precision or coverage that a good network comes near
COLLAPSED = 0.5  # the same of coverage or recall, from which variety is lost
BLUNT, HARSH = 0.6, 1.6  # sharpness over the real pictures'
LATTICE = 3.0  # times the real pictures' spectral peak
RECOGNISED = 0.8  # part of the mean recognition from which a class is a problem
SHARE = 0.05  # difference of a mark's share that is more than chance
MORE, TWICE, HALF = 3, 2.0, 0.5
CLASSIC = (
    "dcgan",
    "mlp",
    "xray",
    "tf-mnist",
    "mnist-upsample",
    "celeba",
    "cifar10",
)  # upsample by transposed convolutions
NEXT_SIZE = {"S": "M", "M": "L", "L": "XL"}


@dataclass(frozen=True)
class Advice:
    """One thing to do."""

    title: str
    evidence: str
    """What was measured, in a sentence or two with its figures."""
    command: str
    """What to run next."""


def advice(evaluation: Record | None, log: list[Record], config: Record, run: str = "RUN") -> list[Advice]:
    """What the evidence says should be done, most urgent first; empty where nothing stands out.

    evaluation: the content of evaluation.json. log: the records of log.jsonl. config: the content of config.json.
    run: the run folder as the commands shall name it.
    """
    case = Case(evaluation or {}, log, config, run)
    found = [one for rule in RULES for one in rule(case)]
    if evaluation is None:
        found.insert(0, unjudged(case))
    return found


class Case:
    """The evidence, looked up by name."""

    def __init__(self, evaluation: Record, log: list[Record], config: Record, run: str) -> None:
        self.evaluation, self.config, self.run = evaluation, config, run
        self.reports, self.vitals, health = sorted_out(log)
        self.health = {record["health"]: str(record.get("words", "")) for record in health}
        self.train: Record = config["train"]
        self.measures = {row["key"]: row for row in evaluation.get("measures", [])}
        self.copies: Record = evaluation.get("copies") or {}
        self.artefacts: Record = evaluation.get("artefacts") or {}
        findings = self.artefacts.get("findings") or []
        self.wrong = {one["what"]: one["sentence"] for one in findings if one["severity"] == "bad"}
        data = config["data"]
        self.num_training = int(data["num_images"]) - int(data.get("num_heldout") or 0)
        self.overfitted = overfitting(self)

    def vital(self, name: str) -> float | None:
        """The last examination's value."""
        values = (number(record.get(name)) for record in reversed(self.vitals))
        return next((value for value in values if value is not None), None)

    def compared(self, key: str) -> float:
        """The upper end of a measure's interval, of the same between real pictures; 1 where that is not known."""
        row = self.measures.get(key)
        return row["high"] / row["real"] if row and row.get("real") else 1.0

    def best_scores(self, part: float) -> tuple[float, float] | None:
        """Best score before the last `part` of the examinations, and within it; None where there are fewer than 8."""
        scores = [record["score"] for record in self.vitals]
        if len(scores) < 8:
            return None
        cut = len(scores) - max(2, round(part * len(scores)))
        return min(scores[:cut]), min(scores[cut:])

    def falls(self) -> float:
        """Part by which the score still fell in the last quarter; 0 where that is not known."""
        before, since = self.best_scores(0.25) or (0.0, 0.0)
        return (before - since) / before if before > 0 else 0.0

    def is_flat(self) -> bool:
        scores = self.best_scores(0.5)
        return "plateau" in self.health or (scores is not None and scores[1] > scores[0] - FLAT * abs(scores[0]))

    # ---- commands ----

    def again(self, **changes: Any) -> str:
        """The run's own command with changes, into a folder of its own; None takes an option back."""
        return train_command(self.config, f"{self.run.rstrip('/')}-next", changes)

    def longer(self) -> str:
        """The run's own command with a larger budget, which goes on where it ended."""
        return train_command(self.config, self.run, self.budget(MORE))

    def budget(self, times: float) -> Record:
        name = next((name for name in ("minutes", "images", "epochs") if self.train.get(name)), "minutes")
        value = times * (self.train.get(name) or 10)
        return {name: int(value) if name == "images" else float(f"{value:.3g}")}


def train_command(config: Record, out: str, changes: Record) -> str:
    """The command that trains as `config` (of config.json) was asked to, with changes; None takes an option back."""
    wanted = asked(DataConfig, config["data"].get("options") or {}) | asked(TrainConfig, config["asked"]) | changes
    given = as_arguments({name: value for name, value in wanted.items() if value is not None})
    return " ".join(["ganvas train", shlex.quote(str(config["data"]["source"])), *given, f"--out {shlex.quote(out)}"])


def asked(cls: type[DataConfig] | type[TrainConfig], values: Record) -> Record:
    """The options that differ from their defaults."""
    defaults = {field.name: field.default for field in fields(cls)}
    found = {name: values[name] for name in defaults if name in values}
    return {name: value for name, value in found.items() if value != defaults[name] and value not in ([], ())}


def as_arguments(options: Record) -> list[str]:
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


def overfitting(case: Case) -> list[str]:
    """Signs that training pictures were learnt by heart, a clause each."""
    signs = []
    rate, alarms = case.copies.get("rate"), case.copies.get("false_alarms") or 0.0
    if rate and rate["low"] > alarms:
        signs.append(f"{interval(rate)} of the samples are copies of training pictures (false alarms: {alarms:.1%})")
    seen, unseen = case.measures.get("kid_training"), case.measures.get("kid")
    if case.measures.get("kid_heldout"):
        seen, unseen = case.measures.get("kid"), case.measures["kid_heldout"]
    if seen and unseen and seen["high"] < unseen["low"]:
        signs.append(f"KID is {seen['value']:.3g} to training and {unseen['value']:.3g} to held-out pictures")
    gap = case.vital("d_gap")
    if gap is not None and gap > GAP:
        signs.append(
            f"the discriminator scores held-out pictures {min(1.0, gap):.0%} of the way from training to generated ones"
        )
    signs += [case.health[name] for name in ("copying", "augmentation") if name in case.health]
    return signs


def interval(value: Record) -> str:
    return f"{value['value']:.1%} ({value['low']:.1%} to {value['high']:.1%})"


# ---- rules, each yields at most a few pieces of advice ----


def unjudged(case: Case) -> Advice:
    evidence = "There is no evaluation.json in this run, so quality, variety and copies are not known."
    return Advice("Judge the generator", evidence, f"ganvas evaluate {shlex.quote(case.run)}")


def instability(case: Case) -> Iterator[Advice]:
    for name in ("diverged", "exploding"):
        if name in case.health:
            evidence = f"{sentence(case.health[name])} A smaller step or a heavier penalty keeps the game in balance."
            yield Advice("Train more calmly", evidence, case.again(lr=HALF * case.train["lr"]))
            return


def collapse(case: Case) -> Iterator[Advice]:
    signs = [case.health["collapse"]] if "collapse" in case.health else []
    signs += [case.wrong["variety"]] if "variety" in case.wrong else []
    good = case.compared("precision") > SHORT_OF  # where nothing is good yet, variety is not what lacks
    for key in ("recall", "coverage"):
        if good and case.compared(key) < COLLAPSED:
            row = case.measures[key]
            signs.append(f"{key} is {row['value']:.2f}, and {row['real']:.2f} between real pictures")
    modes = (case.evaluation.get("classes") or {}).get("modes") or {}
    covered = number(modes.get("covered"))
    if covered is not None and covered < modes["of"]:
        signs.append(f"{modes['of'] - covered:g} of {modes['of']} classes never appear")
    if not signs or (case.falls() > FALLING and "collapse" not in case.health):
        return  # variety comes last: a training cut short has little of it yet
    if case.train["loss"] != "relativistic" and case.train["model"] in CLASSIC:
        changes: Record = {"preset": None, "model": None, "loss": "relativistic"}
        how = "The relativistic loss holds every real picture against a fake, so that none is forgotten."
        yield Advice("Variety is lost", f"{joined(signs)} {how}", case.again(**changes))
        return
    changes = {"r1": TWICE * case.train["r1"] or 1.0, "lr": HALF * case.train["lr"]}
    yield Advice(
        "Variety is lost", f"{joined(signs)} A heavier penalty and a smaller rate keep it.", case.again(**changes)
    )


def overfitted(case: Case) -> Iterator[Advice]:
    if not case.overfitted:
        return
    evidence, augment = joined(case.overfitted), case.train.get("augment") or 0.0
    spent = augment >= STRONG or case.train.get("adaptive") or case.num_training < FEW // 4
    if not spent:
        more = f"Augmentation is at {augment:.2g} and can do more."
        yield Advice("Over-fitted: augment more", f"{evidence} {more}", case.again(adaptive=True))
        return
    few = (
        f"{case.num_training:,} training pictures are too few, and augmentation ({augment:.2g}) cannot make up for it."
    )
    if min(case.config["model"]["height"], case.config["model"]["width"]) >= LARGE and case.train["model"] != "skip":
        how = "Add pictures; without more, the network for few large pictures holds out longest."
        yield Advice("Too little data", f"{evidence} {few} {how}", case.again(model="skip", adaptive=True))
        return
    how = "Add pictures (MORE_PICTURES is the enlarged folder) and begin with what was learnt."
    command = (
        f"ganvas train MORE_PICTURES --from {shlex.quote(case.run)} --out {shlex.quote(case.run.rstrip('/') + '-more')}"
    )
    yield Advice("Too little data", f"{evidence} {few} {how}", command)


def augmentation(case: Case) -> Iterator[Advice]:
    if "tone" in case.wrong and case.train.get("augment", 0.0) >= STRONG and case.falls() <= FALLING:
        evidence = (
            f"{case.wrong['tone']} Augmentation of brightness and colour is seen in the generated pictures when it is "
            f"applied too often (here with probability {case.train['augment']:.2g})."
        )
        half = round(HALF * case.train["augment"], 2)
        yield Advice("Augmentation leaks", evidence, case.again(augment=half, adaptive=None))
        return
    gap, augment = case.vital("d_gap"), case.train.get("augment") or 0.0
    if case.overfitted or gap is None or gap > CALM or augment < STRONG or case.train.get("adaptive"):
        return
    evidence = (
        f"Every augmentation applies with probability {augment:.2g}, yet the discriminator scores held-out pictures "
        f"like training ones (gap {gap:.0%}): so much is not needed, and it costs sharpness and time."
    )
    yield Advice("Augmentation is too strong", evidence, case.again(augment=round(HALF * augment, 2)))


def artefacts(case: Case) -> Iterator[Advice]:
    wrong, lattice = case.wrong, case.vital("lattice") or 1.0
    sharpness = number(case.artefacts.get("sharpness")) or case.vital("sharpness") or 1.0
    if "lattice" in wrong or "lattice" in case.health or lattice > LATTICE:
        measured = f"the lattice's peak is {lattice:.1f} times the real pictures' in the training's last examination"
        seen = sentence(wrong.get("lattice") or case.health.get("lattice") or measured)
        if case.train["model"] in CLASSIC:
            changes = {"preset": None, "model": "compact"}
            how = "Transposed convolutions leave it; compact and residual upsample without them."
            yield Advice("A lattice in the pictures", f"{seen} {how}", case.again(**changes))
        else:
            yield Advice(
                "A lattice in the pictures",
                f"{seen} A smaller rate lets it fade.",
                case.again(lr=HALF * case.train["lr"]),
            )
    if case.falls() > FALLING:
        return  # sharpness comes with training
    seen = sentence(wrong.get("sharpness") or f"sharpness is {sharpness:.2g} times the real pictures'")
    if sharpness < BLUNT:
        yield Advice(
            "Pictures are blurred",
            f"{seen} A lighter penalty allows finer detail.",
            case.again(r1=HALF * case.train["r1"]),
        )
    elif sharpness > HARSH:
        yield Advice(
            "Pictures are noisy", f"{seen} A smaller rate ends more calmly.", case.again(lr=HALF * case.train["lr"])
        )


def budget(case: Case) -> Iterator[Advice]:
    if case.best_scores(0.25) is None and case.compared("precision") < SHORT_OF and not case.overfitted:
        row, images = case.measures["precision"], case.reports[-1]["images"] if case.reports else 0
        evidence = (
            f"Precision is {row['value']:.2f} where real pictures reach {row['real']:.2f}, and {images:,} images are "
            "too few to tell whether more would help. The same command with a larger budget goes on."
        )
        yield Advice("Train longer", evidence, case.longer())
    if case.falls() > FALLING and not case.overfitted and not {"plateau", "diverged"} & set(case.health):
        before, since = case.best_scores(0.25) or (0.0, 0.0)
        evidence = (
            f"The score still fell by {case.falls():.0%} in the last quarter of the examinations ({before:.3g} to "
            f"{since:.3g}): the budget ended before the learning did. The same command with a larger budget goes on."
        )
        yield Advice("Train longer", evidence, case.longer())


def capacity(case: Case) -> Iterator[Advice]:
    if case.compared("precision") >= SHORT_OF or case.overfitted or not case.is_flat() or case.falls() > FALLING:
        return
    row = case.measures["precision"]
    evidence = (
        f"The score has stopped falling, nothing was learnt by heart, and precision is {row['value']:.2f} where real "
        f"pictures reach {row['real']:.2f}: the network, not the data or the time, is the limit."
    )
    size = case.train.get("model_size")
    larger: Record = {"model_size": NEXT_SIZE[size]} if size in NEXT_SIZE else {"base": int(TWICE * case.train["base"])}
    yield Advice("The network is too small", evidence, case.again(**larger, **case.budget(TWICE)))


def classes(case: Case) -> Iterator[Advice]:
    found: Record = case.evaluation.get("classes") or {}
    mean, rows = found.get("agreement"), {row["name"]: row for row in found.get("rows", [])}
    worst: Record = rows.get(found.get("worst")) or {}
    agreement = number(worst.get("agreement"))
    if mean and agreement is not None and agreement < RECOGNISED * mean["value"]:
        taken = f", most often for {worst['confused_with']}" if worst.get("confused_with") else ""
        evidence = (
            f"Class {worst['name']} is recognised as asked in {agreement:.0%} of its samples, all classes in "
            f"{mean['value']:.0%}; it is mistaken{taken}. Look at it; if it is rare or mixed, mend the data first."
        )
        command = (
            f"ganvas sample {shlex.quote(case.run)} --label {shlex.quote(worst['name'])} --n 64 --grid --out class.png"
        )
        yield Advice(f"One class is weak: {worst['name']}", evidence, command)
    distance, chance = number(found.get("total_variation")), number(found.get("chance"))
    if distance is not None and chance is not None and distance > max(TWICE * chance, SHARE):
        evidence = (
            f"The shares of the classes differ from the data's by {distance:.1%} (total variation; {chance:.1%} is "
            "chance)."
        )
        if not case.train.get("conditional"):
            evidence += " A generator that takes the class as its input draws each as often as asked."
            yield Advice("Classes come too often or too rarely", evidence, case.again(conditional=True))


def marks(case: Case) -> Iterator[Advice]:
    found = [one for one in case.evaluation.get("marks") or [] if (one.get("generated_share") or 0) > SHARE]
    if not found:
        return
    most = max(found, key=lambda one: one["generated_share"])
    evidence = (
        f"{len(found)} burned-in mark{'s' if len(found) > 1 else ''}: the most frequent is in {most['real_share']:.0%} "
        f"of the real and {most['generated_share']:.0%} of the generated pictures. A generator spends itself on them, "
        "and letters may name people."
    )
    yield Advice("Marks are learnt with the pictures", evidence, case.again(mask_marks=True))


def leaks(case: Case) -> Iterator[Advice]:
    num = case.copies.get("leaks") or 0
    if num:
        evidence = (
            f"{num:,} held-out pictures have a twin among the training pictures: what is measured against them looks "
            "better than it is."
        )
        yield Advice("Held-out pictures leak", evidence, case.again(drop_duplicates=True))


RULES: tuple[Callable[[Case], Iterator[Advice]], ...] = (
    instability,
    collapse,
    overfitted,
    leaks,
    marks,
    budget,
    capacity,
    artefacts,
    augmentation,
    classes,
)


def joined(clauses: list[str]) -> str:
    return " ".join(map(sentence, clauses))


def sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:] + ("" if clause.endswith((".", "!", "?")) else ".")
