"""The proof of a verdict, drawn: from the webhook to the envelope, each step checked again."""

import shlex

from aiohttp import web

from client.api.proof_routes import kept_proof
from client.api.routes import Site
from client.dashboard.build_diagram import ordered_views
from client.dashboard.kept_traces import KeptTraces
from client.dashboard.pages import Pages
from client.views.proof_view import proof_steps
from common.configuration.keys import verify
from common.installation import CLIENT_COMMAND


def add_proof_page(
    application: web.Application, site: Site, pages: Pages, *, kept: KeptTraces
) -> None:
    """Add the page's route. kept: what nodes said of messages, which names the view."""

    async def show(request: web.Request) -> web.Response:
        """GET /builds/<id>/proof."""
        seen = pages.seen
        record = site.record(request)
        views = ordered_views(await kept.traces(record.build))
        record = site.archive.get(record.build) or record
        proof = kept_proof(site, record)
        steps = proof_steps(proof, site.cluster, verify, view=views[0] if views else None)
        return pages.render(
            "proof.html",
            build=site.view(record),
            steps=steps,
            commands={step.name: check_command(site, proof.build, step.name) for step in steps},
            refresh_seconds=None,
            seen=seen,
        )

    application.router.add_get("/builds/{build}/proof", show)


def check_command(site: Site, build: str, step: str) -> str:
    """What to type to check a step with one's own cluster file."""
    token = "" if site.config.read_token_file is None else " --token-file FILE"
    url = shlex.quote(site.public_url)
    return (
        f"{CLIENT_COMMAND} proof {build} --gateway {url}{token} --cluster cluster.yml --step {step}"
    )
