"""SQLAlchemy's ORM, as applications use it: postgres_orm.py URL prints what it read back, as JSON."""

import json
import sys

from sqlalchemy import ForeignKey, create_engine, inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    invoices: Mapped[list["Invoice"]] = relationship(back_populates="customer")


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int]
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    customer: Mapped[Customer] = relationship(back_populates="invoices")


engine = create_engine(sys.argv[1].replace("postgres://", "postgresql+psycopg://"))
with Session(engine) as session:
    ada = Customer(id=1, name="Ada", invoices=[Invoice(id=1, total=120), Invoice(id=2, total=30)])
    session.add(ada)
    session.commit()
with Session(engine) as session:
    ada = session.scalars(select(Customer).where(Customer.name == "Ada")).one()
    totals = sorted(invoice.total for invoice in ada.invoices)
    ada.name = "Ada L."
    session.commit()
    names = session.scalars(select(Customer.name)).all()
print(json.dumps([totals, names, sorted(inspect(engine).get_table_names())]))
