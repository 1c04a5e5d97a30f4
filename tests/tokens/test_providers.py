"""The presets, with tokens as the documentation of each identity provider shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest

from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, TokenError
from socketguard.tokens.auth import ANY, JWTAuth
from tests.tokens.minting import NOW, P256, RSA, SECRET, KeyServer, arefused, jwk, private, refused

DATES = {"iat": NOW - 5, "exp": NOW + 60}
MICROSOFT = "https://login.microsoftonline.com"
TENANT = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490"
OTHER = "82229342-1101-4ab6-817b-70c0747630f3"
PERSONAL = "9188040d-6c67-4c5b-b112-36a304b66dad"
API = "6e74172b-be56-4843-9ff4-e66a39bb12e3"
CLIENT = "57cbishk4j24pabc1234567890"


def of_tenant(tenant: str) -> dict[str, Any]:
    return {"iss": f"{MICROSOFT}/{tenant}/v2.0", "tid": tenant}


def of(preset: Callable[..., JWTAuth], **good: Any) -> Callable[..., JWTAuth]:
    """A preset with its good options."""
    return lambda **options: preset(**{**good, "clock": lambda: NOW, **options})


AUTHS: Mapping[str, Callable[..., JWTAuth]] = {
    "keycloak": of(JWTAuth.keycloak, url="https://id.example.com", realm="crm", audience="crm-api"),
    "auth0": of(JWTAuth.auth0, domain="crm.eu.auth0.com", audience="https://api.example.com"),
    "entra": of(JWTAuth.entra, tenant=TENANT, audience=API),
    "supabase": of(JWTAuth.supabase, project="abcdefghijklmnopqrst"),
    "cognito": of(JWTAuth.cognito, region="us-west-2", user_pool_id="us-west-2_example", client_id=CLIENT),
    "firebase": of(JWTAuth.firebase, project_id="crm-prod"),
}

# As the documentation of each shows them.
TOKENS: Mapping[str, Mapping[str, Any]] = json.loads("""{
    "keycloak": {
        "iss": "https://id.example.com/realms/crm", "sub": "f1b0", "aud": ["crm-api", "account"], "typ": "Bearer",
        "azp": "spa", "jti": "trrtcc:1", "realm_access": {"roles": ["sales", "admin"]}, "scope": "openid email"
    },
    "auth0": {
        "iss": "https://crm.eu.auth0.com/", "sub": "auth0|123456", "azp": "spa", "scope": "openid read:patients",
        "aud": ["https://api.example.com", "https://crm.eu.auth0.com/userinfo"], "permissions": ["read:patients"]
    },
    "entra": {
        "iss": "https://login.microsoftonline.com/8eaef023-2b34-4da1-9baa-8bc8c9d6a490/v2.0", "sub": "HKZpfaHy",
        "tid": "8eaef023-2b34-4da1-9baa-8bc8c9d6a490", "aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3", "ver": "2.0",
        "azp": "75dbe77f-10a3-4e59-85fd-8c127544f17c", "scp": "access_as_user read", "roles": ["Admin"],
        "oid": "690222be", "uti": "fqiBqXLPj0"
    },
    "supabase": {
        "iss": "https://abcdefghijklmnopqrst.supabase.co/auth/v1", "aud": "authenticated", "sub": "123e4567",
        "role": "authenticated", "session_id": "s", "is_anonymous": false,
        "app_metadata": {"provider": "email", "roles": ["sales"]}, "user_metadata": {"roles": ["admin"]}
    },
    "cognito": {
        "iss": "https://cognito-idp.us-west-2.amazonaws.com/us-west-2_example", "sub": "aaaaaaaa-bbbb",
        "cognito:groups": ["admin"], "token_use": "access", "scope": "aws.cognito.signin.user.admin crm/read",
        "jti": "cccc", "client_id": "57cbishk4j24pabc1234567890", "username": "janedoe"
    },
    "firebase": {
        "iss": "https://securetoken.google.com/crm-prod", "aud": "crm-prod", "sub": "uid-1", "auth_time": 1799999995,
        "firebase": {"sign_in_provider": "password"}, "roles": ["sales"]
    }
}""")


@pytest.fixture
def provider() -> KeyServer:
    """An identity provider with two keys."""
    return KeyServer(jwk(RSA, "rsa", alg="RS256"), jwk(P256, "ec", alg="ES256", key_ops=["verify"]))


def token(of: str, changes: Mapping[str, Any] = {}, key: Any = RSA, **header: Any) -> str:
    said = {name: value for name, value in {**DATES, **TOKENS[of], **changes}.items() if value is not ...}
    algorithm, key_id = ("RS256", "rsa") if key is RSA else ("ES256", "ec")
    return jwt.encode(said, key, algorithm, headers={"kid": key_id, **header})


async def outcome(auth: JWTAuth, of: str, changes: Mapping[str, Any] = {}, **others: Any) -> Identity | str:
    try:
        return await auth.averify(token(of, {**changes, **others}))
    except TokenError as error:
        return f"{error.detail} {error.fields.get('claim', '')}".strip()


ENTRA_ANY = {"tenant": "organizations", "tenants": ANY}
ELSEWHERE = {"jwks_url": "https://keycloak.internal/certs", "scope_claim": "scope", "claims": {"acr": "1"}, "leeway": 0}
COGNITO_SCOPES = {"aws.cognito.signin.user.admin", "crm/read"}


@pytest.mark.parametrize(
    ("preset", "options", "changes", "expected"),
    [
        ("keycloak", {}, {}, {"subject": "f1b0", "scopes": {"sales", "admin"}, "token_id": "trrtcc:1"}),
        ("keycloak", {"client_id": "spa"}, {}, {}),
        ("keycloak", {"client_id": ["spa", "app"]}, {}, {}),
        ("keycloak", ELSEWHERE, {"acr": "1"}, {"scopes": {"openid", "email"}}),
        ("auth0", {}, {}, {"subject": "auth0|123456", "scopes": {"openid", "read:patients"}}),
        ("auth0", {"scope_claim": "permissions"}, {}, {"scopes": {"read:patients"}}),
        ("entra", {}, {}, {"subject": "HKZpfaHy", "scopes": {"access_as_user", "read"}, "token_id": "fqiBqXLPj0"}),
        *(
            ("entra", {"tenant": endpoint, "tenants": {TENANT, OTHER.upper()}}, of_tenant(tenant), {})
            for endpoint in ("common", "organizations")
            for tenant in (TENANT, OTHER)
        ),
        ("entra", ENTRA_ANY, of_tenant(OTHER), {"subject": "HKZpfaHy", "issuer": f"{MICROSOFT}/{OTHER}/v2.0"}),
        ("entra", {}, {"uti": ...}, {"token_id": None}),
        ("entra", {"token_id_claim": "jti"}, {}, {"token_id": None}),
        ("entra", {"token_id_claim": "jti"}, {"jti": "j"}, {"token_id": "j"}),
        ("entra", {"scope_claim": "roles"}, {"scp": ...}, {"scopes": {"Admin"}}),
        ("entra", {"subject_claim": "oid"}, {}, {"subject": "690222be"}),
        ("supabase", {}, {}, {"subject": "123e4567", "key_id": "rsa"}),
        ("supabase", {"scope_claim": "app_metadata.roles"}, {}, {"scopes": {"sales"}}),
        ("supabase", {"claims": {"is_anonymous": False}}, {}, {}),
        ("cognito", {}, {}, {"subject": "aaaaaaaa-bbbb", "token_id": "cccc", "scopes": COGNITO_SCOPES}),
        ("cognito", {"client_id": ["x", CLIENT], "scope_claim": "cognito:groups"}, {}, {"scopes": {"admin"}}),
        ("cognito", {"audience": "crm"}, {"aud": "crm"}, {}),
        ("firebase", {"scope_claim": "roles"}, {}, {"subject": "uid-1", "scopes": {"sales"}}),
    ],
)
async def test_accepted(
    provider: KeyServer, preset: str, options: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    identity = await outcome(AUTHS[preset](fetch=provider, **options), preset, changes)
    assert isinstance(identity, Identity), identity
    assert identity.issuer == {**TOKENS[preset], **changes}["iss"]
    assert {name: getattr(identity, name) for name in expected} == expected
    assert len(provider.asked) == 1


@pytest.mark.parametrize(
    ("preset", "options", "keys"),
    [
        ("keycloak", {}, "https://id.example.com/realms/crm/protocol/openid-connect/certs"),
        ("keycloak", {"jwks_url": "https://keycloak.internal/certs"}, "https://keycloak.internal/certs"),
        ("auth0", {}, "https://crm.eu.auth0.com/.well-known/jwks.json"),
        ("entra", {"tenant": TENANT.upper()}, f"{MICROSOFT}/{TENANT}/discovery/v2.0/keys"),
        ("entra", ENTRA_ANY, f"{MICROSOFT}/organizations/discovery/v2.0/keys"),
        ("entra", {**ENTRA_ANY, "tenant": "common"}, f"{MICROSOFT}/common/discovery/v2.0/keys"),
        ("supabase", {}, "https://abcdefghijklmnopqrst.supabase.co/auth/v1/.well-known/jwks.json"),
        ("cognito", {}, "https://cognito-idp.us-west-2.amazonaws.com/us-west-2_example/.well-known/jwks.json"),
        ("firebase", {}, "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"),
    ],
)
async def test_where_the_keys_are(provider: KeyServer, preset: str, options: dict[str, Any], keys: str) -> None:
    assert isinstance(await outcome(AUTHS[preset](fetch=provider, **options), preset), Identity)
    assert provider.asked == [keys]


@pytest.mark.parametrize(
    ("preset", "options", "changes", "problem"),
    [
        ("keycloak", {}, {"typ": "ID", "aud": "crm-api"}, "claim_mismatch typ"),
        ("keycloak", {}, {"typ": "Refresh"}, "claim_mismatch typ"),
        ("keycloak", {}, {"typ": "DPoP"}, "claim_mismatch typ"),
        ("keycloak", {}, {"typ": ...}, "claim_missing typ"),
        ("keycloak", {}, {"aud": "account"}, "audience_mismatch"),
        ("keycloak", {}, {"aud": ...}, "claim_missing aud"),
        ("keycloak", {}, {"iss": "https://id.example.com/realms/master"}, "issuer_mismatch"),
        ("keycloak", {"client_id": "spa"}, {"azp": "other"}, "claim_mismatch azp"),
        ("keycloak", {"client_id": ["spa", "app"]}, {"azp": "other"}, "claim_mismatch azp"),
        ("keycloak", {"client_id": ["spa", "app"]}, {"typ": "ID"}, "claim_mismatch typ"),
        ("keycloak", {"claims": {"acr": "1"}}, {}, "claim_missing acr"),
        ("keycloak", {"claims": {"acr": "1"}}, {"acr": "1", "typ": "ID"}, "claim_mismatch typ"),
        ("auth0", {}, {"aud": "spa"}, "audience_mismatch"),
        ("auth0", {}, {"aud": "https://crm.eu.auth0.com/userinfo"}, "audience_mismatch"),
        ("auth0", {}, {"iss": "https://crm.eu.auth0.com"}, "issuer_mismatch"),
        ("auth0", {"profile": "rfc9068"}, {}, "type_not_allowed"),
        ("entra", {}, {"azp": ..., "scp": ...}, "claim_missing azp"),
        ("entra", {}, {"aud": "api://crm"}, "audience_mismatch"),
        ("entra", {}, {"iss": f"https://sts.windows.net/{TENANT}/"}, "issuer_mismatch"),
        ("entra", {}, of_tenant(OTHER), "issuer_mismatch"),
        ("entra", {}, {"uti": ""}, "claim_type uti"),
        ("entra", {"tenant": "common", "tenants": [TENANT, OTHER]}, of_tenant(PERSONAL), "issuer_mismatch"),
        ("entra", {"tenant": "organizations", "tenants": [TENANT, OTHER]}, of_tenant(PERSONAL), "issuer_mismatch"),
        ("entra", ENTRA_ANY, {**of_tenant(OTHER), "tid": TENANT}, "issuer_mismatch"),
        ("entra", ENTRA_ANY, {**of_tenant(OTHER), "tid": ...}, "issuer_mismatch"),
        ("supabase", {}, {"iss": "supabase", "role": "anon", "sub": ..., "aud": ...}, "issuer_mismatch"),
        ("supabase", {}, {"iss": "supabase", "role": "service_role"}, "issuer_mismatch"),
        ("supabase", {}, {"aud": "anon"}, "audience_mismatch"),
        ("supabase", {"claims": {"is_anonymous": False}}, {"is_anonymous": True}, "claim_mismatch is_anonymous"),
        ("cognito", {}, {"token_use": "id", "client_id": ..., "aud": CLIENT}, "claim_mismatch token_use"),
        ("cognito", {}, {"token_use": ...}, "claim_missing token_use"),
        ("cognito", {}, {"client_id": "other"}, "claim_mismatch client_id"),
        ("cognito", {}, {"client_id": ...}, "claim_missing client_id"),
        ("cognito", {}, {"iss": "https://cognito-idp.us-west-2.amazonaws.com/us-west-2_other"}, "issuer_mismatch"),
        ("cognito", {"audience": "crm"}, {}, "claim_missing aud"),
        ("firebase", {}, {"iss": "https://session.firebase.google.com/crm-prod"}, "issuer_mismatch"),
        ("firebase", {}, {"iss": "https://securetoken.google.com/other"}, "issuer_mismatch"),
        ("firebase", {}, {"aud": "other"}, "audience_mismatch"),
        ("firebase", {}, {"iat": ...}, "claim_missing iat"),
        ("firebase", {}, {"sub": ""}, "claim_type sub"),
    ],
)
async def test_refused(
    provider: KeyServer, preset: str, options: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    assert await outcome(AUTHS[preset](fetch=provider, **options), preset, changes) == problem


@pytest.mark.parametrize(
    ("preset", "options", "issuer"),
    [
        ("keycloak", {"url": "https://id.example.com/auth/"}, "https://id.example.com/auth/realms/crm"),
        ("keycloak", {"url": "http://localhost:8080", "allow_http": True}, "http://localhost:8080/realms/crm"),
        ("entra", ENTRA_ANY, f"{MICROSOFT}/{{tid}}/v2.0"),
        ("supabase", {"project": "https://abcdefghijklmnopqrst.supabase.co/"}, TOKENS["supabase"]["iss"]),
        ("supabase", {"project": "https://auth.example.com"}, "https://auth.example.com/auth/v1"),
    ],
)
def test_the_issuer(provider: KeyServer, preset: str, options: dict[str, Any], issuer: str) -> None:
    assert AUTHS[preset](fetch=provider, **options).issuers == {issuer}


@pytest.mark.parametrize(
    ("preset", "option", "values"),
    [
        ("keycloak", "url", ("id.example.com", "ftp://id.example.com", "https://", "https://id.example.com?x=1")),
        ("keycloak", "url", (None, "https://user@id.example.com", "https://id.example.com/é")),
        ("keycloak", "realm", ("", "a/b", "a b", "{realm}", None)),
        ("keycloak", "audience", (None,)),
        ("keycloak", "claims", ("x",)),
        ("keycloak", "jwks_url", ("http://keycloak.internal/certs",)),
        ("auth0", "domain", ("https://crm.eu.auth0.com", "crm.eu.auth0.com/", "", None, "a b", "x@auth0.com")),
        ("auth0", "domain", ("{x}.auth0.com", "crm_eu.auth0.com")),
        ("entra", "tenant", ("contoso.onmicrosoft.com", "", None, "consumers")),
        ("entra", "tenants", ([TENANT], ANY)),
        ("supabase", "project", ("", "My Project", "abcdefghijklmnopqrst.supabase.co", None)),
        ("cognito", "region", ("us_west", "", None)),
        ("cognito", "user_pool_id", ("example", "eu-west-1_example", "us-west-2_a/b", None)),
        ("firebase", "project_id", ("", "123456789012", "Crm", "a", "crm/prod", None)),
    ],
)
def test_a_wrong_option_is_named(provider: KeyServer, preset: str, option: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ConfigurationError, match=option) as caught:
            AUTHS[preset](**{"fetch": provider, option: value})
        assert caught.value.option == option, value


@pytest.mark.parametrize(
    ("preset", "options", "option", "text"),
    [
        *(("cognito", {"client_id": client_id}, "claims", "client_id") for client_id in (None, "", [])),
        ("entra", {"tenant": "common"}, "tenants", "every tenant there is"),
        ("entra", {"tenant": "organizations", "tenants": []}, "issuer", "empty"),
        ("entra", {"tenant": "organizations", "tenants": TENANT}, "tenants", "list"),
        ("entra", {"tenant": "organizations", "tenants": ["contoso.com"]}, "tenants", "GUID"),
    ],
)
def test_clients_and_tenants_that_mean_nobody(
    provider: KeyServer, preset: str, options: dict[str, Any], option: str, text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        AUTHS[preset](fetch=provider, **options)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("key_issuer", "options", "accepted", "others"),
    [
        *(
            (key_issuer, {"tenant": endpoint, "tenants": ANY}, accepted, others)
            for endpoint in ("common", "organizations")
            for key_issuer, accepted, others in (
                (f"/{PERSONAL}/v2.0", [PERSONAL], [of_tenant(TENANT), {**of_tenant(PERSONAL), "tid": TENANT}]),
                ("/{tenantid}/v2.0", [TENANT, OTHER], []),
                (".us/{tenantid}/v2.0", [], [of_tenant(TENANT)]),
            )
        ),
        (f"/{OTHER}/v2.0", {}, [], [of_tenant(TENANT)]),
        (f"/{OTHER}/v2.0", {"tenant": OTHER}, [OTHER], []),
        (f"/{OTHER}/v2.0", {"tenant": "organizations", "tenants": [TENANT, OTHER]}, [OTHER], [of_tenant(TENANT)]),
    ],
)
async def test_keys_of_entra_verify_tokens_of_their_issuer_only(
    provider: KeyServer, key_issuer: str, options: dict[str, Any], accepted: list[str], others: list[dict[str, Any]]
) -> None:
    provider.keys = [jwk(RSA, "rsa", issuer=MICROSOFT + key_issuer)]
    auth = AUTHS["entra"](fetch=provider, **options)
    for tenant in accepted:
        identity = await outcome(auth, "entra", of_tenant(tenant))
        assert isinstance(identity, Identity)
        assert identity.claims["tid"] == tenant
    for changes in others:
        assert await outcome(auth, "entra", changes) == "issuer_mismatch"


async def test_auth0_with_the_strict_profile(provider: KeyServer) -> None:
    good = token("auth0", {"client_id": "spa", "jti": "73Wak"}, typ="at+jwt")
    assert (await AUTHS["auth0"](fetch=provider, profile="rfc9068").averify(good)).token_id == "73Wak"


async def test_supabase_signs_with_elliptic_curves_too(provider: KeyServer) -> None:
    assert (await AUTHS["supabase"](fetch=provider).averify(token("supabase", key=P256))).key_id == "ec"


async def test_the_legacy_secret_of_supabase() -> None:
    auth = AUTHS["supabase"](secret=SECRET)
    said = {**DATES, **TOKENS["supabase"]}
    assert auth.verify(jwt.encode(said, SECRET, "HS256")).subject == "123e4567"
    assert refused(auth, jwt.encode({**said, "aud": "anon"}, SECRET)).detail == "audience_mismatch"
    assert (await arefused(auth, token("supabase"))).detail == "algorithm_not_allowed"


@pytest.mark.parametrize(
    ("make", "option", "write"),
    [
        (
            lambda: JWTAuth.keycloak("https://id.example.com/auth/realms/crm", "crm", audience="crm"),
            "url",
            'write url="https://id.example.com/auth"',
        ),
        (
            lambda: JWTAuth.supabase("https://abcdefghijklmnopqrst.supabase.co/auth/v1"),
            "project",
            'write project="https://abcdefghijklmnopqrst.supabase.co"',
        ),
    ],
)
def test_what_the_preset_adds_is_not_written_twice(make: Callable[[], JWTAuth], option: str, write: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.option == option
    assert write in str(caught.value)


# The recipes of docs/keys.md, as printed

ROOT = Path(__file__).parents[2]
(RECIPES,) = re.findall(r"## More providers.*?```python\n(.*?)```", (ROOT / "docs/keys.md").read_text(), re.DOTALL)
P384, ED25519 = private("p384"), private("ed25519")
CRM = "https://crm.example.com"
ROLES = "urn:zitadel:iam:org:project:roles"


def recipe(name: str, *arguments: str, **more: Any) -> JWTAuth:
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JWT_SECRET", SECRET)
        exec(compile(RECIPES, "docs/keys.md", "exec"), names)  # noqa: S102 - what the page prints
    made: JWTAuth = names[name](*arguments, **more)
    return made


@pytest.mark.parametrize(
    ("name", "arguments", "claims", "wrong", "scopes"),
    [
        ("clerk", ("https://a.clerk.accounts.dev", CRM), {"azp": CRM}, {"azp": "https://evil.example"}, set()),
        ("okta", ("dev-1.okta.com",), {"aud": "api://default", "scp": ["crm:read"]}, {"aud": "0oa1"}, {"crm:read"}),
        ("zitadel", ("https://a.zitadel.cloud", "77"), {"aud": ["77"], ROLES: {"admin": {}}}, {"aud": "78"}, {"admin"}),
        ("authentik", ("https://id.example.com", "crm", "c1"), {"aud": "c1"}, {"aud": "c2"}, set()),
        ("logto", ("https://a.logto.app", CRM), {"aud": CRM, "scope": "read"}, {"aud": "x"}, {"read"}),
        ("workos", ("client_1",), {"permissions": ["posts:read"]}, {"iss": "https://evil.example"}, {"posts:read"}),
        ("google", ("c.apps.googleusercontent.com",), {"aud": "c.apps.googleusercontent.com"}, {"aud": "d"}, set()),
        ("apple", ("com.example.crm",), {"aud": "com.example.crm"}, {"aud": "com.example.other"}, set()),
        ("cloudflare_access", ("crm", "a" * 64), {"aud": ["a" * 64]}, {"aud": ["b" * 64]}, set()),
        ("better_auth", (CRM,), {"aud": CRM}, {"aud": "https://other.example"}, set()),
    ],
)
async def test_a_recipe(
    name: str, arguments: tuple[str, ...], claims: dict[str, Any], wrong: dict[str, Any], scopes: set[str]
) -> None:
    keys = {"logto": (P384, "ES384"), "better_auth": (ED25519, "EdDSA")}
    key, algorithm = keys.get(name, (RSA, "RS256"))
    server = KeyServer(jwk(key, "one"))
    auth = recipe(name, *arguments, fetch=server, clock=lambda: NOW)
    assert auth.issuers
    for issuer in auth.issuers:
        server.document["issuer"] = issuer
        token = jwt.encode({"sub": "u", "iss": issuer, **DATES, **claims}, key, algorithm, headers={"kid": "one"})
        identity = await auth.averify(token)
        assert (identity.subject, identity.scopes) == ("u", frozenset(scopes))
        bad = {"sub": "u", "iss": issuer, **DATES, **claims, **wrong}
        assert (await arefused(auth, jwt.encode(bad, key, algorithm, headers={"kid": "one"}))).code == "token_invalid"
    assert all(url.startswith("https://") for url in server.asked)


@pytest.mark.parametrize(
    ("name", "claims", "wrong"),
    [
        ("fastapi_users", {"sub": "u", "aud": ["fastapi-users:auth"]}, {"aud": ["fastapi-users:reset"]}),
        ("simplejwt", {"user_id": "u", "token_type": "access", "jti": "1"}, {"token_type": "refresh"}),
    ],
)
def test_a_recipe_with_a_secret(name: str, claims: dict[str, Any], wrong: dict[str, Any]) -> None:
    auth = recipe(name, SECRET, clock=lambda: NOW)
    assert auth.verify(jwt.encode({**DATES, **claims}, SECRET)).subject == "u"
    assert refused(auth, jwt.encode({**DATES, **claims, **wrong}, SECRET)).code == "token_invalid"
