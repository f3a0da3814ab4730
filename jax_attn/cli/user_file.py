"""Runs a function of a file that the user names, and says in one line what went wrong there."""

import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import jax_attn
from jax_attn.parity.port import Port

T = TypeVar("T")
DEFAULT_FUNCTION = "pair"
PACKAGE = Path(jax_attn.__file__).parent

WITHOUT_TORCH = (
    "to compare with a recording it takes two files: one with the torch module, for `jax-attn trace`, and one "
    "with the Flax module that does not import torch, for `jax-attn diff --against`"
)


def load_port(place: str, *sides: str) -> Port:
    """The port that `FILE.py` or `FILE.py:function` returns.

    Args:
        place: the file, and the function in it.
        sides: "flax" or "torch", which the port must have.

    Raises:
        ValueError: there is no such file or function, it raises, or it returns something else.
    """
    function = load_function(place, DEFAULT_FUNCTION)
    try:
        return Port.of(function()).require(*sides)
    except ValueError as error:
        raise ValueError(f"{function.name}: {error}") from error


@dataclass(frozen=True)
class UserFunction:
    """A function of a file that the user names.

    Attributes:
        name: the file and the function, to be named in errors.
        takes: the names of its arguments.
    """

    name: str
    takes: frozenset[str]
    _path: Path
    _function: Callable[..., Any]

    def __call__(self, **given: Any) -> Any:
        """What it returns; a ValueError if it raises."""
        return self.running(f"in {self.name.rpartition(':')[2]}()", lambda: self._function(**given))

    def running(self, when: str, action: Callable[[], Any]) -> Any:
        """What `action` returns, which calls code of the file; what that raises is told in a line, as of `when`."""
        with _folder_importable(self._path.resolve()):
            return run_code(self._path, when, action)


def load_function(place: str, default: str) -> UserFunction:
    """The function that `FILE.py` or `FILE.py:function` names; it can be called without arguments.

    Args:
        place: the file, and the function in it.
        default: the function, where none is named.

    Raises:
        ValueError: there is no such file or function, the file raises, or the function needs arguments.
    """
    file, _, function = place.rpartition(":") if ":" in Path(place).name else (place, "", "")
    name, path = function or default, Path(file)
    if not path.is_file():
        raise ValueError(f"there is no file {file}; expected FILE.py or FILE.py:function")
    if path.suffix != ".py":
        raise ValueError(f"{file} is no Python file; expected FILE.py or FILE.py:function")
    with _folder_importable(path.resolve()):
        module = run_code(path, "on import", lambda: _executed(path.resolve()))
    found = _function(module, path, name)
    return UserFunction(f"{path}:{name}", frozenset(inspect.signature(found).parameters), path, found)


def _executed(path: Path) -> ModuleType:
    """The file as a module, under a name that no other has; dataclasses look for it in `sys.modules`."""
    spec = importlib.util.spec_from_file_location(f"_port_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType, path: Path, name: str) -> Callable[[], Any]:
    own = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    }
    found = own.get(name) or getattr(module, name, None)
    if not callable(found):
        nearest = difflib.get_close_matches(name, own, n=1)
        listed = f"it has {', '.join(own)}" if own else "it has no functions"
        hint = f"; did you mean {path}:{nearest[0]}?" if nearest else ""
        raise ValueError(f"{path} has no function {name}; {listed}{hint}")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise ValueError(f"{path}:{name} must be callable without arguments: {error}") from error
    return found


def run_code(path: Path, when: str, action: Callable[[], T]) -> T:
    """Return what `action` returns; an error of the user's code names the innermost line of their file.

    Where none of it was running, the innermost line of all is named.
    """
    try:
        return action()
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError) and error.lineno is not None:
            raise ValueError(f"{error.filename}:{error.lineno}: {error.msg}") from error
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        innermost = (own or frames)[-1]
        if not own and isinstance(error, ValueError) and Path(innermost.filename).is_relative_to(PACKAGE):
            raise  # which says what is wrong with what was given
        message = " ".join(str(error).split())[:400]
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            raise ValueError(f"{path} imports torch, which is not installed here; {WITHOUT_TORCH}") from error
        raised = f"{type(error).__name__}: {message}" if message else type(error).__name__
        code = f" (`{innermost.line}`)" if innermost.line else ""
        if own:
            raise ValueError(f"{path}:{innermost.lineno} {when}{code} raised {raised}") from error
        place = f"{innermost.filename}:{innermost.lineno}{code}"
        raise ValueError(f"{path} {when} raised {raised}, at {place}") from error


@contextmanager
def _folder_importable(path: Path) -> Generator[None]:
    """Within it the file finds its neighbours, as it does when Python runs it."""
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
