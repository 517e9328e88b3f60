"""What a build with a matrix comes to, from what its cells came to.

The rule: the build has passed if all cells have. Else it is what the first cell in the file's order
came to that did not pass. All cells are run in any case, so no result depends on the time that a
machine took.
"""

from collections.abc import Mapping, Sequence

import msgspec

from ci.operations import ImageDigest, Outcome
from common.pipeline.pipeline_file import PipelineCell
from node.sandboxes.sandbox import ImageDigests, RunResult
from node.work.infrastructure_error import InfrastructureError


def result_of_cells(cells: Sequence[PipelineCell], results: Sequence[RunResult]) -> RunResult:
    """The build's result. results: of all cells, in their order.

    Raises InfrastructureError if an image was another one in another cell.
    """
    for cell, result in zip(cells, results, strict=True):
        if result.outcome is not Outcome.PASSED:
            problem = f"cell {cell.name}: {result.problem or result.outcome}"
            return msgspec.structs.replace(result, problem=problem, reports=None)
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
