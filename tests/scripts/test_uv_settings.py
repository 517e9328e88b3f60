"""What uv gets of pip's settings."""

from scripts.uv_settings import uv_settings

FILE = ("global.index-url='https://user:word@file.example/simple'", "global.timeout='60'")


def test_uv_asks_the_servers_that_pip_asks() -> None:
    assert uv_settings(FILE) == {"UV_DEFAULT_INDEX": "https://user:word@file.example/simple"}
    lines = [
        ":env:.index-url='https://environment.example/simple'",
        *FILE,
        "install.index-url='https://install.example/simple'",
        r"global.extra-index-url='\nhttps://one.example/simple\nhttps://two.example/simple'",
        "global.find-links='/one /two'",
        ":env:.cert='/certificates.pem'",
        "global.proxy='http://proxy.example:3128'",
        "install.trusted-host='one.example two.example'",
    ]
    assert uv_settings(lines) == {
        "UV_DEFAULT_INDEX": "https://environment.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": "/one,/two",
        "UV_INSECURE_HOST": "one.example two.example",
        "SSL_CERT_FILE": "/certificates.pem",
        "HTTP_PROXY": "http://proxy.example:3128",
        "HTTPS_PROXY": "http://proxy.example:3128",
    }


def test_without_settings_uv_has_its_own() -> None:
    assert uv_settings([]) == {}
    assert uv_settings(["", "freeze.timeout='10'", "nonsense"]) == {}
