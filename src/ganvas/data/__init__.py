"""Data: converts a folder, an archive or a named data set to a `Pack` of images with one size."""

from ganvas.data.pack import Pack, open_pack

__all__ = ["Pack", "open_pack"]
