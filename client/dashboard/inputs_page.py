"""What went into a build: all files that lock files pinned, to be searched, and what changed."""

from urllib.parse import urlencode

from aiohttp import web

from client.api.input_routes import FIND_CHARACTERS_MAX, INPUTS_SHOWN, InputLists, shown
from client.api.routes import Site
from client.dashboard.pages import FORM_POLICY, Pages


def add_inputs_page(
    application: web.Application, site: Site, pages: Pages, *, lists: InputLists
) -> None:
    """Add the page's route."""

    async def show(request: web.Request) -> web.Response:
        """GET /builds/<id>/inputs?find=&after=<n>."""
        view = await shown(request, site, lists, limit=INPUTS_SHOWN)
        find = request.query.get("find", "").strip()
        here = f"/builds/{view.build}/inputs"
        asked = {"find": find} if find else {}
        response = pages.render(
            "inputs.html",
            build=site.view(site.record(request)),
            inputs=view,
            find=find,
            find_characters_max=FIND_CHARACTERS_MAX,
            here=here,
            is_first="after" not in request.query,
            first=f"{here}?{urlencode(asked)}" if asked else here,
            following=view.next and f"{here}?{urlencode({**asked, 'after': view.next})}",
        )
        response.headers["Content-Security-Policy"] = FORM_POLICY
        return response

    application.router.add_get("/builds/{build}/inputs", show)
