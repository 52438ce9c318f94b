"""`flyball register`: a policy that was made anywhere becomes a version of the registry."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from flyball.cli.options import home_option, open_store
from flyball.errors import ReleaseError, unreadable
from flyball.release.registry import PRODUCTION, Registry, new_version, weights_digest
from flyball.types import PolicyVersion


@click.command()
@click.argument("place", metavar="PATH_OR_URL")
@click.option("--name", required=True, help="What people call it.")
@click.option("--base", default="", help="Digest or name of the base model.")
@click.option("--model", default="", help="Of a URL: the model that the endpoint is asked for.")
@click.option("--prompt", type=click.Path(path_type=Path, dir_okay=False), help="System prompt that belongs to it.")
@click.option("--production", is_flag=True, help="It serves users already: place the alias, which must not exist yet.")
@home_option
def register(place: str, name: str, base: str, model: str, prompt: Path | None, production: bool, home: Path) -> None:
    """Register a checkpoint trained anywhere, a prompt, or a hosted model.

    A folder is known by the digest of its files, a prompt file by that of its text, an endpoint by URL, model and
    prompt. Prints the version id, which is the digest of all of it. Needs no torch.
    """
    version = described(place, name=name, base=base, model=model, prompt=prompt)
    with open_store(home, must_exist=False) as store:
        registry = Registry(store)
        with store.together():
            registry.register(version)
            if production:
                _serves(registry, version)
    click.echo(version.version_id)


def _serves(registry: Registry, version: PolicyVersion) -> None:
    """Place the production alias for the first time. Raises ReleaseError where another version serves."""
    serving = registry.alias(PRODUCTION)
    if serving is None:
        registry.move_alias(PRODUCTION, expected=None, to=version.version_id, reason="served before Flyball")
    elif serving.version_id != version.version_id:
        raise ReleaseError(
            f"{serving.name} ({serving.version_id[:12]}) is in production, and only a release changes that: "
            f"`flyball release judge {version.version_id[:12]} ...` begins one; `flyball log show` says what moved it"
        )


def described(place: str, *, name: str, base: str, model: str, prompt: Path | None) -> PolicyVersion:
    """The version that a folder, a prompt file or an endpoint is. Raises ReleaseError for what is none of them."""
    if not name.strip():
        raise ReleaseError("a version without a name: give it the one that people call it by with --name")
    said = "" if prompt is None else _digest(prompt)
    if place.startswith(("http://", "https://")):
        if not model:
            raise ReleaseError(f"{place} is an endpoint: name the model that it is asked for with --model")
        hosted = hashlib.sha256(f"{place.rstrip('/')}\n{model}\n{said}".encode()).hexdigest()
        return new_version(name=name, weights=hosted, base=base or model, config=said)
    path = Path(place)
    if path.is_dir():
        return new_version(name=name, weights=weights_digest(path), base=base, config=said, path=str(path.resolve()))
    if path.is_file():
        if not base:
            raise ReleaseError(f"{path} is a prompt: name the model that it is given to with --base")
        return new_version(name=name, weights=_digest(path), base=base, config=said)
    raise ReleaseError(f"{place} is neither a folder with a checkpoint, nor a prompt file, nor a URL")


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read: {unreadable(error)}") from error
