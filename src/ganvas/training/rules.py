"""What contradicts itself is refused with the reason; what is hopeless is named."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ganvas.augment import MOST
from ganvas.config import ModelConfig, TrainConfig
from ganvas.device import world_size
from ganvas.errors import ConfigError
from ganvas.losses import LOSSES
from ganvas.models import MODERN, build, mixes_pictures


@dataclass(frozen=True)
class Traits:
    """What a pair of networks does with a batch while training.

    mixes: the discriminator mixes its pictures. batch_statistics: one of the two does. dropout: the discriminator
    draws random numbers.
    """

    mixes: bool
    batch_statistics: bool
    dropout: bool


def traits_of(model: ModelConfig) -> Traits:
    with torch.device("meta"):
        generator, discriminator = build(model)
    mixes = mixes_pictures(discriminator)
    return Traits(mixes, mixes or mixes_pictures(generator), getattr(discriminator, "stochastic", False))


def refuse_what_cannot_work(config: TrainConfig, model: ModelConfig, traits: Traits) -> None:
    """Raises ConfigError, with the reason, for options that contradict each other."""
    loss, mixes = LOSSES[config.loss or ""], traits.mixes
    local, micro = (config.batch or 1) // world_size(), config.micro_batch or 1
    held = config.gradient_penalty or config.clip or config.spectral_norm or config.r1
    on_features = config.discriminator not in (None, "own")
    uses_momentum = config.optimizer in ("sgd", "rmsprop")
    contradictions = {
        "--loss wasserstein needs a critic that is kept Lipschitz: give --gradient-penalty 10, --clip 0.01 or "
        "--spectral-norm": config.loss == "wasserstein" and not held,
        f"--clip belongs to --loss wasserstein: with {config.loss} it only weakens the discriminator": config.clip
        and config.loss != "wasserstein",
        f"--gradient-penalty is defined picture by picture, and the discriminator of {model.model} mixes the pictures "
        "of a batch: use --r1, or another --model": config.gradient_penalty and mixes,
        "--penalty finite has no form of --gradient-penalty, which needs the norm of the gradient: use --penalty "
        "exact, or --r1 and --r2": config.penalty == "finite" and config.gradient_penalty,
        f"--update joint needs a discriminator that looks at each picture alone, and that of {model.model} has batch "
        "statistics: use --update alternating": config.update == "joint" and mixes,
        f"--penalty finite compares two passes, and the dropout of {model.model}'s discriminator differs between them: "
        "use --penalty exact": config.penalty == "finite" and (config.r1 or config.r2) and traits.dropout,
        f"--batch {config.batch} leaves a pass with one picture, and {model.model} has batch statistics, which need "
        "two or more: choose another --batch or --micro-batch": traits.batch_statistics
        and 1 in (local, micro, local % micro),
        f"--n-critic {config.n_critic} needs --update alternating": config.update == "joint"
        and (config.n_critic or 1) > 1,
        f"--label-smoothing and --label-noise change targets, and {config.loss} has none: use --loss bce or "
        "least-squares": (config.label_smoothing or config.label_noise) and not loss.targets,
        f"--path-length and --style-mixing belong to --model style, not {model.model}": (
            config.path_length or config.style_mixing
        )
        and model.model != "style",
        f"--discriminator {config.discriminator} belongs to the modern networks, not to {model.model}: leave it out, "
        "or use --model light": on_features and model.model not in MODERN,
        f"--discriminator {config.discriminator} has its own penalty, --r1-features: leave --gradient-penalty, --clip, "
        "--spectral-norm and --reconstruction out": on_features
        and (config.gradient_penalty or config.clip or config.spectral_norm or config.reconstruction),
        f"--penalty finite looks at pixels, and --discriminator {config.discriminator} at features: use --penalty "
        "exact": on_features and config.penalty == "finite",
        "--r1-features belongs to --discriminator features or both": config.r1_features and not on_features,
        f"--reconstruction belongs to --model skip, not {model.model}": config.reconstruction and model.model != "skip",
        f"--magnitude belongs to --model residual, not {model.model}": config.magnitude and model.model != "residual",
        "--magnitude makes the length of weights meaningless: leave --spectral-norm and --clip out": (
            config.magnitude and (config.spectral_norm or config.clip)
        ),
        f"--momentum belongs to --optimizer sgd or rmsprop; {config.optimizer} has --beta1": config.momentum
        and not uses_momentum,
        f"--weight-decay belongs to --optimizer adamw or sgd, not {config.optimizer}": config.weight_decay
        and config.optimizer not in ("adamw", "sgd"),
        f"--probe-gamma runs in one process, not in {world_size()}: find the weight first, then give it as --r1": (
            config.probe_gamma and world_size() > 1
        ),
        "--probe-gamma tries weights of --r1 and --r2, and this objective has none": config.probe_gamma
        and not config.r1,
        f"--augment {config.augment}: above {MOST} augmentations show in the samples": (config.augment or 0) > MOST,
    }
    for sentence, wrong in contradictions.items():
        if wrong:
            raise ConfigError(sentence)


def warnings(config: TrainConfig, traits: Traits) -> list[str]:
    """What is allowed but hopeless, with what to do."""
    found = []
    rate = min(config.lr or 0.0, config.lr_d or 0.0)
    if config.optimizer in ("adam", "adamw") and rate <= 2e-5:
        found.append(
            f"a learning rate of {rate:g} is hopeless with Adam: the MNIST project used 1e-5 and drew noise for 50 "
            "epochs; 2e-4 is usual"
        )
    if config.optimizer == "sgd" and rate < 1e-3:
        found.append(f"a learning rate of {rate:g} is hopeless with plain SGD: 1e-2 is usual")
    if config.loss == "minimax":
        found.append("the minimax loss stops teaching the generator once the discriminator is sure: bce does not")
    if config.loss == "hinge" and not (config.spectral_norm or config.r1 or config.gradient_penalty):
        found.append("the hinge loss without --spectral-norm or a penalty diverges sooner or later")
    micro = (config.micro_batch or 0) * world_size() < (config.batch or 0)
    if micro and LOSSES[config.loss or ""].mixes:
        found.append("relativistic-average compares with the mean of a micro-batch, not of the whole batch")
    if micro and traits.batch_statistics:
        found.append(f"{config.model} takes its batch statistics from {config.micro_batch} pictures, not the batch")
    return found
