"""`load`: every image arrives under its digest, again and again, and what goes wrong at a site is said in a sentence that helps."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from .registries import Front, Registry, basic, certificates, running
from .small import ROOT, load


def listed(bundle: Path) -> dict[str, Any]:
    """The images of a bundle by name."""
    return {image["name"]: image for image in json.loads((bundle / "images.json").read_text())["images"]}


def test_every_image_is_there_by_its_digest_and_the_values_name_it(bundle: Path, registry: Registry) -> None:
    done = load(
        bundle, f"{registry.address}/site/imaging", "--plain-http", "--as", "registry.hospital.example/site/imaging"
    )
    assert done.returncode == 0, done.stderr
    images = listed(bundle)
    for image in images.values():
        repository = f"site/imaging/{image['repository']}"
        assert registry.manifests(repository) == {image["digest"]}
        assert registry.tags(repository) == {"0.1.0": image["digest"]}
    values = yaml.safe_load((bundle / "values.registry.yaml").read_text())
    platform = {"repository": "insitu/platform", "tag": "0.1.0", "digest": images["platform"]["digest"]}
    algorithm = f"registry.hospital.example/site/imaging/insitu/ct-tissue@{images['ct-tissue']['digest']}"
    assert values == {
        "global": {"imageRegistry": "registry.hospital.example/site/imaging"},
        "images": {"platform": platform},
        "algorithms": {"images": {"ct-tissue": algorithm}},
    }
    assert "--values" in done.stdout
    assert "helm install insitu" in done.stdout


def test_a_layer_of_two_images_is_sent_once_and_nothing_twice(bundle: Path, registry: Registry) -> None:
    with Front(registry.address) as front:
        assert load(bundle, front.address, "--plain-http").returncode == 0
        sent = [line for line in front.seen if line.startswith("PUT") and "/blobs/" in line]
        assert len(sent) == 5  # two configurations, three layers
        front.seen.clear()
        again = load(bundle, front.address, "--plain-http")
        assert again.returncode == 0, again.stderr
        assert [line for line in front.seen if not line.startswith(("GET", "HEAD"))] == []
    assert again.stdout.count("was there") == 2


def test_an_interrupted_upload_goes_on(bundle: Path, registry: Registry) -> None:
    largest = max(
        listed(bundle)["ct-tissue"]["blobs"],
        key=lambda one: (bundle / "images/blobs" / one.replace(":", "/")).stat().st_size,
    )
    with Front(registry.address) as front:
        front.script(f"PUT .*{largest.partition(':')[2]}", 0)
        done = load(bundle, front.address, "--plain-http")
        assert done.returncode == 1
        assert "ended the connection while" in done.stderr
        assert "client_max_body_size" in done.stderr
        assert not (bundle / "values.registry.yaml").exists()
    with Front(registry.address) as front:
        assert load(bundle, front.address, "--plain-http").returncode == 0
        assert len([line for line in front.seen if line.startswith("PUT") and "/blobs/" in line]) <= 2
    assert registry.manifests("insitu/ct-tissue") == {listed(bundle)["ct-tissue"]["digest"]}


def test_one_cut_connection_and_a_busy_registry_are_survived(bundle: Path, registry: Registry) -> None:
    with Front(registry.address) as front:
        front.script("PUT .*blobs", 0, times=1)
        front.script("POST", 429, {"Retry-After": "0"}, times=2)
        front.script("PUT .*(manifests|blobs)", 503, times=2)
        done = load(bundle, front.address, "--plain-http")
    assert done.returncode == 0, done.stderr
    assert registry.manifests("insitu/platform") == {listed(bundle)["platform"]["digest"]}


def test_a_damaged_blob_is_named_with_its_images_and_nothing_is_sent(bundle: Path, registry: Registry) -> None:
    layer = listed(bundle)["platform"]["blobs"][1]
    path = bundle / "images" / "blobs" / layer.replace(":", "/")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (bundle / "LICENSE").unlink()
    with Front(registry.address) as front:
        done = load(bundle, front.address, "--plain-http")
        assert front.seen == []
    assert done.returncode == 1
    assert (
        f"images/blobs/{layer.replace(':', '/')} is damaged (part of insitu/platform, insitu/ct-tissue)" in done.stderr
    )
    assert "LICENSE is missing" in done.stderr


def test_a_tag_that_stands_for_another_image_stays(bundle: Path, registry: Registry) -> None:
    """A cluster may still run what it stands for, and a registry may remove what has no tag."""
    images = listed(bundle)
    assert load(bundle, registry.address, "--plain-http", "--only", "platform").returncode == 0
    other = json.loads((bundle / "images.json").read_text())
    for image in other["images"]:
        image["repository"] = "insitu/platform"
    (bundle / "images.json").write_text(json.dumps(other, indent=2))
    resum(bundle, "images.json")
    done = load(bundle, registry.address, "--plain-http", "--only", "ct-tissue")
    assert done.returncode == 0, done.stderr
    digest = images["ct-tissue"]["digest"]
    assert registry.tags("insitu/platform") == {"0.1.0": images["platform"]["digest"], f"0.1.0-{digest[7:19]}": digest}


def resum(bundle: Path, name: str) -> None:
    """Correct a checksum after a change."""
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    changed = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in lines]
    (bundle / "SHA256SUMS").write_text("\n".join(changed) + "\n")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "wants a login: add --user"),
        (403, "one may not push there"),
        (404, "no such project"),
        (405, "a mirror that is only read"),
        (413, "limits the size of a request"),
        (500, "trouble of its own"),
        (507, "no room left"),
    ],
)
def test_a_refusal_is_said_with_what_to_do(bundle: Path, registry: Registry, status: int, said: str) -> None:
    body = json.dumps({"errors": [{"code": "DENIED", "message": "project imaging has no quota"}]})
    with Front(registry.address) as front:
        front.script("POST", status, {"Retry-After": "0", "WWW-Authenticate": 'Basic realm="x"'}, body)
        done = load(bundle, front.address, "--plain-http")
    assert done.returncode == 1
    assert said in done.stderr
    if status != 401:
        assert f"answered {status} to sending the blob sha256:" in done.stderr
        assert "DENIED: project imaging has no quota" in done.stderr
    assert "Traceback" not in done.stderr


def test_who_is_not_a_registry_is_told_so(bundle: Path) -> None:
    done = load(bundle, "https://registry.hospital.example", "--plain-http")
    assert "without https://" in done.stderr
    done = load(bundle, "127.0.0.1:1", "--plain-http")
    assert "nothing listens at 127.0.0.1:1" in done.stderr
    done = load(bundle, "127.0.0.1:1/Imaging", "--plain-http")
    assert "lower case" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_certificate_of_the_sites_own_authority(bundle: Path, tmp_path: Path) -> None:
    authority, server = certificates(tmp_path / "tls")
    with running(tmp_path / "registry", tls=server) as registry:
        done = load(bundle, registry.address)
        assert done.returncode == 1
        assert "--ca FILE" in done.stderr
        name = f"localhost:{registry.address.partition(':')[2]}"
        assert "is for another name" in load(bundle, name, "--ca", str(authority)).stderr
        assert "is not a PEM file" in load(bundle, registry.address, "--ca", str(bundle / "load.py")).stderr
        done = load(bundle, registry.address, "--ca", str(authority))
        assert done.returncode == 0, done.stderr
        assert registry.manifests("insitu/platform")


def test_a_proxy_that_ends_tls_and_cuts_large_requests(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    """The registry behind it names uploads without TLS, and a cut connection looks otherwise with TLS than without."""
    authority, server = certificates(tmp_path / "tls")
    with Front(registry.address, server) as front:
        front.script("PUT .*blobs", 0, times=1)
        done = load(bundle, front.address, "--ca", str(authority))
        assert done.returncode == 0, done.stderr
        front.script("PUT .*blobs", 0)
        front.script("HEAD .*blobs", 404)
        done = load(bundle, f"{front.address}/other", "--ca", str(authority), "--only", "platform")
        assert "ended the connection while" in done.stderr
    assert registry.manifests("insitu/platform") == {listed(bundle)["platform"]["digest"]}


def test_a_registry_without_tls_is_not_spoken_to_unless_told(bundle: Path, registry: Registry) -> None:
    done = load(bundle, registry.address)
    assert done.returncode == 1
    assert "speaks no TLS" in done.stderr


def test_a_login_by_name_and_password(bundle: Path, tmp_path: Path) -> None:
    with running(tmp_path / "registry", logins=True) as registry:
        line = (registry.address, "--plain-http")
        assert "wants a login: add --user" in load(bundle, *line).stderr
        assert "there is no password for insitu" in load(bundle, *line, "--user", "insitu").stderr
        done = load(bundle, *line, "--user", "insitu", INSITU_REGISTRY_PASSWORD="wrong")
        assert "the login as insitu is refused" in done.stderr
        assert "wrong" not in done.stderr
        (tmp_path / "password").write_text("correct\n")
        done = load(bundle, *line, "--user", "insitu", "--password-file", str(tmp_path / "password"))
        assert done.returncode == 0, done.stderr
        # As `docker login` has noted it
        (bundle / ".docker").mkdir()
        noted = {"auths": {registry.address: {"auth": base64.b64encode(b"insitu:correct").decode()}}}
        (bundle / ".docker" / "config.json").write_text(json.dumps(noted))
        assert load(bundle, *line).returncode == 0


def test_a_login_by_token_asks_for_what_it_needs_and_sends_the_password_to_nobody_else(
    bundle: Path, registry: Registry
) -> None:
    with Front(registry.address) as front:
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{front.address}/token",service="tests"'}
        front.script("GET /token", 401, {"X-Unless-Authorization": basic("robot$insitu", "correct")})
        front.script("GET /token", 200, body=json.dumps({"token": "T"}))
        front.script("/v2/", 401, {**challenge, "X-Unless-Authorization": "Bearer T"})
        done = load(bundle, front.address, "--plain-http", "--user", "robot$insitu", INSITU_REGISTRY_PASSWORD="correct")
        assert done.returncode == 0, done.stderr
        asked = [line for line in front.seen if "/token" in line]
        assert any("scope=repository%3Ainsitu%2Fplatform%3Apull%2Cpush" in line for line in asked)
        done = load(bundle, front.address, "--plain-http", "--user", "robot$insitu", INSITU_REGISTRY_PASSWORD="other")
        assert "the login as robot$insitu is refused" in done.stderr


def test_an_upload_stays_with_tls_where_the_registry_does_not_know_of_it(bundle: Path, tmp_path: Path) -> None:
    """A registry behind a proxy that ends TLS may answer with an address without it."""
    namespace: dict[str, Any] = {"__name__": "registry"}
    exec(compile((bundle / "registry.py").read_text(), "registry.py", "exec"), namespace)  # noqa: S102 - the program under test
    own = namespace["Registry"]("registry.hospital.example", ssl.create_default_context(), None)._own
    assert (
        own("http://registry.hospital.example/v2/x/uploads/1?a=b")
        == "https://registry.hospital.example/v2/x/uploads/1?a=b"
    )
    assert own("/v2/x/uploads/1") == "https://registry.hospital.example/v2/x/uploads/1"
    with pytest.raises(namespace["Trouble"], match="without TLS"):
        own("http://elsewhere.example/v2/x")


def test_the_sites_proxy_is_used_unless_told_otherwise(bundle: Path, registry: Registry) -> None:
    with Front(registry.address) as proxy:
        variables = {"http_proxy": f"http://{proxy.address}"}
        done = load(bundle, "registry.invalid:5000", "--plain-http", **variables)
        assert done.returncode == 0, done.stderr
        assert proxy.seen[0] == "GET http://registry.invalid:5000/v2/"
        proxy.seen.clear()
        assert load(bundle, registry.address, "--plain-http", no_proxy="127.0.0.1", **variables).returncode == 0
        assert proxy.seen == []


def test_a_bundle_on_something_read_only_says_where_the_values_could_go(
    bundle: Path, registry: Registry, tmp_path: Path
) -> None:
    missing = tmp_path / "nowhere" / "values.yaml"
    done = load(bundle, registry.address, "--plain-http", "--values", str(missing))
    assert "name another place by --values FILE" in done.stderr
    elsewhere = tmp_path / "values.yaml"
    assert load(bundle, registry.address, "--values-only", "--values", str(elsewhere)).returncode == 0
    assert yaml.safe_load(elsewhere.read_text())["global"]["imageRegistry"] == registry.address
    assert registry.manifests("insitu/platform") == set()


@pytest.mark.parametrize("program", ["load.py", "registry.py"])
def test_the_loader_is_written_for_python_3_9(program: str) -> None:
    """What a hospital's machine has; only syntax is looked at, and which modules."""
    tree = ast.parse((ROOT / "docker" / program).read_text(), feature_version=(3, 9))
    named = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    named += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in named} <= {
        "__future__", "argparse", "base64", "getpass", "hashlib", "http", "json", "os", "pathlib", "re", "registry", "ssl", "sys",
        "time", "typing", "urllib",
    }  # fmt: skip
