"""Results for other tools: Parquet and TensorBoard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcrl.core.errors import missing
from mpcrl.core.files import written
from mpcrl.experiments.tables import Group, Row

if TYPE_CHECKING:
    from mpcrl.experiments.training import TrainResult


def parquet(rows: Sequence[Row], path: Path) -> bool:
    """Write rows as Parquet; False, and nothing written, where pyarrow is not installed."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError:
        return False
    with written(path) as scratch:
        arrow.parquet.write_table(arrow.Table.from_pylist(list(rows)), scratch)
    return True


def tensorboard(groups: Sequence[Group], folder: Path) -> Path:
    """Write each run as TensorBoard's events, task / method / seed, in place of what an earlier export left.

    Scalars are the return so far over the control steps, the return, and the plan times.

    Raises
    ------
    MissingDependency
    """
    shutil.rmtree(folder, ignore_errors=True)
    for group in groups:
        for record in group.records:
            curve = record["curve"]
            scalars = [("return_so_far", step, value) for step, value in zip(*curve.values(), strict=True)]
            scalars.append(("return", 0, record["return"]))
            scalars += [(f"plan_ms/{name}", 0, value) for name, value in record["timing"]["plan_ms"].items()]
            _write_events(folder / _file_name(group.task) / _file_name(group.method) / str(record["seed"]), scalars)
    return folder


def training_events(result: TrainResult, folder: Path) -> Path:
    """Write a training's curve as TensorBoard's events over control steps, in place of an earlier export.

    Raises
    ------
    MissingDependency
    """
    shutil.rmtree(folder, ignore_errors=True)
    points = [point.row() for point in result.curve]
    scalars = [(name, int(p["steps"]), value) for p in points for name, value in p.items() if name != "steps"]
    scalars.append(("final_return", result.steps, result.final_return))
    _write_events(folder, [(name, step, value) for name, step, value in scalars if value == value])
    return folder


def event_writer() -> Any:
    """TensorBoard's writer of events, a class.

    Raises
    ------
    MissingDependency
    """
    try:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise missing("tensorboard", "tracking") from error
    return EventFileWriter


def _write_events(folder: Path, scalars: Sequence[tuple[str, int, float]]) -> None:
    """Write (tag, step, value) each."""
    writer = event_writer()(str(folder))
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    for tag, step, value in scalars:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        writer.add_event(Event(step=step, summary=summary, wall_time=float(step)))
    writer.close()


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", text)
