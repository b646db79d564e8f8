"""Bearer tokens (RFC 7519): minted for development, verified for whoever calls the API.

The tokens are those BookLogr issues with Flask-JWT-Extended: HS256, ``id`` the user's id, ``sub`` an e-mail address,
``role``, ``type: access``. With a JWKS URL they are those of an identity provider: RS256 or ES256, and nothing else.
The two never mix: a verifier takes the algorithms of its own kind only, so that a public key can't pass for a secret.
"""

from __future__ import annotations

import re
import time
import uuid
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

import jwt
from jwt.warnings import InsecureKeyLengthWarning

from pgfleet.errors import PgfleetError, SettingsError
from pgfleet.settings import Settings

ADMIN_ROLES = frozenset({"admin", "ADMIN", "ADMINISTRATOR", "internal_admin"})

#: How far two servers' clocks may differ, for `iat` and `nbf`: a token just issued elsewhere is good at once. An expired
#: one is expired: `exp` has no leeway, as Flask-JWT-Extended has none.
LEEWAY = timedelta(seconds=10)

#: Bytes; what RFC 7518 asks of an HS256 secret. BookLogr takes shorter ones, so they are warned of, not refused.
SAFE_SECRET = 32

MAX_ID = 9_223_372_036_854_775_807

#: Seconds that a verified token is taken without another look: 110 µs a request become 1 µs for a client that polls
#: or posts a lot. Short, so that a changed secret soon counts; `exp` is kept to all the same.
REMEMBERED = 5.0
_MOST_REMEMBERED = 1024

_HS256 = ("HS256",)
_PUBLIC = ("RS256", "ES256")
_OPTIONS: Any = {
    # BookLogr's `jti` and `sub` are texts, older Flask-JWT-Extended wrote numbers; neither is what we go by.
    "verify_sub": False,
    "verify_jti": False,
    # Nothing says which audience we would be; who may call is the issuer's key's to say.
    "verify_aud": False,
}


@dataclass(frozen=True)
class User:
    """Who is calling: the user's id, and whether one of the roles is the admin's."""

    id: int
    is_admin: bool = False


#: BookLogr's single user. Not an admin: in that mode anybody who reaches the port is this user.
SINGLE_USER = User(1)


class InvalidToken(PgfleetError):
    """The token is forged, expired, malformed, or of a kind that is not taken here."""


class KeysAway(PgfleetError):
    """The JWKS URL does not answer, so that no token can be verified at the moment."""


def mint(
    settings: Settings,
    user_id: int,
    *,
    role: str | None = None,
    lifetime: timedelta = timedelta(days=1),
    now: datetime | None = None,
) -> str:
    """A token as BookLogr would issue it, signed with ``auth_secret_key``; for development and tests.

    ``role`` is the claim of that name (default ``user``); ``lifetime`` counts from ``now`` (default: the clock).
    Raises :class:`~pgfleet.errors.SettingsError` where no secret is set, :class:`ValueError` for an id that is none.
    """
    if not settings.auth_secret_key:
        raise SettingsError(
            "No secret to sign a token with.",
            hint="Set PGFLEET_AUTH_SECRET_KEY to the one the API has (BookLogr's AUTH_SECRET_KEY).",
        )
    if not 1 <= user_id <= MAX_ID:
        raise ValueError(f"a user's id is a whole number from 1 to {MAX_ID}, {user_id} is not")
    issued = now or datetime.now(UTC)
    claims = {
        "sub": str(user_id),
        "id": user_id,
        "role": role or "user",
        "type": "access",
        "jti": str(uuid.uuid4()),
        "iat": issued,
        "exp": issued + lifetime,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)
        return jwt.encode(claims, settings.auth_secret_key, algorithm="HS256")


class Verifier:
    """Verifies bearer tokens as the settings say: with the JWKS URL where one is set, else with the secret.

    Raises :class:`~pgfleet.errors.SettingsError` where there is neither, or where the JWKS URL is none.
    """

    def __init__(self, settings: Settings) -> None:
        self._secret = settings.auth_secret_key
        self._jwks: jwt.PyJWKClient | None = None
        if settings.auth_jwks_url:
            self._jwks = _jwks_client(settings.auth_jwks_url)
        elif not self._secret:
            raise SettingsError(
                "Nothing to verify tokens with.",
                hint="Set PGFLEET_AUTH_SECRET_KEY (BookLogr's AUTH_SECRET_KEY) or PGFLEET_AUTH_JWKS_URL; for "
                "BookLogr's single-user mode, PGFLEET_AUTH_SINGLE_USER=true.",
            )
        self._seen: dict[str, tuple[User, float]] = {}
        # PyJWT would say it at every token; whoever builds the verifier says it once (see `weak`).
        warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)

    @property
    def weak(self) -> bool:
        """Is the secret short enough to be guessed?"""
        return self._jwks is None and len(self._secret.encode()) < SAFE_SECRET

    def verify(self, token: str) -> User:
        """Who the token stands for. Raises :class:`InvalidToken`, and :class:`KeysAway` where keys can't be fetched."""
        now = time.time()
        known = self._seen.get(token)
        if known is not None and now < known[1]:
            return known[0]
        claims = self._claims(token)
        user = user_of(claims)
        if len(self._seen) >= _MOST_REMEMBERED:
            self._seen.clear()
        until = now + REMEMBERED
        if "exp" in claims:
            until = min(until, int(claims["exp"]))
            if until <= now:
                raise InvalidToken("The token has expired.", hint="Log in again.")
        self._seen[token] = user, until
        return user

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            if self._jwks is None:
                return jwt.decode(token, self._secret, algorithms=_HS256, leeway=LEEWAY, options=_OPTIONS)
            return jwt.decode(token, self._key(token), algorithms=_PUBLIC, leeway=LEEWAY, options=_OPTIONS)
        except jwt.ExpiredSignatureError:
            raise InvalidToken("The token has expired.", hint="Log in again.") from None
        except jwt.ImmatureSignatureError:
            raise InvalidToken("The token is not valid yet: its issuer's clock is ahead of this server's.") from None
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError) as error:
            raise InvalidToken("The token is not valid.", detail=str(error)) from error

    def _key(self, token: str) -> Any:
        assert self._jwks is not None  # noqa: S101 - asked by `verify` only then
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in _PUBLIC:  # before asking for keys: a forged token costs no fetch
            raise jwt.InvalidAlgorithmError(f"expected one of {', '.join(_PUBLIC)}")
        try:
            return self._jwks.get_signing_key(str(header.get("kid", "")))
        except jwt.PyJWKClientConnectionError as error:
            raise KeysAway("The keys that tokens are verified with can't be fetched.", detail=str(error)) from error


def user_of(claims: dict[str, Any]) -> User:
    """The user that a verified token's claims name. Raises :class:`InvalidToken`."""
    kind = claims.get("type", "access")
    if kind != "access":
        raise InvalidToken(
            f"The token is of type {str(kind)[:20]!r}, not an access token.", hint="Send the access token."
        )
    subject = claims["id"] if claims.get("id") is not None else claims.get("sub")
    if isinstance(subject, str) and re.fullmatch(r"[0-9]{1,19}", subject):
        subject = int(subject)
    if not isinstance(subject, int) or isinstance(subject, bool) or not 1 <= subject <= MAX_ID:
        raise InvalidToken("The token names no user.", detail="Neither `id` nor `sub` is a user's id.")
    given = [role for claim in ("role", "roles") for role in _as_list(claims.get(claim))]
    return User(subject, any(role in ADMIN_ROLES for role in given if isinstance(role, str)))


def _as_list(claim: Any) -> list[Any]:
    return claim if isinstance(claim, list) else [claim]


def _jwks_client(url: str) -> jwt.PyJWKClient:
    if find_spec("cryptography") is None:  # PyJWT's own need for RS256 and ES256
        raise SettingsError(
            "PGFLEET_AUTH_JWKS_URL needs the package cryptography.", hint='Install it: pip install "pyjwt[crypto]".'
        )
    try:
        # Five minutes' cache; an unknown key id asks anew, but at most every 30 s.
        return jwt.PyJWKClient(url, timeout=5)
    except jwt.PyJWTError as error:
        raise SettingsError(f"PGFLEET_AUTH_JWKS_URL is no URL to fetch keys from: {error}") from None
