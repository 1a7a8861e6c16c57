"""Tables of a store's results. Those of returns hold nothing that a clock or the order of the runs has a part in."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.core.files import written
from mpcrl.experiments.config import labels
from mpcrl.experiments.statistics import interquartile_mean, mean, stratified_interval
from mpcrl.tasks.registry import ANALYTIC_TASKS

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Finished runs of one configuration under one set of versions: what may be averaged.

    Attributes
    ----------
    task : str
    method : str
        Label of the configuration, the same in all tasks; see `labels`.
    config : mapping
    versions : mapping
        What else results depend on: mpcrl, MuJoCo where it simulates, and in real time the CPU and the threads.
    records : tuple of mapping
        In the order of their seeds.
    """

    task: str
    method: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    records: tuple[Mapping[str, Any], ...]

    @property
    def hash(self) -> str:
        return str(self.records[0]["hash"])

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record["seed"] for record in self.records)

    @property
    def returns(self) -> np.ndarray:
        """Return of each run [n]."""
        return np.array([record["return"] for record in self.records])

    @property
    def planning_costs(self) -> np.ndarray:
        """Planning cost of each run [n]; NaN where it is not known."""
        return np.array([record.get("planning_cost") for record in self.records], np.float64)


def grouped(records: Iterable[Mapping[str, Any]], without: Sequence[str] = ()) -> list[Group]:
    """Records by configuration and versions, in the order of tasks, methods, hashes and versions.

    `without` is left out of the methods' labels; see `labels`.
    """
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault((record["hash"], *_versions(record).values()), []).append(record)
    groups = [sorted(group, key=lambda record: record["seed"]) for group in found.values()]
    told = labels([{**group[0]["config"], **_versions(group[0])} for group in groups], without)
    if not without:  # an edited preset has new settings under its old options
        twice = Counter((group[0]["config"]["task"], method) for method, group in zip(told, groups, strict=True))
        told = [
            f"{method}, {group[0]['hash']}" if twice[group[0]["config"]["task"], method] > 1 else method
            for method, group in zip(told, groups, strict=True)
        ]
    made = [
        Group(
            task=group[0]["config"]["task"],
            method=method,
            config=group[0]["config"],
            versions=_versions(group[0]),
            records=tuple(group),
        )
        for method, group in zip(told, groups, strict=True)
    ]
    return sorted(made, key=lambda group: (group.task, *_natural(group), group.hash, *group.versions.values()))


def result_rows(groups: Iterable[Group]) -> list[Row]:
    """One row per run: what it was, and what came of it."""
    return [
        {
            **_identity(group),
            "seed": record["seed"],
            "return": record["return"],
            "planning_cost": record.get("planning_cost"),  # results of before it was kept have none
            "steps": record["steps"],
            "ended": record["ended"],
            "samples": record["samples"],
            "failed_samples": record["failed_samples"],
            "fallbacks": record["fallbacks"],
            "control_hash": record["control_hash"][:16],
        }
        for group in groups
        for record in group.records
    ]


def summary_rows(groups: Iterable[Group]) -> list[Row]:
    """One row per configuration: mean and interquartile mean of the returns, with 95% intervals."""
    rows = []
    for group in groups:
        row = {**_identity(group), "runs": len(group.records)}
        for name, statistic in (("mean", mean), ("iqm", interquartile_mean)):
            found = stratified_interval([group.returns], statistic)
            row.update({name: float(found.value), f"{name}_low": float(found.low), f"{name}_high": float(found.high)})
        row["planning_cost"] = float(group.planning_costs.mean())
        rows.append({**row, "least": float(group.returns.min()), "most": float(group.returns.max())})
    return rows


def timing_rows(groups: Iterable[Group]) -> list[Row]:
    """One row per run: how long it took, and on what."""
    return [
        {
            "task": group.task,
            "method": group.method,
            "hash": group.hash,
            "seed": record["seed"],
            **{f"plan_{name}_ms": value for name, value in record["timing"]["plan_ms"].items()},
            **{name: record["timing"][name] for name in ("control_period_ms", "warmup_s", "seconds")},
            "threads": record["machine"]["threads"],
            "cpu": record["machine"]["cpu"],
        }
        for group in groups
        for record in group.records
    ]


def failure_rows(failures: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row per failed run."""
    rows = [
        {
            "task": record["config"]["task"],
            "planner": record["config"]["planner"],
            "budget": record["config"]["budget"],
            "horizon": record["config"]["horizon"],
            "hash": record["hash"],
            "seed": record["seed"],
            **{name: _versions(record).get(name, "") for name in ("mpcrl", "mujoco")},
            "error": record["error"],
        }
        for record in failures
    ]
    return sorted(rows, key=lambda row: (row["task"], row["planner"], row["hash"], row["seed"]))


def write_tables(groups: Sequence[Group], folder: Path) -> dict[str, list[Row]]:
    """Write results.csv, summary.csv and timing.csv; the rows of each."""
    tables = {"results": result_rows(groups), "summary": summary_rows(groups), "timing": timing_rows(groups)}
    for name, rows in tables.items():
        write_csv(rows, folder / f"{name}.csv")
    return tables


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Rows as CSV: floats with all their digits, nothing for what is not a number."""
    with written(path) as scratch, scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else (), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)


def timed(config: Mapping[str, Any]) -> bool:
    """Whether results depend on the machine's speed."""
    return config.get("conditions", {}).get("mode") == "realtime" or "time_share" in config


# ---- parts -------------------------------------------------------------------------------------------------------
def _versions(record: Mapping[str, Any]) -> dict[str, str]:
    found = {"mpcrl": record["versions"].get("mpcrl", "")}
    if record["config"]["task"] not in ANALYTIC_TASKS:
        found["mujoco"] = record["versions"].get("mujoco", "")
    if timed(record["config"]):
        found.update({key: str(record["machine"][key]) for key in ("cpu", "threads")})
    return found


def _natural(group: Group) -> tuple[Any, ...]:
    """Order of methods: sizes as numbers."""
    return group.config["planner"], group.config["budget"], group.config["horizon"], group.method


def _identity(group: Group) -> Row:
    config = group.config
    conditions = {key: value for key, value in config["conditions"].items() if key != "plant_scale"}
    scales = " ".join(f"{name}={scale}" for name, scale in config["conditions"]["plant_scale"].items())
    return {
        "task": group.task,
        "method": group.method,
        "planner": config["planner"],
        "budget": config["budget"],
        "horizon": config["horizon"],
        "options": " ".join(f"{name}={value}" for name, value in config["options"].items()),
        "model": config["model"],
        "dtype": config["dtype"],
        "most_steps": config["steps"],
        "controls_per_plan": config["controls_per_plan"],
        "time_share": config.get("time_share", np.nan),
        **conditions,
        "plant_scale": scales,
        "mpcrl": group.versions["mpcrl"],
        "mujoco": group.versions.get("mujoco", ""),
        "hash": group.hash,
    }
