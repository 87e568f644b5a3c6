"""Reads a project that was written for django-cqrs and says, line by line, what to change; it imports nothing of it."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from django_cqrs_celery import migrating_rules as rules
from django_cqrs_celery.exceptions import ConfigurationError

PACKAGE, OURS = "dj_cqrs", "django_cqrs_celery"
#: Directories that hold no code of the project.
_FOREIGN = {".git", ".hg", ".svn", ".tox", ".nox", "node_modules", "site-packages", "__pycache__", ".mypy_cache"}
_LARGEST = 2_000_000


@dataclass(frozen=True, order=True)
class Finding:
    """One place of the project: ``what`` stands there and ``cure``, what to do. ``must`` tells a change from a hint."""

    path: str
    line: int
    what: str
    cure: str
    must: bool = True

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {'' if self.must else '(look) '}{self.what} → {self.cure}"


def read(root: Path) -> list[Finding]:
    """Everything that is to be changed in the project under ``root``, in order of files and lines.

    Raises ``ConfigurationError`` where there is no such directory.
    """
    if not root.is_dir():
        raise ConfigurationError(f"{root} is no directory: give the path of the project that is to be moved.")
    project = _Project(root)
    for path in _files(root):
        project.read(path)
    return sorted({*project.found, *project.of_the_whole()})


def _files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        here = Path(folder)
        names[:] = sorted(n for n in names if n not in _FOREIGN and not (here / n / "pyvenv.cfg").exists())
        for name in sorted(files):
            path = here / name
            if (path.suffix == ".py" or rules.is_script(name)) and not path.is_symlink():
                yield path


class _Project:
    """What was found so far, and what is known of the project as a whole."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: list[Finding] = []
        self.has_app = self.has_beat = False
        #: Whether a migration makes a master's columns of revisions, and whether one gives them their defaults.
        self.has_columns = self.has_defaults = False
        #: Where ``CQRS`` is set, whatever the file is called.
        self.settings: list[tuple[str, int]] = []

    def read(self, path: Path) -> None:
        name = path.relative_to(self.root).as_posix()
        try:
            if path.stat().st_size > _LARGEST:
                return
            source = path.read_bytes()
        except OSError as error:
            self.found.append(Finding(name, 1, f"cannot be read: {error.strerror}", "Read it by hand.", False))
            return
        if path.suffix != ".py":
            self.found += _script(name, source.decode("utf-8", "replace"))
            return
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError) as error:
            line = getattr(error, "lineno", None) or 1
            self.found.append(Finding(name, line, "is no Python that can be parsed", "Read it by hand.", False))
            return
        reader = _Module(name, tree)
        self.found += reader.found
        self.has_app = self.has_app or reader.has_app
        self.has_beat = self.has_beat or reader.has_beat
        self.has_columns = self.has_columns or reader.has_columns
        self.has_defaults = self.has_defaults or reader.has_defaults
        self.settings += [(name, line) for line in reader.settings]

    def of_the_whole(self) -> Iterator[Finding]:
        """What is missing, told where ``CQRS`` is set."""
        for name, line in self.settings[:1]:
            if not self.has_app:
                yield Finding(name, line, "the project has no Celery app", rules.NO_APP)
            if not self.has_beat:
                yield Finding(name, line, "beat does not know this package's tasks", rules.NO_BEAT)
            if self.has_columns and not self.has_defaults:
                what = "no migration gives cqrs_revision its default in the database"
                yield Finding(name, line, what, rules.NO_DEFAULTS, False)


# --- Python --------------------------------------------------------------------------------------------------------


class _Module(ast.NodeVisitor):
    """The findings of one Python file."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        self.found: list[Finding] = []
        self.has_app = self.has_beat = self.has_columns = self.has_defaults = False
        self.settings: list[int] = []
        #: Names of the file that come from django-cqrs, with what they are there.
        self.known: dict[str, str] = {}
        self._skipped: set[int] = set()
        self.visit(tree)

    def say(self, node: Any, what: str, cure: str, must: bool = True) -> None:
        """Note a finding at a node, or at a line."""
        self.found.append(Finding(self.name, node if isinstance(node, int) else node.lineno, what, cure, must))

    def visit_Import(self, node: ast.Import) -> None:
        """``import dj_cqrs.mixins``."""
        for alias in node.names:
            if _is_peer(alias.name):
                self.say(node, f"import {alias.name}", *_import(alias.name, None))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """``from dj_cqrs.mixins import MasterMixin``."""
        module = node.module or ""
        if node.level or not _is_peer(module, OURS):
            return
        for alias in node.names:
            self.known[alias.asname or alias.name] = alias.name
            if _is_peer(module):
                self.say(alias, f"from {module} import {alias.name}", *_import(module, alias.name))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """``dj_cqrs.mixins.RawReplicaMixin``, as migrations have it."""
        path = _dotted(node)
        if path and _is_peer(path):
            module, _, name = path.rpartition(".")
            self.say(node, path, *_import(module, name))
            return
        if node.attr in rules.PRIVATE:
            self.say(node, node.attr, rules.PRIVATE[node.attr])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Dotted paths, names of apps and loggers."""
        if not isinstance(node.value, str) or id(node) in self._skipped:
            return
        if _is_peer(node.value):
            self.say(node, repr(node.value), *_import(node.value, None))
        elif node.value == "django-cqrs" or node.value.startswith("django-cqrs."):
            self.say(node, repr(node.value), "The loggers are called 'django_cqrs_celery' and 'django_cqrs_celery.…'.")

    def visit_Call(self, node: ast.Call) -> None:
        """Celery apps, the beat schedule, changes made by hand, and commands."""
        name = (_dotted(node.func) or "").rpartition(".")[2]
        if name == "Celery":
            self.has_app = True
        elif name == "beat_schedule":
            self.has_beat = True
        elif self.known.get(name) == "TransportPayload" and node.args:
            self.say(node, "TransportPayload(…) with positional arguments", rules.PAYLOAD)
        elif name == "call_command":
            words = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            self.found += _command(self.name, node.lineno, " ".join(words))
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """``CQRS = {…}``, ``CQRS['queue'] = …``."""
        for target in node.targets:
            text = ast.unparse(target)
            if text == "CQRS":
                self.settings.append(node.lineno)
                self._settings(_items(node.value))
            elif text.startswith("CQRS["):
                keys = re.findall(r"\['([^']*)'\]", text)
                self._settings([(keys[-1], node, node.value)] if keys else [], len(keys) > 1)
        self.generic_visit(node)

    def _settings(self, items: Iterable[tuple[str, ast.AST, ast.expr]], is_part: bool = False) -> None:
        items = list(items)
        unmoved = any(key in rules.BROKER_KEYS for key, _, _ in items)
        for key, node, value in items:
            cure = rules.setting(key, unmoved and not is_part)
            if cure:
                self.say(node, f"CQRS[…]['{key}']" if is_part else f"CQRS['{key}']", cure)
                self._skipped.update(id(each) for each in ast.walk(value))
            if key in ("master", "replica") and not is_part:
                self._settings(_items(value), True)
        if unmoved and not any(key == "exchange" for key, _, _ in items):
            self.say(self.settings[-1] if self.settings else 1, "CQRS has no 'exchange'", rules.NO_EXCHANGE)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Models: their attributes and hooks. Migrations: the columns of revisions."""
        if node.name == "Migration":
            self._migration(node)
        bases = {(_dotted(base) or "").rpartition(".")[2] for base in node.bases}
        real = {self.known.get(base, base) for base in bases}
        if real & rules.MIXINS or any(_assigned(each) == "CQRS_ID" for each in node.body):
            for each in node.body:
                name = _assigned(each)
                if name in rules.ATTRIBUTES:
                    self.say(each, f"{node.name}.{name}", rules.ATTRIBUTES[name], False)
                if isinstance(each, ast.FunctionDef) and each.name in rules.HOOKS:
                    self._hook(node.name, each)
        self.generic_visit(node)

    def _migration(self, node: ast.ClassDef) -> None:
        altered: set[str] = set()
        for model, field in _revision_columns(node):
            self.has_columns = self.has_columns or "default=" in field  # a replica's column has none, and stays
            if "db_default=" in field:
                self.has_defaults = True
                altered |= {model} if model else set()
        if len(altered) > 1 and not any(ast.unparse(each) == "atomic = False" for each in node.body):
            self.say(node, f"alters the tables of {len(altered)} models in one transaction", rules.ATOMIC, False)

    def _hook(self, model: str, node: ast.FunctionDef) -> None:
        takes = {arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
        missing = [name for name in rules.HOOKS[node.name] if name not in takes]
        if missing and not node.args.kwarg:
            cure = f"Give it the argument{'s' * (len(missing) > 1)} {', '.join(missing)}, or **kwargs."
            self.say(node, f"{model}.{node.name}() does not take {', '.join(missing)}", cure)
        if node.name in rules.HOOK_HINTS:
            self.say(node, f"{model}.{node.name}()", rules.HOOK_HINTS[node.name], False)


def _is_peer(path: str, *more: str) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in (PACKAGE, *more))


def _dotted(node: ast.AST) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _assigned(node: ast.stmt) -> str | None:
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else None


def _revision_columns(migration: ast.ClassDef) -> Iterator[tuple[str | None, str]]:
    """The columns of revisions in a migration, as they are written; with the model where they are not made with it."""
    for each in ast.walk(migration):
        if isinstance(each, ast.Tuple) and len(each.elts) == 2 and _text(each.elts[0]) == "cqrs_revision":
            yield None, ast.unparse(each.elts[1])
        elif isinstance(each, ast.Call):
            words = {keyword.arg: keyword.value for keyword in each.keywords}
            if _text(words.get("name")) == "cqrs_revision" and "field" in words:
                yield _text(words.get("model_name")), ast.unparse(words["field"])


def _text(value: ast.expr | None) -> str | None:
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def _items(value: ast.expr) -> Iterator[tuple[str, ast.AST, ast.expr]]:
    """Keys of a dict that are written out, each with its place and value."""
    if isinstance(value, ast.Dict):
        for key, item in zip(value.keys, value.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value, key, item
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "dict":
        for keyword in value.keywords:
            if keyword.arg:
                yield keyword.arg, keyword.value, keyword.value


def _import(module: str, name: str | None) -> tuple[str, bool]:
    """What to write in place of a module of django-cqrs, or of a name in it."""
    path = f"{module}.{name}" if name else module
    for known, cure in rules.WITHOUT_COUNTERPART.items():
        if path == known or path.startswith(f"{known}."):
            return cure, True
    renamed = OURS + path.removeprefix(PACKAGE)
    if _exists(OURS + module.removeprefix(PACKAGE), None if name == "*" else name) or _exists(renamed, None):
        return f"Write {renamed}.", True
    return f"{path} has no counterpart here; see \"Moving from django-cqrs\" in the documentation.", True


def _exists(module: str, name: str | None) -> bool:
    try:
        return name is None and bool(import_module(module)) or hasattr(import_module(module), name or "")
    except ImportError:
        parent, _, last = module.rpartition(".")
        return name is None and parent.startswith(OURS) and _exists(parent, last)


# --- other files ---------------------------------------------------------------------------------------------------


def _script(name: str, text: str) -> Iterator[Finding]:
    is_requirements = rules.is_requirements(name)
    for number, line in enumerate(text.splitlines(), 1):
        if is_requirements and rules.REQUIREMENT.search(line):
            yield Finding(name, number, line.strip().rstrip(","), "Write django-cqrs-celery.")
        elif re.search(rf"\b{PACKAGE}\b", line):
            yield Finding(name, number, PACKAGE, f"Write {OURS}.")
        yield from _command(name, number, line)


def _command(name: str, number: int, line: str) -> Iterator[Finding]:
    for command, pattern, cure, must in rules.COMMANDS:
        called = re.search(rf"\b{command}\b", line)
        if called and re.search(pattern, line):
            yield Finding(name, number, called[0], cure, must)
