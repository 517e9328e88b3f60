"""Twins, exhaustively: every way to cut a network in two, in each of the first views (Bano et al.).

Four replicas, of which r0 is there twice: two instances with one key, each with a disk of its own.
A scenario is a cut per view: while a view lasts, messages about it do not cross its cut. Five
instances have 16 cuts, so three views have 4,096 scenarios. One client talks with one twin only,
the other client with the other one, so that the twins contradict each other.
"""

from collections.abc import Callable

from pbft.codec import decode_message
from pbft.messages import Envelope
from pbft.ports import Send
from simulator.campaigns.simulation import Simulation
from simulator.faults.parameters import Parameters
from simulator.machine.process import Process
from simulator.world.gateways import Workload
from simulator.world.scheduler import SECOND

CUTS = 16
TWIN = "r0"
# Long enough for all cut views to come and fail, with timeouts of 1, 2 and 4 seconds.
HEALED_AT_SECONDS = 8.0
DELAY_SECONDS = 0.01


def scenarios(views: int) -> int:
    """How many scenarios there are with a cut in each of so many views."""
    return int(CUTS**views)


def cuts_of(scenario: int, views: int) -> tuple[int, ...]:
    """The cut of each view: bit i is the side of instance i + 1; instance 0 is on side 0."""
    return tuple(scenario // CUTS**view % CUTS for view in range(views))


class TwinsSimulation(Simulation):
    """The run of one scenario. Instance 0 is r0, 1 its twin, and 2, 3, 4 are r1, r2, r3."""

    def __init__(
        self, scenario: int, views: int, *, tell: Callable[[str], None] | None = None
    ) -> None:
        self.cuts = cuts_of(scenario, views)
        parameters = Parameters(
            seed=scenario,
            checkpoint_interval=2,
            window=4,
            view_change_seconds=1.0,
            workload=Workload(requests=2, builds=0.0, spread_seconds=1.0),
            byzantine={0: ("twin",)},
            safety_seconds=HEALED_AT_SECONDS,
        )
        super().__init__(parameters, tell=tell)
        self._chance = self.processes[TWIN].chance

    def _instances(self) -> list[Process]:
        first, *others = self.processes.values()
        # The twin starts last, so until then there is only one.
        return [first, self.adversary.twins.get(TWIN, first), *others]

    def send(self, process: Process, send: Send) -> None:
        """As Simulation."""
        if process.name in self.correct:
            self.checkers.messages.on_sent(process, send)
        if send.to in self.gateways:
            self.network.send(process.name, str(send.to), send.envelope)
            return
        instances = self._instances()
        source = next(i for i, instance in enumerate(instances) if instance is process)
        view = getattr(decode_message(send.envelope.signed.payload), "view", None)
        if view is None:
            view = process.replica.core.view if process.replica is not None else 0
        for target, instance in enumerate(instances):
            if instance.name == process.name or send.to not in (None, instance.name):
                continue
            if self._is_cut(view, source, target):
                self.extra_faults["twins: cut"] = self.extra_faults.get("twins: cut", 0) + 1
                continue
            self._hand_over(process.name, instance, send.envelope)

    def _is_cut(self, view: int, one: int, other: int) -> bool:
        if view >= len(self.cuts) or self.scheduler.now >= HEALED_AT_SECONDS * SECOND:
            return False
        sides = self.cuts[view] << 1
        return (sides >> one) & 1 != (sides >> other) & 1

    def _send_from_gateway(self, name: str, send: Send) -> None:
        # The first client does not know the twin, the second one knows it only.
        unknown = 1 if name == self.gateway_names[0] else 0
        for index, instance in enumerate(self._instances()):
            if index != unknown and send.to in (None, instance.name):
                self._hand_over(name, instance, send.envelope)

    def _hand_over(self, sender: str, instance: Process, envelope: Envelope) -> None:
        delay = DELAY_SECONDS * (0.5 + self._chance.random())
        self.scheduler.after(delay, self._arrive, sender, instance, envelope)

    def _arrive(self, sender: str, instance: Process, envelope: Envelope) -> None:
        link = f"{sender}>{instance.name}"
        self.trace.arrival(link, link.encode(), envelope)
        instance.arrive(envelope)
