"""Directions: ways through the space of codes that change one thing, found without labels or with them.

Networks with styles are steered in the space of w, the others in that of the latents z. A direction's vector is one
standard deviation of the codes along it, so that the amounts -3 to 3 cover nearly all that the model has seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas import codes, files
from ganvas.codes import Code
from ganvas.data.pack import Pack
from ganvas.errors import ConfigError
from ganvas.explore.recipes import FORMAT, Direction, Recipe, direction_of, plain, resolve
from ganvas.generator import BATCH, Generator, find_weights, to_pixels
from ganvas.judge.classifier import judge_of
from ganvas.judge.small import logits, prepared
from ganvas.pictures import grid

Progress = Callable[[str, int, int], None]

FILE = "directions.json"
POOLED = 4  # longest side of the grid to which features are averaged before their components are sought
SPARE, POWERS = 16, 2  # of the randomised search for components: more than are wanted, and rounds of refinement
HELD_OUT = 0.2  # part of the samples on which a supervised direction is tested
RIDGES = tuple(10.0**power for power in range(-3, 4))  # strengths that the held-in part chooses from
FEWEST = 20  # samples that must be taken for a class, and for the rest, before a direction is sought
LONGEST_FILE = 50_000_000  # bytes of directions.json


# -- without labels --


def principal(
    generator: Generator, num: int = 8, *, depth: int | None = None, samples: int = 4096, seed: int = 0
) -> list[Direction]:
    """The `num` strongest components of what varies, strongest first (GANSpace: Härkönen et al. 2020).

    With styles: the principal components of w; `depth`: the one that they move, default all. Else: the components of
    the features at `depth` (default: half of the way), each with the direction of the latents that
    follows it best; its source says how well. Classes take turns, and what differs from class to class is left out.
    samples: latents drawn, by `seed`. Raises ConfigError for an unknown depth or more components than there can be.
    """
    size = generator.info.config.z_dim
    if not 1 <= num <= size:
        raise ConfigError(f"{num} directions: this model's codes have {size} numbers, expected 1 to {size}")
    if depth is not None and not 0 <= depth < generator.num_depths:
        raise ConfigError(f"depth {depth}: this model has 0 to {generator.num_depths - 1}")
    samples = max(samples, 2 * num)
    z, labels = draw(generator, samples, seed)
    if codes.has_styles(generator.network):
        w = centred(generator.code(z, labels).latents[:, 0].cpu(), labels)
        values, vectors = components(w, num, seed)
        shares = values.square() / w.square().sum()
        depths = None if depth is None else (depth,)
        return [
            direction(
                f"pc{i + 1}", values[i] / samples**0.5 * vectors[i], f"{shares[i]:.1%} of the variance of w", depths
            )
            for i in range(num)
        ]
    depth = generator.num_depths // 2 if depth is None else depth
    features = centred(features_at(generator, z, labels, depth), labels)
    values, vectors = components(features, num, seed)
    scores = features @ vectors.T
    scores /= scores.std(dim=0, correction=0).clamp_min(1e-12)
    # Latents are independent and of variance 1: the slope of a score on them is their covariance, and its squared
    # length the part of the score's variance that a straight line explains.
    slopes = scores.T @ z / samples
    shares = values.square() / features.square().sum()
    return [
        direction(
            f"pc{i + 1}",
            F.normalize(slopes[i], dim=0),
            f"{shares[i]:.1%} of the variance of the features at depth {depth}, "
            f"{min(1.0, float(slopes[i].square().sum())):.0%} of it in a straight line",
        )
        for i in range(num)
    ]


def from_weights(generator: Generator, num: int = 8) -> list[Direction]:
    """The directions that the first weights answer most, strongest first (SeFa: Shen and Zhou 2021).

    With styles: the right singular vectors of all layers' maps from w to styles, stacked; else of the first layer that
    sees the latent. Nothing is sampled but the deviation of w. Raises ConfigError for more than there can be.
    """
    size = generator.info.config.z_dim
    if not 1 <= num <= size:
        raise ConfigError(f"{num} directions: this model's codes have {size} numbers, expected 1 to {size}")
    styled = codes.has_styles(generator.network)
    matrix = style_maps(generator.network) if styled else first_map(generator)
    _, strengths, vectors = torch.linalg.svd(matrix.double().cpu(), full_matrices=False)
    if num > len(vectors):
        raise ConfigError(f"{num} directions: the first weights have only {len(vectors)}")
    vectors = vectors[:num].float()
    lengths = torch.ones(num)
    if styled:
        z, labels = draw(generator, 4096, 0)
        w = centred(generator.code(z, labels).latents[:, 0].cpu(), labels)
        lengths = (w @ vectors.T).std(dim=0, correction=0)
    shares = strengths.square() / strengths.square().sum()
    return [
        direction(f"weights{i + 1}", lengths[i] * signed(vectors[i]), f"{shares[i]:.1%} of the first weights' square")
        for i in range(num)
    ]


def draw(generator: Generator, num: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Latents (num, D) and labels (num,), the classes in turn, on the CPU."""
    size, num_classes = generator.info.config.z_dim, generator.info.config.num_classes
    z = torch.from_numpy(np.random.default_rng(seed).standard_normal((num, size), np.float32))
    return z, torch.arange(num) % num_classes if num_classes else None


def centred(x: Tensor, labels: Tensor | None) -> Tensor:
    """(N, D) less the mean, that of its own class where there are labels (N,)."""
    if labels is None:
        return x - x.mean(dim=0)
    which = F.one_hot(labels).to(x.dtype)
    means = which.T @ x / which.sum(dim=0).clamp_min(1)[:, None]
    return x - means[labels]


def components(x: Tensor, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """The `num` largest singular values (num,) and right singular vectors (num, D) of x (N, D), signs made definite.

    By randomised subspace iteration (Halko et al. 2011), whose random numbers come from NumPy and the seed.
    """
    width = min(num + SPARE, *x.shape)
    probe = np.random.default_rng(seed).standard_normal((x.shape[1], width), np.float32)
    basis, _ = torch.linalg.qr(x @ torch.from_numpy(probe))
    for _ in range(POWERS):
        basis, _ = torch.linalg.qr(x.T @ basis)
        basis, _ = torch.linalg.qr(x @ basis)
    _, values, vectors = torch.linalg.svd(basis.T @ x, full_matrices=False)
    if num > len(values):
        raise ConfigError(f"{num} directions: the features have only {len(values)}")
    return values[:num], torch.stack([signed(vector) for vector in vectors[:num]])


def signed(vector: Tensor) -> Tensor:
    """The vector or its opposite: its largest number is positive."""
    return vector * torch.sign(vector[vector.abs().argmax()])


@torch.inference_mode()
def features_at(generator: Generator, z: Tensor, labels: Tensor | None, depth: int) -> Tensor:
    """(N, F) float32 on the CPU: the features at a depth, averaged to a grid of at most 4 x 4 places."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        if output.ndim == 4:
            height, width = output.shape[2:]
            output = F.adaptive_avg_pool2d(output.float(), (min(POOLED, height), min(POOLED, width)))
        found.append(output.float().flatten(1).cpu())

    modules: Any = generator.network.depths
    handle = modules[depth].register_forward_hook(keep)
    try:
        for start in range(0, len(z), BATCH):
            part = slice(start, start + BATCH)
            generator.show(generator.code(z[part], None if labels is None else labels[part]))
    finally:
        handle.remove()
    return torch.cat(found)


def answers(layer: nn.Module, size: int, rest: Tensor) -> Tensor:
    """(outputs, size) the matrix of an affine layer with `size` inputs, and `rest` (1, ...) as further ones: asked."""
    zero = torch.zeros(1, size, *rest.shape[2:]).to(rest)
    ones = torch.eye(size).to(rest).view(size, size, *rest.shape[2:])
    inputs = torch.cat([torch.cat([zero, ones]), rest.expand(1 + size, *rest.shape[1:])], dim=1)
    outputs = layer(inputs).flatten(1)
    return (outputs[1:] - outputs[:1]).T


@torch.no_grad()
def style_maps(network: nn.Module) -> Tensor:
    """(sum of all styles, D): w to the styles of every layer."""
    part: Any = network
    affine = [layer.conv.affine for layer in part.synthesis.layers] + [one.affine for one in part.synthesis.to_picture]
    size = affine[0].in_features
    return torch.cat([answers(layer, size, affine[0].weight.new_zeros(1, 0)) for layer in affine])


class Found(Exception):
    """No error: ends a forward pass that has shown enough; carries a layer and what went into it."""

    def __init__(self, layer: nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs


@torch.no_grad()
def first_map(generator: Generator) -> Tensor:
    """(outputs, D): the weights of the first layer that sees the latent, as they act.

    Found by its input, so that it may have any name and form, and be normalised or scaled at run time.
    """
    size = generator.info.config.z_dim
    z, labels = draw(generator, 1, 0)

    def stop(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        fits = isinstance(x, Tensor) and x.is_floating_point() and x.ndim in (2, 4) and x.shape[1] >= size
        if fits and torch.equal(x[:, :size].flatten(), z[0].to(x)):
            raise Found(layer, x)

    leaves = [part for part in generator.network.modules() if not list(part.children())]
    handles = [part.register_forward_pre_hook(stop) for part in leaves]
    try:
        generator.network(z.to(generator.device), None if labels is None else labels.to(generator.device))
    except Found as found:
        layer, x = found.layer, found.inputs
    else:
        raise ConfigError("no layer of this network takes the latent as it is: use the principal components")
    finally:
        for handle in handles:
            handle.remove()
    return answers(layer, size, x[:, size:])


# -- with labels --


def supervised(
    generator: Generator,
    pack: Pack,
    *,
    label: str | None = None,
    samples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Direction]:
    """The direction of each class of the pack against the rest (InterFaceGAN: Shen et al. 2020), by its name.

    A classifier that learns the pack's labels (kept in the cache) looks at `samples` generated images; ridge
    regression from codes to its log-odds gives the axis. The direction is how codes differ on average where the
    log-odds are one deviation higher, so that it stays where codes lie. Its source says the balanced accuracy on
    images that were held out, and how the share of images taken for the class changes from -2 to 2.
    label: this class alone. Of two classes the second alone: the first is its opposite.
    Raises ConfigError for an unknown label, where too few images are taken for the class, and where the network takes
    these very classes as its input and its latents know nothing of them; DataError for a pack without labels.
    """
    if label is not None and label not in pack.classes:
        raise ConfigError(f"label {label!r} does not exist: the images have {', '.join(pack.classes) or 'none'}")
    if generator.classes and set(pack.classes) <= set(generator.classes) and not codes.has_styles(generator.network):
        raise ConfigError(
            "this model takes the class as its input, and its latents know nothing of it: ask for the class, or for "
            "the way between two classes"
        )
    judge = judge_of(pack, str(generator.device), progress)
    z, labels = draw(generator, samples, seed)
    x, scores = [], []
    for start in range(0, samples, BATCH):
        part = slice(start, start + BATCH)
        code = generator.code(z[part], None if labels is None else labels[part])
        x.append(code.latents[:, 0].cpu())
        scores.append(looked_at(judge.network, generator, code))
        if progress:
            progress("looking at generated pictures", min(start + BATCH, samples), samples)
    codes_of, scores_of = torch.cat(x).double(), torch.cat(scores).double()
    wanted = [label] if label is not None else pack.classes[1:] if len(pack.classes) == 2 else pack.classes
    found = []
    for name in wanted:
        k = pack.classes.index(name)
        odds = log_odds(scores_of, k)
        positive = int((odds > 0).sum())
        if min(positive, samples - positive) < FEWEST:
            if label is None and len(wanted) > 1:
                continue
            raise ConfigError(
                f"of {samples} generated images {positive} are taken for {name!r}: too one-sided for a direction; "
                f"take more than {samples} samples"
            )
        vector, accuracy = axis(codes_of, odds)
        shares = []
        for amount in (-2.0, 2.0):
            block = slice(0, min(256, samples))
            moved = generator.code(z[block], None if labels is None else labels[block])
            moved.latents.add_((amount * vector.float()).to(moved.latents))
            shares.append(float((log_odds(looked_at(judge.network, generator, moved).double(), k) > 0).double().mean()))
        source = (
            f"{name} by a classifier that is right on {judge.accuracy[0]:.0%} of real images; balanced accuracy "
            f"{accuracy:.0%} on held-out generated ones; from -2 to 2 the share of {name} goes from {shares[0]:.0%} to "
            f"{shares[1]:.0%}"
        )
        found.append(direction(name, vector.float(), source))
    if not found:
        raise ConfigError("no class is found in enough generated images: train longer, or take more samples")
    return found


def looked_at(network: nn.Module, generator: Generator, code: Code) -> Tensor:
    """(N, num_classes) the classifier's logits of the codes' images, which it sees in the pack's form."""
    pixels = np.concatenate(
        [to_pixels(generator.show(code[i : i + BATCH]), generator.info.depth) for i in range(0, len(code), BATCH)]
    )
    classifier: Any = network
    return logits(classifier, prepared(pixels, np.arange(len(pixels))))


def log_odds(scores: Tensor, k: int) -> Tensor:
    """(N,) the log-odds of class k against all others, of logits (N, K)."""
    others = torch.cat([scores[:, :k], scores[:, k + 1 :]], dim=1)
    return scores[:, k] - others.logsumexp(dim=1)


def axis(x: Tensor, odds: Tensor) -> tuple[Tensor, float]:
    """Codes (N, D) and log-odds (N,) -> the direction (D,) and its balanced accuracy on the held-out codes.

    The ridge's strength is the one that errs least on half of what is held in, learnt on the other half.
    """
    num = len(x)
    test = num - max(1, round(HELD_OUT * num))
    half = test // 2
    errors = [
        float((predict(solve(x[:half], odds[:half], ridge), x[half:test]) - odds[half:test]).square().mean())
        for ridge in RIDGES
    ]
    fitted = solve(x[:test], odds[:test], RIDGES[int(np.argmin(errors))])
    truth, said = odds[test:] > 0, predict(fitted, x[test:]) > threshold(fitted, x[:test], odds[:test])
    rates = [float((said == truth)[truth == side].double().mean()) for side in (True, False) if (truth == side).any()]
    scores = predict(fitted, x)
    scores = scores - scores.mean()
    vector = (x - x.mean(dim=0)).T @ scores / num / scores.std(correction=0).clamp_min(1e-12)
    return vector, sum(rates) / len(rates)


def solve(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes (D,), mean of x and mean of y of the ridge regression; ridge in units of x's mean variance."""
    mean, level = x.mean(dim=0), y.mean()
    covariance = (x - mean).T @ (x - mean) / len(x)
    covariance.diagonal().add_(ridge * covariance.diagonal().mean())
    return torch.linalg.solve(covariance, (x - mean).T @ (y - level) / len(x)), mean, level


def predict(fitted: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    slopes, mean, level = fitted
    return (x - mean) @ slopes + level


def threshold(fitted: tuple[Tensor, Tensor, Tensor], x: Tensor, odds: Tensor) -> Tensor:
    """What a prediction must exceed: half way between the predictions' means on both sides.

    A regression to rare classes predicts few values above 0, though it puts the images in the right order.
    """
    scores, side = predict(fitted, x), odds > 0
    return (scores[side].mean() + scores[~side].mean()) / 2


# -- looking at them, keeping them --


def strip(
    generator: Generator,
    direction: Direction,
    seeds: Sequence[int],
    amounts: Sequence[float] = (-3, -1.5, 0, 1.5, 3),
    label: str | None = None,
    truncation: float = 1.0,
) -> np.ndarray:
    """One grid (H, W, C): a row for each seed, a column for each amount of the direction, in deviations."""
    if not len(seeds) or not len(amounts):
        raise ConfigError("a strip needs at least one seed and one amount")
    recipes = [
        Recipe(seed=seed, label=label, truncation=truncation, edits={direction.name: float(amount)})
        for seed in seeds
        for amount in amounts
    ]
    code = resolve(generator, recipes, {direction.name: direction})
    return grid(to_pixels(generator.show(code), generator.info.depth), columns=len(amounts))


def direction(name: str, vector: Tensor, source: str, depths: tuple[int, ...] | None = None) -> Direction:
    """Numbers of 6 digits: what a file keeps is what was shown."""
    return Direction(name, tuple(float(f"{x:.6g}") for x in vector.tolist()), depths, source)


def place(source: Path) -> Path:
    """directions.json beside the weights of a run, a model folder or a weights file."""
    return find_weights(Path(source)).parent / FILE


def read(source: Path, generator: Generator) -> dict[str, Direction]:
    """The directions kept beside a model, by name; none where there is no file.

    Raises ConfigError when the file is damaged, or belongs to other weights than the generator's.
    """
    path = place(source)
    if not path.exists():
        return {}
    values = content(path)
    if values.get("model") != generator.hash:
        raise ConfigError(
            f"{path} belongs to the model {str(values.get('model'))[:12]}, not to {generator.hash[:12]}: "
            "find the directions of this one anew with `ganvas directions`"
        )
    try:
        return {name: direction_of(name, one) for name, one in values["directions"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it and find the directions anew") from None


def content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LONGEST_FILE:
            raise ValueError
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ConfigError(f"{path} is damaged: delete it and find the directions anew") from None
    if not isinstance(values, dict) or values.get("ganvas") != "directions":
        raise ConfigError(f"{path} is no file of directions: expected one that Ganvas wrote")
    if values.get("format") != FORMAT:
        raise ConfigError(f"{path} has format {values.get('format')}; this version of Ganvas reads {FORMAT}")
    return values


def save(source: Path, found: Sequence[Direction] | Mapping[str, Direction], generator: Generator) -> Path:
    """Writes directions beside the model and returns the file; one of the same name is replaced, others stay.

    Those of weights that are no more (the run was trained on) are dropped: they mean nothing for the new ones.
    """
    path = place(source)
    new = list(found.values()) if isinstance(found, Mapping) else list(found)
    kept: dict[str, Direction] = {}
    if path.exists() and content(path).get("model") == generator.hash:
        kept = read(source, generator)
    kept |= {one.name: one for one in new}
    entries = {name: plain(one) for name, one in kept.items()}
    files.write_json(path, {"ganvas": "directions", "format": FORMAT, "model": generator.hash, "directions": entries})
    return path
