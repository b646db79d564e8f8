"""Who is calling: the bearer token's user, handed to the view as its first argument."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from flask import request

from pgfleet.tokens import SINGLE_USER, User
from pgfleet_api.errors import Refused
from pgfleet_api.state import state

#: Methods that change nothing.
READING = ("GET", "HEAD")

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
        user = caller()
        _no_parameters(wrapper)
        return view(user, *args, **kwargs)

    wrapper.who = "user"  # type: ignore[attr-defined] # read by openapi.py
    return wrapper


def admin_only(view: Callable[Concatenate[User, P], R]) -> Callable[P, R]:
    """For admins; others get 403 before anything is looked up, so that it tells them nothing."""

    @wraps(view)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        user = caller()
        if not user.is_admin:
            raise Refused(403, "Only an admin may do this.")
        _no_parameters(wrapper)
        return view(user, *args, **kwargs)

    wrapper.who = "admin"  # type: ignore[attr-defined] # read by openapi.py
    return wrapper


def _no_parameters(wrapper: Callable[..., Any]) -> None:
    """400 for query parameters of a call that changes something and takes none: what they ask for would not be done."""
    if request.environ.get("QUERY_STRING") and request.method not in READING and not wrapper.operation["query"]:  # type: ignore[attr-defined]
        names = ", ".join(repr(name[:100]) for name in request.args)
        raise Refused(400, f"This takes no query parameters, and was given {names}; what it takes is in its body.")
