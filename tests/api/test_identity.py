"""Identity, as those meet it who run the app on their own machine, or on Azure for the first time."""

from pathlib import Path

import httpx
import pytest

from local_host.app_loader import load_app
from services.record_store import close_record_store
from settings import get_settings
from tests.hosting import ROOT


@pytest.mark.parametrize("header", [None, "Bearer $TOKEN", "Bearer é", "Basic eDp5", "?"])
def test_on_ones_own_machine_anybody_may_do_anything(client: httpx.Client, header: str | None) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode())]
    assert client.get("/api/waits", headers=headers).status_code == 200
    assert client.get("/outbox", headers=headers).status_code == 200
    assert client.get("/api/requests/not-there", headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"WEBSITE_INSTANCE_ID": "0"}, "AUTH is not set"),
        ({"WEBSITE_POD_NAME": "0", "AUTH": "dev"}, "AUTH is not set, or is dev"),
        ({"AUTH": "entra"}, "AUTH_ISSUER"),
        ({"AUTH": "easyauth", "WEBSITE_AUTH_ENABLED": "True"}, "WEBSITE_AUTH_ENABLED"),
        ({"AUTH": "Keys"}, "(?s)auth.*'entra', 'easyauth', 'keys' or 'dev'"),
        ({"AUTH": ""}, "(?s)auth.*'entra', 'easyauth', 'keys' or 'dev'"),
    ],
)
def test_the_app_does_not_start_where_nobody_could_be_known(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], said: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    with pytest.raises(ValueError, match=said):
        load_app(ROOT)
    close_record_store()
