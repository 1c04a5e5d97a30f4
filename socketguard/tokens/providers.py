"""Options of `JWTAuth` for well-known identity providers, as their documentation has them.

Each preset names the pages that say so, and what none of them says.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from socketguard.check import called, names
from socketguard.errors import ConfigurationError

from .claims import ANY, Names, Unchecked

_PART = re.compile(r"[^\s/?#{}%]+")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?")
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SUPABASE_REF = re.compile(r"[a-z0-9]{10,40}")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d{1,2}")
_GOOGLE_PROJECT = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_GOOGLE_KEYS = "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"
_ENTRA = "https://login.microsoftonline.com"


class Presets:
    """Constructors of `JWTAuth`, with RS256 where nothing else is said.

    Every other option of `JWTAuth` may be given too and goes before what a preset says; ``claims`` are united. An
    option that is wrong is a `ConfigurationError`, whose text names it.
    """

    @classmethod
    def _preset(cls, options: Mapping[str, Any], **preset: Any) -> Self:
        merged = {"algorithms": ("RS256",), **preset, **options}
        if isinstance(options.get("claims"), Mapping):
            merged["claims"] = {**preset.get("claims", {}), **options["claims"]}
        return cls(**merged)

    @classmethod
    @called("JWTAuth.keycloak")
    def keycloak(
        cls, url: str, realm: str, *, audience: Names, client_id: str | Collection[str] | None = None, **options: Any
    ) -> Self:
        """Take access tokens of a realm of Keycloak.

        ID tokens, and every other kind that Keycloak signs with the same keys, are refused by their claim ``typ``.
        Scopes are the realm's roles; for those of a client write ``scope_claim="resource_access.crm.roles"``, and for
        OAuth scopes ``scope_claim="scope"``.

        Keycloak puts no audience into an access token by itself: add an *Audience* mapper with this service's client
        to the client that signs users in, else every token is refused with ``claim_missing``.

        Sources: the endpoints are in "Securing applications and services with OpenID Connect", section "Available
        endpoints" (https://www.keycloak.org/securing-apps/oidc-layers); audiences in the "Server Administration
        Guide", section "Audience support" (https://www.keycloak.org/docs/latest/server_admin/#audience-support).
        That access tokens say ``"typ": "Bearer"`` and ID tokens ``"typ": "ID"`` is in no page; it is in the source
        (core/src/main/java/org/keycloak/util/TokenUtil.java). Tokens bound by DPoP say ``"DPoP"`` there and are
        refused, because nobody here checks their proof.

        Args:
            url: where Keycloak is, such as ``https://id.example.com``; with ``/auth`` where it is served so. The
                address that users see (``hostname``), because ``iss`` has it; for another way to the keys, within a
                cluster, add ``jwks_url``.
            realm: the name of the realm.
            audience: the client id of this service.
            client_id: the clients that may have asked for the token (``azp``); all when left out.
        """
        issuer = f"{_base_url(url, 'url', 'https://id.example.com', '/realms/')}/realms/{_part(realm, 'realm', 'crm')}"
        claims = {"typ": "Bearer"} if client_id is None else {"typ": "Bearer", "azp": client_id}
        return cls._preset(
            options,
            jwks_url=f"{issuer}/protocol/openid-connect/certs",
            issuer=issuer,
            audience=audience,
            scope_claim="realm_access.roles",
            claims=claims,
        )

    @classmethod
    @called("JWTAuth.auth0")
    def auth0(cls, domain: str, *, audience: Names, **options: Any) -> Self:
        """Take access tokens of a tenant of Auth0, for one of its APIs.

        ID tokens are told apart by their audience, which is a client and not the API. With role-based access control
        write ``scope_claim="permissions"``. For an API that has the RFC 9068 profile add ``profile="rfc9068"``.

        Sources: "Access Token Profiles" for ``iss``, which ends with a slash
        (https://auth0.com/docs/secure/tokens/access-tokens/access-token-profiles); "Validate Access Tokens" for
        ``aud`` and ``scope`` (https://auth0.com/docs/secure/tokens/access-tokens/validate-access-tokens); "JSON Web
        Key Sets" for the address of the keys (https://auth0.com/docs/secure/tokens/json-web-tokens/json-web-key-sets);
        "Signing Algorithms" recommends RS256 (https://auth0.com/docs/get-started/applications/signing-algorithms).

        Args:
            domain: the domain of the tenant, such as ``crm.eu.auth0.com``, or its custom domain.
            audience: the identifier of the API.
        """
        _matching(_HOST, domain, "domain", "a host name without https:// and slashes", "crm.eu.auth0.com")
        return cls._preset(
            options, jwks_url=f"https://{domain}/.well-known/jwks.json", issuer=f"https://{domain}/", audience=audience
        )

    @classmethod
    @called("JWTAuth.entra")
    def entra(
        cls, tenant: str, *, audience: Names, tenants: Collection[str] | Unchecked | None = None, **options: Any
    ) -> Self:
        """Take access tokens of Microsoft Entra ID, version 2.0, for one registered API.

        The manifest of the API must say ``"accessTokenAcceptedVersion": 2``; otherwise tokens have version 1.0, with
        another issuer and audience. ``azp`` must be there: access tokens have it and ID tokens don't, which can have
        the same audience. Scopes are those of a signed-in user (``scp``); for roles, and for tokens of services, write
        ``scope_claim="roles"``. ``sub`` names the user to this application only; ``subject_claim="oid"`` is the same
        in all of them. The id of a token, by which it can be revoked, is ``uti``; there is no ``jti``. Each published
        key names the issuer whose tokens it signs, which is checked.

        Sources: "Access token claims reference" for ``aud``, ``iss``, ``azp``, ``scp``, ``roles`` and ``uti``
        (https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference); "ID token claims
        reference" for the absence of ``azp`` (https://learn.microsoft.com/entra/identity-platform/id-token-claims-reference);
        "Access tokens", sections "Validate the issuer" and "Validate the signing key issuer", for tenant-independent
        keys, the rule for ``{tid}`` and the member ``issuer`` of the keys
        (https://learn.microsoft.com/entra/identity-platform/access-tokens); "OpenID Connect on the Microsoft identity
        platform" for the address of the keys (https://learn.microsoft.com/entra/identity-platform/v2-protocols-oidc).
        National clouds have other hosts: give ``issuer`` and ``jwks_url``.

        Args:
            tenant: the id of the tenant (a GUID; ``iss`` never has its domain name); or ``"common"`` or
                ``"organizations"`` for an application that several tenants use.
            audience: the application (client) id of the API.
            tenants: with ``"common"`` and ``"organizations"``, the ids of the tenants that may come in. `ANY` takes
                every tenant there is; with ``"common"``, personal accounts too.
        """
        issuer: Names
        if tenant in ("common", "organizations"):
            if tenants is None:
                raise ConfigurationError(
                    f'tenant="{tenant}" takes tokens of every tenant there is; name yours: tenants=["…"], or write '
                    "tenants=ANY",
                    option="tenants",
                )
            if isinstance(tenants, Unchecked):
                issuer = f"{_ENTRA}/{{tid}}/v2.0"
            else:
                allowed = names(tenants, "tenants", example='["8eaef023-2b34-4da1-9baa-8bc8c9d6a490"]')
                issuer = [f"{_ENTRA}/{_tenant(one, 'tenants')}/v2.0" for one in allowed]
        else:
            if tenants is not None:
                raise ConfigurationError('tenants goes with tenant="common" or "organizations"', option="tenants")
            tenant = _tenant(tenant, "tenant")
            issuer = f"{_ENTRA}/{tenant}/v2.0"
        return cls._preset(
            options,
            jwks_url=f"{_ENTRA}/{tenant}/discovery/v2.0/keys",
            issuer=issuer,
            audience=audience,
            require=("exp", "sub", "azp"),
            scope_claim="scp",
            token_id_claim="uti",  # noqa: S106 - the name of a claim
        )

    @classmethod
    @called("JWTAuth.supabase")
    def supabase(
        cls, project: str, *, audience: Names = "authenticated", secret: str | bytes | None = None, **options: Any
    ) -> Self:
        """Take the access tokens of signed-in users of a Supabase project.

        The project's own API keys (``anon``, ``service_role``) are refused: they have another issuer. Anonymous users
        are users, with the same audience; ``claims={"is_anonymous": False}`` refuses them. There is no claim with
        scopes; ``scope_claim="app_metadata.roles"`` reads a list that the project keeps there. Never use
        ``user_metadata``, which users write themselves. Many tokens have no ``jti``.

        Sources: "JSON Web Token (JWT)" for ``iss``, algorithms and the address of the keys, which must not be kept for
        more than 10 minutes (https://supabase.com/docs/guides/auth/jwts); "JWT Claims Reference" for ``aud``
        (https://supabase.com/docs/guides/auth/jwt-fields); "JWT Signing Keys" for the secret, which is "no longer
        recommended" (https://supabase.com/docs/guides/auth/signing-keys).

        Args:
            project: the reference of the project, such as ``abcdefghijklmnopqrst``, or its URL, also with a custom
                domain, or of a server of one's own.
            audience: ``aud`` of signed-in users.
            secret: the legacy JWT secret, for a project that still signs with it. One instance takes either those
                tokens or the ones with published keys; ``auth=[…, …]`` of the guard takes both.
        """
        if _fits(_SUPABASE_REF, project):
            project = f"https://{project}.supabase.co"
        issuer = f"{_base_url(project, 'project', 'https://abcdefghijklmnopqrst.supabase.co', '/auth/v1')}/auth/v1"
        keys: dict[str, Any] = {"key": secret, "algorithms": ("HS256",)}
        if secret is None:
            keys = {"jwks_url": f"{issuer}/.well-known/jwks.json", "algorithms": ("ES256", "RS256")}
        return cls._preset(options, **keys, issuer=issuer, audience=audience)

    @classmethod
    @called("JWTAuth.cognito")
    def cognito(
        cls, region: str, user_pool_id: str, *, client_id: str | Collection[str], audience: Names = ANY, **options: Any
    ) -> Self:
        """Take access tokens of a user pool of Amazon Cognito.

        They name the app client in ``client_id`` and normally have no ``aud``; ID tokens are refused by ``token_use``.
        Scopes are OAuth scopes; for groups write ``scope_claim="cognito:groups"``.

        Sources: "Understanding the access token" for the claims and RS256
        (https://docs.aws.amazon.com/cognito/latest/developerguide/amazon-cognito-user-pools-using-the-access-token.html);
        "Verifying JSON web tokens" for ``token_use`` and the address of the keys
        (https://docs.aws.amazon.com/cognito/latest/developerguide/amazon-cognito-user-pools-using-tokens-verifying-a-jwt.html).
        For a region with another host give ``issuer`` and ``jwks_url``.

        Args:
            region: the AWS region, such as ``eu-central-1``.
            user_pool_id: the id of the user pool, such as ``eu-central-1_Ab12Cd34E``.
            client_id: the app clients whose tokens are taken.
            audience: for tokens that do have an ``aud``. Not checked by default.
        """
        _matching(_REGION, region, "region", "an AWS region", "eu-central-1")
        pool = _part(user_pool_id, "user_pool_id", "eu-central-1_Ab12Cd34E")
        if not pool.startswith(f"{region}_"):
            raise ConfigurationError(
                f'user_pool_id must begin with its region and "_"; write user_pool_id="{region}_Ab12Cd34E"',
                option="user_pool_id",
            )
        issuer = f"https://cognito-idp.{region}.amazonaws.com/{pool}"
        return cls._preset(
            options,
            jwks_url=f"{issuer}/.well-known/jwks.json",
            issuer=issuer,
            audience=audience,
            claims={"token_use": "access", "client_id": client_id},
        )

    @classmethod
    @called("JWTAuth.firebase")
    def firebase(cls, project_id: str, **options: Any) -> Self:
        """Take ID tokens of Firebase Authentication: the tokens that its clients send to servers.

        Custom tokens, and session cookies, have other issuers and are refused. There is no claim with scopes; name a
        custom claim of yours with ``scope_claim``. There is no ``jti``, so that only subjects can be revoked.

        Sources: the Admin SDK's verifier for ``iss``, ``aud``, ``sub`` and RS256 (firebase-admin-node,
        src/auth/token-verifier.ts), which follows "Verify ID Tokens"
        (https://firebase.google.com/docs/auth/admin/verify-id-tokens). Both name the keys as certificates only. The
        address of the same keys as a JWK Set is in no page of Firebase; it is what other verifiers use.

        Args:
            project_id: the id of the Firebase project (not its number).
        """
        _matching(_GOOGLE_PROJECT, project_id, "project_id", "the id of a Firebase project", "crm-prod")
        return cls._preset(
            options,
            jwks_url=_GOOGLE_KEYS,
            issuer=f"https://securetoken.google.com/{project_id}",
            audience=project_id,
            require=("exp", "sub", "iat"),
        )


def _fits(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _matching(pattern: re.Pattern[str], value: Any, option: str, must_be: str, example: str) -> str:
    if not _fits(pattern, value):
        raise ConfigurationError(f'{option} must be {must_be}; write {option}="{example}"', option=option)
    return str(value)


def _base_url(url: Any, option: str, example: str, ending: str) -> str:
    """A URL to which a path with this beginning is added. Whether http will do is decided where it is fetched."""
    parts = urlsplit(url) if isinstance(url, str) and url.isascii() and url.isprintable() else None
    if parts is None or parts.scheme not in ("https", "http") or not parts.netloc or any(c in url for c in "?#{}@ "):
        raise ConfigurationError(f'{option} must be a URL; write {option}="{example}"', option=option)
    base, found, _ = str(url).partition(ending)
    if found:
        raise ConfigurationError(
            f'{option} ends with "{ending}…", which is added to it; write {option}="{base}"', option=option
        )
    return str(url).rstrip("/")


def _part(value: Any, option: str, example: str) -> str:
    return _matching(_PART, value, option, "a name without spaces and without any of / ? # % { }", example)


def _tenant(tenant: Any, option: str) -> str:
    if not isinstance(tenant, str) or not _GUID.fullmatch(tenant.lower()):
        raise ConfigurationError(
            f"{option} must be the id of a tenant, a GUID (Entra admin center, Overview, Tenant ID), because iss has "
            'no domain names; or write tenant="organizations"',
            option=option,
        )
    return tenant.lower()
