"""Returns made comparable across tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpcrl.experiments.tables import Group

RULE = (
    "Scores are returns made comparable across tasks: for dm_control, whose rewards lie in [0, 1], the return over the "
    "number of control steps; for all other tasks (return - least) / (most - least), where least and most are those of "
    "all runs in this report. Scores of the second kind change when runs are added."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scores of the methods that were run on all of some tasks.

    Attributes
    ----------
    tasks : tuple of str
    methods : tuple of str
        In falling order of their mean score.
    values : dict of str to list of ndarray [n]
        For each method the scores of its runs on each task.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    values: dict[str, list[np.ndarray]]


def scores_of(groups: Sequence[Group]) -> Scores:
    """Scores of the methods that have results on every task that has any."""
    tasks = tuple(dict.fromkeys(group.task for group in groups))
    by_method: dict[str, dict[str, np.ndarray]] = {}
    for task in tasks:
        mine = [group for group in groups if group.task == task]
        everything = np.concatenate([group.returns for group in mine])
        least, span = everything.min(), np.ptp(everything)
        for group in mine:
            if task.startswith("dm_control/"):
                scores = group.returns / group.config["steps"]
            else:
                scores = (group.returns - least) / (span or 1.0)
            by_method.setdefault(group.method, {})[task] = scores
    complete = {
        method: [found[task] for task in tasks] for method, found in by_method.items() if len(found) == len(tasks)
    }
    order = sorted(complete, key=lambda method: -float(np.mean([scores.mean() for scores in complete[method]])))
    return Scores(tasks=tasks, methods=tuple(order), values={method: complete[method] for method in order})
