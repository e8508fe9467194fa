"""Settings: the stronger source wins, and a mistake is named where it stands."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

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


def home_with_password(folder: Path, password: str) -> Path:
    (folder / "secrets").mkdir()
    (folder / "secrets" / "database-api").write_text(f"{password}\n")
    return folder


def test_a_database_host_is_reached_over_tcp_with_its_authorities(tmp_path: Path) -> None:
    settings = load(home_with_password(tmp_path, "abc"), database_host="db.example", database_port=6432)
    dsn = conninfo_to_dict(settings.database_dsn("api"))
    assert (dsn["host"], dsn["port"], dsn["user"], dsn["dbname"]) == ("db.example", "6432", "insitu_api", "insitu")
    assert (dsn["sslmode"], dsn["sslrootcert"]) == ("verify-full", "system")
    named = load(tmp_path, database_host="db.example", database_ca="/ca.pem", database_name="images")
    dsn = conninfo_to_dict(named.database_dsn("api"))
    assert (dsn["sslrootcert"], dsn["dbname"]) == ("/ca.pem", "images")


def test_without_a_database_host_the_socket_of_the_home_is_used(tmp_path: Path) -> None:
    settings = load(home_with_password(tmp_path, "abc"))
    dsn = conninfo_to_dict(settings.database_dsn("api"))
    assert dsn == {
        "host": str(settings.database_socket), "user": "insitu_api", "password": "abc", "dbname": "insitu",
    }  # fmt: skip


@pytest.mark.parametrize("password", ["a b", "it's", "back\\slash", "dbname=postgres", "ünï"])
def test_no_password_breaks_out_of_the_connection_string(tmp_path: Path, password: str) -> None:
    settings = load(home_with_password(tmp_path, password), database_host="db", database_sslmode="disable")
    dsn = conninfo_to_dict(settings.database_dsn("api"))
    assert (dsn["password"], dsn["dbname"], "sslrootcert" in dsn) == (password, "insitu", False)


def test_a_missing_password_says_which_role_it_is_of(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="Put the password of the role insitu_api there"):
        load(tmp_path, database_host="db").database_dsn("api")


def test_verify_ca_without_an_authority_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="verify-ca needs database_ca"):
        load(tmp_path, database_host="db", database_sslmode="verify-ca")


def test_urls_of_the_engine_and_of_the_run_gateway_follow_the_addresses(tmp_path: Path) -> None:
    local = load(tmp_path)
    assert (local.engine_url, local.run_gateway_url) == ("http://127.0.0.1:8793", "http://127.0.0.1:8080")
    far = load(tmp_path, airflow_url="http://airflow:8793/", gateway_url="https://gateway.insitu.internal:8090")
    assert (far.engine_url, far.run_gateway_url) == ("http://airflow:8793", "https://gateway.insitu.internal:8090")
    for wrong in ("airflow:8793", "http://", "http://user:verysecret@host", "http://host/path", "ftp://host"):
        with pytest.raises(Invalid, match=r"expected http\(s\)://HOST\[:PORT\]") as caught:
            load(tmp_path, gateway_url=wrong)
        assert "verysecret" not in str(caught.value)


def test_images_of_algorithms_are_named_by_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = f"registry.example:5000/ct-tissue@sha256:{'a' * 64}"
    monkeypatch.setenv("INSITU_ALGORITHM_IMAGES", f"ct-tissue={image}")
    assert load(tmp_path).algorithm_images == {"ct-tissue": image}
    monkeypatch.setenv("INSITU_ALGORITHM_IMAGES", "ct-tissue=registry.example/ct-tissue:latest")
    with pytest.raises(Invalid, match="expected an image by its digest"):
        load(tmp_path)


def test_the_launchers_file_is_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSITU_LAUNCHER_FILE", "/etc/insitu/launcher.yaml")
    assert load(tmp_path, launcher="kubernetes").launcher == "kubernetes"
