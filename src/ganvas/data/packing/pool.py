"""Decodes images in child processes, in order, with a limited number of jobs at a time.

multiprocessing is not used: spawned children would run the user's script again unless it is guarded by
`if __name__ == "__main__"`, and forked ones would inherit the threads of torch. These children import one
function, answer over pipes, and end when their parent ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from ganvas.data.packing.selection import readable, stream
from ganvas.data.reading.decode import decode
from ganvas.data.reading.sources import Payload, Source
from ganvas.data.reading.target import Target
from ganvas.errors import DataError, PictureError

_CHUNK = 64  # maximum images per job
_CHUNK_BYTES = 8 * 2**20  # approximate maximum size of a job, encoded or decoded
LEAST_FOR_WORKERS = 500  # images for which worker processes are started
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""For the children, which already use all processors: with NumPy's own threads they are several times slower."""


def decoded(
    source: Source, indices: np.ndarray, target: Target, workers: int
) -> Iterator[tuple[np.ndarray, list[str | None]]]:
    """Decodes the images of these indices, in order: chunks of (images (n, H, W, C), reasons).

    There is one reason per requested image; None for those in `images`.
    """
    whole = source.arrays()
    if whole is not None and (images := _as_target(whole[0], target)) is not None:
        step = max(1, _CHUNK_BYTES // max(1, images[0].nbytes))
        for start in range(0, len(indices), step):
            part = indices[start : start + step]
            yield images[part], [None] * len(part)
        return
    picture_bytes = target.height * target.width * target.channels * target.depth // 8
    payloads = (payload for _, payload in stream(source, indices))
    jobs = ((chunk, target) for chunk in chunks(payloads, picture_bytes))
    yield from parallel_map(_decode_chunk, jobs, workers)


def _as_target(images: np.ndarray, target: Target) -> np.ndarray | None:
    """(N, H, W, C) view of the images if they already have the target format, else None."""
    images = images[..., None] if images.ndim == 3 else images
    return images if target.is_met(images[0]) else None


def chunks(payloads: Iterable[Payload], picture_bytes: int = 1) -> Iterator[list[Payload]]:
    """Payloads in lists of up to CHUNK, shorter for large images."""
    most = min(_CHUNK, max(1, _CHUNK_BYTES // picture_bytes))
    chunk: list[Payload] = []
    held = 0
    for payload in payloads:
        chunk.append(payload)
        held += len(payload) if isinstance(payload, bytes) else getattr(payload, "nbytes", 0)
        if len(chunk) == most or held >= _CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _decode_chunk(payloads: list[Payload], target: Target) -> tuple[np.ndarray, list[str | None]]:
    """Decodes images, in a child process or in this one; see `decoded`."""
    images = np.empty(
        (len(payloads), target.height, target.width, target.channels),
        np.uint16 if target.depth == 16 else np.uint8,
    )
    reasons: list[str | None] = []
    num_good = 0
    for payload in payloads:
        try:
            images[num_good] = decode(readable(payload), target)
            num_good += 1
            reasons.append(None)
        except PictureError as error:
            reasons.append(str(error))
    return images[:num_good], reasons


def parallel_map(
    function: FunctionType | BuiltinFunctionType, jobs: Iterable[tuple[Any, ...]], workers: int
) -> Iterator[Any]:
    """Yields function(*job) for every job, in order; in this process if workers < 2 or there is no Python interpreter.

    function: importable by module and name. At most 2 * workers jobs are active, which limits memory.
    """
    if workers < 2 or not _has_interpreter():
        for job in jobs:
            yield function(*job)
        return
    children: list[subprocess.Popen[bytes]] = []
    free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def ask(job: tuple[Any, ...]) -> Any:
        child = free.get()
        try:
            return _answer(child, job)
        finally:
            free.put(child)

    threads = ThreadPoolExecutor(workers)
    under_way: deque[Future[Any]] = deque()
    try:
        for _ in range(workers):
            children.append(_start(function))
            free.put(children[-1])
        for job in jobs:
            under_way.append(threads.submit(ask, job))
            if len(under_way) >= 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
        for child in children:
            child.communicate()  # closes its input, which ends it


def _has_interpreter() -> bool:
    """Whether `sys.executable` is a Python interpreter; False in programs that embed it or are frozen (PyInstaller)."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def _start(function: FunctionType | BuiltinFunctionType) -> subprocess.Popen[bytes]:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from ganvas.data.packing import pool; "
        f"from {function.__module__} import {function.__name__} as function; pool.serve(function)"
    )
    try:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
        )
    except OSError as error:
        raise DataError(f"a decoding process cannot be started ({error}): check sys.executable") from error


def _answer(child: subprocess.Popen[bytes], job: tuple[Any, ...]) -> Any:
    assert child.stdin is not None and child.stdout is not None
    try:
        pickle.dump(job, child.stdin, protocol=5)
        child.stdin.flush()
        good, answer = pickle.load(child.stdout)  # from our own child process, so safe to unpickle
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise DataError(
            f"a decoding process ended with status {child.wait()}: "
            "usually because of too little memory; close other programs and start again"
        ) from error
    if not good:
        raise answer
    return answer


def serve(function: Callable[..., Any]) -> None:
    """Runs in the child: answers jobs from standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep output of libraries out of the answers
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)  # from our own parent, so safe to unpickle
        except EOFError:
            return
        try:
            answer = (True, function(*job))
        except Exception as error:
            answer = (False, error)
        try:
            pickle.dump(answer, answers, protocol=5)
            answers.flush()
        except BrokenPipeError:  # the parent was killed
            os._exit(1)
