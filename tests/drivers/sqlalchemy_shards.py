"""SQLAlchemy 2 as it comes, over shards: many new objects of a sharded table at once."""

import asyncio
import datetime
import os

from sqlalchemy import BigInteger, String, create_engine, func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

ADDRESS = "{PGUSER}:{PGPASSWORD}@{PGHOST}:{PGPORT}/{PGDATABASE}".format(**os.environ)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    owner: Mapped[int]
    name: Mapped[str | None] = mapped_column(String(5))
    at: Mapped[datetime.datetime] = mapped_column(server_default=func.now())


class Member(Base):
    """Sharded by the number that a sequence gives."""

    __tablename__ = "member"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(String(40))


def members(first):
    return [Member(name=f"member {n}") for n in range(first, first + 50)]


def items(first):
    # Numbers of several sizes, as psycopg declares them, and values that are not there.
    numbers = [n if n % 3 else n + 70_000 for n in range(first, first + 50)]
    return [Item(owner=owner, name=None if owner % 5 == 0 else f"n{owner}"[:5]) for owner in numbers]


def check(new, stored):
    assert len({item.id for item in new}) == len(new)
    found = {item.id: (item.owner, item.name, item.at) for item in stored}
    assert found == {item.id: (item.owner, item.name, item.at) for item in new}


for driver, first in [("psycopg", 0), ("psycopg2", 100)]:
    engine = create_engine(f"postgresql+{driver}://{ADDRESS}")
    with Session(engine, expire_on_commit=False) as session:
        new = items(first)
        session.add_all(new)
        session.commit()
        for item in new:
            session.refresh(item)
    owners = [item.owner for item in new]
    with Session(engine) as session:
        check(new, session.scalars(select(Item).where(Item.owner.in_(owners))).all())
    with Session(engine) as session:
        new = members(first)
        session.add_all(new)
        session.flush()
        names = {member.id: member.name for member in new}
        session.commit()
        for number, name in names.items():
            assert session.get(Member, number, populate_existing=True).name == name
    engine.dispose()


async def over_asyncpg():
    engine = create_async_engine(f"postgresql+asyncpg://{ADDRESS}")
    async with AsyncSession(engine, expire_on_commit=False) as session:
        new = items(200)
        session.add_all(new)
        await session.commit()
        for item in new:
            await session.refresh(item)
        owners = [item.owner for item in new]
    async with AsyncSession(engine) as session:
        check(new, (await session.scalars(select(Item).where(Item.owner.in_(owners)))).all())
    async with AsyncSession(engine) as session:
        new = members(200)
        session.add_all(new)
        await session.flush()
        names = {member.id: member.name for member in new}
        await session.commit()
        for number, name in names.items():
            assert (await session.get(Member, number, populate_existing=True)).name == name
    await engine.dispose()


asyncio.run(over_asyncpg())
print("all well")
