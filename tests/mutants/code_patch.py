"""Gives functions that are in use other code, as if their file had another text.

The rule: the texts differ in the code of functions alone. Whoever imported, stored or wrapped a
function then has the changed one, too. What a module or a class does while it is imported (a
constant, a default, a decorator) cannot be changed like that, and is refused.
"""

import gc
import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import CodeType, FunctionType

# Where code stands in its file: its qualified name and its first line.
Place = tuple[str, int]
# With the file in front. Several functions have one code, as those that a decorator makes.
Functions = Mapping[tuple[str, Place], Sequence[FunctionType]]
# They run while their module or class is imported.
RUN_AT_ONCE = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


class NotOfFunctions(ValueError):
    """The texts differ in what runs while the module is imported."""


def changed_code(old: str, new: str, file: str) -> dict[Place, CodeType]:
    """The new code of each function of the old text that is not the same in the new one.

    Raises NotOfFunctions, and SyntaxError.
    """
    changed: dict[Place, CodeType] = {}
    _compare(compile(old, file, "exec"), compile(new, file, "exec"), False, changed)
    return changed


def all_functions() -> Functions:
    """All functions that there are, but for those that the collector of garbage leaves out."""
    found: defaultdict[tuple[str, Place], list[FunctionType]] = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType:
            found[(thing.__code__.co_filename, _place(thing.__code__))].append(thing)
    return found


def give_code(functions: Functions, file: str, changed: Mapping[Place, CodeType]) -> int:
    """Change these functions of that file; gives how many there were."""
    given = 0
    for place, code in changed.items():
        for function in functions.get((file, place), ()):
            function.__code__ = code
            given += 1
    return given


def _compare(
    old: CodeType, new: CodeType, is_within_function: bool, changed: dict[Place, CodeType]
) -> None:
    """Add the functions that differ to `changed`. Raises NotOfFunctions."""
    if _is_same(old, new):
        return
    runs_at_once = not old.co_flags & inspect.CO_OPTIMIZED or old.co_name in RUN_AT_ONCE
    is_function = is_within_function or not runs_at_once
    pairs = list(zip(_inner(old), _inner(new), strict=False))
    if is_function:
        changed[_place(old)] = new
    elif _own(old) != _own(new):
        raise NotOfFunctions(f"{old.co_filename}:{old.co_firstlineno}: {old.co_qualname}")
    # Functions that another one returned, as decorators do, may be in use as well.
    for inner_old, inner_new in pairs:
        if inner_old.co_qualname == inner_new.co_qualname:
            _compare(inner_old, inner_new, is_function, changed)


def _is_same(old: CodeType, new: CodeType) -> bool:
    inner = zip(_inner(old), _inner(new), strict=False)
    return _own(old) == _own(new) and all(_is_same(before, after) for before, after in inner)


def _own(code: CodeType) -> tuple[object, ...]:
    """What code does, without its lines and the code within it."""
    constants = [
        ("code", value.co_qualname) if isinstance(value, CodeType) else (type(value), repr(value))
        for value in code.co_consts
    ]
    return (
        *(code.co_code, code.co_flags, code.co_names, code.co_exceptiontable, tuple(constants)),
        *(code.co_varnames, code.co_freevars, code.co_cellvars),
        *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
    )


def _inner(code: CodeType) -> list[CodeType]:
    return [value for value in code.co_consts if isinstance(value, CodeType)]


def _place(code: CodeType) -> Place:
    return code.co_qualname, code.co_firstlineno
