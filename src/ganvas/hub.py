"""Models on the Hugging Face Hub: `pull` and `local` download them, `Hub.send` uploads files (see upload.py).

Only the files of a model are transferred: weights (safetensors), configuration, model card, edit directions. Downloaded
files are never executed or unpickled. A model on the Hub is named "hf://owner/name" or "hf://owner/name@revision";
other names are paths. `push` and `pull` also accept "owner/name".
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import urllib.parse
import warnings
from collections.abc import Generator as Yields
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganvas.errors import CheckpointError, ConfigError, GanvasError, MissingExtraError, amount
from ganvas.fields import takes
from ganvas.model_file import CARD, CONFIG, MOST_WEIGHT_BYTES, WEIGHTS, ModelInfo, find_weights, read_model
from ganvas.options import Pull
from ganvas.system import files

DIRECTIONS = "directions.json"
NAMES = (CONFIG, CARD, DIRECTIONS, WEIGHTS)
"""All files of a model, small files first."""
MOST_SMALL_BYTES = 20_000_000  # most bytes of a file other than the weights
_TIMEOUT = 20.0  # seconds per request
Contents = dict[str, bytes | Path]
"""Files by name: content, or path of the content."""
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
SCHEME = "hf://"
_NAME = re.compile(rf"(?P<scheme>{SCHEME})?(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[\w./-]+))?", re.ASCII)


# -- names --


@dataclass(frozen=True)
class Name:
    """A model on the Hub. revision: a branch, tag or commit; None for the latest."""

    repo: str
    revision: str | None = None


def hub_name(text: str | Path) -> Name | None:
    """Parse `text` as a name on the Hub, for `push` and `pull`; None for a path.

    "owner/name" is a path if it exists or the folder "owner" exists, so that a mistyped path causes no request.
    "hf://owner/name" is always a name.
    """
    match = _NAME.fullmatch(str(text).replace(os.sep, "/")) if isinstance(text, Path) else _NAME.fullmatch(text)
    if match is None or match["repo"].endswith(".git") or "--" in match["repo"] or ".." in match["repo"]:
        return None
    if not match["scheme"] and (Path(text).exists() or Path(match["repo"]).parent.exists()):
        return None
    return Name(match["repo"], match["revision"])


def local(path_or_repo: str | Path, *, endpoint: str | None = None, token: str | None = None) -> Path:
    """The folder of a model: the path itself, or the cached folder of "hf://owner/name" (see `pull`).

    Paths are not checked here. A mistyped path causes no request.
    """
    text = str(path_or_repo)
    if not text.startswith(SCHEME):
        if hub_name(path_or_repo) is not None:
            raise CheckpointError(f"{text} does not exist: give a path, or {SCHEME}{text} for a model on the Hub")
        return Path(path_or_repo)
    if hub_name(text) is None:
        raise ConfigError(f"{text} is not a name: expected {SCHEME}owner/name or {SCHEME}owner/name@revision")
    return pull(text, endpoint=endpoint, token=token)


# -- pull and send --


@takes(Pull)
def pull(asked: Pull) -> Path:
    """Download a model from the Hub into the cache and return its folder; cached files are not downloaded again.

    out: also copy the files into this folder, and return it.
    Without a network, the last downloaded model is used. Raises ConfigError for an invalid name, CheckpointError for
    files that are not a Ganvas model or have a wrong hash, GanvasError if the Hub cannot be reached or has no such
    model. After an error no files are kept.
    """
    repo = asked.repo
    name = hub_name(repo)
    if name is None:
        path = Path(repo)
        if not path.exists():
            raise ConfigError(f"{repo!r} is neither an existing folder nor a name such as owner/name")
        folder = find_weights(path).parent
        _checked(folder, repo)
    else:
        folder = Hub(name.repo, asked.endpoint, asked.token).fetch(asked.revision or name.revision)
    return folder if asked.out is None else copy_into(Path(asked.out), _contents_of(folder))


def send(name: str, folder: Path) -> str:
    """Upload a model folder to "hf://owner/name", which is created private if it does not exist; return its URL."""
    target = hub_name(name)
    if target is None or target.revision is not None:
        raise ConfigError(f"{name} is not a name for an upload: expected {SCHEME}owner/name")
    return Hub(target.repo, None, None).send(_contents_of(folder), public=False)


def cache(endpoint: str | None = None) -> Path:
    """Cache folder of downloaded models, one per server."""
    host = urllib.parse.urlsplit(endpoint).netloc if endpoint else "huggingface.co"
    return files.cache_dir() / "hub" / re.sub(r"[^A-Za-z0-9.-]", "_", host)


# -- files of a model --


def _contents_of(folder: Path) -> Contents:
    return {name: folder / name for name in NAMES if (folder / name).is_file()}


def copy_into(folder: Path, contents: Contents) -> Path:
    """Write a model folder, weights last. Raises ConfigError if the folder contains other files."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: expected a folder for the model")
    if folder.is_dir() and not (folder / WEIGHTS).is_file() and not _is_broken_off(folder, contents):
        raise ConfigError(f"{folder} contains other files and no model: choose a new or an empty folder")
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        content, target = contents.get(name), folder / name
        if isinstance(content, Path):
            if target.exists() and target.samefile(content):
                continue
            with content.open("rb") as opened:
                files.write_atomically(target, lambda file, opened=opened: shutil.copyfileobj(opened, file))
        elif content is not None:
            files.write_atomically(target, lambda file, content=content: file.write(content))
        else:
            with files.explained(target):
                target.unlink(missing_ok=True)  # directions of other weights, a card of another model
    return folder


def _is_broken_off(folder: Path, contents: Contents) -> bool:
    """Whether a folder without weights is empty or contains only an interrupted copy of the same files."""
    for path in folder.iterdir():
        content = contents.get(path.name)
        if path.name.startswith(".") and path.name.endswith(".tmp"):
            continue
        if content is None or path.is_dir() or path.stat().st_size > MOST_SMALL_BYTES:
            return False
        if path.read_bytes() != (content.read_bytes() if isinstance(content, Path) else content):
            return False
    return True


def _checked(folder: Path, repo: str) -> None:
    """Raise CheckpointError unless the folder contains a complete Ganvas model."""
    try:
        read_model(folder / WEIGHTS)
    except CheckpointError as error:
        raise CheckpointError(f"{repo} contains no usable model: {error}") from error


# -- the Hub --


class Hub:
    """One repository on the Hub, accessed with huggingface_hub."""

    def __init__(self, repo: str, endpoint: str | None, token: str | None) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import constants, errors
        except ImportError:
            purpose = f"{repo!r} (not an existing path, so a name on the Hugging Face Hub)"
            raise MissingExtraError("huggingface_hub", "hub", purpose) from None
        self.library, self.errors = huggingface_hub, errors
        self.repo = repo
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.token = token or huggingface_hub.get_token()
        self.api = huggingface_hub.HfApi(self.endpoint, token=self.token or False)
        self.cache = cache(self.endpoint)
        self.folder = self.cache / f"models--{repo.replace('/', '--')}"
        """Same layout as huggingface_hub: blobs/, snapshots/<commit>/, refs/<revision>."""

    def send(self, contents: Contents, public: bool) -> str:
        """Create the repository if necessary and upload the files in one commit; return its URL."""
        if self.token is None:
            raise ConfigError(
                f"pushing to {self.repo} needs an access token with write permission: run `hf auth login`, or set "
                "HF_TOKEN"
            )
        library = self.library
        with self.explained(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about cards written by others
            self.api.create_repo(self.repo, private=not public, exist_ok=True)
            there = {one.rfilename for one in self.api.model_info(self.repo, timeout=_TIMEOUT).siblings or []}
            if there - {CARD, ".gitattributes"} and WEIGHTS not in there:
                raise ConfigError(
                    f"{self.repo} contains other files and no Ganvas model: choose another name to avoid losing them"
                )
            operations: list[Any] = [
                library.CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
                for name, content in contents.items()
            ]
            # Delete files that belong to other weights.
            operations += [library.CommitOperationDelete(name) for name in NAMES if name in there - contents.keys()]
            self.api.create_commit(self.repo, operations, commit_message="Upload a Ganvas model")
        return f"{self.endpoint}/{self.repo}"

    def fetch(self, revision: str | None) -> Path:
        """Download and check the model; return its cached folder (see `pull`)."""
        if revision is not None and (not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision) or ".." in revision):
            raise ConfigError(f"revision {revision!r}: expected a branch, a tag or a commit such as main")
        try:
            with self.explained(revision):
                info = self.api.model_info(self.repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)
        except _Unreachable as error:
            if (folder := self.kept(revision)) is not None:
                return folder
            raise GanvasError(
                f"{error}, and {self.repo} is neither in the cache {self.cache} nor a path: connect to the network, "
                "or copy the model folder and give its path"
            ) from error
        listed = {one.rfilename: one for one in info.siblings or []}
        commit = str(info.sha)
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise GanvasError(
                f"{self.endpoint} returned the commit {commit[:50]!r}: expected a server with the protocol of the Hub"
            )
        if not {WEIGHTS, CONFIG} <= listed.keys():
            raise CheckpointError(
                f"{self.repo} is not a Ganvas model: expected {WEIGHTS} and {CONFIG} among its "
                f"{amount(len(listed), 'file')}; other files are never loaded"
            )
        fetched = []
        try:
            for name in NAMES:
                if name in listed:
                    fetched.append(self.file(name, commit, listed[name]))
            folder = fetched[0].parent
            _checked(folder, self.repo)
        except CheckpointError:
            for path in fetched:
                _forget(path)
            raise
        note = self.note(revision)
        with files.explained(note):
            note.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(note, folder.name)
        return folder

    def file(self, name: str, commit: str, listed: Any) -> Path:
        """Download one file into the cache and check its size and hash, and the configuration."""
        most = MOST_WEIGHT_BYTES if name == WEIGHTS else MOST_SMALL_BYTES
        if (listed.size or 0) > most:
            raise CheckpointError(
                f"{self.repo} is not a Ganvas model: {name} has {listed.size:,} bytes, expected at most {most:,}"
            )
        path = self.folder / "snapshots" / commit / name
        if not path.is_file():  # cached files were checked after the download
            with files.explained(self.cache), self.explained():
                fetched = self.library.hf_hub_download(
                    self.repo,
                    name,
                    revision=commit,
                    cache_dir=self.cache,
                    endpoint=self.endpoint,
                    token=self.token or False,
                )
            path = Path(fetched)
            if not _has_hash(path, listed):
                _forget(path)
                raise CheckpointError(
                    f"{self.repo}: the hash of {name} does not match that on the Hub; the file was deleted: pull again"
                )
        if name == CONFIG:
            try:
                ModelInfo.from_json(path.read_text(encoding="utf-8"), Path(name))
            except (GanvasError, ValueError) as error:
                _forget(path)
                raise CheckpointError(f"{self.repo} is not a Ganvas model that this version reads: {error}") from None
        return path

    def note(self, revision: str | None) -> Path:
        """The file that stores the commit of a revision."""
        return self.folder / "refs" / (revision or "main")

    def kept(self, revision: str | None) -> Path | None:
        """The folder of the last download of this revision; None if there is none."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: damaged text
            note = self.note(revision)
            commit = note.read_text(encoding="utf-8") if note.is_file() else str(revision)
            snapshot = self.folder / "snapshots" / commit
            if (snapshot / WEIGHTS).is_file() and (snapshot / CONFIG).is_file():
                return snapshot
        return None

    @contextlib.contextmanager
    def explained(self, revision: str | None = None) -> Yields[None]:
        """Convert errors of the Hub or the network to a GanvasError with one sentence."""
        errors = self.errors
        # The HTTP client of the library has changed over time; its error class is a base of HfHubHTTPError.
        client: Any = errors.HfHubHTTPError.__bases__[0]
        try:
            yield
        except GanvasError:
            raise
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
            if isinstance(error.__cause__, errors.HfHubHTTPError):  # the server answered, but without the file
                raise self.answered(error.__cause__) from error
            raise _Unreachable(self.out_of_reach(error)) from error
        except errors.GatedRepoError as error:
            raise GanvasError(f"{self.repo} is gated: ask for access at {self.endpoint}/{self.repo}") from error
        except errors.RepositoryNotFoundError as error:
            raise GanvasError(
                f"{self.repo} does not exist at {self.endpoint}, or your token may not read it, and it is not a path: "
                "check the name, or run `hf auth login`"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise GanvasError(f"{self.repo} has no revision {revision!r}: give a branch, a tag or a commit") from error
        except errors.HfHubHTTPError as error:
            raise self.answered(error) from error
        except OSError as error:
            if error.errno is not None:  # an error of the disk
                raise
            raise _Unreachable(self.out_of_reach(error)) from error
        except client as error:
            raise _Unreachable(self.out_of_reach(error)) from error
        except (ValueError, RuntimeError) as error:
            raise GanvasError(f"huggingface_hub failed with {self.endpoint}: {_in_line(error)}") from error

    def out_of_reach(self, error: Exception) -> str:
        return f"{self.endpoint} cannot be reached ({_in_line(error)})"

    def answered(self, error: Any) -> GanvasError:
        status = error.response.status_code
        if status in (401, 403):
            return GanvasError(
                f"{self.endpoint} refused the access token for {self.repo} ({status}): run `hf auth login` with a "
                "token that has permission"
            )
        if status >= 500 or status == 429:
            return _Unreachable(f"{self.endpoint} is overloaded or out of service ({status})")
        return GanvasError(f"{self.endpoint} refused {self.repo} ({_in_line(error.server_message or error)})")


class _Unreachable(GanvasError):
    """The Hub does not answer; the cache is used if possible."""


def _in_line(error: object) -> str:
    """The beginning of an error message, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:160].rstrip(" .:")


def _has_hash(path: Path, listed: Any) -> bool:
    """Whether a file has the hash listed by the Hub: SHA-256 for large files, the git hash for small files."""
    if listed.lfs is not None:
        return files.sha256(path) == listed.lfs.sha256
    if listed.blob_id is None:
        return True
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == listed.blob_id


def _forget(path: Path) -> None:
    """Delete a file from the cache, with the content that it links to."""
    content = path.resolve()
    for one in (path, content):
        with contextlib.suppress(OSError):
            one.unlink()
