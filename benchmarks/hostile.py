"""Hostile files: archives and images that expand without end, and crafted models, favourites and configurations.

    python benchmarks/hostile.py --number 200 --json hostile.json

The bombs are those of tests/test_bombs.py. Each is packed (`ganvas data pack`), and must give one sentence in at most
10 s and 1 GB of memory (of the process, of which Ganvas itself takes a third). The seconds are of the processor, since
other programs may run on the machine; a command that takes 15 minutes hangs.

`number` files follow: a model with a valid checksum, a favourites file, or config.json or evaluation.json of a run, in
which a random value is replaced by one that is too large, too deep, too long or of another type. The command that reads
the file must work, or give one sentence, within the same bounds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch

from common import machine, table, write_json
from forks import EVALUATE, TINY, TRAIN, Ended, complete, must, renew, write_digits
from ganvas.generator import Generator
from ganvas.model_file import checksum, tensor_hash

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
BOMBS = importlib.import_module("test_bombs").BOMBS

SECONDS, MEMORY = 10.0, 10**9
VALUES: tuple[Any, ...] = (
    *(10**9, -1, 0, 2**63, 1e308, -1e308, 0.5, float("nan"), float("inf"), 10**400),
    *(True, None, "", "8", "x" * 10**6, "../" * 99, "\0", "\ud800", [], {}, [1] * 10**5, {"a": {}}),
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def spoilt(text: str, dice: random.Random) -> tuple[str, str]:
    """A JSON document with a hostile value in a random place, and what was done."""
    content = json.loads(text)
    place = dice.choice(list(places(content)))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    value = dice.choice((*VALUES, nested(50), nested(800)))
    inner[place[-1]] = value
    return json.dumps(content), f"{'.'.join(map(str, place))} = {str(value)[:30]}"


def spoil_model(folder: Path, dice: random.Random) -> str:
    """Rewrites the model of the run with a hostile configuration and a correct checksum."""
    generator = Generator.load(folder / "run", device="cpu")
    tensors = {name: tensor.contiguous() for name, tensor in generator.network.state_dict().items()}
    text, what = spoilt(generator.info.to_json(), dice)
    metadata = {"ganvas": text, "sha256": checksum(tensor_hash(tensors), text)}
    safetensors.torch.save_file(tensors, folder / "run" / "model" / "generator.safetensors", metadata)
    return what


def spoil(path: Path, dice: random.Random) -> str:
    text, what = spoilt(path.read_text(), dice)
    path.write_text(text)
    return what


COMMANDS = {
    "model": ("sample", "run", "--n", "4", "--device", "cpu"),
    "favourites": ("favourites", "run", "kept.json", "--out", "kept", "--device", "cpu"),
    "config": ("train", "data.zip", "--out", "run", *TINY, "--images", "496"),
    "evaluation": ("report", "run"),
}


def trial(kind: str, base: Path, folder: Path, dice: random.Random) -> tuple[str, Ended]:
    renew(base, folder)
    files = {"favourites": "kept.json", "config": "run/config.json", "evaluation": "run/evaluation.json"}
    what = spoil_model(folder, dice) if kind == "model" else spoil(folder / files[kind], dice)
    return what, complete(COMMANDS[kind], folder)


def bomb(name: str, folder: Path) -> Ended:
    renew(folder.parent / "empty", folder)
    file, write, _ = BOMBS[name]
    write(folder / file)
    return complete(("data", "pack", file, "packed", "--size", "32"), folder)


def row(what: str, ended: Ended, refused: bool) -> dict[str, Any]:
    fault = ended.fault
    if not fault and refused and ended.code != 2:
        fault = "not refused"
    if not fault and ended.processor > SECONDS:
        fault = "too slow"
    if not fault and ended.memory > MEMORY:
        fault = "too much memory"
    return {
        "file": what, "seconds": ended.seconds, "processor": ended.processor, "megabytes": ended.memory // 10**6,
        "fault": fault,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=200, help="crafted files")
    parser.add_argument("--bombs", type=int, default=len(BOMBS), help=f"bombs, of {len(BOMBS)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the values and places")
    parser.add_argument("--json", type=Path, help="where the figures go")
    asked = parser.parse_args()
    dice = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as place:
        fresh, base, folder, empty = (Path(place) / name for name in ("fresh", "base", "work", "empty"))
        empty.mkdir()
        bombs, crafted = [], []
        with contextlib.suppress(KeyboardInterrupt):
            for name in list(BOMBS)[: asked.bombs]:
                bombs.append(row(name, bomb(name, folder), refused=True))
            write_digits(fresh)
            renew(fresh, base)
            must(TRAIN, base)
            must(EVALUATE, base)
            must(("directions", "run", "--n", "2"), base)
            must(("favourites", "run", "kept.json", "--keep", "1,2", "--device", "cpu"), base)
            for i in range(asked.number):
                kind = list(COMMANDS)[i % len(COMMANDS)]
                what, ended = trial(kind, base, folder, dice)
                crafted.append(row(f"{kind}: {what}", ended, refused=False))
    if bombs:
        table("Bombs", [one | {"fault": one["fault"][:60]} for one in bombs])
    faults = [one for one in (*bombs, *crafted) if one["fault"]]
    slowest = max((one["processor"] for one in crafted), default=0.0)
    print(f"{len(crafted)} crafted files, {slowest:.1f} processor seconds at most; {len(faults)} faults in all")
    for one in faults:
        print(f"{one['file']}: {one['fault']}".encode("ascii", "backslashreplace").decode())
    if asked.json:
        write_json(asked.json, {"machine": machine("torch", "pillow"), "seed": asked.seed, "rows": [*bombs, *crafted]})
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
