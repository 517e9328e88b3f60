"""Where a member keeps what a later epoch begins with, in its data directory (decision 0062)."""

from pathlib import Path

# An encoded pbft.epoch_link.EpochLink, which is public. It is missing at a replica that was new,
# and where an older version made the folder.
LINK_NAME = "epoch-link"
# The cluster file of the epoch, with all keys in it; it is missing at a replica that was new.
CLUSTER_NAME = "cluster.yml"
# The state at the end of the epoch before; only replicas have it.
BEGIN_NAME = "begin-state"
# The name of a folder that is not complete.
UNFINISHED = ".unfinished"


def epoch_folder(data_directory: Path, epoch: int) -> Path:
    """The folder of an epoch: the data directory itself for epoch 0."""
    return data_directory / f"epoch-{epoch}" if epoch else data_directory
