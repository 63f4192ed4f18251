"""The errors that a user can meet. Each carries the exit code of the job that ends with it.

DiffsasrecError
|- ConfigError           2   the configuration or the command line is wrong
|- InputDataError        3   the interaction log is wrong
|- RefusedError          4   the gate or the audit refused the result
'- InfrastructureError   5   the cluster or the object store failed
"""


class DiffsasrecError(Exception):
    """Base of all errors below; its message names the key or file, the value and the remedy."""

    exit_code = 1


class ConfigError(DiffsasrecError):
    exit_code = 2


class InputDataError(DiffsasrecError):
    exit_code = 3


class RefusedError(DiffsasrecError):
    exit_code = 4


class InfrastructureError(DiffsasrecError):
    exit_code = 5

    def __init__(self, message: str, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting  # no retry mends it: a person has to act


def at_the_start(error: DiffsasrecError) -> DiffsasrecError:
    """The error for a fault before any work was done: a lasting fault is a ConfigError.

    In the middle of a night it is an InfrastructureError: all was well when the night began, and
    credentials or mounts may come back before the next attempt.
    """
    if isinstance(error, InfrastructureError) and error.is_lasting:
        return ConfigError(str(error))
    return error


def find_ours(error: BaseException) -> DiffsasrecError | None:
    """Our own error among the causes of `error`: Ray wraps what a worker raises."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        cause = pending.pop()
        if cause is None or id(cause) in seen:
            continue
        if isinstance(cause, DiffsasrecError):
            # the error that Ray raises has our type too, but its text is a traceback
            raised = getattr(cause, "cause", None)
            return raised if isinstance(raised, DiffsasrecError) else cause
        seen.add(id(cause))
        # Ray's names for the error of a task, of a training worker or of its controller
        wrapped = (
            getattr(cause, name, None) for name in ("cause", "_base_exc", "controller_failure")
        )
        pending += [cause.__cause__, cause.__context__, *wrapped]
        pending += getattr(cause, "worker_failures", {}).values()
    return None
