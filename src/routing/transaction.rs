//! A transaction over several servers, which join it when a statement needs them: what each has to hear first.
//!
//! ```text
//!   None ─begin─► Open ─fail─► Failed ─rollback to─► Open
//!     ▲             │ end         │ end
//!     └─────────────┴─────────────┘
//! ```
//!
//! BEGIN is answered by us, before it is known which servers it concerns.

use crate::protocol::backend::TransactionStatus;
use crate::sql::statement::Modes;

/// Bytes of statements that a server which joins is told; a client that says more is refused.
pub const PROLOGUE_BYTES_MAX: usize = 256 * 1024;

/// What a client's transaction is made of so far.
#[derive(Debug, Default)]
pub struct Transaction {
    phase: Phase,
    /// In order: BEGIN, then what is in force since.
    prologue: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    None,
    Open,
    /// A statement has failed: nothing runs until ROLLBACK.
    Failed,
}

#[derive(Debug)]
enum Entry {
    /// A statement, and the modes that it gives a transaction which has begun.
    Said { text: Box<[u8]>, modes: Modes },
    /// SAVEPOINT.
    Savepoint { text: Box<[u8]>, name: Box<[u8]> },
    /// Servers have something that no statement could give to another one.
    Secret,
}

impl Entry {
    fn text(&self) -> &[u8] {
        match self {
            Self::Said { text, .. } | Self::Savepoint { text, .. } => text,
            Self::Secret => &[],
        }
    }

    fn modes(&self) -> Modes {
        match self {
            Self::Said { modes, .. } => *modes,
            Self::Savepoint { .. } | Self::Secret => Modes::default(),
        }
    }
}

/// There is no room for another statement in the prologue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Transaction {
    /// As ReadyForQuery tells the client.
    pub fn status(&self) -> TransactionStatus {
        match self.phase {
            Phase::None => TransactionStatus::Idle,
            Phase::Open => TransactionStatus::Transaction,
            Phase::Failed => TransactionStatus::Failed,
        }
    }

    /// Is there one, failed or not?
    pub fn is_open(&self) -> bool {
        self.phase != Phase::None
    }

    /// Has it failed?
    pub fn is_failed(&self) -> bool {
        self.phase == Phase::Failed
    }

    /// BEGIN, as the client spelt it with these modes.
    pub fn begin(&mut self, text: &[u8], modes: Modes) {
        debug_assert_eq!(self.phase, Phase::None, "one transaction at a time");
        self.phase = Phase::Open;
        self.prologue.clear();
        self.prologue.push(Entry::Said {
            text: text.into(),
            modes,
        });
    }

    /// The modes that it was given so far.
    pub fn modes(&self) -> Modes {
        modes_of(&self.prologue)
    }

    /// Something that a server which joins later has to be told, too: SET LOCAL, SET CONSTRAINTS.
    ///
    /// Errors: too much was said.
    pub fn remember(&mut self, text: &[u8]) -> Result<(), TooLong> {
        self.remember_modes(text, Modes::default())
    }

    /// The same of SET TRANSACTION, which gives the transaction these modes.
    ///
    /// Errors: too much was said.
    pub fn remember_modes(&mut self, text: &[u8], modes: Modes) -> Result<(), TooLong> {
        self.push(Entry::Said {
            text: text.into(),
            modes,
        })
    }

    /// A server has been made to have something that nobody could tell another one.
    pub fn keep_secret(&mut self) {
        if self.is_told() {
            self.prologue.push(Entry::Secret);
        }
    }

    /// Could a server that joins be told all that others have?
    pub fn is_told(&self) -> bool {
        let mut entries = self.prologue.iter();
        !entries.any(|entry| matches!(entry, Entry::Secret))
    }

    /// SAVEPOINT.
    ///
    /// Errors: too much was said.
    pub fn savepoint(&mut self, text: &[u8], name: &[u8]) -> Result<(), TooLong> {
        self.push(Entry::Savepoint {
            text: text.into(),
            name: name.into(),
        })
    }

    /// Could a statement be remembered?
    pub fn has_room(&self, text: &[u8]) -> bool {
        let bytes: usize = self.prologue.iter().map(|entry| entry.text().len()).sum();
        bytes + text.len() <= PROLOGUE_BYTES_MAX
    }

    fn push(&mut self, entry: Entry) -> Result<(), TooLong> {
        if !self.has_room(entry.text()) {
            return Err(TooLong);
        }
        self.prologue.push(entry);
        Ok(())
    }

    /// RELEASE: the savepoint and those after it are gone, what was said after them stays. False: there is none.
    pub fn release(&mut self, name: &[u8]) -> bool {
        let Some(at) = self.find(name) else {
            return false;
        };
        let mut index = 0;
        self.prologue.retain(|entry| {
            let gone = index >= at && matches!(entry, Entry::Savepoint { .. });
            index += 1;
            !gone
        });
        true
    }

    /// ROLLBACK TO: what was said after the savepoint is undone, and the transaction goes on. False: there is none.
    pub fn rollback_to(&mut self, name: &[u8]) -> bool {
        let Some(at) = self.find(name) else {
            return false;
        };
        self.prologue.truncate(at + 1);
        self.phase = Phase::Open;
        true
    }

    /// Savepoints that are in force.
    pub fn savepoints(&self) -> usize {
        let is_one = |entry: &&Entry| matches!(entry, Entry::Savepoint { .. });
        self.prologue.iter().filter(is_one).count()
    }

    /// The innermost savepoint of this name.
    fn find(&self, name: &[u8]) -> Option<usize> {
        let of_name =
            |entry: &Entry| matches!(entry, Entry::Savepoint { name: own, .. } if **own == *name);
        self.prologue.iter().rposition(of_name)
    }

    /// A statement of it has failed, on some server or with us.
    pub fn fail(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Failed;
        }
    }

    /// COMMIT or ROLLBACK. With `chain` another one with the same modes begins.
    pub fn end(&mut self, chain: bool) {
        if !chain {
            *self = Self::default();
        } else if self.is_open() {
            self.phase = Phase::Open;
            // In one statement, however often it was said: transactions may go on like this for ever.
            let modes = modes_of(self.prologue.get(1..).unwrap_or_default());
            self.prologue.truncate(1);
            self.prologue
                .extend(modes.statement().map(|text| Entry::Said {
                    text: text.into(),
                    modes,
                }));
        }
    }

    /// What a server that joins has to hear, in order.
    pub fn prologue(&self) -> impl Iterator<Item = &[u8]> {
        self.prologue.iter().map(Entry::text)
    }
}

/// The later ones before the earlier.
fn modes_of(entries: &[Entry]) -> Modes {
    let modes = entries.iter().map(Entry::modes);
    modes.fold(Modes::default(), |earlier, one| one.over(earlier))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::statement::Isolation;

    fn heard(transaction: &Transaction) -> String {
        let texts: Vec<_> = transaction
            .prologue()
            .map(String::from_utf8_lossy)
            .collect();
        texts.join("; ")
    }

    #[test]
    fn a_server_that_joins_hears_what_is_in_force() {
        let mut transaction = Transaction::default();
        assert_eq!(transaction.status(), TransactionStatus::Idle);
        transaction.begin(b"BEGIN READ WRITE", Modes::default());
        transaction.savepoint(b"SAVEPOINT a", b"a").unwrap();
        transaction.remember(b"SET LOCAL x = 1").unwrap();
        transaction.savepoint(b"SAVEPOINT b", b"b").unwrap();
        transaction.remember(b"SET LOCAL x = 2").unwrap();
        assert_eq!(
            heard(&transaction),
            "BEGIN READ WRITE; SAVEPOINT a; SET LOCAL x = 1; SAVEPOINT b; SET LOCAL x = 2"
        );
        assert_eq!(transaction.savepoints(), 2);
        assert!(transaction.rollback_to(b"b"));
        assert_eq!(transaction.savepoints(), 2);
        assert!(transaction.release(b"a"));
        assert_eq!(transaction.savepoints(), 0);
        assert_eq!(heard(&transaction), "BEGIN READ WRITE; SET LOCAL x = 1");
        assert!(!transaction.rollback_to(b"b"), "it went with the other");
        transaction.end(true);
        assert_eq!(heard(&transaction), "BEGIN READ WRITE");
        assert_eq!(transaction.status(), TransactionStatus::Transaction);
        transaction.end(false);
        assert_eq!(heard(&transaction), "");
        assert!(!transaction.is_open());
    }

    #[test]
    fn what_nobody_can_tell_is_undone_with_its_savepoint() {
        let mut transaction = Transaction::default();
        transaction.begin(b"BEGIN", Modes::default());
        transaction.savepoint(b"SAVEPOINT a", b"a").unwrap();
        assert!(transaction.is_told());
        transaction.keep_secret();
        transaction.savepoint(b"SAVEPOINT b", b"b").unwrap();
        transaction.keep_secret();
        assert!(transaction.rollback_to(b"b") && !transaction.is_told());
        assert!(transaction.rollback_to(b"a") && transaction.is_told());
        transaction.keep_secret();
        assert!(transaction.release(b"a") && !transaction.is_told());
        transaction.end(true);
        assert!(transaction.is_told());
    }

    #[test]
    fn a_failed_one_goes_on_from_a_savepoint_or_not_at_all() {
        let mut transaction = Transaction::default();
        transaction.fail();
        assert!(!transaction.is_failed(), "there is none that could fail");
        transaction.begin(b"BEGIN", Modes::default());
        transaction.savepoint(b"SAVEPOINT a", b"a").unwrap();
        transaction.savepoint(b"SAVEPOINT a", b"a").unwrap();
        transaction.fail();
        assert_eq!(transaction.status(), TransactionStatus::Failed);
        assert!(!transaction.rollback_to(b"z"));
        assert!(transaction.is_failed());
        assert!(transaction.rollback_to(b"a"), "the later one of that name");
        assert_eq!(heard(&transaction), "BEGIN; SAVEPOINT a; SAVEPOINT a");
        transaction.fail();
        transaction.end(true);
        assert_eq!(heard(&transaction), "BEGIN");
        assert!(!transaction.is_failed());
    }

    #[test]
    fn modes_are_those_that_were_given_last() {
        let mut transaction = Transaction::default();
        let read_only = |on| Modes {
            read_only: Some(on),
            ..Modes::default()
        };
        transaction.begin(b"BEGIN READ WRITE", read_only(false));
        assert_eq!(transaction.modes(), read_only(false));
        transaction.savepoint(b"SAVEPOINT a", b"a").unwrap();
        let set = transaction.remember_modes(b"SET TRANSACTION READ ONLY", read_only(true));
        assert_eq!((set, transaction.modes()), (Ok(()), read_only(true)));
        assert!(transaction.rollback_to(b"a"));
        assert_eq!(transaction.modes(), read_only(false));
        transaction.end(true);
        assert_eq!(transaction.modes(), read_only(false));
        transaction.end(false);
        assert_eq!(transaction.modes(), Modes::default());
    }

    #[test]
    fn one_that_is_chained_has_the_modes_of_the_one_before() {
        let mut transaction = Transaction::default();
        transaction.begin(b"BEGIN READ WRITE", Modes::default());
        let read_only = Modes {
            read_only: Some(true),
            ..Modes::default()
        };
        let serializable = Modes {
            isolation: Some(Isolation::Serializable),
            ..Modes::default()
        };
        let mut set = |text: &[u8], modes| transaction.remember_modes(text, modes).unwrap();
        set(b"set transaction read only", read_only);
        set(b"SET LOCAL x = 1", Modes::default());
        set(b"SET CONSTRAINTS ALL DEFERRED", Modes::default());
        set(
            b"set transaction isolation level serializable",
            serializable,
        );
        transaction.savepoint(b"SAVEPOINT a", b"a").unwrap();
        transaction.keep_secret();
        transaction.end(true);
        let chained = "BEGIN READ WRITE; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY";
        assert_eq!(heard(&transaction), chained);
        let again = transaction.remember_modes(b"SET TRANSACTION READ ONLY", read_only);
        assert_eq!(again, Ok(()));
        transaction.fail();
        transaction.end(true);
        assert_eq!(heard(&transaction), chained, "it does not grow");
        transaction.end(false);
        transaction.begin(b"BEGIN", Modes::default());
        transaction.end(true);
        assert_eq!(heard(&transaction), "BEGIN");
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut transaction = Transaction::default();
        transaction.begin(b"BEGIN", Modes::default());
        let long = vec![b'x'; PROLOGUE_BYTES_MAX];
        assert_eq!(transaction.remember(&long), Err(TooLong));
        assert_eq!(heard(&transaction), "BEGIN");
    }
}
