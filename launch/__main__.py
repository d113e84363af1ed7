"""Lists the commands: `python -m launch`."""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

_DIRECTORY = Path(__file__).parent


def commands() -> Iterator[tuple[str, str]]:
    """Yields the name and the summary of each command, without importing it."""
    paths = [*_DIRECTORY.glob("[!_]*.py"), *_DIRECTORY.glob("*/__main__.py")]
    for path in sorted(paths, key=lambda path: path.relative_to(_DIRECTORY).with_suffix("").parts):
        tree = ast.parse(path.read_bytes())
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            name = path.parent.name if path.stem == "__main__" else path.stem
            yield name, (ast.get_docstring(tree) or "").partition("\n")[0].rstrip(".")


def main() -> None:
    rows = list(commands())
    width = max(len(name) for name, _ in rows)
    parser = argparse.ArgumentParser(
        prog="python -m launch",
        usage="python -m launch.COMMAND [--help]",
        description="commands:\n" + "\n".join(f"  {name:{width}}  {text}" for name, text in rows),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    parser.print_help()


if __name__ == "__main__":
    main()
