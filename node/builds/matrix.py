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

from ci.operations import TESTED_OUTCOMES, ImageDigest, Outcome
from common.pipeline.pipeline_file import PIPELINE_FILE, PipelineCell
from node.outputs.cell_cases import EndedCell, cases_of_cells
from node.outputs.kept_builds import remove_folder
from node.sandboxes.sandbox import ImageDigests, RunResult, Sandbox, Work
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, in_thread


async def run_cells(
    sandbox: Sandbox, work: Work, cells: Sequence[PipelineCell], *, threads: ThreadPoolExecutor
) -> RunResult:
    """Run all cells, one after the other. Raises InfrastructureError, OSError.

    work: of the whole build. Nothing of a cell is left for the next one.
    """
    results: list[RunResult] = []
    ended: list[EndedCell] = []
    for number, cell in enumerate(cells, 1):
        work.log.note(f"cell {cell.name} ({number} of {len(cells)})")
        folder = work.folder / f"cell-{number}"
        began_at = time.monotonic()
        await in_thread(threads, partial(_make, folder))
        result = await sandbox.run(msgspec.structs.replace(work, job=cell.pipeline, folder=folder))
        await sandbox.remove(work.label)
        await in_thread(threads, partial(_remove, folder))
        if result.outcome is Outcome.SKIPPED:
            # `when` is the same for all cells
            return result
        if result.problem is not None:
            work.log.note(result.problem)
        work.log.note(f"cell {cell.name}: {result.in_words}")
        results.append(result)
        seconds = time.monotonic() - began_at
        message = None if result.outcome is Outcome.PASSED else result.in_words
        ended.append(EndedCell(cell.name, seconds, message, result.cases))
    result = result_of_cells(cells, results)
    if result.outcome not in TESTED_OUTCOMES:
        return result
    found = await in_thread(threads, lambda stop: cases_of_cells(ended, PIPELINE_FILE))
    if found.problem is not None:
        work.log.note(f"tests: {found.problem}")
    return msgspec.structs.replace(result, cases=found)


def result_of_cells(cells: Sequence[PipelineCell], results: Sequence[RunResult]) -> RunResult:
    """The build's result. results: of all cells, in their order.

    Raises InfrastructureError if an image was another one in another cell.
    """
    for cell, result in zip(cells, results, strict=True):
        if result.outcome is not Outcome.PASSED:
            problem = f"cell {cell.name}: {result.problem or result.outcome}"
            return msgspec.structs.replace(result, problem=problem, cases=None)
    known: dict[str, str | None] = {}
    for cell, result in zip(cells, results, strict=True):
        for name, digest in _images(cell, result).items():
            if known.setdefault(name, digest) != digest:
                raise InfrastructureError(
                    f"the registry gave image {name} another digest while the cells ran"
                )
    image_ids = {result.image_id for result in results}
    return RunResult(
        Outcome.PASSED,
        0,
        _digests(known),
        next(iter(image_ids)) if len(image_ids) == 1 else None,
    )


def _images(cell: PipelineCell, result: RunResult) -> Mapping[str, str | None]:
    """The digest of each image that a cell ran in; nothing if no image was looked at."""
    if isinstance(result.image_digest, tuple):
        return {image.name: image.digest for image in result.image_digest}
    if result.image_digest is None and result.image_id is None:
        return {}
    return {cell.pipeline.steps[0].image: result.image_digest}


def _digests(known: Mapping[str, str | None]) -> ImageDigests:
    """As `ci.operations.ResultKey.image_digest`."""
    if len(known) < 2:
        return next(iter(known.values()), None)
    return tuple(ImageDigest(name, known[name]) for name in sorted(known))


def _make(folder: Path, stop: Stop) -> None:
    folder.mkdir()


def _remove(folder: Path, stop: Stop) -> None:
    remove_folder(folder)
