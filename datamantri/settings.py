"""All settings. What differs between installations comes from the environment, read in env.py."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from django.templatetags.static import static
from django.urls import reverse_lazy

from datamantri import env

BASE_DIR = Path(__file__).resolve().parent.parent

# What an installation sets --------------------------------------------------------------------

SECRET_KEY = env.text("SECRET_KEY")
ENCRYPTION_KEYS = env.fernet_keys()
PUBLIC_URL = env.http_url("PUBLIC_URL", "http://localhost:8000")
PORT = env.integer("PORT", 8000, least=1, most=65535)
WORKERS = env.integer("WORKERS", 2, least=1, most=256)
LEASE_TTL = timedelta(seconds=env.seconds("LEASE_TTL_S", 30, least=1))
HEARTBEAT = timedelta(seconds=env.seconds("HEARTBEAT_S", 5, least=0.1))
RETENTION = timedelta(days=env.integer("RETENTION_DAYS", 90, least=1))
# How many slices of backfills are under way at once, and what a TiB that BigQuery reads is reckoned to cost.
BACKFILL_MAX_RUNNING = env.integer("BACKFILL_MAX_RUNNING", 1, least=1)
PRICE_PER_TIB = env.number("PRICE_PER_TIB", 6.25)
STORAGE_PRICE_PER_TIB = env.number("STORAGE_PRICE_PER_TIB", 1.1)
LOG_RETENTION = timedelta(days=env.integer("LOG_RETENTION_DAYS", 30, least=1))
# How long micro-batches are kept that went well; what they came to by day stays.
REALTIME_RETENTION = timedelta(hours=env.integer("REALTIME_RETENTION_H", 24, least=1))
BROKER_URL = env.broker()
LIVE_URL = env.live("LIVE_URL", BROKER_URL)
# Where alerts may be sent to although it is no address of the internet.
ALERT_PRIVATE_NETWORKS = env.networks("ALERT_PRIVATE_NETWORKS")
# An emulator in place of Google's BigQuery; the connector reads them itself.
env.http_url("BIGQUERY_REST_ENDPOINT", "")
env.host_and_port("BIGQUERY_STORAGE_ENDPOINT", "")

if HEARTBEAT * 3 > LEASE_TTL:
    raise env.ImproperlyConfigured("LEASE_TTL_S must be at least three times HEARTBEAT_S.")

# The web --------------------------------------------------------------------------------------

_public = urlsplit(PUBLIC_URL)
_secure = _public.scheme == "https"
_local = {"localhost", "127.0.0.1", "[::1]"}
DEBUG = False
ALLOWED_HOSTS = sorted({_public.hostname or ""} | (_local if _public.hostname in _local else set()))
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _secure
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_SSL_REDIRECT = _secure
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _secure else None
SECURE_HSTS_SECONDS = 31_536_000 if _secure else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = _secure
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Two checkouts on one host share cookies (cookies know no port): name them by port.
SESSION_COOKIE_NAME = f"datamantri_session_{_public.port or 0}"
CSRF_COOKIE_NAME = f"datamantri_csrf_{_public.port or 0}"

ROOT_URLCONF = "datamantri.urls"
ASGI_APPLICATION = "datamantri.asgi.application"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "dashboard"
LOGOUT_REDIRECT_URL = "login"

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django_celery_beat",
    "django_celery_results",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "datamantri",
    "pipelines",
    "runs",
]

# Workers and beat serve no pages: without what only pages need each of them is 10 MB smaller and starts sooner.
if os.environ.get("DATAMANTRI_PAGES") == "0":  # set by processes.py, for no operator to set
    _for_pages = {"unfold", "unfold.contrib.filters", "django.contrib.messages", "django.contrib.staticfiles"}
    _for_pages |= {"django.contrib.humanize", "rest_framework", "django_filters", "drf_spectacular"}
    _for_pages |= {"drf_spectacular_sidecar"}
    # Its log entries are written elsewhere too; its pages need not be looked for.
    _slim = {"django.contrib.admin": "django.contrib.admin.apps.SimpleAdminConfig"}
    INSTALLED_APPS = [_slim.get(app, app) for app in INSTALLED_APPS if app not in _for_pages]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Served by whitenoise from where they lie: nothing to collect, in a checkout or in an image.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

# The database ---------------------------------------------------------------------------------

DATABASES = {"default": dict(env.database())}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

# Distributed execution ------------------------------------------------------------------------

CELERY_BROKER_URL = BROKER_URL
# Without max_retries, sending to a broker that is down takes seconds; workers reconnect by other settings.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "redis": {"socket_timeout": 5, "socket_connect_timeout": 2, "socket_keepalive": True, "max_retries": 0},
    # Confirmed: messages into a connection that is dead would seem to be sent.
    "amqp": {"connect_timeout": 2, "confirm_publish": True, "max_retries": 0},
}["amqp" if BROKER_URL.startswith("amqp") else "redis"]
CELERY_RESULT_BACKEND = "django-db"
CELERY_RESULT_EXPIRES = timedelta(hours=1)
DJANGO_CELERY_RESULTS_TASK_ID_MAX_LENGTH = 191
# beat's own scheduler is not used; its CrontabSchedule rows are.
DJANGO_CELERY_BEAT_TZ_AWARE = True

# Live pages -----------------------------------------------------------------------------------

# Without a layer nothing is pushed, and pages ask every other second.
CHANNEL_LAYERS = {}
if LIVE_URL:
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [LIVE_URL], "prefix": f"datamantri{urlsplit(LIVE_URL).path}"},
    }

# API ------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "pipelines.tokens.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.DjangoModelPermissions"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "datamantri.api_errors.answer",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "DataMantri",
    "DESCRIPTION": "Pipelines from BigQuery into PostgreSQL: define, run, watch.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "StatusEnum": "runs.states.RunStatus",
        "RunActionEnum": "runs.models.RunAction",
        "BackfillStateEnum": "runs.models.BackfillState",
        "BackfillKindEnum": "runs.models.BackfillKind",
        "SliceStatusEnum": "runs.models.SliceStatus",
        "PartStatusEnum": "runs.states.PartStatus",
        "AlertKindEnum": "pipelines.models.AlertKind",
        "DeliveryStateEnum": "runs.models.DeliveryState",
        "PipelineStateEnum": "pipelines.models.PipelineState",
        "QuarantinedStateEnum": "runs.quarantine_pages.STATES",
        "ScheduleKindEnum": "pipelines.models.Schedule.Kind",
        "CheckKindEnum": "pipelines.models.checks.KINDS",
        "CheckStatusEnum": "runs.models.checks.STATUSES",
    },
}

# The admin ------------------------------------------------------------------------------------

UNFOLD = {
    "SITE_TITLE": "DataMantri",
    "SITE_HEADER": "DataMantri",
    "SITE_URL": reverse_lazy("dashboard"),
    "SITE_SYMBOL": "database",
    "SHOW_VIEW_ON_SITE": True,
    "SIDEBAR": {"navigation": "datamantri.desk.navigation"},
    "SCRIPTS": [lambda request: static("admin_desk/errors.js")],
    "BORDER_RADIUS": "8px",
    # The pages' own indigo, as static/app.css has it.
    "COLORS": {
        "primary": {
            "50": "#eef0ff",
            "100": "#e0e3ff",
            "200": "#c7ccfe",
            "300": "#a5abfb",
            "400": "#8484f5",
            "500": "#6a66e8",
            "600": "#5353cc",
            "700": "#4543ab",
            "800": "#3a3a8a",
            "900": "#33356d",
            "950": "#1f1f42",
        }
    },
}

# Logging --------------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "filters": {"brief": {"()": "datamantri.logs.OneLineUnlessError"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "daphne": {"level": "WARNING"},
        "django.request": {"filters": ["brief"]},
        # It logs what a task returned: rows of a preview are not for log files.
        "celery.app.trace": {"level": "WARNING"},
    },
}
