"""Settings: every one documented, wrong ones named."""

import re
from pathlib import Path

import pytest

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
