//! What a session began with, given back in the same transaction that takes it away (`sql::restore`).

use std::rc::Rc;

use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::{Bind, Execute, Parse, SYNC};
use crate::sql::keyword::Keyword;
use crate::sql::session::{effects, Effects};

use super::Relay;

impl Relay<'_> {
    /// What gives the session back what one statement takes away of what it began with.
    pub(super) fn restoring(&self, effects: &Effects) -> Vec<Vec<u8>> {
        let baseline = self.session.settings.baseline();
        let steps = effects.steps().iter();
        steps
            .flat_map(|step| baseline.restoring(&step.effect))
            .collect()
    }

    /// Executes statements of ours amid a batch: their errors are its own.
    pub(super) fn restore(&mut self, statements: &[Vec<u8>]) {
        for text in statements {
            let effects = Rc::new(effects(text, self.dialect()));
            self.execute_own(text, 0, Some(effects));
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
