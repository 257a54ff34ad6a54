"""Sentences for the results of artefacts.py: the artefact, its strength relative to real images, its severity.

An artefact is reported if its whole 95% interval is beyond a threshold, so that chance findings are rare: between two
samples of real images of six data sets, 4 of 120 comparisons reported one at 50 images each, and 0 of 55 at 150 or 300.
"""

from __future__ import annotations

import numpy as np

from ganvas.results import Compared, Correlation, Finding, Interval, Period, Power, Tones

# Thresholds for "note" and "bad". Factors, of generated to real or the inverse:
_CHECKERBOARD, _POWER, _SHARPNESS, _VARIETY, _BLOCKS = (1.5, 3.0), (1.3, 2.5), (1.3, 2.5), (1.08, 1.4), (1.1, 1.2)
# Differences: fraction of the value range, of tones, of noise; share of blank images; of saturated or repeated ones.
_TONE, _NOISE, BLANKS, SHARES = (0.01, 0.08), (0.006, 0.012), (0.0, 0.05), (0.02, 0.1)
_EMPTY = (0.03, 0.06)  # share of the fine frequencies of blocks
_PEAK = (
    1.5  # spectral peak relative to its neighbourhood; noise, which has none, can exceed real images that have a dip
)
_ALTERNATING = (0.003, 0.006)  # amplitude of a checkerboard as a fraction of the value range
_SIZES = {"coarse": "above 8 pixels", "middle": "4 to 8 pixels", "fine": "below 4 pixels"}


def _severity(ratio: Interval, noted: float, bad: float) -> str:
    """note: the whole interval is beyond the factor `noted`, up or down; bad: the value is also beyond `bad`."""
    value, surely = ratio.value, ratio.low
    if value < 1:
        value, surely = 1 / max(value, 1e-9), 1 / max(ratio.high, 1e-9)
    return "ok" if surely <= noted else "bad" if value >= bad else "note"


def _times(ratio: Interval) -> str:
    value, low, high = (f"{one:.{2 if one < 10 else 0}f}" for one in (ratio.value, ratio.low, ratio.high))
    return f"{value} times the value for real images ({low} to {high})"


def of_checkerboard(rows: list[Period], alternating: Interval) -> Finding:
    """alternating: a pattern in flat areas, which edges of other areas may hide in the spectrum."""
    peaks = [
        (peak, direction, row.period)
        for row in rows
        for direction, peak in row.directions.items()
        if peak.generated > _PEAK
    ]
    worst, direction, period = max(peaks, key=lambda one: one[0].low, default=(Interval(1.0, 1.0, 1.0), "", 0))
    severity = _severity(worst, *_CHECKERBOARD)
    if alternating.low > _ALTERNATING[0] and (severity != "bad" or worst.value < 1):
        severity = "bad" if alternating.value >= _ALTERNATING[1] else "note"
        words = f"of {alternating.value:.1%} of the range ({alternating.low:.1%} to {alternating.high:.1%})"
        sentence = f"Checkerboard artefacts with a period of 2 pixels: an amplitude {words}."
        return Finding("checkerboard", sentence, severity)
    if severity == "ok" or worst.value < 1:  # below 1: real images have such peaks themselves, from JPEG for example
        sentence = "No checkerboard artefacts: no more spectral peaks at periods of 2, 4 or 8 pixels than real images."
        return Finding("checkerboard", sentence, "ok")
    sentence = (
        f"Checkerboard artefacts with a {direction} period of {period} pixels: the spectral peak is {_times(worst)}."
    )
    return Finding("checkerboard", sentence, severity)


def of_power(power: Power) -> Finding:
    bands = {name: band for name in _SIZES if (band := getattr(power, name)) is not None}
    name, band = max(bands.items(), key=lambda one: abs(np.log(one[1].value)))
    largest = power.largest
    severity = _severity(band, *_POWER)
    words = f"its power is {_times(band)}"
    if severity == "ok":
        sentence = f"Coarse and fine structure match real images. Largest difference: {name} structure; {words}."
        return Finding("spectrum", sentence, "ok")
    amount = "little" if band.value < 1 else "much"
    most = f"with the largest difference at {largest.frequency:.2g} cycles per pixel ({largest.value:.2g} times)"
    return Finding("spectrum", f"Too {amount} {name} structure ({_SIZES[name]}): {words}, {most}.", severity)


def of_blocks(ratio: Interval, compressed: Interval) -> Finding:
    """ratio: of steps at the borders of blocks. compressed: share of fine frequencies that only these blocks lack."""
    if compressed.low > _EMPTY[0]:
        severity = "bad" if compressed.value >= _EMPTY[1] else "note"
        words = f"{compressed.value:.0%} ({compressed.low:.0%} to {compressed.high:.0%}) of their fine frequencies"
        return Finding("blocks", f"Blocks of 8 pixels, as from JPEG compression: they lack {words}.", severity)
    words = f"steps at the borders of blocks of 8 pixels are {_times(ratio)}"
    if ratio.value < 1 or (severity := _severity(ratio, *_BLOCKS)) == "ok":
        return Finding("blocks", f"No blocks of 8 pixels, as from JPEG compression: {words}.", "ok")
    return Finding(
        "blocks", f"Blocks of 8 pixels, as from strong JPEG compression or from upsampling: {words}.", severity
    )


def of_sharpness(ratio: Interval, noise: Interval, blocky: bool, alternating: Interval) -> Finding:
    """noise, blocky (whether there are blocks), alternating: faults that raise the variance and can hide blur."""
    severity = _severity(ratio, *_SHARPNESS)
    words = f"the variance of the Laplacian is {_times(ratio)}"
    checkered = alternating.low > _ALTERNATING[0]
    noisy = noise.low > _NOISE[0] and not checkered and not blocky
    for cause, hidden in (("noise", noisy), ("blocks", blocky), ("the checkerboard", checkered)):
        if hidden and (severity == "ok" or (checkered and ratio.value > 1)):
            return Finding("sharpness", f"Sharpness cannot be judged because of {cause}: {words}.", "ok")
    how = "As sharp as" if severity == "ok" else "Blurrier than" if ratio.value < 1 else "Noisier than"
    return Finding("sharpness", f"{how} real images: {words}.", severity)


def of_noise(noise: Interval, blocky: bool, alternating: Interval) -> Finding:
    words = f"{noise.value:.1%} of the range ({noise.low:.1%} to {noise.high:.1%}) more than real images"
    if noise.low <= _NOISE[0]:
        return Finding("noise", f"As little noise of single pixels as in real images: {words}.", "ok")
    severity = "bad" if noise.value >= _NOISE[1] else "note"
    for cause, hidden in (("the checkerboard", alternating.low > _ALTERNATING[0]), ("the blocks", blocky)):
        if hidden:
            return Finding("noise", f"Noise cannot be judged because of {cause}: deviation {words}.", "ok")
    return Finding("noise", f"Noise or a pattern of single pixels: deviation {words}.", severity)


def of_tones(tones: Tones) -> Finding:
    what = "colours" if len(tones.channels) > 1 else "gray values"
    words = f"the {what} differ by {tones.value:.1%} of the range (two sets of real images: {tones.real:.1%})"
    if tones.value <= tones.real_high or tones.low <= _TONE[0]:
        return Finding("tone", f"Brightness and colours match real images: {words}.", "ok")
    brighter = tones.brighter
    if abs(brighter) < tones.value / 2:
        how = "Brightness or colours differ from real images"
    else:
        how = f"Images are too {'bright' if brighter > 0 else 'dark'}"
    return Finding("tone", f"{how}: {words}.", "bad" if tones.value >= _TONE[1] else "note")


def of_variety(alike: Correlation, quarter: Correlation, duplicates: Compared) -> Finding:
    if duplicates.low > SHARES[0]:
        words = f"{duplicates.generated:.1%} of the images (real images: {duplicates.real:.1%})"
        severity = "bad" if duplicates.value >= SHARES[1] else "note"
        return Finding("variety", f"Generated images repeat: {words} are nearly identical to another one.", severity)
    for one, part in ((alike, ""), (quarter, " in the upper left quarter")):
        severity = _severity(one.variety, *_VARIETY)
        if severity == "ok":
            continue
        words = (
            f"mean correlation of two images {one.generated:.2f}, of two real images {one.real:.2f} (samples of "
            f"nine: {one.low:.2f} to {one.high:.2f})"
        )
        if one.variety.value > 1:
            return Finding("variety", f"Images are more diverse than real images{part}: {words}.", "note")
        if one.generated > one.high:
            severity = "bad"  # more than every sample of nine real images, as in the chest X-ray project
        return Finding("variety", f"Images are too similar{part}: {words}.", severity)
    words = f"mean correlation of two images {alike.generated:.2f}, of two real images {alike.real:.2f}"
    return Finding("variety", f"Pixel diversity matches real images: {words}.", "ok")


def of_shares(what: str, are: str, shares: Compared, noted: float, bad: float) -> Finding:
    words = f"{shares.generated:.1%} of the images {are} (real images: {shares.real:.1%})"
    severity = "ok" if shares.low <= noted else "bad" if shares.value >= bad else "note"
    return Finding(what, f"{words}.", severity)
