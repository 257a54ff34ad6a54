"""Data: converts a folder, an archive or a named data set to a `Pack` of images with one size."""

from ganvas.data.opening import open_pack
from ganvas.data.packing.pack import Pack

__all__ = ["Pack", "open_pack"]
