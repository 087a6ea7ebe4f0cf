// The admin database with pgjdbc on its defaults. PGDATABASE is the administrator's password.

import java.sql.*;

public class AdminWork {
    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    public static void main(String[] args) throws SQLException {
        var env = System.getenv();
        var url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/admin";
        try (var c = DriverManager.getConnection(url, "admin", env.get("PGDATABASE"))) {
            try (var s = c.prepareStatement("SHOW POOLS")) {
                // After five times it is a named statement, with binary results where there are any.
                for (int n = 0; n < 8; n++) {
                    try (var rows = s.executeQuery()) {
                        check(rows.next(), "a pool");
                        check(rows.getLong("id") == 1 && rows.getBoolean("online"), "its id and state");
                        check(rows.getBigDecimal("sv_active").signum() == 0, "nothing is active");
                    }
                }
            }
            check(c.isValid(5), "the connection is valid");
            c.setAutoCommit(false);
            try (var s = c.createStatement(); var rows = s.executeQuery("SHOW CLIENTS")) {
                check(rows.next() && rows.getString("application_name").contains("JDBC"), "our name");
            }
            c.commit();
            try (var s = c.createStatement()) {
                s.execute("SHOW FDS");
                throw new AssertionError("must fail");
            } catch (SQLException e) {
                check(e.getSQLState().equals("0A000"), e.getSQLState());
            }
            c.rollback();
        }
        System.out.println("all well");
    }
}
