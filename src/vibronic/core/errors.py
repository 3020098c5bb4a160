"""The one exception that is meant for people, and the one warning."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class VibronicError(ValueError):
    """A mistake in the input, told in one sentence that says what to do about it.

    The command line prints it on standard error and ends with status 2; anything else that reaches a user as a
    traceback is a bug.
    """


class VibronicWarning(UserWarning):
    """What people should know of their input, though it can be used; the command line prints it as one line."""


@contextmanager
def located(place: Callable[[int], str], k: int) -> Iterator[None]:
    """Put the place of structure ``k``, as ``hot.extxyz, structure 3``, in front of what is said of it."""
    try:
        yield
    except VibronicError as error:
        raise VibronicError(f"{place(k)}: {error}") from error
