//! What a session began with, given back right behind what takes it away.
//!
//! `RESET x` puts a server back to its own value, and to the client it means the one from its startup message. What
//! follows in the same transaction must see the latter: so each such statement is followed by one of ours.
//!
//! ```text
//!   RESET x; SELECT 1      the client's, which began with x = 'a'
//!   RESET x
//!   ;SET x TO 'a'; SELECT 1
//! ```

use super::lexer::Dialect;
use super::session::{effects, Effect, Effects};
use super::set::{Change, Scope};
use super::settings::{Own, Settings};
use super::statements::{Statements, Traits};

/// A text with statements of ours in it, whose results are for nobody.
#[derive(Debug, PartialEq, Eq)]
pub struct Restoring {
    /// What to send.
    pub text: Vec<u8>,
    /// What it does.
    pub effects: Effects,
    /// Which of its statements are ours, from 0, in order.
    pub ours: Box<[u32]>,
}

impl Settings {
    /// The statements that give a session which began with these settings back what this takes away; none for nearly
    /// everything.
    pub fn restoring(&self, effect: &Effect) -> Vec<Own> {
        if self.is_empty() {
            return Vec::new();
        }
        let (scope, all) = match effect {
            Effect::DiscardAll => (Scope::Session, true),
            Effect::Setting(Change::ResetAll) => (Scope::Session, false),
            Effect::Setting(Change::Set {
                scope,
                name,
                value: None,
            }) => return self.statements_for(*scope, |entry| Self::goes_with(name, entry)),
            _ => return Vec::new(),
        };
        self.statements_for(scope, |name| all || !Self::is_role(name))
    }
}

/// The statements of a Query with those of ours among them; `None` if it takes nothing away. `does` is what it does.
pub fn restoring(
    text: &[u8],
    does: &Effects,
    dialect: Dialect,
    baseline: &Settings,
) -> Option<Restoring> {
    if baseline.is_empty() || does.traits.has(Traits::MALFORMED) {
        return None;
    }
    let mut steps = does.steps().iter().peekable();
    let mut whole = Vec::new();
    let (mut done, mut count, mut ours) = (0, 0, Vec::new());
    let mut changes = Vec::new();
    for (nth, statement) in (0..).zip(Statements::new(text, dialect)) {
        count += 1;
        let end = statement.start + statement.text.len();
        while let Some(step) = steps.next_if(|step| step.statement == nth) {
            if step.effect == Effect::DiscardAll {
                continue; // it must be alone
            }
            for restoring in baseline.restoring(&step.effect) {
                whole.extend_from_slice(text.get(done..end)?);
                done = end;
                whole.extend_from_slice(b"\n;"); // a comment may be open
                whole.extend_from_slice(&restoring.text);
                ours.push(count);
                changes.push((count, restoring.change));
                count += 1;
            }
        }
    }
    if ours.is_empty() {
        return None;
    }
    whole.extend_from_slice(text.get(done..)?);
    let does = effects(&whole, dialect);
    let does = changes.into_iter().fold(does, |does, (statement, change)| {
        does.doing(statement, change)
    });
    Some(Restoring {
        effects: does,
        text: whole,
        ours: ours.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::session_settings::SessionSettings;
    use crate::sql::settings::SettingsStore;

    const BEGAN: [(&str, &str); 4] = [
        ("TimeZone", "Asia/Tokyo"),
        ("search_path", "a, \"it's\""),
        ("role", "r"),
        ("application_name", "caf\u{e9}"),
    ];

    fn of(text: &str) -> Option<(String, Vec<u32>)> {
        let began = BEGAN.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let settings = SessionSettings::new(began, &mut SettingsStore::default());
        let (dialect, text) = (Dialect::default(), text.as_bytes());
        let does = effects(text, dialect);
        let found = restoring(text, &does, dialect, settings.committed())?;
        let text = String::from_utf8(found.text).unwrap();
        if !text.contains("convert_from") {
            assert_eq!(found.effects, effects(text.as_bytes(), dialect));
        }
        // Whatever it has taken away is there again.
        assert!(!found
            .effects
            .steps()
            .iter()
            .any(|step| step.effect == Effect::SettingsUnknown));
        Some((text, found.ours.to_vec()))
    }

    #[test]
    fn what_is_taken_away_is_given_back_right_behind() {
        let zone = "SET timezone TO 'Asia/Tokyo'";
        let path = "SELECT pg_catalog.set_config('search_path','a, \"it''s\"',false)";
        let local = "SELECT pg_catalog.set_config('search_path','a, \"it''s\"',true)";
        let name = "SELECT pg_catalog.set_config('application_name',pg_catalog.convert_from(\
            pg_catalog.decode('636166c3a9','hex'),(SELECT reset_val FROM pg_catalog.pg_settings \
            WHERE name='client_encoding')),false)";
        let cases: [(&str, String, &[u32]); 10] = [
            ("RESET timezone", format!("RESET timezone\n;{zone}"), &[1]),
            (
                "RESET TIME ZONE -- here\n;;SELECT 1",
                format!("RESET TIME ZONE\n;{zone} -- here\n;;SELECT 1"),
                &[1],
            ),
            (
                "SELECT 0;RESET search_path;SELECT 1;SET timezone TO DEFAULT;",
                format!("SELECT 0;RESET search_path\n;{path};SELECT 1;SET timezone TO DEFAULT\n;{zone};"),
                &[2, 5],
            ),
            (
                "RESET ALL",
                format!("RESET ALL\n;{name}\n;{path}\n;{zone}"),
                &[1, 2, 3],
            ),
            // In whatever encoding this is read.
            (
                "RESET application_name",
                format!("RESET application_name\n;{name}"),
                &[1],
            ),
            (
                "SET LOCAL search_path TO DEFAULT",
                format!("SET LOCAL search_path TO DEFAULT\n;{local}"),
                &[1],
            ),
            (
                "SET LOCAL timezone TO DEFAULT",
                "SET LOCAL timezone TO DEFAULT\n;SET LOCAL timezone TO 'Asia/Tokyo'".into(),
                &[1],
            ),
            ("RESET ROLE", "RESET ROLE\n;SET role TO 'r'".into(), &[1]),
            (
                "SET SESSION AUTHORIZATION DEFAULT",
                "SET SESSION AUTHORIZATION DEFAULT\n;SET role TO 'r'".into(),
                &[1],
            ),
            (
                "SELECT set_config('timezone', NULL, false)",
                format!("SELECT set_config('timezone', NULL, false)\n;{zone}"),
                &[1],
            ),
        ];
        for (text, expected, ours) in cases {
            assert_eq!(of(text), Some((expected, ours.to_vec())), "{text}");
        }
    }

    #[test]
    fn all_else_stays_as_it_is() {
        for text in [
            "SELECT 1",
            "SET timezone TO 'UTC'",
            "RESET work_mem",
            "DISCARD ALL", // must be alone
            "RESET timezone; SELECT 'unterminated",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
