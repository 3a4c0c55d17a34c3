"""The exceptions a user may catch; each message is one line: what came, where, and what to do."""


class PeftlitError(Exception):
    """Base of all errors that peftlit raises on purpose.

    Attributes:
        exit_code: What the command line returns when this error ends it.
    """

    exit_code = 1


class ConfigError(PeftlitError):
    """A setting is unknown, of the wrong type, or contradicts another one."""

    exit_code = 2


class DataError(PeftlitError):
    """A file, column, row or label is not what the configuration says."""


class BackboneError(PeftlitError):
    """The base model cannot be found, read, or quantized as asked."""


class AdapterError(PeftlitError):
    """The adapter does not fit the base model."""


class RunFolderError(PeftlitError):
    """A run folder is already used, or lacks what a command needs."""


class CheckpointError(PeftlitError):
    """A checkpoint is missing, damaged, or holds something that cannot be stored."""


class TrainabilityError(PeftlitError):
    """A trainable tensor did not learn, or a frozen one changed."""


class NotFiniteError(PeftlitError):
    """A loss or a gradient is infinite or not a number."""


class Stopped(PeftlitError):
    """A signal has ended training after a whole step, with a checkpoint, or an evaluation."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class ReloadError(PeftlitError):
    """The exported folder does not reproduce the trained model in a fresh process."""


class ProcessError(PeftlitError):
    """Another process of the same run ended without a message."""


class OutOfMemoryError(PeftlitError):
    """Host or device memory ran out."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, its class's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def in_one_line(error: BaseException) -> str:
    """Return an error's whole message with its lines joined."""
    return " ".join(str(error).split())
