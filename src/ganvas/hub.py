"""Models on the Hugging Face hub, or in a folder that stands for it: `push`, `pull`, and `local` for whoever loads one.

A model is at most four files, and no others are sent or fetched: the weights (safetensors), their configuration, the
card, and the directions that were found for them. Nothing that is fetched is ever run or unpickled. A name on the hub
is "hf://owner/name", with "@revision" behind it where a certain one is meant; all else is a path. `push` and `pull`,
which are about the hub, also take "owner/name".
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import urllib.parse
import warnings
from collections.abc import Generator as Yields
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganvas import files
from ganvas.errors import CheckpointError, ConfigError, GanvasError, MissingExtraError
from ganvas.generator import LARGEST, WEIGHTS, Generator, ModelInfo, find_weights
from ganvas.training.card import card, facts_of, run_of

CONFIG, CARD, DIRECTIONS = "config.json", "README.md", "directions.json"
NAMES = (CONFIG, CARD, DIRECTIONS, WEIGHTS)
"""All files of a model, the small ones first."""
SMALL = 20_000_000  # bytes that a file besides the weights may have
TIMEOUT = 20.0  # seconds for one answer of the hub
Contents = dict[str, bytes | Path]
"""Files by name: their content, or where it lies."""
PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
SCHEME = "hf://"
NAME = re.compile(rf"(?P<scheme>{SCHEME})?(?P<repo>{PART}/{PART})(?:@(?P<revision>[\w./-]+))?", re.ASCII)


# -- names --


@dataclass(frozen=True)
class Name:
    """A model on the hub. revision: a branch, tag or commit; None for the newest."""

    repo: str
    revision: str | None = None


def hub_name(text: str | Path) -> Name | None:
    """The name on the hub that `text` is for `push` and `pull`, or None for a path.

    "owner/name" is a path where it exists, and also where the folder "owner" does: a mistake in a path asks no server.
    "hf://owner/name" always is a name.
    """
    found = NAME.fullmatch(str(text).replace(os.sep, "/")) if isinstance(text, Path) else NAME.fullmatch(text)
    if found is None or found["repo"].endswith(".git") or "--" in found["repo"] or ".." in found["repo"]:
        return None
    if not found["scheme"] and (Path(text).exists() or Path(found["repo"]).parent.exists()):
        return None
    return Name(found["repo"], found["revision"])


def local(path_or_repo: str | Path, *, endpoint: str | None = None, token: str | None = None) -> Path:
    """Where the files of a model lie: the path itself, or the cached folder of "hf://owner/name" (see `pull`).

    A path is left to whoever loads it, who says what is wrong with it: no server is asked about a mistyped path.
    """
    text = str(path_or_repo)
    if not text.startswith(SCHEME):
        if hub_name(path_or_repo) is not None:
            raise CheckpointError(f"{text} does not exist: give a path, or {SCHEME}{text} for a model on the hub")
        return Path(path_or_repo)
    if hub_name(text) is None:
        raise ConfigError(f"{text} is no name on the hub: expected {SCHEME}owner/name or {SCHEME}owner/name@revision")
    return pull(text, endpoint=endpoint, token=token)


# -- there and back --


def push(
    source: str | Path,
    repo: str,
    *,
    private: bool = True,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Sends a model to the hub, or into a folder; returns its address.

    source: a run or a model folder; a run's card is written anew, with its last evaluation.
    repo: "owner/name", made if it is not there yet (`private` says how; one that exists stays so), or a folder's path.
    endpoint: another server of the same protocol; default: HF_ENDPOINT, else huggingface.co.
    token: with the right to write; default: HF_TOKEN, or the one that `hf auth login` kept.
    Raises CheckpointError for what is no whole model, ConfigError for a bad name or without a token, GanvasError where
    the hub refuses or cannot be reached. The hub shows all of the files, or those from before.
    """
    name = hub_name(repo)
    contents = model_files(find_weights(Path(source)), name)
    if name is None:
        return str(copy_into(Path(repo), contents))
    if name.revision is not None:
        raise ConfigError(f"{repo}: a model is pushed to a repository's main branch, without @{name.revision}")
    hub = Hub(name.repo, endpoint, token)
    if hub.token is None:
        raise ConfigError(
            f"pushing to {name.repo} needs an access token that may write: run `hf auth login`, or set HF_TOKEN"
        )
    return hub.send(contents, private)


def pull(
    repo: str,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    out: str | Path | None = None,
) -> Path:
    """Fetches a model from the hub into the cache and returns its folder; what is there already is not fetched again.

    repo: "owner/name", or the path of a folder that stands for one. revision: a branch, tag or commit.
    out: also copy the files into this folder, and return it.
    Without a network, the model that was last fetched. Raises ConfigError for a bad name, CheckpointError for what is
    not Ganvas's or does not have the hash that it should, GanvasError where the hub cannot be reached or has no such
    model; nothing of it is then kept.
    """
    name = hub_name(repo)
    if name is None:
        path = Path(repo)
        if not path.exists():
            raise ConfigError(f"{repo!r} is neither a folder that exists nor a name such as owner/name")
        folder = find_weights(path).parent
        checked(folder, repo)
    else:
        folder = Hub(name.repo, endpoint, token).fetch(revision or name.revision)
    return folder if out is None else copy_into(Path(out), contents_of(folder))


def cache(endpoint: str | None = None) -> Path:
    """Where fetched models are kept: in Ganvas's cache, apart by server."""
    host = urllib.parse.urlsplit(endpoint).netloc if endpoint else "huggingface.co"
    return files.cache_dir() / "hub" / re.sub(r"[^A-Za-z0-9.-]", "_", host)


# -- files of a model --


def model_files(weights: Path, name: Name | None) -> Contents:
    """What is sent: the files beside the weights, and a card where there is none or a run can tell more."""
    generator = Generator.load(weights, "cpu")  # whole, and ours
    folder = weights.parent
    contents: Contents = {WEIGHTS: weights}
    contents[CONFIG] = json_of(generator.info)
    if run_of(weights) is not None or not (folder / CARD).is_file():
        contents[CARD] = card(facts_of(weights, generator), name.repo if name else None).encode()
    else:
        contents[CARD] = folder / CARD
    if (folder / DIRECTIONS).is_file():
        contents[DIRECTIONS] = folder / DIRECTIONS
    return contents


def json_of(info: ModelInfo) -> bytes:
    """config.json as `Generator.save` writes it."""
    return (json.dumps(dataclasses.asdict(info), indent=2, ensure_ascii=False) + "\n").encode()


def contents_of(folder: Path) -> Contents:
    return {name: folder / name for name in NAMES if (folder / name).is_file()}


def copy_into(folder: Path, contents: Contents) -> Path:
    """Writes a model folder, the weights last; refuses a folder that holds anything but a model."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: expected a folder for the model")
    if folder.is_dir() and not (folder / WEIGHTS).is_file() and not is_broken_off(folder, contents):
        raise ConfigError(f"{folder} holds other files and no model: choose a new or an empty folder")
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


def is_broken_off(folder: Path, contents: Contents) -> bool:
    """Whether a folder without weights holds nothing but the beginning of a copy of these very files, or nothing."""
    for path in folder.iterdir():
        content = contents.get(path.name)
        if path.name.startswith(".") and path.name.endswith(".tmp"):
            continue
        if content is None or path.is_dir() or path.stat().st_size > SMALL:
            return False
        if path.read_bytes() != (content.read_bytes() if isinstance(content, Path) else content):
            return False
    return True


def checked(folder: Path, repo: str) -> None:
    """Raises CheckpointError unless the folder holds a whole model of Ganvas."""
    try:
        Generator.load(folder / WEIGHTS, "cpu")
    except CheckpointError as error:
        raise CheckpointError(f"{repo} holds no model that can be used: {error}") from error


# -- the hub --


class Hub:
    """One repository of a hub, spoken to through huggingface_hub."""

    def __init__(self, repo: str, endpoint: str | None, token: str | None) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import constants, errors
        except ImportError:
            purpose = f"{repo!r}, which is no path that exists and so a name on the Hugging Face hub,"
            raise MissingExtraError("huggingface_hub", "hub", purpose) from None
        self.library, self.errors = huggingface_hub, errors
        self.repo = repo
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.token = token or huggingface_hub.get_token()
        self.api = huggingface_hub.HfApi(self.endpoint, token=self.token or False)
        self.cache = cache(self.endpoint)
        self.folder = self.cache / f"models--{repo.replace('/', '--')}"
        """Laid out as huggingface_hub does: blobs/, snapshots/<commit>/, refs/<revision>."""

    def send(self, contents: Contents, private: bool) -> str:
        """Makes the repository if need be and sends the files in one commit; returns its address."""
        library = self.library
        with self.explained(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice of the hub about cards that others wrote
            self.api.create_repo(self.repo, private=private, exist_ok=True)
            there = {one.rfilename for one in self.api.model_info(self.repo, timeout=TIMEOUT).siblings or []}
            if there - {CARD, ".gitattributes"} and WEIGHTS not in there:
                raise ConfigError(
                    f"{self.repo} holds other files, no model of Ganvas, and they might be lost: choose another name"
                )
            operations: list[Any] = [
                library.CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
                for name, content in contents.items()
            ]
            # What belongs to other weights goes.
            operations += [library.CommitOperationDelete(name) for name in NAMES if name in there - contents.keys()]
            self.api.create_commit(self.repo, operations, commit_message="Upload a Ganvas model")
        return f"{self.endpoint}/{self.repo}"

    def fetch(self, revision: str | None) -> Path:
        """The cached folder of the model, checked; see `pull`."""
        if revision is not None and (not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision) or ".." in revision):
            raise ConfigError(f"revision {revision!r}: expected a branch, a tag or a commit such as main")
        try:
            with self.explained(revision):
                info = self.api.model_info(self.repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
        except Unreachable as error:
            if (folder := self.kept(revision)) is not None:
                return folder
            raise GanvasError(
                f"{error}, {self.repo} was not fetched before into {self.cache}, and it is no path here: connect once, "
                "or copy the model folder and give its path"
            ) from error
        listed = {one.rfilename: one for one in info.siblings or []}
        commit = str(info.sha)
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise GanvasError(
                f"{self.endpoint} names the commit {commit[:50]!r}: expected a server of the hub's protocol"
            )
        if not {WEIGHTS, CONFIG} <= listed.keys():
            raise CheckpointError(
                f"{self.repo} is no model of Ganvas: expected {WEIGHTS} and {CONFIG} among its {len(listed)} files; "
                "others are never loaded"
            )
        fetched = []
        try:
            for name in NAMES:
                if name in listed:
                    fetched.append(self.file(name, commit, listed[name]))
            folder = fetched[0].parent
            checked(folder, self.repo)
        except CheckpointError:
            for path in fetched:
                forget(path)
            raise
        note = self.note(revision)
        with files.explained(note):
            note.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(note, folder.name)
        return folder

    def file(self, name: str, commit: str, listed: Any) -> Path:
        """One file in the cache, with the hash that the hub's list says; the configuration is one of ours."""
        most = LARGEST if name == WEIGHTS else SMALL
        if (listed.size or 0) > most:
            raise CheckpointError(
                f"{self.repo} is no model of Ganvas: its {name} has {listed.size:,} bytes, expected at most {most:,}"
            )
        path = self.folder / "snapshots" / commit / name
        if not path.is_file():  # what is there was held to its hash when it came
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
            if not has_hash(path, listed):
                forget(path)
                raise CheckpointError(
                    f"{self.repo}: {name} has another hash than the hub says, and was deleted: pull again"
                )
        if name == CONFIG:
            try:
                ModelInfo.from_json(path.read_text(encoding="utf-8"), Path(name))
            except (GanvasError, ValueError) as error:
                forget(path)
                raise CheckpointError(f"{self.repo} is no model of Ganvas that this version reads: {error}") from None
        return path

    def note(self, revision: str | None) -> Path:
        """The file that remembers which commit a revision was."""
        return self.folder / "refs" / (revision or "main")

    def kept(self, revision: str | None) -> Path | None:
        """The folder that was last fetched of this revision."""
        with contextlib.suppress(OSError):
            note = self.note(revision)
            commit = note.read_text(encoding="utf-8") if note.is_file() else str(revision)
            found = self.folder / "snapshots" / commit
            if (found / WEIGHTS).is_file() and (found / CONFIG).is_file():
                return found
        return None

    @contextlib.contextmanager
    def explained(self, revision: str | None = None) -> Yields[None]:
        """Turns what the hub or the network answers into one sentence."""
        errors = self.errors
        # The library's HTTP client has changed over time: its errors are known by what the hub's own inherits from.
        client: Any = errors.HfHubHTTPError.__bases__[0]
        try:
            yield
        except GanvasError:
            raise
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
            if isinstance(error.__cause__, errors.HfHubHTTPError):  # there was an answer, and no file
                raise self.answered(error.__cause__) from error
            raise Unreachable(self.out_of_reach(error)) from error
        except errors.GatedRepoError as error:
            raise GanvasError(f"{self.repo} is gated: ask for access at {self.endpoint}/{self.repo}") from error
        except errors.RepositoryNotFoundError as error:
            raise GanvasError(
                f"{self.repo} does not exist at {self.endpoint}, or your token may not read it, and it is no path "
                "here: check the name, or run `hf auth login`"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise GanvasError(f"{self.repo} has no revision {revision!r}: give a branch, a tag or a commit") from error
        except errors.HfHubHTTPError as error:
            raise self.answered(error) from error
        except OSError as error:
            if error.errno is not None:  # the disk
                raise
            raise Unreachable(self.out_of_reach(error)) from error
        except client as error:
            raise Unreachable(self.out_of_reach(error)) from error
        except (ValueError, RuntimeError) as error:
            raise GanvasError(f"{self.endpoint} and huggingface_hub did not get on: {in_line(error)}") from error

    def out_of_reach(self, error: Exception) -> str:
        return f"{self.endpoint} cannot be reached ({in_line(error)})"

    def answered(self, error: Any) -> GanvasError:
        status = error.response.status_code
        if status in (401, 403):
            return GanvasError(
                f"{self.endpoint} refuses the access token for {self.repo} ({status}): run `hf auth login` with one "
                "that has the right"
            )
        if status >= 500 or status == 429:
            return Unreachable(f"{self.endpoint} is too busy or out of order ({status})")
        return GanvasError(f"{self.endpoint} refuses {self.repo} ({in_line(error.server_message or error)})")


class Unreachable(GanvasError):
    """The hub does not answer; what is in the cache may serve."""


def in_line(error: object) -> str:
    """The beginning of another library's message, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:160].rstrip(" .:")


def has_hash(path: Path, listed: Any) -> bool:
    """Whether a file is the one that the hub's list tells: SHA-256 of a large file, git's hash of a small one."""
    if listed.lfs is not None:
        return files.sha256(path) == listed.lfs.sha256
    if listed.blob_id is None:
        return True
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == listed.blob_id


def forget(path: Path) -> None:
    """Takes a file out of the cache, with the content that it points to."""
    content = path.resolve()
    for one in (path, content):
        with contextlib.suppress(OSError):
            one.unlink()
