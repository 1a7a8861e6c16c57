"""Results for other tools: Parquet and TensorBoard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from mpcrl.core.errors import missing
from mpcrl.core.files import written
from mpcrl.experiments.tables import Group, Row


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
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise missing("tensorboard", "tracking") from error
    shutil.rmtree(folder, ignore_errors=True)
    for group in groups:
        for record in group.records:
            where = folder / _file_name(group.task) / _file_name(group.method) / str(record["seed"])
            writer = EventFileWriter(str(where))
            curve = record["curve"]
            scalars = [("return_so_far", step, value) for step, value in zip(*curve.values(), strict=True)]
            scalars.append(("return", 0, record["return"]))
            scalars += [(f"plan_ms/{name}", 0, value) for name, value in record["timing"]["plan_ms"].items()]
            for tag, step, value in scalars:
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                writer.add_event(Event(step=step, summary=summary, wall_time=float(step)))
            writer.close()
    return folder


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", text)
