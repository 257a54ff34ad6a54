"""The words for what `judge.artefacts` measured: what it is, how strong beside real images, and how bad.

A fault is named where its whole 95% interval lies beyond what is worth a word, so that chance rarely is: of two draws
of real images of six data sets, 4 of 120 examinations named one at 50 images each, and 0 of 55 at 150 or 300.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]

# What is worth a word, and what is bad. Factors, of generated to real or the other way round:
LATTICE, POWER, SHARPNESS, VARIETY = (1.5, 3.0), (1.3, 2.5), (1.3, 2.5), (1.08, 1.4)
# Differences: part of the range; parts of the images that are blank; that are saturated, or repeated.
TONE, BLANKS, SHARES = (0.01, 0.08), (0.0, 0.05), (0.02, 0.1)
SIZES = {"coarse": "above 8 pixels", "middle": "4 to 8 pixels", "fine": "below 4 pixels"}


class Finding(NamedTuple):
    what: str
    sentence: str
    severity: str
    """ok, note or bad."""


def _severity(ratio: Row, noted: float, bad: float) -> str:
    """note: all of the interval is beyond the factor `noted`, up or down; bad: the value is beyond `bad` besides."""
    value, surely = ratio["value"], ratio["low"]
    if value < 1:
        value, surely = 1 / max(value, 1e-9), 1 / max(ratio["high"], 1e-9)
    return "ok" if surely <= noted else "bad" if value >= bad else "note"


def _times(ratio: Row) -> str:
    value, low, high = (f"{ratio[name]:.{2 if ratio[name] < 10 else 0}f}" for name in ("value", "low", "high"))
    return f"{value} times the real pictures' ({low} to {high})"


def of_lattice(rows: list[Row]) -> Finding:
    found = [
        row[direction] | {"period": row["period"], "direction": direction}
        for row in rows
        for direction in ("horizontal", "vertical")
        if direction in row
    ]
    worst = max(found, key=lambda row: row["low"], default={"value": 1.0, "low": 1.0, "high": 1.0})
    severity = _severity(worst, *LATTICE)
    if severity == "ok" or worst["value"] < 1:  # real pictures' own, of JPEG for instance, may be missing
        sentence = "No lattice: the spectrum has no peaks at periods of 2, 4 or 8 pixels beyond the real pictures'."
        return Finding("lattice", sentence, "ok")
    where = "along the rows" if worst["direction"] == "horizontal" else "down the columns"
    sentence = f"A lattice with a period of {worst['period']} pixels {where}: its peak is {_times(worst)}."
    return Finding("lattice", sentence, severity)


def of_power(power: dict[str, Row]) -> Finding:
    name = max((name for name in SIZES if name in power), key=lambda name: abs(np.log(power[name]["value"])))
    band, largest = power[name], power["largest"]
    severity = _severity(band, *POWER)
    words = f"its power is {_times(band)}"
    if severity == "ok":
        sentence = f"Coarse and fine structure as in real images: where they differ most, {name}, {words}."
        return Finding("spectrum", sentence, "ok")
    amount = "little" if band["value"] < 1 else "much"
    most = f"most of all at {largest['frequency']:.2g} cycles per pixel, {largest['value']:.2g} times"
    return Finding("spectrum", f"Too {amount} {name} structure ({SIZES[name]}): {words}, {most}.", severity)


def of_sharpness(ratio: Row) -> Finding:
    severity = _severity(ratio, *SHARPNESS)
    words = f"the variance of the Laplacian is {_times(ratio)}"
    how = "As sharp as" if severity == "ok" else "Softer than" if ratio["value"] < 1 else "Noisier or harsher than"
    return Finding("sharpness", f"{how} real ones: {words}.", severity)


def of_tones(tones: Row) -> Finding:
    what = "colours" if len(tones["channels"]) > 1 else "gray values"
    words = f"the {what} differ by {tones['value']:.1%} of the range (two draws of real images: {tones['real']:.1%})"
    if tones["value"] <= tones["real_high"] or tones["low"] <= TONE[0]:
        return Finding("tone", f"Tones as in real images: {words}.", "ok")
    brighter = tones["brighter"]
    how = "are off" if abs(brighter) < tones["value"] / 2 else "are too bright" if brighter > 0 else "are too dark"
    return Finding("tone", f"Tones {how}: {words}.", "bad" if tones["value"] >= TONE[1] else "note")


def of_variety(alike: Row, quarter: Row, duplicates: Row) -> Finding:
    if duplicates["low"] > SHARES[0]:
        words = f"{duplicates['generated']:.1%} of the images nearly equal another one (real: {duplicates['real']:.1%})"
        severity = "bad" if duplicates["value"] >= SHARES[1] else "note"
        return Finding("variety", f"The same images come again: {words}.", severity)
    for one, part in ((alike, ""), (quarter, " in their upper left quarter")):
        severity = _severity(one["variety"], *VARIETY)
        if severity == "ok":
            continue
        words = (
            f"two correlate by {one['generated']:.2f} on average, two real ones by {one['real']:.2f} (nine of them "
            f"by {one['low']:.2f} to {one['high']:.2f})"
        )
        if one["variety"]["value"] > 1:
            return Finding("variety", f"The images are less alike than real ones{part}: {words}.", "note")
        if one["generated"] > one["high"]:
            severity = "bad"  # beyond every draw of nine, as in the chest X-ray project
        return Finding("variety", f"The images are too alike{part}: {words}.", severity)
    words = f"two correlate by {alike['generated']:.2f} on average, two real ones by {alike['real']:.2f}"
    return Finding("variety", f"As varied as real ones by their pixels: {words}.", "ok")


def of_shares(what: str, are: str, shares: Row, noted: float, bad: float) -> Finding:
    words = f"{shares['generated']:.1%} of the images {are} (real ones: {shares['real']:.1%})"
    severity = "ok" if shares["low"] <= noted else "bad" if shares["value"] >= bad else "note"
    return Finding(what, f"{words}.", severity)
