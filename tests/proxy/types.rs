//! Values as PostgreSQL itself orders, writes and aggregates them, against what `pgdog::types` makes of them.

use pgdog::types::enums::Enums;
use pgdog::types::key::{Kind, Purpose};
use pgdog::types::numeric::{deviation, Numeric};
use pgdog::types::{
    oid, put_float4_text, put_float8_text, read_float4, read_float8, Format, Session,
};

use crate::support::Postgres;

const BY_BYTES: Session = Session {
    known: pgdog::types::Known::Yes,
    text_ordered_by_bytes: true,
    text_equal_by_bytes: true,
    floats_exact: true,
};

/// A type, its OID, its send function, expressions over `n` from -250 to 250, and literals.
type Values = (
    &'static str,
    u32,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

/// Values that have ties, extremes and every sign.
const VALUES: &[Values] = &[
    ("bool", oid::BOOL, "boolsend", &["n % 3 = 0"], &[]),
    (
        "int2",
        oid::INT2,
        "int2send",
        &["n * 97"],
        &["-32768", "32767"],
    ),
    (
        "int4",
        oid::INT4,
        "int4send",
        &["n * 54321"],
        &["-2147483648", "2147483647"],
    ),
    (
        "int8",
        oid::INT8,
        "int8send",
        &["n * 9876543210123"],
        &["-9223372036854775808", "9223372036854775807"],
    ),
    (
        "oid",
        oid::OID,
        "oidsend",
        &["(n + 300) * 7000000::int8"],
        &["0", "4294967295"],
    ),
    (
        "float4",
        oid::FLOAT4,
        "float4send",
        &["(random() - .5) * power(10, n % 38)"],
        &["NaN", "-Infinity", "Infinity", "0", "-0", "1e-45"],
    ),
    (
        "float8",
        oid::FLOAT8,
        "float8send",
        &["(random() - .5) * power(10, n)"],
        &["NaN", "-Infinity", "Infinity", "0", "-0", "5e-324"],
    ),
    (
        "numeric",
        oid::NUMERIC,
        "numeric_send",
        &[
            "(random() - .5)::numeric * power(10::numeric, n / 4)",
            "n / 8.0",
            "n / 8",
            "n * 10000",
        ],
        &[
            "NaN",
            "-Infinity",
            "Infinity",
            "0",
            "0.000",
            "1e130000",
            "1e-16000",
            "-1e-16000",
            "-1e130000",
        ],
    ),
    (
        "bytea",
        oid::BYTEA,
        "byteasend",
        &["decode(substr(md5(n::text), 1, 2 * (abs(n) % 5)), 'hex')"],
        &["\\x", "\\x00", "\\x0000", "\\x0001", "\\x5c78"],
    ),
    (
        "text",
        oid::TEXT,
        "textsend",
        &["substr(md5(n::text), 1, abs(n) % 4)"],
        &["a ", "A", "ä", "~", "\u{10000}", "\u{ffff}"],
    ),
    (
        "char(3)",
        oid::BPCHAR,
        "bpcharsend",
        &["substr(md5(n::text), 1, abs(n) % 4)"],
        &["a ", "A", "ä", "~", "a\t"],
    ),
    (
        "\"char\"",
        oid::CHAR,
        "charsend",
        &["chr(32 + abs(n) % 90)"],
        &[""],
    ),
    (
        "int4[]",
        1007,
        "array_send",
        &[
            "ARRAY[n % 3, n % 5]",
            "array_fill(n % 2, ARRAY[1 + abs(n) % 3, 1 + abs(n) % 2])",
            "ARRAY[nullif(n % 4, 1)]",
        ],
        &[
            "{}",
            "{1,2,3,4}",
            "{{1,2},{3,4}}",
            "{{1},{2},{3},{4}}",
            "{{1,2,3,4}}",
            "[0:3]={1,2,3,4}",
            "[2:5]={1,2,3,4}",
            "[0:1][1:2]={{1,2},{3,4}}",
            "[1:2][0:1]={{1,2},{3,4}}",
            "{{{1,2}},{{3,4}}}",
            "{NULL}",
            "{1,NULL}",
            "{NULL,1}",
        ],
    ),
    (
        "text[]",
        1009,
        "array_send",
        &[
            "ARRAY[substr(md5(n::text), 1, abs(n) % 3), 'x']",
            "string_to_array('a,b' || n % 7, ',')",
        ],
        &[
            r#"{"",a}"#,
            "{a}",
            r#"{"NULL"}"#,
            "{NULL}",
            r#"{"{","}"}"#,
            r#"{"\"","\\"}"#,
            "{a,ä}",
            r#"{"a b"," "}"#,
        ],
    ),
    (
        "numeric[]",
        1231,
        "array_send",
        &["ARRAY[n / 8.0, 1]", "ARRAY[1.0, n]"],
        &["{1}", "{1.00}", "{NaN}", "{-0.5,NULL}"],
    ),
    (
        "timestamptz[]",
        1185,
        "array_send",
        &["ARRAY['2000-01-01'::timestamptz + n % 7 * '1 h'::interval]"],
        &["{infinity,-infinity}", "{}"],
    ),
    ("name", oid::NAME, "namesend", &["md5(n::text)"], &["", "A"]),
    ("uuid", oid::UUID, "uuid_send", &["md5((n / 2)::text)"], &[]),
    (
        "date",
        oid::DATE,
        "date_send",
        &["'2000-01-01'::date + n * 1009", "'0001-02-03'::date + n"],
        &["infinity", "-infinity", "4714-11-24 BC", "5874897-12-31"],
    ),
    (
        "time",
        oid::TIME,
        "time_send",
        &["'12:00'::time + n * '101.000001 s'::interval"],
        &["24:00", "00:00"],
    ),
    (
        "timetz",
        oid::TIMETZ,
        "timetz_send",
        &[
            "('12:00'::time + n * '101.000001 s'::interval)::text || '+00'",
            "('12:00'::time + n * '15 min'::interval)::text || to_char(n % 12, 'S00') || ':30'",
        ],
        &["24:00+00", "00:00-15:59:59"],
    ),
    (
        "timestamp",
        oid::TIMESTAMP,
        "timestamp_send",
        &[
            "'2000-01-01'::timestamp + n * '1000.000001 h'::interval",
            "'0001-02-03'::timestamp + n * '25 h'::interval",
        ],
        &[
            "infinity",
            "-infinity",
            "4714-11-24 BC",
            "294276-12-31 23:59:59.999999",
        ],
    ),
    (
        "timestamptz",
        oid::TIMESTAMPTZ,
        "timestamptz_send",
        &[
            "'2000-01-01'::timestamptz + n * '1000.000001 h'::interval",
            "'1883-11-18 12:00'::timestamptz + n * '1 min'::interval",
            "'0001-02-03'::timestamptz + n * '25 h'::interval",
        ],
        &["infinity", "-infinity"],
    ),
    (
        "interval",
        oid::INTERVAL,
        "interval_send",
        &[
            "n * '1 mon'::interval + (n % 7) * '1 day'::interval - (n % 5) * '1.5 h'::interval",
            "n * '1 day'::interval",
            "n * '12 h'::interval",
            "n * '-1 y 3 d'::interval",
        ],
        &["178000000 y", "-178000000 y", "0"],
    ),
    (
        "inet",
        oid::INET,
        "inet_send",
        &[
            "abs(n) || '.' || abs(n) % 3 || '.0.1/' || abs(n) % 33",
            "'2001:db8::' || abs(n) || '/' || abs(n) % 129",
        ],
        &["::1", "::ffff:1.2.3.4", "10.0.0.1"],
    ),
    (
        "cidr",
        oid::CIDR,
        "cidr_send",
        &["network((abs(n) || '.' || abs(n) % 3 || '.0.1/' || abs(n) % 33)::inet)"],
        &["::/0"],
    ),
    (
        "macaddr",
        oid::MACADDR,
        "macaddr_send",
        &["substr(md5(n::text), 1, 12)"],
        &[],
    ),
    (
        "macaddr8",
        oid::MACADDR8,
        "macaddr8_send",
        &["substr(md5(n::text), 1, 16)"],
        &[],
    ),
    (
        "pg_lsn",
        oid::PG_LSN,
        "pg_lsn_send",
        &["'0/0'::pg_lsn + abs(n) * 1234567891234"],
        &[],
    ),
    (
        "varbit",
        oid::VARBIT,
        "varbit_send",
        &["substr(n::bit(9)::text, 1, abs(n) % 10)"],
        &[],
    ),
];

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// Every value's key is less than the next one's in PostgreSQL's own order, or equal where PostgreSQL says so, in both
/// formats and under the settings that change how values are written.
#[test]
fn keys_have_the_order_of_a_live_server() {
    for settings in [
        "",
        "SET bytea_output = 'escape'; SET timezone = 'America/New_York'",
    ] {
        let mut server = Postgres::shared().admin("postgres");
        server.rows("SELECT setseed(.25)");
        server.query(settings);
        for (name, type_oid, send, expressions, literals) in VALUES {
            let computed = expressions
                .iter()
                .map(|value| format!("SELECT ({value})::{name} v FROM s"));
            let written = literals
                .iter()
                .map(|value| format!("SELECT E'{}'::{name}", value.replace('\\', "\\\\")));
            let values: Vec<String> = computed.chain(written).collect();
            let sql = format!(
                "WITH s AS (SELECT generate_series(-250, 250) n), v AS ({})
                 SELECT v, encode({send}(v), 'hex'), coalesce(v = lag(v) OVER (ORDER BY v), false) FROM v ORDER BY v",
                values.join(" UNION ALL ")
            );
            let rows = server.rows(&sql);
            assert!(rows.len() > 100, "{name}: {} values", rows.len());
            let key = |format, value: &[u8]| {
                let kind = Kind::of(*type_oid, format, Purpose::Order, &BY_BYTES, Enums::NONE)?;
                let mut key = Vec::new();
                kind.put(format, value, &mut key)
                    .unwrap_or_else(|_| panic!("{name} {}", value.escape_ascii()));
                Some(key)
            };
            let mut last: Option<(Vec<u8>, String)> = None;
            for row in rows {
                let [value, binary, equal] = <[String; 3]>::try_from(row).unwrap();
                let found = key(Format::Text, value.as_bytes()).expect("text has keys");
                if let Some(binary) = key(Format::Binary, &bytes(&binary)) {
                    assert_eq!(found, binary, "{name} {value}");
                }
                if let Some((last, before)) = last {
                    let expected = if equal == "t" {
                        last == found
                    } else {
                        last < found
                    };
                    assert!(expected, "{name}: {before} then {value}, equal: {equal}");
                }
                last = Some((found, value));
            }
        }
    }
}

#[test]
fn floats_are_written_as_by_a_live_server() {
    let mut server = Postgres::shared().admin("postgres");
    let rows = server.rows(
        "SELECT ((random() - .5) * power(10, n))::float8, ((random() - .5) * power(10, n % 38))::float4
         FROM generate_series(-300, 300) n, generate_series(1, 30)",
    );
    for row in rows {
        let mut out = Vec::new();
        put_float8_text(
            &mut out,
            read_float8(Format::Text, row[0].as_bytes()).unwrap(),
        );
        assert_eq!(String::from_utf8(out).unwrap(), row[0]);
        let mut out = Vec::new();
        put_float4_text(
            &mut out,
            read_float4(Format::Text, row[1].as_bytes()).unwrap(),
        );
        assert_eq!(String::from_utf8(out).unwrap(), row[1]);
    }
}

/// Groups of random sizes, scales and magnitudes, each in three parts: what we make of the parts is what the server
/// makes of the whole.
#[test]
fn sums_averages_and_deviations_are_those_of_a_live_server() {
    let mut server = Postgres::shared().admin("postgres");
    server.rows("SELECT setseed(.5)");
    let rows = server.rows(
        "WITH v AS (
            SELECT g, n % 3 AS part, round(((random() - .5) * power(10, g % 25 - 8))::numeric, g % 11) AS v
            FROM generate_series(1, 400) g, LATERAL generate_series(1, 1 + (g * 7) % 23) n
            UNION ALL SELECT 0, n % 3, n FROM generate_series(1, 6) n
            UNION ALL SELECT -1, n % 3, 5.50 FROM generate_series(1, 6) n
            UNION ALL VALUES (-2, 0, 'NaN'::numeric), (-2, 1, 3), (-3, 0, 'Infinity'), (-3, 1, '-Infinity'), (-4, 0, 'Infinity'), (-4, 1, 2)
         )
         SELECT g, count(v), avg(v), sum(v), variance(v), stddev(v), var_pop(v), stddev_pop(v), sum(v * v),
                sum(v) FILTER (WHERE part = 0), sum(v) FILTER (WHERE part = 1), sum(v) FILTER (WHERE part = 2)
         FROM v GROUP BY g",
    );
    assert!(rows.len() > 400);
    let text = |numeric: Option<Numeric>| {
        let mut out = Vec::new();
        if let Some(numeric) = numeric {
            numeric.put(Format::Text, &mut out);
        }
        String::from_utf8(out).unwrap()
    };
    let read = |text: &str| Numeric::read(Format::Text, text.as_bytes()).unwrap();
    for row in rows {
        let count: i64 = row[1].parse().unwrap();
        let parts = row[9..].iter().filter(|part| !part.is_empty());
        let sum = parts
            .map(|part| read(part))
            .reduce(|a, b| a.add(&b).unwrap())
            .unwrap();
        let squares = read(&row[8]);
        let deviation = |sample, root| text(deviation(&sum, &squares, count, sample, root));
        let found = [
            text(sum.average(count)),
            text(Some(sum.clone())),
            deviation(true, false),
            deviation(true, true),
            deviation(false, false),
            deviation(false, true),
        ];
        assert_eq!(found, row[2..8], "group {}", row[0]);
    }
}
