from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine.config import BatchingConfig, CompositionConfig, EngineConfig, TransformersConfig, VllmConfig
from kvcache import Repair, StoreConfig
from scheduler import ForesightConfig, PreloadConfig
from server.config import KEYS, CacheSettings, Config, load_config
from server.config.flags import parse_flags
from server.config.values import ConfigError

ROOT = Path(__file__).parents[2]


def test_the_defaults_stand_alone() -> None:
    resolved = load_config(None, {}, {})
    assert resolved.config == Config()
    assert set(resolved.origin.values()) == {"default"}
    assert resolved.config.server.host == "127.0.0.1"


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data_dir: /tmp/x\nserver: {port: 1, drain_s: 2}\nengine:\nmemory: {mode: off, top_k: 3}\n")
    env = {"RECALLKV_SERVER_PORT": "4", "RECALLKV_MEMORY_TOP_K": "6", "HOME": "x", "RECALLKV_API_KEY": "k"}
    resolved = load_config(file, env, {"memory.top_k": "9"})
    config = resolved.config
    assert (config.data_dir, config.server.drain_s, config.memory.mode) == (Path("/tmp/x"), 2.0, "off")
    assert (config.server.port, config.memory.top_k) == (4, 9)
    assert resolved.origin["server.drain_s"] == f"file {file}"
    assert resolved.origin["server.port"] == "env RECALLKV_SERVER_PORT"
    assert resolved.origin["memory.top_k"] == "flag --memory.top_k"


def test_what_is_printed_reads_back(tmp_path: Path) -> None:
    flags = {
        "server.cors_origins": "https://a,https://b",
        "engine.threads": "2",
        "engine.model": "/a/folder with a long name" + " and blanks" * 20 + ": # [1]",
        "cache.fsync": "false",
    }
    resolved = load_config(None, {}, flags)
    file = tmp_path / "c.yaml"
    file.write_text(resolved.as_yaml())
    assert load_config(file, {}, {}).config == resolved.config
    assert "port: 8000  # default" in resolved.as_yaml()


def test_secrets_are_masked() -> None:
    resolved = load_config(None, {"RECALLKV_MEMORY_EMBEDDER_API_KEY": "sk-secret"}, {})
    assert "sk-secret" not in resolved.as_yaml()
    assert resolved.config.memory.embedder_api_key == "sk-secret"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("server.prot", "server.port"), ("sever.port", "server.port"), ("topk", "memory.top_k"), ("port", "server.port")],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, key: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"'{nearest}'"):
        load_config(None, {}, {key: "1"})
    section, _, name = key.rpartition(".")
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({section: {name: 1}} if section else {name: 1}))
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config(file, {}, {})


def test_an_unknown_variable_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'RECALLKV_SERVER_PORT'"):
        load_config(None, {"RECALLKV_SERVER_PROT": "1"}, {})


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("server.port", "70000", "0 to 65535"),
        ("server.port", "http", "whole number"),
        ("server.port", "1.5", "whole number"),
        ("server.drain_s", "nan", "number"),
        ("cache.disk_gb", "-1", "number"),
        ("cache.fsync", "maybe", "true or false"),
        ("memory.mode", "always", "auto, kv, text, off"),
        ("server.log_level", "loud", "debug, info"),
        ("engine.model", "", "a text"),
        ("data_dir", "~no-such-user/x", "no such user"),
        ("data_dir", "a\0b", "a path"),
    ],
)
def test_a_bad_value_says_what_is_allowed_and_where_it_came_from(key: str, value: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, {key: value})
    for part in (key, wanted, f"flag --{key}"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"[1, 2]",
        b"just text",
        b"server: 5",
        b"a: [",
        b"server: {port: [1]}",
        b"server: {port: .inf}",
        b"data_dir: \xff",
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(text)
    with pytest.raises(ConfigError):
        load_config(file, {}, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "missing.yaml", {}, {})


@given(st.sampled_from(sorted(KEYS)), st.text(max_size=10))
def test_any_text_for_any_key_is_taken_or_refused_by_name(key: str, value: str) -> None:
    refused = ""
    try:
        load_config(None, {}, {key: value})
    except ConfigError as error:
        refused = str(error)
    assert not refused or key in refused


@pytest.mark.parametrize("preset", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_loads(preset: Path) -> None:
    assert load_config(preset, {}, {}).config != Config()


def test_flags() -> None:
    arguments = ["demo", "--port", "9", "--cache.disk-gb=3", "--memory.top_k", "2", "--data-dir", "/x"]
    assert parse_flags(arguments) == {
        "engine.model": "demo",
        "server.port": "9",
        "cache.disk_gb": "3",
        "memory.top_k": "2",
        "data_dir": "/x",
    }
    for wrong in (["demo", "again"], ["--port"], ["--prot", "1"], ["--server.port="], ["-p", "9"]):
        with pytest.raises(ConfigError):
            parse_flags(wrong)


def test_the_defaults_of_composition_are_the_engines() -> None:
    """They are taken from there."""
    cache, engine = CacheSettings(), CompositionConfig()
    assert Repair(cache.high_repair, cache.high_share) == engine.high
    assert Repair(cache.fast_repair, cache.fast_share) == engine.fast
    assert cache.max_kl == engine.max_kl


def test_every_setting_that_another_package_owns_reaches_it() -> None:
    """A value that is no default, for every setting, is found where the engine, the store and prediction look."""
    values = {
        "engine.model": "/a/model",
        "engine.device": "cuda",
        "engine.dtype": "float16",
        "engine.context": "100",
        "engine.threads": "7",
        "engine.adapt_threads": "false",
        "engine.native": "false",
        "engine.max_running": "3",
        "engine.max_waiting": "4",
        "engine.prefill_chunk": "5",
        "engine.busy_prefill_chunk": "6",
        "engine.kv_gb": "1.5",
        "cache.device_gb": "0.25",
        "cache.host_gb": "0.5",
        "cache.disk_gb": "0.75",
        "cache.fsync": "false",
        "cache.weigh_loading": "false",
        "cache.codec": "int8",
        "cache.max_kl": "0.125",
        "cache.high_repair": "first",
        "cache.high_share": "0.3",
        "cache.fast_repair": "lines",
        "cache.fast_share": "0.2",
        "scheduler.predictor": "recency",
        "scheduler.min_probability": "0.25",
        "scheduler.horizon_s": "60",
        "scheduler.preload_mb_s": "2.5",
        "scheduler.unused_share": "0.1",
    }
    config = load_config(None, {}, values).config
    owned_keys = {key for key in KEYS if key.partition(".")[0] in ("engine", "cache", "scheduler")}
    assert owned_keys - values.keys() == {"engine.kind", "engine.served_name", "cache.sessions"}
    assert config.cache.store(Path("/x")) == StoreConfig(
        Path("/x"), 250_000_000, 500_000_000, 750_000_000, fsync=False, codec="int8"
    )
    assert config.engine_config("m", 7) == EngineConfig(
        model="m",
        model_id="/a/model",
        dtype="float16",
        context=100,
        batching=BatchingConfig(3, 5, 6, 1_500_000_000, 4),
        composing=CompositionConfig(Repair("first", 0.3), Repair("lines", 0.2), 0.125),
        transformers=TransformersConfig("cuda", 7, adapt_threads=False, native=False, weigh_loading=False),
    )
    assert config.scheduler.foresight(1000) == ForesightConfig(
        "recency", 60.0, PreloadConfig(min_probability=0.25, bytes_s=2.5e6, unused_bytes=100)
    )


def test_the_defaults_are_their_owners() -> None:
    config = Config()
    assert config.cache.store(Path("/x")) == StoreConfig(Path("/x"))
    assert config.engine_config("m", 2) == EngineConfig("m", "demo", transformers=TransformersConfig(threads=2))
    assert config.scheduler.foresight(0) == ForesightConfig(preload=PreloadConfig(unused_bytes=0))


def test_flags_of_vllm_s_own() -> None:
    given = ["tensor-parallel-size=2", "enforce-eager=true", "enable-prefix-caching=False", "tool-call-parser=hermes"]
    config = load_config(None, {}, {"vllm": given}).config
    assert config.engine_config("m", 1).vllm == VllmConfig(
        ("--tensor-parallel-size=2", "--enforce-eager", "--no-enable-prefix-caching"), "hermes"
    )
