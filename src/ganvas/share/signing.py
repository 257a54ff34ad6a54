"""Sign generated images and videos with C2PA (Content Credentials): who says that they are synthetic, and unchanged."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import ganvas
from ganvas.errors import ConfigError, MissingExtraError
from ganvas.fields import takes
from ganvas.image_formats import IMAGE_FORMATS
from ganvas.options import Sign
from ganvas.provenance import KIND, read_provenance
from ganvas.system import files

_TYPES = {
    **{ending: form.media_type for form in IMAGE_FORMATS.values() if form.signed for ending in form.endings},
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
}
"""File endings that can be signed; C2PA has no signature for WebM."""
_CURVES = {256: "es256", 384: "es384", 521: "es512"}  # by the bits of the key


@takes(Sign)
def sign(asked: Sign) -> list[Path]:
    """Sign files that Ganvas generated, in place; return those that were signed now.

    The signature covers the whole file with its recipe. Files that are signed already and files of other programs are
    left out. Raises ConfigError if no file can be signed, or if the certificate and the key do not fit.
    """
    try:
        import c2pa
    except ImportError:
        raise MissingExtraError("c2pa-python", "c2pa", "signing images") from None
    images = _generated(Path(asked.source))
    signer = _signer_of(Path(asked.certificate), Path(asked.key))
    signed = []
    for path in images:
        with files.explained(path):
            content = path.read_bytes()
        try:
            if _is_signed(path, content):
                continue
            result = io.BytesIO()
            context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})
            c2pa.Builder(json.dumps(_manifest(path)), context).sign(
                signer, _TYPES[path.suffix.lower()], io.BytesIO(content), result
            )
        except c2pa.C2paError as error:
            raise ConfigError(f"{path} cannot be signed: {_reason(error)}") from error
        files.write_atomically(path, lambda file, new=result: file.write(new.getvalue()))
        signed.append(path)
    return signed


def _generated(source: Path) -> list[Path]:
    """The file, or all files of a folder, that Ganvas generated and that C2PA can sign."""
    if not source.exists():
        raise ConfigError(f"{source} does not exist: give an image, a video, or a folder of them")
    if source.is_file() and source.suffix.lower() not in _TYPES:
        raise ConfigError(f"{source} cannot be signed: C2PA signs {', '.join(_TYPES)}")
    paths = sorted(source.rglob("*")) if source.is_dir() else [source]
    images = [path for path in paths if path.suffix.lower() in _TYPES and path.is_file() and read_provenance(path)]
    if not images:
        raise ConfigError(f"{source}: no generated image or video found; only files that Ganvas generated are signed")
    return images


def _is_signed(path: Path, content: bytes) -> bool:
    import c2pa

    try:
        c2pa.Reader(_TYPES[path.suffix.lower()], io.BytesIO(content)).close()
    except c2pa.C2paError as error:
        if str(error).startswith("ManifestNotFound"):
            return False
        raise
    return True


def _manifest(path: Path) -> dict[str, Any]:
    """What the signature states: this file was made by a trained model."""
    program = {"name": "Ganvas", "version": ganvas.__version__}
    created = {"action": "c2pa.created", "digitalSourceType": KIND, "softwareAgent": program}
    return {
        "claim_generator_info": [program],
        "title": path.name,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def _signer_of(certificate: Path, key: Path) -> Any:
    """The signer of C2PA. The kind of signature follows from the certificate."""
    import c2pa

    with files.explained(certificate):
        chain = certificate.read_bytes()
    with files.explained(key):
        secret = key.read_bytes()
    kind = _algorithm(certificate, chain)
    try:
        return c2pa.Signer.from_info(c2pa.C2paSignerInfo(kind, chain, secret, None))
    except c2pa.C2paError as error:
        raise ConfigError(f"--certificate {certificate}, --key {key}: {_reason(error)}") from error


def _algorithm(path: Path, chain: bytes) -> str:
    """C2PA's name of the signature of the first certificate of a chain."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        public = x509.load_pem_x509_certificates(chain)[0].public_key()
    except ValueError as error:
        raise ConfigError(f"--certificate {path}: this is not a certificate in PEM format") from error
    match public:
        case ec.EllipticCurvePublicKey() if public.curve.key_size in _CURVES:
            return _CURVES[public.curve.key_size]
        case rsa.RSAPublicKey():
            return "ps256"
        case ed25519.Ed25519PublicKey():
            return "ed25519"
    raise ConfigError(f"--certificate {path}: C2PA accepts keys of the kinds ECDSA, RSA and Ed25519")


def _reason(error: Exception) -> str:
    """The message of an error of c2pa, in one line."""
    return " ".join(str(error).split())
