//! What is said of files: errors, warnings, SHOW CONFIG.

use super::*;

#[test]
fn all_errors_of_both_files_at_once() {
    let config = "[general]\nport = \"6432\"\npooler_mode = \"fast\"\nidle_timeout = 5.5\nprot = 1\n\n[[databases]]\nname = \"d\"\nshard = -1\n\n[extra]\n";
    let users = "[[users]]\nname = 5\ndatabase = \"d\"\npasswords = [\"a\", 2]\n\n[general]\n";
    assert_eq!(
        errors(config, users),
        [
            "p.toml:2: general.port: expected a whole number, found a string",
            "p.toml:3: general.pooler_mode: expected one of transaction, session, statement, found `fast`",
            "p.toml:4: general.idle_timeout: expected a whole number of milliseconds, found a float",
            "p.toml:5: general.prot: unknown key, did you mean `port`?",
            "p.toml:7: databases.host: required, but missing",
            "p.toml:9: databases.shard: expected a whole number, found a negative number",
            "p.toml:11: extra: unknown section",
            "u.toml:2: users.name: expected a string, found an integer",
            "u.toml:4: users.passwords: expected a string, found an integer",
            "u.toml:6: general: unknown section",
        ]
    );
}

#[test]
fn a_syntax_error_hides_only_its_own_file() {
    let found = errors(
        "[general\nport = 1\n",
        "[[users]]\nname = \"u\"\ndatabase = \"d\"\nnaem = 1\n",
    );
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("p.toml:1: not TOML: "), "{}", found[0]);
    assert_eq!(
        found[1],
        "u.toml:4: users.naem: unknown key, did you mean `name`?"
    );
}

#[test]
fn a_missing_file_is_a_warning() {
    let sources = Sources {
        config: Source {
            path: "p.toml",
            text: None,
        },
        users: Source {
            path: "u.toml",
            text: None,
        },
        environment: &Environment::new(),
        overrides: &Overrides::default(),
    };
    let warnings = resolve(&sources).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "p.toml: no such file, using defaults",
            "u.toml: no such file, using defaults"
        ]
    );
}

#[test]
fn workers_are_clamped_with_a_word() {
    let four = NonZeroUsize::new(4).unwrap();
    for (workers, count, told) in [
        ("0", 4, false),
        ("4", 4, false),
        ("2", 2, true),
        ("9", 4, true),
    ] {
        let (found, message) = config(&format!("workers = {workers}"), "", "").workers(four);
        assert_eq!((found.get(), message.is_some()), (count, told), "{workers}");
    }
}

#[test]
fn settings_without_effect_are_listed_once() {
    let database = "shard = 0\nlb_weight = 1\n[[databases]]\nname = \"d\"\nhost = \"r\"\nrole = \"replica\"\nlb_weight = 2\n[[plugins]]\nname = \"x\"";
    let found = config(
        "mirror_exposure = 1.0\nmirror_queue = 1\nquery_timeout = 5",
        database,
        "schema_admin = true\nserver_auth = \"azure_workload_identity\"",
    );
    assert_eq!(
        found.not_in_effect(),
        [
            "general.mirror_queue",
            "plugins.name",
            "users.schema_admin",
            "users.server_auth = \"azure_workload_identity\""
        ]
    );
}

#[test]
fn show_config() {
    let rows = config("query_timeout = 1500\nlog_level = \"a\\\"b\"", "", "").show();
    let value = |name: &str| {
        rows.iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    };
    for (name, shown) in [
        ("host", "0.0.0.0"),
        ("port", "6432"),
        ("checkout_timeout", "5s"),
        ("idle_timeout", "1m"),
        ("server_lifetime", "1d"),
        ("query_timeout", "1500ms"),
        ("client_idle_timeout", "9223372036854775807ms"),
        ("query_size_limit", "default"),
        ("pooler_mode", "transaction"),
        ("log_level", "a\"b"),
        ("tcp_keepalive", "true"),
        ("tcp_time", "default"),
        ("memory_net_buffer", "4096"),
    ] {
        assert_eq!(value(name), Some(shown), "{name}");
    }
    let groups: Vec<u8> = rows
        .iter()
        .map(|(name, _)| {
            if name.starts_with("tcp_") {
                1
            } else if name.starts_with("memory_") {
                2
            } else {
                0
            }
        })
        .collect();
    assert!(groups.is_sorted());
}

#[test]
fn secrets_are_never_printed() {
    let config = config("", "password = \"hunter2\"", "server_password = \"hunter3\"\npasswords = [\"hunter4\"]\npassword_hash = \"SCRAM-SHA-256$hunter5\"");
    for text in [format!("{config:?}"), format!("{:?}", config.show())] {
        assert!(!text.contains("hunter"), "{text}");
    }
    let wrong = errors(
        "[admin]\npassword = 5\n[otel]\nheaders = { a = 1 }\n",
        "[[users]]\nname = \"u\"\npassword = [\"hunter2\"]\n",
    );
    assert!(!wrong.join(" ").contains("hunter"), "{wrong:?}");
}

proptest::proptest! {
    #[test]
    fn hostile_files_are_refused_with_reasons(data in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        resolve::fuzz_config(&data);
    }

    #[test]
    fn almost_valid_files_are_refused_with_reasons(text in "(\\[\\[?(general|databases|users|tcp)\\]\\]?|name|host|port|role|=|\"|a|1|-|\n|,|\\{){0,60}") {
        resolve::fuzz_config(text.as_bytes());
    }

    /// Whatever stands in a file or a variable, the answer is a configuration or errors.
    #[test]
    fn any_text_is_answered(text in "(\\[{0,2}(general|users|databases|sharded_tables)\\]{0,2}\n|[a-z_]{1,8} = [\"0-9a-z\\[\\]{},-]{1,9}\n|\\PC{0,9}\n){0,12}", url in "postgres://\\PC{0,20}") {
        let case = Case { config: &text, users: &text, environment: &[("PGDOG_DATABASE_URL_1", &url)], ..Case::default() };
        if let Err(errors) = case.resolve() {
            proptest::prop_assert!(!errors.is_empty());
        }
    }
}
