"""`open_pack`, the main entry point for data: finds the pack of a source, or makes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from ganvas.config import DataConfig, parse_size
from ganvas.data import catalog
from ganvas.data.packing import write
from ganvas.data.packing.kept import Kept
from ganvas.data.packing.pack import PACK_FORMAT, UNMIRRORED, Pack, Policy, Progress, Request, is_pack
from ganvas.errors import DataError
from ganvas.fields import option
from ganvas.system import files


def open_pack(
    source: str | Path,
    config: DataConfig | None = None,
    *,
    data: str | Path | None = None,
    folder: str | Path | None = None,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Pack:
    """Opens the pack of `source`, and makes it if the same source was not packed with the same options before.

    source: path of images (folder, archive, data-set files), pack folder, or name of a data set.
    data: location of the files of a named data set; default: downloaded once to the cache.
    folder: folder of the pack; default: in the cache.
    kept: images that a run holds out, if the pack is made for this run; None: a new choice.
    Raises `DataError` for a missing or unusable source.
    """
    config = config or DataConfig()
    if data is None and is_pack(Path(source)):
        return reopened(Path(source), config)
    dataset, place = catalog.locate(str(source), data, progress)
    policy = dataclasses.replace(catalog.policy_for(dataset, place, config), kept=kept)
    target = Path(folder) if folder else files.cache_dir() / "packs" / _cache_name(config, policy)
    # Checked before the source is opened, because listing a large archive is slow.
    fingerprint = catalog.fingerprint(place, config)
    if (pack := write.current(target, Request.of(config, policy), fingerprint)) is not None:
        return pack
    images, policy = catalog.open_at(dataset, place, config)
    policy = dataclasses.replace(policy, kept=kept)
    return write.build_pack(images, config, target, policy=policy, fingerprint=fingerprint, progress=progress)


def _cache_name(config: DataConfig, policy: Policy) -> str:
    """Readable folder name, unique for a source and policy."""
    key = hashlib.sha256(
        json.dumps([PACK_FORMAT, Request.of(config, policy).to_dict()], sort_keys=True).encode()
    ).hexdigest()[:12]
    return f"{policy.name}-{key}"


def reopened(folder: Path, config: DataConfig) -> Pack:
    """Opens an existing pack. Raises `DataError` if `config` has options that differ from the pack."""
    pack = Pack.open(folder)
    defaults, made_with = DataConfig(), pack.record.request.config
    differences = []
    if config.size is not None and parse_size(config.size) != (pack.height, pack.width):
        differences.append(f"its size is {pack.height}x{pack.width}, not {config.size}")
    channels = {"auto": pack.channels, "gray": 1, "color": 3, "alpha": 4}[config.channels]
    if channels != pack.channels:
        differences.append(f"it has {pack.channels} channels, not {channels}")
    asked = Request.of(config, Policy(pack.folder.name)).config
    compared = {"size", "channels", "kind"} | ({"subset_seed"} if config.limit is None else set())
    for name in [field.name for field in dataclasses.fields(DataConfig) if field.name not in compared]:
        wanted, before = getattr(asked, name), getattr(made_with, name)
        if wanted not in (getattr(defaults, name), before):
            differences.append(f"its {option(name)} is {before}, not {wanted}")
    if differences:
        raise DataError(f"{folder} is already a pack and {', '.join(differences)}: pack the original images again")
    if config.kind is None or config.kind == pack.kind:
        return pack
    record = dataclasses.replace(pack.record, kind=config.kind, mirror=config.kind not in UNMIRRORED)
    return dataclasses.replace(pack, record=record)
