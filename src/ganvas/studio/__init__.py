"""The studio: one page in the browser to explore a model, keep images, and watch trainings."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shlex
import socket
import threading
import webbrowser
from pathlib import Path

from ganvas.errors import ConfigError, MissingExtraError


def serve(
    folder: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    token_file: str | Path | None = None,
    data: str | None = None,
    device: str | None = None,
    open_browser: bool = True,
    no_copies: bool = False,
) -> None:
    """Serves the studio until Ctrl-C; prints its address.

    folder: a run, a model folder or a folder of runs. host: an address of this machine; any but the loopback one needs
    a token of 16 letters or more. token_file: a file whose first line is the token, which no list of processes then
    shows; without both, the environment variable GANVAS_TOKEN. port: 0 for any that is free. data: the training
    images, where a run's own are gone. no_copies: no image that copies a training image is downloaded, alone or
    in a ZIP file.
    Raises ConfigError when the port is in use, the host is not this machine's, or the token is missing.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "studio", "the studio") from None
    from ganvas.studio.api import app
    from ganvas.studio.connections import Patient
    from ganvas.studio.guard import is_loopback

    token = token or token_of(token_file)
    check_token(folder, host, token, is_loopback(host))
    listening = listen(host, port)
    with listening:
        application = app(
            Path(folder), data=data, device=device, token=token, hosts=frozenset({host.lower()}), no_copies=no_copies
        )
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
        config = uvicorn.Config(
            application,
            http=Patient,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=512,
            timeout_graceful_shutdown=3,
        )
        print(f"studio  {address}\nCtrl-C ends it", flush=True)
        if open_browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        with contextlib.suppress(KeyboardInterrupt):  # it may be raised again once all has been ended
            uvicorn.Server(config).run(sockets=[listening])
        print("the studio is closed", flush=True)


def token_of(file: str | Path | None) -> str | None:
    """The token of a file, else of GANVAS_TOKEN; None where there is neither. Raises ConfigError for an empty file."""
    if file is None:
        return os.environ.get("GANVAS_TOKEN") or None
    try:
        with Path(file).open(encoding="utf-8") as opened:
            token = opened.readline(1000).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be read ({error}): expected a text file of one line") from None
    if not token:
        raise ConfigError(f"--token-file {file} is empty: write a token of 16 or more letters and digits into it")
    return token


def check_token(folder: str | Path, host: str, token: str | None, loopback: bool) -> None:
    if token is None and not loopback:
        raise ConfigError(
            f"--host {host} lets others in: give a token, such as "
            f"`GANVAS_TOKEN={secrets.token_urlsafe(16)} ganvas studio {shlex.quote(str(folder))} --host {host}`"
        )
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError("the token: expected 16 or more letters and digits, such as " + secrets.token_urlsafe(16))


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address, before anything slow is loaded."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: expected 0 to 65535")
    # Named as TCP: only then asyncio sends small answers at once, not 40 ms later.
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, proto=socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, UnicodeError) as error:
        listening.close()
        other = port + 1 if port < 65535 else 0
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} is in use: is another studio open? Choose another one, such as --port {other}"
            ) from None
        if isinstance(error, OSError) and error.errno == errno.EACCES:
            raise ConfigError(f"port {port} is only for administrators: choose one above 1023") from None
        raise ConfigError(f"--host {host} is no address of this machine: leave it out, or give one that is") from None
    return listening
