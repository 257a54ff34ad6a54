"""Data: from a folder, an archive or a named set to a `Pack` of images of one size."""

from ganvas.data.pack import Pack, open_pack

__all__ = ["Pack", "open_pack"]
