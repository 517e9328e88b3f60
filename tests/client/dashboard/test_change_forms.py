"""client.dashboard.change_forms: only who may change something, and only from a page of ours."""

from pathlib import Path

import pytest

from common.address import Address
from tests.client.api.test_change_routes import PUBLIC_URL, guarded, open_build, token_file
from tests.client.dashboard.forms import csrf_of, send_form
from tests.client.gateway.test_build_changes import nobody_finishes
from tests.client.gateway.test_gateway import record_of
from tests.client.running_network import Running
from tests.client.site import Client, client_of


def is_withdrawn(running: Running, build: str) -> bool:
    return record_of(running, bytes.fromhex(build)).withdrawn is not None


async def test_a_page_with_a_form_may_send_it_to_us_alone(running: Running, client: Client) -> None:
    build = await open_build(running, client)
    answer = await client.get(f"/builds/{build}")
    policy = answer.headers["Content-Security-Policy"]
    assert "form-action 'self'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # under no-referrer a browser would send `Origin: null`
    assert answer.headers["Referrer-Policy"] == "same-origin"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Secure" not in cookie
    assert (
        "form-action 'none'" in (await client.get("/builds/x")).headers["Content-Security-Policy"]
    )
    again = await client.get(f"/builds/{build}")
    assert "Set-Cookie" not in again.headers, "two pages in two tabs have one cookie"


async def test_behind_tls_the_cookie_travels_over_tls_alone(
    running: Running, tmp_path: Path
) -> None:
    client = await guarded(running, tmp_path, public_url=PUBLIC_URL)
    build = await open_build(running, client)
    answer = await client.get(f"/builds/{build}", headers={"Host": "CI.example.org"})
    assert "Secure" in answer.headers["Set-Cookie"]
    await client.close()


async def test_a_form_of_our_page_is_taken(running: Running, client: Client) -> None:
    build = await open_build(running, client)
    csrf = await csrf_of(client, f"/builds/{build}")
    answer = await send_form(client, f"/builds/{build}/cancel", {"csrf": csrf})
    assert answer.status == 303
    assert is_withdrawn(running, build)


async def test_a_form_is_taken_by_the_public_address(running: Running, tmp_path: Path) -> None:
    client = await guarded(
        running, tmp_path, api_token_file=token_file(tmp_path), public_url=PUBLIC_URL
    )
    build = await open_build(running, client)
    answer = await client.get(f"/builds/{build}", headers={"Host": "ci.example.org"})
    # a client without TLS keeps no cookie that is for TLS alone
    cookie = answer.cookies["pbft_ci_form"].value
    csrf = (await answer.text()).split('name="csrf" value="')[1][:64]
    headers = {"Host": "ci.example.org", "Cookie": f"pbft_ci_form={cookie}"}
    path = f"/builds/{build}/cancel"
    fields = {"csrf": csrf, "token": "old-token"}
    answer = await send_form(client, path, fields, origin="http://ci.example.org", headers=headers)
    assert answer.status == 403, "whoever can read what travels to it can write to it"
    assert not is_withdrawn(running, build)
    answer = await send_form(client, path, fields, origin="https://ci.example.org", headers=headers)
    assert answer.status == 303
    assert is_withdrawn(running, build)
    await client.close()


async def test_without_tokens_no_form_is_taken_by_way_of_a_proxy(
    running: Running, client: Client
) -> None:
    build = await open_build(running, client)
    csrf = await csrf_of(client, f"/builds/{build}")
    proxied = {"X-Forwarded-For": "203.0.113.7"}
    answer = await client.get(f"/builds/{build}", headers=proxied)
    assert 'name="csrf"' not in await answer.text(), "the page has none there"
    answer = await send_form(client, f"/builds/{build}/cancel", {"csrf": csrf}, headers=proxied)
    assert answer.status == 403
    assert "api_token_file" in await answer.text()
    assert not is_withdrawn(running, build)


async def test_without_tokens_no_page_has_a_form_where_there_is_a_public_url(
    running: Running, tmp_path: Path
) -> None:
    client = await guarded(running, tmp_path, public_url=PUBLIC_URL)
    build = await open_build(running, client)
    for host in ("localhost", "ci.example.org"):
        answer = await client.get(f"/builds/{build}", headers={"Host": host})
        assert answer.status == 200
        assert "<form" not in await answer.text(), host
    await client.close()


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        (None, "did not say which page"),
        ("null", "was sent from null"),
        ("https://127.0.0.1", "was sent from https://127.0.0.1"),
        ("http://127.0.0.1:1", "was sent from http://127.0.0.1:1"),
        ("http://localhost", "was sent from http://localhost"),
        ("https://evil.example", "was sent from https://evil.example"),
    ],
)
async def test_another_origins_page_is_refused(
    running: Running, client: Client, origin: str | None, reason: str
) -> None:
    """Another port of this machine too: its pages share our cookies, and are not ours."""
    build = await open_build(running, client)
    csrf = await csrf_of(client, f"/builds/{build}")
    path = f"/builds/{build}/cancel"
    answer = await send_form(client, path, {"csrf": csrf}, origin=origin)
    assert answer.status == 403
    assert reason in await answer.text()
    assert not is_withdrawn(running, build)


async def test_what_the_browser_calls_cross_site_is_refused(
    running: Running, client: Client
) -> None:
    build = await open_build(running, client)
    csrf = await csrf_of(client, f"/builds/{build}")
    for site in ("cross-site", "same-site", "none"):
        answer = await send_form(
            client, f"/builds/{build}/cancel", {"csrf": csrf}, headers={"Sec-Fetch-Site": site}
        )
        assert answer.status == 403
    assert not is_withdrawn(running, build)


async def test_a_form_needs_its_cookie_and_its_hidden_field(
    running: Running, client: Client
) -> None:
    build = await open_build(running, client)
    path = f"/builds/{build}/cancel"
    csrf = await csrf_of(client, f"/builds/{build}")
    for fields in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": csrf[:-1]}, {"csrf": "\u20ac"}):
        answer = await send_form(client, path, fields)
        assert answer.status == 403, fields
        assert "load the page again" in await answer.text()
    client.session.cookie_jar.clear()
    for cookie in ("", "pbft_ci_form=x", "pbft_ci_form=" + "A" * 64):
        answer = await send_form(client, path, {"csrf": csrf}, headers={"Cookie": cookie})
        assert answer.status == 403, cookie
        assert "allow cookies" in await answer.text()
    answer = await send_form(
        client, path, {"csrf": csrf}, headers={"Cookie": "pbft_ci_form=" + "a" * 64}
    )
    assert answer.status == 403, "the field is bound to the cookie that came with it"
    assert not is_withdrawn(running, build)


async def test_a_form_of_an_earlier_life_of_the_gateway_is_refused(
    running: Running, client: Client, tmp_path: Path
) -> None:
    build = await open_build(running, client)
    csrf = await csrf_of(client, f"/builds/{build}")
    cookies = client.session.cookie_jar.filter_cookies(client.make_url("/"))
    later = await client_of(running, tmp_path)
    headers = {"Cookie": f"pbft_ci_form={cookies['pbft_ci_form'].value}"}
    path = f"/builds/{build}/cancel"
    answer = await send_form(later, path, {"csrf": csrf}, headers=headers)
    assert answer.status == 403
    assert "started again" in await answer.text()
    await later.close()


async def test_where_tokens_are_configured_a_form_needs_one(
    running: Running, tmp_path: Path
) -> None:
    client = await guarded(running, tmp_path, api_token_file=token_file(tmp_path))
    nobody_finishes(running.network)
    headers = {"Authorization": "Bearer old-token"}
    build = str((await (await client.post("/webHook", json={"branch": "b"})).json())["build"])
    page = await (await client.get(f"/builds/{build}")).text()
    assert 'type="password" name="token"' in page
    assert 'autocomplete="off"' in page
    csrf = await csrf_of(client, f"/builds/{build}")
    path = f"/builds/{build}/cancel"
    for wrong in ({}, {"token": ""}, {"token": "old-token2"}, {"token": "x" * 2000}):
        answer = await send_form(client, path, {"csrf": csrf, **wrong}, headers=headers)
        assert answer.status == 401, "the form's token counts, and nothing else"
        assert answer.content_type == "text/html"
        assert "api_token_file" in await answer.text()
    assert not is_withdrawn(running, build)
    answer = await send_form(client, path, {"csrf": "0" * 64, "token": "old-token"})
    assert answer.status == 403, "a token alone is not enough for a form"
    answer = await send_form(client, path, {"csrf": csrf, "token": " new-token "})
    assert answer.status == 303
    assert is_withdrawn(running, build)
    await client.close()


async def test_where_nobody_may_change_anything_there_is_no_form(
    running: Running, client: Client, tmp_path: Path
) -> None:
    build = await open_build(running, client)
    elsewhere = await guarded(running, tmp_path, listen=Address("192.0.2.1", 8080))
    answer = await elsewhere.get(f"/builds/{build}")
    assert "<form" not in await answer.text()
    # whoever has taken the hidden field from somewhere comes no further
    forms = await csrf_of(client, f"/builds/{build}")
    answer = await send_form(elsewhere, f"/builds/{build}/cancel", {"csrf": forms})
    assert answer.status == 403
    await elsewhere.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 403),
        (b"csrf", 400),
        (b"csrf=a&csrf=b", 400),
        (b"csrf=%ff", 400),
        (b"csrf=\xff", 400),
        (b"&".join(b"f%d=" % number for number in range(17)), 400),
        (b"csrf=" + b"x" * (16 * 1024), 413),
    ],
)
async def test_a_broken_form(running: Running, client: Client, body: bytes, status: int) -> None:
    build = await open_build(running, client)
    await csrf_of(client, f"/builds/{build}")
    headers = {
        "Origin": str(client.make_url("/").origin()),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    answer = await client.post(f"/builds/{build}/cancel", data=body, headers=headers)
    assert answer.status == status
    assert answer.content_type == "text/html"


async def test_only_a_form_is_a_form(running: Running, client: Client) -> None:
    build = await open_build(running, client)
    csrf = await csrf_of(client, f"/builds/{build}")
    headers = {"Origin": str(client.make_url("/").origin())}
    answer = await client.post(f"/builds/{build}/cancel", json={"csrf": csrf}, headers=headers)
    assert answer.status == 415
