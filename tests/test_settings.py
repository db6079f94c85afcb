"""Settings: every one documented, wrong ones named."""

import os
import re
from pathlib import Path

import pytest

from hipnode import settings as settings_room
from hipnode.errors import SettingsError
from hipnode.settings import Settings, load_settings, load_usable_settings

EXAMPLE = Path(__file__).parent.parent / "deploy" / "hipnode.env.example"


def test_the_example_file_names_every_setting_with_its_default():
    named = dict(re.findall(r"^# (HIPNODE_[A-Z_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
    assert set(named) == {f"HIPNODE_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if name != "data":
            shown = (
                "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
            )
            assert named[f"HIPNODE_{name.upper()}"] == shown, name


def test_every_setting_is_described():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_wrong_settings_are_named_all_at_once(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIPNODE_PORT", "70000")
    monkeypatch.setenv("HIPNODE_AE_TITLE", "LONGER_THAN_SIXTEEN")
    with pytest.raises(SettingsError, match=r"(?s)HIPNODE_AE_TITLE.*HIPNODE_PORT"):
        load_settings()


def test_a_path_left_empty_is_unset_and_not_the_present_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    unset = load_settings()
    for name in ("DATA", "SELECTION_FILE", "DESTINATIONS_FILE"):
        monkeypatch.setenv(f"HIPNODE_{name}", "")
    settings = load_settings()
    assert (settings.selection_file, settings.destinations_file) == (None, None)
    assert settings.data == unset.data != Path()


def test_the_environment_wins_over_the_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.env").write_text("HIPNODE_PORT=104\nHIPNODE_AE_TITLE=FROMFILE\n")
    monkeypatch.setenv("HIPNODE_ENV_FILE", "site.env")
    monkeypatch.setenv("HIPNODE_PORT", "11113")
    settings = load_settings()
    assert (settings.port, settings.ae_title) == (11113, "FROMFILE")


def test_a_missing_settings_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HIPNODE_ENV_FILE", str(tmp_path / "nowhere.env"))
    with pytest.raises(SettingsError, match=r"nowhere\.env"):
        load_settings()


def test_urls_name_what_the_node_speaks_and_no_password_is_quoted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIPNODE_DATABASE_URL", "postgresql://node@db/hipnode")
    assert load_settings().database == "postgresql+psycopg://node@db/hipnode"
    monkeypatch.setenv("HIPNODE_DATABASE_URL", "mysql://node:secret@db/hipnode")
    monkeypatch.setenv("HIPNODE_BROKER_URL", "redsi://:secret@broker")
    with pytest.raises(SettingsError, match=r"(?s)HIPNODE_DATABASE_URL.*HIPNODE_BROKER_URL") as wrong:
        load_settings()
    assert "secret" not in str(wrong.value)


@pytest.mark.parametrize("title", ["", "   ", "A\\B", "NÖDE"])
def test_an_ae_title_is_one_as_the_standard_says(monkeypatch, tmp_path, title):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIPNODE_AE_TITLE", title)
    with pytest.raises(SettingsError, match="HIPNODE_AE_TITLE"):
        load_settings()


def test_a_diagnosis_gets_the_settings_that_can_be_used_and_the_rest_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIPNODE_PORT", "70000")
    monkeypatch.setenv("HIPNODE_DATABASE_URL", "mysql://user:secret@host/db")
    monkeypatch.setenv("HIPNODE_AE_TITLE", "RIGHT")
    settings, problems = load_usable_settings()
    assert (settings.port, settings.database_url, settings.ae_title) == (11112, "", "RIGHT")
    assert [problem.split(":")[0] for problem in problems] == ["HIPNODE_PORT", "HIPNODE_DATABASE_URL"]
    assert "secret" not in "".join(problems)
    (tmp_path / "site.env").write_bytes(b"HIPNODE_AE_TITLE=\xff")
    monkeypatch.setenv("HIPNODE_ENV_FILE", "site.env")
    assert load_usable_settings()[1][0] == "site.env cannot be read (it is no text)."
    monkeypatch.setenv("HIPNODE_ENV_FILE", "nowhere.env")
    assert "nowhere.env, which is not there" in load_usable_settings()[1][0]


# --- Secret files --------------------------------------------------------------------------------


@pytest.fixture
def secrets(monkeypatch, tmp_path):
    """A folder of secret files that this process reads."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("HIPNODE_SECRETS_DIR", str(folder))
    return folder


def test_a_secret_file_sets_a_setting_without_the_newline_at_its_end(secrets):
    (secrets / "hipnode_broker_url").write_text("redis://:pass@redis:6379/0\n")
    assert load_settings().broker == "redis://:pass@redis:6379/0"


def test_the_environment_wins_over_hipnode_env_and_that_over_a_secret_file(secrets, monkeypatch, tmp_path):
    for name in ("ae_title", "port", "http_port"):
        (secrets / f"hipnode_{name}").write_text("1111")
    (tmp_path / "hipnode.env").write_text("HIPNODE_PORT=2222\nHIPNODE_HTTP_PORT=2222\n")
    monkeypatch.setenv("HIPNODE_HTTP_PORT", "3333")
    settings = load_settings()
    assert (settings.ae_title, settings.port, settings.http_port) == ("1111", 2222, 3333)


def test_a_wrong_secret_is_named_by_its_file_and_never_quoted(secrets):
    (secrets / "hipnode_port").write_text("hunter2\n")
    (secrets / "hipnode_database_url").write_text("mysql://node:hunter2@db/hipnode")
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    assert re.search(r"HIPNODE_PORT:.*secret file hipnode_port\)", str(wrong.value))
    assert re.search(r"HIPNODE_DATABASE_URL:.*secret file hipnode_database_url\)", str(wrong.value))
    assert "hunter2" not in str(wrong.value)


def test_a_wrong_value_of_the_environment_is_quoted_though_a_secret_file_is_there(secrets, monkeypatch):
    (secrets / "hipnode_port").write_text("104")
    monkeypatch.setenv("HIPNODE_PORT", "70000")
    with pytest.raises(SettingsError, match=r"HIPNODE_PORT.*70000") as wrong:
        load_settings()
    assert "secret file" not in str(wrong.value)


def test_secret_files_that_cannot_be_read_are_named_all_at_once_with_other_mistakes(secrets, monkeypatch):
    (secrets / "hipnode_broker_url").mkdir()
    (secrets / "hipnode_database_url").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("HIPNODE_PORT", "70000")
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    assert "hipnode_broker_url cannot be read (Is a directory)" in str(wrong.value)
    assert "hipnode_database_url cannot be read (it is no text)" in str(wrong.value)
    assert "HIPNODE_PORT" in str(wrong.value)


def test_a_diagnosis_goes_on_without_the_secret_files_that_cannot_be_read(secrets):
    (secrets / "hipnode_broker_url").mkdir()
    (secrets / "hipnode_ae_title").write_text("FROMSECRET")
    settings, problems = load_usable_settings()
    assert (settings.broker, settings.ae_title) == ("filesystem://", "FROMSECRET")
    assert len(problems) == 1
    assert "hipnode_broker_url cannot be read" in problems[0]


def test_a_folder_of_secrets_that_was_named_must_be_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIPNODE_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"HIPNODE_SECRETS_DIR.*nowhere"):
        load_settings()


def test_secrets_are_read_from_where_container_engines_put_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert str(settings_room.SECRETS) == "/run/secrets"
    monkeypatch.setattr(settings_room, "SECRETS", tmp_path)
    (tmp_path / "hipnode_ae_title").write_text("FROMSECRET")
    assert load_settings().ae_title == "FROMSECRET"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_secret_file_of_another_user_is_named(secrets):
    (secrets / "hipnode_broker_url").touch(mode=0o000)
    with pytest.raises(SettingsError, match=r"hipnode_broker_url cannot be read \(Permission denied\)"):
        load_settings()
