// pgjdbc as it comes: statements are prepared on the server after five executions; batches, cursors, COPY, savepoints.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import java.util.ArrayList;
import java.util.concurrent.*;
import org.postgresql.PGConnection;

public class Jdbc {
    static Connection connect() throws SQLException {
        var env = System.getenv();
        var url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE");
        return DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"));
    }

    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    static String fails(Connection c, String sql) {
        try (var s = c.createStatement()) {
            s.execute(sql);
        } catch (SQLException e) {
            return e.getSQLState();
        }
        throw new AssertionError("must fail: " + sql);
    }

    static Void work(int first) throws SQLException {
        try (var c = connect(); var s = c.prepareStatement("SELECT name FROM item WHERE id = ?")) {
            for (int n = first; n < first + 30; n++) {
                s.setInt(1, n % 100);
                try (var rows = s.executeQuery()) {
                    check(rows.next() && rows.getString(1).equals("item " + n % 100), "row of " + n);
                }
            }
        }
        return null;
    }

    public static void main(String[] arguments) throws Exception {
        try (var c = connect()) {
            try (var s = c.createStatement()) {
                s.execute("CREATE TABLE item (id int PRIMARY KEY, name text, at timestamptz DEFAULT now(), tags text[])");
            }
            c.setAutoCommit(false);
            try (var s = c.prepareStatement("INSERT INTO item (id, name, tags) VALUES (?, ?, ?)")) {
                for (int n = 0; n < 100; n++) {
                    s.setInt(1, n);
                    s.setString(2, "item " + n);
                    s.setArray(3, c.createArrayOf("text", new String[] {"a", "b" + n}));
                    s.addBatch();
                }
                check(s.executeBatch().length == 100, "batch");
            }
            c.commit();
        }
        var pool = Executors.newFixedThreadPool(6);
        var jobs = new ArrayList<Callable<Void>>();
        for (int n = 0; n < 6; n++) {
            int first = n * 10;
            jobs.add(() -> work(first));
        }
        for (var done : pool.invokeAll(jobs)) done.get();
        pool.shutdown();

        try (var c = connect(); var s = c.createStatement()) {
            c.setAutoCommit(false);
            // A portal that is fetched from in parts.
            try (var cursor = c.prepareStatement("SELECT generate_series(1, 1000)")) {
                cursor.setFetchSize(50);
                long total = 0;
                try (var rows = cursor.executeQuery()) {
                    while (rows.next()) total += rows.getInt(1);
                }
                check(total == 500500, "cursor");
            }
            s.executeUpdate("UPDATE item SET name = 'changed' WHERE id = 1");
            var savepoint = c.setSavepoint();
            check(fails(c, "SELECT 1/0").equals("22012"), "division");
            check(fails(c, "SELECT 1").equals("25P02"), "aborted");
            c.rollback(savepoint);
            try (var rows = s.executeQuery("SELECT name FROM item WHERE id = 1")) {
                check(rows.next() && rows.getString(1).equals("changed"), "savepoint");
            }
            c.rollback();
            c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            try (var rows = s.executeQuery("SHOW transaction_isolation")) {
                check(rows.next() && rows.getString(1).equals("serializable"), "isolation");
            }
            c.commit();

            var copy = c.unwrap(PGConnection.class).getCopyAPI();
            check(copy.copyIn("COPY item (id, name) FROM STDIN", new StringReader("200\tcopied\n201\tcopied\n")) == 2, "in");
            var out = new StringWriter();
            copy.copyOut("COPY (SELECT id FROM item WHERE name = 'copied' ORDER BY id) TO STDOUT", out);
            check(out.toString().equals("200\n201\n"), "out");
            c.commit();
            c.setAutoCommit(true);

            c.setReadOnly(true);
            c.setReadOnly(false);
            c.setSchema("pg_catalog");
            for (int n = 0; n < 10; n++) {
                work(n);
                check("pg_catalog".equals(c.getSchema()), "schema");
            }
            c.setSchema("public");

            // A column more after the statement was prepared: the driver prepares anew.
            try (var all = c.prepareStatement("SELECT * FROM item WHERE id = ?")) {
                for (int n = 0; n < 20; n++) {
                    if (n == 10) s.execute("ALTER TABLE item ADD COLUMN extra int DEFAULT 5");
                    all.setInt(1, n);
                    try (var rows = all.executeQuery()) {
                        check(rows.next() && rows.getInt(1) == n, "after DDL");
                        check(rows.getMetaData().getColumnCount() == (n < 10 ? 4 : 5), "columns");
                    }
                }
            }
            try (var tables = c.getMetaData().getColumns(null, "public", "item", null)) {
                int columns = 0;
                while (tables.next()) columns++;
                check(columns == 5, "metadata");
            }
            // An error within a batch: nothing of it is there.
            try (var some = c.prepareStatement("INSERT INTO item (id) VALUES (?)")) {
                for (int n : new int[] {3000, 3001, 3000, 3002}) {
                    some.setInt(1, n);
                    some.addBatch();
                }
                some.executeBatch();
                throw new AssertionError("an id that is there twice must fail");
            } catch (BatchUpdateException e) {
                check(e.getSQLState().equals("23505"), e.toString());
            }
            try (var rows = s.executeQuery("SELECT count(*) FROM item WHERE id >= 3000")) {
                check(rows.next() && rows.getInt(1) == 0, "batch undone");
            }
            // Types that the driver has to ask for.
            s.execute("CREATE TYPE mood AS ENUM ('sad', 'glad')");
            try (var rows = s.executeQuery("SELECT 'glad'::mood, ARRAY['sad'::mood]")) {
                check(rows.next() && rows.getMetaData().getColumnTypeName(1).equals("mood"), "type");
                check(((Object[]) rows.getArray(2).getArray()).length == 1, "array");
            }
            // What pools do between two users of a connection; the driver sees what became of its statements.
            try (var again = c.prepareStatement("SELECT name FROM item WHERE id = ?")) {
                for (var clean : new String[] {"RESET ALL", "DEALLOCATE ALL", "DISCARD ALL"}) {
                    for (int n = 0; n < 10; n++) {
                        again.setInt(1, n);
                        try (var rows = again.executeQuery()) {
                            check(rows.next(), "prepared");
                        }
                    }
                    s.execute("SET statement_timeout = '9s'");
                    s.execute(clean);
                    try (var rows = s.executeQuery("SHOW statement_timeout")) {
                        check(rows.next() && rows.getString(1).equals(clean.equals("DEALLOCATE ALL") ? "9s" : "0"), clean);
                    }
                }
            }
            s.setQueryTimeout(1);
            check(fails(c, "SELECT 1/0").equals("22012"), "no timeout");
            try {
                s.execute("SELECT pg_sleep(60)");
                throw new AssertionError("must be cancelled");
            } catch (SQLException e) {
                check(e.getSQLState().equals("57014"), e.toString());
            }
        }
        System.out.println("all well");
    }
}
