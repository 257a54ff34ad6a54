"""What takes longer than an image: projecting an upload, finding directions, comparing with the training images.

One slow job at a time, on a copy of the network, so that the thread that draws is never waited for nor disturbed.
"""

from __future__ import annotations

import copy
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ganvas.data.decode import Target, decode, probe
from ganvas.data.pack import Pack, is_pack
from ganvas.errors import ConfigError, GanvasError, PictureError
from ganvas.generator import Generator
from ganvas.judge.copies import CopyFinder
from ganvas.judge.evaluate import pack_of
from ganvas.run import Run
from ganvas.studio.engine import Loaded
from ganvas.studio.refusals import AbsentError, BusyError

MOST_WAITING, MOST_KEPT = 4, 32  # slow jobs in the queue; finished ones that can still be asked for
MOST_FINDERS = 2
FEW = 10_000  # training images that are read without being asked for
UPLOAD_BYTES, UPLOAD_PIXELS = 2**24, 40_000_000


@dataclass(eq=False)
class Task:
    """A slow job. state: waiting, working, done or failed."""

    kind: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: str = "waiting"
    sentence: str = ""
    """Why it failed, or what was noted."""
    done: int = 0
    total: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    target: np.ndarray | None = None
    """(H, W, C) of the image to project."""
    cancelled: bool = False

    def progress(self, _: str, done: int, total: int) -> None:
        """Notes how far it is; ends the job that nobody wants any more."""
        self.done, self.total = done, total
        if self.cancelled:
            raise ConfigError("stopped, as you asked")


class Workbench:
    """Tasks by their id."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, "studio workbench")
        self.tasks: OrderedDict[str, Task] = OrderedDict()
        self.lock = threading.Lock()

    def close(self) -> None:
        for task in list(self.tasks.values()):
            task.cancelled = True
        self.pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, task: Task, work: Callable[[Task], dict[str, Any]]) -> Task:
        """Queues it. Raises BusyError when others wait already."""
        with self.lock:
            self.check_room()
            self.tasks[task.id] = task
            while len(self.tasks) > MOST_KEPT:
                oldest = next(one for one in self.tasks.values() if one.state in ("done", "failed"))
                del self.tasks[oldest.id]
        self.pool.submit(run, task, work)
        return task

    def check_room(self) -> None:
        if sum(one.state in ("waiting", "working") for one in list(self.tasks.values())) >= MOST_WAITING:
            raise BusyError(f"{MOST_WAITING} slow jobs are waiting: ask again when one of them is done", 10)

    def find(self, identity: str) -> Task:
        task = self.tasks.get(identity)
        if task is None:
            raise AbsentError(f"there is no job {identity!r} (the studio keeps the last {MOST_KEPT}): begin it again")
        return task


def run(task: Task, work: Callable[[Task], dict[str, Any]]) -> None:
    task.state = "working"
    try:
        if task.cancelled:
            raise ConfigError("stopped, as you asked")
        task.result = work(task)
        task.state = "done"
    except GanvasError as error:
        task.sentence, task.state = str(error), "failed"
    except Exception as error:  # told where it was asked for; the studio goes on
        task.sentence, task.state = f"it failed unexpectedly ({type(error).__name__}: {error})", "failed"


def own_copy(loaded: Loaded) -> Generator:
    """The same generator with a network of its own."""
    generator = loaded.generator
    return Generator(copy.deepcopy(generator.network), generator.info, generator.device)


# ---- an uploaded image ----


def uploaded(loaded: Loaded, content: bytes) -> tuple[np.ndarray, str]:
    """(pixels as the model makes them, a note of what was done to them). Raises PictureError with the reason."""
    found = probe(content)
    if found.height * found.width > UPLOAD_PIXELS:
        raise PictureError(
            f"too large: {found.width}x{found.height} pixels, more than the limit of {UPLOAD_PIXELS:,}; send it smaller"
        )
    info = loaded.generator.info
    config = info.config
    pixels = decode(content, Target(config.height, config.width, config.channels, info.depth, "crop", None))
    notes = []
    if (found.height, found.width) != (config.height, config.width):
        notes.append(f"cropped and resized from {found.width}x{found.height} to {config.width}x{config.height}")
    if config.channels == 1 and found.channels == 3:
        notes.append("turned gray")
    return pixels, " and ".join(notes)


def projecting(loaded: Loaded, pixels: np.ndarray, label: str | None, steps: int) -> Callable[[Task], dict[str, Any]]:
    def work(task: Task) -> dict[str, Any]:
        from ganvas.explore import projection

        found = projection.project(own_copy(loaded), pixels, label=label, steps=steps, progress=task.progress)
        return {"recipe": found.recipe.to_dict(), "losses": [float(loss) for loss in found.losses]}

    return work


def finding_directions(loaded: Loaded, num: int) -> Callable[[Task], dict[str, Any]]:
    def work(task: Task) -> dict[str, Any]:
        from ganvas.explore import directions

        generator = own_copy(loaded)
        found = directions.principal(generator, num)
        known = {one.name: one for one in loaded.directions.values()} | {one.name: one for one in found}
        directions.save(loaded.place.folder, list(known.values()), generator)
        return {"names": [one.name for one in found]}

    return work


# ---- the training images ----


@dataclass(eq=False)
class Neighbours:
    """The training images of one model. state: unread, preparing, ready or absent, with the reason."""

    state: str = "preparing"
    sentence: str = "the training images are being read"
    pack: Pack | None = None
    finder: CopyFinder | None = None
    using: threading.Lock = field(default_factory=threading.Lock)


class Training:
    """Looks for the nearest training image of generated ones, where a model's pack is at hand."""

    def __init__(self, data: str | None = None) -> None:
        self.data = data
        self.known: OrderedDict[Path, Neighbours] = OrderedDict()
        self.lock = threading.Lock()

    def of(self, loaded: Loaded, begin: bool = True) -> Neighbours:
        """What is known of the model's training images; the first question begins the reading.

        begin: also where they are many, which takes minutes.
        """
        with self.lock:
            found = self.known.get(loaded.place.folder)
            if found is None:
                num = 0 if begin else number_at_hand(loaded)
                if num > FEW:
                    return Neighbours("unread", f"{num:,} training images have not been read yet, which takes a while")
                found = self.known[loaded.place.folder] = Neighbours()
                threading.Thread(target=self.prepare, args=(loaded, found), daemon=True).start()
            self.known.move_to_end(loaded.place.folder)
            while len(self.known) > MOST_FINDERS:
                self.known.popitem(last=False)
            return found

    def prepare(self, loaded: Loaded, found: Neighbours) -> None:
        try:
            if self.data is None and not at_hand(loaded):
                raise ConfigError("the training images are not at hand: start the studio with --data PICTURES")
            found.pack = pack_of(loaded.place.folder, loaded.generator, self.data, None)
            found.finder = CopyFinder(found.pack, self.reading(found))
            found.state, found.sentence = "ready", ""
        except GanvasError as error:
            found.state, found.sentence = "absent", str(error)
        except Exception as error:
            found.state, found.sentence = "absent", f"the training images cannot be read ({error})"

    def reading(self, found: Neighbours) -> Callable[[str, int, int], None]:
        def note(what: str, done: int, total: int) -> None:
            if found.state == "preparing":
                found.sentence = f"the training images are being read: {done:,} of {total:,}"

        return note


def at_hand(loaded: Loaded) -> bool:
    """Whether the pack that a run was trained on is still in the cache: nothing is downloaded or packed for this."""
    return number_at_hand(loaded) > 0


def number_at_hand(loaded: Loaded) -> int:
    """The images of that pack, 0 where there is none."""
    try:
        data = Run(loaded.place.folder).config()["data"]
        return int(data["num_images"]) if is_pack(Path(data["pack"])) else 0
    except (GanvasError, KeyError, TypeError, ValueError):
        return 0


def copies(found: Neighbours, pixels: np.ndarray) -> np.ndarray:
    """(N,) bool: which of the images (N, H, W, C) copy a training image."""
    assert found.finder is not None
    with found.using:
        return found.finder.is_copy(pixels)


def nearest(found: Neighbours, pixels: np.ndarray) -> list[dict[str, Any]]:
    """For each of the images (N, H, W, C): which training image is nearest, and how near that is."""
    assert found.finder is not None and found.pack is not None
    with found.using:
        near = found.finder.find(pixels)
    names = found.pack.names
    return [
        {
            "index": int(index),
            "name": names[index] if index < len(names) else "",
            "correlation": round(float(correlation), 3),
            "score": round(float(score), 3),
            "copy_of_it": bool(score < found.finder.threshold),
            "moved": moved,
        }
        for index, correlation, score, moved in zip(*near, strict=True)
    ]
