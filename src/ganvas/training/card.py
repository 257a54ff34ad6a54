"""The model folder that training writes: the moving average's weights and a card that says where they come from."""

from __future__ import annotations

import dataclasses
import platform
from typing import Any

import torch

import ganvas
from ganvas.generator import Generator
from ganvas.run import Run

TEMPLATE = """---
license: other
library_name: ganvas
tags: [gan, image-generation, synthetic-data]
---
# {title}

A generator of {height}x{width} pictures with {channels} channel{s}, trained with Ganvas {version}. Its pictures are
synthetic: they show nobody and nothing real, and must not be presented as real.

| | |
|---|---|
| data | {source}, {num_images:,} pictures{classes} |
| content hash of the data | `{data_hash}` |
| licence of the data | {licence} |
| attribution | {attribution} |
| network | {model}, {parameters:,} parameters, latent of {z_dim} |
| objective | {objective} |
| budget | {budget}; {images_seen:,} images seen |
| machine | {machine} |
| versions | Python {python}, PyTorch {torch} |

```python
import ganvas

gan = ganvas.Generator.load("path/to/this/folder")
pictures = gan.sample(16, seed=0)  # float32 (16, {channels}, {height}, {width}) in [-1, 1]
```

The terms of the training data apply to this file's use. Not evaluated for any medical or other critical use.
"""


def write_model(generator: Generator, run: Run, images_seen: int) -> None:
    """Writes run/model: weights, config.json and the card."""
    generator.info = dataclasses.replace(generator.info, images_seen=images_seen)
    generator.save(run.model, card(generator, run.config()))


def card(generator: Generator, run: dict[str, Any]) -> str:
    """The model card; `run` is the content of the run's config.json."""
    info, config, data, train = generator.info, generator.info.config, run["data"], run["train"]
    return TEMPLATE.format(
        title=run["name"],
        height=config.height,
        width=config.width,
        channels=config.channels,
        s="" if config.channels == 1 else "s",
        version=ganvas.__version__,
        source=data["source"],
        num_images=data["num_images"],
        classes=f" in {len(info.classes)} classes: {', '.join(info.classes[:20])}" if info.classes else "",
        data_hash=info.data_hash,
        licence=data["licence"] or "not stated",
        attribution=data["attribution"] or "none",
        model=config.model,
        parameters=sum(p.numel() for p in generator.network.parameters()),
        z_dim=config.z_dim,
        objective=objective(train),
        budget=run["budget"],
        images_seen=info.images_seen,
        machine=f"{platform.machine()}, {run['device']}",
        python=platform.python_version(),
        torch=torch.__version__,
    )


def objective(train: dict[str, Any]) -> str:
    """The loss, its penalties and the optimiser in one line."""
    parts = [f"{train['loss']} loss"]
    penalties = [f"{name} {train[name]:g}" for name in ("r1", "r2", "gradient_penalty", "path_length") if train[name]]
    if penalties:
        parts.append(f"{', '.join(penalties)} ({train['penalty']}, every {train['penalty_interval']} steps)")
    parts.append(f"{train['optimizer']} {train['lr']:g}, batch {train['batch']}")
    if train["preset"]:
        parts.append(f"preset {train['preset']}")
    return "; ".join(parts)
