//! What a statement asks of a database of several shards: where it runs, and what becomes of the replies.
//!
//! Whatever is not known to be right on several servers is refused.

use crate::balance::Want;
use crate::error::Error;
use crate::merge::plan::MergePlan;
use crate::merge::refused;
use crate::sql::across::{Across, Asked, Of};
use crate::sql::asked::Asking;
use crate::sql::insert_rows::InsertPart;
use crate::sql::statement::{Kind, Modes, Need, Statement};

use super::copy::Copying;
use super::echo::Echo;
use super::moves::Moving;
use super::reshape::Reshaping;
use super::values::Argument;

/// What to do for a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// BEGIN with these modes: no server needs to know yet.
    Begin(Modes),
    /// COMMIT
    Commit {
        /// Another transaction begins.
        chain: bool,
    },
    /// ROLLBACK
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
    /// What holds until the end of the transaction, on all its servers: SET LOCAL, SET TRANSACTION. With the modes that it
    /// gives the transaction.
    Transaction(Modes),
    /// What holds for the session: SET, RESET, DISCARD.
    Session,
    /// A setting of ours, which servers need not know.
    Ours,
    /// PREPARE of SQL: the statement is routed whenever it is executed.
    Prepare {
        /// Its name.
        name: Box<str>,
        /// The shard that a hint names.
        shard: Option<usize>,
    },
    /// DEALLOCATE; of all without a name. Servers have nothing of it.
    Deallocate(Option<Box<str>>),
    /// DECLARE of a cursor over several shards.
    Declare {
        /// Its name.
        cursor: Box<str>,
        /// The query whose rows it fetches.
        query: Box<[u8]>,
    },
    /// FETCH of so many rows of such a cursor; `None`: of all.
    Fetch {
        /// Its name.
        cursor: Box<str>,
        /// Rows, at least 1.
        rows: Option<u64>,
    },
    /// CLOSE of such a cursor; of all cursors without a name.
    Close(Option<Box<str>>),
    /// Everything else.
    Run(Box<Run>),
}

/// A statement that servers run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// On which.
    pub place: Place,
    /// What they are told instead of the client's text.
    pub text: Option<Box<[u8]>>,
    /// What each is told, in the order of the place; empty: all the same.
    pub parts: Vec<InsertPart>,
    /// What becomes of their replies, where there are several.
    pub merge: MergePlan,
    /// What several servers do is done by all of them or by none.
    pub together: bool,
    /// What its server is for.
    pub want: Want,
    /// What EXPLAIN tells of the routing.
    pub notes: Vec<String>,
    /// It is a COPY.
    pub copying: Option<Copying>,
    /// It is an EXECUTE.
    pub executed: Option<Box<Executed>>,
    /// It gives a row a key of another shard.
    pub moving: Option<Box<Moving>>,
    /// Other statements are run before it, whose rows it needs. It is a SELECT then.
    pub gathering: Option<Box<Across>>,
    /// It is one of those.
    pub part: Option<SelectPart>,
    /// It is an INSERT that the first server does, and the others store its rows.
    pub echo: Option<Box<Echo>>,
    /// It may make other tables of some that have rows.
    pub reshaping: Option<Box<Reshaping>>,
    /// A server of the place is to be asked first; then it is another statement.
    pub asking: Option<Box<Asking>>,
    /// A server is to see the client's own text before: it may find something wrong that `text` does not have.
    pub unchecked: bool,
    /// How it is run instead where the columns turn out to have types that cannot be compared here.
    pub apart: Option<Box<Across>>,
}

/// A part of a SELECT that is run in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectPart {
    /// Types of all parameters of the client's statement.
    pub types: Vec<u32>,
    /// Its rows are for another part, and so they are text.
    pub gathered: bool,
}

/// A prepared statement, which servers get together with its EXECUTE, and forget with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Made by PREPARE, of which `definition` is what follows the name; otherwise it is the content of a Parse.
    pub by_sql: bool,
    /// What is prepared.
    pub definition: Vec<u8>,
    /// EXECUTE, as far as the name.
    pub head: Vec<u8>,
    /// What follows it.
    pub tail: Vec<u8>,
    /// What its parameters are.
    pub arguments: Vec<Argument>,
}

/// Which shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Any one: each would answer the same. It is the same one for a client.
    Any,
    /// The same, and each time another, so that all have their share.
    Balanced,
    /// Those that the transaction has, or any.
    Joined,
    /// These, in order, at least one.
    These(Vec<usize>),
    /// Each.
    All,
}

impl Place {
    /// The one shard, if it is one that is named.
    pub fn single(&self) -> Option<usize> {
        match self {
            Self::These(shards) => match **shards {
                [shard] => Some(shard),
                _ => None,
            },
            _ => None,
        }
    }

    /// How many of so many shards.
    pub fn count(&self, shards: usize) -> usize {
        match self {
            Self::Any | Self::Balanced | Self::Joined => 1,
            Self::These(these) => these.len(),
            Self::All => shards,
        }
    }
}

impl Verdict {
    /// Does it begin, divide or end transactions?
    pub fn is_control(&self) -> bool {
        !matches!(
            self,
            Self::Run(_)
                | Self::Session
                | Self::Transaction(_)
                | Self::Ours
                | Self::Prepare { .. }
                | Self::Deallocate(_)
                | Self::Declare { .. }
                | Self::Fetch { .. }
                | Self::Close(_)
        )
    }
}

impl Run {
    /// The same on every shard, and all or none unless it has to be `alone` in its transaction.
    pub fn everywhere(alone: bool) -> Self {
        Self {
            merge: MergePlan::utility(),
            together: !alone,
            ..Self::at(Place::All)
        }
    }

    /// The same on whatever servers the transaction has.
    pub fn joined() -> Self {
        Self {
            place: Place::Joined,
            ..Self::everywhere(false)
        }
    }

    /// Does the client send rows?
    pub fn copies_in(&self) -> bool {
        matches!(self.copying, Some(Copying::In(_)))
    }

    /// On one server, be it any.
    pub fn at(place: Place) -> Self {
        Self {
            place,
            text: None,
            parts: Vec::new(),
            merge: MergePlan::concatenate(),
            together: false,
            want: Want::Write,
            notes: Vec::new(),
            copying: None,
            executed: None,
            moving: None,
            gathering: None,
            part: None,
            echo: None,
            reshaping: None,
            asking: None,
            unchecked: false,
            apart: None,
        }
    }

    /// One of the statements that a SELECT consists of.
    pub fn asked(asked: &Asked, part: SelectPart, want: Want) -> Self {
        let place = match asked.of {
            Of::EveryShard => Place::All,
            Of::AnyShard => Place::Any,
        };
        Self {
            text: Some(asked.text.as_bytes().into()),
            merge: asked.plan.clone(),
            part: Some(part),
            want,
            ..Self::at(place)
        }
    }
}

/// What a statement asks for. `query` routes SELECT, INSERT, UPDATE, DELETE, MERGE and COPY; `joined` are the servers that
/// the transaction has.
///
/// Errors: it cannot be done, and why.
pub fn verdict(
    statement: &Statement,
    joined: usize,
    query: &mut dyn FnMut(&Statement) -> Result<Run, Error>,
) -> Result<Verdict, Error> {
    if matches!(statement.needs_primary, Some(Need::Temporary)) && !statement.kind.is_query() {
        return Err(refused("a temporary table"));
    }
    Ok(match &statement.kind {
        Kind::Begin(modes) => Verdict::Begin(*modes),
        Kind::Commit { chain } => Verdict::Commit { chain: *chain },
        Kind::Rollback { chain } => Verdict::Rollback { chain: *chain },
        Kind::Savepoint(name) => Verdict::Savepoint(name.clone()),
        Kind::Release(name) => Verdict::Release(name.clone()),
        Kind::RollbackTo(name) => Verdict::RollbackTo(name.clone()),
        Kind::SetTransaction(modes) => Verdict::Transaction(*modes),
        Kind::SetConstraints => Verdict::Transaction(Modes::default()),
        Kind::Set(set) if set.name.starts_with("pgdog.") => Verdict::Ours,
        Kind::Reset(Some(name)) if name.starts_with("pgdog.") => Verdict::Ours,
        Kind::Set(set) if set.local => Verdict::Transaction(Modes::of_setting(set)),
        Kind::Set(_) | Kind::Reset(_) | Kind::SetSessionCharacteristics(_) | Kind::Discard => {
            Verdict::Session
        }
        Kind::Show(_) => Verdict::Run(Box::new(Run::at(Place::Any))),
        Kind::Select | Kind::Insert | Kind::Update | Kind::Delete | Kind::Merge | Kind::Copy(_) => {
            Verdict::Run(Box::new(query(statement)?))
        }
        // Of a query it is planned with the query.
        Kind::Explain { .. } => return Err(refused("EXPLAIN")),
        Kind::Declare { statement, .. } if statement.kind.is_query() => {
            one_server(query(statement)?, "a cursor")?
        }
        Kind::Declare { .. } => return Err(refused("DECLARE CURSOR")),
        Kind::Fetch(_) | Kind::Close(_) if joined <= 1 => {
            Verdict::Run(Box::new(Run::at(Place::Joined)))
        }
        Kind::Fetch(_) | Kind::Close(_) => return Err(refused("a cursor")),
        Kind::Lock | Kind::Truncate => Verdict::Run(Box::new(Run::everywhere(false))),
        Kind::Ddl { alone } | Kind::Maintenance { alone } => {
            Verdict::Run(Box::new(Run::everywhere(*alone)))
        }
        Kind::CreateTableAs(_) => return Err(refused("CREATE TABLE AS")),
        Kind::PrepareTransaction(_) => return Err(refused("PREPARE TRANSACTION")),
        Kind::CommitPrepared(_) => return Err(refused("COMMIT PREPARED")),
        Kind::RollbackPrepared(_) => return Err(refused("ROLLBACK PREPARED")),
        // Of a query it is prepared, and executed, by its name.
        Kind::Prepare { .. } | Kind::Execute { .. } => return Err(refused("PREPARE as SQL")),
        Kind::Deallocate(name) => Verdict::Deallocate(name.clone()),
        Kind::Listen(_) | Kind::Unlisten(_) => return Err(refused("LISTEN")),
        Kind::Notify(_) => return Err(refused("NOTIFY")),
        Kind::Call => return Err(refused("CALL").hint(NAME_A_SHARD)),
        Kind::Do => return Err(refused("DO").hint(NAME_A_SHARD)),
        Kind::Server => return Err(refused("a command for one server").hint(NAME_A_SHARD)),
    })
}

/// For what may do anything, to any table.
const NAME_A_SHARD: &str =
    "name the shard that runs it: /* pgdog_shard: 0 */, or a key of its rows: /* pgdog_sharding_key: 4711 */";

fn one_server(run: Run, what: &str) -> Result<Verdict, Error> {
    match &run.place {
        Place::Any | Place::Balanced | Place::Joined => {}
        place if place.single().is_some() => {}
        Place::These(_) | Place::All => return Err(refused(what)),
    }
    let place = match run.place {
        Place::Balanced => Place::Any, // it stays where what follows can be, too
        place => place,
    };
    Ok(Verdict::Run(Box::new(Run {
        place,
        want: Want::Write,
        ..run
    })))
}
