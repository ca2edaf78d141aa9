"""psycopg, doing the deeds that it is told: postgres_psycopg.py URL DEED… prints what came of each, as JSON."""

import json
import sys

import psycopg


def said(error):
    return {"sqlstate": error.sqlstate, "detail": error.diag.message_detail, "hint": error.diag.message_hint}


def run(connection, text, values=None):
    try:
        cursor = connection.execute(text, values)
        return [list(row) for row in cursor.fetchall()] if cursor.description else cursor.statusmessage
    except psycopg.Error as error:
        return said(error)


def attempt(url, deed):
    with psycopg.connect(url, autocommit=True) as connection:
        if deed == "read":
            return run(connection, "select name from orders where id = %s", [2])
        if deed == "pipeline":
            with connection.pipeline():
                cursors = [connection.execute("select %s::int", [n]) for n in range(50)]
            return [cursor.fetchone()[0] for cursor in cursors]
        if deed == "prepared":
            # More than psycopg keeps, so that it lets go of some.
            connection.prepare_threshold, connection.prepared_max = 1, 10
            return sum(run(connection, f"select {n} + %s", [n])[0][0] for _ in range(3) for n in range(30))
        if deed == "copy":
            with connection.cursor().copy("copy orders (id, name) from stdin") as copy:
                for row in [(10, "ten"), (11, "eleven")]:
                    copy.write_row(row)
            with connection.cursor().copy("copy (select id from orders order by id) to stdout") as copy:
                return [row[0] for row in copy.rows()]
        if deed == "error":
            failed = run(connection, "select nothing from orders")
            return [failed["sqlstate"], run(connection, "select 1")]
        if deed == "rebind":
            connection.prepare_threshold = 0
            first = run(connection, "delete from orders where id = %s", [1])
            return [first, run(connection, "delete from orders where id = %s", [2])]
        if deed == "transaction":
            connection.autocommit = False
            done = [run(connection, "insert into orders values (20, 'twenty')")]
            done.append(run(connection, "drop table old_orders"))
            done.append(connection.info.transaction_status.name)
            print(json.dumps(done), flush=True)
            sys.stdin.readline()
            done.append(run(connection, "drop table old_orders"))
            connection.commit()
            return done
        return run(connection, deed)


print(json.dumps([attempt(sys.argv[1], deed) for deed in sys.argv[2:]]))
