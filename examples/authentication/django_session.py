"""A Django project with its own login, and Socket.IO beside it in the same ASGI application.

    python django_session.py && uvicorn django_session:app

In a project of your own everything up to ``django.setup()`` stands in ``settings.py`` and ``asgi.py`` already.
"""

import os

import django
import socketio
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.http import HttpResponse
from django.urls import path

ORIGINS = os.environ.get("ORIGINS", "http://127.0.0.1:8000").split(",")

settings.configure(
    SECRET_KEY=os.environ.get("SECRET_KEY", "only for this example"),
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    CSRF_TRUSTED_ORIGINS=ORIGINS,
    LOGIN_REDIRECT_URL="/",
    LOGOUT_REDIRECT_URL="/",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", "django.db")}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.locmem.Loader",
                        {
                            "registration/login.html": "<form method=post>{% csrf_token %}{{ form }}"
                            "<button>Sign in</button></form>"
                        },
                    )
                ]
            },
        }
    ],
)
django.setup()

# These need the settings.
from django.contrib.auth import get_user_model, views  # noqa: E402
from django.contrib.auth.signals import user_logged_out  # noqa: E402

from socketguard import Identity, SocketGuard, current_connection  # noqa: E402
from socketguard.auth import DjangoSessionAuth  # noqa: E402


def home(request):
    return HttpResponse(f"<p id=user>{request.user.get_username()}</p>")


urlpatterns = [path("", home), path("login/", views.LoginView.as_view()), path("logout/", views.LogoutView.as_view())]
sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("whoami", namespace="/messages")
async def whoami(sid):
    connection = current_connection()
    return {"subject": connection.identity.subject, "name": connection.user.get_username()}


def load_user(identity: Identity):
    """Asked again each minute: who is deleted or made inactive in Django is out of Socket.IO then."""
    return get_user_model().objects.filter(pk=identity.subject, is_active=True).first()


guard = SocketGuard.protect(
    sio,
    auth=DjangoSessionAuth(),
    load_user=load_user,
    revalidate=float(os.environ.get("REVALIDATE", "60")),
    allowed_origins=ORIGINS,
    namespaces=["/messages"],
)


def signed_out(sender, request, user, **_):
    """Runs in a thread of Django's: the loop of the server ends the connections."""
    if user is not None:
        from asgiref.sync import async_to_sync

        async_to_sync(guard.disconnect)(subject=str(user.pk), reason="You have signed out")


user_logged_out.connect(signed_out)
app = socketio.ASGIApp(sio, other_asgi_app=get_asgi_application())

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    if not get_user_model().objects.exists():
        get_user_model().objects.create_user("ann", password="secret")
