// pgjdbc over shards: rows are fetched in slices (setFetchSize, within a transaction), and cut off (setMaxRows).

import java.sql.*;

public class Slices {
    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    static String ids(ResultSet rows) throws SQLException {
        var all = new StringBuilder();
        while (rows.next()) all.append(rows.getLong(1)).append(' ');
        return all.toString();
    }

    public static void main(String[] arguments) throws SQLException {
        var env = System.getenv();
        var url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE");
        try (var c = DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"))) {
            var sql = "SELECT id FROM users WHERE id > ? ORDER BY id";
            String whole;
            try (var s = c.prepareStatement(sql)) {
                s.setLong(1, 3);
                whole = ids(s.executeQuery());
                check(whole.split(" ").length > 50, "rows");
                s.setMaxRows(5);
                var few = ids(s.executeQuery());
                check(whole.startsWith(few) && few.split(" ").length == 5, "setMaxRows: " + few);
            }
            c.setAutoCommit(false);
            // More often than pgjdbc needs to prepare a statement by name.
            for (var size : new int[] {1, 7, 10, 50, 1000, 7, 7}) {
                try (var s = c.prepareStatement(sql); var other = c.createStatement()) {
                    s.setFetchSize(size);
                    s.setLong(1, 3);
                    var rows = s.executeQuery();
                    check(rows.next() && whole.startsWith(rows.getLong(1) + " "), "the first");
                    // In between the transaction goes on.
                    var counted = other.executeQuery("SELECT count(*) FROM users");
                    check(counted.next() && counted.getLong(1) > 50, "count");
                    check(whole.endsWith(" " + ids(rows)), "setFetchSize " + size);
                }
            }
            c.commit();
        }
        System.out.println("all well");
    }
}
