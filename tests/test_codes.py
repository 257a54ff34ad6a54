"""codes.py: one form of steering for every architecture; and seeds, which mean the same image everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from architectures import CLASSIC, MODERN
from ganvas import generator, latent_codes
from ganvas.config import ModelConfig
from ganvas.generator import Generator
from ganvas.latent_codes import Code
from ganvas.model_file import ModelInfo
from ganvas.models import MODELS, build
from ganvas.models.style import EqualConv2d, EqualLinear
from test_generator import CLASSES, SAME

SIDE = 32  # the smallest that every architecture takes
CASES = [(name, False) for name in MODELS] + [(name, True) for name in MODERN]
QUICK = (*MODERN, "dcgan", "mlp")  # the other classic networks are large, and variations of these
cases = pytest.mark.parametrize(
    ("name", "labelled"),
    [
        pytest.param(name, has, id=f"{name}{'-labels' * has}", marks=[] if name in QUICK else [pytest.mark.slow])
        for name, has in CASES
    ],
)
GENERATORS: dict[tuple[str, bool], Generator] = {}


def numbered(name: str, labelled: bool = False) -> Generator:
    """A generator of 32x32 gray images whose weights come from NumPy's generator: the same on every machine.

    Their scale keeps activations alive to the end, so that its images have contrast and differ.
    """
    classes = CLASSES if labelled else []
    config = ModelConfig(name, SIDE, SIDE, 1, len(classes), z_dim=8, base=8)
    network, _ = build(config)
    rng = np.random.default_rng(7)
    # Branches are added up in residual, gates multiply in light; kernels of xray see mostly border at this size.
    gain = {"residual": 0.7, "light": 0.8, "xray": 2.0}.get(name, 1.4)
    for place, module in sorted(network.named_modules()):
        for key, tensor in sorted([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]):
            if not tensor.is_floating_point() or f"{place}.{key}".strip(".") not in network.state_dict():
                continue
            numbers = torch.from_numpy(np.array(rng.standard_normal(tuple(tensor.shape), np.float32)))
            if key in ("start", "basis"):  # learnt grids
                value = numbers
            elif isinstance(module, EqualLinear | EqualConv2d) and key == "weight":  # scaled when they are used
                value = numbers / getattr(module, "lr", 1)
            elif tensor.ndim >= 2:
                fan = tensor[0].numel()
                if isinstance(module, torch.nn.ConvTranspose2d):
                    fan = tensor.shape[0] * tensor[0, 0].numel() / module.stride[0] ** 2
                value = gain * numbers / fan**0.5
            elif key == "path_mean":
                value = torch.zeros(())
            else:
                value = (1.0 if key in ("weight", "gain", "running_var") else 0.0) + 0.1 * numbers
            tensor.data.copy_(value)
    return Generator(network, ModelInfo(config, classes), "cpu")


def of(name: str, labelled: bool = False) -> Generator:
    """`numbered`, made once."""
    key = name, labelled
    if key not in GENERATORS:
        GENERATORS[key] = numbered(name, labelled)
    return GENERATORS[key]


def code_of(gan: Generator, *seeds: int, truncation: float = 1.0) -> Code:
    return gan.code(gan.latents(seeds), gan.label_indices(None, seeds), truncation)


# Codes and images.


@cases
@pytest.mark.parametrize("truncation", [1.0, 0.6])
def test_a_code_makes_the_picture_of_its_seed(name: str, labelled: bool, truncation: float) -> None:
    gan = of(name, labelled)
    code = code_of(gan, 3, 4, 8, truncation=truncation)
    rows = gan.num_depths + (not latent_codes.has_styles(gan.network))
    assert code.latents.shape == (3, rows, 8) and len(code) == 3
    expected = torch.cat([gan.sample(1, seed, truncation=truncation) for seed in (3, 4, 8)])
    torch.testing.assert_close(gan.show(code), expected, rtol=0, atol=SAME)


@cases
def test_all_depths_of_another_picture_are_its_code(name: str, labelled: bool) -> None:
    gan = of(name, labelled)
    one, other = code_of(gan, 1), code_of(gan, 2)
    mixed = latent_codes.mix(gan.network, one, other, range(gan.num_depths))
    start = (
        0 if latent_codes.has_styles(gan.network) else 1
    )  # what is lent; without styles the layout stays the first one's
    assert torch.equal(mixed.latents[:, start:], other.latents[:, start:])
    if start == 0:
        torch.testing.assert_close(gan.show(mixed), gan.show(other), rtol=0, atol=SAME)
    else:
        assert torch.equal(mixed.latents[:, 0], one.latents[:, 0])


@cases
def test_every_depth_can_be_steered_by_itself(name: str, labelled: bool) -> None:
    gan = of(name, labelled)
    one, other = code_of(gan, 1), code_of(gan, 5)
    alone = gan.show(one)
    pictures = [gan.show(latent_codes.mix(gan.network, one, other, [depth])) for depth in range(gan.num_depths)]
    for depth, picture in enumerate(pictures):
        assert (picture - alone).abs().max() > 1e-3, depth
        assert torch.isfinite(picture).all() and picture.abs().max() <= 1
    for depth in range(1, len(pictures)) if name != "xray" else ():  # its first grids have one place: all is lent
        assert (pictures[depth] - pictures[depth - 1]).abs().max() > 1e-3
    same = gan.show(latent_codes.mix(gan.network, one, one, range(gan.num_depths)))
    assert torch.equal(same, alone)


@cases
def test_mixed_and_plain_codes_in_one_batch_do_not_disturb_each_other(name: str, labelled: bool) -> None:
    gan = of(name, labelled)
    depths = gan.num_depths
    parts = [
        code_of(gan, 1),
        latent_codes.mix(gan.network, code_of(gan, 2), code_of(gan, 3), [0]),
        code_of(gan, 4),
        latent_codes.mix(gan.network, code_of(gan, 5), code_of(gan, 6), [depths - 1]),
        latent_codes.mix(
            gan.network,
            latent_codes.mix(gan.network, code_of(gan, 7), code_of(gan, 8), [0]),
            code_of(gan, 9),
            [depths - 1],
        ),
    ]
    together = gan.show(latent_codes.stack(parts))
    for i, part in enumerate(parts):
        torch.testing.assert_close(together[i : i + 1], gan.show(part), rtol=0, atol=SAME)


@cases
def test_the_way_between_two_codes_begins_and_ends_there(name: str, labelled: bool) -> None:
    gan = of(name, labelled)
    one, other = code_of(gan, 1, 1, 1), code_of(gan, 2, 2, 2)
    way = latent_codes.between(gan.network, one, other, torch.tensor([0.0, 0.5, 1.0]))
    pictures = gan.show(way)
    torch.testing.assert_close(pictures[:1], gan.show(one[:1]), rtol=0, atol=SAME)
    torch.testing.assert_close(pictures[2:], gan.show(other[:1]), rtol=0, atol=SAME)
    assert (pictures[1] - pictures[0]).abs().max() > 1e-3
    assert not latent_codes.differs(way).any()  # equal rows stay equal, bit for bit: nothing is lent on the way
    if labelled and not latent_codes.has_styles(gan.network):
        assert way.labels is not None
        assert way.labels[1, 0].tolist() == [0.0, 0.5, 0.5]  # between the classes of the seeds 1 and 2


@cases
def test_pictures_can_be_differentiated_in_their_code(name: str, labelled: bool) -> None:
    gan = of(name, labelled)
    code = code_of(gan, 1, 2)
    latents = code.latents.clone().requires_grad_()
    latent_codes.decode(gan.network, Code(latents, code.labels)).square().sum().backward()
    assert latents.grad is not None and torch.isfinite(latents.grad).all() and latents.grad.abs().max() > 0


def test_lent_appearance_is_the_mean_and_deviation_of_every_map() -> None:
    torch.manual_seed(0)
    x, other = torch.randn(2, 5, 6, 7) * 3 + 1, torch.randn(2, 5, 4, 4) * 0.5 - 2
    lent = latent_codes.as_other(x, other)
    torch.testing.assert_close(lent.mean(dim=(2, 3)), other.mean(dim=(2, 3)), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        lent.var(dim=(2, 3), correction=0), other.var(dim=(2, 3), correction=0), rtol=1e-3, atol=0
    )
    layout = torch.corrcoef(torch.stack([lent[0, 0].flatten(), x[0, 0].flatten()]))[0, 1]
    assert layout == pytest.approx(1, abs=1e-5)
    flat = latent_codes.as_other(torch.ones(1, 1, 3, 3), other[:1, :1])  # a map without layout: no division by zero
    assert torch.isfinite(flat).all()


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_great_circle_has_even_speed_and_length(t: float) -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    point = latent_codes.slerp(a, b, torch.tensor([[t]]))[0]
    angle = torch.atan2(point[1], point[0])
    assert angle == pytest.approx(t * torch.pi / 2, abs=1e-5) and point.norm() == pytest.approx(2 + 2 * t, abs=1e-5)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_the_great_circle_survives_equal_and_opposite_vectors(factor: float) -> None:
    a = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))  # rounding gives some a cosine above 1
    for t in (0.0, 0.5, 1.0):
        point = latent_codes.slerp(a, factor * a, torch.full((500, 1), t))
        torch.testing.assert_close(point, a * (1 + t * (factor - 1)), rtol=0, atol=1e-4)
    assert torch.isfinite(latent_codes.slerp(a, torch.zeros_like(a), torch.full((500, 1), 0.5))).all()


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_interpolation_between_equal_and_opposite_latents_has_a_gradient(factor: float) -> None:
    a = torch.randn(50, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    b = (factor * a).detach().requires_grad_()
    latent_codes.slerp(a, b, torch.full((50, 1), 0.25)).sum().backward()
    assert a.grad is not None and b.grad is not None
    torch.testing.assert_close(a.grad, torch.full_like(a, 0.75))
    torch.testing.assert_close(b.grad, torch.full_like(b, 0.25))


def test_classes_can_be_weighed_in_every_modern_network() -> None:
    for name in MODERN:
        gan = of(name, labelled=True)
        z = gan.latents([7])
        pure = gan.show(gan.code(z, torch.tensor([1])))
        weighed = gan.show(gan.code(z, torch.tensor([[0.0, 1.0, 0.0]])))
        torch.testing.assert_close(weighed, pure, rtol=0, atol=SAME)
        half = gan.show(gan.code(z, torch.tensor([[0.5, 0.5, 0.0]])))
        assert (half - pure).abs().max() > 1e-3 and torch.isfinite(half).all()


# Seeds: the same image on every machine, in every batch, in every version.


@cases
def test_pictures_do_not_depend_on_the_batch(name: str, labelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gan = of(name, labelled)
    expected = gan.sample(7, seed=2)
    for batch in (1, 3):
        monkeypatch.setattr(generator, "BATCH", batch)
        torch.testing.assert_close(gan.sample(7, seed=2), expected, rtol=0, atol=SAME)
        torch.testing.assert_close(gan.show(code_of(gan, *range(2, 9))), expected, rtol=0, atol=SAME)


def fingerprint(name: str) -> list[str]:
    """Three images, the last one truncated, as the means of 4 x 4 fields, in hexadecimal digits.

    A field's step is a fortieth of the deviation among the picture's fields; 128 is their mean.
    """
    gan = of(name, labelled=name in MODERN)
    pictures = torch.cat([gan.sample(2, seed=11), gan.sample(1, seed=4_000_000_000, truncation=0.7)])
    assert pictures.std() > 0.02 and (pictures.abs() > 0.99).float().mean() < 0.5  # images, no blanks
    fields = torch.nn.functional.adaptive_avg_pool2d(pictures.double(), 4).flatten(1)
    steps = 128 + 40 * (fields - fields.mean(dim=1, keepdim=True)) / fields.std(dim=1, keepdim=True)
    return [bytes(row).hex() for row in steps.round().int().tolist()]


TABLE = """
light 5f679c71b03f86697f55c365d3788d7c 595b8269952f93767eafd28db974706a 34497869836b9b6f8e97a994d25180a4
compact 7997de918764a75c898a66208e76866f 96764b42cdad846365a96d5c959ba45a 95295b6bd78f88736a79956778b5a46b
residual a64f4f63a187355db3b56592af7b8e87 7d8638889f7859a99f6e91c8417758ae 54403678af7f678c9c9f95be81ad5e83
style 9ec99dac9e986a875336889f55626062 aada8fb98c907799564a7d745c606358 61aeb0a58d81679b693844b1677666b4
mlp 4eb65b8f9d528060856d9458a3a452cc 41a99d2fc79273877a91a05f9e547a80 3aa781569d688c9b9491944bd6537081
dcgan 8a74a162938bee4f7298848e7662713c 6564746852a1b99c5ba2bf757688ad35 4c77997550d1be676c8eb36756679d7a
xray 8cb2a68eb641676bb7635f829b90376a 92baa164bb6b6443bd7a6771998b3e70 76ac8749b0778253cc7f9f5ba884465d
tf-mnist bb83711d9a8183ba9f928c90844b655a a7879652bb827983887ed6895a3e575d a66b9d569f7079b777c0a77a8938495c
mnist-upsample 888aa374b7cd3e5e8889813b9e5b8e65 7a84a077a9d16a6f72986f5ac33a7654 589cb29d82d16a875aba49618b715869
celeba ad6f6295b79f4e49b3574c58a98e8a91 a27a8566eb6c566497506f4eaa898091 98ad997fb2407263a26c7223a4689a94
cifar10 b98f49ad518a9b485b80aa9d4b8c64a6 906584c5596e95a02baf95847d5d52a8 6da18aad3c7da77d79be81606a693aba
"""
FINGERPRINTS = {name: prints for name, *prints in map(str.split, TABLE.strip().splitlines())}


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_means_the_same_picture_on_every_machine_and_in_every_version(name: str) -> None:
    """Where this fails, seeds that people kept would show other images: that needs a new FORMAT, not new numbers."""
    for found, kept in zip(fingerprint(name), FINGERPRINTS[name], strict=True):
        fields, expected = bytes.fromhex(found), bytes.fromhex(kept)
        assert max(abs(a - b) for a, b in zip(fields, expected, strict=True)) <= 1


def test_every_architecture_has_a_fingerprint() -> None:
    assert set(FINGERPRINTS) == set(MODERN) | set(CLASSIC)
