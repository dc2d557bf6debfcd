"""Why an engine cannot be used."""

from __future__ import annotations

from ...errors import UsageError


class MissingEngineError(UsageError):
    """An engine needs what is not installed, or another device or precision."""


class DisagreementError(UsageError):
    """An engine's logits are not the network's."""
