"""No command connects to anything outside this machine unless it is asked to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EVERYTHING = """
import fcntl, os, signal, socket, struct, sys, threading, time, urllib.error, urllib.request
from ganvas.cli import main

def attempts():
    "Packets and connections of this namespace that found no way out, and questions to a name server on this machine."
    found = 0
    rows = [line.split() for line in open("/proc/net/snmp")]
    for names, values in zip(rows[::2], rows[1::2]):
        counters = dict(zip(names[1:], values[1:]))
        found += int(counters.get("OutNoRoutes", 0)) + int(counters.get("OutDatagrams", 0))
    return found + sum(int(v) for n, v in map(str.split, open("/proc/net/snmp6")) if n == "Ip6OutNoRoutes")

def call(*arguments):
    before, sys.argv = attempts(), ["ganvas", *arguments]
    code = main()
    print(arguments[0], "ended with", code, "after", attempts() - before, "attempts", flush=True)

def ask(port):
    while True:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/").read()
            break
        except urllib.error.HTTPError:  # the page asks for a token
            break
        except OSError:
            time.sleep(0.05)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)

with socket.socket() as one:  # the loopback interface comes up, for the studio
    fcntl.ioctl(one, 0x8914, struct.pack("16sH14x", b"lo", 1 | 0x40))
with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    port = one.getsockname()[1]
tiny = "--size 16 --base 8 --z-dim 8 --batch 16 --previews 2 --images 48 --device cpu".split()
call("train", sys.argv[1], *tiny, "--out", "run")
call("sample", "run", "--n", "2")
call("sample", "runs/none", "--n", "2")  # no such path: not asked of the hub
call("evaluate", "run", "--n", "50")
call("report", "run")
call("export", "run", "--to", "onnx", "--out", "exported")
threading.Thread(target=ask, args=(port,), daemon=True).start()
call("studio", "run", "--port", str(port), "--no-browser")
before = attempts()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    try:
        one.connect(("192.0.2.1", 53))
    except OSError:
        pass
print("counted", attempts() - before, flush=True)
"""


@pytest.fixture(scope="module")
def isolated() -> list[str]:
    """The command that runs another one without network interfaces; skips where that is not allowed."""
    command = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this system does not let a user make a network namespace (`unshare -rn`)")
    return command


def test_the_telemetry_of_onnxruntime_is_off_before_it_can_be_imported() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    program = "import ganvas, os, sys; print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ended.stdout.split() == ["1", "False"], ended.stderr


@pytest.mark.slow
def test_no_command_tries_to_leave_this_machine(isolated: list[str], tmp_path: Path) -> None:
    """Counted by the kernel, so that libraries of other languages are seen, too."""
    pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")
    pytest.importorskip("onnxscript", reason="needs the extra export")
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 256, (300, 16, 16), np.uint8))
    environment = {**os.environ, "GANVAS_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    ended = subprocess.run(
        [*isolated, sys.executable, "-c", EVERYTHING, "noise.npy"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    told = [line for line in ended.stdout.splitlines() if line.endswith("attempts")]
    expected = ["train", "sample", "sample", "evaluate", "report", "export", "studio"]
    codes = [0, 0, 2, 0, 0, 0, 0]
    assert told == [f"{verb} ended with {code} after 0 attempts" for verb, code in zip(expected, codes, strict=True)], (
        ended.stdout + ended.stderr
    )
    assert ended.stdout.splitlines()[-1] == "counted 1"
