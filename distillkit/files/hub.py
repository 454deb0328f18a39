"""Errors of the Hugging Face Hub's client, told apart."""

from __future__ import annotations

from collections.abc import Iterator


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Walk from an error to what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_unreachable(cause: BaseException) -> bool:
    """Tell whether an error says that the Hub cannot be reached."""
    from huggingface_hub.errors import OfflineModeIsEnabled, RevisionResolutionError

    if isinstance(cause, RevisionResolutionError | OfflineModeIsEnabled | ConnectionError):
        return True
    # The client's HTTP library is its own business, and has changed before.
    return any(kind.__name__ == "TransportError" for kind in type(cause).__mro__)
