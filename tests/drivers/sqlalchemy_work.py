"""SQLAlchemy 2 as it comes, over psycopg 3 and over asyncpg: pools of its own, ORM, savepoints, introspection."""

import asyncio
import enum
import os
import threading

from sqlalchemy import ARRAY, JSON, Enum, ForeignKey, Integer, String, create_engine, event, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

ADDRESS = "{PGUSER}:{PGPASSWORD}@{PGHOST}:{PGPORT}/{PGDATABASE}".format(**os.environ)


class Base(DeclarativeBase):
    pass


class Mood(enum.Enum):
    sad = 1
    glad = 2


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    mood: Mapped[Mood] = mapped_column(Enum(Mood))
    tags: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    notes: Mapped[dict] = mapped_column(JSON)
    pets: Mapped[list["Pet"]] = relationship(back_populates="owner", cascade="all, delete-orphan")


class Pet(Base):
    __tablename__ = "pet"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("person.id"))
    owner: Mapped[Person] = relationship(back_populates="pets")


def person(n):
    return Person(name=f"p{n}", mood=Mood.glad, tags=[n, n + 1], notes={"n": n}, pets=[Pet(), Pet()])


engine = create_engine(f"postgresql+psycopg://{ADDRESS}", pool_size=6)
Base.metadata.create_all(engine)
assert set(inspect(engine).get_table_names()) == {"person", "pet"}

with Session(engine) as session:
    session.add_all(person(n) for n in range(50))
    session.commit()
    try:
        with session.begin_nested():
            session.add(person(7))
            session.flush()
    except IntegrityError:
        pass
    else:
        raise AssertionError("names are unique")
    session.add(person(50))
    session.commit()


def work(first):
    for n in range(first, first + 20):
        with Session(engine) as session:
            found = session.scalars(select(Person).where(Person.name == f"p{n % 50}")).one()
            assert (found.tags[0], found.mood, found.notes) == (n % 50, Mood.glad, {"n": n % 50})
            assert len(found.pets) == 2
            session.execute(text("SET LOCAL statement_timeout = '9s'"))
            session.rollback()


threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 60, 10)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]

with engine.connect().execution_options(stream_results=True, yield_per=10) as connection:
    rows = connection.execute(text("SELECT generate_series(1, 100)"))
    assert sum(n for (n,) in rows) == 5050
with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
    assert connection.scalar(text("SHOW transaction_isolation")) == "serializable"
with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
    connection.execute(text("VACUUM person"))

# A column more between two executions; the engine's connections have prepared the statement by then.
for n in range(12):
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM pet WHERE id = :id"), {"id": 1})
        assert len(rows.keys()) == 2
with engine.begin() as connection:
    connection.execute(text("ALTER TABLE pet ADD COLUMN extra int DEFAULT 5"))
engine.dispose()
for n in range(12):
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM pet WHERE id = :id"), {"id": 1}).one()
        assert row.extra == 5
engine.dispose()

# Connections that are cleaned when they go back to the engine's pool, as its documentation has it.
cleaned = create_engine(f"postgresql+psycopg://{ADDRESS}", pool_size=1, max_overflow=0, pool_reset_on_return=None)


@event.listens_for(cleaned, "reset")
def discard(connection, record, state):
    if not state.terminate_only:
        connection.rollback()
        connection.autocommit = True
        connection.execute("DISCARD ALL")
        connection.autocommit = False


for n in range(4):
    with cleaned.connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "0"
        connection.execute(text("SET statement_timeout = '9s'"))
        connection.commit()
cleaned.dispose()

latin = create_engine(f"postgresql+psycopg://{ADDRESS}", connect_args={"client_encoding": "latin1"})
with latin.connect() as connection:
    assert connection.execute(text("SELECT 'é' || :word, octet_length('é')"), {"word": "café"}).one() == ("écafé", 2)
latin.dispose()


async def main():
    engine = create_async_engine(f"postgresql+asyncpg://{ADDRESS}", pool_size=6)

    async def work(first):
        for n in range(first, first + 20):
            async with AsyncSession(engine) as session:
                name = await session.scalar(select(Person.name).where(Person.name == f"p{n % 50}"))
                assert name == f"p{n % 50}"
                mood = await session.scalar(select(Person.mood).where(Person.name == name))
                assert mood is Mood.glad

    await asyncio.gather(*(work(first) for first in range(0, 60, 10)))
    async with engine.connect() as connection:
        rows = await connection.stream(text("SELECT generate_series(1, 1000)"))
        assert sum([n async for (n,) in rows]) == 500500
    await engine.dispose()


asyncio.run(main())
print("all well")
