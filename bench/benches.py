"""All benches by name, in the order in which `all` runs them."""

from collections.abc import Awaitable, Callable

import msgspec

from bench import (
    accept,
    caches,
    cases,
    change,
    failover,
    history,
    inputs,
    links,
    log_page,
    members,
    messages,
    noop,
    observations,
    pipelines,
    projects,
    repository,
    steady,
    strangers,
    swarm,
    tls,
    verdict,
)
from bench.context import Context
from bench.rows import Row


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """One bench. seconds_max: a run that takes longer is broken off, quick or whole."""

    name: str
    what: str
    run: Callable[[Context], Awaitable[list[Row]]]
    needs_docker: bool = False
    quick_seconds_max: float = 300.0
    seconds_max: float = 1800.0


BENCHES = {
    bench.name: bench
    for bench in (
        Bench(
            name=verdict.NAME,
            what="webhook to accepted verdict, one at a time and 40 at once",
            run=verdict.run,
            needs_docker=True,
        ),
        Bench(
            name=caches.NAME,
            what="a build's cache: stored and restored",
            run=caches.run,
            needs_docker=True,
        ),
        Bench(
            name=projects.NAME,
            what="small Python and Node projects, with a warm cache and without one",
            run=projects.run,
            needs_docker=True,
            # the image of a Debian system is made once
            quick_seconds_max=900.0,
            seconds_max=3600.0,
        ),
        Bench(
            name=inputs.NAME,
            what="50 Python and 500 npm packages by lock file, beside pip and npm by hand",
            run=inputs.run,
        ),
        Bench(
            name=pipelines.NAME,
            what="what a service and a report of test cases add to a build",
            run=pipelines.run,
            needs_docker=True,
        ),
        Bench(
            name=swarm.NAME,
            what="builds on a swarm of two engines, beside one engine (as root)",
            run=swarm.run,
            needs_docker=True,
            quick_seconds_max=600.0,
        ),
        Bench(name=accept.NAME, what="webhook to 202 at 200/s, p50 and p99", run=accept.run),
        Bench(name=noop.NAME, what="noop through consensus: 64 clients, 1 client", run=noop.run),
        Bench(name=tls.NAME, what="what TLS between members costs a noop", run=tls.run),
        Bench(
            name=failover.NAME,
            what="time without service when the primary is killed",
            run=failover.run,
        ),
        Bench(
            name=messages.NAME,
            what="messages and bytes per batch for 4, 7, 10, 13 replicas",
            run=messages.run,
        ),
        Bench(
            name=members.NAME,
            what="noops and builds of 4, 7, 10 and 13 real nodes: CPU, messages, bytes, disk",
            run=members.run,
        ),
        Bench(
            name=change.NAME,
            what="time without a verdict while members change; a build and a noop afterwards",
            run=change.run,
        ),
        Bench(
            name=links.NAME,
            what="links of 50 to 200 ms: an order, a verdict, a dead primary; beside the simulator",
            run=links.run,
        ),
        Bench(
            name=repository.NAME,
            what="a 200 MiB repository: the first clone, then 20 commits",
            run=repository.run,
        ),
        Bench(
            name=history.NAME,
            what="100,000 builds beside 100: restart, memory, pages, ordering",
            run=history.run,
        ),
        Bench(
            name=log_page.NAME,
            what="a log of 1 MB in a real browser, beside the same as plain text",
            run=log_page.run,
        ),
        Bench(
            name=observations.NAME,
            what="a million observations of test cases beside ten thousand: pages",
            run=observations.run,
        ),
        Bench(
            name=strangers.NAME,
            what="honest requests beside 5,000 connections held half open",
            run=strangers.run,
        ),
        Bench(
            name=cases.NAME,
            what="memory while each build has 20,000 test cases",
            run=cases.run,
            seconds_max=3600.0,
        ),
        Bench(
            name=steady.NAME,
            what="memory and file descriptors under load (--minutes)",
            run=steady.run,
        ),
    )
}
