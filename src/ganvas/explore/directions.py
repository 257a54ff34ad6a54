"""Edit directions in latent space that change one property, found with or without labels.

Directions are in w for networks with a style space, otherwise in z. The vector of a direction has the length of one
standard deviation of the latents along it, so amounts from -3 to 3 cover nearly all samples.
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

from ganvas import latent_codes
from ganvas.data.packing.pack import Pack
from ganvas.errors import ConfigError
from ganvas.evaluation.classifier import classifier_for
from ganvas.evaluation.small_classifier import logits, prepared
from ganvas.explore.recipes import RECIPE_FORMAT, Direction, Recipe, direction_of, direction_values, resolve
from ganvas.generator import BATCH, Generator, to_pixels
from ganvas.image_files import sheet
from ganvas.latent_codes import Code
from ganvas.model_file import find_weights
from ganvas.models.contract import StyledGenerator
from ganvas.system import files

_Progress = Callable[[str, int, int], None]

_FILE = "directions.json"
_POOLED = 4  # longest side of the grid to which features are averaged before the decomposition
_SPARE, _POWERS = 16, 2  # randomised decomposition: additional vectors, and power iterations
_HELD_OUT = 0.2  # fraction of the samples for testing a supervised direction
_RIDGES = tuple(10.0**power for power in range(-3, 4))  # candidate strengths of the regression
_TRIED = 256  # images that show the effect of a direction
_FEWEST = 20  # fewest samples classified as a class, and as the other classes, for a direction
_LONGEST_FILE = 50_000_000  # most bytes of directions.json


# -- without labels --


def principal(
    generator: Generator,
    num: int = 8,
    *,
    depth: int | None = None,
    samples: int = 4096,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Direction]:
    """The first `num` principal components, strongest first (GANSpace: Härkönen et al. 2020).

    With a style space: principal components of w; `depth`: the layer that they edit, default all. Otherwise: principal
    components of the features at the layer `depth` (default: the middle), each with the latent direction that predicts
    it best; `source` says how well. Samples are drawn from all classes equally; differences between class means are
    removed. samples: number of latents, drawn with `seed`. progress: called after each batch. Raises ConfigError for an
    unknown layer or too many components.
    """
    size = generator.info.config.z_dim
    if not 1 <= num <= size:
        raise ConfigError(f"{num} directions: the latents of this model have {size} numbers, expected 1 to {size}")
    if depth is not None and not 0 <= depth < generator.num_depths:
        raise ConfigError(f"depth {depth}: this model has layers 0 to {generator.num_depths - 1}")
    samples = max(samples, 2 * num)
    z, labels = _draw(generator, samples, seed)
    if latent_codes.has_styles(generator.network):
        w = centred(generator.code(z, labels).latents[:, 0].cpu(), labels)
        values, vectors = components(w, num, seed)
        shares = values.square() / w.square().sum()
        depths = None if depth is None else (depth,)
        return [
            _direction(
                f"pc{i + 1}", values[i] / samples**0.5 * vectors[i], f"{shares[i]:.1%} of the variance of w", depths
            )
            for i in range(num)
        ]
    depth = generator.num_depths // 2 if depth is None else depth
    features = centred(_features_at(generator, z, labels, depth, progress), labels)
    values, vectors = components(features, num, seed)
    scores = features @ vectors.T
    scores /= scores.std(dim=0, correction=0).clamp_min(1e-12)
    # Latents are independent with variance 1, so the regression slope is the covariance, and its squared length is
    # the explained fraction of the variance.
    slopes = scores.T @ z / samples
    shares = values.square() / features.square().sum()
    return [
        _direction(
            f"pc{i + 1}",
            F.normalize(slopes[i], dim=0),
            f"{shares[i]:.1%} of the feature variance at layer {depth}, "
            f"{min(1.0, float(slopes[i].square().sum())):.0%} of it linear in the latent",
        )
        for i in range(num)
    ]


def from_weights(generator: Generator, num: int = 8) -> list[Direction]:
    """The latent directions with the largest effect on the first weights, strongest first (SeFa: Shen and Zhou 2021).

    With a style space: right singular vectors of the stacked maps from w to the styles of all layers; otherwise of the
    first layer that receives the latent. Samples are used only for the deviation of w. Raises ConfigError for too many
    directions.
    """
    size = generator.info.config.z_dim
    if not 1 <= num <= size:
        raise ConfigError(f"{num} directions: the latents of this model have {size} numbers, expected 1 to {size}")
    network = generator.network
    styled = latent_codes.has_styles(network)
    matrix = _style_maps(network) if latent_codes.has_styles(network) else _first_map(generator)
    _, strengths, vectors = torch.linalg.svd(matrix.double().cpu(), full_matrices=False)
    if num > len(vectors):
        raise ConfigError(f"{num} directions: the first weights have only {len(vectors)}")
    vectors = vectors[:num].float()
    lengths = torch.ones(num)
    if styled:
        z, labels = _draw(generator, 4096, 0)
        w = centred(generator.code(z, labels).latents[:, 0].cpu(), labels)
        lengths = (w @ vectors.T).std(dim=0, correction=0)
    shares = strengths.square() / strengths.square().sum()
    return [
        _direction(
            f"weights{i + 1}", lengths[i] * _signed(vectors[i]), f"{shares[i]:.1%} of the squared norm of the weights"
        )
        for i in range(num)
    ]


def _draw(generator: Generator, num: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Latents (num, D) and labels in turn, classes (num,) or conditions (num, num_conditions), on the CPU."""
    size = generator.info.config.z_dim
    z = torch.from_numpy(np.random.default_rng(seed).standard_normal((num, size), np.float32))
    return z, generator.labels_of(None, range(num))


def centred(x: Tensor, labels: Tensor | None) -> Tensor:
    """Subtract the mean from x (N, D): that of each class with labels (N,), or what is linear in conditions (N, K)."""
    if labels is None:
        return x - x.mean(dim=0)
    if labels.is_floating_point():
        x, vectors = (x - x.mean(dim=0)).cpu(), (labels - labels.mean(dim=0)).to(x.dtype).cpu()
        return x - vectors @ torch.linalg.lstsq(vectors, x, driver="gelsd").solution
    which = F.one_hot(labels).to(x.dtype)
    means = which.T @ x / which.sum(dim=0).clamp_min(1)[:, None]
    return x - means[labels]


def components(x: Tensor, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """The `num` largest singular values (num,) and right singular vectors (num, D) of x (N, D), with fixed signs.

    Randomised subspace iteration (Halko et al. 2011), seeded.
    """
    if num > min(x.shape):
        raise ConfigError(f"{num} directions: the features have only {min(x.shape)}")
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        _, values, vectors = torch.svd_lowrank(x, min(num + _SPARE, *x.shape), _POWERS)
    return values[:num], torch.stack([_signed(vector) for vector in vectors.T[:num]])


def _signed(vector: Tensor) -> Tensor:
    """Choose the sign such that the entry with the largest absolute value is positive."""
    return vector * torch.sign(vector[vector.abs().argmax()])


@torch.inference_mode()
def _features_at(
    generator: Generator,
    z: Tensor,
    labels: Tensor | None,
    depth: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Tensor:
    """(N, F) float32 on the CPU: the features at a layer, averaged to a grid of at most 4 x 4."""
    maps: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        if output.ndim == 4:
            height, width = output.shape[2:]
            output = F.adaptive_avg_pool2d(output.float(), (min(_POOLED, height), min(_POOLED, width)))
        maps.append(output.float().flatten(1).cpu())

    modules = generator.network.depths
    handle = modules[depth].register_forward_hook(keep)
    try:
        for start in range(0, len(z), BATCH):
            part = slice(start, start + BATCH)
            generator.show(generator.code(z[part], None if labels is None else labels[part]))
            if progress is not None:
                progress("images", min(start + BATCH, len(z)), len(z))
    finally:
        handle.remove()
    return torch.cat(maps)


def _answers(layer: nn.Module, size: int, rest: Tensor) -> Tensor:
    """(outputs, size) matrix of an affine layer with `size` inputs and `rest` (1, ...) as constant further inputs."""
    zero = torch.zeros(1, size, *rest.shape[2:]).to(rest)
    ones = torch.eye(size).to(rest).view(size, size, *rest.shape[2:])
    inputs = torch.cat([torch.cat([zero, ones]), rest.expand(1 + size, *rest.shape[1:])], dim=1)
    outputs = layer(inputs).flatten(1)
    return (outputs[1:] - outputs[:1]).T


@torch.no_grad()
def _style_maps(network: StyledGenerator) -> Tensor:
    """(sum of all styles, D): the maps from w to the styles of all layers, stacked."""
    affine = network.affine
    size = affine[0].in_features
    return torch.cat([_answers(layer, size, affine[0].weight.new_zeros(1, 0)) for layer in affine])


class _FirstLayer(Exception):
    """Not an error: stops a forward pass early; carries a layer and its input."""

    def __init__(self, layer: nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs


@torch.no_grad()
def _first_map(generator: Generator) -> Tensor:
    """(outputs, D): the effective weights of the first layer that receives the latent.

    The layer is found by its input, so its name and type do not matter; run-time normalisation is included.
    """
    size = generator.info.config.z_dim
    z, labels = _draw(generator, 1, 0)

    def stop(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        fits = isinstance(x, Tensor) and x.is_floating_point() and x.ndim in (2, 4) and x.shape[1] >= size
        if fits and torch.equal(x[:, :size].flatten(), z[0].to(x)):
            raise _FirstLayer(layer, x)

    leaves = [part for part in generator.network.modules() if not list(part.children())]
    handles = [part.register_forward_pre_hook(stop) for part in leaves]
    try:
        generator.network(z.to(generator.device), None if labels is None else labels.to(generator.device))
    except _FirstLayer as reached:
        layer, x = reached.layer, reached.inputs
    else:
        raise ConfigError("no layer of this network takes the latent directly: use the principal components")
    finally:
        for handle in handles:
            handle.remove()
    return _answers(layer, size, x[:, size:])


# -- with labels --


def supervised(
    generator: Generator,
    pack: Pack,
    *,
    label: str | None = None,
    samples: int = 2000,
    seed: int = 0,
    progress: _Progress | None = None,
) -> list[Direction]:
    """A direction for each class of the pack against the other classes (InterFaceGAN: Shen et al. 2020).

    A classifier trained on the labels of the pack (cached) classifies `samples` generated images. Ridge regression
    from latents to its log-odds gives the axis. The direction is the mean change of the latents for log-odds that are
    one deviation higher, so edits stay within the distribution. `source` gives the balanced accuracy on held-out
    samples and the share of the class at amounts -2 and 2.
    label: only this class. For two classes, only the second, because the first is its opposite.
    Raises ConfigError for an unknown label, if too few images are classified as the class, or if the class is an input
    of the network; DataError for a pack without labels.
    """
    if label is not None and label not in pack.classes:
        raise ConfigError(f"label {label!r} does not exist: the images have {', '.join(pack.classes) or 'none'}")
    same = bool(generator.classes) and set(pack.classes) <= set(generator.classes)
    if same and not latent_codes.has_styles(generator.network):
        raise ConfigError(
            "this model takes the class as its input, so its latents do not contain it: select the class, or morph "
            "between two classes"
        )
    classifier = classifier_for(pack, str(generator.device), progress)
    z, labels = _draw(generator, samples, seed)
    latents, logits = _classified(generator, classifier.network, z, labels, progress)
    wanted = [label] if label is not None else pack.classes[1:] if len(pack.classes) == 2 else pack.classes
    result = []
    for name in wanted:
        k = pack.classes.index(name)
        odds = _log_odds(logits, k)
        positive = int((odds > 0).sum())
        if min(positive, samples - positive) < _FEWEST:
            if label is None and len(wanted) > 1:
                continue
            raise ConfigError(
                f"{positive} of {samples} generated images are classified as {name!r}: too one-sided for a direction; "
                f"use more than {samples} samples"
            )
        vector, accuracy = axis(latents, odds)
        shares = []
        for amount in (-2.0, 2.0):
            moved = generator.code(z[:_TRIED], None if labels is None else labels[:_TRIED])
            moved.latents.add_((amount * vector.float()).to(moved.latents))
            odds = _log_odds(_looked_at(classifier.network, generator, moved).double(), k)
            shares.append(float((odds > 0).double().mean()))
        source = (
            f"{name} by a classifier (accuracy {classifier.accuracy.value:.0%} on real images); balanced accuracy "
            f"{accuracy:.0%} on held-out generated images; from -2 to 2 the share of {name} goes from {shares[0]:.0%} "
            f"to {shares[1]:.0%}"
        )
        result.append(_direction(name, vector.float(), source))
    if not result:
        raise ConfigError("too few generated images of any class: train longer, or use more samples")
    return result


def _classified(
    generator: Generator, network: nn.Module, z: Tensor, labels: Tensor | None, progress: _Progress | None
) -> tuple[Tensor, Tensor]:
    """First row of the latent codes (N, D) and logits of the generated images (N, num_classes), float64 on the CPU."""
    latents, logits = [], []
    for start in range(0, len(z), BATCH):
        part = slice(start, start + BATCH)
        code = generator.code(z[part], None if labels is None else labels[part])
        latents.append(code.latents[:, 0].cpu())
        logits.append(_looked_at(network, generator, code))
        if progress:
            progress("classifying generated images", min(start + BATCH, len(z)), len(z))
    return torch.cat(latents).double(), torch.cat(logits).double()


def _looked_at(network: nn.Module, generator: Generator, code: Code) -> Tensor:
    """(N, num_classes) logits of the classifier for the generated images."""
    pixels = np.concatenate(
        [to_pixels(generator.show(code[i : i + BATCH]), generator.info.depth) for i in range(0, len(code), BATCH)]
    )
    classifier: Any = network
    return logits(classifier, prepared(pixels, np.arange(len(pixels))))


def _log_odds(scores: Tensor, k: int) -> Tensor:
    """(N,) log-odds of class k against all others, from logits (N, K)."""
    others = torch.cat([scores[:, :k], scores[:, k + 1 :]], dim=1)
    return scores[:, k] - others.logsumexp(dim=1)


def axis(x: Tensor, odds: Tensor) -> tuple[Tensor, float]:
    """Latents (N, D) and log-odds (N,) -> direction (D,) and its balanced accuracy on held-out samples.

    The regression strength is chosen on one half of the other samples, after a fit on the other half.
    """
    num = len(x)
    test = num - max(1, round(_HELD_OUT * num))
    half = test // 2
    errors = [
        float((_predict(_solve(x[:half], odds[:half], ridge), x[half:test]) - odds[half:test]).square().mean())
        for ridge in _RIDGES
    ]
    fitted = _solve(x[:test], odds[:test], _RIDGES[int(np.argmin(errors))])
    truth, said = odds[test:] > 0, _predict(fitted, x[test:]) > _threshold(fitted, x[:test], odds[:test])
    rates = [float((said == truth)[truth == side].double().mean()) for side in (True, False) if (truth == side).any()]
    scores = _predict(fitted, x)
    scores = scores - scores.mean()
    vector = (x - x.mean(dim=0)).T @ scores / num / scores.std(correction=0).clamp_min(1e-12)
    return vector, sum(rates) / len(rates)


def _solve(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Ridge regression: slopes (D,), mean of x, mean of y. ridge: in units of the mean variance of x."""
    mean, level = x.mean(dim=0), y.mean()
    covariance = (x - mean).T @ (x - mean) / len(x)
    covariance.diagonal().add_(ridge * covariance.diagonal().mean())
    return torch.linalg.solve(covariance, (x - mean).T @ (y - level) / len(x)), mean, level


def _predict(fitted: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    slopes, mean, level = fitted
    return (x - mean) @ slopes + level


def _threshold(fitted: tuple[Tensor, Tensor, Tensor], x: Tensor, odds: Tensor) -> Tensor:
    """Decision threshold: halfway between the mean predictions of both sides.

    For rare classes, a regression predicts few values above 0 although the order of the images is right.
    """
    scores, side = _predict(fitted, x), odds > 0
    return (scores[side].mean() + scores[~side].mean()) / 2


# -- preview and files --


def strip(
    generator: Generator,
    direction: Direction,
    seeds: Sequence[int],
    amounts: Sequence[float] = (-3, -1.5, 0, 1.5, 3),
    label: str | None = None,
    truncation: float = 1.0,
) -> np.ndarray:
    """A sheet (H, W, C): one row per seed, one column per amount of the direction, in standard deviations."""
    if not len(seeds) or not len(amounts):
        raise ConfigError("a strip needs at least one seed and one amount")
    recipes = [
        Recipe(seed=seed, label=label, truncation=truncation, edits={direction.name: float(amount)})
        for seed in seeds
        for amount in amounts
    ]
    code = resolve(generator, recipes, {direction.name: direction})
    title = f"{direction.name}: {direction.source}" if direction.source else direction.name
    above, left = [f"{amount:+g}" for amount in amounts], [f"seed {seed}" for seed in seeds]
    return sheet(to_pixels(generator.show(code), generator.info.depth), title, above, left)


def _direction(name: str, vector: Tensor, source: str, depths: tuple[int, ...] | None = None) -> Direction:
    """A direction with numbers rounded to 6 digits, as in the file."""
    return Direction(name, tuple(float(f"{x:.6g}") for x in vector.tolist()), depths, source)


def _place(source: Path) -> Path:
    """Path of directions.json, next to the weights of a run, a model folder or a weights file."""
    return find_weights(Path(source)).parent / _FILE


def read(source: Path, generator: Generator) -> dict[str, Direction]:
    """The saved directions of a model by name; empty without a file.

    Raises ConfigError if the file is damaged or belongs to other weights.
    """
    path = _place(source)
    if not path.exists():
        return {}
    values = _content(path)
    if values.get("model") != generator.hash:
        raise ConfigError(
            f"{path} belongs to the model {str(values.get('model'))[:12]}, not to {generator.hash[:12]}: "
            "run `ganvas directions` for this model"
        )
    try:
        return {name: direction_of(name, one) for name, one in values["directions"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it and run `ganvas directions` again") from None


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LONGEST_FILE:
            raise ValueError
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ConfigError(f"{path} is damaged: delete it and run `ganvas directions` again") from None
    if not isinstance(values, dict) or values.get("ganvas") != "directions":
        raise ConfigError(f"{path} is not a directions file written by Ganvas")
    if values.get("format") != RECIPE_FORMAT:
        raise ConfigError(f"{path} has format {values.get('format')}; this version of Ganvas reads {RECIPE_FORMAT}")
    return values


def save(source: Path, directions: Sequence[Direction] | Mapping[str, Direction], generator: Generator) -> Path:
    """Save directions next to the model and return the path. Directions with the same name are replaced.

    Directions of older weights are deleted, because they do not apply to the new weights.
    """
    path = _place(source)
    new = list(directions.values()) if isinstance(directions, Mapping) else list(directions)
    kept: dict[str, Direction] = {}
    if path.exists() and _content(path).get("model") == generator.hash:
        kept = read(source, generator)
    kept |= {one.name: one for one in new}
    entries = {name: direction_values(one) for name, one in kept.items()}
    files.write_json(
        path, {"ganvas": "directions", "format": RECIPE_FORMAT, "model": generator.hash, "directions": entries}
    )
    return path
