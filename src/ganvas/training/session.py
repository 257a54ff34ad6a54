"""Start of a training session: plans and records a new run, or checks and resumes an existing one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

import ganvas
from ganvas.config import BUDGET_FIELDS, MACHINE_FIELDS, TrainConfig, TrainOptions
from ganvas.data.batches import Batches
from ganvas.data.packing.kept import Kept
from ganvas.data.packing.pack import Pack
from ganvas.errors import CheckpointError, DataError, RunError, amount, some
from ganvas.fields import changed
from ganvas.model_file import WEIGHTS, ModelInfo
from ganvas.records import read_log
from ganvas.run import Run, timestamp
from ganvas.run_config import RunConfig, RunData
from ganvas.system.device import Device, agree, barrier, rank, world_size
from ganvas.training.clock import total_images
from ganvas.training.latents import fit_latents
from ganvas.training.loop import Examine
from ganvas.training.plan import Chooser, choose_machine, plan
from ganvas.training.plan_text import show_plan
from ganvas.training.probe import probe_gamma
from ganvas.training.progress import Display
from ganvas.training.starting_weights import NONE, NOTICE, SHIPPED, open_start, start_for
from ganvas.training.state import TrainState, info_of
from ganvas.training.transfer import Origin, open_origin, take_over


@dataclasses.dataclass(frozen=True)
class _Session:
    """A training ready to start. config: complete. finished: the budget is used up and all output is written."""

    state: TrainState
    config: TrainConfig
    info: ModelInfo
    finished: bool


def open_session(
    run: Run,
    pack: Pack,
    source: str,
    asked: TrainOptions,
    device: Device,
    display: Display,
    examine: Examine,
    start: str | None = None,
    add: bool = False,
) -> _Session:
    """Plans and records a new run, or checks an existing one and restores its newest checkpoint.

    examine: scores the runs of the gamma probe. start: run or model folder with the initial weights of a new run,
    `NONE` for new weights; default: the weights in this package if they fit.
    add: continue an existing run although its images have grown. Raises RunError if the run has other images, another
    configuration or other initial weights.
    """
    origin = None
    if run.has_config():
        if rank() == 0:
            if add and run.heldout() is None:
                run.write_heldout(first_images(run)[1])
            run.write_config(taken_up(run, pack, asked, device, start, add))
    elif add:
        raise RunError(f"--add continues a run, and {run.folder} has none: omit --add")
    else:
        origin = open_origin(Path(start)) if start not in (None, NONE) else None
        if rank() == 0:
            run.write_config(_new_record(run, pack, source, asked, device, display, examine, start, origin))
            run.write_heldout(Kept.of(pack.images, pack.names, pack.heldout))
    barrier()
    record = run.config()
    config, info = record.train, info_of(record.model, pack)
    placement = {"device": device.torch_device, "rank": rank(), "world_size": world_size()}
    batches = Batches(pack, config.batch, seed=config.seed, mirror=pack.mirror, **placement)
    state = TrainState(info.config, config, batches, device)
    checkpoint = run.load_checkpoint(display.say, state.device)
    if checkpoint is None and record.start:
        lines = take_over(state, origin or open_start(record.start, info.config))
        for line in [NOTICE] if record.start == SHIPPED else lines:
            display.say(f"  {line}")
        fit_latents(state, display.say)
    if checkpoint is None and (sizes := state.generator.coarse_sizes):
        display.say(f"  begins with smaller images, from {sizes[0][0]}x{sizes[0][1]}: their previews are smooth")
    if checkpoint is not None:
        _resume(state, checkpoint, run, display)
        if add and (grown := record.data.grown) and grown[-1]["to"]["hash"] == pack.hash:
            display.say(
                f"continuing on {pack.num_images:,} images instead of {grown[-1]['from']['num_images']:,}: not "
                "bit-exact from here on"
            )
    used_up = _is_used_up(state, config)
    finished = bool(agree([float(used_up and _is_complete(run, state.images_seen))])[0])
    if used_up and not finished:
        display.say("training is complete, but some output is missing: writing the last grid and the model again")
    return _Session(state, config, info, finished)


def _resume(state: TrainState, checkpoint: dict, run: Run, display: Display) -> None:
    """Restores the state and removes what was logged after it. Raises CheckpointError if it is of other networks."""
    try:
        changes = state.load_state_dict(checkpoint)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoints in {run.folder} do not match its config.json, or are of an older version of Ganvas: "
            f"restore config.json, or start a new run from it with --from {run.folder} and another --out"
        ) from error
    if rank() == 0 and (damaged := run.cut_log(state.images_seen)):
        lines = f"{damaged} damaged line{'s' if damaged > 1 else ''}"
        display.say(f"{run.folder / 'log.jsonl'} had {lines}, which were removed")
    display.say(f"resuming from {state.images_seen:,} images seen in {run.folder}")
    if changes:
        display.say(f"not bit-exact from here on, because the device settings changed: {', '.join(changes)}")


def _is_complete(run: Run, images_seen: int) -> bool:
    """Whether all final output of a training exists: model, best weights, last grid."""
    ended = any(record.get("finished") and record.get("images") == images_seen for record in read_log(run.folder))
    wanted = (run.model / WEIGHTS, run.best / WEIGHTS, run.samples / f"{images_seen:012d}.png")
    return ended and all(path.is_file() for path in wanted)


def _is_used_up(state: TrainState, config: TrainConfig) -> bool:
    if config.minutes is not None:
        return state.seconds >= config.minutes * 60
    return state.images_seen >= (total_images(config, state.batches.pack.num_training) or 0)


def _new_record(
    run: Run,
    pack: Pack,
    source: str,
    asked: TrainOptions,
    device: Device,
    display: Display,
    examine: Examine,
    start: str | None,
    origin: Origin | None,
) -> RunConfig:
    """Plans a run and prints the plan."""
    planned = plan(pack, asked, device, origin.options(pack.height) if origin else None)
    if asked.probe_gamma:
        planned = probe_gamma(planned, pack, device, display, examine)
    show_plan(planned, pack, display.console, layers=False)
    return RunConfig(
        name=run.folder.name,
        ganvas=ganvas.__version__,
        started=timestamp(),
        start=start_for(planned.model, start),
        budget=planned.config.budget,
        device=device.name,
        data=data_of(pack, source),
        model=planned.model,
        asked=asked,
        train=planned.config,
        reasons={choice.name: choice.reason for choice in planned.choices},
    )


def data_of(pack: Pack, source: str, grown: Sequence[dict] = ()) -> RunData:
    """What the record of a run says about its images."""
    info = pack.record
    return RunData(
        source=source,
        pack=str(pack.folder),
        hash=pack.hash,
        num_images=pack.num_images,
        num_heldout=len(pack.heldout),
        size=f"{pack.height}x{pack.width}",
        channels=pack.channels,
        kind=pack.kind,
        licence=info.licence,
        attribution=info.attribution,
        options=info.request.config,
        fingerprint=info.fingerprint,
        levels=info.levels,
        labels=_labels_of(pack),
        grown=[*grown],
    )


def _labels_of(pack: Pack) -> list:
    """What the numbers mean that the networks get for each image: names of classes, or columns of conditions."""
    if pack.schema is None:
        return list(pack.classes)
    return [[column.name, column.kind, list(column.values)] for column in pack.schema.columns]


def first_images(run: Run) -> tuple[RunData, Kept]:
    """What was chosen for the images at the start of a run, and the held-out ones.

    Raises RunError if they are not known: the run is of an older version and its pack is gone.
    """
    data, kept = run.config().data, run.heldout()
    if kept is not None:
        return data, kept
    with contextlib.suppress(DataError):  # a run of ganvas 0.1.0
        pack = Pack.open(Path(data.pack))
        if pack.hash == data.hash:
            known = dataclasses.replace(data, levels=pack.record.levels, kind=pack.kind)
            return known, Kept.of(pack.images, pack.names, pack.heldout)
    raise RunError(
        f"the held-out images of {run.folder} are not known, because an older version of Ganvas made it and its pack "
        f"is gone: start a new run from it with --from {run.folder} and another --out"
    )


_NAMED = ("hash", "fingerprint", "num_images", "num_heldout")
"""What the history of a run whose images have grown says about each set of images."""


def _grown(run: Run, record: RunConfig, pack: Pack) -> RunData:
    """The images of a run that continues on more of them. Raises RunError if they do not fit."""
    data, model = record.data, record.model
    shape = [model.height, model.width, model.channels]
    if shape != [pack.height, pack.width, pack.channels]:
        raise RunError(
            f"{run.folder} has images of {'x'.join(map(str, shape))} and the images are now "
            f"{pack.height}x{pack.width}x{pack.channels}: give the same --size and --channels, or choose another --out"
        )
    now = _labels_of(pack)
    before = now if data.labels is None else data.labels
    if model.label_size and (before != now or model.num_classes != pack.num_classes):
        differing = [one for one in [*before, *now] if (one in before) != (one in now)]
        names = dict.fromkeys(one if isinstance(one, str) else one[0] for one in differing)
        raise RunError(
            f"{run.folder} has other classes or conditions than the images have now ({some([*names]) or 'reordered'}): "
            f"start a new run from it with --from {run.folder} and another --out"
        )
    kept = run.heldout()
    if kept is not None and (lost := int(kept.among(pack.images, pack.names)[pack.training].sum())):
        raise RunError(
            f"this pack trains on {amount(lost, 'image')} that {run.folder} holds out: give the folder or archive "
            "of the images instead of a pack"
        )
    new = data_of(pack, data.source, data.grown)
    new.grown.append(
        {
            "time": timestamp(),
            "images_seen": run.saved()[-1].images_seen if run.saved() else 0,
            "from": {name: getattr(data, name) for name in _NAMED},
            "to": {name: getattr(new, name) for name in _NAMED},
        }
    )
    return new


def taken_up(
    run: Run, pack: Pack, asked: TrainOptions, device: Device, start: str | None, add: bool = False
) -> RunConfig:
    """Record of an existing run with the machine options and budget of this session. Raises RunError on a mismatch.

    add: the images may have grown.
    On another type of device, options chosen for the old device are chosen again.
    """
    record = run.config(unchanged=True)
    data, before, train = record.data, record.asked, record.train
    if data.hash != pack.hash:
        if not add:
            raise RunError(
                f"{run.folder} was trained on other images ({data.num_images} of {data.size}, {data.channels} "
                f"channels; now {pack.num_images:,} of {pack.height}x{pack.width}, {pack.channels} channels): choose "
                "another --out, or continue with --add if images were added to them"
            )
        data = _grown(run, record, pack)
    if start is not None and (None if start == NONE else start) != record.start:
        raise RunError(
            f"{run.folder} started from {record.start or 'new weights'}, not from {start}: choose another --out"
        )
    given = changed(asked)
    changes = {name: value for name, value in given.items() if name in MACHINE_FIELDS.union(BUDGET_FIELDS)}
    differences = [
        f"{name} {getattr(before, name)} -> {value}"
        for name, value in given.items()
        if name not in changes and value not in (getattr(before, name), getattr(train, name))
    ]
    if differences:
        raise RunError(f"{run.folder} was started with other options ({'; '.join(differences)}): choose another --out")
    if train.batch % world_size():
        raise RunError(
            f"{run.folder} has batches of {train.batch}, which cannot be divided by {world_size()} processes: "
            f"use a number of processes that divides {train.batch}"
        )
    for name in BUDGET_FIELDS:
        value, current = given.get(name), getattr(train, name)
        if value is not None and current is None:
            old = next((n for n in BUDGET_FIELDS if getattr(train, n) is not None), None)
            if old is None:
                raise RunError(f"{run.folder / 'config.json'} is damaged: it has no budget")
            raise RunError(f"{run.folder} has a budget in {old} ({getattr(train, old):g}): give a larger --{old}")
        if value is not None and value < current:
            raise RunError(f"{run.folder} has a budget of {current:g} {name}: --{name} {value:g} is less")
    before = dataclasses.replace(before, **changes)
    if torch.device(train.device or "cpu").type != device.torch_device.type:
        chooser = Chooser(dataclasses.replace(before, device=None), {})
        choose_machine(chooser, device)
        changes = chooser.values | changes
    train = dataclasses.replace(train, **changes)
    return dataclasses.replace(record, data=data, asked=before, train=train, budget=train.budget)


def default_folder(data: str | Path) -> Path:
    """runs/<name of the data>."""
    return Path("runs") / (Path(data).name.split(".")[0] or Path(data).resolve().name or "run")
