//! Words that say what a statement does to its session, found in a constant table.
//!
//! Not PostgreSQL's list of key words: only what `session` asks about, and the names of common functions, so
//! that a call of any other function can be told from them.

/// A word with a meaning for the pooler. Where several words mean the same, they share a variant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the word of its name")]
pub enum Keyword {
    /// Any other word.
    #[default]
    Unknown,

    // First words of statements.
    Abort,
    Alter,
    Analyze,
    Begin,
    Call,
    Checkpoint,
    Close,
    Cluster,
    Comment,
    Commit,
    Copy,
    Create,
    Deallocate,
    Declare,
    Delete,
    Discard,
    Do,
    Drop,
    End,
    Execute,
    Explain,
    Fetch,
    Grant,
    Import,
    Insert,
    Listen,
    Load,
    Lock,
    Merge,
    Move,
    Notify,
    Prepare,
    Reassign,
    Refresh,
    Reindex,
    Release,
    Reset,
    Revoke,
    Rollback,
    Savepoint,
    Security,
    Select,
    Set,
    Show,
    Start,
    Table,
    Truncate,
    Unlisten,
    Update,
    Vacuum,
    Values,
    With,

    // Words within them.
    All,
    And,
    As,
    Atomic,
    Authorization,
    Chain,
    Characteristics,
    Constraints,
    Current,
    Cursor,
    Default,
    Deferrable,
    False,
    From,
    Function,
    Global,
    Hold,
    Interval,
    Into,
    Isolation,
    Level,
    Local,
    Names,
    No,
    Not,
    Null,
    On,
    Only,
    Option,
    Or,
    Plans,
    Prepared,
    Procedure,
    Read,
    Role,
    Schema,
    Sequences,
    Session,
    Snapshot,
    Temporary,
    Time,
    To,
    Transaction,
    True,
    Without,
    Work,
    Write,
    Xml,
    Zone,
    /// The schema of the session's temporary objects.
    PgTemp,
    PgCatalog,
    /// The view whose rows can be updated to set what they show.
    PgSettings,

    // Functions with an effect on the session.
    SetConfig,
    /// `pg_advisory_lock` and its session-level relatives.
    AdvisoryLock,
    /// `pg_advisory_unlock`, `pg_advisory_unlock_shared`.
    AdvisoryUnlock,
    AdvisoryUnlockAll,
    /// `nextval`, `setval`: write a sequence and what `currval` and `lastval` answer.
    SequenceWrite,
    /// `currval`, `lastval`: read what the session left behind.
    SequenceRead,
    /// Functions that change a session in ways that only they can undo.
    SessionFunction,

    /// A word that may stand before a parenthesis and is harmless: a key word or a common function.
    Harmless,
}

impl Keyword {
    /// Names of schemas, views and functions, which mean the same when they are quoted.
    pub fn is_name(self) -> bool {
        matches!(
            self,
            K::PgTemp
                | K::PgCatalog
                | K::PgSettings
                | K::SetConfig
                | K::AdvisoryLock
                | K::AdvisoryUnlock
                | K::AdvisoryUnlockAll
                | K::SequenceWrite
                | K::SequenceRead
                | K::SessionFunction
        )
    }

    /// The meaning of a word, in any case; [`Keyword::Unknown`] for all others.
    #[inline]
    pub fn find(word: &[u8]) -> Self {
        let (Some(&first), Some(&last)) = (word.first(), word.last()) else {
            return Keyword::Unknown;
        };
        let middle = word.get(word.len() / 2).copied().unwrap_or(0);
        let mut slot = slot(word.len(), first, middle, last);
        loop {
            let index = INDEX[slot];
            if index == EMPTY {
                return Keyword::Unknown;
            }
            let (text, keyword) = WORDS[usize::from(index)];
            // They are in lower case.
            let mut pairs = word.iter().zip(text.as_bytes());
            if text.len() == word.len() && pairs.all(|(a, b)| a.to_ascii_lowercase() == *b) {
                return keyword;
            }
            slot = (slot + 1) % SLOTS;
        }
    }
}

/// Slots of the table; four to five per word, so that most other words meet an empty one at once.
const SLOTS: usize = 1024;
const EMPTY: u8 = u8::MAX;

/// Where the search for a word begins. Folding by `| 0x20` makes it blind to case.
const fn slot(len: usize, first: u8, middle: u8, last: u8) -> usize {
    let key = (first | 0x20) as usize
        | (((middle | 0x20) as usize) << 8)
        | (((last | 0x20) as usize) << 16)
        | ((len & 0xff) << 24);
    (key.wrapping_mul(0x9e37_79b1) >> 20) % SLOTS
}

/// Open addressing: an index into [`WORDS`] or [`EMPTY`].
const INDEX: [u8; SLOTS] = {
    assert!(WORDS.len() < EMPTY as usize, "an index is a byte");
    let mut index = [EMPTY; SLOTS];
    let mut n = 0_u8;
    while (n as usize) < WORDS.len() {
        let word = WORDS[n as usize].0.as_bytes();
        let mut at = slot(
            word.len(),
            word[0],
            word[word.len() / 2],
            word[word.len() - 1],
        );
        while index[at] != EMPTY {
            at = (at + 1) % SLOTS;
        }
        index[at] = n;
        n += 1;
    }
    index
};

use Keyword as K;
#[rustfmt::skip]
const WORDS: &[(&str, Keyword)] = &[
    ("abort", K::Abort), ("alter", K::Alter), ("analyse", K::Analyze), ("analyze", K::Analyze),
    ("begin", K::Begin), ("call", K::Call), ("checkpoint", K::Checkpoint), ("close", K::Close),
    ("cluster", K::Cluster), ("comment", K::Comment), ("commit", K::Commit), ("copy", K::Copy),
    ("create", K::Create), ("deallocate", K::Deallocate), ("declare", K::Declare),
    ("delete", K::Delete), ("discard", K::Discard), ("do", K::Do), ("drop", K::Drop),
    ("end", K::End), ("execute", K::Execute), ("explain", K::Explain), ("fetch", K::Fetch),
    ("grant", K::Grant), ("import", K::Import), ("insert", K::Insert), ("listen", K::Listen),
    ("load", K::Load), ("lock", K::Lock), ("merge", K::Merge), ("move", K::Move),
    ("notify", K::Notify), ("prepare", K::Prepare), ("reassign", K::Reassign),
    ("refresh", K::Refresh), ("reindex", K::Reindex), ("release", K::Release),
    ("reset", K::Reset), ("revoke", K::Revoke), ("rollback", K::Rollback),
    ("savepoint", K::Savepoint), ("security", K::Security), ("select", K::Select),
    ("set", K::Set), ("show", K::Show), ("start", K::Start), ("table", K::Table),
    ("truncate", K::Truncate), ("unlisten", K::Unlisten), ("update", K::Update),
    ("vacuum", K::Vacuum), ("values", K::Values), ("with", K::With),

    ("all", K::All), ("and", K::And), ("as", K::As), ("atomic", K::Atomic),
    ("authorization", K::Authorization), ("chain", K::Chain),
    ("characteristics", K::Characteristics), ("constraints", K::Constraints),
    ("current", K::Current), ("cursor", K::Cursor), ("default", K::Default),
    ("deferrable", K::Deferrable), ("false", K::False), ("from", K::From),
    ("function", K::Function), ("global", K::Global), ("hold", K::Hold),
    ("interval", K::Interval), ("into", K::Into), ("isolation", K::Isolation),
    ("level", K::Level), ("local", K::Local), ("names", K::Names), ("no", K::No),
    ("not", K::Not), ("null", K::Null), ("on", K::On), ("only", K::Only),
    ("option", K::Option), ("or", K::Or), ("plans", K::Plans), ("prepared", K::Prepared),
    ("procedure", K::Procedure), ("read", K::Read), ("role", K::Role), ("schema", K::Schema),
    ("sequences", K::Sequences), ("session", K::Session), ("snapshot", K::Snapshot),
    ("temp", K::Temporary), ("temporary", K::Temporary), ("time", K::Time), ("to", K::To),
    ("transaction", K::Transaction), ("true", K::True), ("without", K::Without),
    ("work", K::Work), ("write", K::Write), ("xml", K::Xml), ("zone", K::Zone),
    ("pg_temp", K::PgTemp), ("pg_catalog", K::PgCatalog),
    ("pg_settings", K::PgSettings),

    ("set_config", K::SetConfig),
    ("pg_advisory_lock", K::AdvisoryLock), ("pg_advisory_lock_shared", K::AdvisoryLock),
    ("pg_try_advisory_lock", K::AdvisoryLock), ("pg_try_advisory_lock_shared", K::AdvisoryLock),
    ("pg_advisory_unlock", K::AdvisoryUnlock), ("pg_advisory_unlock_shared", K::AdvisoryUnlock),
    ("pg_advisory_unlock_all", K::AdvisoryUnlockAll),
    ("nextval", K::SequenceWrite), ("setval", K::SequenceWrite),
    ("currval", K::SequenceRead), ("lastval", K::SequenceRead),
    ("setseed", K::SessionFunction), ("dblink_connect", K::SessionFunction),
    ("dblink_connect_u", K::SessionFunction), ("dblink_disconnect", K::SessionFunction),
    ("pg_replication_origin_session_setup", K::SessionFunction),
    ("pg_replication_origin_session_reset", K::SessionFunction),

    ("abs", K::Harmless), ("any", K::Harmless), ("array", K::Harmless),
    ("array_agg", K::Harmless), ("avg", K::Harmless), ("between", K::Harmless),
    ("by", K::Harmless), ("case", K::Harmless), ("cast", K::Harmless), ("ceil", K::Harmless),
    ("char", K::Harmless), ("clock_timestamp", K::Harmless), ("coalesce", K::Harmless),
    ("concat", K::Harmless), ("conflict", K::Harmless), ("count", K::Harmless),
    ("cube", K::Harmless), ("current_database", K::Harmless),
    ("current_schema", K::Harmless), ("current_schemas", K::Harmless),
    ("current_setting", K::Harmless), ("current_timestamp", K::Harmless),
    ("date_part", K::Harmless), ("date_trunc", K::Harmless), ("dense_rank", K::Harmless),
    ("distinct", K::Harmless), ("else", K::Harmless), ("encode", K::Harmless),
    ("except", K::Harmless), ("exists", K::Harmless), ("extract", K::Harmless),
    ("filter", K::Harmless), ("floor", K::Harmless), ("format_type", K::Harmless),
    ("gen_random_uuid", K::Harmless), ("generate_series", K::Harmless),
    ("greatest", K::Harmless), ("group", K::Harmless), ("having", K::Harmless),
    ("ilike", K::Harmless), ("in", K::Harmless), ("intersect", K::Harmless),
    ("json_agg", K::Harmless), ("json_build_object", K::Harmless), ("jsonb_agg", K::Harmless),
    ("jsonb_build_object", K::Harmless), ("lag", K::Harmless), ("lateral", K::Harmless),
    ("lead", K::Harmless), ("least", K::Harmless), ("left", K::Harmless),
    ("length", K::Harmless), ("like", K::Harmless), ("limit", K::Harmless),
    ("lower", K::Harmless), ("materialized", K::Harmless), ("max", K::Harmless),
    ("md5", K::Harmless), ("min", K::Harmless), ("mod", K::Harmless), ("now", K::Harmless),
    ("nullif", K::Harmless), ("numeric", K::Harmless), ("offset", K::Harmless),
    ("over", K::Harmless), ("overlay", K::Harmless), ("partition", K::Harmless),
    ("pg_advisory_xact_lock", K::Harmless), ("pg_backend_pid", K::Harmless),
    ("pg_notify", K::Harmless), ("pg_sleep", K::Harmless),
    ("pg_try_advisory_xact_lock", K::Harmless), ("position", K::Harmless),
    ("random", K::Harmless), ("rank", K::Harmless), ("regexp_replace", K::Harmless),
    ("replace", K::Harmless), ("returning", K::Harmless), ("right", K::Harmless),
    ("round", K::Harmless), ("row", K::Harmless), ("row_number", K::Harmless),
    ("some", K::Harmless), ("split_part", K::Harmless), ("string_agg", K::Harmless),
    ("substr", K::Harmless), ("substring", K::Harmless), ("sum", K::Harmless),
    ("then", K::Harmless), ("timestamp", K::Harmless), ("timestamptz", K::Harmless),
    ("to_char", K::Harmless), ("trim", K::Harmless), ("union", K::Harmless),
    ("unnest", K::Harmless), ("upper", K::Harmless), ("using", K::Harmless),
    ("varchar", K::Harmless), ("version", K::Harmless), ("when", K::Harmless),
    ("where", K::Harmless), ("within", K::Harmless),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found_in_any_case_and_once() {
        for (index, (word, keyword)) in WORDS.iter().enumerate() {
            assert_eq!(Keyword::find(word.as_bytes()), *keyword, "{word}");
            assert_eq!(
                Keyword::find(word.to_ascii_uppercase().as_bytes()),
                *keyword
            );
            assert!(WORDS.iter().skip(index + 1).all(|(other, _)| other != word));
            assert_eq!(Keyword::find(format!("{word}x").as_bytes()), K::Unknown);
        }
    }

    #[test]
    fn other_words_are_unknown() {
        for word in [
            "",
            "a",
            "pgbench_accounts",
            "aid",
            "set\u{17f}",
            "\u{212a}",
            "s\u{e9}t",
        ] {
            assert_eq!(Keyword::find(word.as_bytes()), K::Unknown, "{word}");
        }
    }

    #[test]
    fn searches_are_short() {
        let longest = INDEX
            .split(|&index| index == EMPTY)
            .map(<[u8]>::len)
            .max()
            .unwrap();
        assert!(longest <= 10, "a run of {longest} slots");
    }
}
