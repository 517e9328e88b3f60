"""Continues a replica from its disk.

The rule: the ledger on disk must end where execution ends, or the disk is damaged.
"""

from ci.application import BuildApplication
from driver.ports import RecordDisk
from pbft.ports import Output
from pbft.replica import Replica


def restore(
    replica: Replica, application: BuildApplication, disk: RecordDisk, *, nonce: bytes
) -> Output:
    """Continue from the disk: what was executed again, and nothing to send.

    nonce: 32 random bytes, for a recovery that this life may need.
    Raises pbft.replica.DamagedRecords, pbft.replica.OlderRecords, and what the disk raises.
    """
    output = replica.restore(disk.records(), disk.bodies(), nonce)
    disk.agree_ledger(application.ledger_index, application.ledger_head)
    return output
