//! What a session began with, given back in the same transaction that takes it away (`sql::restore`).

use std::collections::HashMap;
use std::rc::Rc;

use crate::prepared::kept_name;
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::{Bind, Execute, Parse, SYNC};
use crate::sql::keyword::Keyword;
use crate::sql::session::{effects, Effects};
use crate::sql::settings::Own;

use super::{Relay, Session};

/// Prepared statements of one session whose effects are known, by name.
pub(super) type Known = HashMap<Box<[u8]>, Rc<Effects>>;

/// As many of them as are known of one session. Of others RESET goes back to the server's own value.
const KNOWN_MAX: usize = 1024;

impl Session {
    /// In session mode names are the client's own, and pass as they are, unless there are several shards: remembers those
    /// of statements that change the session.
    pub(super) fn know(&mut self, name: &[u8], effects: &Rc<Effects>) {
        if self.pools() || self.translates() {
            return;
        }
        let name = kept_name(name);
        if effects.sets() || effects.resets() {
            let known = self.known.get_or_insert_default();
            if known.len() < KNOWN_MAX {
                known.insert(name.into(), Rc::clone(effects));
            }
        } else if let Some(known) = &mut self.known {
            known.remove(name);
        }
    }
}

impl Relay<'_> {
    /// What gives the session back what one statement takes away of what it began with.
    pub(super) fn restoring(&self, effects: &Effects) -> Vec<Own> {
        let baseline = self.session.settings.baseline();
        let steps = effects.steps().iter();
        steps
            .flat_map(|step| baseline.restoring(&step.effect))
            .collect()
    }

    /// Executes statements of ours amid a batch: their errors are its own.
    pub(super) fn restore(&mut self, statements: &[Own]) {
        for Own { text, change } in statements {
            let does = effects(text, self.dialect()).doing(0, change.clone());
            self.execute_own(text, 0, Some(Rc::new(does)));
        }
    }

    /// A Query of one SET, RESET or DISCARD ALL that takes something away: by the extended protocol, where ours follow
    /// it without becoming part of it. DISCARD ALL must be alone, and SET LOCAL means nothing then. False: it takes
    /// nothing away, or is something else, and nothing was sent.
    pub(super) fn pass_alone_and_restore(&mut self, text: &[u8], effects: &Rc<Effects>) -> bool {
        let rowless = matches!(
            effects.verb,
            Keyword::Set | Keyword::Reset | Keyword::Discard
        );
        if !rowless || effects.statements != 1 || self.server.exchange.is_unsynced() {
            return false;
        }
        let restoring = self.restoring(effects);
        if restoring.is_empty() {
            return false;
        }
        self.session.ties.note(effects);
        let note = self.deallocate(effects);
        let mut messages = Vec::with_capacity(text.len() + 40);
        Parse::encode(&mut messages, b"", text, []);
        Bind::encode(&mut messages, b"", b"", [], [], []);
        Execute {
            portal: b"",
            rows_max: 0,
        }
        .encode(&mut messages);
        self.server.stream.write(&messages);
        self.note(Owed::ParseComplete, Fate::Drop, 0);
        self.note(Owed::BindComplete, Fate::Drop, 0);
        let tracked = self.track(Some(Rc::clone(effects)));
        self.note_with(Owed::Execution, Fate::Forward, note, tracked);
        self.restore(&restoring);
        self.server.stream.write(&SYNC);
        self.note(Owed::Ready, Fate::Forward, 0);
        true
    }
}
