"""The one exception that means: the caller can fix this."""


class FlexvarError(ValueError):
    """A mistake the caller can fix; the message says what was wrong and what to do next.

    The command line prints the message alone and exits with code 2. Anything else that
    escapes is a bug of flexvar or of a plugin and keeps its traceback.
    """


class CheckpointError(FlexvarError):
    """A checkpoint that is missing, truncated, unsafe, or does not fit its config."""


class PluginError(FlexvarError):
    """A component that cannot be had: unknown, ambiguous, broken, or its packages are absent."""


class KeywordError(FlexvarError, TypeError):
    """A keyword that a call does not have; a `TypeError` too, as Python's own would be."""
