"""Rejects contradictory options; warns about options that are unlikely to work."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ganvas.augment import MOST_PROBABLE
from ganvas.config import ModelConfig, TrainConfig
from ganvas.errors import ConfigError, amount
from ganvas.losses import LOSSES
from ganvas.models import architecture_of, build
from ganvas.models.batch_norm import GROUP, layers_of
from ganvas.models.contract import StyledGenerator
from ganvas.models.layers import without_memory
from ganvas.system.device import world_size


@dataclass(frozen=True)
class Traits:
    """How a pair of networks treats a batch during training.

    mixes: the discriminator uses batch statistics. batch_statistics: at least one of the two networks does.
    grouped: they are statistics of groups of 8 images (batch_norm.py) only. styled: the generator has a style space.
    """

    mixes: bool
    batch_statistics: bool
    grouped: bool
    styled: bool

    @property
    def least(self) -> int:
        """Fewest images in a pass."""
        return 2 if self.batch_statistics else 1

    def smaller(self, micro_batch: int) -> int:
        """About half as many images, at least `least`; whole groups if there is more than one."""
        half = max(self.least, micro_batch // 2)
        return max(GROUP, half - half % GROUP) if self.grouped and micro_batch > GROUP else half

    def same_result(self, micro_batch: int) -> bool:
        """Whether micro-batches of this size give the gradients of the whole batch."""
        return micro_batch % GROUP == 0 if self.grouped else not self.batch_statistics


@functools.cache
def traits_of(model: ModelConfig) -> Traits:
    with without_memory():
        generator, discriminator = build(model)
    mixes = discriminator.mixes_images
    grouped = not mixes and bool(layers_of(generator))
    return Traits(mixes, mixes or generator.mixes_images, grouped, isinstance(generator, StyledGenerator))


_Rule = tuple[object, str]
"""Whether options contradict each other, and what to do."""


def refuse_what_cannot_work(config: TrainConfig, model: ModelConfig, traits: Traits) -> None:
    """Raises ConfigError with the reason for options that contradict each other."""
    for wrong, sentence in _rules_of_networks(config, model, traits) + _rules_of_options(config):
        if wrong:
            raise ConfigError(sentence)


def _rules_of_networks(config: TrainConfig, model: ModelConfig, traits: Traits) -> list[_Rule]:
    name, head = model.model, config.discriminator
    local, micro = config.batch // world_size(), config.micro_batch or 1
    on_features = head != "own"
    joint = config.update == "joint"
    batch_statistics = f"the batch statistics of the {name} discriminator"
    return [
        (
            config.gradient_penalty and traits.mixes,
            f"--gradient-penalty does not work with {batch_statistics}: use --r1 or another --model",
        ),
        (
            joint and traits.mixes,
            f"--update joint does not work with {batch_statistics}: use --update alternating",
        ),
        (
            joint and config.n_critic > 1,
            f"--n-critic {config.n_critic} needs --update alternating",
        ),
        (
            traits.batch_statistics and 1 in (local, micro, local % micro),
            f"--batch {config.batch} leaves one image in a pass, and the batch statistics of {name} need two or more: "
            "choose another --batch or --micro-batch",
        ),
        (
            (config.path_length or config.style_mixing) and not traits.styled,
            f"--path-length and --style-mixing need a style space, which {name} does not have: use --model style",
        ),
        (
            on_features and architecture_of(name).classic,
            f"--discriminator {head} does not work with the classic network {name}: remove it, or use --model light",
        ),
        (
            on_features and (config.gradient_penalty or config.spectral_norm),
            f"--discriminator {head} has its own penalty, --r1-features: remove --gradient-penalty and --spectral-norm",
        ),
        (
            config.r1_features and not on_features,
            "--r1-features works with --discriminator features or both only",
        ),
    ]


def _rules_of_options(config: TrainConfig) -> list[_Rule]:
    loss, optimizer, ranks = config.loss, config.optimizer, world_size()
    constrained = config.gradient_penalty or config.spectral_norm or config.r1
    return [
        (
            loss == "wasserstein" and not constrained,
            "--loss wasserstein needs a Lipschitz constraint: add --gradient-penalty 10 or --spectral-norm",
        ),
        (
            config.label_noise and not LOSSES[loss].targets,
            f"--label-noise does not work with --loss {loss}: use --loss bce or least-squares",
        ),
        (
            config.momentum and optimizer not in ("sgd", "rmsprop"),
            f"--momentum works with --optimizer sgd or rmsprop only; use --beta1 with {optimizer}",
        ),
        (
            config.weight_decay and optimizer not in ("adamw", "sgd"),
            f"--weight-decay works with --optimizer adamw or sgd only, not {optimizer}",
        ),
        (
            config.probe_gamma and ranks > 1,
            f"--probe-gamma runs in one process, not in {ranks}: use it in one process first, then set --r1",
        ),
        (
            config.probe_gamma and not config.r1,
            "--probe-gamma tests values of --r1, and --r1 is off",
        ),
        (
            config.augment > MOST_PROBABLE,
            f"--augment {config.augment}: above {MOST_PROBABLE} the augmentations show in the samples",
        ),
    ]


def warnings(config: TrainConfig, traits: Traits) -> list[str]:
    """Options that are allowed but unlikely to work, each with a better choice."""
    sentences = []
    rate = min(config.lr, config.lr_d)
    if config.optimizer in ("adam", "adamw") and rate <= 2e-5:
        sentences.append(
            f"a learning rate of {rate:g} is too low for Adam: the usual value is 2e-4 (with 1e-5 the MNIST project "
            "generated noise for 50 epochs)"
        )
    if config.optimizer == "sgd" and rate < 1e-3:
        sentences.append(f"a learning rate of {rate:g} is too low for SGD: the usual value is 1e-2")
    if config.loss == "hinge" and not (config.spectral_norm or config.r1 or config.gradient_penalty):
        sentences.append("the hinge loss usually diverges without --spectral-norm or a gradient penalty")
    micro = config.micro_batch or config.batch
    if micro * world_size() < config.batch and not traits.same_result(micro):
        sentences.append(
            f"micro-batches of {amount(micro, 'image')} change the result: {config.model} computes statistics of each"
        )
    return sentences
