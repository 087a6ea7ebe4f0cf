//! Settings that are read, and whose feature does not exist yet: whoever changes them is warned.

use super::choice::ServerAuth;
use super::document::Entry;
use super::section::{Effect, Section};
use super::users::UserEntry;
use super::Config;

impl Config {
    /// Settings that someone changed from their defaults, but whose feature does not exist yet: `section.key`, each once.
    pub fn not_in_effect(&self) -> Vec<String> {
        let mut visitor = NotInEffect::default();
        let (file, found) = (&self.file, &mut visitor);
        found.section(&file.general);
        found.section(&file.memory);
        found.section(&file.tcp);
        found.section(&file.admin);
        found.sections(&file.multi_tenant);
        found.section(&file.rewrite);
        found.section(&file.replication);
        found.sections(&file.replica_lag);
        found.section(&file.otel);
        found.sections(&file.vault);
        found.sections(&file.query_parsers);
        found.sections(&file.plugins);
        found.sections(&file.mirroring);
        found.sections(&file.databases);
        found.sections(&file.sharded_tables);
        found.sections(&file.sharded_schemas);
        found.sections(&file.omnisharded_tables);
        found.sections(&self.users_file.users);
        found.server_auth(&self.users_file.users);
        visitor.names
    }
}

/// Collects settings without effect.
#[derive(Default)]
struct NotInEffect {
    names: Vec<String>,
}

impl NotInEffect {
    fn section<S: Section>(&mut self, section: &Entry<S>) {
        for setting in section
            .value
            .changed()
            .filter(|setting| setting.effect == Effect::Later)
        {
            let name = format!("{}.{}", S::NAME, setting.name);
            if !self.names.contains(&name) {
                self.names.push(name);
            }
        }
    }

    /// Ways to log in to servers that do not exist yet.
    fn server_auth(&mut self, users: &[Entry<UserEntry>]) {
        for user in users {
            let how = user.value.server_auth;
            let name = format!("users.server_auth = \"{how}\"");
            let exists = matches!(how, ServerAuth::Password | ServerAuth::RdsIam);
            if !exists && !self.names.contains(&name) {
                self.names.push(name);
            }
        }
    }

    fn sections<'a, S: Section + 'a>(&mut self, sections: impl IntoIterator<Item = &'a Entry<S>>) {
        sections
            .into_iter()
            .for_each(|section| self.section(section));
    }
}
