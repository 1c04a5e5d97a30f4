"""The presets, with tokens as the documentation of each identity provider shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt
import pytest

from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, TokenError
from socketguard.tokens.auth import ANY, JWTAuth
from tests.tokens.minting import NOW, P256, RSA, SECRET, KeyServer, arefused, jwk, refused

DATES = {"iat": NOW - 5, "exp": NOW + 60}


class Provider(KeyServer):
    """An identity provider with two keys."""

    def __init__(self) -> None:
        super().__init__(jwk(RSA, "rsa", alg="RS256"), jwk(P256, "ec", alg="ES256", key_ops=["verify"]))

    @property
    def options(self) -> dict[str, Any]:
        return {"fetch": self, "clock": lambda: NOW}


@pytest.fixture
def provider() -> Provider:
    return Provider()


def token(claims: Mapping[str, Any], **changes: Any) -> str:
    said = {name: value for name, value in {**DATES, **claims, **changes}.items() if value is not ...}
    return jwt.encode(said, RSA, "RS256", headers={"kid": "rsa"})


async def outcome(auth: JWTAuth, claims: Mapping[str, Any], **changes: Any) -> Identity | str:
    try:
        return await auth.averify(token(claims, **changes))
    except TokenError as error:
        return f"{error.detail} {error.fields.get('claim', '')}".strip()


async def accepted(auth: JWTAuth, claims: Mapping[str, Any], **changes: Any) -> Identity:
    result = await outcome(auth, claims, **changes)
    assert isinstance(result, Identity), result
    return result


class TestKeycloak:
    ISSUER = "https://id.example.com/realms/crm"
    TOKEN: Mapping[str, Any] = {
        "iss": ISSUER,
        "sub": "f1b0",
        "aud": ["crm-api", "account"],
        "typ": "Bearer",
        "azp": "spa",
        "jti": "trrtcc:1",
        "realm_access": {"roles": ["sales", "admin"]},
        "scope": "openid email",
    }

    def auth(self, provider: Provider, **options: Any) -> JWTAuth:
        good = {"url": "https://id.example.com", "realm": "crm", "audience": "crm-api", **provider.options}
        return JWTAuth.keycloak(**{**good, **options})

    async def test_an_access_token(self, provider: Provider) -> None:
        identity = await accepted(self.auth(provider), self.TOKEN)
        assert (identity.subject, identity.scopes, identity.token_id) == ("f1b0", {"sales", "admin"}, "trrtcc:1")
        assert provider.asked == [f"{self.ISSUER}/protocol/openid-connect/certs"]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"typ": "ID", "aud": "crm-api"}, "claim_mismatch typ"),
            ({"typ": "Refresh"}, "claim_mismatch typ"),
            ({"typ": "DPoP"}, "claim_mismatch typ"),
            ({"typ": ...}, "claim_missing typ"),
            ({"aud": "account"}, "audience_mismatch"),
            ({"aud": ...}, "claim_missing aud"),
            ({"iss": "https://id.example.com/realms/master"}, "issuer_mismatch"),
        ],
    )
    async def test_others(self, provider: Provider, changes: dict[str, Any], problem: str) -> None:
        assert await outcome(self.auth(provider), self.TOKEN, **changes) == problem

    async def test_the_client(self, provider: Provider) -> None:
        for client_id in ("spa", ["spa", "app"]):
            auth = self.auth(provider, client_id=client_id)
            assert (await accepted(auth, self.TOKEN)).claims["azp"] == "spa"
            assert await outcome(auth, self.TOKEN, azp="other") == "claim_mismatch azp"
            assert await outcome(auth, self.TOKEN, typ="ID") == "claim_mismatch typ"

    async def test_a_path_and_a_slash(self, provider: Provider) -> None:
        auth = self.auth(provider, url="https://id.example.com/auth/")
        assert auth.issuers == {"https://id.example.com/auth/realms/crm"}

    async def test_another_way_to_the_keys_and_other_options(self, provider: Provider) -> None:
        auth = self.auth(
            provider, jwks_url="https://keycloak.internal/certs", scope_claim="scope", claims={"acr": "1"}, leeway=0
        )
        assert (await accepted(auth, self.TOKEN, acr="1")).scopes == {"openid", "email"}
        assert provider.asked == ["https://keycloak.internal/certs"]
        assert await outcome(auth, self.TOKEN) == "claim_missing acr"
        assert await outcome(auth, self.TOKEN, acr="1", typ="ID") == "claim_mismatch typ"

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("url", "id.example.com"),
            ("url", "ftp://id.example.com"),
            ("url", "https://"),
            ("url", "https://id.example.com?x=1"),
            ("url", "https://user@id.example.com"),
            ("url", "https://id.example.com/é"),
            ("url", None),
            ("realm", ""),
            ("realm", "a/b"),
            ("realm", "a b"),
            ("realm", "{realm}"),
            ("realm", None),
            ("audience", None),
            ("claims", "x"),
            ("jwks_url", "http://keycloak.internal/certs"),
        ],
    )
    def test_configuration(self, provider: Provider, option: str, value: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            self.auth(provider, **{option: value})
        assert caught.value.option == option

    def test_http_on_this_machine(self, provider: Provider) -> None:
        auth = self.auth(provider, url="http://localhost:8080", allow_http=True)
        assert auth.issuers == {"http://localhost:8080/realms/crm"}


class TestAuth0:
    TOKEN: Mapping[str, Any] = {
        "iss": "https://crm.eu.auth0.com/",
        "sub": "auth0|123456",
        "aud": ["https://api.example.com", "https://crm.eu.auth0.com/userinfo"],
        "azp": "spa",
        "scope": "openid read:patients",
        "permissions": ["read:patients"],
    }

    def auth(self, provider: Provider, domain: Any = "crm.eu.auth0.com", **options: Any) -> JWTAuth:
        return JWTAuth.auth0(domain, **{"audience": "https://api.example.com", **provider.options, **options})

    async def test_an_access_token(self, provider: Provider) -> None:
        identity = await accepted(self.auth(provider), self.TOKEN)
        assert (identity.subject, identity.scopes) == ("auth0|123456", {"openid", "read:patients"})
        assert provider.asked == ["https://crm.eu.auth0.com/.well-known/jwks.json"]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"aud": "spa"}, "audience_mismatch"),
            ({"aud": "https://crm.eu.auth0.com/userinfo"}, "audience_mismatch"),
            ({"iss": "https://crm.eu.auth0.com"}, "issuer_mismatch"),
        ],
    )
    async def test_others(self, provider: Provider, changes: dict[str, Any], problem: str) -> None:
        assert await outcome(self.auth(provider), self.TOKEN, **changes) == problem

    async def test_permissions_and_the_strict_profile(self, provider: Provider) -> None:
        auth = self.auth(provider, scope_claim="permissions")
        assert (await accepted(auth, self.TOKEN)).scopes == {"read:patients"}
        strict = self.auth(provider, profile="rfc9068")
        assert await outcome(strict, self.TOKEN) == "type_not_allowed"
        said = {**DATES, **self.TOKEN, "client_id": "spa", "jti": "73Wak"}
        good = jwt.encode(said, RSA, "RS256", headers={"kid": "rsa", "typ": "at+jwt"})
        assert (await strict.averify(good)).token_id == "73Wak"

    @pytest.mark.parametrize(
        "domain", ["https://crm.eu.auth0.com", "crm.eu.auth0.com/", "", None, "a b", "{x}.auth0.com"]
    )
    def test_configuration(self, provider: Provider, domain: Any) -> None:
        with pytest.raises(ConfigurationError, match="host name") as caught:
            self.auth(provider, domain)
        assert caught.value.option == "domain"


class TestEntra:
    TENANT = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490"
    OTHER = "82229342-1101-4ab6-817b-70c0747630f3"
    API = "6e74172b-be56-4843-9ff4-e66a39bb12e3"

    def token(self, tenant: str = TENANT) -> dict[str, Any]:
        return {
            "iss": f"https://login.microsoftonline.com/{tenant}/v2.0",
            "sub": "HKZpfaHy",
            "aud": self.API,
            "azp": "75dbe77f-10a3-4e59-85fd-8c127544f17c",
            "scp": "access_as_user read",
            "roles": ["Admin"],
            "oid": "690222be",
            "tid": tenant,
            "uti": "fqiBqXLPj0",
            "ver": "2.0",
        }

    def auth(self, provider: Provider, tenant: Any = TENANT, **options: Any) -> JWTAuth:
        return JWTAuth.entra(tenant, **{"audience": self.API, **provider.options, **options})

    async def test_an_access_token(self, provider: Provider) -> None:
        identity = await accepted(self.auth(provider, self.TENANT.upper()), self.token())
        assert (identity.subject, identity.scopes) == ("HKZpfaHy", {"access_as_user", "read"})
        assert identity.token_id == "fqiBqXLPj0"
        assert provider.asked == [f"https://login.microsoftonline.com/{self.TENANT}/discovery/v2.0/keys"]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"azp": ..., "scp": ...}, "claim_missing azp"),
            ({"aud": "api://crm"}, "audience_mismatch"),
            ({"iss": f"https://sts.windows.net/{TENANT}/"}, "issuer_mismatch"),
            ({"iss": f"https://login.microsoftonline.com/{OTHER}/v2.0", "tid": OTHER}, "issuer_mismatch"),
        ],
    )
    async def test_others(self, provider: Provider, changes: dict[str, Any], problem: str) -> None:
        assert await outcome(self.auth(provider), self.token(), **changes) == problem

    @pytest.mark.parametrize("endpoint", ["common", "organizations"])
    async def test_several_tenants(self, provider: Provider, endpoint: str) -> None:
        auth = self.auth(provider, endpoint, tenants={self.TENANT, self.OTHER.upper()})
        for tenant in (self.TENANT, self.OTHER):
            assert (await accepted(auth, self.token(tenant))).claims["tid"] == tenant
        third = "9188040d-6c67-4c5b-b112-36a304b66dad"
        assert await outcome(auth, self.token(third)) == "issuer_mismatch"
        assert provider.asked == [f"https://login.microsoftonline.com/{endpoint}/discovery/v2.0/keys"]

    async def test_every_tenant_when_that_is_written_out(self, provider: Provider) -> None:
        auth = self.auth(provider, "organizations", tenants=ANY)
        assert (await accepted(auth, self.token(self.OTHER))).subject == "HKZpfaHy"
        assert await outcome(auth, self.token(self.OTHER), tid=self.TENANT) == "issuer_mismatch"
        assert await outcome(auth, self.token(self.OTHER), tid=...) == "issuer_mismatch"
        assert auth.issuers == {"https://login.microsoftonline.com/{tid}/v2.0"}

    @pytest.mark.parametrize("endpoint", ["common", "organizations"])
    async def test_keys_verify_tokens_of_their_issuer_only(self, provider: Provider, endpoint: str) -> None:
        personal = "9188040d-6c67-4c5b-b112-36a304b66dad"
        base = "https://login.microsoftonline.com"
        auth = self.auth(provider, endpoint, tenants=ANY)
        provider.keys = [jwk(RSA, "rsa", issuer=f"{base}/{personal}/v2.0")]
        assert (await accepted(auth, self.token(personal))).claims["tid"] == personal
        assert await outcome(auth, self.token(self.TENANT)) == "issuer_mismatch"
        assert await outcome(auth, self.token(personal), tid=self.TENANT) == "issuer_mismatch"
        auth = self.auth(provider, endpoint, tenants=ANY)
        provider.keys = [jwk(RSA, "rsa", issuer=f"{base}/{{tenantid}}/v2.0")]
        for tenant in (self.TENANT, self.OTHER):
            assert (await accepted(auth, self.token(tenant))).claims["tid"] == tenant
        auth = self.auth(provider, endpoint, tenants=ANY)
        provider.keys = [jwk(RSA, "rsa", issuer="https://login.microsoftonline.us/{tenantid}/v2.0")]
        assert await outcome(auth, self.token()) == "issuer_mismatch"

    async def test_keys_of_one_tenant(self, provider: Provider) -> None:
        provider.keys = [jwk(RSA, "rsa", issuer=f"https://login.microsoftonline.com/{self.OTHER}/v2.0")]
        assert await outcome(self.auth(provider), self.token()) == "issuer_mismatch"
        assert (await accepted(self.auth(provider, self.OTHER), self.token(self.OTHER))).claims["tid"] == self.OTHER
        auth = self.auth(provider, "organizations", tenants=[self.TENANT, self.OTHER])
        assert (await accepted(auth, self.token(self.OTHER))).claims["tid"] == self.OTHER
        assert await outcome(auth, self.token(self.TENANT)) == "issuer_mismatch"

    async def test_another_token_id(self, provider: Provider) -> None:
        auth = self.auth(provider, token_id_claim="jti")
        assert (await accepted(auth, self.token())).token_id is None
        assert (await accepted(auth, self.token(), jti="j")).token_id == "j"
        assert await outcome(self.auth(provider), self.token(), uti="") == "claim_type uti"
        assert (await accepted(self.auth(provider), self.token(), uti=...)).token_id is None

    async def test_roles(self, provider: Provider) -> None:
        auth = self.auth(provider, scope_claim="roles", subject_claim="oid")
        identity = await accepted(auth, self.token(), scp=...)
        assert (identity.subject, identity.scopes) == ("690222be", {"Admin"})

    @pytest.mark.parametrize(
        ("tenant", "options", "option"),
        [
            ("contoso.onmicrosoft.com", {}, "tenant"),
            ("", {}, "tenant"),
            (None, {}, "tenant"),
            ("consumers", {}, "tenant"),
            ("common", {}, "tenants"),
            ("organizations", {"tenants": []}, "issuer"),
            ("organizations", {"tenants": TENANT}, "tenants"),
            ("organizations", {"tenants": ["contoso.com"]}, "tenants"),
            (TENANT, {"tenants": [TENANT]}, "tenants"),
            (TENANT, {"tenants": ANY}, "tenants"),
        ],
    )
    def test_configuration(self, provider: Provider, tenant: Any, options: dict[str, Any], option: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            self.auth(provider, tenant, **options)
        assert caught.value.option == option


class TestSupabase:
    ISSUER = "https://abcdefghijklmnopqrst.supabase.co/auth/v1"
    TOKEN: Mapping[str, Any] = {
        "iss": ISSUER,
        "aud": "authenticated",
        "sub": "123e4567",
        "role": "authenticated",
        "session_id": "s",
        "is_anonymous": False,
        "app_metadata": {"provider": "email", "roles": ["sales"]},
        "user_metadata": {"roles": ["admin"]},
    }

    def auth(self, provider: Provider, project: Any = "abcdefghijklmnopqrst", **options: Any) -> JWTAuth:
        return JWTAuth.supabase(project, **{**provider.options, **options})

    @pytest.mark.parametrize(("key", "algorithm", "key_id"), [(P256, "ES256", "ec"), (RSA, "RS256", "rsa")])
    async def test_an_access_token(self, provider: Provider, key: Any, algorithm: str, key_id: str) -> None:
        auth = self.auth(provider)
        good = jwt.encode({**DATES, **self.TOKEN}, key, algorithm, headers={"kid": key_id})
        assert (await auth.averify(good)).subject == "123e4567"
        assert provider.asked == [f"{self.ISSUER}/.well-known/jwks.json"]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"iss": "supabase", "role": "anon", "sub": ..., "aud": ...}, "claim_missing sub"),
            ({"iss": "supabase", "role": "service_role"}, "issuer_mismatch"),
            ({"aud": "anon"}, "audience_mismatch"),
        ],
    )
    async def test_others(self, provider: Provider, changes: dict[str, Any], problem: str) -> None:
        assert await outcome(self.auth(provider), self.TOKEN, **changes) == problem

    async def test_roles_and_anonymous_users(self, provider: Provider) -> None:
        auth = self.auth(provider, scope_claim="app_metadata.roles", claims={"is_anonymous": False})
        assert (await accepted(auth, self.TOKEN)).scopes == {"sales"}
        assert await outcome(auth, self.TOKEN, is_anonymous=True) == "claim_mismatch is_anonymous"

    async def test_the_legacy_secret(self) -> None:
        auth = JWTAuth.supabase("abcdefghijklmnopqrst", secret=SECRET, clock=lambda: NOW)
        assert auth.verify(jwt.encode({**DATES, **self.TOKEN}, SECRET, "HS256")).subject == "123e4567"
        assert refused(auth, jwt.encode({**DATES, **self.TOKEN, "aud": "anon"}, SECRET)).detail == "audience_mismatch"
        assert (await arefused(auth, token(self.TOKEN))).detail == "algorithm_not_allowed"

    @pytest.mark.parametrize(
        ("project", "issuer"),
        [
            ("https://abcdefghijklmnopqrst.supabase.co/", ISSUER),
            ("https://auth.example.com", "https://auth.example.com/auth/v1"),
        ],
    )
    def test_by_its_url(self, provider: Provider, project: str, issuer: str) -> None:
        assert self.auth(provider, project).issuers == {issuer}

    @pytest.mark.parametrize("project", ["", "My Project", "abcdefghijklmnopqrst.supabase.co", None])
    def test_configuration(self, provider: Provider, project: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            self.auth(provider, project)
        assert caught.value.option == "project"


class TestCognito:
    ISSUER = "https://cognito-idp.us-west-2.amazonaws.com/us-west-2_example"
    TOKEN: Mapping[str, Any] = {
        "sub": "aaaaaaaa-bbbb",
        "cognito:groups": ["admin"],
        "token_use": "access",
        "scope": "aws.cognito.signin.user.admin crm/read",
        "iss": ISSUER,
        "jti": "cccc",
        "client_id": "57cbishk4j24pabc1234567890",
        "username": "janedoe",
    }

    def auth(self, provider: Provider, region: Any = "us-west-2", **options: Any) -> JWTAuth:
        good = {"user_pool_id": "us-west-2_example", "client_id": "57cbishk4j24pabc1234567890"}
        return JWTAuth.cognito(region, **{**good, **provider.options, **options})

    async def test_an_access_token(self, provider: Provider) -> None:
        identity = await accepted(self.auth(provider), self.TOKEN)
        assert (identity.subject, identity.token_id) == ("aaaaaaaa-bbbb", "cccc")
        assert identity.scopes == {"aws.cognito.signin.user.admin", "crm/read"}
        assert provider.asked == [f"{self.ISSUER}/.well-known/jwks.json"]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"token_use": "id", "client_id": ..., "aud": "57cbishk4j24pabc1234567890"}, "claim_mismatch token_use"),
            ({"token_use": ...}, "claim_missing token_use"),
            ({"client_id": "other"}, "claim_mismatch client_id"),
            ({"client_id": ...}, "claim_missing client_id"),
            ({"iss": "https://cognito-idp.us-west-2.amazonaws.com/us-west-2_other"}, "issuer_mismatch"),
        ],
    )
    async def test_others(self, provider: Provider, changes: dict[str, Any], problem: str) -> None:
        assert await outcome(self.auth(provider), self.TOKEN, **changes) == problem

    async def test_groups_several_clients_and_an_audience(self, provider: Provider) -> None:
        auth = self.auth(
            provider, client_id=["x", "57cbishk4j24pabc1234567890"], scope_claim="cognito:groups", audience="crm"
        )
        assert (await accepted(auth, self.TOKEN, aud="crm")).scopes == {"admin"}
        assert await outcome(auth, self.TOKEN) == "claim_missing aud"

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("region", "us_west"),
            ("region", ""),
            ("region", None),
            ("user_pool_id", "example"),
            ("user_pool_id", "eu-west-1_example"),
            ("user_pool_id", "us-west-2_a/b"),
            ("user_pool_id", None),
        ],
    )
    def test_configuration(self, provider: Provider, option: str, value: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            self.auth(provider, **{option: value})
        assert caught.value.option == option

    @pytest.mark.parametrize("client_id", [None, "", []])
    def test_a_client_must_be_named(self, provider: Provider, client_id: Any) -> None:
        with pytest.raises(ConfigurationError, match="client_id"):
            self.auth(provider, client_id=client_id)


class TestFirebase:
    TOKEN: Mapping[str, Any] = {
        "iss": "https://securetoken.google.com/crm-prod",
        "aud": "crm-prod",
        "sub": "uid-1",
        "auth_time": NOW - 5,
        "firebase": {"sign_in_provider": "password"},
        "roles": ["sales"],
    }

    def auth(self, provider: Provider, project_id: Any = "crm-prod", **options: Any) -> JWTAuth:
        return JWTAuth.firebase(project_id, **{**provider.options, **options})

    async def test_an_id_token(self, provider: Provider) -> None:
        assert (await accepted(self.auth(provider, scope_claim="roles"), self.TOKEN)).scopes == {"sales"}
        assert provider.asked == [
            "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"
        ]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"iss": "https://session.firebase.google.com/crm-prod"}, "issuer_mismatch"),
            ({"iss": "https://securetoken.google.com/other"}, "issuer_mismatch"),
            ({"aud": "other"}, "audience_mismatch"),
            ({"iat": ...}, "claim_missing iat"),
            ({"sub": ""}, "claim_type sub"),
        ],
    )
    async def test_others(self, provider: Provider, changes: dict[str, Any], problem: str) -> None:
        assert await outcome(self.auth(provider), self.TOKEN, **changes) == problem

    @pytest.mark.parametrize("project_id", ["", "123456789012", "Crm", "a", "crm/prod", None])
    def test_configuration(self, provider: Provider, project_id: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            self.auth(provider, project_id)
        assert caught.value.option == "project_id"
