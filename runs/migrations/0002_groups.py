"""The groups viewer, operator and admin, with what each may do."""

from django.contrib.auth.management import create_permissions
from django.db import migrations

APPS = ("pipelines", "runs")
OPERATOR = {
    "pipelines": {
        "pipeline": ("view", "add", "change", "delete", "run"),
        "connection": ("view", "add", "change", "delete"),
        "datasetrule": ("view", "add", "change", "delete"),
        "calendar": ("view", "add", "change", "delete"),
        "pool": ("view", "add", "change", "delete"),
        "alertchannel": ("view", "add", "change", "delete"),
        "alertrule": ("view", "add", "change", "delete"),
        "schedule": ("view", "add", "change", "delete"),
    },
}


def _permissions(apps, wanted):
    Permission = apps.get_model("auth", "Permission")
    return [permission for permission in Permission.objects.select_related("content_type") if wanted(permission)]


def make_groups(apps, schema_editor):
    # Permissions are otherwise made after all migrations: too late for this one.
    for label in (*APPS, "auth"):
        config = apps.get_app_config(label)
        config.models_module = True
        create_permissions(config, apps=apps, verbosity=0)
        config.models_module = None

    def ours(permission):
        return permission.content_type.app_label in APPS

    def viewer(permission):
        return ours(permission) and permission.codename.startswith("view_")

    def operator(permission):
        verbs = OPERATOR.get(permission.content_type.app_label, {}).get(permission.content_type.model, ())
        return viewer(permission) or permission.codename.split("_")[0] in verbs

    def admin(permission):
        people = permission.content_type.app_label == "auth" and permission.content_type.model in ("user", "group")
        return ours(permission) or people

    Group = apps.get_model("auth", "Group")
    for name, wanted in (("viewer", viewer), ("operator", operator), ("admin", admin)):
        group, _ = Group.objects.get_or_create(name=name)
        group.permissions.set(_permissions(apps, wanted))


class Migration(migrations.Migration):
    dependencies = [("runs", "0001_initial"), ("auth", "0012_alter_user_first_name_max_length")]
    operations = [migrations.RunPython(make_groups, migrations.RunPython.noop)]
