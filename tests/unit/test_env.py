from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from socketguard import ConfigurationError, Heartbeat, JWTAuth
from socketguard.config import VARIABLES, options_from_env
from socketguard.testing import mint

SECRET = "a secret of at least thirty-two bytes"


def read(**variables: str) -> dict[str, Any]:
    return options_from_env({f"SOCKETGUARD_{name}": value for name, value in variables.items()})


@pytest.fixture(scope="module")
def pair() -> tuple[Any, str]:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, pem.decode()


def test_a_secret_is_enough() -> None:
    options = read(JWT_SECRET=SECRET)
    assert set(options) == {"auth"}
    assert options["auth"].verify(mint("ann", key=SECRET)).subject == "ann"


def test_everything() -> None:
    options = read(
        JWT_SECRET=SECRET * 2,
        JWT_ALGORITHMS="HS384, HS512",
        JWT_ISSUER="https://id.example",
        JWT_AUDIENCE="crm, api",
        JWT_LEEWAY="2.5",
        NAMESPACES="/messages, /scheduler,",
        PING_INTERVAL="20",
        PING_TIMEOUT="10",
        ADMISSION_TIMEOUT="4.5",
        TRUSTED_PROXIES="10.0.0.0/8",
        ALLOWED_ORIGINS="https://a.example,https://b.example",
        LOG_CLAIMS="sub,email",
        DEBUG="true",
        LOG="off",
    )
    auth = options.pop("auth")
    assert options == {
        "namespaces": ["/messages", "/scheduler"],
        "heartbeat": Heartbeat(interval=20, timeout=10),
        "admission_timeout": 4.5,
        "trusted_proxies": ["10.0.0.0/8"],
        "allowed_origins": ["https://a.example", "https://b.example"],
        "log_claims": ["sub", "email"],
        "debug": True,
    }
    assert auth.leeway == 2.5
    token = mint("ann", key=SECRET * 2, algorithm="HS512", iss="https://id.example", aud="api")
    assert auth.verify(token).issuer == "https://id.example"
    assert auth.issuers == {"https://id.example"}


@pytest.mark.parametrize("one_line", [False, True])
def test_a_public_key(pair: tuple[Any, str], one_line: bool) -> None:
    private, pem = pair
    text = pem.replace("\n", "\\n") if one_line else pem
    auth = read(JWT_PUBLIC_KEY=text, JWT_ALGORITHMS="ES256")["auth"]
    assert auth.verify(mint("ann", key=private, algorithm="ES256")).subject == "ann"


def test_a_key_file(pair: tuple[Any, str], tmp_path: Path) -> None:
    private, pem = pair
    file = tmp_path / "key.pem"
    file.write_text(f"\n{pem}\n")
    auth = read(JWT_KEY_FILE=str(file), JWT_ALGORITHMS="ES256")["auth"]
    assert auth.verify(mint("ann", key=private, algorithm="ES256")).subject == "ann"
    file.write_text(SECRET + "\n")
    auth = read(JWT_KEY_FILE=str(file), JWT_ALGORITHMS="HS256")["auth"]
    assert auth.verify(mint("ann", key=SECRET)).subject == "ann"


class TestPublishedKeys:
    URL = "https://id.example/jwks"
    ISSUER = "https://id.example"

    def test_by_their_address(self) -> None:
        options = read(JWKS_URL=self.URL, JWT_ISSUER=self.ISSUER, JWT_AUDIENCE="crm, api", JWT_ALGORITHMS="RS256,ES256")
        expected = JWTAuth(
            jwks_url=self.URL, issuer=self.ISSUER, audience=["crm", "api"], algorithms=["RS256", "ES256"]
        )
        assert described(options["auth"]) == described(expected)

    def test_by_their_issuer(self) -> None:
        options = read(OIDC_ISSUER=self.ISSUER, JWT_AUDIENCE="crm")
        assert described(options["auth"]) == described(JWTAuth.discover(self.ISSUER, audience="crm"))
        options = read(OIDC_ISSUER=self.ISSUER, JWT_AUDIENCE="crm", JWT_ALGORITHMS="ES256")
        assert options["auth"].describe()["algorithms"] == ["ES256"]

    def test_without_a_check_when_that_is_written(self) -> None:
        auth = read(JWKS_URL=self.URL, JWT_ISSUER="*", JWT_AUDIENCE="*", JWT_ALGORITHMS="RS256")["auth"]
        assert (auth.describe()["issuer"], auth.describe()["audience"]) == ("ANY", "ANY")
        auth = read(JWT_SECRET=SECRET, JWT_AUDIENCE="*")["auth"]
        assert auth.verify(mint("ann", key=SECRET, aud="anything")).subject == "ann"

    @pytest.mark.parametrize(
        ("variables", "option", "text"),
        [
            ({"JWKS_URL": URL, "JWT_AUDIENCE": "crm", "JWT_ALGORITHMS": "RS256"}, "JWT_ISSUER", "SOCKETGUARD_JWKS_URL"),
            ({"JWKS_URL": URL, "JWT_ISSUER": ISSUER, "JWT_ALGORITHMS": "RS256"}, "JWT_AUDIENCE", "comma-separated"),
            ({"OIDC_ISSUER": ISSUER}, "JWT_AUDIENCE", "SOCKETGUARD_OIDC_ISSUER"),
            ({"OIDC_ISSUER": ISSUER, "JWT_AUDIENCE": "crm", "JWT_ISSUER": ISSUER}, "JWT_ISSUER", "leave"),
            ({"JWKS_URL": URL, "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": "crm"}, "JWT_ALGORITHMS", "missing"),
            ({"JWKS_URL": URL, "OIDC_ISSUER": ISSUER}, "JWT_SECRET", "SOCKETGUARD_JWKS_URL and SOCKETGUARD_OIDC"),
            ({"JWKS_URL": URL, "JWT_SECRET": SECRET}, "JWT_SECRET", "exactly one of"),
            ({"AUTH": "none", "OIDC_ISSUER": ISSUER}, "AUTH", "leave it out"),
        ],
    )
    def test_what_can_not_work_is_named(self, variables: dict[str, str], option: str, text: str) -> None:
        with pytest.raises(ConfigurationError, match=text) as found:
            read(**variables)
        assert found.value.option == f"SOCKETGUARD_{option}"


def described(auth: JWTAuth) -> tuple[Any, ...]:
    """What two verifiers with equal configurations have in common; each fetches with a function of its own."""
    return auth.describe(), auth.issuers, auth.keys_status()


def test_the_end_of_a_token() -> None:
    auth = read(JWT_SECRET=SECRET, JWT_MAX_LIFETIME="3600", JWT_EXPIRY="Ignore")["auth"]
    assert auth.max_lifetime_of(None) == 3600
    identity = auth.verify(mint("ann", key=SECRET))
    assert auth.ends_at(identity) is None
    with pytest.raises(ConfigurationError, match="expiry"):
        read(JWT_SECRET=SECRET, JWT_EXPIRY="never")


def test_an_empty_list_of_algorithms_is_no_default() -> None:
    with pytest.raises(ConfigurationError, match="algorithms is empty"):
        read(JWT_SECRET=SECRET, JWT_ALGORITHMS=",")


@pytest.mark.parametrize("mode", ["none", "NONE"])
def test_no_token_at_all_must_be_written(mode: str) -> None:
    assert read(AUTH=mode) == {"auth": None}


def test_a_heartbeat_by_proxies() -> None:
    assert read(JWT_SECRET=SECRET, PROXY="cloudflare,traefik")["heartbeat"] == Heartbeat.behind("cloudflare", "traefik")


def test_one_half_of_a_heartbeat() -> None:
    assert read(JWT_SECRET=SECRET, PING_INTERVAL="15")["heartbeat"] == Heartbeat(interval=15, timeout=20)
    assert read(JWT_SECRET=SECRET, PING_TIMEOUT="15")["heartbeat"] == Heartbeat(interval=25, timeout=15)


def test_all_origins() -> None:
    assert read(JWT_SECRET=SECRET, ALLOWED_ORIGINS="*")["allowed_origins"] == ["*"]


def test_empty_variables_are_absent_ones() -> None:
    options = read(JWT_SECRET=SECRET, JWT_PUBLIC_KEY="", DEBUG="", NAMESPACES="", PROXY="")
    assert set(options) == {"auth"}


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCKETGUARD_AUTH", "none")
    assert options_from_env() == {"auth": None}


@pytest.mark.parametrize(
    ("variables", "option", "text"),
    [
        ({}, "JWT_SECRET", "no key"),
        ({"JWT_SECRET": SECRET, "JWT_PUBLIC_KEY": "x"}, "JWT_SECRET", "SOCKETGUARD_JWT_SECRET and SOCKETGUARD_JWT_PUB"),
        ({"AUTH": "jwt"}, "AUTH", "'none' or left out"),
        ({"AUTH": "none", "JWT_SECRET": SECRET}, "AUTH", "leave it out"),
        ({"JWT_PUBLIC_KEY": "x"}, "JWT_ALGORITHMS", "missing"),
        ({"JWT_KEY_FILE": "/nowhere/at/all", "JWT_ALGORITHMS": "ES256"}, "JWT_KEY_FILE", "No such file"),
        ({"JWT_SECRET": SECRET, "JWT_MAX_LIFETIME": "soon"}, "JWT_MAX_LIFETIME", "expected: seconds"),
        ({"JWT_SECRET": SECRET, "JWT_LEEWAY": "soon"}, "JWT_LEEWAY", "expected: seconds"),
        ({"JWT_SECRET": SECRET, "PING_INTERVAL": "2.5"}, "PING_INTERVAL", "whole seconds"),
        ({"JWT_SECRET": SECRET, "ADMISSION_TIMEOUT": "x"}, "ADMISSION_TIMEOUT", "seconds"),
        ({"JWT_SECRET": SECRET, "DEBUG": "perhaps"}, "DEBUG", "true or false"),
        ({"JWT_SECRET": SECRET, "PROXY": "nginx", "PING_INTERVAL": "5"}, "PROXY", "not both"),
        ({"JWT_SECRET": SECRET, "PROXY": "nginx", "PING_TIMEOUT": "5"}, "PROXY", "not both"),
        ({"JWT_SECRTE": SECRET}, "JWT_SECRTE", "did you mean SOCKETGUARD_JWT_SECRET"),
        ({"Z" * 60: "1"}, "Z" * 60, "known are"),
    ],
)
def test_what_can_not_work_is_named_and_no_secret_is(variables: dict[str, str], option: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as found:
        read(**variables)
    assert found.value.option == f"SOCKETGUARD_{option}"
    assert SECRET not in str(found.value)


def test_other_variables_are_nobodys_business() -> None:
    assert options_from_env({"SOCKETGUARD_AUTH": "none", "SOCKETGUARDIAN": "1", "PATH": "/bin"}) == {"auth": None}


def test_every_variable_is_explained() -> None:
    assert all(VARIABLES.values())
