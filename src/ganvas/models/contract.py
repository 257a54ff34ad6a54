"""What training, sampling and export expect from a generator and a discriminator: base classes with usual values."""

from __future__ import annotations

from torch import Tensor, nn


class _Network(nn.Module):
    """Both networks. In evaluation mode an image depends neither on others of its batch nor on random numbers."""

    mixes_images = False
    """Whether an operation mixes the images of a batch in training mode: batch norm, mini-batch deviation."""
    stochastic = False
    """Whether it draws random numbers in training mode: dropout, noise."""


class Generator(_Network):
    """z (N, z_dim) and labels -> images (N, C, H, W) in [-1, 1].

    labels: classes as indices (N,) or weights (N, num_classes), or vectors of conditions (N, num_conditions), or None.
    """

    starting = False
    """Set by training: the first steps, in which images that became all black must recover."""
    coarse: tuple[int, int] | None = None
    """Set by training: draw small images of this height and width, one of `coarse_sizes`; None: whole images."""
    coarse_sizes: tuple[tuple[int, int], ...] = ()
    """Sizes of the small images that training begins with, smallest first."""
    draws_windows = False
    """Whether `forward` takes `windows` of large images (crops.Window).

    It then returns the small images of the last of `coarse_sizes` and these parts; what the windows add to the small
    images has no batch statistics.
    """

    moves_latents = False
    """Whether it has `move_latents`."""

    def move_latents(self, mean: Tensor, factor: Tensor) -> None:
        """Changes the weights so that a latent z (z_dim,) gives the image that mean + factor z gave before."""
        raise NotImplementedError

    @property
    def depths(self) -> list[nn.Module]:
        """Modules whose outputs are the features (N, maps, h, w), coarse to fine; mixing exchanges their statistics."""
        raise NotImplementedError


class StyledGenerator(Generator):
    """A generator with a style space: labels and z -> w -> images, with one style per depth."""

    mapping: nn.Module
    """z (N, z_dim) and labels -> w (N, D)."""
    style_mixing = 0.0
    """Set by training: probability that the later stages of an image in training mode use a second latent."""

    def synthesise(self, styles: Tensor) -> Tensor:
        """Styles w, one per depth (N, depths, D) or one per image (N, D) -> images (N, C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def mean_w(self, labels: Tensor | None = None) -> Tensor:
        """(N, D) mean w of each label; (1, D) without labels."""
        raise NotImplementedError

    def truncated(self, z: Tensor, labels: Tensor | None, truncation: float) -> Tensor:
        """Images of mean + truncation (w - mean)."""
        raise NotImplementedError

    @property
    def affine(self) -> list[nn.Linear]:
        """The layers that map w to the factors of the feature maps, of all depths."""
        raise NotImplementedError

    def path_length_penalty(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The path-length regularisation, a scalar."""
        raise NotImplementedError


class Discriminator(_Network):
    """Images (N, C, H, W) in [-1, 1] and labels (indices, or vectors of conditions) or None -> logits (N,)."""
