"""django-friendship on Postgres behind Django views with the same JSON, and Django's settings.

``Follow.objects`` is used as documented, with its caches (Django's in memory). Its lists have no pages, so the view
cuts them; they have no times of follows, so ``followed_at`` is missing. Connections stay open.
"""

import os
from urllib.parse import parse_qs, unquote, urlsplit

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from bench.peers.tokens import caller_of

_url = urlsplit(os.environ["PEER_DATABASE_URL"])
settings.configure(
    SECRET_KEY="not secret, for measuring only",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "friendship"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    MIDDLEWARE=[],
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _url.path.lstrip("/"),
            "USER": _url.username,
            "HOST": unquote(parse_qs(_url.query)["host"][0]),
            "CONN_MAX_AGE": None,
        }
    },
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from friendship.models import Follow  # noqa: E402

numbers: dict[str, int] = {}


def user_of(user_id: str) -> User:
    """Return the user of an id; it is read from the database once."""
    if user_id not in numbers:
        numbers[user_id] = User.objects.only("pk").get(username=user_id).pk
    return User(pk=numbers[user_id], username=user_id)


def ready(_: HttpRequest) -> HttpResponse:
    """Return 200 if the database answers."""
    return JsonResponse({"ready": User.objects.exists()})


def follow_status(request: HttpRequest, user_id: str) -> HttpResponse:
    """Return the status as ours does, without the time."""
    own_id = caller_of(request.headers.get("Authorization"))
    if own_id is None:
        return JsonResponse({"error": "a valid token is required"}, status=401)
    follows = Follow.objects.follows(user_of(own_id), user_of(user_id))
    return JsonResponse({"is_following": bool(follows), "followed_at": None})


def followers(request: HttpRequest, user_id: str) -> HttpResponse:
    """Return the first page of the list, in the library's order."""
    if caller_of(request.headers.get("Authorization")) is None:
        return JsonResponse({"error": "a valid token is required"}, status=401)
    people = Follow.objects.followers(user_of(user_id))
    data = [{"id": one.username, "display_name": one.first_name, "avatar_url": None} for one in people[:20]]
    pagination = {"page": 1, "per_page": 20, "total": len(people), "total_pages": -(-len(people) // 20)}
    return JsonResponse({"success": True, "data": data, "pagination": pagination})


urlpatterns = [
    path("ready", ready),
    path("v1/users/<str:user_id>/follow-status", follow_status),
    path("v1/users/<str:user_id>/followers", followers),
]
app = WSGIHandler()

if __name__ == "__main__":
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
