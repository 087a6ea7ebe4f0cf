"""Django's ORM as it comes, over psycopg 3: migrations, atomic blocks, server-side cursors, several threads."""

import os
import threading

import django
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "USER": os.environ["PGUSER"],
            "PASSWORD": os.environ["PGPASSWORD"],
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
        }
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    USE_TZ=True,
    TIME_ZONE="Asia/Tokyo",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, transaction  # noqa: E402
from django.db.models import Count, IntegerField  # noqa: E402

call_command("migrate", verbosity=0)
group = Group.objects.create(name="group")
for n in range(60):
    user = User.objects.create(username=f"u{n}")
    user.groups.add(group)

with transaction.atomic():
    User.objects.create(username="outer")
    try:
        with transaction.atomic():
            User.objects.create(username="u1")
    except IntegrityError:
        pass
    else:
        raise AssertionError("names are unique")
    with transaction.atomic():
        User.objects.create(username="inner")
assert User.objects.filter(username__in=["outer", "inner"]).count() == 2
try:
    with transaction.atomic():
        User.objects.all().delete()
        raise KeyError
except KeyError:
    pass
assert Group.objects.annotate(members=Count("user")).get().members == 60

# A cursor WITH HOLD outside of a transaction, a plain one inside.
assert sum(1 for _ in User.objects.iterator(chunk_size=10)) == 62
with transaction.atomic():
    assert sum(1 for _ in User.objects.iterator(chunk_size=10)) == 62
    User.objects.select_for_update().get(username="u1")
assert connection.introspection.table_names()

# Rows in bulk, as the driver below has it.
with connection.cursor() as cursor:
    with cursor.copy("COPY auth_group (name) FROM STDIN") as copy:
        for n in range(100):
            copy.write_row((f"copied {n}",))
    with cursor.copy("COPY (SELECT name FROM auth_group WHERE name LIKE 'copied%') TO STDOUT") as copy:
        assert sum(1 for _ in copy.rows()) == 100
Group.objects.filter(name__startswith="copied").delete()

# A column more between two executions.
assert list(Group.objects.raw("SELECT * FROM auth_group"))[0].name == "group"
extra = IntegerField(default=5)
extra.set_attributes_from_name("extra")
with connection.schema_editor() as editor:
    editor.add_field(Group, extra)
assert list(Group.objects.raw("SELECT * FROM auth_group"))[0].extra == 5
with connection.schema_editor() as editor:
    editor.remove_field(Group, extra)
assert Group.objects.get().name == "group"


def work(first):
    try:
        for n in range(first, first + 20):
            user = User.objects.get(username=f"u{n % 60}")
            assert user.date_joined.utcoffset().total_seconds() == 0
            User.objects.filter(pk=user.pk).update(first_name=str(n))
            assert list(User.objects.filter(pk=user.pk).values_list("first_name", flat=True)) != [""]
            with connection.cursor() as cursor:
                cursor.execute("SHOW TimeZone")
                assert cursor.fetchone() == ("UTC",)
    except BaseException as error:
        failures.append(error)
        raise
    finally:
        connection.close()


failures = []
threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 60, 10)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failures, failures
print("all well")
