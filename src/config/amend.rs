//! The admin command SET: the configuration in force with one setting changed. The files stay as they are, and the next
//! reload goes back to them.

use super::check::check;
use super::problem::Problems;
use super::resolve::build;
use super::section::{Effect, Section};
use super::value::{Flaw, Input};
use super::{Config, Environment};

/// Settings of `[general]` that may be set.
const GENERAL: [&str; 27] = [
    "auth_type",
    "ban_timeout",
    "canonicalize_type_information",
    "checkout_timeout",
    "client_connection_recovery",
    "client_idle_in_transaction_timeout",
    "connect_timeout",
    "connection_recovery",
    "cross_shard_disabled",
    "default_pool_size",
    "dry_run",
    "healthcheck_interval",
    "idle_healthcheck_delay",
    "idle_healthcheck_interval",
    "load_balancing_strategy",
    "passthrough_auth",
    "prepared_statements",
    "prepared_statements_limit",
    "query_parser",
    "query_timeout",
    "read_write_split",
    "read_write_strategy",
    "read_your_writes",
    "reload_schema_on_ddl",
    "tls_client_required",
    "two_phase_commit",
    "two_phase_commit_auto",
];

/// Names of settings of `[rewrite]`, here and there.
const REWRITE: [(&str, &str); 4] = [
    ("rewrite_enabled", "enabled"),
    ("rewrite_primary_key", "primary_key"),
    ("rewrite_shard_key_updates", "shard_key"),
    ("rewrite_split_inserts", "split_inserts"),
];

/// Why a setting cannot be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such setting, or it cannot be set.
    Unknown,
    /// It cannot have this value: why, a problem a line.
    Invalid(String),
}

/// The changed configuration.
#[derive(Clone, Debug)]
pub struct Amended {
    /// Valid.
    pub config: Config,
    /// Does the setting do anything yet?
    pub in_effect: bool,
}

impl Config {
    /// This configuration with another value of one setting, written as in the environment.
    pub fn amended(&self, name: &str, value: &str) -> Result<Amended, Refused> {
        let mut file = self.file.clone();
        let in_effect = if GENERAL.contains(&name) {
            set(&mut file.general.value, name, value)?
        } else {
            let rewrite = REWRITE.iter().find(|(known, _)| *known == name);
            let (_, key) = rewrite.ok_or(Refused::Unknown)?;
            set(&mut file.rewrite.value, key, value)?
        };
        let mut problems = Problems::default();
        check(&file, &self.users_file, &mut problems);
        let users_file = self.users_file.clone();
        let mut config = build(file, users_file, &Environment::default(), &mut problems);
        config.instance = self.instance.clone(); // all that the environment has said and no file holds
        if !problems.errors.is_empty() {
            let reasons = problems.errors.iter().map(ToString::to_string);
            return Err(Refused::Invalid(reasons.collect::<Vec<_>>().join("\n")));
        }
        Ok(Amended { config, in_effect })
    }
}

/// Sets a field; is it in effect?
fn set<S: Section>(section: &mut S, key: &str, value: &str) -> Result<bool, Refused> {
    let reasons = |flaws: Vec<Flaw>| {
        let reasons = flaws.into_iter().map(|flaw| flaw.reason);
        Refused::Invalid(reasons.collect::<Vec<_>>().join("\n"))
    };
    section.set(key, Input::Word(value)).map_err(reasons)?;
    let setting = S::SETTINGS.iter().find(|setting| setting.name == key);
    Ok(setting.is_some_and(|setting| setting.effect == Effect::Now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::choice::QueryParser;
    use super::super::{resolve, Source, Sources};
    use super::*;

    fn config() -> Config {
        let source = |path, text| Source {
            path,
            text: Some(text),
        };
        let environment = Environment::from([("NODE_ID".to_owned(), "seven".to_owned())]);
        let databases = "[[databases]]\nname = \"a\"\nhost = \"h\"\n";
        let users = "[[users]]\nname = \"u\"\ndatabase = \"a\"\npassword = \"p\"\n[admin]\npassword = \"q\"\n";
        resolve(&Sources {
            config: source("pgdog.toml", databases),
            users: source("users.toml", users),
            environment: &environment,
            overrides: &Default::default(),
        })
        .expect("a valid configuration")
        .config
    }

    #[test]
    fn one_setting_changes_and_all_else_stays() {
        let before = config();
        let Amended { config, in_effect } = before.amended("default_pool_size", "42").unwrap();
        assert!(in_effect);
        assert_eq!(config.pools[0].limits.size, 42);
        let changes: Vec<_> = super::super::diff(&before, &config);
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(config.instance, before.instance);
        assert_eq!(config.admin, before.admin);
        let again = config.amended("query_timeout", "5000").unwrap().config;
        assert_eq!(again.servers.query_timeout, Some(Duration::from_secs(5)));
        assert_eq!(again.pools[0].limits.size, 42, "changes add up");
    }

    #[test]
    fn the_deprecated_flag_overrules_the_file_and_not_the_operator() {
        let general = "[general]\nquery_parser_enabled = true\nquery_parser = \"off\"\n[[databases]]\nname = \"a\"\nhost = \"h\"\n";
        let source = |path, text| Source {
            path,
            text: Some(text),
        };
        let config = resolve(&Sources {
            config: source("pgdog.toml", general),
            users: source("users.toml", ""),
            environment: &Environment::new(),
            overrides: &Default::default(),
        });
        let config = config.expect("a valid configuration").config;
        assert_eq!(config.clusters[0].parser, QueryParser::On);
        let amended = config.amended("query_parser", "off").unwrap().config;
        assert_eq!(amended.clusters[0].parser, QueryParser::Off);
    }

    #[test]
    fn every_name_can_be_set() {
        let config = config();
        for name in GENERAL {
            let shown = config.show();
            let (_, value) = shown.iter().find(|(known, _)| known == name).unwrap();
            assert!(!value.is_empty());
            let refused = config.amended(name, "no such value at all").unwrap_err();
            assert!(matches!(refused, Refused::Invalid(_)), "{name}");
        }
        for (name, value, in_effect) in [
            ("rewrite_enabled", "true", true),
            ("rewrite_split_inserts", "ignore", true),
            ("rewrite_primary_key", "error", true),
        ] {
            let amended = config.amended(name, value).unwrap();
            assert_eq!(amended.in_effect, in_effect, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let config = config();
        let refused = |name, value| config.amended(name, value).unwrap_err();
        for name in ["port", "host", "nonsense", "enabled"] {
            assert_eq!(refused(name, "1"), Refused::Unknown, "{name}");
        }
        for value in ["five", "-1", "0", ""] {
            let why = refused("default_pool_size", value);
            assert!(matches!(why, Refused::Invalid(_)), "{value}");
        }
    }
}
