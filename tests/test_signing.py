"""share/signing.py: the reader of C2PA verifies what `ganvas sign` signed, and finds every change."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Command
from ganvas.image_files import save_picture
from ganvas.provenance import KIND, provenance, read_provenance
from test_film import frames_of, needs_av
from test_generator import fresh

pytest.importorskip("c2pa", reason="c2pa-python is missing: install the extra c2pa")

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

RECIPE = {"seed": 5}
TODAY = datetime.datetime.now(datetime.UTC)
PIXELS = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)


def pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate(name: str, key: Any, issuer: str, issuer_key: Any, authority: bool) -> bytes:
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only", "crl_sign"), False
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(TODAY - datetime.timedelta(days=1))
        .not_valid_after(TODAY + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **usage), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        mail = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(mail, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def named(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Test"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
        ]
    )


KEYS = {
    "Es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "Es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ps256": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def identity(folder: Path, kind: str = "Es256") -> list[object]:
    """The options with a new certificate, issued by an authority, and its key."""
    root, key = ec.generate_private_key(ec.SECP256R1()), KEYS[kind]()
    chain = certificate("signer", key, "authority", root, False) + certificate(
        "authority", root, "authority", root, True
    )
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(pem(key))
    return ["--certificate", folder / "chain.pem", "--key", folder / "key.pem"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with one generated image in every format, and a photograph."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/b.jpg", "c.webp", "d.tif"):
        save_picture(folder / name, PIXELS, provenance("abc", RECIPE))
    Image.fromarray(PIXELS).save(folder / "photograph.png")
    return folder


def verified(path: Path) -> dict[str, Any]:
    """What the reader of C2PA says of a file: the state, and the signed manifest."""
    with c2pa.Reader(c2pa_type(path), io.BytesIO(path.read_bytes())) as reader:
        found = json.loads(reader.json())
    return {"state": found["validation_state"], **found["manifests"][found["active_manifest"]]}


def c2pa_type(path: Path) -> str:
    kinds = {"jpg": "image/jpeg", "tif": "image/tiff", "mp4": "video/mp4", "mov": "video/quicktime"}
    return kinds.get(path.suffix[1:], f"image/{path.suffix[1:]}")


def test_signatures_are_valid(images: Path, tmp_path: Path, ganvas_command: Command) -> None:
    photograph = (images / "photograph.png").read_bytes()
    answer = ganvas_command("sign", images, *identity(tmp_path))
    assert (answer.code, answer.out.strip()) == (0, "4 files signed")
    for path in (images / "a.png", images / "more/b.jpg", images / "c.webp", images / "d.tif"):
        found = verified(path)
        assert found["state"] == "Valid"
        assert found["signature_info"]["common_name"] == "signer"
        assert found["claim_generator_info"][0]["name"] == "Ganvas"
        (action,) = found["assertions"][0]["data"]["actions"]
        assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", KIND)
        assert read_provenance(path) == {"synthetic": True, "model": "abc", "recipe": RECIPE}
    with Image.open(images / "a.png") as opened:
        assert np.array_equal(np.asarray(opened), PIXELS)
    assert (images / "photograph.png").read_bytes() == photograph


@pytest.mark.parametrize("form", ["gif", pytest.param("mp4", marks=needs_av), pytest.param("mov", marks=needs_av)])
def test_animations_and_videos_are_signed(form: str, tmp_path: Path, ganvas_command: Command) -> None:
    """Their frames and recipe stay, and one changed byte of the frames is found."""
    model, out = tmp_path / "model", tmp_path / f"a.{form}"
    fresh(channels=1).save(model)
    assert ganvas_command("interpolate", model, "--frames", 4, "--size", "64x64", "--out", out).code == 0
    frames, recipe = frames_of(out), read_provenance(out)
    answer = ganvas_command("sign", out, *identity(tmp_path))
    assert (answer.code, answer.out.strip()) == (0, "1 file signed")
    found = verified(out)
    assert (found["state"], found["signature_info"]["common_name"]) == ("Valid", "signer")
    assert np.array_equal(frames_of(out), frames) and read_provenance(out) == recipe
    assert recipe is not None and recipe["synthetic"]
    assert ganvas_command("sign", out, *identity(tmp_path)).out.strip() == "no file signed: all were signed already"
    content = bytearray(out.read_bytes())
    content[content.index(b"mdat") + 200 if form != "gif" else -100] ^= 1
    out.write_bytes(content)
    assert verified(out)["state"] == "Invalid"


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key(images: Path, tmp_path: Path, ganvas_command: Command, kind: str) -> None:
    assert ganvas_command("sign", images / "a.png", *identity(tmp_path, kind)).code == 0
    found = verified(images / "a.png")
    assert (found["state"], found["signature_info"]["alg"]) == ("Valid", kind)


def test_a_changed_file_is_found(images: Path, tmp_path: Path, ganvas_command: Command) -> None:
    ganvas_command("sign", images / "a.png", *identity(tmp_path))
    content = bytearray((images / "a.png").read_bytes())
    place = content.index(b"IDAT") + 10
    content[place] ^= 1
    (images / "a.png").write_bytes(content)
    assert verified(images / "a.png")["state"] == "Invalid"


def test_signed_files_are_left_alone(images: Path, tmp_path: Path, ganvas_command: Command) -> None:
    options = identity(tmp_path)
    ganvas_command("sign", images / "a.png", *options)
    content = (images / "a.png").read_bytes()
    answer = ganvas_command("sign", images, *options)
    assert answer.out.strip() == "3 files signed"
    assert (images / "a.png").read_bytes() == content
    assert ganvas_command("sign", images, *options).out.strip() == "no file signed: all were signed already"


def test_bad_input(images: Path, tmp_path: Path, ganvas_command: Command) -> None:
    options = identity(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    identity(other)
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("no certificate")
    before = (images / "a.png").read_bytes()
    for source, given, sentence in (
        (images / "photograph.png", options, "only files that Ganvas generated are signed"),
        (images / "nothing", options, "does not exist"),
        (tmp_path / "key.pem", options, "C2PA signs .png"),
        (images, ["--certificate", no_pem, *options[2:]], "not a certificate in PEM format"),
        (images, ["--certificate", tmp_path / "none.pem", *options[2:]], "none.pem"),
        (images, [*options[:3], no_pem], "no.pem"),
        (images, [*options[:3], other / "key.pem"], "cannot be signed"),
    ):
        answer = ganvas_command("sign", source, *given)
        assert answer.code == 2 and sentence in answer.err and len(answer.err.strip().splitlines()) == 1, answer.err
        assert (images / "a.png").read_bytes() == before
