"""Runs the cells of a matrix, and says what the build comes to.

The rule: the build has passed if all cells have. Else it is what the first cell in the file's order
came to that did not pass. All cells are run in any case, so no result depends on the time that a
machine took.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from ci.operations import TESTED_OUTCOMES, Artifact, ImageDigest, Outcome
from common.pipeline.pipeline_file import PIPELINE_FILE, PipelineCell
from node.outputs.artifact_store import FilesWrong, join_artifacts
from node.outputs.cell_cases import EndedCell, cases_of_cells
from node.outputs.kept_builds import remove_folder
from node.sandboxes.sandbox import ImageDigests, Origin, RunResult, Sandbox, Work, failed
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, in_thread


async def run_cells(
    sandbox: Sandbox, work: Work, cells: Sequence[PipelineCell], *, threads: ThreadPoolExecutor
) -> RunResult:
    """Run all cells, one after the other. Raises InfrastructureError, OSError.

    work: of the whole build. Nothing of a cell is left for the next one but what it collected.
    """
    results: list[RunResult] = []
    ended: list[EndedCell] = []
    collected = _CellArtifacts(work)
    for number, cell in enumerate(cells, 1):
        work.log.note(f"cell {cell.name} ({number} of {len(cells)})")
        folder = work.folder / f"cell-{number}"
        began_at = time.monotonic()
        await in_thread(threads, partial(_make, folder))
        cell_work = msgspec.structs.replace(work, job=cell.pipeline, folder=folder)
        result = await sandbox.run(cell_work)
        await sandbox.remove(work.label)
        if result.artifacts:
            await in_thread(
                threads, partial(collected.take, cell, cell_work, artifacts=result.artifacts)
            )
        await in_thread(threads, partial(_remove, folder))
        if result.problem is not None:
            work.log.note(result.problem)
        work.log.note(f"cell {cell.name}: {result.in_words}")
        results.append(result)
        seconds = time.monotonic() - began_at
        is_skipped = result.outcome is Outcome.SKIPPED
        message = None if is_skipped or result.outcome is Outcome.PASSED else result.in_words
        ended.append(EndedCell(cell.name, seconds, message, result.cases, is_skipped))
    result = result_of_cells([_as_run(cell, work.origin) for cell in cells], results)
    if result.outcome is Outcome.PASSED:
        result = await in_thread(threads, partial(collected.join, result))
    if result.outcome not in TESTED_OUTCOMES:
        return result
    found = await in_thread(threads, lambda stop: cases_of_cells(ended, PIPELINE_FILE))
    if found.problem is not None:
        work.log.note(f"tests: {found.problem}")
    return msgspec.structs.replace(result, cases=found)


def result_of_cells(cells: Sequence[PipelineCell], results: Sequence[RunResult]) -> RunResult:
    """The build's result. cells: with those steps alone that are wanted. results: in their order.

    A cell that no step is for counts neither way; if all are such, nothing has passed.
    Raises InfrastructureError if an image was another one in another cell.
    """
    ran = [
        (cell, result)
        for cell, result in zip(cells, results, strict=True)
        if result.outcome is not Outcome.SKIPPED
    ]
    if not ran:
        return results[0]
    for cell, result in ran:
        if result.outcome is not Outcome.PASSED:
            problem = f"cell {cell.name}: {result.problem or result.outcome}"
            return msgspec.structs.replace(result, problem=problem, cases=None)
    known: dict[str, str | None] = {}
    for cell, result in ran:
        for name, digest in _images(cell, result).items():
            if known.setdefault(name, digest) != digest:
                raise InfrastructureError(
                    f"the registry gave image {name} another digest while the cells ran"
                )
    image_ids = {result.image_id for _, result in ran}
    return RunResult(
        Outcome.PASSED,
        0,
        _digests(known),
        next(iter(image_ids)) if len(image_ids) == 1 else None,
    )


class _CellArtifacts:
    """What the cells of a build collected, until it is known what the build comes to."""

    def __init__(self, work: Work) -> None:
        """work: of the whole build."""
        self._work = work
        self._parts: dict[str, tuple[Path, tuple[Artifact, ...]]] = {}
        self._is_too_much = False

    def take(
        self, cell: PipelineCell, cell_work: Work, stop: Stop, *, artifacts: tuple[Artifact, ...]
    ) -> None:
        """Move a cell's files aside; none, if those of all have too many or too many bytes."""
        if self._is_too_much:
            return
        kept = self._work.folder / f"artifacts of {cell_work.folder.name}"
        cell_work.artifacts_folder.rename(kept)
        self._parts[cell.folder] = kept, artifacts
        taken = [artifact for _, part in self._parts.values() for artifact in part]
        limits = self._work.limits
        self._is_too_much = (
            len(taken) > limits.artifacts_max
            or sum(artifact.length for artifact in taken) > limits.artifact_bytes_max
        )

    def join(self, passed: RunResult, stop: Stop) -> RunResult:
        """The build's result with the files of all cells; failed if they are too much."""
        if not self._parts:
            return passed
        limits = self._work.limits
        if self._is_too_much:
            return failed(
                passed,
                f"artifacts: those of all cells are more than {limits.artifacts_max} files or"
                f" {limits.artifact_bytes_max} bytes",
            )
        try:
            made = join_artifacts(self._parts, self._work.artifacts_folder)
        except FilesWrong as wrong:
            return failed(passed, f"artifact {wrong}")
        return msgspec.structs.replace(passed, artifacts=made)


def _as_run(cell: PipelineCell, origin: Origin) -> PipelineCell:
    """The cell with the steps that are wanted in it."""
    wanted = tuple(
        step
        for step in cell.pipeline.steps
        if step.is_wanted(origin.branch, origin.event, origin.schedule)
    )
    pipeline = msgspec.structs.replace(cell.pipeline, steps=wanted)
    return msgspec.structs.replace(cell, pipeline=pipeline)


def _images(cell: PipelineCell, result: RunResult) -> Mapping[str, str | None]:
    """The digest of each image that a cell ran in; nothing if no image was looked at."""
    if isinstance(result.image_digest, tuple):
        return {image.name: image.digest for image in result.image_digest}
    if result.image_digest is None and result.image_id is None:
        return {}
    return {cell.pipeline.images(cell.pipeline.steps)[0]: result.image_digest}


def _digests(known: Mapping[str, str | None]) -> ImageDigests:
    """As `ci.operations.ResultKey.image_digest`."""
    if len(known) < 2:
        return next(iter(known.values()), None)
    return tuple(ImageDigest(name, known[name]) for name in sorted(known))


def _make(folder: Path, stop: Stop) -> None:
    folder.mkdir()


def _remove(folder: Path, stop: Stop) -> None:
    remove_folder(folder)
