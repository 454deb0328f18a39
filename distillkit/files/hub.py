"""Recognize errors of the Hugging Face Hub's client."""

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
    # By name: the client has exchanged its HTTP library before, so none is imported here.
    return any(kind.__name__ == "TransportError" for kind in type(cause).__mro__)
