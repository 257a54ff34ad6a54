"""New trainings and evaluations through the studio's HTTP interface: who may, from which images, one at a time."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import processes
from ganvas import studio
from ganvas.run import Run
from ganvas.studio.errors import AbsentError, ConflictError
from ganvas.studio.trainings import Trainings
from ganvas.system import files

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")

from fastapi.testclient import TestClient

from ganvas.studio import api, trainings, uploads
from ganvas.training import clock
from studio_client import HOME, refused, wait_for

PATIENCE = 120  # seconds: the machine may be busy


@pytest.fixture
def client(tmp_path: Path, two_classes: Path) -> Iterator[TestClient]:
    """A studio of a folder that does not exist yet; it may read the folder of `two_classes`."""
    made = api.app(tmp_path / "runs", device="cpu", train=True, images=[two_classes.parent])
    with TestClient(made, base_url=HOME) as opened:
        yield opened


def done(client: TestClient, answer: httpx.Response) -> dict[str, Any]:
    """The job after its end."""
    assert answer.status_code == 202, answer.text
    place = f"/api/task?id={answer.json()['id']}"
    return wait_for(lambda: client.get(place).json(), lambda task: task["state"] in ("done", "failed"))


def training(client: TestClient, name: str) -> dict[str, Any]:
    return next(one for one in client.get("/api/trainings").json()["trainings"] if one["run"] == name)


# ---- who may ----


def test_without_permission_nothing_is_started_read_or_uploaded(trained: Path, two_classes: Path) -> None:
    body = {"source": str(two_classes), "name": "mine", "images": 32}
    with TestClient(api.app(trained, device="cpu", images=[two_classes]), base_url=HOME) as client:
        assert client.get("/api/new").json()["allowed"] is False and client.get("/api/new").json()["roots"] == []
        for answer in (
            client.post("/api/trainings", json=body),
            client.post("/api/plans", json=body),
            client.post("/api/checkups", json={"source": str(two_classes)}),
            client.post("/api/evaluations", json={"model": trained.name}),
            client.post("/api/trainings/resume", json={"run": trained.name}),
            client.post("/api/uploads", json={"name": "a", "files": 1, "bytes": 1}),
            client.get("/api/folders", params={"path": str(two_classes)}),
        ):
            refused(answer, 403, "ganvas studio --train")


def test_another_site_and_a_missing_token_start_nothing(tmp_path: Path, two_classes: Path) -> None:
    body = {"source": str(two_classes), "name": "mine", "images": 32}
    made = api.app(tmp_path, device="cpu", token="correct-horse-battery", train=True, images=[two_classes])
    with TestClient(made, base_url=HOME) as client:
        refused(client.post("/api/trainings", json=body), 401, "token")
        other = {"authorization": "Bearer correct-horse-battery", "origin": "https://evil.example"}
        refused(client.post("/api/trainings", json=body, headers=other), 403, "another site")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "allowed", "token"),
    [
        ({}, True, True),
        ({"train": False}, False, False),
        ({"host": "0.0.0.0", "token": "correct-horse-battery"}, False, True),
        ({"host": "0.0.0.0", "token": "correct-horse-battery", "train": True}, True, True),
    ],
)
def test_the_command_allows_trainings_on_this_machine_only(
    options: dict[str, Any], allowed: bool, token: bool, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a token that it makes itself; other machines only if the owner says so."""
    import uvicorn

    monkeypatch.delenv("GANVAS_TOKEN", raising=False)
    seen: list[Any] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: seen.append(server.config.app))
    studio.serve(trained, port=0, browser=False, quiet=True, **options)
    (guard,) = seen
    assert (guard.token is not None) == token
    headers = {"authorization": f"Bearer {guard.token}"} if token else {}
    with TestClient(guard, base_url=HOME, headers=headers) as client:
        told = client.get("/api/new").json()
    assert told["allowed"] == allowed
    home = str(Path.home().resolve())
    assert (home in told["roots"]) == (allowed and "host" not in options)


# ---- images ----


def test_folders_are_listed_inside_the_allowed_ones_only(client: TestClient, two_classes: Path, tmp_path: Path) -> None:
    told = client.get("/api/folders").json()
    assert [one["path"] for one in told["folders"]] == [str(two_classes.parent)]
    told = client.get("/api/folders", params={"path": str(two_classes)}).json()
    assert [one["name"] for one in told["folders"]] == ["lying", "standing"] and told["num_images"] == 0
    assert client.get("/api/folders", params={"path": f"{two_classes}/lying"}).json()["num_images"] == 12
    (tmp_path / "secret").mkdir()
    with contextlib.suppress(OSError):  # a name that is no text, on file systems that have such names
        odd = two_classes.parent / os.fsdecode(b"o\xffdd")
        odd.mkdir()
        assert len(client.get("/api/folders", params={"path": str(two_classes.parent)}).json()["folders"]) == 2
        odd.rmdir()
    link = two_classes.parent / "link"
    link.symlink_to(tmp_path / "secret")
    try:
        for path in ("/", "/etc", f"{two_classes}/../../..", str(link), str(tmp_path / "secret"), "~"):
            refused(client.get("/api/folders", params={"path": path}), 403, "may not read")
            refused(client.post("/api/checkups", json={"source": path}), 403, "may not read")
    finally:
        link.unlink()
    for path, status in (("relative", 400), ("\0", 400), (f"{two_classes}/none", 404), (f"{two_classes}/.hidden", 403)):
        refused(client.get("/api/folders", params={"path": path}), status, "")
    refused(client.post("/api/checkups", json={"source": f"{two_classes}/lying/00.png"}), 400, "not a source of images")


def test_a_zip_arrives_in_pieces_and_is_checked(client: TestClient, two_classes: Path, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(two_classes.rglob("*.png")):
            archive.write(path, path.relative_to(two_classes))
    content = packed.getvalue()
    body = {"name": "my bars", "files": 1, "bytes": len(content)}
    upload = client.post("/api/uploads", json=body).json()
    query = {"id": upload["id"], "name": "bars.zip"}
    first = client.post("/api/uploads/piece", params={**query, "start": 0, "last": False}, content=content[:1000])
    assert first.json() == {"received": 1000}
    refused(client.post("/api/uploads/piece", params={**query, "start": 7}, content=b"x"), 409, "1,000 bytes")
    refused(client.post("/api/uploads/finish", params={"id": upload["id"]}), 409, "this upload lacks 1 file")
    client.post("/api/uploads/piece", params={**query, "start": 1000, "last": True}, content=content[1000:])
    source = client.post("/api/uploads/finish", params={"id": upload["id"]}).json()["source"]
    assert Path(source).read_bytes() == content and Path(source).is_relative_to(tmp_path / "runs" / "uploads")
    found = done(client, client.post("/api/checkups", json={"source": source}))["result"]
    assert found["num_images"] == 24 and found["labelled"] and found["facts"]["classes"] == "lying 12, standing 12"
    assert client.get("/api/places").json()["places"] == []  # an upload is no run
    assert str(tmp_path / "runs" / "uploads") in [one["path"] for one in client.get("/api/folders").json()["folders"]]


HOSTILE = {
    "../evil.png": "the name '..'",
    "a/../../evil.png": "the name '..'",
    "/etc/evil.png": "the name ''",
    "a\\..\\evil.png": "the name",
    "config.json": "neither an image nor an archive",
    "generator.safetensors": "neither an image nor an archive",
    ".hidden.png": "the name",
    "con.png": "the name",
    "a\0.png": "the name",
    "a/b/c/d/e.png": "more than 3 folders",
    "n" * 300 + ".png": "the name",
}


def test_hostile_file_names_are_refused(client: TestClient, tmp_path: Path) -> None:
    upload = client.post("/api/uploads", json={"name": "a", "files": 1, "bytes": 10}).json()
    for name, words in HOSTILE.items():
        answer = client.post("/api/uploads/piece", params={"id": upload["id"], "name": name}, content=b"x")
        refused(answer, 400, words)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_upload_has_limits_and_can_be_cancelled(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "uploads"
    for name in ("..", "", "a/b", "nul"):
        refused(client.post("/api/uploads", json={"name": name, "files": 1, "bytes": 1}), 400, "the name")
    refused(client.post("/api/uploads", json={"name": "a", "files": 1, "bytes": 10**14}), 413, "at most")
    monkeypatch.setattr(uploads, "RESERVE", 10**18)
    refused(client.post("/api/uploads", json={"name": "a", "files": 1, "bytes": 10}), 413, "free")
    monkeypatch.undo()
    upload = client.post("/api/uploads", json={"name": "a", "files": 1, "bytes": 10}).json()
    query = {"id": upload["id"], "name": "1.png"}
    refused(client.post("/api/uploads/piece", params=query, content=b"x" * 11), 413, "announced")
    assert client.post("/api/uploads/piece", params=query, content=b"x" * 10).status_code == 200
    refused(client.post("/api/uploads/piece", params={**query, "name": "2.png"}, content=b""), 413, "announced")
    refused(client.post("/api/uploads/piece", params={"id": "none", "name": "a.png"}, content=b"x"), 404, "upload")
    too_long = client.post("/api/uploads/piece", params=query, content=b"x" * (2**24 + 1))
    refused(too_long, 413, "16,777,216 bytes")
    assert client.post("/api/uploads/remove", params={"id": upload["id"]}).status_code == 204
    assert not folder.exists()


def test_a_piece_of_an_upload_that_was_just_cancelled_is_refused(tmp_path: Path) -> None:
    known = uploads.Uploads(tmp_path / "uploads")
    upload = known.begin("a", 1, 10)

    class Late:
        """A lock that is free only after the upload has been cancelled."""

        def __enter__(self) -> None:
            upload.lock = threading.Lock()
            known.remove(upload.id)

        def __exit__(self, *_: object) -> None: ...

    upload.lock = Late()  # ty: ignore[invalid-assignment]
    with pytest.raises(AbsentError):
        known.write(upload.id, "1.png", 0, b"x", True)
    assert not known.folder.exists()


# ---- plan ----


def test_the_plan_is_that_of_the_dry_run(client: TestClient, two_classes: Path) -> None:
    body = {"source": str(two_classes), "size": "16", "minutes": 3, "kind": "drawing"}
    task = done(client, client.post("/api/plans", json=body))
    plan = task["result"]
    assert (plan["num_images"], plan["size"], plan["kind"], plan["classes"]) == (
        24, "16x16", "drawing", ["lying", "standing"],
    )  # fmt: skip
    chosen = {one["name"]: one for one in plan["choices"]}
    assert chosen["model"]["value"] == "compact" and chosen["model"]["reason"] and plan["speed"] > 0
    assert "--minutes 3" in plan["command"] and "--kind drawing" in plan["command"] and "--size 16" in plan["command"]
    assert client.get("/api/task/target", params={"id": task["id"]}).headers["content-type"] == "image/png"
    plain = done(client, client.post("/api/plans", json=body | {"labels": False}))["result"]
    assert plain["classes"] == [] and "--labels none" in plain["command"]


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"size": "5"}, 400, "--size 5"),
    ({"size": "x"}, 400, "--size x"),
    ({"kind": "film"}, 400, "--kind film"),
    ({"minutes": 1, "images": 5}, 400, "one budget"),
    ({"minutes": -1}, 422, "minutes"),
    ({"source": "no-such-set"}, 400, "not a full path"),
    ({"name": "../evil"}, 400, "the name"),
    ({"name": ""}, 400, "has no name"),
    ({"name": "uploads"}, 409, "used by the studio"),
    ({"name": "con"}, 400, "the name"),
    ({"more": 1}, 422, "more"),
]


def test_a_training_that_cannot_be_is_refused_in_a_sentence(
    client: TestClient, two_classes: Path, tmp_path: Path
) -> None:
    for change, status, words in WRONG:
        body = {"source": str(two_classes), "name": "mine"} | change
        refused(client.post("/api/trainings", json=body), status, words)
    assert client.get("/api/trainings").json() == {"trainings": []} and not (tmp_path / "runs").exists()


# ---- trainings ----


def test_a_training_is_started_and_stopped(client: TestClient, two_classes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "my bars"
    body = {"source": str(two_classes), "name": "my bars", "size": "16", "images": 10**7, "seed": 3}
    assert client.post("/api/trainings", json=body).json()["state"] == "starting"
    refused(client.post("/api/trainings", json=body | {"name": "second"}), 409, "my bars is being trained")
    line = wait_for(lambda: client.get("/api/runs").json()["runs"], lambda runs: bool(runs) and runs[0]["images"] > 0)[
        0
    ]
    assert (line["name"], line["state"]) == ("my bars", "training") and training(client, "my bars")[
        "state"
    ] == "training"
    assert Run(folder).config().train.seed == 3
    refused(client.post("/api/trainings", json=body), 409, "my bars")
    assert client.post("/api/trainings/stop", json={"run": "my bars"}).json()["state"] == "stopping"
    assert client.post("/api/trainings/stop", json={"run": "my bars"}).json()["state"] == "stopping"  # not twice
    wait_for(lambda: training(client, "my bars")["state"], lambda state: state == "stopped")
    told = client.get("/api/run", params={"run": "my bars"}).json()
    assert told["state"] == "stopped" and told["has_model"] and told["budget"] == 10**7
    saved = Run(folder).saved()[-1].images_seen
    assert saved > 0


def test_a_training_that_is_cancelled_at_once_leaves_nothing(
    client: TestClient, two_classes: Path, tmp_path: Path
) -> None:
    body = {"source": str(two_classes), "name": "mine", "size": "16", "images": 10**7}
    assert client.post("/api/trainings", json=body).status_code == 201
    client.post("/api/trainings/stop", json={"run": "mine"})
    told = wait_for(lambda: training(client, "mine"), lambda one: one["state"] != "stopping")
    assert told["state"] == "stopped" and "nothing was saved" in told["sentence"]
    assert Trainings(tmp_path / "runs").check_new("mine") == tmp_path / "runs" / "mine"  # the name is free again
    assert client.get("/api/runs").json()["runs"] == []


@pytest.mark.slow
def test_a_run_goes_on_until_the_studio_ends(client: TestClient, trained: Path, tmp_path: Path) -> None:
    """A finished run gets a larger budget; at the end of the studio, the state of the training is saved."""
    shutil.copytree(trained, tmp_path / "runs" / "bars")
    run = Run(tmp_path / "runs" / "bars")
    saved = run.saved()[-1].images_seen
    assert client.post("/api/trainings/resume", json={"run": "bars", "budget": 10**7}).status_code == 200
    wait_for(
        lambda: (run.folder / "log.jsonl").read_text().splitlines()[-1], lambda line: json.loads(line)["images"] > saved
    )
    client.__exit__(None, None, None)
    assert run.saved()[-1].images_seen > saved


@pytest.mark.slow
def test_a_run_that_fails_tells_why(client: TestClient, trained: Path, tmp_path: Path) -> None:
    """A finished run cannot get a smaller budget: the page shows the sentence of the command."""
    shutil.copytree(trained, tmp_path / "runs" / "bars")
    answer = client.post("/api/trainings/resume", json={"run": "bars", "budget": 8})
    assert answer.status_code == 200
    told = wait_for(lambda: training(client, "bars"), lambda one: one["state"] not in ("starting", "training"))
    assert told["state"] == "failed" and "--images 8 is less" in told["sentence"]
    refused(client.post("/api/trainings/resume", json={"run": "none"}), 404, "none")
    refused(client.post("/api/trainings/stop", json={"run": "other"}), 404, "was not started from this studio")


def test_new_runs_have_no_place_inside_a_run(trained: Path) -> None:
    with pytest.raises(ConflictError, match="is one run"):
        Trainings(trained).check_new("another")
    with TestClient(api.app(trained, device="cpu", train=True), base_url=HOME) as client:
        told = client.get("/api/new").json()
    assert told["allowed"] and not told["new"] and "is one run" in told["sentence"]


def test_a_process_that_failed_tells_why(tmp_path: Path) -> None:
    """The last line of what a process printed is its sentence; a killed one is explained."""
    known = Trainings(tmp_path)
    started = known.resume("gone", tmp_path / "gone", ["no-such-command"])
    started.process.wait(PATIENCE)
    assert started.state == "failed" and started.sentence.startswith("unknown command")
    started = known.resume("killed", tmp_path / "killed", ["studio", "--help"])
    started.process.kill()
    started.process.wait(PATIENCE)
    assert started.state == "failed" and "memory ran out" in started.sentence
    known.close()


def test_a_training_that_was_running_before_the_studio_can_be_stopped(tmp_path: Path, two_classes: Path) -> None:
    """As after a studio that was killed. A studio that did not start a training does not stop it at its end either."""
    folder = tmp_path / "runs" / "mine"
    words = ("--size", "16", "--images", 10**7, "--device", "cpu", "--quiet")
    process = processes.start("train", two_classes, "--out", folder, *words, folder=tmp_path)
    try:
        wait_for(lambda: Run(folder).grids(), bool)
        assert Run(folder).trained_by() == process.pid
        with TestClient(api.app(tmp_path / "runs", device="cpu", train=True), base_url=HOME) as client:
            assert training(client, "mine")["state"] == "training"
        assert process.is_alive()
        with TestClient(api.app(tmp_path / "runs", device="cpu", train=True), base_url=HOME) as client:
            refused(client.post("/api/trainings/resume", json={"run": "mine"}), 409, "mine is being trained")
            assert client.post("/api/trainings/stop", json={"run": "mine"}).json()["state"] == "stopping"
            wait_for(lambda: training(client, "mine")["state"], lambda state: state == "stopped")
            assert client.get("/api/runs").json()["runs"][0]["state"] == "stopped"
        assert processes.ended(process) == 130 and Run(folder).saved()
    finally:
        processes.kill(process)


def test_a_number_that_the_system_has_given_to_another_process_is_not_signalled(tmp_path: Path, trained: Path) -> None:
    """The lock file of a training that was killed names a process that is something else now."""
    shutil.copytree(trained, tmp_path / "mine")
    lock = tmp_path / "mine" / ".lock"
    lock.write_text(f"{os.getpid()}\n{files.HOST}\n")
    assert Run(tmp_path / "mine").trained_by() is None
    with TestClient(api.app(tmp_path, device="cpu", train=True), base_url=HOME) as client:
        assert client.get("/api/trainings").json() == {"trainings": []}
    with Run(tmp_path / "mine") as run:  # now it is true
        assert run.trained_by() == os.getpid()
        lock.write_text(f"{os.getpid()}\nanother\n")
        assert run.trained_by() is None  # a number of another machine
    assert run.trained_by() is None


# ---- evaluation ----


@pytest.mark.usefixtures("short_classifiers")
def test_an_evaluation_can_be_cancelled(client: TestClient, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "runs" / "bars")
    refused(client.get("/api/run/report", params={"run": "bars"}), 404, "no report")
    refused(client.post("/api/evaluations", json={"model": "none"}), 404, "none")
    first = client.post("/api/evaluations", json={"model": "bars"})
    refused(client.post("/api/evaluations", json={"model": "bars"}), 400, "is being evaluated")
    client.post("/api/task/stop", params={"id": first.json()["id"]})
    assert done(client, first)["sentence"] == "stopped by the user"
    assert not (tmp_path / "runs" / "bars" / "evaluation.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("short_classifiers")
def test_an_evaluation_writes_the_report(client: TestClient, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "runs" / "bars")
    task = done(client, client.post("/api/evaluations", json={"model": "bars"}))
    assert task["state"] == "done", task
    assert task["model"] == "bars" and any("KID" in line for line in task["result"]["lines"])
    assert client.get("/api/tasks", params={"kind": "evaluation"}).json()["tasks"][-1]["id"] == task["id"]
    report = client.get("/api/run/report", params={"run": "bars"})
    assert "<h1>" in report.text and report.headers["content-security-policy"].startswith("sandbox;")
    assert client.get("/api/run", params={"run": "bars"}).json()["has_report"]


# ---- the end of the studio ----


@pytest.mark.slow
def test_ctrl_c_saves_the_training(tmp_path: Path, two_classes: Path) -> None:
    """The whole command: Ctrl-C in the studio's terminal stops the training, which can be resumed."""
    token = "correct-horse-battery"
    environment = os.environ | {"GANVAS_TOKEN": token}
    line = [sys.executable, "-m", "ganvas", "studio", "runs", "--port", "0", "--no-browser", "--device", "cpu"]
    command = [*line, "--images", str(two_classes)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as running:
        try:
            assert running.stdout is not None and running.stderr is not None
            place = running.stdout.readline().split()[1].partition("?")[0]
            with httpx.Client(base_url=place, headers={"authorization": f"Bearer {token}"}, timeout=PATIENCE) as client:
                body = {"source": str(two_classes), "name": "mine", "size": "16", "images": 10**7}
                assert client.post("/api/trainings", json=body).status_code == 201
                wait_for(
                    lambda: client.get("/api/runs").json()["runs"], lambda runs: bool(runs) and runs[0]["images"] > 0
                )
            running.send_signal(2)
            assert running.wait(PATIENCE) == 0
            printed = running.stdout.read()
            assert running.stderr.read() == "" and "stopping mine: its state" in printed and "closed" in printed
        finally:
            running.kill()
    run = Run(tmp_path / "runs" / "mine")
    assert run.saved() and run.model.is_dir()


# ---- Windows ----


class FakeProcess:
    """A process of Windows: it notes how it was started and what was sent to it, and ends as Windows ends it."""

    def __init__(self, words: list[str], **options: Any) -> None:
        self.options, self.sent, self.returncode, self.can_be_signalled = options, list[int](), None, True

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if not self.can_be_signalled:
            raise OSError("[WinError 6] The handle is invalid")  # what a studio without a console gets
        self.sent.append(number)

    def terminate(self) -> None:
        self.returncode = 1  # as TerminateProcess is called


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """Trainings of a studio on Windows, whose processes are `FakeProcess`."""
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1, raising=False)
    group, stop = trainings.own_group(windows=True)
    monkeypatch.setattr(trainings, "OWN_GROUP", group)
    monkeypatch.setattr(trainings, "STOP", stop)
    monkeypatch.setattr(subprocess, "Popen", FakeProcess)
    return Trainings(tmp_path)


def test_on_windows_a_training_is_stopped_by_ctrl_break(windows: Trainings) -> None:
    """CTRL_BREAK_EVENT reaches only processes of a group of their own, which CREATE_NEW_PROCESS_GROUP makes."""
    started = windows.start("mine", ["train", "images"])
    process: Any = started.process
    assert process.options["creationflags"] == 0x200 and "start_new_session" not in process.options
    windows.stop("mine")
    windows.stop("mine")
    assert process.sent == [1]
    assert started.state == "stopping" and "being saved" in started.sentence
    process.returncode = 0xC000013A  # STATUS_CONTROL_C_EXIT: before the training catches the signal
    assert started.state == "stopped"
    windows.close()


def test_a_training_that_cannot_be_signalled_is_ended(windows: Trainings) -> None:
    started = windows.start("mine", ["train", "images"])
    (started.folder / "samples").mkdir(parents=True)
    (started.folder / "config.json").touch()  # it has begun
    process: Any = started.process
    process.can_be_signalled = False
    assert windows.stop("mine").state == "stopped" and process.returncode == 1
    assert "so it was ended" in started.sentence and windows.running() is None
    windows.close()


def test_ctrl_break_is_caught_by_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(signal, "SIGBREAK", None) or signal.SIGUSR1  # only Windows has the former
    monkeypatch.setattr(signal, "SIGBREAK", number, raising=False)
    before = signal.getsignal(number)
    with clock.caught_signals() as caught:
        signal.raise_signal(number)
    assert caught.number == number and signal.getsignal(number) == before
