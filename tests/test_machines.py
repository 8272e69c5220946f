"""Processes that share a search: one of them is killed, and nothing is lost."""

from __future__ import annotations

import contextlib
import glob
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import wsgiref.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import fastmap as fm
import fastmap.optuna as fo
from fastmap import cli
from fastmap import search as searches

SPACE = fm.Space(lr=fm.Param(1e-6, 1, map="log"), beta=fm.Param(0.5, 0.99999, map="one_minus_log"))
TOTAL = 12
GRACE = 6
SCRIPT = """
import os, time
from pathlib import Path
import fastmap as fm

here = Path(__file__).parent
space = fm.Space(lr=fm.Param(1e-6, 1, map="log"), beta=fm.Param(0.5, 0.99999, map="one_minus_log"))


def objective(theta, trial):
    with (here / "log").open("a") as file:
        file.write(f"{os.getpid()} {trial.number} {theta['lr']!r} {theta['beta']!r}\\n")
    while not (here / "go").exists():
        time.sleep(0.01)
    time.sleep(0.02)
    return abs(theta["lr"] - 1e-3) + 1 - theta["beta"]
"""


def server(name: str) -> str | None:
    places = os.pathsep.join([os.environ["PATH"], *sorted(glob.glob("/usr/lib/postgresql/*/bin"))])
    return shutil.which(name, path=places)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a cluster of its own, on a Unix socket."""
    if server("initdb") is None:
        pytest.skip("initdb not found: PostgreSQL's server is no Python package, .ci/run installs it")
    folder = tempfile.mkdtemp()
    user = "postgres" if os.geteuid() == 0 else None  # it refuses root
    if user:
        shutil.chown(folder, user)

    def run(tool: str, *arguments: str) -> None:
        command = [str(server(tool)), "-D", f"{folder}/data", *arguments]
        with open(f"{folder}.log", "a") as log:
            subprocess.run(command, check=True, cwd=folder, stdout=log, stderr=log, user=user)

    try:
        run("initdb", "--no-sync", "-A", "trust", "-U", "fastmap")
        run("pg_ctl", "start", "-w", "-o", f"-F -c listen_addresses='' -k {folder}")
        yield f"postgresql://fastmap@/postgres?host={folder}"
        run("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder)
        os.unlink(f"{folder}.log")


@pytest.fixture(params=["sqlite", "postgresql", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql")
    return f"sqlite:///{tmp_path}/x.db" if request.param == "sqlite" else str(tmp_path / "x.journal")


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def work(arguments: list[str], out: Path) -> None:
    with out.open("w") as file, contextlib.redirect_stdout(file):
        sys.exit(cli.run(arguments))


def test_one_of_four_processes_is_killed(storage: str, tmp_path: Path) -> None:
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(SCRIPT)
    database = "://" in storage
    command = ["tune", f"{script}:objective", "--quiet", "--storage", storage, "--name", "killed"]
    command += ["--method", "random", "--total", str(TOTAL), *(["--grace", str(GRACE)] if database else [])]
    # One server imports all that is needed and is forked for every process.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    multiprocessing.set_forkserver_preload(["fastmap.cli", "optuna", "sqlalchemy.orm", "alembic.command"])
    outs = [tmp_path / f"out{i}" for i in range(4)]
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=work, args=(command, out)) for out in outs]
    try:
        for worker in workers:
            worker.start()
        end = time.monotonic() + 120
        while len(lines(log)) < 4 and time.monotonic() < end:
            time.sleep(0.02)
        (victim,) = [row for row in lines(log) if row[0] == str(workers[0].pid)]
        workers[0].kill()
        workers[0].join()
        (tmp_path / "go").touch()
        for worker in workers[1:]:
            worker.join(120)
        assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, 0, 0, 0]
    finally:
        for worker in workers:
            worker.kill()
    outputs = [out.read_text() for out in outs[1:]]

    kept = searches.load(storage, "killed").history
    if not database:  # its trial is running for ever: nobody can know better
        assert len(kept) == TOTAL - 1
        assert all(f"the total of {TOTAL} evaluations; " in text for text in outputs)
        assert any("; still running elsewhere: 1" in text for text in outputs)
        time.sleep(1.1)
        assert cli.run([*command, "--grace", "1"]) == 0
        kept = searches.load(storage, "killed").history

    number, *point = victim[1:]
    evaluated = [row for row in lines(log) if row[0] != victim[0]]
    assert len(evaluated) == TOTAL  # exactly, and the killed one's again
    assert [row[2:] for row in evaluated].count(point) == 1
    assert len({tuple(row[2:]) for row in evaluated}) == TOTAL
    done = [record for record in kept if record.state == "COMPLETE"]
    (lost,) = [record for record in kept if record.state != "COMPLETE"]
    assert (lost.number, lost.state) == (int(number), "FAIL")
    assert [repr(value) for value in lost.theta.values()] == point
    (again,) = [record for record in done if record.theta == lost.theta]
    assert again.z == lost.z
    assert lost.error == f"lost with its process; queued again as {again.number}"
    assert len(done) == TOTAL
    for record in done:
        assert 1e-6 <= record.theta["lr"] <= 1
        assert 0.5 <= record.theta["beta"] <= 0.99999
        assert record.loss == abs(record.theta["lr"] - 1e-3) + 1 - record.theta["beta"]
    if database:  # all of them waited for the last one, and say the same
        assert len({text.partition("\n")[2] for text in outputs}) == 1
        assert f"loss = {min(record.loss for record in done)}" in outputs[0]
    again_same = fm.minimize(lambda t: 0, SPACE, storage=storage, name="killed", total=TOTAL, grace=1)
    assert len(again_same.history) == TOTAL + 1


def search(path: Any, **arguments: Any) -> fm.Search:
    return fm.Search(SPACE, method="random", storage=path, **arguments)


def test_a_journal_takes_old_trials_for_lost(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    with search(path, total=2) as slow, search(path, total=2, grace=1) as other:
        own, late = other.ask(), slow.ask()
        assert own.theta != late.theta
        time.sleep(1.1)
        again = other.ask()  # its own is as old, but it knows that this one is alive
        assert (again.number, again.theta) == (2, late.theta)
        with pytest.raises(searches.Finished, match="the total of 2 evaluations; still running elsewhere: 2"):
            slow.ask()
        other.tell(own, 6.0)
        late.report(1.0, 0)
        assert late.should_prune()  # somebody else does it
        slow.tell(late, 0.0)  # too late, and no error
        other.tell(again, 5.0)
    history = searches.load(path).history
    assert [(r.number, r.state) for r in history] == [(0, "COMPLETE"), (1, "FAIL"), (2, "COMPLETE")]
    assert slow.result().loss == 5.0


def test_a_trial_with_signs_of_life_is_not_lost(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    with search(url, total=2, grace=4) as slow, search(url, total=2, grace=4) as other:
        trial = slow.ask()
        other.tell(other.ask(), 1.0)
        with pytest.raises(searches.Finished, match="still running elsewhere: 1"):
            other.ask(timeout=5)  # it waited for the slow one, and did not take it
        slow.tell(trial, 2.0)
        with pytest.raises(searches.Finished, match=r"evaluations$"):
            other.ask()
    assert [record.state for record in searches.load(url).history] == ["COMPLETE"] * 2


def test_a_point_that_always_kills_is_given_up(tmp_path: Path) -> None:
    points = []
    for _ in range(4):  # once, and three times again
        points.append(search(tmp_path / "x.journal", total=2, grace=1).ask().theta)
        time.sleep(1.05)
    assert points == points[:1] * 4
    with search(tmp_path / "x.journal", total=2, grace=1) as last:
        trial = last.ask()
        assert trial.theta != points[0]
        last.tell(trial, 1.0)
        with pytest.raises(searches.Finished):
            last.ask()
        states = [record.state for record in last.result().history]
    assert states == ["FAIL"] * 4 + ["COMPLETE"]


@pytest.mark.parametrize("drawn", [False, True])
def test_a_trial_without_any_sign_of_life_is_missed_too(tmp_path: Path, drawn: bool) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    with search(url, total=1, grace=1) as killed, search(url, total=1, grace=1) as other:
        with killed._workers.drawing():
            killed._start().ask() if drawn else killed._study.ask()  # and no more
        trial = other.ask(timeout=30)
        other.tell(trial, 1.0)
        states = [record.state for record in other.result().history]
    assert states == (["FAIL", "COMPLETE"] if drawn else ["COMPLETE"])


def test_trials_beyond_the_total_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastmap.search._workers import Workers

    path = tmp_path / "x.journal"
    with search(path, total=2) as one, search(path, total=2) as two:
        first, second = one.ask(), two.ask()
        turn = Workers.wait_for_turn
        hurried = iter([None])  # the other process began between the look and the ask
        monkeypatch.setattr(Workers, "wait_for_turn", lambda *a: next(hurried, "seen") and turn(*a))
        with pytest.raises(searches.Finished, match="still running elsewhere: 1"):
            one.ask()
        one.tell(first, 1.0)
        two.tell(second, 2.0)
        assert [record.number for record in two.result().history] == [0, 1]
    backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    (trial,) = optuna.load_study(study_name="fastmap", storage=backend).trials[2:]
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["fastmap:error"].startswith("beyond the total")


def test_the_same_arguments_in_every_process(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"storage": tmp_path / "x.journal", "method": "random", "total": 5}
    known = {"lr": 1e-3, "beta": 0.9}
    one = fm.minimize(lambda t: t["lr"], SPACE, budget=3, enqueue=[known], **arguments)
    two = fm.minimize(lambda t: t["lr"], SPACE, enqueue=[known], **arguments)
    assert [len(one.history), len(two.history)] == [3, 5]
    assert [round(r.theta["lr"], 9) for r in two.history].count(1e-3) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total": 3}, "^total: expected at least 1, and a storage"),
        ({"total": 0, "storage": "x.journal"}, "^total: expected at least 1"),
        ({"grace": 0, "storage": "x.journal"}, "^grace: expected at least 1"),
        ({"total": 3, "storage": "x.journal", "resume": "remap"}, "^total, resume: take the old trials over"),
        ({"total": 3, "storage": "x.journal", "method": "de"}, "^total: .*; de has none here"),
        ({"storage": "nonsense://x"}, "^storage: "),
        ({"storage": "sqlite:////no/such/folder/x.db"}, "^storage: sqlite:////no/such/folder/x.db cannot be"),
    ],
)
def test_what_cannot_be_shared(
    arguments: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        fm.Search(SPACE, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(
        ValueError, match=r"storage: postgresql://me:\*\*\*@/x\?host=%2Fno cannot be opened"
    ) as e:
        fm.Search(SPACE, storage="postgresql://me:secret@/x?host=/no")
    assert "secret" not in str(e.value)


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"pip install 'fastmap\[postgresql\]'"):
        fm.Search(SPACE, storage="postgresql://me@host/x")


def test_ray_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastmap.ray as fr

    monkeypatch.setitem(sys.modules, "ray.tune", None)
    with pytest.raises(ImportError, match=r"pip install 'fastmap\[ray\]'"):
        fr.param_space(SPACE)
    theta = {"lr": 1e-3, "beta": 0.9}  # all else works without it
    assert fr.params(fr.to_config(theta, SPACE), SPACE) == pytest.approx(theta, rel=1e-14)


def test_the_dashboard_gets_theta_and_space(tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    url = f"sqlite:///{tmp_path}/x.db"
    result = fm.minimize(lambda t: t["lr"], SPACE, storage=url, method="random", total=3)
    app = dashboard.wsgi(url)

    def get(path: str) -> Any:
        request: dict[str, Any] = {"PATH_INFO": path}
        wsgiref.util.setup_testing_defaults(request)
        return json.loads(b"".join(app(request, lambda *response: None)))

    (study,) = get("/api/studies")["study_summaries"]
    detail = get(f"/api/studies/{study['study_id']}")
    assert detail["name"] == "fastmap"
    attributes = {row["key"]: json.loads(row["value"]) for row in detail["user_attrs"]}
    assert fm.Space.from_json(attributes["fastmap:space"]) == SPACE
    for record, trial in zip(result.history, detail["trials"], strict=True):
        assert {p["name"]: p["param_internal_value"] for p in trial["params"]} == {
            f"z:{name}": z for name, z in record.z.items()
        }
        ((key, value),) = [row.values() for row in trial["user_attrs"]]
        assert (key, json.loads(value)) == (fo.THETA, record.theta)
        assert trial["values"] == [record.loss]


def test_the_only_process_of_a_total_says_that_it_is_reached(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    space = fm.Space(x=fm.Param(0.1, 1.0))
    result = fm.minimize(lambda p: p["x"], space, storage=storage, total=3, seed=0)
    assert len(result.history) == 3
    assert result.reason.endswith("; the total of 3 evaluations")


def test_the_commands_of_the_docs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "machines.md").read_text()
    (tmp_path / "script.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    (commands,) = re.findall(r"^    for worker.*?\n\n", text, re.DOTALL | re.MULTILINE)
    assert commands.count("--total 40") == 1
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run = subprocess.run(
        ["bash", "-ec", commands.replace("--total 40", "--total 6")],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("the total of 6 evaluations\n6 evaluations, 0 failed\n") == 4
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
