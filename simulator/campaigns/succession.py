"""What the members of a run change to, and what an epoch of it leaves to the next one."""

import collections
from typing import TYPE_CHECKING

import msgspec

from ci.operations import SubmitBuild
from pbft.certificates import state_digest
from pbft.genesis import Cluster
from pbft.messages import Envelope
from pbft.ports import Entry
from simulator.checkers.build_checker import BuildChecker
from simulator.faults.parameters import next_parameters
from simulator.faults.thief import RetiredKey
from simulator.world.member_operators import MemberOperators
from simulator.world.seeded_random import stream
from simulator.world.signatures import Signatures

if TYPE_CHECKING:
    from simulator.campaigns.simulation import Simulation

# How the names of replicas begin that come in epoch 0, 1, 2 ...
NAME_PREFIXES = "rstuvw"
# Who stays has a new key so often.
RENEWED_SHARE = 0.2
# Of one epoch, so many messages come again in the next.
WORDS_MAX = 1000


class Succession(msgspec.Struct, frozen=True):
    """What an epoch leaves to the next one."""

    cluster: Cluster
    # of the replicated state at the end, and the ledger up to there
    parts: dict[str, bytes]
    entries: tuple[Entry, ...]
    builds: BuildChecker
    signatures: Signatures
    # some of the messages of the epoch before, with who sent them
    words: tuple[tuple[str, Envelope], ...]
    # builds that were not decided, by the gateway that asked for them
    unfinished: tuple[tuple[str, SubmitBuild], ...]
    # replica -> the entries of the ledger that it has; who is not here has none
    ledgers: dict[str, tuple[Entry, ...]] = {}
    # of all epochs so far
    retired_keys: tuple[RetiredKey, ...] = ()
    clusters: tuple[Cluster, ...] = ()


class NextEpoch:
    """The members that follow those of this run, as its operators decide."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self._parameters = next_parameters(simulation.parameters)
        self._words: collections.deque[tuple[str, Envelope]] = collections.deque(maxlen=WORDS_MAX)
        # the cluster without ancestry
        self._cluster, self._signatures = self._members()

    def _members(self) -> tuple[Cluster, Signatures]:
        """Some stay, some with another key, and others come; the order may be another one."""
        simulation, parameters = self._simulation, self._parameters
        seed = simulation.parameters.seed
        chance = stream(seed, "the next members")
        staying = [name for name in simulation.names if chance.happens(0.7)]
        staying = staying[: parameters.replicas]
        prefix = NAME_PREFIXES[simulation.cluster.epoch + 1]
        coming = [f"{prefix}{number}" for number in range(parameters.replicas - len(staying))]
        names = (*staying, *coming)
        if chance.happens(0.3):
            names = names[::-1]
        renewed = stream(seed, "keys of the next members").some(sorted(staying), RENEWED_SHARE)
        # the key that a vacant seat had may be stolen: its next owner has another one
        refilled = [name for name in staying if name in simulation.vacant]
        signatures = simulation.signatures.renewed([*renewed, *refilled])
        following = Cluster(simulation.genesis(parameters, names, signatures))
        if following.configuration == simulation.cluster.configuration:
            names = (*names[1:], f"{prefix}0")
            following = Cluster(simulation.genesis(parameters, names, signatures))
        return following, signatures

    def plan(self, spread_seconds: float) -> None:
        """The operators propose and approve within so long, more or less."""
        simulation = self._simulation
        MemberOperators(
            simulation.cluster,
            self._cluster,
            scheduler=simulation.scheduler,
            chance=stream(simulation.parameters.seed, "operators who change members"),
            clients={name: simulation.gateways[name] for name in simulation.operator_roles},
            signatures=self._signatures,
        ).plan(spread_seconds)

    def hear(self, sender: str, envelope: Envelope) -> None:
        """A message of this epoch; the last ones come again in the next."""
        self._words.append((sender, envelope))

    def succession(self, begins: Succession | None) -> Succession:
        """What this epoch leaves, once it has ended. begins: what the epoch before left to it."""
        simulation = self._simulation
        core = next(
            process.replica.core
            for process in simulation.processes.values()
            if process.name in simulation.correct
            and process.replica is not None
            and process.replica.core.is_sealed
        )
        parts = core.checkpoints.stable_parts
        unfinished = tuple(
            (gateway.name, asked.operation)
            for gateway in simulation.gateways.values()
            for asked in gateway.unfinished.values()
            if isinstance(asked.operation, SubmitBuild)
        )
        for _ in unfinished:
            simulation.goals.hit("a build goes over to the next epoch")
        earlier_keys = () if begins is None else begins.retired_keys
        earlier_clusters = () if begins is None else begins.clusters
        return Succession(
            simulation.cluster.succeeded_by(self._cluster.genesis, core.low, state_digest(parts)),
            parts,
            tuple(simulation.checkers.history.ledger),
            simulation.builds,
            self._signatures,
            tuple(self._words),
            unfinished,
            self._ledgers(),
            (*earlier_keys, *self._retired_keys()),
            (*earlier_clusters, simulation.cluster),
        )

    def _ledgers(self) -> dict[str, tuple[Entry, ...]]:
        """What each replica that stays has of the ledger; whoever comes has nothing.

        One that follows the rules then has all of it: a person copies it if only liars would.
        """
        simulation, names = self._simulation, self._cluster.replica_names
        whole = tuple(simulation.checkers.history.ledger)
        found: dict[str, tuple[Entry, ...]] = {}
        for name in names:
            process = simulation.processes.get(name)
            if process is None:
                continue
            entries = process.disk.ledger.entries
            shared = 0
            while shared < len(whole) and entries.get(shared + 1) == whole[shared]:
                shared += 1
            found[name] = whole[:shared]
        others = {*self._parameters.faulty, *self._parameters.away}
        honest = [name for index, name in enumerate(names) if index not in others]
        if not any(found.get(name) == whole for name in honest):
            found[honest[0]] = whole
        if any(found.get(name) != whole for name in names):
            simulation.goals.hit("a replica begins an epoch without the whole ledger")
        return found

    def _retired_keys(self) -> list[RetiredKey]:
        simulation = self._simulation
        present = {member.public_key for member in self._cluster.genesis.replicas}
        return [
            RetiredKey(name, simulation.signatures.key_name(name))
            for name in simulation.names
            if name not in simulation.vacant
            and simulation.signatures.public_key(name) not in present
        ]
