"""Generate images for many clients: one thread processes the requests in order and in batches.

Only one thread, because style mixing adds hooks to the network (latent_codes.py). The queue is limited by the memory of
its images; further requests are refused immediately, with a time to retry.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Generator as Generated
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ganvas.errors import ConfigError, GanvasError, RunError
from ganvas.explore.recipes import Direction, Recipe, resolve
from ganvas.generator import Generator, to_pixels
from ganvas.image_files import png_bytes
from ganvas.provenance import provenance
from ganvas.studio.errors import BusyError, ConflictError
from ganvas.studio.model_folder import Place, Shelf

MOST_PER_PASS, _BATCH_PIXELS = 64, 2**24  # most images and most pixels per forward pass
MOST_MODELS = 3  # most models in memory
_WAITING_BYTES = 2**28  # most bytes of pixels of all open requests
MOST_WAITING_IMAGES = 2048  # most images of all open requests
CACHE_BYTES = 2**26  # size of the cache of PNG files
_QUICK = 2**14  # pixel values below which encoding takes less time than a change of threads
_MOST_NODES = 64  # most recipes nested in one
LARGEST_AMOUNT = 1e6  # largest number in a recipe

_Stamp = tuple[int, int]
_T = TypeVar("_T")


@dataclass(eq=False)
class Loaded:
    """A model in memory. version: changes with weights and directions; part of each image URL."""

    place: Place
    generator: Generator
    stamp: _Stamp
    directions: dict[str, Direction] = field(default_factory=dict)
    directions_stamp: _Stamp = (0, 0)
    directions_sentence: str = ""
    """The reason if the directions file cannot be used."""
    version: str = ""

    @property
    def picture_bytes(self) -> int:
        config = self.generator.info.config
        return config.height * config.width * config.channels * self.generator.info.depth // 8

    @property
    def batch(self) -> int:
        """Images per forward pass."""
        config = self.generator.info.config
        return max(1, min(MOST_PER_PASS, _BATCH_PIXELS // (config.height * config.width)))


@dataclass(eq=False)
class Job:
    """The images of one request; its future returns pixels (N, H, W, C). Or another action with the network."""

    loaded: Loaded
    recipes: Sequence[Recipe]
    future: Future[Any] = field(default_factory=Future)
    action: Callable[[], Any] | None = None


class Engine:
    """Load models on demand and generate images from recipes. `close` stops the thread."""

    def __init__(self, shelf: Shelf, device: str | None = None) -> None:
        self.shelf, self.device = shelf, device
        self.models: OrderedDict[str, Loaded] = OrderedDict()
        self.loading = threading.Lock()
        self.waiting: deque[Job] = deque()
        self.arrived = threading.Condition()
        self.reserved = self.reserved_bytes = 0  # images, and bytes of their pixels
        self.seconds_each = 0.01  # measured time per image
        self.cache: OrderedDict[str, bytes] = OrderedDict()
        self.cached_bytes = 0
        self.caching = threading.Lock()
        self.closed = False
        self.thread = threading.Thread(target=self.work, name="studio pictures", daemon=True)
        self.thread.start()

    def close(self) -> None:
        with self.arrived:
            self.closed = True
            self.arrived.notify_all()
        self.thread.join()

    # ---- models ----

    def model(self, name: str, version: str | None = None, anew: bool = False) -> Loaded:
        """The model of that name; it is loaded if necessary. anew: reload it if its file has changed.

        Raises AbsentError, CheckpointError, or ConflictError if another `version` is loaded.
        """
        with self.loading:
            loaded = self.models.get(name)
            if loaded is None or (anew and is_newer(loaded)):
                place = self.shelf.find(name)
                if place.weights is None:
                    raise RunError(f"{name} has no model yet: training saves it after some time")
                stamp = stamp_of(place.weights)
                loaded = Loaded(place, Generator.load(place.weights, self.device), stamp)
                self.models[name] = loaded
            self.models.move_to_end(name)
            while len(self.models) > MOST_MODELS:
                self.models.popitem(last=False)
            _refresh_directions(loaded)
        return _of_version(loaded, version)

    async def ready(self, name: str, version: str | None = None) -> Loaded:
        """Like `model`; immediate if the model is in memory and nothing has changed."""
        loaded = self.models.get(name)
        if loaded is not None and stamp_of(_directions_file(loaded.place)) == loaded.directions_stamp:
            with suppress(KeyError):  # another thread has just removed it
                self.models.move_to_end(name)
            return _of_version(loaded, version)
        return await asyncio.to_thread(self.model, name, version)

    # ---- images ----

    async def pictures(self, loaded: Loaded, recipes: Sequence[Recipe]) -> list[bytes]:
        """PNG files with provenance, in the order of the recipes.

        Raises BusyError if the queue is full, ConfigError for a recipe that does not fit the model.
        """
        keys = [address_hash(loaded, recipe) for recipe in recipes]
        known = {key: content for key in keys if (content := self.cached(key)) is not None}
        missing = {key: recipe for key, recipe in zip(keys, recipes, strict=True) if key not in known}
        if missing:
            with self.reservation(loaded, len(missing)):
                wanted = list(missing.values())
                pixels = await self.drawn(loaded, wanted)
                if pixels.size < _QUICK:
                    drawn = _written(loaded, pixels, wanted)
                else:
                    drawn = await asyncio.to_thread(_written, loaded, pixels, wanted)
            for key, content in zip(missing, drawn, strict=True):
                self.keep(key, content)
                known[key] = content
        return [known[key] for key in keys]

    async def pixels(self, loaded: Loaded, recipes: Sequence[Recipe]) -> np.ndarray:
        """(N, H, W, C) uint8 or uint16; raises the same errors as `pictures`."""
        with self.reservation(loaded, len(recipes)):
            return await self.drawn(loaded, recipes)

    async def drawn(self, loaded: Loaded, recipes: Sequence[Recipe]) -> np.ndarray:
        parts = [recipes[start : start + loaded.batch] for start in range(0, len(recipes), loaded.batch)]
        futures = [asyncio.wrap_future(self.submit(loaded, part)) for part in parts]
        return np.concatenate(await asyncio.gather(*futures))

    @contextmanager
    def reservation(self, loaded: Loaded, num: int) -> Generated[None]:
        """Reserve memory for the pixels of `num` images during a request."""
        size = num * loaded.picture_bytes
        with self.arrived:
            full = self.reserved + num > MOST_WAITING_IMAGES or self.reserved_bytes + size > _WAITING_BYTES
            if full and self.reserved:  # a single request is always accepted
                seconds = max(1, math.ceil(self.reserved * self.seconds_each))
                raise BusyError(
                    f"the studio is busy: {self.reserved:,} images are waiting; retry in {seconds} s", seconds
                )
            self.reserved += num
            self.reserved_bytes += size
        try:
            yield
        finally:
            with self.arrived:
                self.reserved -= num
                self.reserved_bytes -= size

    def call(self, loaded: Loaded, action: Callable[[], _T]) -> Future[_T]:
        """Run another action with the network in the image thread, in order."""
        return self.submit(loaded, [], action)

    def submit(self, loaded: Loaded, recipes: Sequence[Recipe], action: Callable[[], Any] | None = None) -> Future[Any]:
        job = Job(loaded, recipes, action=action)
        with self.arrived:
            if self.closed:
                raise BusyError("the studio is closing", 5)
            self.waiting.append(job)
            self.arrived.notify()
        return job.future

    # ---- the image thread ----

    def work(self) -> None:
        while (jobs := self.next_batch()) is not None:
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if not live:
                continue
            began = time.monotonic()
            try:
                answers = [live[0].action()] if live[0].action is not None else draw(live)
            except Exception as error:  # one invalid recipe must not affect other requests
                answers = [error] if len(live) == 1 else [_alone(job) for job in live]
            if num := sum(len(job.recipes) for job in live):
                self.seconds_each += 0.2 * ((time.monotonic() - began) / num - self.seconds_each)
            for job, answer in zip(live, answers, strict=True):
                job.future.set_exception(answer) if isinstance(answer, BaseException) else job.future.set_result(answer)

    def next_batch(self) -> list[Job] | None:
        """The oldest requests that fit into one forward pass of one model; None if the studio closes."""
        with self.arrived:
            self.arrived.wait_for(lambda: self.waiting or self.closed)
            if self.closed:
                for job in self.waiting:
                    if job.future.set_running_or_notify_cancel():
                        job.future.set_exception(BusyError("the studio is closing", 5))
                self.waiting.clear()
                return None
            jobs = [self.waiting.popleft()]
            room = 0 if jobs[0].action is not None else jobs[0].loaded.batch - len(jobs[0].recipes)
            while self.waiting and fits_pass(self.waiting[0], jobs[0], room):
                jobs.append(self.waiting.popleft())
                room -= len(jobs[-1].recipes)
            return jobs

    # ---- cache of PNG files ----

    def cached(self, key: str) -> bytes | None:
        with self.caching:
            content = self.cache.get(key)
            if content is not None:
                self.cache.move_to_end(key)
            return content

    def keep(self, key: str, content: bytes) -> None:
        with self.caching:
            self.cached_bytes += len(content) - len(self.cache.get(key, b""))
            self.cache[key] = content
            while self.cached_bytes > CACHE_BYTES:
                self.cached_bytes -= len(self.cache.popitem(last=False)[1])


def fits_pass(job: Job, first: Job, room: int) -> bool:
    return job.loaded is first.loaded and job.action is None and len(job.recipes) <= room


@torch.inference_mode()
def draw(jobs: Sequence[Job]) -> list[np.ndarray]:
    """Pixels of each job, in one pass; all jobs must have the same model."""
    loaded = jobs[0].loaded
    recipes = [recipe for job in jobs for recipe in job.recipes]
    generator = loaded.generator
    images = generator.show(resolve(generator, recipes, loaded.directions))
    if not bool(torch.isfinite(images).all()):
        raise ConfigError("the recipe gives no valid image because its numbers are too large: use smaller numbers")
    pixels = to_pixels(images, generator.info.depth)
    ends = np.cumsum([len(job.recipes) for job in jobs])[:-1]
    return np.split(pixels, ends)


def _alone(job: Job) -> Any:
    try:
        return draw([job])[0]
    except Exception as error:
        return error


def _written(loaded: Loaded, pixels: np.ndarray, recipes: Sequence[Recipe]) -> list[bytes]:
    model = loaded.generator.hash
    return [png_bytes(one, provenance(model, recipe.to_dict())) for one, recipe in zip(pixels, recipes, strict=True)]


def address_hash(loaded: Loaded, recipe: Recipe) -> str:
    """Identifies an image by model and recipe; also the ETag."""
    text = json.dumps([loaded.version, recipe.to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]


# ---- files of a model ----


def _of_version(loaded: Loaded, version: str | None) -> Loaded:
    if version is not None and version != loaded.version:
        raise ConflictError(
            f"{loaded.place.name} has changed from version {version[:12]} to {loaded.version[:12]}: reload the page"
        )
    return loaded


def stamp_of(file: Path) -> _Stamp:
    try:
        status = file.stat()
    except OSError:
        return (0, 0)
    return status.st_mtime_ns, status.st_size


def is_newer(loaded: Loaded) -> bool:
    """Whether the file of the model has changed after loading."""
    assert loaded.place.weights is not None
    return stamp_of(loaded.place.weights) not in (loaded.stamp, (0, 0))


def _directions_file(place: Place) -> Path:
    assert place.weights is not None
    return place.weights.parent / "directions.json"


def _refresh_directions(loaded: Loaded) -> None:
    """Read the directions of the model if their file is new or has changed."""
    stamp = stamp_of(_directions_file(loaded.place))
    if loaded.version and stamp == loaded.directions_stamp:
        return
    loaded.directions, loaded.directions_sentence = {}, ""
    if stamp != (0, 0):
        from ganvas.explore import directions

        try:
            loaded.directions = dict(directions.read(loaded.place.folder, loaded.generator))
        except GanvasError as error:
            loaded.directions_sentence = str(error)
    loaded.directions_stamp = stamp
    content = {name: [one.vector, one.depths] for name, one in loaded.directions.items()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() if content else ""
    loaded.version = loaded.generator.hash[:24] + digest[:8]


def checked_recipe(recipe: Recipe) -> Recipe:
    """The recipe. Raises ConfigError if it has too large numbers or too many nested recipes."""
    nodes = [recipe]
    for node in nodes:  # the list grows in the loop
        numbers = [*node.edits.values(), *(x for row in node.code or () for x in row)]
        if isinstance(node.label, Mapping):
            numbers += node.label.values()
        if node.towards is not None:
            numbers.append(node.towards.share)
            nodes.append(node.towards.to)
        if node.mix is not None:
            nodes.append(node.mix.other)
        if any(abs(value) > LARGEST_AMOUNT for value in numbers):
            raise ConfigError(f"the recipe has numbers beyond {LARGEST_AMOUNT:,.0f}: use smaller numbers")
        if len(nodes) > _MOST_NODES:
            raise ConfigError(f"the recipe contains more than {_MOST_NODES} others: save the image as a code instead")
    return recipe
