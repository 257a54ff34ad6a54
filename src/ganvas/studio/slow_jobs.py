"""Slow jobs: their queue, projection of uploads, search for directions, comparison with training images.

One job of each lane at a time, on a copy of the network, so that image generation is not blocked.
"""

from __future__ import annotations

import copy
import dataclasses
import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ganvas.data.packing.pack import Pack, is_pack
from ganvas.data.reading.decode import decode, probe
from ganvas.data.reading.target import Target
from ganvas.errors import ConfigError, GanvasError, PictureError
from ganvas.evaluation.copies import CopyFinder
from ganvas.evaluation.samples import pack_of
from ganvas.generator import Generator
from ganvas.run import Run
from ganvas.studio.engine import Loaded
from ganvas.studio.errors import AbsentError, BusyError
from ganvas.studio.schemas import Near

_STOPPED = "stopped by the user"
MOST_WAITING_JOBS, _MOST_KEPT = 4, 32  # most jobs in the queue; finished jobs that are kept
_MOST_FINDERS = 2
_LANES = {"checkup": "data", "plan": "data", "evaluation": "evaluation", "film": "files", "print": "files"}
"""Kinds of jobs that do not wait for projections and searches."""
_READ_UNASKED = 10_000  # training images up to which they are read without a request
_UPLOAD_PIXELS = 40_000_000


@dataclass(eq=False)
class Task:
    """A slow job. state: waiting, working, done or failed."""

    kind: str
    model: str = ""
    """Name of the run or model, if there is one."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: str = "waiting"
    sentence: str = ""
    """Error, or a note."""
    doing: str = ""
    """The current step."""
    done: int = 0
    total: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    target: np.ndarray | None = None
    """(H, W, C) the image to project; for a plan, a grid of training images."""
    cancelled: bool = False
    file: Path | None = None
    """The file that the job has written, in the folder of the workbench."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Store the progress; stop a cancelled job."""
        self.doing, self.done, self.total = what, done, total
        if self.cancelled:
            raise ConfigError(_STOPPED)


Work = Callable[[Task], dict[str, Any]]
"""What a job does; its result goes to the page."""


class Workbench:
    """Queue of jobs, by id. folder: for the files that they write; they exist as long as their jobs are kept."""

    def __init__(self) -> None:
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.pools = {lane: ThreadPoolExecutor(1, f"studio {lane}") for lane in {"images", *_LANES.values()}}
        self.tasks: OrderedDict[str, Task] = OrderedDict()
        self.lock = threading.Lock()

    def close(self) -> None:
        for task in list(self.tasks.values()):
            task.cancelled = True
        for pool in self.pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        if self.folder is not None:
            self.folder.cleanup()

    def place_for(self, task: Task, name: str) -> Path:
        """Where a job writes its file, which `task.file` then is."""
        with self.lock:
            if task.cancelled:
                raise ConfigError(_STOPPED)
            if self.folder is None:
                self.folder = tempfile.TemporaryDirectory(prefix="ganvas-studio-", ignore_cleanup_errors=True)
        folder = Path(self.folder.name) / task.id
        folder.mkdir(exist_ok=True)
        return folder / name

    def begin(self, task: Task, work: Work) -> Task:
        """Add a job to the queue. Raises BusyError if the queue is full."""
        with self.lock:
            self.check_room()
            self.tasks[task.id] = task
            while len(self.tasks) > _MOST_KEPT:
                oldest = next((one for one in self.tasks.values() if one.state in ("done", "failed")), None)
                if oldest is None:
                    break
                self.remove_files(self.tasks.pop(oldest.id))
        self.pools[_LANES.get(task.kind, "images")].submit(self.run, task, work)
        return task

    def run(self, task: Task, work: Work) -> None:
        """Do the work of a job, in the thread of its lane; keep its result, or the reason why it failed."""
        task.state = "working"
        try:
            if task.cancelled:
                raise ConfigError(_STOPPED)
            task.result = work(task)
            task.state = "done"
            return
        except GanvasError as error:
            task.sentence = str(error)
        except Exception as error:  # reported to the client; the studio continues
            task.sentence = f"unexpected error ({type(error).__name__}: {error})"
        self.remove_files(task)
        task.state = "failed"

    def remove_files(self, task: Task) -> None:
        if self.folder is not None:
            shutil.rmtree(Path(self.folder.name) / task.id, ignore_errors=True)

    def check_room(self) -> None:
        waiting = [
            one for one in list(self.tasks.values()) if one.state in ("waiting", "working") and not one.cancelled
        ]
        if len(waiting) >= MOST_WAITING_JOBS:
            raise BusyError(f"{MOST_WAITING_JOBS} slow jobs are waiting: retry when one of them has finished", 10)

    def find(self, identity: str) -> Task:
        task = self.tasks.get(identity)
        if task is None:
            raise AbsentError(f"job {identity!r} does not exist (only the last {_MOST_KEPT} are kept): start it again")
        return task


def own_copy(loaded: Loaded) -> Generator:
    """A copy of the generator with its own network."""
    generator = loaded.generator
    return Generator(copy.deepcopy(generator.network), generator.info, generator.device)


# ---- an uploaded image ----


def uploaded(loaded: Loaded, content: bytes) -> tuple[np.ndarray, str]:
    """(pixels in the format of the model, a note of the changes). Raises PictureError for an invalid file."""
    header = probe(content)
    if header.height * header.width > _UPLOAD_PIXELS:
        raise PictureError(
            f"too large: {header.width}x{header.height} pixels, limit {_UPLOAD_PIXELS:,}; reduce the size of the image"
        )
    info = loaded.generator.info
    config = info.config
    pixels = decode(content, Target(config.height, config.width, config.channels, info.depth, "crop", None))
    notes = []
    if (header.height, header.width) != (config.height, config.width):
        notes.append(f"cropped and resized from {header.width}x{header.height} to {config.width}x{config.height}")
    if config.channels == 1 and header.channels == 3:
        notes.append("converted to gray")
    return pixels, " and ".join(notes)


def projecting(loaded: Loaded, pixels: np.ndarray, label: str | None, steps: int) -> Work:
    def work(task: Task) -> dict[str, Any]:
        from ganvas.explore import projection

        projected = projection.project(own_copy(loaded), pixels, label=label, steps=steps, progress=task.progress)
        return {"recipe": projected.recipe.to_dict(), "losses": [float(loss) for loss in projected.losses]}

    return work


def finding_directions(loaded: Loaded, num: int) -> Work:
    def work(task: Task) -> dict[str, Any]:
        from ganvas.explore import directions

        generator = own_copy(loaded)
        components = directions.principal(generator, num, progress=task.progress)
        known = {one.name: one for one in loaded.directions.values()} | {one.name: one for one in components}
        directions.save(loaded.place.folder, list(known.values()), generator)
        return {"names": [one.name for one in components]}

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


class _Stoppable(np.ndarray):
    """Images of a pack. Each read first calls `check`, which may raise."""

    check: Callable[[], None]

    def __getitem__(self, places: Any) -> Any:
        self.check()
        return np.asarray(self)[places]


class Training:
    """Find the nearest training images of generated images, if the pack of the model is available.

    `close` stops the threads that read them: a process that ends while torch computes in a thread is aborted.
    """

    def __init__(self, data: str | None = None) -> None:
        self.data = data
        self.known: OrderedDict[Path, Neighbours] = OrderedDict()
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(_MOST_FINDERS, "studio training images")
        self.closed = False

    def close(self) -> None:
        with self.lock:
            self.closed = True
        self.pool.shutdown(cancel_futures=True)

    def check(self) -> None:
        if self.closed:
            raise BusyError("the studio is closing", 5)

    def of(self, loaded: Loaded, begin: bool = True) -> Neighbours:
        """State of the training images of a model; the first call starts to read them.

        begin: also if there are many, which takes minutes.
        """
        with self.lock:
            self.check()
            neighbours = self.known.get(loaded.place.folder)
            if neighbours is None:
                num = 0 if begin else _number_at_hand(loaded)
                if num > _READ_UNASKED:
                    return Neighbours("unread", f"{num:,} training images are not loaded yet; loading takes a while")
                neighbours = self.known[loaded.place.folder] = Neighbours()
                self.pool.submit(self.prepare, loaded, neighbours)
            self.known.move_to_end(loaded.place.folder)
            while len(self.known) > _MOST_FINDERS:
                self.known.popitem(last=False)
            return neighbours

    def prepare(self, loaded: Loaded, neighbours: Neighbours) -> None:
        try:
            if self.data is None and not _at_hand(loaded):
                raise ConfigError("the training images are not available: start the studio with --data IMAGES")
            neighbours.pack = pack_of(loaded.place.folder, loaded.generator, self.data, self.reading(neighbours))
            images = neighbours.pack.images.view(_Stoppable)
            images.check = self.check
            pack = dataclasses.replace(neighbours.pack, images=images)
            neighbours.finder = CopyFinder(pack, self.reading(neighbours))
            neighbours.state, neighbours.sentence = "ready", ""
        except GanvasError as error:
            neighbours.state, neighbours.sentence = "absent", str(error)
        except Exception as error:
            neighbours.state, neighbours.sentence = "absent", f"the training images cannot be read ({error})"

    def reading(self, neighbours: Neighbours) -> Callable[[str, int, int], None]:
        def note(what: str, done: int, total: int) -> None:
            self.check()
            if neighbours.state == "preparing":
                share = f": {done:,} of {total:,}" if total else ""
                neighbours.sentence = f"the training images are being read ({what}{share})"

        return note


def _at_hand(loaded: Loaded) -> bool:
    """Whether the pack of a run is still in the cache; nothing is downloaded or packed here."""
    return _number_at_hand(loaded) > 0


def _number_at_hand(loaded: Loaded) -> int:
    """Number of images of that pack; 0 if there is none."""
    try:
        data = Run(loaded.place.folder).config().data
        return data.num_images if is_pack(Path(data.pack)) else 0
    except GanvasError:
        return 0


def copies(neighbours: Neighbours, pixels: np.ndarray) -> np.ndarray:
    """(N,) bool: which of the images (N, H, W, C) are copies of training images."""
    assert neighbours.finder is not None
    with neighbours.using:
        return neighbours.finder.is_copy(pixels)


def nearest_training_images(neighbours: Neighbours, pixels: np.ndarray) -> list[Near]:
    """The nearest training image of each of the images (N, H, W, C), and its similarity."""
    assert neighbours.finder is not None and neighbours.pack is not None
    with neighbours.using:
        near = neighbours.finder.find(pixels)
    names = neighbours.pack.names
    return [
        Near(
            index=int(index),
            name=names[index] if index < len(names) else "",
            correlation=round(float(correlation), 3),
            score=round(float(score), 3),
            copy_of_it=bool(score < neighbours.finder.threshold),
            moved=moved,
        )
        for index, correlation, score, moved in zip(*near, strict=True)
    ]
