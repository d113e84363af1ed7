"""A repository in the local cache of the Hugging Face hub, as huggingface_hub lays it out."""

from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def add_repository(cache: Path, repository: str) -> Path:
    """Adds an empty repository to a cache; returns the directory for its files."""
    directory = cache / f"models--{repository.replace('/', '--')}"
    snapshot = directory / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (directory / "refs").mkdir()
    (directory / "refs" / "main").write_text(COMMIT)
    return snapshot
