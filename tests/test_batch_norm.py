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
from ganvas.models.batch_norm import GROUP, MEASURED, BatchNorm, measure_statistics
from ganvas.training.preview import PixelVariety


def test_groups_of_a_batch_are_normalised_apart() -> None:
    norm = BatchNorm(4).train()
    x = 3 * torch.randn(2 * GROUP, 4, 5, 6, generator=torch.Generator().manual_seed(0)) + 1
    torch.testing.assert_close(norm(x), torch.cat([norm(x[:GROUP]), norm(x[GROUP:])]), rtol=0, atol=0)
    first = norm(x)[:GROUP]
    torch.testing.assert_close(first.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(first.var(dim=(0, 2, 3), correction=0), torch.ones(4), rtol=0, atol=1e-3)


def test_measured_statistics_are_those_of_the_weights() -> None:
    """The same weights get the same ones, and evaluation then gives images as training does."""
    torch.manual_seed(0)
    config = ModelConfig("light", 16, 16, 3, 3, z_dim=8, base=8, widest=16)
    network = build_generator(config)
    measure_statistics(network, config.z_dim, labels_in_turn(config, None))
    again = copy.deepcopy(network)
    for buffer in again.buffers():
        buffer.fill_(0.5)
    measure_statistics(again, config.z_dim, labels_in_turn(config, None))
    for one, other in zip(network.buffers(), again.buffers(), strict=True):
        assert torch.equal(one, other)
    assert not network.training
    z, labels = torch.randn(MEASURED, 8, generator=torch.Generator().manual_seed(0)), torch.arange(MEASURED) % 3
    with torch.no_grad():
        used = network(z, labels)
        trained = network.train()(z, labels)
    assert (used - trained).abs().mean() < 0.2 * trained.std()


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
