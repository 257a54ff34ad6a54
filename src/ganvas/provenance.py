"""What every generated image says about itself in its file: that it is synthetic, by which model, and its recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ganvas.errors import PictureError

KIND = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for an image made by a trained model, which image libraries and search engines read."""

XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{KIND}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""

SENTENCE = "Synthetic image made by a generative adversarial network; it shows nothing and nobody real."


def provenance(model: str, recipe: Mapping[str, Any]) -> dict[str, str]:
    """Text for the file of an image. model: hash of the weights; recipe: plain values that make the image again."""
    return {
        "Software": "Ganvas",
        "Description": SENTENCE,
        "ganvas": json.dumps({"synthetic": True, "model": model, "recipe": dict(recipe)}, ensure_ascii=True),
        "XML:com.adobe.xmp": XMP,
    }


def read_provenance(path: Path) -> dict[str, Any] | None:
    """{"synthetic", "model", "recipe"} of an image that Ganvas made, None for any other image."""
    try:
        with Image.open(path) as picture:
            picture.load()  # texts may stand behind the pixels
            text = picture.info.get("ganvas") or picture.getexif().get(DESCRIPTION)
    except (OSError, SyntaxError, ValueError) as error:
        raise PictureError(f"{path} is not a readable image") from error
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and values.get("synthetic") is True else None


DESCRIPTION = 270  # the TIFF tag ImageDescription
