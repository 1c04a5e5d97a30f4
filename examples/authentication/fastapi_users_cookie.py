"""FastAPI-users with its cookie transport and its database strategy, by a function.

uvicorn fastapi_users_cookie:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import socketio
from fastapi import Depends, FastAPI
from fastapi_users import BaseUserManager, FastAPIUsers, IntegerIDMixin, schemas
from fastapi_users.authentication import AuthenticationBackend, CookieTransport
from fastapi_users.authentication.strategy.db import DatabaseStrategy
from fastapi_users_db_sqlalchemy import SQLAlchemyBaseUserTable, SQLAlchemyUserDatabase
from fastapi_users_db_sqlalchemy.access_token import SQLAlchemyAccessTokenDatabase, SQLAlchemyBaseAccessTokenTable
from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

from socketguard import ConnectRequest, CredentialError, Identity, SocketGuard, current_connection

ORIGINS = os.environ.get("ORIGINS", "http://127.0.0.1:8000").split(",")
SECRET = os.environ.get("SECRET_KEY", "only for this example")
LIFETIME = 3600  # seconds


class Base(DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTable[int], Base):
    id: Mapped[int] = mapped_column(primary_key=True)


class AccessToken(SQLAlchemyBaseAccessTokenTable[int], Base):
    @declared_attr
    def user_id(cls) -> Mapped[int]:
        return mapped_column(ForeignKey("user.id", ondelete="cascade"), nullable=False)


engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ.get('DATABASE', 'users.db')}")
session_of = async_sessionmaker(engine, expire_on_commit=False)


class Manager(IntegerIDMixin, BaseUserManager[User, int]):
    reset_password_token_secret = verification_token_secret = SECRET


async def get_session() -> AsyncIterator[AsyncSession]:
    async with session_of() as session:
        yield session


def manager_of(session: AsyncSession) -> Manager:
    return Manager(SQLAlchemyUserDatabase(session, User))


def strategy_of(session: AsyncSession) -> DatabaseStrategy:
    return DatabaseStrategy(SQLAlchemyAccessTokenDatabase(session, AccessToken), lifetime_seconds=LIFETIME)


async def get_manager(session: Annotated[AsyncSession, Depends(get_session)]) -> AsyncIterator[Manager]:
    yield manager_of(session)


async def get_strategy(session: Annotated[AsyncSession, Depends(get_session)]) -> DatabaseStrategy:
    return strategy_of(session)


cookie = CookieTransport(cookie_name="crm", cookie_max_age=LIFETIME, cookie_secure=False)
backend = AuthenticationBackend(name="cookie", transport=cookie, get_strategy=get_strategy)
users = FastAPIUsers[User, int](get_manager, [backend])


async def signed_in(request: ConnectRequest) -> Identity | None:
    """Whose the cookie is, as FastAPI-users itself finds out."""
    token = request.cookies.get(cookie.cookie_name)
    if not token:
        return None
    async with session_of() as session:
        strategy = strategy_of(session)
        user = await strategy.read_token(token, manager_of(session))
        row = None if user is None else await strategy.database.get_by_token(token)
    if user is None or row is None or not user.is_active:
        raise CredentialError("the cookie is of no session, or its user is not active")
    created = row.created_at.replace(tzinfo=row.created_at.tzinfo or UTC)
    ends = created + timedelta(seconds=LIFETIME)
    return Identity(
        str(user.id),
        {"email": user.email},
        frozenset({"admin"} if user.is_superuser else ()),
        issued_at=created.timestamp(),
        expires_at=ends.timestamp(),
    )


sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("whoami", namespace="/messages")
async def whoami(sid):
    return current_connection().identity.claims["email"]


guard = SocketGuard.protect(sio, auth=signed_in, allowed_origins=ORIGINS, namespaces=["/messages"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.include_router(users.get_auth_router(backend), prefix="/auth")
app.include_router(users.get_register_router(schemas.BaseUser[int], schemas.BaseUserCreate), prefix="/auth")


@app.get("/me")
async def me(identity: Annotated[Identity, Depends(guard.auth.requires())]):
    """The routes of the service take the same cookie."""
    return {"email": identity.claims["email"], "at": datetime.now(UTC).isoformat()}


app.mount("/", socketio.ASGIApp(sio))
