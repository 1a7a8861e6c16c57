"""`mpcrl report`: pages, tables and exports from a sweep's folder, and what it says where there is little to show."""

from __future__ import annotations

import csv
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcrl.cli import main
from mpcrl.experiments.export import tensorboard
from mpcrl.experiments.page import Block, Figure, Heading, Sentences, Table, markdown, webpage
from mpcrl.experiments.report import write_report
from mpcrl.experiments.scores import scores_of
from mpcrl.experiments.store import Store
from mpcrl.experiments.tables import grouped

FIGURES = {"scores", "profiles", "improvement", "budget", "plan_time", "curves", "histograms"}


def compare(out: Path, *arguments: str) -> None:
    given = ["compare", "--out", str(out), "--workers", "1", "--threads", "1", "--horizons", "6", "--steps", "5"]
    assert main([*given, *arguments]) == 0


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sweep")
    compare(out, "--tasks", "lqr,pendulum-swingup", "--planners", "icem,mppi", "--budgets", "16,24", "--seeds", "4")
    return out


@pytest.fixture(scope="module")
def reported(sweep) -> Path:
    pytest.importorskip("matplotlib")
    assert main(["report", str(sweep)]) == 0
    return sweep


class Reader(HTMLParser):
    """Checks that tags are closed in order, and collects what refers to other files."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_whole_and_needs_no_other_file(reported) -> None:
    reader = Reader()
    reader.feed((reported / "report.html").read_text())
    assert reader.open == []
    assert len(reader.sources) == len(FIGURES)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in reader.sources)
    text = " ".join(reader.texts)
    for words in ("8 configurations on 2 tasks", "32 runs", "icem, budget 24", "interquartile", "versions"):
        assert words in text
    summary = list(csv.DictReader((reported / "summary.csv").open()))
    for row in summary:
        shown = f"{float(row['mean']):,.1f}".replace("-", "\N{MINUS SIGN}")
        assert abs(float(row["mean"])) < 100 or shown in text
        assert row["hash"] in text


def test_markdown_shows_every_figure(reported) -> None:
    text = (reported / "report.md").read_text()
    paths = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert {Path(path).stem for path in paths} == FIGURES
    for path in paths:
        root = ElementTree.parse(reported / path).getroot()
        assert root.tag.endswith("svg")
        drawn = [element for element in root.iter() if element.tag.endswith("path")]
        assert len(drawn) > 10
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 5  # returns of two tasks, scores, times, configurations
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)


def test_scores_are_between_the_worst_and_the_best_run(sweep) -> None:
    groups = grouped(Store(sweep, {}).records()[0])
    scores = scores_of(groups)
    assert scores.tasks == ("lqr", "pendulum-swingup")
    assert set(scores.methods) == {f"{name}, budget {budget}" for name in ("icem", "mppi") for budget in (16, 24)}
    for task in range(2):
        everything = np.concatenate([scores.values[method][task] for method in scores.methods])
        assert (everything.min(), everything.max()) == (0.0, 1.0)
    means = [np.mean([values.mean() for values in scores.values[method]]) for method in scores.methods]
    assert means == sorted(means, reverse=True)


def test_dm_control_is_scored_by_its_own_scale() -> None:
    record = {"hash": "a", "seed": 0, "return": 250.0, "versions": {"mpcrl": "0", "mujoco": "3"}}
    config = {"task": "dm_control/x-v0", "planner": "icem", "steps": 500, "budget": 1, "horizon": 1, "options": {}}
    assert scores_of(grouped([{**record, "config": config}])).values["icem"][0].tolist() == [0.5]


def test_a_method_that_was_not_run_everywhere_is_left_out_of_the_whole(sweep, tmp_path) -> None:
    records = [r for r in Store(sweep, {}).records()[0] if (r["config"]["task"], r["config"]["budget"]) != ("lqr", 24)]
    scores = scores_of(grouped(records))
    assert all("24" not in method for method in scores.methods)
    assert scores.methods
    pytest.importorskip("matplotlib")
    store = Store(tmp_path, {})
    for record in records:
        store.save(record)
    list(write_report(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert "Not on every task, and so left out: icem, budget 24; mppi, budget 24." in text


@pytest.mark.parametrize("name", ["results", "summary", "timing"])
def test_csv_and_parquet_hold_the_same(name: str, reported) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(reported / f"{name}.parquet").to_pylist()
    rows = list(csv.DictReader((reported / f"{name}.csv").open()))
    assert len(table) == len(rows) == (8 if name == "summary" else 32)
    for one, other in zip(table, rows, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            text = other[key]
            assert text == ("" if value is None or value != value else str(value)), key


def test_planning_cost_stands_beside_the_reward_where_it_is_another(sweep, tmp_path) -> None:
    results, _, _ = Store(sweep, {}).records()
    store = Store(tmp_path, {})
    for record in results:
        lqr = record["config"]["task"] == "lqr"
        assert record["planning_cost"] == pytest.approx(-record["return"], rel=1e-12)
        store.save({**record, "planning_cost": 1234.5} if lqr else record)
    list(write_report(tmp_path))
    blocks = (tmp_path / "report.md").read_text().split("\n\n")
    table = {task: blocks[blocks.index(f"### {task}") + 1] for task in ("lqr", "pendulum-swingup")}
    assert table["lqr"].splitlines()[0].endswith("| planning cost |")
    assert table["lqr"].count("1,234") + table["lqr"].count("1,235") == 4
    assert "planning cost" not in table["pendulum-swingup"]
    for record in results:  # as they were before it was kept
        store.save({key: value for key, value in record.items() if key != "planning_cost"})
    list(write_report(tmp_path))
    assert "| planning cost" not in (tmp_path / "report.md").read_text()
    assert {row["planning_cost"] for row in csv.DictReader((tmp_path / "results.csv").open())} == {""}


def test_one_task_with_two_control_periods_is_a_report(sweep, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    results, _, _ = Store(sweep, {}).records()
    store = Store(tmp_path, {})
    store.save(results[0])
    timing = {**results[0]["timing"], "control_period_ms": 7.0}
    store.save({**results[0], "versions": {**results[0]["versions"], "mpcrl": "0.0.1"}, "timing": timing})
    assert any("report.html" in sentence for sentence in write_report(tmp_path))


def test_tensorboard_reads_the_export(sweep, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    groups = grouped(Store(sweep, {}).records()[0])
    tensorboard(groups, tmp_path / "events")
    folder = tensorboard(groups, tmp_path / "events")  # in place of the first
    runs = sorted({file.parent for file in folder.rglob("*tfevents*")})
    assert len(runs) == 32
    assert len(list(folder.rglob("*tfevents*"))) == 32
    events = EventAccumulator(str(folder / "lqr" / "icem_budget_16" / "2"))
    events.Reload()
    record = next(
        r for g in groups for r in g.records if (g.task, g.method, r["seed"]) == ("lqr", "icem, budget 16", 2)
    )
    so_far = events.Scalars("return_so_far")
    assert [event.step for event in so_far] == record["curve"]["steps"]
    assert so_far[-1].value == pytest.approx(record["return"], rel=1e-6)
    assert events.Scalars("plan_ms/p50")[0].value == pytest.approx(record["timing"]["plan_ms"]["p50"], rel=1e-6)


def test_one_run_is_a_report(tmp_path) -> None:
    compare(tmp_path, "--tasks", "lqr", "--planners", "icem", "--budgets", "16", "--seeds", "1")
    list(write_report(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert "1 configuration on 1 task" in text
    assert "Some configurations have 1 run only" in text
    assert "Probability of improvement" not in text
    assert "nan" not in text.split("Every configuration")[0]


@pytest.mark.parametrize("argument", ["none", "empty"])
def test_a_folder_without_results_is_refused(argument: str, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / argument)]) == 2
    assert "holds no results; `mpcrl compare --out" in capsys.readouterr().err
    (tmp_path / "empty" / "runs").mkdir()
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "no run is finished" in capsys.readouterr().err


def test_failures_are_told_and_nothing_but_failures_too(sweep, tmp_path, capsys) -> None:
    results, _, _ = Store(sweep, {}).records()
    store = Store(tmp_path, {})
    failure = {key: results[0][key] for key in ("format", "hash", "seed", "config", "versions", "machine")}
    store.save({**failure, "error": "ValueError: it broke", "traceback": "..."})
    assert main(["report", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "all 1 runs failed, the first with: ValueError: it broke" in told.err
    assert "ValueError: it broke" in (tmp_path / "failures.csv").read_text()
    store.save(results[1])
    sentences = list(write_report(tmp_path))
    assert any("1 runs failed" in sentence for sentence in sentences)
    assert (tmp_path / "failures.csv").exists()
    assert "1 run failed and is not in the numbers." in (tmp_path / "report.md").read_text()
    store.save(results[0])  # it was tried again, and is well
    list(write_report(tmp_path))
    assert not (tmp_path / "failures.csv").exists()


def test_missing_runs_and_several_mujocos_are_told(sweep, tmp_path) -> None:
    results, _, _ = Store(sweep, {}).records()
    store = Store(tmp_path, {})
    for record in results[:3]:
        store.save(record)
    store.write_sweep(json.loads((sweep / "sweep.json").read_text()))
    config = {**results[0]["config"], "task": "HalfCheetah-v5"}
    for number in ("3.1.0", "3.2.0"):
        store.save({**results[0], "config": config, "versions": {"mpcrl": "0.1.0", "mujoco": number}})
    list(write_report(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert "29 runs of the last sweep still to be done" in text
    planned = json.loads((sweep / "sweep.json").read_text())
    store.write_sweep({**planned, "versions": {**planned["versions"], "mpcrl": "99"}})  # none of them by this version
    list(write_report(tmp_path))
    assert "32 runs of the last sweep still to be done" in (tmp_path / "report.md").read_text()
    assert "Results are from MuJoCo 3.1.0, 3.2.0, which are never averaged" in text
    assert "icem, mujoco 3.2.0" in text


def test_without_matplotlib_there_is_a_report_without_figures(sweep, tmp_path, monkeypatch) -> None:
    store = Store(tmp_path, {})
    for record in Store(sweep, {}).records()[0]:
        store.save(record)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    sentences = list(write_report(tmp_path))
    assert "pip install 'mpcrl[plots]'" in (tmp_path / "report.html").read_text().replace("&#x27;", "'")
    assert not any("parquet" in sentence for sentence in sentences)


def test_what_a_page_shows_is_escaped() -> None:
    blocks: list[Block] = [
        Heading(1, "a < b"),
        Sentences("x & y"),
        Table(("one", "two"), [("<script>", "a|b")], best=frozenset({0})),
        Figure("f.svg", 'a "quoted" caption', b"<svg/>"),
    ]
    text = webpage(blocks)
    assert "<title>a &lt; b</title>" in text
    assert "<script>" not in text
    assert 'alt="a &quot;quoted&quot; caption"' in text
    assert "| **&lt;script>** | **a\\|b** |" in markdown(blocks)


def test_the_page_says_that_not_all_methods_are_drawn(sweep, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    (record, *_), _, _ = Store(sweep, {}).records()
    store = Store(tmp_path, {})
    for budget in range(20, 29):
        store.save({**record, "hash": f"{budget:012d}", "config": {**record["config"], "budget": budget}})
    list(write_report(tmp_path))
    assert (tmp_path / "report.md").read_text().count("Only the best 8 of 9 methods are drawn.") == 3 * 2
