"""Where a member keeps what a later epoch begins with, in its data directory (decision 0062).

Of an epoch that the member passed over (decision 0064), a folder has the link alone.
"""

import shutil
from pathlib import Path

from common.new_file import new_file, sync_folder

# An encoded pbft.epoch_link.EpochLink, which is public. It is missing at a replica that was new,
# and where an older version made the folder.
LINK_NAME = "epoch-link"
# The cluster file of the epoch, with all keys in it; it is missing at a replica that was new.
CLUSTER_NAME = "cluster.yml"
# The state at the end of the epoch before; only replicas have it.
BEGIN_NAME = "begin-state"
# The name of a folder that is not complete.
UNFINISHED = ".unfinished"
# The folders of all later epochs.
EPOCH_FOLDERS = "epoch-*"
# Links are no secret: they say who the members are.
LINK_MODE = 0o644


def epoch_folder(data_directory: Path, epoch: int) -> Path:
    """The folder of an epoch: the data directory itself for epoch 0."""
    return data_directory / f"epoch-{epoch}" if epoch else data_directory


def keep_passed_link(data_directory: Path, epoch: int, link: bytes) -> None:
    """Keep what leads to an epoch that this member passes over. Raises ConfigError, OSError."""
    file = epoch_folder(data_directory, epoch) / LINK_NAME
    if not file.exists():
        with new_file(file, LINK_MODE) as stream:
            stream.write(link)
        sync_folder(data_directory)


def forget_if_passed(folder: Path) -> None:
    """Remove the folder of an epoch that was to be passed over and is begun now. Raises OSError."""
    # what a crash left of a new file has a dot before
    if folder.is_dir() and all(
        each.name.lstrip(".").startswith(LINK_NAME) for each in folder.iterdir()
    ):
        shutil.rmtree(folder)
