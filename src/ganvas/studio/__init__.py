"""The studio: a browser page to explore a model, save favourite images and follow training runs."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shlex
import signal
import socket
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from ganvas.errors import ConfigError, MissingExtraError
from ganvas.fields import takes
from ganvas.options import Studio


@takes(Studio)
def serve(asked: Studio) -> None:
    """Serve the studio until Ctrl-C; print its address. A training that was started from the page is then stopped as by
    Ctrl-C: its state and model are saved, and it can be resumed.

    no_copies: also in ZIP files.
    Raises ConfigError if the port is in use, the host is not an address of this machine, or the token is missing.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "studio", "the studio") from None
    from ganvas.studio.access import is_loopback
    from ganvas.studio.api import app
    from ganvas.studio.connections import Patient

    host, token = asked.host, asked.token or token_of(asked.token_file)
    own = is_loopback(host)
    train = own if asked.train is None else asked.train
    if train and own and token is None:  # else every user of this machine could start trainings as this user
        token = secrets.token_urlsafe(16)
    _check_token(asked.folder, host, token, own)
    listening = listen(host, asked.port)
    with listening:
        application = app(
            Path(asked.folder),
            data=asked.data,
            device=asked.device,
            token=token,
            hosts=frozenset({host.lower()}),
            no_copies=asked.no_copies,
            train=train,
            images=_image_folders(asked.images, own) if train else (),
            say=(lambda _: None) if asked.quiet else print,
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
        listening.listen()  # who opens the printed address at once waits until the server is ready
        if not asked.quiet:
            print(f"studio  {address}\nPress Ctrl-C to stop", flush=True)
        if asked.browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        _end_with_the_terminal()
        with contextlib.suppress(KeyboardInterrupt):  # may be raised again after the shutdown
            uvicorn.Server(config).run(sockets=[listening])
        if not asked.quiet:
            print("the studio is closed", flush=True)


def _image_folders(given: Sequence[str], own: bool) -> list[Path]:
    """The folders from which images may be read. own: whether the page is for this machine only."""
    if given or not own:
        return [Path(one).expanduser() for one in given]
    folders = [Path.cwd()]
    with contextlib.suppress(RuntimeError):  # no home folder
        if (home := Path.home()).is_dir():
            folders.insert(0, home)
    return folders


def token_of(file: str | Path | None) -> str | None:
    """The token from a file, otherwise from GANVAS_TOKEN, otherwise None. Raises ConfigError for an empty file."""
    if file is None:
        return os.environ.get("GANVAS_TOKEN") or None
    try:
        with Path(file).open(encoding="utf-8") as opened:
            token = opened.readline(1000).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be read ({error}): expected a text file with one line") from None
    if not token:
        raise ConfigError(f"--token-file {file} is empty: write a token of 16 or more letters and digits into it")
    return token


def _check_token(folder: str | Path, host: str, token: str | None, loopback: bool) -> None:
    if token is None and not loopback:
        raise ConfigError(
            f"--host {host} allows access from other machines: set a token, such as "
            f"`GANVAS_TOKEN={secrets.token_urlsafe(16)} ganvas studio {shlex.quote(str(folder))} --host {host}`"
        )
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError("token: expected 16 or more letters and digits, such as " + secrets.token_urlsafe(16))


def _end_with_the_terminal() -> None:
    """End the studio as Ctrl-C does if its terminal is closed, unless that is ignored, as with `nohup`."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(hangup) is signal.SIG_DFL:
        signal.signal(hangup, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; called before slow imports."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: expected 0 to 65535")
    # With IPPROTO_TCP, asyncio sends small answers immediately instead of after 40 ms.
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, proto=socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, UnicodeError) as error:
        listening.close()
        other = port + 1 if port < 65535 else 0
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} is in use (possibly by another studio): choose another port, such as --port {other}"
            ) from None
        if isinstance(error, OSError) and error.errno == errno.EACCES:
            raise ConfigError(f"port {port} needs administrator rights: choose a port above 1023") from None
        raise ConfigError(f"--host {host} is not an address of this machine: omit it, or use such an address") from None
    return listening
