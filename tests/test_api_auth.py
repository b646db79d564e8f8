"""Who is let in: BookLogr's tokens, an identity provider's, single-user mode; and nobody else."""

from __future__ import annotations

import base64
import dataclasses
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
from flask.testing import FlaskClient

from pgfleet import tokens
from pgfleet.errors import SettingsError
from pgfleet.settings import Settings
from pgfleet_api import create_app

NOW, LATER, PAST = timedelta(0), timedelta(minutes=5), timedelta(minutes=-1)

#: As Flask-JWT-Extended makes them for BookLogr; times count from the moment of signing.
BOOKLOGR = {
    "fresh": False,
    "iat": NOW,
    "jti": "0d8f3c5e-8f7b-4a55-a3e2-2f4b2f6f3a11",
    "type": "access",
    "sub": "reader@example.org",
    "nbf": NOW,
    "csrf": "9a8b",
    "exp": LATER,
    "id": 7,
    "role": "internal_user",
}


@pytest.fixture
def client(settings: Settings) -> FlaskClient:
    return create_app(settings).test_client()


def sign(claims: dict[str, Any], key: Any, algorithm: str, **kw: Any) -> str:
    now = datetime.now(UTC)
    timed = {name: now + value if isinstance(value, timedelta) else value for name, value in claims.items()}
    return jwt.encode(timed, key, algorithm=algorithm, **kw)


def signed(settings: Settings, claims: dict[str, Any]) -> str:
    return sign(claims, settings.auth_secret_key, "HS256")


def status(client: FlaskClient, token: str | None, scheme: str = "Bearer") -> int:
    headers = {} if token is None else {"Authorization": f"{scheme} {token}"}
    response = client.get("/v1/tasks", headers=headers)
    if response.status_code == 401:
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert response.json is not None
        assert response.json["code"] == "401"
    return response.status_code


def without(claims: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if name not in names}


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        (BOOKLOGR, tokens.User(7)),
        ({**BOOKLOGR, "id": "7"}, tokens.User(7)),
        (without(BOOKLOGR, "jti", "type", "nbf", "fresh"), tokens.User(7)),
        ({**without(BOOKLOGR, "id"), "sub": "8"}, tokens.User(8)),
        ({**without(BOOKLOGR, "id"), "sub": 8}, tokens.User(8)),
        (without(BOOKLOGR, "exp"), tokens.User(7)),
        *(
            ({**BOOKLOGR, "role": role}, tokens.User(7, True))
            for role in ("admin", "ADMIN", "ADMINISTRATOR", "internal_admin")
        ),
        ({**without(BOOKLOGR, "role"), "roles": ["user", "ADMIN"]}, tokens.User(7, True)),
        ({**without(BOOKLOGR, "role"), "roles": "admin"}, tokens.User(7, True)),
        ({**BOOKLOGR, "role": "Admin"}, tokens.User(7)),
        ({**BOOKLOGR, "role": {"admin": True}, "roles": [1, None]}, tokens.User(7)),
    ],
)
def test_a_token_booklogr_could_issue_names_its_user_and_role(
    settings: Settings, claims: dict[str, Any], user: tokens.User
) -> None:
    assert tokens.Verifier(settings).verify(signed(settings, claims)) == user


@pytest.mark.parametrize(
    "claims",
    [
        {**BOOKLOGR, "type": "refresh"},
        {**BOOKLOGR, "exp": PAST},
        {**BOOKLOGR, "nbf": LATER},
        {**BOOKLOGR, "id": "x"},
        {**BOOKLOGR, "id": True},
        {**BOOKLOGR, "id": 1.5},
        {**BOOKLOGR, "id": 0},
        {**BOOKLOGR, "id": -1},
        {**BOOKLOGR, "id": 2**63},
        without(BOOKLOGR, "id"),  # an e-mail address is no id
        {**BOOKLOGR, "exp": "soon"},
    ],
)
def test_a_token_that_is_no_access_token_of_a_user_is_401(
    client: FlaskClient, settings: Settings, claims: dict[str, Any]
) -> None:
    assert status(client, signed(settings, claims)) == 401


def test_a_token_from_the_future_is_told_from_a_forged_one(client: FlaskClient, settings: Settings) -> None:
    token = signed(settings, {**BOOKLOGR, "nbf": LATER})
    answer = client.get("/v1/tasks", headers={"Authorization": f"Bearer {token}"}).json
    assert answer is not None
    assert "not valid yet" in answer["message"]


def test_a_missing_forged_or_unsigned_token_is_401(client: FlaskClient, settings: Settings) -> None:
    good = signed(settings, BOOKLOGR)
    assert status(client, good) == 200
    assert status(client, good, "bearer") == 200
    assert status(client, None) == 401
    assert status(client, good, "Basic") == 401
    assert status(client, "") == 401
    assert status(client, "nonsense") == 401
    assert status(client, "\u00e9.\u00e9.\u00e9".encode().decode("latin-1")) == 401
    assert status(client, good[:-4] + "AAAA") == 401
    assert status(client, sign(BOOKLOGR, "another secret, of the same length", "HS256")) == 401
    assert status(client, sign(BOOKLOGR, None, "none")) == 401
    assert status(client, sign(BOOKLOGR, settings.auth_secret_key, "HS512")) == 401
    head, payload, signature = good.split(".")
    raised = json.loads(base64.urlsafe_b64decode(payload + "=="))
    raised["role"] = "admin"
    changed = base64.urlsafe_b64encode(json.dumps(raised).encode()).decode().rstrip("=")
    assert status(client, f"{head}.{changed}.{signature}") == 401


def test_a_token_is_refused_from_the_second_it_expires(settings: Settings) -> None:
    token = signed(settings, {**BOOKLOGR, "exp": datetime.now(UTC) - timedelta(seconds=1)})
    with pytest.raises(tokens.InvalidToken, match="expired"):
        tokens.Verifier(settings).verify(token)


def test_a_remembered_token_ends_with_its_exp(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = tokens.Verifier(settings)
    end = datetime.now(UTC) + timedelta(seconds=2)
    token = signed(settings, {**BOOKLOGR, "exp": end})
    assert verifier.verify(token) == tokens.User(7)
    clock = end.timestamp()
    monkeypatch.setattr("pgfleet.tokens.time.time", lambda: clock)
    monkeypatch.setattr(verifier, "_claims", lambda _: (_ for _ in ()).throw(tokens.InvalidToken("looked anew")))
    with pytest.raises(tokens.InvalidToken, match="looked anew"):
        verifier.verify(token)


def test_without_a_secret_the_app_says_what_to_set(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="PGFLEET_AUTH_SECRET_KEY"):
        create_app(dataclasses.replace(settings, auth_secret_key=""))


def test_a_short_secret_of_booklogrs_works_and_is_warned_of(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = dataclasses.replace(settings, auth_secret_key="short")
    client = create_app(weak).test_client()
    assert status(client, tokens.mint(weak, 1)) == 200
    assert "auth.weak_secret" in "".join(capsys.readouterr())


def test_single_user_mode_needs_no_token_is_no_admin_and_is_loud(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    single = dataclasses.replace(settings, auth_single_user=True, auth_secret_key="")
    client = create_app(single).test_client()
    assert "SINGLE-USER MODE" in "".join(capsys.readouterr())
    id = client.post("/v1/tasks", json={"type": "csv_export"}).get_json()["task_id"]
    assert client.get(f"/v1/tasks/{id}").get_json()["created_by"] == 1
    assert client.post(f"/v1/tasks/{id}/resume").status_code == 403


@pytest.fixture
def provider() -> Iterator[Any]:
    """An identity provider: ``url`` of its JWKS, ``key`` to sign with, ``down`` to fail."""
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    jwk = {**jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "k1", "use": "sig"}

    class Handler(BaseHTTPRequestHandler):
        down = False
        asked = 0

        def do_GET(self) -> None:
            Handler.asked += 1
            self.send_response(500 if Handler.down else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": [jwk]}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Handler.key, Handler.url = key, f"http://127.0.0.1:{server.server_port}/keys"  # type: ignore[attr-defined]
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_jwks_url_takes_the_providers_tokens_and_no_hs256(settings: Settings, provider: Any) -> None:
    client = create_app(dataclasses.replace(settings, auth_jwks_url=provider.url)).test_client()
    claims = {"sub": "12", "roles": ["user"], "exp": LATER, "aud": "somebody"}
    assert status(client, sign(claims, provider.key, "ES256", headers={"kid": "k1"})) == 200
    assert status(client, sign(claims, provider.key, "ES256", headers={"kid": "k1"})) == 200
    assert provider.asked == 1, "the keys are remembered"
    assert status(client, signed(settings, BOOKLOGR)) == 401
    for n in range(5):
        assert status(client, sign(claims, provider.key, "ES256", headers={"kid": f"x{n}"})) == 401
    assert provider.asked == 1, "unknown key ids can't make the API ask the provider again and again"


def test_an_unreachable_provider_is_503_not_401(settings: Settings, provider: Any) -> None:
    provider.down = True
    client = create_app(dataclasses.replace(settings, auth_jwks_url=provider.url)).test_client()
    token = sign({"sub": "12"}, provider.key, "ES256", headers={"kid": "k1"})
    response = client.get("/v1/tasks", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert provider.url not in response.text
