"""Slow clients of the studio: is a good client still answered?

    python benchmarks/slow_clients.py --number 1000 --json slow.json

`number` connections are opened to a studio: a quarter sends nothing, a quarter half a request head, a quarter a request
whose body never ends, and a quarter asks for images and never reads them; all send a byte now and then where they can.
Meanwhile, and for `seconds` more, a good client asks for the page, the list of runs and an image, each on a new
connection. Every answer must come within 2 s, and the studio must end on Ctrl-C without a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from common import machine, table, write_json
from forks import TRAIN, must, write_digits

WITHIN = 2.0  # seconds
ADDRESSES = ("/", "/api/runs", "/api/picture?model=run&recipe=%7B%22seed%22%3A%201%7D")
HOST = "Host: localhost\r\n"
STARTS = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: loc",
    "endless body": f"POST /api/pictures HTTP/1.1\r\n{HOST}Content-Length: 99999\r\n\r\n".encode(),
    "never reads": f"GET {ADDRESSES[2]} HTTP/1.1\r\n{HOST}\r\n".encode() * 3,
}


class Slow:
    """Connections that waste the time of a server, opened one after another and kept in a thread."""

    def __init__(self, port: int, number: int) -> None:
        self.opened: list[socket.socket] = []
        self.failed = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.keep, args=(port, number))
        self.thread.start()

    def keep(self, port: int, number: int) -> None:
        for i in range(number):
            try:
                one = socket.create_connection(("127.0.0.1", port), timeout=10)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                one.sendall(list(STARTS.values())[i % len(STARTS)])
                self.opened.append(one)
            except OSError:
                self.failed += 1
        while not self.ended.wait(3.0):
            for i, one in enumerate(self.opened):
                if i % len(STARTS) in (1, 2):
                    with contextlib.suppress(OSError):
                        one.sendall(b"a")

    def close(self) -> None:
        self.ended.set()
        self.thread.join()
        for one in self.opened:
            one.close()


def asked(port: int, address: str) -> tuple[float, str]:
    """Seconds until the whole answer, and what is wrong with it."""
    began = time.perf_counter()
    try:
        with urllib.request.urlopen(f"http://localhost:{port}{address}", timeout=30) as answer:
            answer.read()
        wrong = ""
    except OSError as error:
        wrong = str(error)
    return time.perf_counter() - began, wrong


def measure(port: int, number: int, seconds: float) -> list[dict[str, Any]]:
    """A row for every address: alone, and while the slow clients hold their connections."""
    while asked(port, "/")[1]:  # until it has started
        time.sleep(0.1)
    rows = [{"address": address.partition("?")[0], "alone": asked(port, address)[0]} for address in ADDRESSES]
    times: dict[str, list[float]] = {address: [] for address in ADDRESSES}
    faults = dict.fromkeys(ADDRESSES, "")
    slow = Slow(port, number)
    try:
        until = None
        while until is None or time.monotonic() < until:
            for address in ADDRESSES:
                took, wrong = asked(port, address)
                times[address].append(took)
                faults[address] = faults[address] or wrong
            if until is None and (len(slow.opened) + slow.failed == number):
                until = time.monotonic() + seconds
            time.sleep(0.1)
    finally:
        slow.close()
    return [
        row | {"asked": len(times[address]), "slowest": max(times[address]), "failed": faults[address]}
        for row, address in zip(rows, ADDRESSES, strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=1000, help="slow connections")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they are held")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        write_digits(folder)
        must(TRAIN, folder)
        command = [
            sys.executable,
            "-m",
            "ganvas",
            "studio",
            "run",
            "--port",
            "0",
            "--device",
            "cpu",
            "--no-browser",
            "--no-train",
        ]
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"GANVAS_CACHE": str(folder / "cache")},
        ) as studio:  # fmt: skip
            try:
                assert studio.stdout is not None
                found = re.search(r":(\d+)/", studio.stdout.readline())
                rows = measure(int(found[1]), options.number, options.seconds) if found else []
            finally:
                studio.send_signal(signal.SIGINT)
            said = studio.communicate(timeout=60)[1]
    if not rows:
        raise SystemExit(f"the studio does not start: {said}")
    table(f"{options.number:,} slow connections", rows)
    met = all(row["slowest"] <= WITHIN and not row["failed"] for row in rows) and "Traceback" not in said
    print(said, f"every answer within {WITHIN:g} s: {'yes' if met else 'MISSED'}", sep="")
    if options.json:
        content = {"machine": machine("uvicorn", "h11"), "number": options.number, "rows": rows, "met": met}
        write_json(options.json, content)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
