"""Who is calling: the bearer token's user, handed to the view as its first argument."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from flask import request

from pgfleet.tokens import SINGLE_USER, User
from pgfleet_api.errors import Refused
from pgfleet_api.state import state

P = ParamSpec("P")
R = TypeVar("R")


def caller() -> User:
    """The user this request comes from. Raises what becomes a 401, or a 503 where keys can't be fetched."""
    verifier = state().verifier
    if verifier is None:
        return SINGLE_USER
    scheme, _, token = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Refused(401, "This needs a token: send the header `Authorization: Bearer <token>`.")
    return verifier.verify(token.strip())


def authenticated(view: Callable[Concatenate[User, P], R]) -> Callable[P, R]:
    """For any user with a valid token."""

    @wraps(view)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return view(caller(), *args, **kwargs)

    wrapper.who = "user"  # type: ignore[attr-defined] # read by openapi.py
    return wrapper


def admin_only(view: Callable[Concatenate[User, P], R]) -> Callable[P, R]:
    """For admins; others get 403 before anything is looked up, so that it tells them nothing."""

    @wraps(view)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        user = caller()
        if not user.is_admin:
            raise Refused(403, "Only an admin may do this.")
        return view(user, *args, **kwargs)

    wrapper.who = "admin"  # type: ignore[attr-defined] # read by openapi.py
    return wrapper
