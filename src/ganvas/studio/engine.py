"""Pictures for many clients: one thread draws them, in the order of the requests and in batches over those that wait.

One thread, because mixing images hangs hooks into the network (codes.py). What waits is bounded by the memory that
its images will take; beyond that a request is refused at once, with the time after which to ask again.
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ganvas.errors import ConfigError, GanvasError, RunError
from ganvas.explore.recipes import Direction, Recipe, resolve
from ganvas.generator import Generator, to_pixels
from ganvas.pictures import png_bytes
from ganvas.provenance import provenance
from ganvas.studio.refusals import BusyError, ConflictError
from ganvas.studio.shelf import Place, Shelf

BATCH, BATCH_PIXELS = 64, 2**24  # of one forward pass, whichever is less
MOST_MODELS = 3  # loaded at a time
WAITING_BYTES = 2**28  # of pixels, that requests which wait or are being drawn will take
MOST_WAITING = 2048  # images
CACHE_BYTES = 2**26  # of PNG files
QUICK = 2**14  # values of images that are written at once, in less time than it takes to change threads
MOST_NODES = 64  # recipes within one
LARGEST = 1e6  # of any number in a recipe; far beyond what a network has seen

Stamp = tuple[int, int]
T = TypeVar("T")


@dataclass(eq=False)
class Loaded:
    """A model in memory. version: changes with its weights and with its directions; it is part of every address."""

    place: Place
    generator: Generator
    stamp: Stamp
    directions: dict[str, Direction] = field(default_factory=dict)
    directions_stamp: Stamp = (0, 0)
    directions_sentence: str = ""
    """Why there are none, where their file cannot be used."""
    version: str = ""

    @property
    def picture_bytes(self) -> int:
        config = self.generator.info.config
        return config.height * config.width * config.channels * self.generator.info.depth // 8

    @property
    def batch(self) -> int:
        """Pictures of one forward pass."""
        config = self.generator.info.config
        return max(1, min(BATCH, BATCH_PIXELS // (config.height * config.width)))


@dataclass(eq=False)
class Job:
    """One request's images; its future gives (N, H, W, C) pixels. Or something else to do with the network."""

    loaded: Loaded
    recipes: Sequence[Recipe]
    future: Future[Any] = field(default_factory=Future)
    action: Callable[[], Any] | None = None


class Engine:
    """Models on demand, images from recipes. `close` ends its thread."""

    def __init__(self, shelf: Shelf, device: str | None = None) -> None:
        self.shelf, self.device = shelf, device
        self.models: OrderedDict[str, Loaded] = OrderedDict()
        self.loading = threading.Lock()
        self.waiting: deque[Job] = deque()
        self.arrived = threading.Condition()
        self.reserved = self.reserved_bytes = 0  # images, and the bytes of their pixels
        self.seconds_each = 0.01  # an image, as measured
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
        self.thread.join(timeout=10)

    # ---- models ----

    def model(self, name: str, version: str | None = None, anew: bool = False) -> Loaded:
        """The model of that name, loaded if need be; anew: again, if its file has changed.

        Raises AbsentError, CheckpointError, or ConflictError where `version` is given and another one is loaded.
        """
        with self.loading:
            loaded = self.models.get(name)
            if loaded is None or (anew and is_newer(loaded)):
                place = self.shelf.find(name)
                if place.weights is None:
                    raise RunError(f"{name} has no model yet: it is saved some time after the training has begun")
                stamp = stamp_of(place.weights)
                loaded = Loaded(place, Generator.load(place.weights, self.device), stamp)
                self.models[name] = loaded
            self.models.move_to_end(name)
            while len(self.models) > MOST_MODELS:
                self.models.popitem(last=False)
            refresh_directions(loaded)
        return of_version(loaded, version)

    async def ready(self, name: str, version: str | None = None) -> Loaded:
        """As `model`; on the spot where the model is in memory and nothing has changed."""
        loaded = self.models.get(name)
        if loaded is not None and stamp_of(directions_file(loaded.place)) == loaded.directions_stamp:
            return of_version(loaded, version)
        return await asyncio.to_thread(self.model, name, version)

    # ---- images ----

    async def pictures(self, loaded: Loaded, recipes: Sequence[Recipe]) -> list[bytes]:
        """PNG files with their provenance, in the order of the recipes.

        Raises BusyError when too much waits already, ConfigError for a recipe that does not fit the model.
        """
        keys = [address_hash(loaded, recipe) for recipe in recipes]
        known = {key: content for key in keys if (content := self.cached(key)) is not None}
        missing = {key: recipe for key, recipe in zip(keys, recipes, strict=True) if key not in known}
        if missing:
            with self.reservation(loaded, len(missing)):
                pixels = await self.drawn(loaded, list(missing.values()))
                some = list(missing.values())
                quick = pixels.size < QUICK
                drawn = (
                    written(loaded, pixels, some) if quick else await asyncio.to_thread(written, loaded, pixels, some)
                )
            for key, content in zip(missing, drawn, strict=True):
                self.keep(key, content)
                known[key] = content
        return [known[key] for key in keys]

    async def pixels(self, loaded: Loaded, recipes: Sequence[Recipe]) -> np.ndarray:
        """(N, H, W, C) uint8 or uint16; raises as `images` does."""
        with self.reservation(loaded, len(recipes)):
            return await self.drawn(loaded, recipes)

    async def drawn(self, loaded: Loaded, recipes: Sequence[Recipe]) -> np.ndarray:
        parts = [recipes[start : start + loaded.batch] for start in range(0, len(recipes), loaded.batch)]
        futures = [asyncio.wrap_future(self.submit(loaded, part)) for part in parts]
        return np.concatenate(await asyncio.gather(*futures))

    @contextmanager
    def reservation(self, loaded: Loaded, num: int) -> Generated[None]:
        """Room for the pixels of `num` images while a request is served."""
        size = num * loaded.picture_bytes
        with self.arrived:
            full = self.reserved + num > MOST_WAITING or self.reserved_bytes + size > WAITING_BYTES
            if full and self.reserved:  # a request alone always has room
                seconds = max(1, math.ceil(self.reserved * self.seconds_each))
                raise BusyError(
                    f"the studio is busy: {self.reserved:,} images are waiting; ask again in {seconds} s", seconds
                )
            self.reserved += num
            self.reserved_bytes += size
        try:
            yield
        finally:
            with self.arrived:
                self.reserved -= num
                self.reserved_bytes -= size

    def call(self, loaded: Loaded, action: Callable[[], T]) -> Future[T]:
        """Has the drawing thread do something else with the network, in turn."""
        return self.submit(loaded, [], action)

    def submit(self, loaded: Loaded, recipes: Sequence[Recipe], action: Callable[[], Any] | None = None) -> Future[Any]:
        job = Job(loaded, recipes, action=action)
        with self.arrived:
            if self.closed:
                raise BusyError("the studio is closing", 5)
            self.waiting.append(job)
            self.arrived.notify()
        return job.future

    # ---- the thread that draws ----

    def work(self) -> None:
        while (jobs := self.next_batch()) is not None:
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if not live:
                continue
            began = time.monotonic()
            try:
                answers = [live[0].action()] if live[0].action is not None else draw(live)
            except Exception as error:  # one recipe that does not fit must not spoil the others' images
                answers = [error] if len(live) == 1 else [alone(job) for job in live]
            if num := sum(len(job.recipes) for job in live):
                self.seconds_each += 0.2 * ((time.monotonic() - began) / num - self.seconds_each)
            for job, answer in zip(live, answers, strict=True):
                job.future.set_exception(answer) if isinstance(answer, BaseException) else job.future.set_result(answer)

    def next_batch(self) -> list[Job] | None:
        """The oldest requests that fit into one forward pass of one model; None when the studio closes."""
        with self.arrived:
            self.arrived.wait_for(lambda: self.waiting or self.closed)
            if self.closed:
                for job in self.waiting:
                    job.future.set_exception(BusyError("the studio is closing", 5))
                self.waiting.clear()
                return None
            jobs = [self.waiting.popleft()]
            room = 0 if jobs[0].action is not None else jobs[0].loaded.batch - len(jobs[0].recipes)
            while self.waiting and fits(self.waiting[0], jobs[0], room):
                jobs.append(self.waiting.popleft())
                room -= len(jobs[-1].recipes)
            return jobs

    # ---- files drawn already ----

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


def fits(job: Job, first: Job, room: int) -> bool:
    return job.loaded is first.loaded and job.action is None and len(job.recipes) <= room


@torch.inference_mode()
def draw(jobs: Sequence[Job]) -> list[np.ndarray]:
    """Each job's pixels, all of one model, in one pass."""
    loaded = jobs[0].loaded
    recipes = [recipe for job in jobs for recipe in job.recipes]
    generator = loaded.generator
    images = generator.show(resolve(generator, recipes, loaded.directions))
    if not bool(torch.isfinite(images).all()):
        raise ConfigError("the recipe leads to no image (its numbers are too large): use smaller ones")
    pixels = to_pixels(images, generator.info.depth)
    ends = np.cumsum([len(job.recipes) for job in jobs])[:-1]
    return np.split(pixels, ends)


def alone(job: Job) -> Any:
    try:
        return draw([job])[0]
    except Exception as error:
        return error


def written(loaded: Loaded, pixels: np.ndarray, recipes: Sequence[Recipe]) -> list[bytes]:
    model = loaded.generator.hash
    return [png_bytes(one, provenance(model, recipe.to_dict())) for one, recipe in zip(pixels, recipes, strict=True)]


def address_hash(loaded: Loaded, recipe: Recipe) -> str:
    """Which image it is: of this model, by this recipe; also the ETag."""
    text = json.dumps([loaded.version, recipe.to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]


# ---- files of a model ----


def of_version(loaded: Loaded, version: str | None) -> Loaded:
    if version is not None and version != loaded.version:
        raise ConflictError(
            f"this address is of {loaded.place.name} as it was, {version[:12]}; "
            f"now it is {loaded.version[:12]}: reload the page"
        )
    return loaded


def stamp_of(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size


def is_newer(loaded: Loaded) -> bool:
    """Whether the model's file has changed since it was loaded."""
    assert loaded.place.weights is not None
    return stamp_of(loaded.place.weights) not in (loaded.stamp, (0, 0))


def directions_file(place: Place) -> Path:
    assert place.weights is not None
    return place.weights.parent / "directions.json"


def refresh_directions(loaded: Loaded) -> None:
    """Reads the model's directions, where their file is new or has changed."""
    stamp = stamp_of(directions_file(loaded.place))
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
    told = {name: [one.vector, one.depths] for name, one in loaded.directions.items()}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest() if told else ""
    loaded.version = loaded.generator.hash[:24] + digest[:8]


def checked(recipe: Recipe) -> Recipe:
    """The recipe, unless a number in it is beyond all sense or it holds too many others."""
    nodes = [recipe]
    for node in nodes:  # which grows meanwhile
        numbers = [*node.edits.values(), *(x for row in node.code or () for x in row)]
        if isinstance(node.label, Mapping):
            numbers += node.label.values()
        if node.towards is not None:
            numbers.append(node.towards.share)
            nodes.append(node.towards.to)
        if node.mix is not None:
            nodes.append(node.mix.other)
        if any(abs(value) > LARGEST for value in numbers):
            raise ConfigError(f"the recipe has numbers beyond {LARGEST:,.0f}: use smaller ones")
        if len(nodes) > MOST_NODES:
            raise ConfigError(f"the recipe holds more than {MOST_NODES} others: keep the image as a code")
    return recipe
