"""Jobs before and after a training: the check-up of the images, the plan, the evaluation with its report."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ganvas.config import BUDGET_FIELDS, DataConfig, TrainOptions
from ganvas.data import checkup
from ganvas.data.opening import open_pack
from ganvas.data.packing.pack import Pack
from ganvas.errors import ConfigError, amount
from ganvas.evaluation.evaluate import evaluate
from ganvas.fields import option, part
from ganvas.image_files import grid
from ganvas.options import Evaluate, Train
from ganvas.reporting import report
from ganvas.studio.commands import differing, line
from ganvas.studio.model_folder import Place
from ganvas.studio.slow_jobs import Task, Work
from ganvas.system.device import choose_device
from ganvas.training.autotune import LEAST_MINUTES, least_images
from ganvas.training.plan import Plan, plan
from ganvas.training.plan_text import value_text
from ganvas.verbs import measured_speed

_EXAMPLES, _COLUMNS, _MOST_PIXELS = 24, 8, 1024  # training images in the grid; its columns; its largest width
_MOST_SPEEDS = 100


def checking(source: str, config: DataConfig) -> Work:
    """The report of `ganvas data check`."""

    def work(task: Task) -> dict[str, Any]:
        result = checkup.check(source, config, progress=task.progress)
        return {
            "num_images": result.num_images,
            "form": result.form,
            "facts": result.facts(),
            "problems": {name: one for name, one in result.problems().items() if one != "none"},
            "searched": [*result.problems()],
            "notes": result.notes,
            "labelled": len(result.classes) > 1,
            "near": result.num_near,
            "marks": bool(result.marks),
        }

    return work


class Planner:
    """Plans of trainings. The speed of equal networks is measured once."""

    def __init__(self) -> None:
        self.speeds: dict[Any, float | None] = {}

    def planning(self, asked: Train) -> Work:
        """The plan of `ganvas train --dry-run`, with the speed of this machine; also packs the images."""

        def work(task: Task) -> dict[str, Any]:
            data, wanted = part(asked, DataConfig), part(asked, TrainOptions)
            pack = open_pack(str(asked.source), data, progress=task.progress)
            if pack.num_training < 2:
                raise ConfigError(f"only {amount(pack.num_training, 'image')} for training: choose more images")
            task.target = _examples(pack)
            task.progress("planning", 0, 0)
            device = choose_device(wanted.device)
            planned = plan(pack, wanted, device)
            config = planned.config
            key = (
                planned.model,
                config.batch,
                config.penalty_interval,
                config.precision,
                pack.kind,
                str(config.device),
            )
            if key not in self.speeds:
                task.progress("measuring the speed of this machine", 0, 0)
                brief = dataclasses.replace(config, images=None, epochs=None, minutes=LEAST_MINUTES, compile=False)
                speed = measured_speed(dataclasses.replace(planned, config=brief), pack, device, lambda _: None)
                self.speeds = dict([*self.speeds.items(), (key, speed)][-_MOST_SPEEDS:])
            return _described(planned, pack, asked, self.speeds[key])

        return work


def _described(planned: Plan, pack: Pack, asked: Train, speed: float | None) -> dict[str, Any]:
    return {
        "num_images": pack.num_images,
        "num_training": pack.num_training,
        "num_heldout": len(pack.heldout),
        "size": f"{pack.height}x{pack.width}",
        "channels": pack.channels,
        "classes": list(pack.classes) if planned.model.num_classes else [],
        "kind": pack.kind,
        "mirror": pack.mirror,
        "notes": list(pack.notes),
        "choices": [
            {"name": one.name, "value": value_text(one.value), "reason": one.reason} for one in planned.choices
        ],
        "warnings": list(planned.warnings),
        "parameters": planned.generator.parameters + planned.discriminator.parameters,
        "memory": planned.memory,
        "device": str(planned.config.device),
        "minutes": planned.config.minutes,
        "speed": speed,
        "least": least_images(planned.config),
        **line(["ganvas", *words(asked)]).model_dump(),
    }


def _examples(pack: Pack) -> np.ndarray:
    """A grid of training images at the size of the training, reduced if it is too large to show."""
    num = min(_EXAMPLES, pack.num_training)
    chosen = pack.training[np.linspace(0, pack.num_training - 1, num).round().astype(int)]
    pixels = np.asarray(pack.images[np.sort(chosen)])
    if pixels.dtype == np.uint16:
        pixels = (pixels / 257).round().astype(np.uint8)
    step = max(1, -(-pack.width * _COLUMNS // _MOST_PIXELS))
    return grid(pixels[:, ::step, ::step], min(_COLUMNS, num))


def words(asked: Train) -> list[str]:
    """The command line of a training, without "ganvas": its options that are not the default."""
    return ["train", str(asked.source), *map(str, differing(asked, Train(asked.source), {"source"}))]


def resumed(place: Place, budget: float | None, unit: str, device: str | None) -> list[str]:
    """The command line that resumes a run. budget: a larger one, in the unit of the run.

    Raises ConfigError if the run cannot have it.
    """
    command = ["train", str(place.folder)]
    if budget is not None:
        if unit not in BUDGET_FIELDS:
            raise ConfigError(f"{place.name} has no budget in its config.json: restore that file")
        command += [option(unit), f"{budget:.10g}"]
    return command + (["--device", device] if device else [])


def evaluating(place: Place, data: str | None, device: str | None) -> Work:
    """The evaluation of a run, with its report; or of a model, whose training images are `data`."""
    asked = Evaluate(str(place.folder), data=data, device=device)

    def work(task: Task) -> dict[str, Any]:
        task.progress("loading the model", 0, 0)
        evaluation = evaluate(asked, task.progress, lambda part, step, _: task.progress(step, round(100 * part), 100))
        if place.is_run:
            task.progress("writing the report", 0, 0)
            report(str(place.folder), quiet=True)
        return {"lines": evaluation.lines(), "has_report": place.is_run}

    return work
