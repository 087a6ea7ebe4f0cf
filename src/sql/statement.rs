//! What routing needs to know of a statement.
//!
//! Names are as PostgreSQL stores them (unquoted ones in lower case), without a server's knowledge of what they
//! mean: a table may be a view, a function may be any of several with its name.

use std::cell::Cell;
use std::sync::Arc;

use super::keys::{Keys, Operand};

/// A text and what is in it.
#[derive(Debug)]
pub struct Analysis {
    /// Its statements in order, empty ones left out; or why they are not known.
    pub statements: Result<Vec<Statement>, Unparsed>,
    /// How often it was used, for `SHOW QUERY_CACHE`.
    pub usage: Usage,
    /// What routing has found out of it, and under which number of what it knew of the database.
    pub decisive: Cell<Option<(u64, Option<Decisive>)>>,
}

/// The one value that decides where a statement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decisive {
    /// Its place among [`Keys::restrictions`], of which it is the only member.
    pub restriction: u16,
    /// The place of the column that it is compared with among the database's sharded ones.
    pub column: u16,
}

/// Why a text has no statements. It is not lost: the server is to answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unparsed {
    /// PostgreSQL's grammar refuses it: its message, without the position.
    Syntax(Box<str>),
    /// More levels of nesting than the parser has stack for.
    TooDeep,
    /// More than [`super::cache::TEXT_BYTES_MAX`].
    TooLong,
    /// Not UTF-8, or of an encoding in which a byte of a character may look like a backslash or quote.
    Encoding,
}

/// Counters of one analysed text.
#[derive(Debug, Default)]
pub struct Usage {
    /// Found in the cache.
    pub hits: Cell<u64>,
    /// Routed to one shard; the router counts.
    pub direct: Cell<u64>,
    /// Routed to several shards; the router counts.
    pub multi: Cell<u64>,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a statement"
)]
pub struct Statement {
    /// What it is.
    pub kind: Kind,
    /// The tables (or views) that it names anywhere, common table expressions left out; the first
    /// 64 each once.
    pub tables: Vec<Table>,
    /// The functions that it calls anywhere, the first 64 each once.
    pub functions: Vec<Function>,
    /// Why a replica cannot run it, as far as its text tells: the first reason found.
    pub needs_primary: Option<Need>,
    /// It inserts, updates, deletes or merges, be it in a common table expression.
    pub changes_rows: bool,
    /// It is `SELECT … INTO`.
    pub makes_table: bool,
    /// It is a change that gives rows itself: RETURNING.
    pub returns_rows: bool,
    /// It locks rows that it reads.
    pub locks_rows: bool,
    /// The highest `$n` in it.
    pub parameters: u32,
    /// What it says about keys; of queries only.
    pub keys: Option<Box<Keys>>,
    /// What the table is like that it makes, if it is CREATE TABLE.
    pub created: Option<Arc<Created>>,
    /// What it may make of tables that there are.
    pub reshapes: Option<Box<Reshape>>,
}

impl Statement {
    /// Does it change rows, be it within a query?
    pub fn writes(&self) -> bool {
        self.kind != Kind::Select || self.changes_rows
    }

    /// Is it a query whose rows a server computes as they are fetched?
    pub fn selects(&self) -> bool {
        self.kind == Kind::Select && !self.makes_table && !self.changes_rows
    }

    /// The tag by which PostgreSQL answers a portal of it that has given all its rows and is executed again. `None`: what gives
    /// no rows cannot be run again.
    pub fn tag_again(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Select if !self.makes_table => Some("SELECT 0"),
            Kind::Insert if self.returns_rows => Some("INSERT 0 0"),
            Kind::Update if self.returns_rows => Some("UPDATE 0"),
            Kind::Delete if self.returns_rows => Some("DELETE 0"),
            Kind::Merge if self.returns_rows => Some("MERGE 0"),
            Kind::Show(_) => Some("SHOW"),
            Kind::Explain { .. } => Some("EXPLAIN"),
            _ => None,
        }
    }

    /// A statement that names nothing.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            tables: Vec::new(),
            functions: Vec::new(),
            needs_primary: None,
            changes_rows: false,
            makes_table: false,
            returns_rows: false,
            locks_rows: false,
            parameters: 0,
            keys: None,
            created: None,
            reshapes: None,
        }
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        let inner = self.kind.inner().map_or(0, Self::size);
        let arguments = match &self.kind {
            Kind::Execute { arguments, .. } => arguments.len(),
            _ => 0,
        };
        size_of::<Self>()
            + self.tables.len() * (size_of::<Table>() + 32)
            + self.functions.len() * (size_of::<Function>() + 16)
            + self.keys.as_ref().map_or(0, |keys| keys.size())
            + self
                .created
                .as_ref()
                .map_or(0, |created| created.columns.len() * 32)
            + arguments * size_of::<Operand>()
            + inner
    }
}

/// A table as it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// None: the search path decides.
    pub schema: Option<Box<str>>,
    /// Without schema.
    pub name: Box<str>,
    /// The name that its columns are qualified with, if it is another.
    pub alias: Option<Box<str>>,
    /// What is done to it.
    pub usage: TableUse,
}

/// What a statement does to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableUse {
    /// Its rows are read.
    Read,
    /// The target of INSERT, or of COPY FROM.
    Insert,
    /// The target of UPDATE.
    Update,
    /// The target of DELETE.
    Delete,
    /// The target of MERGE.
    Merge,
    /// Changed or locked as a whole.
    Definition,
    /// Columns or foreign keys are changed: ALTER TABLE.
    Alteration,
    /// CREATE TABLE.
    Creation,
    /// The name is of something else from here on, or of nothing: CREATE VIEW, RENAME, DROP.
    Redefinition,
}

/// A table that is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Created {
    /// Its columns, in their order.
    pub columns: Vec<Box<str>>,
    /// It may have others, and relatives: LIKE, INHERITS, PARTITION OF, OF.
    pub open: bool,
    /// It refers to other tables: REFERENCES.
    pub refers: bool,
    /// IF NOT EXISTS
    pub may_exist: bool,
    /// Columns whose defaults may have another value on each server. Sequences that are new count alike.
    pub varying: Vec<Box<str>>,
}

/// What a definition changes of tables that there are, as far as that tells where their rows are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a definition may do all of it"
)]
pub struct Reshape {
    /// Columns that are added or dropped, or renamed: by both names.
    pub columns: Vec<Box<str>>,
    /// Columns whose values are computed: `TYPE … USING`.
    pub computed: Vec<Box<str>>,
    /// Columns that get another type by a cast.
    pub typed: Vec<Box<str>>,
    /// Tables get another name, or are in another schema.
    pub names: bool,
    /// What inherits from what: partitions, too.
    pub families: bool,
    /// Foreign keys.
    pub references: bool,
    /// What depends on something goes with it.
    pub cascades: bool,
    /// Columns whose default is another one, or may have another value on each server.
    pub defaults: Vec<Box<str>>,
    /// Rows that are there get such values, or numbers that each server counts for itself.
    pub fills: bool,
}

/// A function as it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// None: the search path decides, `pg_catalog` first.
    pub schema: Option<Box<str>>,
    /// Without schema.
    pub name: Box<str>,
    /// Is there a built-in function of this name, and do all such change nothing and answer on a replica as on the primary?
    pub harmless: bool,
}

/// Why only the primary may run a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// `FOR UPDATE`, `FOR SHARE` and their kin, at any depth.
    LocksRows,
    /// It inserts, updates, deletes or merges, be it in a common table expression.
    ChangesData,
    /// `SELECT … INTO`.
    MakesTable,
    /// It names something in `pg_temp`, or makes a temporary table.
    Temporary,
    /// It reads a view whose rows tell of the server that is asked.
    ServerState(Box<str>),
    /// An operator that is not built in: its function may do anything.
    Operator(Box<str>),
    /// A construct that is not known here.
    Unknown,
}

/// Kinds of statements. What is never told apart has one variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SELECT, VALUES, TABLE; also `SELECT … INTO`, and with data-modifying WITH.
    Select,
    /// INSERT
    Insert,
    /// UPDATE
    Update,
    /// DELETE
    Delete,
    /// MERGE
    Merge,
    /// COPY
    Copy(Box<Copy>),
    /// BEGIN, START TRANSACTION
    Begin(Modes),
    /// COMMIT, END; `AND CHAIN`
    Commit {
        /// Another transaction begins.
        chain: bool,
    },
    /// ROLLBACK, ABORT; `AND CHAIN`
    Rollback {
        /// Another transaction begins.
        chain: bool,
    },
    /// SAVEPOINT
    Savepoint(Box<str>),
    /// RELEASE SAVEPOINT
    Release(Box<str>),
    /// ROLLBACK TO SAVEPOINT
    RollbackTo(Box<str>),
    /// PREPARE TRANSACTION and its identifier
    PrepareTransaction(Box<str>),
    /// COMMIT PREPARED
    CommitPrepared(Box<str>),
    /// ROLLBACK PREPARED
    RollbackPrepared(Box<str>),
    /// SET TRANSACTION
    SetTransaction(Modes),
    /// SET SESSION CHARACTERISTICS AS TRANSACTION
    SetSessionCharacteristics(Modes),
    /// SET
    Set(Box<Set>),
    /// SET CONSTRAINTS
    SetConstraints,
    /// RESET; of all without a name
    Reset(Option<Box<str>>),
    /// SHOW
    Show(Box<str>),
    /// EXPLAIN
    Explain {
        /// The statement is run.
        analyze: bool,
        /// What is explained.
        statement: Box<Statement>,
    },
    /// PREPARE of SQL
    Prepare {
        /// Its name.
        name: Box<str>,
        /// The types of its parameters that are named, in order, without schema; empty for one that is no plain built-in.
        types: Vec<Box<str>>,
        /// What is prepared.
        statement: Box<Statement>,
    },
    /// EXECUTE of a prepared statement
    Execute {
        /// Its name.
        name: Box<str>,
        /// What its parameters are.
        arguments: Vec<Operand>,
    },
    /// DEALLOCATE; of all without a name
    Deallocate(Option<Box<str>>),
    /// DECLARE CURSOR
    Declare {
        /// Its name.
        cursor: Box<str>,
        /// It outlives the transaction.
        hold: bool,
        /// Its query.
        statement: Box<Statement>,
    },
    /// FETCH, MOVE
    Fetch(Box<str>),
    /// CLOSE; all without a name
    Close(Option<Box<str>>),
    /// LISTEN
    Listen(Box<str>),
    /// UNLISTEN; all without a name
    Unlisten(Option<Box<str>>),
    /// NOTIFY
    Notify(Box<str>),
    /// LOCK TABLE
    Lock,
    /// TRUNCATE
    Truncate,
    /// CALL
    Call,
    /// DO
    Do,
    /// DISCARD
    Discard,
    /// CREATE TABLE AS, CREATE MATERIALIZED VIEW
    CreateTableAs(Box<Statement>),
    /// Other definitions: CREATE, ALTER, DROP, GRANT, COMMENT …
    Ddl {
        /// It cannot run in a transaction block: `CONCURRENTLY`, databases, tablespaces.
        alone: bool,
    },
    /// VACUUM, REINDEX, CLUSTER, ANALYZE
    Maintenance {
        /// It cannot run in a transaction block.
        alone: bool,
    },
    /// CHECKPOINT, LOAD, ALTER SYSTEM: of one server, not of the database
    Server,
}

impl Kind {
    /// The statement within this one.
    pub fn inner(&self) -> Option<&Statement> {
        match self {
            Self::Explain { statement, .. }
            | Self::Prepare { statement, .. }
            | Self::Declare { statement, .. }
            | Self::CreateTableAs(statement) => Some(statement),
            Self::Copy(copy) => copy.query.as_deref(),
            _ => None,
        }
    }

    /// DECLARE, FETCH, MOVE, CLOSE
    pub fn is_of_cursors(&self) -> bool {
        matches!(self, Self::Declare { .. } | Self::Fetch(_) | Self::Close(_))
    }

    /// Does it begin, divide or end transactions, or set what holds for one or for the session?
    pub fn is_of_transactions(&self) -> bool {
        matches!(
            self,
            Self::Begin(_)
                | Self::Commit { .. }
                | Self::Rollback { .. }
                | Self::Savepoint(_)
                | Self::Release(_)
                | Self::RollbackTo(_)
                | Self::SetTransaction(_)
                | Self::SetSessionCharacteristics(_)
                | Self::SetConstraints
                | Self::Set(_)
                | Self::Reset(_)
                | Self::Discard
        )
    }

    /// Does it change which tables, columns or functions there are?
    pub fn defines(&self) -> bool {
        matches!(self, Self::Ddl { .. } | Self::CreateTableAs(_))
    }

    /// SELECT, INSERT, UPDATE, DELETE or MERGE.
    pub fn is_query(&self) -> bool {
        matches!(
            self,
            Self::Select | Self::Insert | Self::Update | Self::Delete | Self::Merge
        )
    }
}

/// COPY; its table is the first of the statement's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// FROM, into the table.
    pub from: bool,
    /// STDIN or STDOUT, and no file or program of the server.
    pub stream: bool,
    /// The columns named; none named means all.
    pub columns: Vec<Box<str>>,
    /// `COPY (query) TO`.
    pub query: Option<Box<Statement>>,
    /// Options by name, in lower case; those of the old syntax are translated.
    pub options: Vec<(Box<str>, CopyOption)>,
    /// There is a WHERE clause.
    pub filtered: bool,
}

/// What stands behind the name of an option of COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyOption {
    /// Nothing.
    Nothing,
    /// A word or string.
    Word(Box<str>),
    /// A number.
    Number(Box<str>),
    /// `*`.
    Every,
    /// A list of columns.
    List(Vec<Box<str>>),
}

impl CopyOption {
    /// What a server takes it for where it is one text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Word(text) | Self::Number(text) => Some(text),
            Self::Every => Some("*"),
            Self::Nothing | Self::List(_) => None,
        }
    }
}

/// SET of a parameter, or of several by one name (`TIME ZONE`, `NAMES`, `ROLE`, `SESSION AUTHORIZATION`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// In lower case.
    pub name: Box<str>,
    /// SET LOCAL.
    pub local: bool,
    /// A list's elements; none for DEFAULT.
    pub values: Vec<Box<str>>,
}

/// Modes of a transaction. None: not mentioned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// READ ONLY or READ WRITE.
    pub read_only: Option<bool>,
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
    /// DEFERRABLE or NOT DEFERRABLE.
    pub deferrable: Option<bool>,
}

impl Modes {
    /// These, and where they say nothing the earlier ones.
    #[must_use]
    pub fn over(self, earlier: Self) -> Self {
        Self {
            read_only: self.read_only.or(earlier.read_only),
            isolation: self.isolation.or(earlier.isolation),
            deferrable: self.deferrable.or(earlier.deferrable),
        }
    }

    /// SET TRANSACTION with these. `None`: it says nothing.
    pub fn statement(self) -> Option<Vec<u8>> {
        let isolation = self.isolation.map(|level| match level {
            Isolation::ReadCommitted => "ISOLATION LEVEL READ COMMITTED",
            Isolation::RepeatableRead => "ISOLATION LEVEL REPEATABLE READ",
            Isolation::Serializable => "ISOLATION LEVEL SERIALIZABLE",
        });
        let read_only = self.read_only.map(|only| match only {
            true => "READ ONLY",
            false => "READ WRITE",
        });
        let deferrable = self.deferrable.map(|deferrable| match deferrable {
            true => "DEFERRABLE",
            false => "NOT DEFERRABLE",
        });
        let modes = [isolation, read_only, deferrable];
        let modes: Vec<_> = modes.into_iter().flatten().collect();
        let says = !modes.is_empty();
        says.then(|| format!("SET TRANSACTION {}", modes.join(", ")).into_bytes())
    }

    /// Those that a setting is: `transaction_read_only` and its like, as far as the value is plain.
    pub fn of_setting(set: &Set) -> Self {
        let mut modes = Self::default();
        let [value] = &*set.values else {
            return modes;
        };
        let value = value.to_ascii_lowercase();
        let flag = match &*value {
            "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
            "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
            _ => None,
        };
        match &*set.name {
            "transaction_read_only" => modes.read_only = flag,
            "transaction_deferrable" => modes.deferrable = flag,
            "transaction_isolation" => {
                modes.isolation = match &*value {
                    "serializable" => Some(Isolation::Serializable),
                    "repeatable read" => Some(Isolation::RepeatableRead),
                    "read committed" | "read uncommitted" => Some(Isolation::ReadCommitted),
                    _ => None,
                };
            }
            _ => {}
        }
        modes
    }
}

/// Isolation levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// READ COMMITTED, and READ UNCOMMITTED, which PostgreSQL takes for it.
    ReadCommitted,
    /// REPEATABLE READ
    RepeatableRead,
    /// SERIALIZABLE, which no replica offers.
    Serializable,
}

impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LocksRows => f.write_str("locks rows"),
            Self::ChangesData => f.write_str("changes data"),
            Self::MakesTable => f.write_str("makes a table"),
            Self::Temporary => f.write_str("temporary table"),
            Self::ServerState(view) => write!(f, "{view} tells of one server"),
            Self::Operator(name) => write!(f, "operator {name} is not built in"),
            Self::Unknown => f.write_str("a construct that is not known"),
        }
    }
}

impl std::fmt::Display for Unparsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Syntax(message) => f.write_str(message),
            Self::TooDeep => f.write_str("nested too deeply"),
            Self::TooLong => f.write_str("too long"),
            Self::Encoding => f.write_str("encoding is not UTF-8"),
        }
    }
}
