"""What `mpcrl report` makes of a folder of results: pages, tables, and exports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.core.errors import InvalidInput, MissingDependency
from mpcrl.experiments import export, figures
from mpcrl.experiments.files import writable_folder, written
from mpcrl.experiments.page import Block, Figure, Heading, Listing, Sentences, Table, markdown, webpage
from mpcrl.experiments.scores import RULE, Scores, scores_of
from mpcrl.experiments.statistics import (
    Estimate,
    interquartile_mean,
    mean,
    probability_of_improvement,
    stratified_interval,
)
from mpcrl.experiments.store import Store, versions_tag
from mpcrl.experiments.tables import Group, Row, failure_rows, grouped, timed, write_csv, write_tables

_SHOWN = 20  # failures on the page; the file has all


def write_report(folder: Path, *, tensorboard: bool = False) -> Iterator[str]:
    """Read the results in a sweep's folder and write report.md, report.html and tables; one sentence about each.

    Raises
    ------
    InvalidInput
        There are no results, and why.
    """
    if not (folder / "runs").is_dir():
        raise InvalidInput(f"{str(folder)!r} holds no results; `mpcrl compare --out {folder} ...` makes some")
    writable_folder(folder)
    results, failures, damaged = Store(folder, {}).records()
    failed = failure_rows(failures)
    (folder / "failures.csv").unlink(missing_ok=True)  # of an earlier report
    if failed:
        write_csv(failed, folder / "failures.csv")
        yield f"{len(failed)} runs failed: {folder / 'failures.csv'}"
    if damaged:
        yield f"{len(damaged)} damaged files were set aside, such as {damaged[0]}"
    if not results:
        why = f"all {len(failed)} runs failed, the first with: {failed[0]['error']}" if failed else "no run is finished"
        raise InvalidInput(f"{str(folder)!r} holds no results: {why}")
    groups = grouped(results)
    tables = write_tables(groups, folder)
    yield f"tables: {folder / 'results.csv'}, summary.csv, timing.csv"
    if all(export.parquet(rows, folder / f"{name}.parquet") for name, rows in tables.items()):
        yield f"the same as Parquet: {folder / 'results.parquet'}, summary.parquet, timing.parquet"
    if tensorboard:
        yield f"TensorBoard: tensorboard --logdir {export.tensorboard(groups, folder / 'tensorboard')}"
    blocks = list(_page(folder, groups, tables, failed, damaged))
    writable_folder(folder / "figures")
    for block in blocks:
        if isinstance(block, Figure):
            with written(folder / block.path) as scratch:
                scratch.write_bytes(block.svg)
    for name, text in (("report.md", markdown(blocks)), ("report.html", webpage(blocks))):
        with written(folder / name) as scratch:
            scratch.write_text(text)
        yield f"report: {folder / name}"


# ---- parts -------------------------------------------------------------------------------------------------------
def _page(
    folder: Path, groups: Sequence[Group], tables: dict[str, list[Row]], failed: Sequence[Row], damaged: Sequence[Path]
) -> Iterator[Block]:
    tasks = list(dict.fromkeys(group.task for group in groups))
    runs = sum(len(group.records) for group in groups)
    yield Heading(1, f"Comparison: {_count(len(groups), 'configuration')} on {_count(len(tasks), 'task')}")
    yield Sentences(f"{_count(runs, 'run')}. " + " ".join(_caveats(folder, groups, failed, damaged)))
    yield from _returns(tables["summary"], tasks)
    scores = scores_of(groups)
    if len(scores.methods) > 1:
        yield from _overall(scores, groups)
    try:
        for name, caption, svg in figures.figures(groups, grouped(_records(groups), ("budget",)), scores):
            yield Heading(2, _TITLES[name])
            yield Figure(f"figures/{name}.svg", caption, svg)
    except MissingDependency as error:
        yield Sentences(f"There are no figures: {error}.")
    yield from _times(groups)
    if failed:
        yield Heading(2, "Failed runs")
        rows = [[r["task"], r["planner"], str(r["budget"]), str(r["seed"]), r["error"]] for r in failed[:_SHOWN]]
        yield Table(("task", "planner", "budget", "seed", "error"), rows, frozenset({2, 3}))
    yield from _provenance(groups)


_TITLES = {
    "scores": "Scores",
    "profiles": "Performance profiles",
    "improvement": "Probability of improvement",
    "budget": "Return against budget",
    "plan_time": "Return against plan time",
    "curves": "Episodes",
    "histograms": "Plan times",
}


def _caveats(folder: Path, groups: Sequence[Group], failed: Sequence[Row], damaged: Sequence[Path]) -> Iterator[str]:
    """What a reader has to know before the numbers."""
    if failed:
        yield f"{_count(len(failed), 'run')} failed and {'is' if len(failed) == 1 else 'are'} not in the numbers."
    if damaged:
        yield f"{_count(len(damaged), 'damaged file')} set aside."
    diverged = [group for group in groups for record in group.records if record["ended"] == "diverged"]
    if diverged:
        where = "; ".join(dict.fromkeys(f"{group.task}: {group.method}" for group in diverged))
        yield (
            f"In {_count(len(diverged), 'run')} the world diverged ({where}); the return stops there, which flatters "
            "where rewards are negative."
        )
    planned = _planned(folder)
    ended = {(versions_tag(group.task, group.versions), group.hash, seed) for group in groups for seed in group.seeds}
    ended |= {(versions_tag(row["task"], row), row["hash"], row["seed"]) for row in failed}
    if planned - ended:
        yield f"{_count(len(planned - ended), 'run')} of the last sweep still to be done."
    versions = {group.versions["mujoco"] for group in groups if "mujoco" in group.versions}
    if len(versions) > 1:
        listing = ", ".join(sorted(versions))
        yield f"Results are from MuJoCo {listing}, which are never averaged: each is a configuration of its own."
    if any(timed(group.config) for group in groups):
        yield (
            "In real time, or with a limit on the time of plans, returns depend on the machine's speed: other CPUs or "
            "threads are other configurations."
        )
    few = min(len(group.records) for group in groups)
    if few < 10:
        yield (
            f"Some configurations have {_count(few, 'run')} only: below 10 runs, 95% intervals of a single task's mean "
            "contain the truth less often than they say (about 91% with 5)."
        )


def _returns(summary: Sequence[Row], tasks: Sequence[str]) -> Iterator[Block]:
    yield Heading(2, "Returns")
    yield Sentences(
        "Mean and interquartile mean (of the middle half of the runs) with 95% bootstrap intervals, best mean first; "
        "more is better. Episodes are scored by the environment's own reward; where plans minimise another cost, its "
        "mean over the episodes as they came about stands beside it, and less is better."
    )
    for task in tasks:
        mine = sorted((row for row in summary if row["task"] == task), key=lambda row: -row["mean"])
        shaped = any(abs(row["planning_cost"] + row["mean"]) > 1e-9 * abs(row["mean"]) for row in mine)
        rows = [
            [
                row["method"],
                str(row["runs"]),
                *_cells(row, "mean"),
                *_cells(row, "iqm"),
                f"{_number(row['least'])} to {_number(row['most'])}",
                *([_number(row["planning_cost"]) if row["planning_cost"] == row["planning_cost"] else ""] * shaped),
            ]
            for row in mine
        ]
        if len(tasks) > 1:
            yield Heading(3, task)
        head = ("method" if len(tasks) > 1 else task, "runs", "mean", "95% interval", "IQM", "95% interval", "range")
        yield Table((*head, *("planning cost",) * shaped), rows, frozenset({1, 2, 4, 7}), frozenset({0}))


def _overall(scores: Scores, groups: Sequence[Group]) -> Iterator[Block]:
    yield Heading(
        2, f"All {_count(len(scores.tasks), 'task')} together" if len(scores.tasks) > 1 else "Scores in numbers"
    )
    left_out = sorted({group.method for group in groups} - set(scores.methods))
    absent = f" Not on every task, and so left out: {'; '.join(left_out)}." if left_out else ""
    yield Sentences(f"{RULE} Bootstraps draw runs within each task.{absent}")
    rows = []
    for method in scores.methods:
        found = [stratified_interval(scores.values[method], statistic) for statistic in (mean, interquartile_mean)]
        if method != scores.methods[0]:
            found.append(probability_of_improvement(scores.values[scores.methods[0]], scores.values[method]))
        runs = sum(values.size for values in scores.values[method])
        cells = [cell for estimate in found for cell in _estimate_cells(estimate)]
        rows.append([method, str(runs), *cells, *([""] * (6 - len(cells)))])
    intervals = "95% interval"
    head = ("method", "runs", "mean score", intervals, "IQM", intervals, "P(best beats it)", intervals)
    yield Table(head, rows, frozenset({1, 2, 4, 6}), frozenset({0}))


def _times(groups: Sequence[Group]) -> Iterator[Block]:
    """Plan times in numbers, under their figure."""
    rows = []
    for group in groups:
        times = [record["timing"]["plan_ms"] for record in group.records]
        p50, p99 = (float(np.median([time[key] for time in times])) for key in ("p50", "p99"))
        period = group.records[0]["timing"]["control_period_ms"]
        threads = "/".join(sorted({str(record["machine"]["threads"]) for record in group.records}))
        rows.append(
            [group.task, group.method, f"{p50:.3g}", f"{p99:.3g}", f"{period:g}", f"{p50 / period:.2g}", threads]
        )
    cpus = Counter(record["machine"]["cpu"] for record in _records(groups))
    yield Sentences(
        "Medians over runs of each run's p50 and p99, in ms; a share of the control period below 1 keeps up with the "
        f"world. Runs of a sweep share their machine's cores and memory. On: {', '.join(cpus)}."
    )
    head = ("task", "method", "p50", "p99", "control period", "share", "threads")
    yield Table(head, rows, frozenset({2, 3, 4, 5, 6}))


def _provenance(groups: Sequence[Group]) -> Iterator[Block]:
    yield Heading(2, "Configurations and versions")
    rows = [
        [
            group.hash,
            group.task,
            group.method,
            str(group.config["budget"]),
            str(group.config["horizon"]),
            str(group.config["steps"]),
            f"{group.config['model']}, {group.config['dtype']}",
            ", ".join(f"{name} {version}" for name, version in group.versions.items()),
            _ranges(group.seeds),
        ]
        for group in groups
    ]
    head = ("hash", "task", "method", "budget", "horizon", "steps", "model", "versions", "seeds")
    yield Table(head, rows, frozenset({3, 4, 5}))
    resolved = {f"{group.hash} {group.task}: {group.method}": group.config for group in groups}
    yield Listing("Every configuration in full", json.dumps(resolved, indent=1))
    facts: dict[str, Any] = {}
    for record in _records(groups):
        text = json.dumps({"versions": record["versions"], "machine": record["machine"]}, indent=1)
        facts.setdefault(text, []).append(record["seed"])
    listing = "\n\n".join(f"{_count(len(seeds), 'run')}:\n{text}" for text, seeds in facts.items())
    yield Listing("Versions and machines", listing)


def _planned(folder: Path) -> set[tuple[str, str, int]]:
    """Runs that the last sweep was to do: versions, configuration, seed."""
    try:
        sweep = json.loads((folder / "sweep.json").read_text())
        tags = {hash_: versions_tag(config["task"], sweep["versions"]) for hash_, config in sweep["configs"].items()}
        return {(tag, hash_, seed) for hash_, tag in tags.items() for seed in sweep["seeds"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _records(groups: Sequence[Group]) -> list[Any]:
    return [record for group in groups for record in group.records]


def _cells(row: Row, name: str) -> tuple[str, str]:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return _number(row[name]), f"{_number(low)} to {_number(high)}" if low == low else ""


def _estimate_cells(found: Estimate) -> tuple[str, str]:
    value, low, high = (float(number) for number in found)
    return f"{value:.3f}", f"{low:.3f} to {high:.3f}" if low == low else ""


def _number(value: float) -> str:
    """About four digits, and a minus sign that cannot be taken for a hyphen."""
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _ranges(seeds: Sequence[int]) -> str:
    """0, 1, 2, 5 as 0-2, 5."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
