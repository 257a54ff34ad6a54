"""Training from the outside: budgets, exact resumption, damaged files, ranks, signals, refusals."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ganvas
import processes
from conftest import Command
from ganvas.config import DataConfig, TrainOptions
from ganvas.data import open_pack
from ganvas.data.batches import Batches
from ganvas.errors import ConfigError, RunError, TrainingError
from ganvas.records import read_log
from ganvas.run import Run, read_checkpoint
from ganvas.system.device import Device, choose_device
from ganvas.training import clock, loop
from ganvas.training.session import taken_up
from ganvas.training.state import TrainState
from ganvas.training.step import Stats

SMALL = {"size": 16, "batch": 16, "base": 8, "z_dim": 8, "previews": 3, "device": "cpu", "quiet": True}
IMAGES = 16 * 24


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file of 96 labelled 16x16 gray images: bright squares, left or right."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (96, 16, 16), np.uint8)
    labels = np.arange(96) % 2
    for image, label in zip(images, labels, strict=True):
        image[5:11, 2 + 7 * label : 7 + 7 * label] = 220
    path = tmp_path_factory.mktemp("pictures") / "squares.npz"
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="session")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended with its budget."""
    out = tmp_path_factory.mktemp("finished") / "run"
    ganvas.train(pictures, out, images=IMAGES, **SMALL)
    return out


def newest_state(folder: Path) -> dict:
    return read_checkpoint(Run(folder).saved()[-1].path)


def assert_same(first: object, second: object) -> None:
    """Equal to the last bit, through nested dictionaries and lists."""
    if isinstance(first, dict):
        assert isinstance(second, dict) and first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert isinstance(second, list | tuple) and len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    elif isinstance(first, torch.Tensor):
        assert isinstance(second, torch.Tensor) and torch.equal(first, second)
    else:
        assert first == second


def without_time(state: dict) -> dict:
    """Without the clock, and the score: how often it is taken depends on the time that it costs."""
    counters = {name: value for name, value in state["counters"].items() if name not in ("seconds", "best_score")}
    return {**state, "counters": counters}


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Raises a signal inside the loop after this many steps."""
    original, done = loop.accumulate_gradients, []

    def counted(*arguments: object) -> object:
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(loop, "accumulate_gradients", counted)


def test_run_folder_is_complete(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= {"config.json", "log.jsonl", "samples", "checkpoints", "model"}
    records = [record for record in read_log(finished) if "d_real" in record]
    assert records and {"images_per_second", "eta", "d_fake", "penalty", "lr", "ema_half_life"} <= records[0].keys()
    assert Run(finished).saved()[-1].images_seen == IMAGES
    card = (finished / "model" / "README.md").read_text()
    assert "16x16" in card and "synthetic" in card
    config = json.loads((finished / "config.json").read_text())
    assert config["train"]["batch"] == 16 and config["asked"]["lr"] is None and config["train"]["lr"] > 0


def test_resumed_run_equals_uninterrupted_one_bit_for_bit(
    pictures: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, steps=10)
        stopped = ganvas.train(pictures, tmp_path / "run", images=IMAGES, **SMALL)
    assert stopped.signal == signal.SIGTERM and stopped.images_seen == 160
    ganvas.train(pictures, tmp_path / "run", images=IMAGES, **SMALL)
    assert_same(without_time(newest_state(finished)), without_time(newest_state(tmp_path / "run")))
    images = [record["images"] for record in read_log(tmp_path / "run")]
    assert images == sorted(images)


def test_damaged_newest_checkpoint_is_skipped_with_a_sentence(
    pictures: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, steps=12)
        ganvas.train(pictures, out, images=IMAGES, **SMALL)
    saved = Run(out).saved()
    assert len(saved) >= 2
    content = bytearray(saved[-1].path.read_bytes())
    content[len(content) // 2] ^= 1
    saved[-1].path.write_bytes(content)
    ganvas.train(pictures, out, images=IMAGES, **(SMALL | {"quiet": False}))
    said = capsys.readouterr().err
    assert f"{saved[-1].path.name} is damaged" in said and f"resuming from {saved[-2].images_seen:,}" in said
    assert_same(without_time(newest_state(finished))["generator"], newest_state(out)["generator"])


def test_finished_run_is_left_alone_and_a_larger_budget_goes_on(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ganvas.train(pictures, out, images=64, **SMALL)
    before = {path: path.stat().st_mtime_ns for path in (out / "checkpoints").iterdir()}
    assert ganvas.train(pictures, out, images=64, **SMALL).images_seen == 64
    assert {path: path.stat().st_mtime_ns for path in (out / "checkpoints").iterdir()} == before
    assert ganvas.train(pictures, out, images=96, **SMALL).images_seen == 96
    with pytest.raises(RunError, match=r"96 images: --images 64 is less"):
        ganvas.train(pictures, out, images=64, **SMALL)


@pytest.mark.parametrize("lost", ["model", "best", "samples/{:012d}.png", "log.jsonl"])
def test_a_run_that_was_killed_while_it_finished_is_finished_by_the_next_call(
    lost: str, pictures: Path, finished: Path, tmp_path: Path
) -> None:
    """Whatever of its end is missing: the model, the best weights, the last grid, or the last line of the log."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    place = out / lost.format(IMAGES)
    if place.is_dir():
        shutil.rmtree(place)
    elif place.suffix == ".png":
        place.unlink()
    else:
        place.write_text("".join(place.read_text().splitlines(keepends=True)[:-1]))
        older = ganvas.Generator.load(out / "model")
        next(older.network.parameters()).data.add_(1)
        older.save(out / "model")
    ganvas.train(pictures, out, images=IMAGES, **SMALL)
    for part in ("model", "best"):
        assert ganvas.Generator.load(out / part).hash == ganvas.Generator.load(finished / part).hash
    assert [images for images, _ in Run(out).grids()] == [images for images, _ in Run(finished).grids()]
    assert [one.path.name for one in Run(out).saved()] == [one.path.name for one in Run(finished).saved()]
    left = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    ganvas.train(pictures, out, images=IMAGES, **SMALL)
    changed = {path.name for path in left if path.stat().st_mtime_ns != left[path]}
    assert changed <= {".lock", "config.json", "log.jsonl"}  # now it is left alone


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_until_all_is_written(
    number: signal.Signals, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(average: object, run: Run, images_seen: int) -> None:
        if images_seen == 48:  # the end
            os.kill(os.getpid(), number)
        write_model(average, run, images_seen)

    write_model = loop.write_training_model
    monkeypatch.setattr(loop, "write_training_model", interrupted)
    ended = ganvas.train(pictures, tmp_path / "run", images=48, **SMALL)
    assert not ended.signal and [*read_log(tmp_path / "run")][-1] == {"images": 48, "finished": True}


def test_a_grid_that_was_due_when_a_run_was_stopped_is_drawn(
    pictures: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    grids = [images for images, _ in Run(finished).grids()]
    with monkeypatch.context() as patch:
        stop_after(patch, steps=grids[-2] // 16)
        ganvas.train(pictures, out, images=IMAGES, **SMALL)
    Run(out).grids()[-1][1].unlink()
    ganvas.train(pictures, out, images=IMAGES, **SMALL)
    assert [images for images, _ in Run(out).grids()] == [*grids[:-2], grids[-2] + 16, grids[-1]]


def test_a_run_of_a_gpu_goes_on_on_a_cpu_and_says_so(
    pictures: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The run of a GPU is made up: its record, and the state of CUDA's generators, 16 bytes each."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    run = Run(out)
    train = dataclasses.replace(run.config().train, device="cuda:0", precision="bf16", compile=True)
    run.write_config(dataclasses.replace(run.config(), train=train))
    state = newest_state(out)
    state["noise"] = state["rng"]["cuda"] = torch.zeros(16, dtype=torch.uint8)
    state["machine"] |= {"device": "cuda", "precision": "bf16"}
    state["counters"]["images_seen"] -= 16
    for checkpoint in run.saved():
        checkpoint.path.unlink()
    run.save_checkpoint(state, IMAGES - 16, keep=2)
    ganvas.train(pictures, out, images=IMAGES, **(SMALL | {"quiet": False}))
    assert "not bit-exact" in (said := capsys.readouterr().err)
    assert "device cuda -> cpu, precision bf16 -> fp32" in said
    train = json.loads((out / "config.json").read_text())["train"]
    assert (train["device"], train["precision"], train["compile"]) == ("cpu", "fp32", False)
    assert newest_state(out)["machine"] == newest_state(finished)["machine"]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"micro_batch": 4}, "micro-batch 16 -> 4"), ({"precision": "bf16"}, "precision fp32 -> bf16")],
)
def test_micro_batch_and_precision_may_change_when_a_run_goes_on(
    change: dict[str, object], words: str, pictures: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for again in (False, True):  # the second time nothing changes any more
        ganvas.train(pictures, out, images=(more := IMAGES + 16), **(SMALL | {"quiet": False} | change))
        said, state = capsys.readouterr().err, newest_state(out)
        assert state["counters"]["images_seen"] == more
        assert state["counters"]["micro_batch"] == change.get("micro_batch", 16)
        assert (words in said) is not again


class CudaNumbers:
    """A random generator of a GPU: its state has 16 bytes, and it refuses that of a CPU."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def get_state(self) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    def set_state(self, state: torch.Tensor) -> None:
        raise RuntimeError("RNG state is wrong size")

    def manual_seed(self, seed: int) -> None:
        self.seeds.append(seed)


def test_a_run_of_a_cpu_goes_on_on_a_gpu(pictures: Path, finished: Path, tmp_path: Path) -> None:
    """The GPU is made up: its name, its choices, and its random generator; the tensors are on the CPU."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    run, pack = Run(out), open_pack(pictures, DataConfig(size="16"))
    gpu = Device(torch.device("cuda:0"), "GPU", "it was requested", True, 2**34)
    record = taken_up(run, pack, TrainOptions(images=IMAGES + 16), gpu, None)
    assert (record.train.device, record.train.precision, record.train.compile) == ("cuda:0", "bf16", True)
    state = TrainState(record.model, record.train, Batches(pack, 16), choose_device("cpu"))
    numbers: Any = CudaNumbers()
    state.device, state.noise = gpu.torch_device, numbers
    kept = newest_state(finished)
    kept["counters"]["micro_batch"] = 4  # reduced for the memory of the other machine
    changes = state.load_state_dict(kept)
    assert changes == ["device cpu -> cuda", "precision fp32 -> bf16"] and len(numbers.seeds) == 1
    assert (state.images_seen, state.micro_batch) == (IMAGES, 16)
    assert_same(state.generator.state_dict(), kept["generator"])


def test_other_options_or_pictures_are_refused_with_the_difference(
    pictures: Path, finished: Path, tmp_path: Path
) -> None:
    before = (finished / "config.json").read_bytes()
    with pytest.raises(RunError, match=r"other options \(lr None -> 0\.1\)"):
        ganvas.train(pictures, finished, images=IMAGES, lr=0.1, **SMALL)
    other = tmp_path / "other.npz"
    np.savez(other, images=np.random.default_rng(1).integers(0, 255, (40, 16, 16), np.uint8))
    with pytest.raises(RunError, match="trained on other images"):
        ganvas.train(other, finished, images=IMAGES, **SMALL)
    assert (finished / "config.json").read_bytes() == before


def test_folder_with_other_files_is_never_written_into(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="has other files"):
        ganvas.train(pictures, tmp_path, images=64, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_second_process_is_refused(pictures: Path, finished: Path) -> None:
    with Run(finished), pytest.raises(RunError, match="another process is training"):  # the lock is of an open file
        ganvas.train(pictures, finished, images=9999, quiet=True)


def test_minutes_end_with_the_budget(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that runs twenty times as fast."""
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: 20 * time.monotonic()))
    trained = ganvas.train(pictures, tmp_path / "run", minutes=0.5, **SMALL)
    assert trained.seconds >= 30
    rates = [record["lr"] for record in read_log(tmp_path / "run") if "lr" in record]
    asked = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert max(rates) > 0.5 * asked["lr"]
    assert rates[-1] < 1.5 * asked["lr"] * asked["lr_end"]  # the schedule ended with the budget


def test_not_finite_loss_stops_and_names_what_to_do(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "DISPLAY_SECONDS", 0.0)
    with pytest.raises(TrainingError, match=r"diverged.*--lr"):
        ganvas.train(pictures, tmp_path / "run", images=64 * 100, lr=1e18, **SMALL)


def test_out_of_memory_leads_to_micro_batches_with_the_same_result(
    pictures: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    original = loop.accumulate_gradients

    def small_memory(networks, inputs, config, policy, micro_batch, *more):
        if micro_batch > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")  # of PyTorch on Linux
        if micro_batch > 4:
            raise MemoryError  # of NumPy and Python
        return original(networks, inputs, config, policy, micro_batch, *more)

    monkeypatch.setattr(loop, "accumulate_gradients", small_memory)
    ganvas.train(pictures, tmp_path / "run", images=64, **(SMALL | {"quiet": False}))
    assert "micro-batches of 4 (same training result)" in capsys.readouterr().err
    monkeypatch.undo()
    ganvas.train(pictures, tmp_path / "whole", images=64, **SMALL)
    for name, tensor in newest_state(tmp_path / "whole")["generator"].items():
        torch.testing.assert_close(newest_state(tmp_path / "run")["generator"][name], tensor, rtol=1e-3, atol=2e-4)


def test_memory_that_only_penalties_need_leaves_other_steps_as_they_are(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    original, sizes = loop.accumulate_gradients, []

    def small_memory(networks, inputs, config, policy, micro_batch, penalise, *more):
        if penalise and micro_batch > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append((penalise, micro_batch))
        return original(networks, inputs, config, policy, micro_batch, penalise, *more)

    monkeypatch.setattr(loop, "accumulate_gradients", small_memory)
    ganvas.train(pictures, tmp_path / "run", images=160, **(SMALL | {"quiet": False}))
    assert "micro-batches of 8 in steps with penalties (same training result)" in capsys.readouterr().err
    assert set(sizes) == {(True, 8), (False, 16)}
    counters = newest_state(tmp_path / "run")["counters"]
    assert (counters["micro_batch"], counters["penalty_micro_batch"]) == (16, 8)


def test_compile_that_cannot_work_falls_back(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken(network: torch.nn.Module) -> object:
        def call(*_: object) -> None:
            raise RuntimeError("no C++ compiler\nmany more lines")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    ganvas.train(pictures, tmp_path / "run", images=32, compile=True, **(SMALL | {"quiet": False}))
    assert "torch.compile failed on this machine (no C++ compiler): continuing without it" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, while it compiles
@pytest.mark.parametrize("options", [{"loss": "hinge"}, {"loss": "bce", "label_noise": 0.1}])
def test_compiled_networks_learn_as_the_others_do(
    options: dict[str, object],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Also where a step goes back through the discriminator twice. The compiler's front end alone: that is quick."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    small = SMALL | {"images": 64, "quiet": False} | options
    for name in ("plain", "compiled"):
        ganvas.train(pictures, tmp_path / name, compile=name == "compiled", **small)
    assert "torch.compile failed" not in capsys.readouterr().err
    plain, compiled = (newest_state(tmp_path / name)["generator"] for name in ("plain", "compiled"))
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, while it compiles
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_the_compiler_of_pytorch_makes_code_for_each_loss(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Whole compilation, on the CPU. The first loss takes minutes; the others reuse its code."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))
    compiled: list[torch.nn.Module] = []
    genuine = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or genuine(network))
    for i, options in enumerate(({"loss": "hinge"}, {"loss": "least-squares"}, {"loss": "bce", "label_noise": 0.1})):
        small = SMALL | {"images": 64, "quiet": False} | options
        for name in ("plain", "compiled"):
            ganvas.train(pictures, tmp_path / f"{name}{i}", compile=name == "compiled", **small)
        assert "torch.compile failed" not in capsys.readouterr().err and len(compiled) == 2 * (i + 1)
        plain, other = (newest_state(tmp_path / f"{name}{i}")["generator"] for name in ("plain", "compiled"))
        for name, tensor in plain.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=2e-4)


def test_compile_that_fails_in_a_backward_pass_falls_back_and_leaves_nothing_behind(
    pictures: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(_: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(_: object, *gradients: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel for the backward pass")

    def broken(network: torch.nn.Module) -> object:
        return lambda *inputs: Broken.apply(network(*inputs))

    monkeypatch.setattr(torch, "compile", broken)
    ganvas.train(pictures, tmp_path / "run", images=IMAGES, compile=True, **(SMALL | {"quiet": False}))
    assert "torch.compile failed on this machine (no kernel for the backward pass)" in capsys.readouterr().err
    assert_same(newest_state(finished)["generator"], newest_state(tmp_path / "run")["generator"])


def test_budgets_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--minutes and --images"):
        ganvas.TrainOptions(minutes=1, images=5)


def test_two_processes_equal_one_with_the_same_global_batch(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the two, one is this process."""
    options = {"images": 128, "size": 16, "batch": 16, "base": 8, "z_dim": 8, "previews": 2, "device": "cpu"}
    options |= {"augment": 0.5, "penalty_interval": 2}
    ganvas.train(pictures, tmp_path / "one", quiet=True, **options)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    for name, value in {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(name, str(value))
    words = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), value)]
    second = processes.start(
        "train", pictures, "--out", tmp_path / "two", *words, output=tmp_path / "said", environment={"RANK": "1"}
    )
    try:
        monkeypatch.setenv("RANK", "0")
        ganvas.train(pictures, tmp_path / "two", quiet=True, **options)
        assert processes.ended(second) == 0, (tmp_path / "said").read_text()
    finally:
        processes.kill(second)
    assert newest_state(tmp_path / "two")["counters"]["images_seen"] == 128
    one, two = (ganvas.Generator.load(tmp_path / name).sample(8) for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=0, atol=2e-3)


def start_command(pictures: Path, out: Path, output: str | Path) -> Any:
    """A long training in a process of its own, after its first checkpoint."""
    options = ("--images", 10_000_000, "--size", 16, "--batch", 16, "--base", 8, "--previews", 1000, "--device", "cpu")
    process = processes.start("train", pictures, "--out", out, *options, output=output)
    deadline = time.monotonic() + 120
    while not Run(out).saved():
        assert process.exitcode is None and time.monotonic() < deadline, output
        time.sleep(0.1)
    return process


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_saves_and_prints_the_resume_command(
    name: str, pictures: Path, tmp_path: Path, ganvas_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = signal.Signals[name]
    monkeypatch.setattr(os, "isatty", lambda _: False)  # after a SIGHUP nothing is written to a terminal
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    stop_after(monkeypatch, steps=3, number=number)
    options = ("--images", 320, "--size", 16, "--batch", 16, "--base", 8, "--device", "cpu")
    answer = ganvas_command("train", pictures, "--out", tmp_path / "run", *options)
    signal.signal(signal.SIGHUP, before)
    assert answer.code == 128 + number, answer.err
    assert f"to continue: ganvas train {pictures} --out" in answer.out
    assert Run(tmp_path / "run").saved()[-1].images_seen == 48
    ganvas.Generator.load(tmp_path / "run").sample(2)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_a_training_whose_terminal_has_gone_is_saved(pictures: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = start_command(pictures, tmp_path / "run", os.ttyname(theirs))
    os.close(theirs)
    os.close(ours)  # from here on it cannot write a word
    os.kill(process.pid, signal.SIGHUP)
    assert processes.ended(process) == 128 + signal.SIGHUP
    assert list((tmp_path / "run" / "model").iterdir())


def test_a_run_folder_that_was_moved_goes_on_by_its_name(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, steps=2)
        ganvas.train(pictures, tmp_path / "run", images=64, **SMALL)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    ganvas.train(moved, device="cpu", quiet=True)
    assert Run(moved).saved()[-1].images_seen == 64 and not (tmp_path / "run").exists()
    shutil.rmtree(Run(moved).config().data.pack)  # packed again from where the images were
    assert ganvas.train(moved, images=96, device="cpu", quiet=True).images_seen == 96


def test_kill_loses_only_what_came_after_the_last_checkpoint(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes.kill(start_command(pictures, out, tmp_path / "said"))
    newest = Run(out).saved()[-1].images_seen
    with Run(out) as run:  # the lock of a dead process holds nobody up
        assert read_checkpoint(run.saved()[-1].path)["counters"]["images_seen"] == newest


def test_a_log_line_has_the_penalty_of_the_last_step_that_computed_one() -> None:
    number = torch.tensor(1.0)
    state = SimpleNamespace(
        images_seen=64,
        gradient_norms={"generator": number, "discriminator": number},
        features_penalty=SimpleNamespace(adapts=False),
        augmentation=number,
    )
    clock = SimpleNamespace(seconds=lambda: 1.0, rate=lambda: 1.0, seconds_left=lambda: 1.0)
    last = Stats(number, number, number, number, number)
    penalised = dataclasses.replace(last, r1=torch.tensor(2.0), r2=torch.tensor(3.0), gp=torch.tensor(0.5))
    config = SimpleNamespace(ema=10.0)
    assert loop.report_of(state, last, penalised, clock, 0.1, config).penalty == 5.5
    assert loop.report_of(state, last, None, clock, 0.1, config).penalty == 0.0
