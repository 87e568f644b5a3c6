"""Every line of the checklist is quoted by a test, in its module, at the beginning of the docstring."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.parity.checklist import LINES

HERE = Path(__file__).parent


def quotes(module):
    """Name and first line of the docstring of each test; in classes names occur more than once."""
    tree = ast.parse((HERE / f"{module}.py").read_text())
    tests = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    found = [(test.name, ast.get_docstring(test) or "") for test in tests if test.name.startswith("test_")]
    return [(name, docstring.split("\n")[0]) for name, docstring in found]


@pytest.mark.parametrize("module", LINES)
def test_each_line_has_a_test(module):
    quoted = {quote for _, quote in quotes(module)}
    assert [line for line in LINES[module] if line not in quoted] == []


@pytest.mark.parametrize("module", LINES)
def test_each_test_quotes_a_line(module):
    assert [(name, quote) for name, quote in quotes(module) if quote not in LINES[module]] == []


def test_each_module_has_a_part():
    modules = {path.stem for path in HERE.glob("test_*.py")} - {Path(__file__).stem}
    assert modules == set(LINES)
