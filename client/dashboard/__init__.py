"""The gateway's pages for people: a module per page, rendered here from templates of our own."""

from aiohttp import web

from client.api import Site
from client.dashboard.build_page import add_build_page
from client.dashboard.builds_page import add_builds_page
from client.dashboard.diagram_pages import add_diagrams
from client.dashboard.pages import Pages


def add_dashboard(application: web.Application, site: Site) -> None:
    """Add all pages, and what they link to."""
    pages = Pages(site)
    pages.add_static(application)
    add_builds_page(application, site, pages)
    add_build_page(application, site, pages)
    add_diagrams(application, site, pages)
