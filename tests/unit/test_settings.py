"""Settings: the stronger source wins, and a mistake is named where it stands."""

from pathlib import Path

import pytest

from insitu.errors import Invalid
from insitu.settings import load


def test_command_line_wins_over_environment_over_file_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "insitu.yaml").write_text("ae_title: FILE\nquiet_time: 9\nhttp: 127.0.0.1:1\n")
    monkeypatch.setenv("INSITU_QUIET_TIME", "7")
    monkeypatch.setenv("INSITU_HTTP", "127.0.0.1:2")
    settings = load(tmp_path, http="127.0.0.1:3")
    assert (settings.ae_title, settings.quiet_time, settings.http) == ("FILE", 7, "127.0.0.1:3")
    assert settings.dicom == "0.0.0.0:11112"


def test_a_list_is_separated_by_commas_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSITU_CALLING_AE_ALLOWED", "PACS, CT1")
    assert load(tmp_path).calling_ae_allowed == ("PACS", "CT1")


def test_an_unknown_key_in_the_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "insitu.yaml").write_text("quiet_tmie: 9\n")
    with pytest.raises(Invalid, match=r"There is no such setting: 'quiet_tmie'.*insitu.yaml"):
        load(tmp_path)


def test_an_unknown_variable_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSITU_QUIET_TMIE", "9")
    with pytest.raises(Invalid, match="INSITU_QUIET_TMIE"):
        load(tmp_path)


def test_a_value_that_does_not_fit_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"'dicom' is not usable: 'nonsense'\. expected HOST:PORT"):
        load(tmp_path, dicom="nonsense")


def test_the_socket_of_a_long_home_is_short(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    assert len(str(load(long).database_socket)) < 60
    assert load(tmp_path / "h").database_socket == (tmp_path / "h" / "run") or len(str(tmp_path)) > 80


def test_an_object_store_is_a_url_with_one_bucket(tmp_path: Path) -> None:
    assert load(tmp_path).object_store is None
    assert load(tmp_path, object_store="https://s3:9000/images/").object_store == "https://s3:9000/images"
    for wrong in ("s3://host/images", "http://host", "http://host/a/b", "http:///images", "http://host:99999/images"):
        with pytest.raises(Invalid, match=r"expected http\(s\)://HOST"):
            load(tmp_path, object_store=wrong)


def test_keys_in_the_url_of_an_object_store_are_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="object-store-access-key") as caught:
        load(tmp_path, object_store="http://somebody:verysecret@host/images")
    assert "verysecret" not in str(caught.value)
