"""What a run leaves behind: its numbers, a plot, a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mpcrl.core.errors import InvalidInput, MpcrlError
from mpcrl.core.files import atomic, writable_folder
from mpcrl.experiments.plots import save_plot
from mpcrl.experiments.run import RunResult
from mpcrl.experiments.video import picture_count, save_video
from mpcrl.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Files to write; their folders are made, and found to be writable, before the run.

    Attributes
    ----------
    json : Path or None
        For the numbers.
    folder : Path or None
        For `run.json`, `run.png` and `run.mp4`.
    video : bool
        Whether to write the video.

    Raises
    ------
    InvalidInput
        A folder cannot be made or written to, or there is none for the video.
    """

    json: Path | None
    folder: Path | None
    video: bool

    def __post_init__(self) -> None:
        if self.video and self.folder is None:
            raise InvalidInput("a video needs a folder to be written to; add --out DIR")
        if self.folder is not None:
            writable_folder(self.folder)
        if self.json is not None:
            if self.json.is_dir():
                raise InvalidInput(f"{str(self.json)!r} is a folder; give a file for the result, such as result.json")
            writable_folder(self.json.parent)

    def write(self, task: Task, result: RunResult, *, no_video: str = "") -> Iterator[str]:
        """Write all files; one sentence about each, also where one cannot be made.

        Parameters
        ----------
        task : Task
        result : RunResult
        no_video : str
            Why it is known already that there can be no video.
        """
        for path in (self.json, self.folder and self.folder / "run.json"):
            if path is not None:
                with atomic(path) as scratch:
                    scratch.write_text(result.to_json())
                yield f"result: {path}"
        if self.folder is None:
            return
        try:
            save_plot(task, result, self.folder / "run.png")
            yield f"plot: {self.folder / 'run.png'}"
        except MpcrlError as error:
            yield f"no plot: {error}"
        if not self.video:
            return
        if result.interrupted:
            no_video = "the run was interrupted"
        if not no_video:
            yield f"drawing {picture_count(task, result.records[0])} pictures for the video"
            try:
                save_video(task, result.records[0], self.folder / "run.mp4")
            except Exception as error:  # noqa: BLE001  graphics drivers raise anything, and the run is over and well
                no_video = " ".join(str(error).split()) or type(error).__name__
        yield f"no video: {no_video}" if no_video else f"video: {self.folder / 'run.mp4'}"
