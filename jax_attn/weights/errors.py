"""The error of weights that do not fit."""

from collections.abc import Sequence


class StateDictError(ValueError):
    """A `state_dict` that does not fit its module.

    Attributes:
        errors: everything that does not fit, one line each.
        advice: how to go on.
    """

    def __init__(
        self,
        message: str,
        errors: Sequence[str],
        advice: Sequence[str] = (),
        most: int | None = None,
        summary: str | None = None,
    ):
        self.errors, self.advice = list(errors), list(advice)
        if summary is not None:
            super().__init__(f"{message}: {summary}")
            return
        if len(self.errors) == 1 and not self.advice:
            super().__init__(f"{message}: {self.errors[0]}")
            return
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        shown = self.errors[:most]
        more = [f"... and {len(errors) - len(shown)} more"] if len(shown) < len(errors) else []
        lines = [f"{message} ({count}):", *(f"  {error}" for error in [*shown, *more]), *self.advice]
        super().__init__("\n".join(lines))


class NamesError(StateDictError):
    """A `state_dict` that fits once it is told by which names: the remedy is all that there is to say.

    Attributes:
        names: the pairs that make it fit.
    """

    def __init__(
        self, message: str, errors: Sequence[str], names: Sequence[tuple[str, str]], but_for: str = ""
    ):
        super().__init__(message, errors)
        self.names = list(names)
        but_for = but_for or "the names of its keys"
        self.args = (f"{message}, but for {but_for}: names={self.names} makes all of it fit",)
