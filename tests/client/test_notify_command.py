"""client.notify_command: a test message to real receivers, typed as an operator does."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml

from client.main import gateway_main
from tests.client.notifications.receivers import HttpReceiver, MailServer
from tests.secret_files import secret_file


async def test_a_test_message_is_sent_and_its_answer_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = secret_file(tmp_path / "secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    async with HttpReceiver() as receiver, HttpReceiver(lambda count: 403) as gone:
        with MailServer() as mail:
            hook = {"kind": "webhook", "secret_file": str(secret), "private_allowed": True}
            settings = {
                "cluster_file": "cluster.yml",
                "name": "client",
                "private_key_file": "key",
                "listen": "127.0.0.1:8080",
                "data_directory": "data",
                "log_file": "log",
                "results_file": "results",
                "repositories": [{"url": "https://example.org/r.git", "unsigned_allowed": True}],
                "notify": [
                    {**hook, "name": "team", "url": receiver.url},
                    {**hook, "name": "gone", "url": gone.url},
                    {
                        "name": "mail",
                        "kind": "mail",
                        "server": f"127.0.0.1:{mail.port}",
                        "tls": "off",
                        "sender": "ci@example.org",
                        "recipients": ["ann@example.org"],
                        "private_allowed": True,
                    },
                ],
            }
            config = tmp_path / "client.yml"
            config.write_text(yaml.safe_dump(settings))

            async def notify(*names: str) -> int:
                flags = [part for name in names for part in ("--test", name)]
                command = ["--config", str(config), "notify", *flags]
                return await asyncio.to_thread(gateway_main, command)

            assert await notify("team", "mail") == 0
            assert capsys.readouterr().out == "team: taken\nmail: taken\n"
            assert await notify("gone") == 1
            assert "gone: not taken: 403" in capsys.readouterr().out
            assert await notify("nobody") == 2
            assert "there are: team, gone, mail" in capsys.readouterr().err
    assert json.loads(receiver.got[0][1])["type"] == "build.test"
    assert "a test message" in mail.got[0]["Subject"]
