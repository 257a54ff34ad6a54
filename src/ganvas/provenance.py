"""What the file of every generated image or video states: that it is synthetic, its model, and its recipe."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ganvas.errors import GanvasError, MissingExtraError, PictureError
from ganvas.image_formats import IMAGE_FORMATS

KIND = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for an image made by a trained model, which image libraries and search engines read."""

XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{KIND}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""

SENTENCE = "Synthetic image made by a generative adversarial network; it shows nothing and nobody real."


XMP_PACKET = "XML:com.adobe.xmp"  # name of this text in a PNG file
_MOST_NOTE = 60_000  # characters; the EXIF data of a JPEG file has at most 65,533 bytes
_VIDEOS = (".mp4", ".webm", ".mov")
_IMAGES = (*(name for name, form in IMAGE_FORMATS.items() if form.writing), "GIF")  # formats that Ganvas writes
DESCRIPTION, SOFTWARE = 270, 305  # tag numbers of EXIF and TIFF


def provenance(model: str, recipe: Mapping[str, Any]) -> dict[str, str]:
    """Text for the file of an image. model: hash of the weights; recipe: plain values that make the image again."""
    return {
        "Software": "Ganvas",
        "Description": SENTENCE,
        "ganvas": json.dumps({"synthetic": True, "model": model, "recipe": dict(recipe)}, ensure_ascii=True),
        XMP_PACKET: XMP,
    }


def note(text: Mapping[str, str] | None) -> str:
    """The sentence and the entry "ganvas" as one text, for formats that take only one.

    A recipe that is too long (the latents of many images) is left out; without `text` the note is the sentence alone.
    """
    if text is None:
        return SENTENCE
    entry = text["ganvas"]
    if len(entry) > _MOST_NOTE:
        entry = json.dumps(json.loads(entry) | {"recipe": {}})
    return f"{SENTENCE}\n{entry}"


def read_provenance(path: str | Path) -> dict[str, Any] | None:
    """{"synthetic", "model", "recipe"} of an image or video that Ganvas made, None for any other.

    Reads PNG, JPEG, WebP, TIFF and GIF; MP4, WebM and MOV need the extra video. Raises PictureError if the file is
    missing or damaged.
    """
    path = Path(path)
    try:
        text = _video_comment(path) if path.suffix.lower() in _VIDEOS else _image_note(path)
    except GanvasError:
        raise
    except Exception as error:  # damaged files can make libraries raise almost anything
        raise PictureError(f"{path} is not a readable image or video") from error
    try:
        values = json.loads(text.rpartition("\n")[2]) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and values.get("synthetic") is True else None


@contextlib.contextmanager
def opened_image(path: Path) -> Generator[Image.Image]:
    """An image that Ganvas wrote, decoded. Any exception about a damaged or very large file becomes a PictureError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=_IMAGES) as image:
                image.load()  # texts may stand behind the pixels
                yield image
        except Exception as error:  # damaged files can make Pillow raise almost anything
            raise PictureError(f"{path} is not a readable image") from error


def _image_note(path: Path) -> object:
    with opened_image(path) as picture:
        comment = picture.info.get("comment", "")
        text = picture.info.get("ganvas") or picture.getexif().get(DESCRIPTION)
        return text or (comment.decode(errors="replace") if isinstance(comment, bytes) else comment)


def _video_comment(path: Path) -> object:
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", "reading videos") from None
    with av.open(str(path)) as container:
        return next((value for name, value in container.metadata.items() if name.lower() == "comment"), None)
