"""The documentation holds: links, command lines and docstrings."""

import argparse
import ast
import functools
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import small

from launch import command
from launch.sweep.points import load_points

ROOT = small.ROOT
README = ROOT / "README.md"
_IGNORED = {".git", ".venv", "build", "runs", "node_modules"}
PAGES = sorted(
    path for path in ROOT.rglob("*.md") if _IGNORED.isdisjoint(path.relative_to(ROOT).parts)
)
SOURCES = sorted(
    path
    for name in ("densenet_jax", "experiments", "launch")
    for path in (ROOT / name).rglob("*.py")
)
# Words that begin a noun phrase where a function's docstring needs a verb.
_BAD_FIRST_WORDS = {"Of", "By", "What", "Those", "That"}
_PARSERS = ("parse_args", "parse_known_args", "parse_intermixed_args")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def of_pages(test):
    return pytest.mark.parametrize("page", PAGES, ids=name)(test)


def split_page(page: Path) -> tuple[str, list[str]]:
    """Returns the text outside code blocks, and the code blocks that hold commands."""
    prose, blocks, block = [], [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if block is None:
                block = []
                if line == "```bash":
                    blocks.append(block)
            else:
                block = None
        else:
            (prose if block is None else block).append(line)
    return "\n".join(prose), ["\n".join(block) for block in blocks]


def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", split_page(page)[0], re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def links(page: Path) -> list[str]:
    prose = re.sub(r"`[^`]*`", "", split_page(page)[0])
    found = re.findall(r"\]\(([^)\s]+)\)", prose)
    found += re.findall(r"^\[[^\]]+\]: (\S+)$", prose, re.MULTILINE)
    found += re.findall(r'(?:src|srcset|href)="([^"]+)"', prose)
    return [link for link in found if not re.match(r"\w+:", link)]


def commands(page: Path) -> Iterator[list[str]]:
    """Yields the words of each command in the code blocks and the code spans of a page."""
    prose, blocks = split_page(page)
    spans = re.findall(r"`((?:\w+=\S+ )*(?:python|pytest) [^`]+)`", prose)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *spans]:
        words = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word in ("&&", "|", ";"):
                while words and re.fullmatch(r"\w+=.*", words[0]):  # A variable.
                    words.pop(0)
                if words:
                    yield words
                words = []
            else:
                words.append(word)


class Parsed(Exception):
    """The arguments of a command, which has not done anything yet."""


@pytest.fixture
def parse(monkeypatch):
    """Returns a function that parses the arguments of `launch.NAME` with the command's parser."""

    def parse(module: str, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
        package = importlib.util.find_spec(module).submodule_search_locations is not None
        main = importlib.import_module(f"{module}.__main__" if package else module).main
        with monkeypatch.context() as patch:
            originals = {name: getattr(argparse.ArgumentParser, name) for name in _PARSERS}

            def stopping(original, parser, *args, **options):
                patch.undo()
                raise Parsed(original(parser, *args, **options))

            for method, original in originals.items():
                stop = functools.partial(stopping, original)
                patch.setattr(argparse.ArgumentParser, method, lambda *args, stop=stop: stop(*args))
            with pytest.raises(Parsed) as stopped:
                main(argv)
        found = stopped.value.args[0]
        return found if isinstance(found, tuple) else (found, [])

    return parse


def is_placeholder(spec: str) -> bool:
    """Returns whether a page leaves the file or its argument open: CONFIG, families.py:NAME."""
    return bool(re.search(r"\b[A-Z]{2,}\b", spec)) or not (ROOT / spec.partition(":")[0]).exists()


@of_pages
def test_lines_fit_a_screen(page):
    # A row of a table cannot be broken.
    lines = page.read_text(encoding="utf-8").splitlines()
    may_be_long = "|" if page != README else ()
    long = [i for i, line in enumerate(lines, 1) if len(line) > 120 and line[:1] not in may_be_long]
    assert long == []


def test_the_first_page_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@of_pages
def test_links_lead_somewhere(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@of_pages
def test_commands_can_be_parsed(page, parse, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        if re.match(r"python -m launch\.[a-z]", " ".join(words)) and words[-1] != "--help":
            args, overrides = parse(words[2], words[3:])
            for spec in filter(None, [getattr(args, "config", None)]):
                if not is_placeholder(spec):
                    command.load_config(spec, overrides)
            for spec in filter(None, [getattr(args, "sweep", None)]):
                if not is_placeholder(spec):
                    load_points(spec, tmp_path, overrides)
        elif words[0] == "pytest":
            check_tests_exist(words[1:])
        elif words[0] == "python" and words[1].endswith(".py"):
            assert Path(words[1]).is_file(), words


def check_tests_exist(arguments: list[str]) -> None:
    options_with_value = ("-m", "-n", "-k")
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before not in options_with_value and argument and not argument.startswith("-"):
            path, _, test = argument.partition("::")
            assert Path(path).exists(), argument
            assert not test or f"def {test}(" in Path(path).read_text(), argument


@of_pages
def test_configs_and_tests_that_pages_name_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    prose = split_page(page)[0]
    for spec in re.findall(r"--config[ =](\S+\.py\S*?)[\s`]", prose):
        if not is_placeholder(spec):
            command.load_config(spec)
    for path, test in re.findall(r"`([\w/]+\.py)::(\w+)`", prose):
        found = ROOT / path if path.startswith("tests/") else ROOT / "tests" / path
        assert f"def {test}(" in found.read_text(), f"{path}::{test}"


# Directories that commands write, and files outside this project.
_NOT_HERE = re.compile(r"~|hf:|runs/|report/|checkpoints/|tensorboard/")
# The files that the rows of a table in experiments/README.md name.
_ROWS = {
    "Table 2": "experiments/cvpr2017/table2/{}.py",
    "Table 3": "experiments/cvpr2017/table3/{}.py",
    "Figures": "experiments/sweeps/{}.py",
}


@of_pages
def test_paths_that_pages_name_exist(page):
    missing = []
    for span in re.findall(r"`([^`\s]+)`", split_page(page)[0]):
        path = re.split(r"::?", span)[0]
        is_path = re.fullmatch(r"[\w./-]+/[\w./-]*|[\w.-]+\.(py|md|cfg|toml|sh)", path)
        if is_path and not _NOT_HERE.match(span) and not re.search(r"\b[A-Z]{3,}\b", path):
            roots = (ROOT, page.parent, ROOT / "tests", ROOT / "densenet_jax")
            paths = [*(root / path for root in roots), ROOT / "experiments" / f"{path}.py"]
            if not any(found.exists() for found in paths):
                missing.append(span)
    assert missing == []


@pytest.mark.parametrize("heading", _ROWS)
def test_rows_of_the_tables_of_experiments_name_files(heading):
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in re.findall(r"(?:^\|.*\n)+", section, re.M)[0].splitlines()]
    column = next(i for i, cell in enumerate(rows[0]) if cell.strip() in ("`ROW`", "`NAME`"))
    names = [name for row in rows[2:] for name in re.findall(r"`(\w+)`", row[column])]
    assert len(names) > 4
    assert [name for name in names if not (ROOT / _ROWS[heading].format(name)).is_file()] == []


def test_limits_name_constants_that_exist():
    text = (ROOT / "densenet_jax" / "data" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)\.(_?[A-Z][A-Z_]+)`", text)
    assert named
    for module, constant in named:
        [path] = (ROOT / "densenet_jax").rglob(f"{module}.py")
        found = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        assert hasattr(found, constant), f"{module}.{constant}"


def test_code_of_pages_is_python():
    for page in PAGES:
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
            ast.parse(code)


def test_docstrings_begin_with_a_verb_or_a_noun():
    bad = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "-").split()[0]
                if first in _BAD_FIRST_WORDS:
                    bad.append(f"{name(path)}:{getattr(node, 'lineno', 1)}: {first}")
    assert bad == []
