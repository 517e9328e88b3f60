"""The gateway's pages for people: a module per page, rendered here from templates of our own."""

import functools

from aiohttp import web

from client.api.change_routes import Authorizer
from client.api.input_routes import InputLists
from client.api.log_routes import LogApi
from client.api.routes import Site
from client.dashboard.branches_page import add_branches_page
from client.dashboard.build_forms import add_build_forms
from client.dashboard.build_logs import BuildLogs
from client.dashboard.build_page import Fetched, add_build_page
from client.dashboard.builds_page import add_builds_page
from client.dashboard.case_pages import add_case_pages
from client.dashboard.change_forms import ChangeForms
from client.dashboard.compare_page import LogComparisons, add_compare_page
from client.dashboard.diagram_pages import add_diagrams
from client.dashboard.events import Events, make_changes
from client.dashboard.inputs_page import add_inputs_page
from client.dashboard.ledger_page import add_ledger_page
from client.dashboard.login_pages import add_audit_page, add_login_pages
from client.dashboard.pages import Pages
from client.dashboard.proof_page import add_proof_page
from client.dashboard.queue_page import add_queue_page
from client.dashboard.replicas_page import add_replicas_page
from client.dashboard.trends_page import add_trends_page
from client.gateway.case_reader import CaseReader


def add_dashboard(
    application: web.Application,
    site: Site,
    authorizer: Authorizer,
    *,
    log_api: LogApi,
    inputs: InputLists,
) -> None:
    """Add all pages, and what they link to. authorizer: who may change something."""
    changes = make_changes(site)
    site.network.on_change = functools.partial(changes.note, None)
    site.network.is_followed = lambda: bool(changes.followers)
    pages = Pages(site, changes, authorizer.people)
    Events(site, changes).add_routes(application)
    forms = ChangeForms(site, pages, authorizer)
    pages.add_middlewares(application)
    pages.add_static(application)
    add_builds_page(application, site, pages)
    add_branches_page(application, site, pages)
    add_queue_page(application, site, pages)
    add_trends_page(application, site, pages)
    logs = BuildLogs(site, log_api)
    logs.add_routes(application)
    comparisons = LogComparisons(site)
    fetched = Fetched(logs, comparisons, inputs)
    add_build_page(application, site, pages, forms=forms, fetched=fetched)
    add_inputs_page(application, site, pages, lists=inputs)
    add_compare_page(application, site, pages, comparisons=comparisons)
    add_build_forms(application, site, pages, forms=forms)
    add_case_pages(application, site, pages, cases=CaseReader(site.archive, site.cluster.quorums))
    add_proof_page(application, site, pages, kept=add_diagrams(application, site, pages))
    add_replicas_page(application, site, pages, forms=forms)
    add_ledger_page(application, site, pages)
    add_audit_page(application, site, pages)
    if authorizer.people is not None:
        add_login_pages(application, pages, authorizer.people, forms=forms)
