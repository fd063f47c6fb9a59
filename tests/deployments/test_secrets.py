"""A password in a server's address is shown to nobody."""

import httpx
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from deployments import apply, notifications

SECRET = "http://ann:s3cret@prefect.example:4200"


def test_a_server_that_does_not_do_as_asked_is_named_without_its_password(monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise httpx.ConnectError(f"no answer from {SECRET}/api")

    monkeypatch.setattr(apply, "_apply_all", fail)
    with temporary_settings({PREFECT_API_URL: f"{SECRET}/api"}):
        assert apply.main([]) == 1
    said = capsys.readouterr().err
    assert "Prefect at http://ann@prefect.example:4200/api did not do as it was asked" in said
    assert "s3cret" not in said


def test_links_in_messages_name_no_user():
    with temporary_settings({PREFECT_API_URL: f"{SECRET}/api", PREFECT_UI_URL: None}):
        assert notifications._pages() == "http://prefect.example:4200"
    with temporary_settings({PREFECT_UI_URL: "https://prefect.example/team/"}):
        assert notifications._pages() == "https://prefect.example/team"
