"""What the verbs share."""

Setting = int | float | bool | list | dict | str | None
"""Value of a setting; text comes late, so that a number on the command line is a number."""


def say(text: str) -> None:
    """A line for the user, at once."""
    print(text, flush=True)
