"""Models on a hub: the four files there and back, refusals in one sentence, nothing run; against a stand-in server.

The server speaks the part of the hub's protocol that huggingface_hub uses for a model: make a repository, check a card,
ask how to send, send a large file, commit, list, resolve. It is on this machine: no test asks a network.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import pickle
import shutil
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import ganvas
from ganvas import hub
from ganvas.errors import CheckpointError, ConfigError, GanvasError, MissingExtraError
from ganvas.generator import Generator
from ganvas.model_file import WEIGHTS
from ganvas.share import upload
from ganvas.system import files

pytest.importorskip("huggingface_hub", reason="needs the extra `hub`")

REPO = "someone/bars"
WRITER = "hf_writer"
FOUR = {"README.md", "config.json", "generator.safetensors", "directions.json"}


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """All files after each commit."""

    @property
    def files(self) -> dict[str, bytes]:
        return list(self.commits.values())[-1] if self.commits else {}

    def commit(self, files: dict[str, bytes]) -> str:
        key = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[key] = files
        return key

    def at(self, revision: str) -> str | None:
        """The commit of a revision."""
        if revision == "main":
            return list(self.commits)[-1]
        return revision if revision in self.commits else None


class Hub(ThreadingHTTPServer):
    """The stand-in. damage: files whose content is changed on the way; down: answers 503 to everything.

    closed: hands out no file.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.unknown: list[str] = []
        self.damage: dict[str, bytes] = {}
        self.down = self.closed = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def create(self, repo: str, files: dict[str, bytes], private: bool = False) -> None:
        self.repositories[repo] = Repository(private)
        self.repositories[repo].commit(files)

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [path.rpartition("/")[2] for method, path in self.requests if method == "GET" and "/resolve/" in path]


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".pt"))


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_one()

    do_HEAD = do_POST = do_PUT = do_GET

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        if self.server.down:
            return self.say(503, {"error": "down"})
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in (WRITER, "hf_reader"):
            return self.say(401, {"error": "Invalid username or password."},
                            {"X-Error-Message": "Invalid credentials in Authorization header"})  # fmt: skip
        match path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                return self.create(json.loads(body), token)
            case ["api", "validate-yaml"]:
                return self.validate(json.loads(body)["content"])
            case ["api", "models", owner, name, *rest]:
                repository = self.found(f"{owner}/{name}", token)
                if repository is not None:
                    self.api(repository, f"{owner}/{name}", rest, body, token)
                return None
            case [owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                return self.batch(json.loads(body))
            case ["large", oid]:
                assert hashlib.sha256(body).hexdigest() == oid
                self.server.large[oid] = body
                return self.say(200, {})
            case [_, _, "resolve", _, _] if self.server.closed:
                return self.say(403, {"error": "no right"}, {"X-Error-Message": "no right to read files"})
            case [owner, name, "resolve", revision, file]:
                repository = self.found(f"{owner}/{name}", token)
                if repository is not None:
                    self.resolve(repository, revision, file)
                return None
        self.server.unknown.append(f"{self.command} {path}")
        return self.say(404, {"error": "unknown"})

    def found(self, repo: str, token: str) -> Repository | None:
        repository = self.server.repositories.get(repo)
        if repository is None or (repository.private and not token):
            # As the hub does: who may not see it shall not learn whether it is there.
            self.say(404 if token else 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repository

    def create(self, wish: dict[str, Any], token: str) -> None:
        repo = f"{wish['organization']}/{wish['name']}"
        if token != WRITER:
            return self.say(403 if token else 401, {"error": "no right"}, {"X-Error-Message": "no right to write"})
        if repo in self.server.repositories:
            return self.say(409, {"error": "You already created this model repo", "url": f"{self.server.url}/{repo}"})
        private = wish.get("private") or wish.get("visibility") == "private"
        self.server.create(repo, {".gitattributes": b"*.safetensors filter=lfs\n"}, bool(private))
        return self.say(200, {"url": f"{self.server.url}/{repo}"})

    def validate(self, content: str) -> None:
        yaml = pytest.importorskip("yaml")
        front = yaml.safe_load(content.split("---\n")[1])
        errors = [] if front.get("license") else [{"message": '"license" is required'}]
        self.say(400 if errors else 200, {"errors": errors, "warnings": []})

    def api(self, repository: Repository, repo: str, rest: list[str], body: bytes, token: str) -> None:
        match rest:
            case [] | ["revision", _]:
                commit = repository.at(rest[1] if rest else "main")
                if commit is None:
                    return self.say(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
                return self.say(
                    200,
                    {
                        "id": repo,
                        "sha": commit,
                        "private": repository.private,
                        "siblings": [self.listed(*one) for one in repository.commits[commit].items()],
                    },
                )
            case ["preupload", "main"]:
                files = json.loads(body)["files"]
                return self.say(200, {"files": [
                    {"path": one["path"], "uploadMode": "lfs" if is_large(one["path"]) else "regular",
                     "shouldIgnore": False, "oid": None} for one in files]})  # fmt: skip
            case ["commit", "main"]:
                if token != WRITER:
                    return self.say(403, {"error": "no right"}, {"X-Error-Message": "no right to write"})
                files = dict(repository.files)
                for line in body.decode().splitlines():
                    entry = json.loads(line)
                    value = entry["value"]
                    if entry["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif entry["key"] == "lfsFile":
                        files[value["path"]] = self.server.large[value["oid"]]
                    elif entry["key"] == "deletedFile":
                        del files[value["path"]]
                key = repository.commit(files)
                return self.say(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{key}", "commitOid": key})
        self.server.unknown.append(f"{self.command} {self.path}")
        return self.say(404, {"error": "unknown"})

    def listed(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
        if is_large(name):
            entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def batch(self, wish: dict[str, Any]) -> None:
        self.say(200, {"transfer": "basic", "objects": [
            one | ({} if one["oid"] in self.server.large
                   else {"actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}})
            for one in wish["objects"]]}, {"Content-Type": "application/vnd.git-lfs+json"})  # fmt: skip

    def resolve(self, repository: Repository, revision: str, name: str) -> None:
        commit = repository.at(revision)
        if commit is None or name not in repository.commits[commit]:
            code = "RevisionNotFound" if commit is None else "EntryNotFound"
            return self.say(404, {"error": "no such file"}, {"X-Error-Code": code, "X-Repo-Commit": commit or ""})
        content = repository.commits[commit][name]
        etag = hashlib.sha256(content).hexdigest() if is_large(name) else git_hash(content)
        content = self.server.damage.get(name, content)
        self.send_response(200)
        for key, value in {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Content-Length": len(content)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        return None

    def say(self, status: int, values: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A running stand-in; this test has a cache and a home of its own, and no token but what it gives."""
    from huggingface_hub import constants

    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    # The hub's own large-file store has another protocol, which is not stood in for.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.chdir(tmp_path)
    hub_server = Hub()
    thread = threading.Thread(target=hub_server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield hub_server
    hub_server.shutdown()
    hub_server.server_close()
    thread.join()
    assert hub_server.unknown == []  # the stand-in knows all that was asked


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A model folder with directions, without its run."""
    folder = tmp_path / "here"
    shutil.copytree(trained / "model", folder)
    (folder / "directions.json").write_text('{"ganvas": "directions"}')
    (folder / "notes.txt").write_text("not part of the model")
    (folder / "optimizer.pt").write_bytes(b"nor this")
    return folder


def one_sentence(error: pytest.ExceptionInfo[GanvasError]) -> str:
    text = str(error.value)
    assert "\n" not in text and 20 < len(text) < 500 and not text.endswith(".")
    return text


# -- there and back --


def test_a_model_comes_back_as_it_went(server: Hub, model: Path) -> None:
    address = ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    assert address == f"{server.url}/{REPO}"
    assert server.repositories[REPO].private
    assert server.repositories[REPO].files.keys() == FOUR | {".gitattributes"}
    folder = hub.pull(REPO, endpoint=server.url, token=WRITER)
    assert {path.name for path in folder.iterdir()} == FOUR
    for name in FOUR:
        assert (folder / name).read_bytes() == (model / name).read_bytes()
    here, there = Generator.load(model, "cpu"), Generator.load(folder, "cpu")
    assert here.hash == there.hash and torch.equal(here.sample(3), there.sample(3))


def test_a_run_goes_with_a_card_of_now(server: Hub, trained: Path) -> None:
    ganvas.push(trained, REPO, endpoint=server.url, token=WRITER, public=True)
    sent = server.repositories[REPO]
    assert not sent.private and sent.files.keys() == FOUR - {"directions.json"} | {".gitattributes"}
    assert f"ganvas sample hf://{REPO} " in sent.files["README.md"].decode()
    assert str(trained) not in sent.files["README.md"].decode()


def test_the_python_of_the_card_works(server: Hub, trained: Path) -> None:
    ganvas.push(trained, REPO, endpoint=server.url, token=WRITER, public=True)
    code = server.repositories[REPO].files["README.md"].decode().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace(f'"hf://{REPO}"', f'"hf://{REPO}", endpoint="{server.url}"'), names)
    assert torch.equal(names["images"], Generator.load(trained, "cpu").sample(16))


def test_pushing_again_is_one_more_commit_and_takes_old_directions_away(server: Hub, model: Path) -> None:
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    (model / "directions.json").unlink()
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    repository = server.repositories[REPO]
    assert repository.files.keys() == FOUR - {"directions.json"} | {".gitattributes"}
    assert len(repository.commits) == 3


def test_pulling_again_asks_for_no_content(server: Hub, model: Path) -> None:
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    first = hub.pull(REPO, endpoint=server.url, token="hf_reader")
    assert sorted(server.fetched()) == sorted(FOUR)
    server.requests.clear()
    assert hub.pull(REPO, endpoint=server.url, token="hf_reader") == first
    assert server.fetched() == []


def test_directions_that_were_found_here_stay(server: Hub, model: Path) -> None:
    """`ganvas directions hf://owner/name` writes beside the fetched model."""
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    folder = hub.pull(REPO, endpoint=server.url, token=WRITER)
    files.write_text(folder / "directions.json", "found here")
    assert hub.pull(REPO, endpoint=server.url, token=WRITER) == folder
    assert (folder / "directions.json").read_text() == "found here"


def test_an_older_commit_can_be_pulled(server: Hub, model: Path) -> None:
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    old = list(server.repositories[REPO].commits)[-1]
    (model / "README.md").write_text("---\nlicense: mit\n---\n# Another card\n")
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    new = hub.pull(REPO, endpoint=server.url, token=WRITER)
    assert "Another card" in (new / "README.md").read_text()
    folder = hub.local(f"hf://{REPO}@{old}", endpoint=server.url, token=WRITER)
    assert folder.name == old and "Another card" not in (folder / "README.md").read_text()


def test_out_holds_plain_files(server: Hub, model: Path, tmp_path: Path) -> None:
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    out = hub.pull(REPO, endpoint=server.url, token=WRITER, out=tmp_path / "out" / "model")
    assert {path.name for path in out.iterdir()} == FOUR
    assert not any(path.is_symlink() for path in out.iterdir())


# -- nothing but a model, and nothing is run --


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def test_other_files_are_neither_fetched_nor_run(server: Hub, model: Path) -> None:
    others = {"pytorch_model.bin": pickle.dumps(Bomb()), "evil.py": b"open('exploded', 'w')", "../escape": b"x"}
    own = {name: (model / name).read_bytes() for name in FOUR}
    server.create(REPO, own | others)
    folder = hub.pull(REPO, endpoint=server.url)
    assert sorted(server.fetched()) == sorted(FOUR)
    assert {path.name for path in folder.iterdir()} == FOUR
    assert not Path("exploded").exists()


def test_what_is_no_model_of_ganvas_is_refused(server: Hub, model: Path) -> None:
    server.create("a/bert", {"config.json": b"{}", "pytorch_model.bin": pickle.dumps(Bomb())})
    with pytest.raises(CheckpointError) as error:
        hub.pull("a/bert", endpoint=server.url)
    assert "a/bert is not a Ganvas model" in one_sentence(error) and server.fetched() == []
    server.create("a/other", {"config.json": b'{"model_type": "bert"}', WEIGHTS: b"0" * 2_000})
    with pytest.raises(CheckpointError) as error:
        hub.pull("a/other", endpoint=server.url)
    assert "a/other is not a Ganvas model" in one_sentence(error)
    assert server.fetched() == ["config.json"]  # the large file was not asked for
    pickled = {"config.json": (model / "config.json").read_bytes(), WEIGHTS: pickle.dumps(Bomb())}
    server.create("a/pickle", pickled)
    with pytest.raises(CheckpointError) as error:
        hub.pull("a/pickle", endpoint=server.url)
    assert "pickle" in one_sentence(error) and not Path("exploded").exists()


def test_a_file_that_was_changed_on_the_way_is_refused_and_not_kept(server: Hub, model: Path) -> None:
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    whole = (model / WEIGHTS).read_bytes()
    server.damage[WEIGHTS] = whole[:-1] + bytes([whole[-1] ^ 1])
    with pytest.raises(CheckpointError) as error:
        hub.pull(REPO, endpoint=server.url, token=WRITER)
    assert "does not match" in one_sentence(error)
    server.damage.clear()
    assert Generator.load(hub.pull(REPO, endpoint=server.url, token=WRITER), "cpu").hash


def test_weights_that_do_not_have_their_own_hash_are_refused_and_not_kept(server: Hub, model: Path) -> None:
    whole = (model / WEIGHTS).read_bytes()
    own = {name: (model / name).read_bytes() for name in FOUR}
    server.create(REPO, own | {WEIGHTS: whole[:-1] + bytes([whole[-1] ^ 1])})
    for _ in range(2):
        with pytest.raises(CheckpointError) as error:
            hub.pull(REPO, endpoint=server.url)
        assert REPO in one_sentence(error) and "checksum" in str(error.value)
        assert not any(path.is_file() for path in hub.cache(server.url).rglob(WEIGHTS))


def test_a_configuration_of_gigabytes_is_not_fetched(server: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MOST_SMALL_BYTES", 100)
    server.create(REPO, {name: (model / name).read_bytes() for name in FOUR})
    with pytest.raises(CheckpointError, match="expected at most 100"):
        hub.pull(REPO, endpoint=server.url)
    assert server.fetched() == []


def test_another_model_on_the_hub_is_not_overwritten(server: Hub, model: Path) -> None:
    server.create(REPO, {"config.json": b"{}", "model.safetensors": b"years of work"})
    with pytest.raises(ConfigError) as error:
        ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    assert "other files" in one_sentence(error) and len(server.repositories[REPO].commits) == 1


def test_a_damaged_model_is_not_sent(server: Hub, model: Path) -> None:
    content = bytearray((model / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (model / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError):
        ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    assert server.requests == []


# -- refusals --


def test_without_a_token_nothing_is_asked(server: Hub, model: Path) -> None:
    with pytest.raises(ConfigError) as error:
        ganvas.push(model, REPO, endpoint=server.url)
    assert "hf auth login" in one_sentence(error) and server.requests == []


@pytest.mark.parametrize(("token", "status"), [("hf_reader", "403"), ("hf_wrong", "401")])
def test_a_token_without_the_right(server: Hub, model: Path, token: str, status: str) -> None:
    with pytest.raises(GanvasError) as error:
        ganvas.push(model, REPO, endpoint=server.url, token=token)
    assert status in one_sentence(error) and "token" in str(error.value)
    assert REPO not in server.repositories


def test_a_repository_that_is_not_there_or_private(server: Hub, model: Path) -> None:
    with pytest.raises(GanvasError) as error:
        hub.pull("no/where", endpoint=server.url, token="hf_reader")
    assert "no/where does not exist" in one_sentence(error)
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    with pytest.raises(GanvasError) as error:
        hub.pull(REPO, endpoint=server.url)
    assert "token may not read it" in one_sentence(error)


def test_files_that_are_refused_although_they_are_listed(server: Hub, model: Path) -> None:
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    server.closed = True
    with pytest.raises(GanvasError) as error:
        hub.pull(REPO, endpoint=server.url, token=WRITER)
    assert "403" in one_sentence(error) and "token" in str(error.value)


def test_a_cache_that_cannot_be_written(server: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(GanvasError, match="no space left"):
        hub.pull(REPO, endpoint=server.url, token=WRITER)


def test_a_revision_that_is_not_there(server: Hub, model: Path) -> None:
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    with pytest.raises(GanvasError) as error:
        hub.pull(REPO, revision="v9", endpoint=server.url, token=WRITER)
    assert "v9" in one_sentence(error)
    with pytest.raises(ConfigError):
        hub.pull(REPO, revision="../../up", endpoint=server.url, token=WRITER)


def test_a_card_that_the_hub_refuses(server: Hub, model: Path) -> None:
    (model / "README.md").write_text("---\ntags: [gan]\n---\n# A card without a licence\n")
    with pytest.raises(GanvasError) as error:
        ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    assert "license" in one_sentence(error)


# -- without a network --


def test_without_a_network_what_was_fetched_serves(server: Hub, model: Path) -> None:
    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    folder = hub.pull(REPO, endpoint=server.url, token=WRITER)
    server.down = True
    assert hub.local(f"hf://{REPO}", endpoint=server.url, token=WRITER) == folder
    with pytest.raises(GanvasError) as error:
        hub.pull(REPO, revision="v2", endpoint=server.url, token=WRITER)
    assert "503" in one_sentence(error) and str(hub.cache(server.url)) in str(error.value)


def test_without_a_network_the_sentence_says_where_the_cache_is(server: Hub) -> None:
    nowhere = "http://127.0.0.1:9"  # the port of `discard`, where nobody listens
    with pytest.raises(GanvasError) as error:
        hub.local(f"hf://{REPO}", endpoint=nowhere)
    assert "cannot be reached" in one_sentence(error) and str(hub.cache(nowhere)) in str(error.value)


def test_offline_by_wish(server: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    ganvas.push(model, REPO, endpoint=server.url, token=WRITER)
    folder = hub.pull(REPO, endpoint=server.url, token=WRITER)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.requests.clear()
    assert hub.pull(REPO, endpoint=server.url, token=WRITER) == folder
    assert server.requests == []


# -- folders in place of a hub --


def test_a_folder_stands_for_a_hub(model: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf" / "bars"
    assert ganvas.push(model, str(shelf)) == str(shelf)
    assert {path.name for path in shelf.iterdir()} == FOUR
    assert hub.pull(str(shelf)) == shelf
    out = hub.pull(str(shelf), out=tmp_path / "copy")
    assert (out / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    (model / "directions.json").unlink()
    ganvas.push(model, str(shelf))
    assert {path.name for path in shelf.iterdir()} == FOUR - {"directions.json"}


def test_a_folder_of_other_files_stays_as_it_is(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "README.md").write_text("mine")
    with pytest.raises(ConfigError) as error:
        ganvas.push(model, str(other))
    assert "other files" in one_sentence(error) and (other / "README.md").read_text() == "mine"


def test_pushing_into_itself_changes_nothing(model: Path) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    ganvas.push(model, str(model))
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


# -- names --


@pytest.mark.parametrize("text", ["someone/bars", "hf://someone/bars", "some-one/bars.2"])
def test_names_on_the_hub(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = hub.hub_name(text)
    assert name is not None and name.repo == text.removeprefix("hf://") and name.revision is None
    assert hub.hub_name(f"{text}@v1.0") == hub.Name(name.repo, "v1.0")


@pytest.mark.parametrize(
    "text",
    ["model", "./someone/bars", "/someone/bars", "~/bars", "a/b/c", "../bars", "a/..", "a/b.git", "a b/c", "a//b"],
)
def test_paths(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub.hub_name(text) is None
    assert hub.local(text) == Path(text)


def test_a_slip_in_a_path_asks_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert hub.local("runs/facse") == Path("runs/facse")
    monkeypatch.setattr(hub, "pull", lambda *_, **__: pytest.fail("a server is asked"))
    with pytest.raises(CheckpointError, match="else/where does not exist: give a path, or hf://else/where"):
        hub.local("else/where")
    with pytest.raises(ConfigError, match="expected hf://owner/name"):
        hub.local("hf://else")
    assert hub.hub_name("hf://runs/facse") == hub.Name("runs/facse")
    assert hub.hub_name(Path("else") / "where") == hub.Name("else/where")


def test_without_the_extra_the_sentence_says_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ganvas\[hub\]'") as error:
        hub.local(f"hf://{REPO}")
    assert REPO in one_sentence(error)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_a_copy_that_was_broken_off_is_made_again(num: int, model: Path, tmp_path: Path) -> None:
    contents = upload.model_files(model / WEIGHTS, None)
    whole = hub.copy_into(tmp_path / "whole", contents)
    names = [name for name in hub.NAMES if name in contents]
    (tmp_path / "half").mkdir()
    for name in names[: min(num, len(names) - 1)]:
        shutil.copy(whole / name, tmp_path / "half" / name)
    (tmp_path / "half" / ".generator.safetensors.123.tmp").write_bytes(b"beginning")
    hub.copy_into(tmp_path / "half", contents)
    assert (tmp_path / "half" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="contains other files"):
        hub.copy_into(tmp_path / "other", contents)
    assert (tmp_path / "other" / "README.md").read_text() == "mine"


def test_a_generator_is_saved_and_loaded_by_its_name(
    model: Path, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    template = "/{repo_id}/resolve/{revision}/{filename}"  # the library makes both from HF_ENDPOINT when it is imported
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + template)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    gan = Generator.load(model, "cpu")
    assert gan.save_pretrained(f"hf://{REPO}") == f"{server.url}/{REPO}"
    again = Generator.from_pretrained(f"hf://{REPO}", "cpu")
    assert again.hash == gan.hash
    (path,) = ganvas.sample(f"hf://{REPO}", tmp_path / "s", n=1, device="cpu", quiet=True)
    assert path.is_file()
    with pytest.raises(ConfigError, match="expected hf://owner/name"):
        gan.save_pretrained(f"hf://{REPO}@v1")
    # The library asks only its default endpoint for this, and not in every version.
    server.unknown[:] = [one for one in server.unknown if one != "GET /api/agent-harnesses"]
