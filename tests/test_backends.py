"""The same sweep gives the same table wherever its runs are done; schedulers and workers are real ones on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SWEEP = "--tasks pendulum-swingup --planners icem,mppi --budgets 16,24 --horizons 6 --seeds 2 --steps 4 --workers 2"
TABLES = ("results.csv", "summary.csv")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def compare(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mpcrl", "compare", "--out", str(out), *SWEEP.split(), *arguments],
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def by_loky(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("loky")
    done = compare(out)
    assert done.returncode == 0, done.stderr
    return out


def check(out: Path, done: subprocess.CompletedProcess[str], by_loky: Path) -> None:
    assert done.returncode == 0, done.stderr
    for name in TABLES:
        assert (out / name).read_bytes() == (by_loky / name).read_bytes()


@pytest.mark.acceptance
@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_local_cluster_gives_the_table_of_loky(backend: str, package: str, by_loky, tmp_path) -> None:
    pytest.importorskip(package)
    check(tmp_path, compare(tmp_path, "--backend", backend), by_loky)


@pytest.mark.acceptance
def test_a_dask_scheduler_by_its_address(by_loky, tmp_path) -> None:
    pytest.importorskip("distributed")
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    scheduler = subprocess.Popen(
        [*dask, "--no-dashboard", "--scheduler-file", str(tmp_path / "scheduler.json")],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(tmp_path / "scheduler.json")]
    workers = subprocess.Popen(
        [*worker, "--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        import json

        while not (tmp_path / "scheduler.json").exists():
            assert scheduler.poll() is None
            time.sleep(0.1)
        address = json.loads((tmp_path / "scheduler.json").read_text())["address"]
        out = tmp_path / "out"
        check(out, compare(out, "--backend", "dask", "--scheduler", address), by_loky)
    finally:
        for process in (workers, scheduler):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


@pytest.mark.acceptance
def test_a_ray_cluster_by_its_address(by_loky, tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setitem(ENVIRONMENT, "RAY_AUTH_MODE", "token")
    monkeypatch.setitem(ENVIRONMENT, "RAY_AUTH_TOKEN", secrets.token_hex(32))  # the cluster's, and no one else's
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=false"]
    head = subprocess.Popen(
        [*start, "--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}", "--num-cpus=2"],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0:
                    break
            assert head.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(5.0)  # it answers before its node has joined
        check(tmp_path, compare(tmp_path, "--backend", "ray", "--scheduler", address), by_loky)
    finally:
        os.killpg(head.pid, signal.SIGTERM)  # in its own session, so that no other cluster's processes are meant
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait(timeout=30)


KILLER = """
import os, signal, sys
from pathlib import Path
from mpcrl.experiments import sweep
from mpcrl.experiments.machine import versions
from mpcrl.experiments.matrix import matrix_of
from mpcrl.experiments.store import Store

def execute(config, seed, threads):
    from mpcrl.experiments.sweep import execute
    if seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return execute(config, seed, threads)

def main():
    sweep.execute = execute
    matrix = matrix_of({"tasks": "lqr", "planners": "icem", "budgets": "16", "horizons": 6, "steps": 2, "seeds": 4})
    store = Store(Path(sys.argv[2]), versions())
    runs = sweep.Sweep(configs=matrix.configs(), seeds=matrix.seeds, store=store, backend=sys.argv[1], workers=2)
    with store.locked():
        for record in runs.execute(runs.runs):
            print(record["seed"], "error" in record, flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.acceptance
@pytest.mark.parametrize("backend", ["loky"])
def test_a_run_that_kills_its_worker_is_a_failure(backend: str, tmp_path) -> None:
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    done = subprocess.run(
        [sys.executable, str(script), backend, str(tmp_path / "out")],
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.endswith(("True", "False"))]
    assert sorted(told) == ["0 False", "1 False", "2 True", "3 False"]
    assert len(list((tmp_path / "out").rglob("2.failed.json"))) == 1


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_without_its_package_a_backend_says_how_to_get_it(backend: str, tmp_path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['dask', 'distributed', 'ray']))\n"
        "from mpcrl.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", "--out", str(tmp_path), *SWEEP.split(), "--backend", backend],
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert f"pip install 'mpcrl[{backend}]'" in done.stderr


@pytest.mark.acceptance
def test_where_no_scheduler_answers_that_is_said(tmp_path) -> None:
    pytest.importorskip("distributed")
    done = compare(tmp_path, "--backend", "dask", "--scheduler", "tcp://127.0.0.1:9")
    assert done.returncode == 2
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:9'" in done.stderr
