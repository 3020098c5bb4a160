"""A progress bar where somebody looks: on standard error, if that is a terminal, gone when done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def track(items: Sequence[T], doing: str, show: bool = True) -> Iterable[T]:
    """The items, one after another, with a bar of how many are done."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    return progress.track(items, doing, console=console, transient=True, disable=not (show and console.is_terminal))
