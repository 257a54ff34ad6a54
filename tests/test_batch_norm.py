"""models/batch_norm.py and training/preview.py's variety."""

from __future__ import annotations

import copy

import numpy as np
import torch

from ganvas.config import ModelConfig
from ganvas.data import open_pack
from ganvas.data.batches import images_at
from ganvas.model_file import labels_in_turn
from ganvas.models import build_generator
from ganvas.models.batch_norm import (
    GROUP,
    MEASURED,
    MOMENTUM,
    BatchNorm,
    follow_statistics,
    forget_statistics,
    has_statistics,
    measure_statistics,
)
from ganvas.training.preview import PixelVariety


def normed(shift: float = 0.0) -> tuple[BatchNorm, torch.Tensor]:
    """A layer whose running statistics are those of the images, and two groups of images (16, 4, 5, 6)."""
    x = 3 * torch.randn(2 * GROUP, 4, 5, 6, generator=torch.Generator().manual_seed(0)) + 1 + shift
    norm = BatchNorm(4).train()
    norm.running_mean.fill_(1)
    norm.running_var.fill_(9)
    return norm, x


def test_training_gives_the_images_of_evaluation_whatever_else_is_in_the_batch() -> None:
    norm, x = normed()
    x[:4] += 2  # one group has other statistics
    torch.testing.assert_close(norm(x), norm.eval()(x), rtol=0, atol=1e-4)
    norm, x = normed(shift=100)
    assert norm(x).abs().max() < 10  # corrections have limits: statistics that are far away count as wrong


def test_parts_of_whole_groups_give_the_same_as_the_batch() -> None:
    norm, x = normed()
    torch.testing.assert_close(norm(x), torch.cat([norm(x[:GROUP]), norm(x[GROUP:])]), rtol=0, atol=0)


def test_gradient_is_that_of_batch_normalisation_in_groups() -> None:
    """So it has no part that only moves or scales a feature map of a group."""
    norm, x = normed()
    x.requires_grad_()
    (norm(x) * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for gradient, group in zip(x.grad.split(GROUP), x.detach().split(GROUP), strict=True):
        centred = group - group.mean(dim=(0, 2, 3), keepdim=True)
        torch.testing.assert_close(gradient.sum(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)
        torch.testing.assert_close((gradient * centred).sum(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-2)


def test_running_statistics_follow_what_a_network_and_its_copies_have_seen() -> None:
    """The same for one pass and for copies that see a group each; a pass that was given up does not count."""
    norm, x = normed(shift=5)
    copies = [copy.deepcopy(norm), copy.deepcopy(norm)]
    norm(x)
    forget_statistics([norm, *copies])
    for mine, part in zip(copies, x.split(GROUP), strict=True):
        mine(part)
    follow_statistics(norm, copies)
    torch.testing.assert_close(norm.running_mean, 1 + MOMENTUM * (x.mean(dim=(0, 2, 3)) - 1))
    torch.testing.assert_close(norm.running_var, 9 + MOMENTUM * (x.var(dim=(0, 2, 3), correction=0) - 9))


def test_measured_statistics_are_those_of_the_weights() -> None:
    """The same weights get the same ones, and evaluation then gives images as training does."""
    torch.manual_seed(0)
    config = ModelConfig("light", 16, 16, 3, 3, z_dim=8, base=8, widest=16)
    network = build_generator(config)
    assert not has_statistics(network)
    measure_statistics(network, config, labels_in_turn(config, None))
    assert has_statistics(network)
    again = copy.deepcopy(network)
    for name, buffer in again.named_buffers():
        if "running" in name:
            buffer.fill_(0.5)
    measure_statistics(again, config, labels_in_turn(config, None))
    for one, other in zip(network.buffers(), again.buffers(), strict=True):
        assert torch.equal(one, other)
    assert not network.training
    z, labels = torch.randn(MEASURED, 8, generator=torch.Generator().manual_seed(0)), torch.arange(MEASURED) % 3
    with torch.no_grad():
        used = network(z, labels)
        trained = network.train()(z, labels)
    torch.testing.assert_close(trained, used, rtol=0, atol=1e-3)


def test_variety_is_a_share_of_the_real_images() -> None:
    pack = open_pack("digits")
    variety = PixelVariety(pack, pack.classes)
    assert pack.labels is not None
    chosen = np.concatenate([np.flatnonzero(pack.labels == i)[:8] for i in range(10)])
    images, labels = images_at(pack, chosen), torch.from_numpy(pack.labels[chosen])
    found = variety(images, labels)
    assert 0.7 < found.variety < 1.3
    same = images.clone()
    same[labels == 4] = same[labels == 4][:1]
    assert variety(same, labels).worst == pack.classes[4]
    assert variety(same, labels).worst_variety < 1e-6
    plain = PixelVariety(pack, [])
    assert plain(images, None).variety > 0.7
    assert plain(images[:1].expand(8, -1, -1, -1), None).variety < 1e-6
