//! Prepared statements: names of clients, statements they share, names on servers.
//!
//! A statement's name on a server is derived from what it is: text, types of parameters, and the settings that
//! PostgreSQL's parser reads. Cores need no registry, and a server connection that changes cores knows what it
//! has prepared. The hash is SHA-256, cut to 128 bits: clients are not trusted, and who could make two texts
//! with one hash could have others run the wrong one. It is computed once per core and text; after that a text
//! is found by its bytes.

mod moving;
pub mod server;

pub use moving::{MovedStatement, MovedStatements};

use std::borrow::Borrow;
use std::cell::OnceCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;
use crate::sql::lexer::Dialect;
use crate::sql::session::{effects, prepared_body, Effects};
use crate::types::shape::Shape;

/// PostgreSQL cuts names of statements and portals after this many bytes (`NAMEDATALEN - 1`).
const NAME_BYTES_MAX: usize = 63;

/// The name of a statement or portal as PostgreSQL keeps it: what is behind the 63rd byte means nothing.
pub fn kept_name(name: &[u8]) -> &[u8] {
    name.get(..NAME_BYTES_MAX).unwrap_or(name)
}

/// What a statement is, in 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u128);

/// A statement's name on servers: `__pgdog_` and 32 hexadecimal digits.
pub type ServerName = [u8; SERVER_NAME_BYTES];

/// Bytes of a server's name, without the terminating zero. PostgreSQL cuts names after 63.
pub const SERVER_NAME_BYTES: usize = PREFIX.len() + 32;

const PREFIX: &[u8; 8] = b"__pgdog_";

impl Id {
    /// The name on servers.
    pub fn server_name(self) -> ServerName {
        let mut name = [0; SERVER_NAME_BYTES];
        let (prefix, digits) = name.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX);
        for (digit, shift) in digits.iter_mut().zip((0..32_u32).rev()) {
            let nibble = (self.0 >> (4 * shift)) & 0xf;
            *digit = b"0123456789abcdef"
                .get(nibble as usize)
                .copied()
                .unwrap_or(b'0');
        }
        name
    }
}

/// A statement as it was prepared. Immutable, shared by all clients of a core that prepared the same.
#[derive(Debug)]
pub struct Statement {
    id: Id,
    /// `definition` and, behind it, the context.
    bytes: Box<[u8]>,
    definition: usize,
    text: usize,
    effects: OnceCell<Option<Rc<Effects>>>,
}

impl Statement {
    /// What it is.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Its name on servers.
    pub fn server_name(&self) -> ServerName {
        self.id.server_name()
    }

    /// What follows the name in `Parse`: text, zero, number of parameter types, their OIDs.
    ///
    /// Meaningless if [`Self::is_sql`].
    pub fn definition(&self) -> &[u8] {
        self.bytes.get(..self.definition).unwrap_or_default()
    }

    /// The query; of `PREPARE`, what follows the name: `(int) AS SELECT …`.
    pub fn text(&self) -> &[u8] {
        self.bytes.get(..self.text).unwrap_or_default()
    }

    /// Made by `PREPARE` and not by `Parse`.
    pub fn is_sql(&self) -> bool {
        self.definition().get(self.text + 1..) == Some(&SQL_MARK)
    }

    /// What it does to the session when it is executed; None if it is a plain query. The dialect must be part of the
    /// context that it was interned with.
    pub fn effects(&self, dialect: Dialect) -> Option<Rc<Effects>> {
        let found = self.effects.get_or_init(|| {
            let text = match self.is_sql() {
                true => prepared_body(self.text(), dialect)?,
                false => self.text(),
            };
            let effects = effects(text, dialect);
            (!effects.is_plain()).then(|| Rc::new(effects))
        });
        found.clone()
    }

    /// Bytes of it, with what it takes to keep it.
    pub fn size(&self) -> usize {
        self.bytes.len() + OVERHEAD_BYTES
    }
}

/// In place of the number of types, and without the types that such a number would need: the statement is one of
/// `PREPARE`.
const SQL_MARK: [u8; 2] = [0xff; 2];

/// What a statement takes besides its bytes, about: itself, its counters, its place in the table.
const OVERHEAD_BYTES: usize = 96;

/// The statements of one core: each text once.
///
/// A statement is dropped at the next sweep after its last client has let go of it; the server keeps it until
/// the server's own limit is met.
#[derive(Debug)]
pub struct Statements {
    kept: HashSet<Kept>,
    bytes: usize,
    bytes_max: usize,
    /// Unused statements are dropped when there are this many bytes.
    sweep_at: usize,
    /// To look up a definition together with its context.
    scratch: Vec<u8>,
}

/// Found by its bytes.
#[derive(Debug)]
struct Kept(Rc<Statement>);

impl Borrow<[u8]> for Kept {
    fn borrow(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.bytes.hash(state);
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for Kept {}

/// Less than this is not worth a sweep.
const SWEEP_MIN_BYTES: usize = 1024 * 1024;

impl Statements {
    /// None yet, and never more than this many bytes of them.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            kept: HashSet::new(),
            bytes: 0,
            bytes_max,
            sweep_at: SWEEP_MIN_BYTES.min(bytes_max),
            scratch: Vec::new(),
        }
    }

    /// The statement of a `Parse`: `definition` is what follows the name in it (`Parse::content`). `context` stands for the settings
    /// that the parser reads (`Settings::parse_context`), empty if the session has set none.
    ///
    /// Errors: 08P01 for a definition that is no such thing, 53200 if clients hold `bytes_max` already.
    pub fn intern(&mut self, definition: &[u8], context: &[u8]) -> Result<Rc<Statement>, Error> {
        let text = text_of(definition)
            .ok_or_else(|| Error::protocol_violation("malformed Parse message"))?;
        let mut scratch = std::mem::take(&mut self.scratch);
        let found = if context.is_empty() {
            self.find_or_add(definition, definition.len(), text)
        } else {
            scratch.clear();
            scratch.extend(definition);
            scratch.extend(context);
            self.find_or_add(&scratch, definition.len(), text)
        };
        scratch.shrink_to(SCRATCH_BYTES_MAX);
        self.scratch = scratch;
        found
    }

    /// The statement of an SQL `PREPARE`: `rest` is what follows its name, up to the end of the statement.
    ///
    /// Errors: as [`Self::intern`].
    pub fn intern_sql(&mut self, rest: &[u8], context: &[u8]) -> Result<Rc<Statement>, Error> {
        let mut bytes = Vec::with_capacity(rest.len() + 1 + SQL_MARK.len() + context.len());
        bytes.extend(rest);
        bytes.push(0);
        bytes.extend(SQL_MARK);
        let definition = bytes.len();
        bytes.extend(context);
        self.find_or_add(&bytes, definition, rest.len())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// All of them, in any order.
    pub fn iter(&self) -> impl Iterator<Item = &Rc<Statement>> {
        self.kept.iter().map(|kept| &kept.0)
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Bytes of all of them, with what it takes to keep them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `RESET PREPARED`: statements that no client has go, for as long as there are more than `most`.
    pub fn forget_unused(&mut self, most: usize) {
        let mut excess = self.kept.len().saturating_sub(most);
        self.kept.retain(|kept| {
            let goes = excess > 0 && Rc::strong_count(&kept.0) == 1;
            excess -= usize::from(goes);
            !goes
        });
        self.bytes = self.kept.iter().map(|kept| kept.0.size()).sum();
    }

    fn find_or_add(
        &mut self,
        bytes: &[u8],
        definition: usize,
        text: usize,
    ) -> Result<Rc<Statement>, Error> {
        if let Some(kept) = self.kept.get(bytes) {
            return Ok(Rc::clone(&kept.0));
        }
        let statement = Rc::new(Statement {
            id: id_of(bytes),
            bytes: bytes.into(),
            definition,
            text,
            effects: OnceCell::new(),
        });
        let size = statement.size();
        if self.bytes.saturating_add(size) > self.sweep_at {
            self.sweep();
        }
        if self.bytes.saturating_add(size) > self.bytes_max {
            let message = format!(
                "prepared statements need more than {} bytes",
                self.bytes_max
            );
            return Err(Error::error(
                Fault::Client,
                SqlState::OUT_OF_MEMORY,
                message,
            ));
        }
        self.bytes += size;
        self.kept.insert(Kept(Rc::clone(&statement)));
        Ok(statement)
    }

    /// Drops what no client holds. Each sweep waits until as much has been added as was left by the last.
    fn sweep(&mut self) {
        self.kept.retain(|kept| Rc::strong_count(&kept.0) > 1);
        self.bytes = self.kept.iter().map(|kept| kept.0.size()).sum();
        self.sweep_at = (2 * self.bytes).max(SWEEP_MIN_BYTES).min(self.bytes_max);
    }
}

/// A scratch buffer is not kept larger than this.
const SCRATCH_BYTES_MAX: usize = 4096;

/// The length of the text in a definition, if that is what it says it is.
fn text_of(definition: &[u8]) -> Option<usize> {
    let text = memchr::memchr(0, definition)?;
    let (count, types) = definition.get(text + 1..)?.split_first_chunk::<2>()?;
    let count = usize::from(u16::from_be_bytes(*count));
    (types.len() == 4 * count).then_some(text)
}

fn id_of(bytes: &[u8]) -> Id {
    let digest = Sha256::digest(bytes);
    let id = digest.first_chunk::<16>().copied().unwrap_or_default();
    Id(u128::from_be_bytes(id))
}

/// The prepared statements of one client, by the names that it gave them. 16 bytes while there are none.
///
/// The client's messages are taken at their word when they arrive, and may turn out to have failed or to have been
/// skipped after an error. So what they change is noted until the server has answered, and undone at ReadyForQuery
/// if it has not.
#[derive(Debug, Default)]
pub struct ClientStatements {
    names: Option<Box<Names>>,
    /// Syncs without their ReadyForQuery.
    syncs: u32,
}

#[derive(Debug)]
struct Names {
    statements: HashMap<Box<[u8]>, Named>,
    /// Was any of them described? Most drivers describe portals only, and nothing is looked up for them.
    any_told: bool,
    /// Changes without an answer, oldest first.
    unanswered: VecDeque<Change>,
}

#[derive(Debug)]
struct Named {
    statement: Rc<Statement>,
    /// What its rows were described like to the client, if they were.
    told: Option<Shape>,
}

#[derive(Debug)]
enum Change {
    Added(Box<[u8]>),
    Replaced(Box<[u8]>, Named),
    Removed(Box<[u8]>, Option<Named>),
    Cleared(HashMap<Box<[u8]>, Named>),
    /// It is being described; what was told before.
    Described(Box<[u8]>, Option<Shape>),
    Sync,
}

/// Names that one client may give, some 10 MB of them.
const NAMES_MAX: usize = 65_536;

impl ClientStatements {
    /// `Parse` or `PREPARE`: names a statement. The empty name may be given again and again.
    ///
    /// Errors: 42P05 if the client has a statement of this name, 53200 if it has 65,536; nothing is changed then.
    pub fn prepare(&mut self, name: &[u8], statement: Rc<Statement>) -> Result<(), Error> {
        let name = kept_name(name);
        let full = self.len() >= NAMES_MAX;
        let names = self.names();
        let named = Named {
            statement,
            told: None,
        };
        let change = match names.statements.entry(name.into()) {
            Entry::Vacant(_) if full => {
                return Err(Error::error(
                    Fault::Client,
                    SqlState::OUT_OF_MEMORY,
                    format!("a client may have {NAMES_MAX} prepared statements"),
                ));
            }
            Entry::Vacant(entry) => {
                entry.insert(named);
                Change::Added(name.into())
            }
            Entry::Occupied(mut entry) if name.is_empty() => {
                Change::Replaced(name.into(), entry.insert(named))
            }
            Entry::Occupied(_) => {
                return Err(Error::error(
                    Fault::Client,
                    SqlState::DUPLICATE_PREPARED_STATEMENT,
                    format!(
                        "prepared statement \"{}\" already exists",
                        String::from_utf8_lossy(name)
                    ),
                ));
            }
        };
        names.unanswered.push_back(change);
        Ok(())
    }

    /// Must answers come before it is known what this name means, or any name? So it is when a batch that gives it
    /// away or takes it back was sent and may fail; what the batch under way does is known.
    pub fn awaits(&self, name: Option<&[u8]>) -> bool {
        let name = name.map(kept_name);
        let Some(names) = &self.names else {
            return false;
        };
        let changes = &names.unanswered;
        if changes.len() == self.syncs as usize {
            return false;
        }
        let last_sync = changes.iter().rposition(|c| matches!(c, Change::Sync));
        let mut earlier = changes.iter().take(last_sync.unwrap_or_default());
        earlier.any(|change| match change {
            Change::Added(of) | Change::Replaced(of, _) | Change::Removed(of, _) => {
                name.is_none_or(|name| **of == *name)
            }
            Change::Cleared(_) => true,
            Change::Described(..) | Change::Sync => false,
        })
    }

    /// The statement of a name.
    ///
    /// Errors: 26000 if the client has none of this name.
    pub fn get(&self, name: &[u8]) -> Result<&Rc<Statement>, Error> {
        let found = self
            .names
            .as_ref()
            .and_then(|names| names.statements.get(kept_name(name)));
        let found = found.map(|named| &named.statement);
        found.ok_or_else(|| unknown(name))
    }

    /// Was the client told of any statement's rows?
    pub fn has_told(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.any_told)
    }

    /// The statement of this name, and what its rows were described like to the client. `None`: they were not, or are being
    /// described.
    pub fn told(&self, name: &[u8]) -> Option<(&Rc<Statement>, Shape)> {
        let names = self.names.as_ref().filter(|names| names.any_told)?;
        let named = names.statements.get(kept_name(name))?;
        Some((&named.statement, named.told?))
    }

    /// A server is asked to describe the statement of this name to the client.
    pub fn describing(&mut self, name: &[u8]) {
        let name = kept_name(name);
        let names = self.names();
        if let Some(named) = names.statements.get_mut(name) {
            let told = named.told.take();
            names.any_told = true;
            names
                .unanswered
                .push_back(Change::Described(name.into(), told));
        }
    }

    /// The oldest change without an answer has succeeded: the client was told what its rows are like.
    pub fn described(&mut self, shape: Shape) {
        let Some(names) = &mut self.names else { return };
        if let Some(Change::Described(name, _)) = names.unanswered.front() {
            if let Some(named) = names.statements.get_mut(name) {
                named.told = Some(shape);
            }
            names.unanswered.pop_front();
        }
    }

    /// `Close`, or `DEALLOCATE name`: the name is free again. Says if there was one; `Close` does not mind,
    /// `DEALLOCATE` answers [`unknown`].
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let name = kept_name(name);
        let names = self.names();
        let statement = names.statements.remove(name);
        let found = statement.is_some();
        let change = Change::Removed(name.into(), statement);
        names.unanswered.push_back(change);
        found
    }

    /// `DEALLOCATE ALL`, `DISCARD ALL`: what comes later in the pipeline is not touched.
    pub fn clear(&mut self) {
        let names = self.names();
        let statements = std::mem::take(&mut names.statements);
        names.unanswered.push_back(Change::Cleared(statements));
    }

    /// The oldest change without an answer has succeeded: ParseComplete, CloseComplete, CommandComplete; or we
    /// answered it ourselves. A change is a `prepare` that succeeded, each `remove`,
    /// each `clear` and each `describing` of a statement that there is.
    pub fn succeeded(&mut self) {
        if let Some(names) = &mut self.names {
            if !matches!(names.unanswered.front(), None | Some(Change::Sync)) {
                names.unanswered.pop_front();
            }
            self.shrink();
        }
    }

    /// `Sync` or `Query` came from the client.
    pub fn sync(&mut self) {
        self.syncs += 1;
        if let Some(names) = &mut self.names {
            names.unanswered.push_back(Change::Sync);
        }
    }

    /// ReadyForQuery came from the server: what has no answer up to the Sync was skipped, and is undone.
    pub fn ready(&mut self) {
        self.syncs = self.syncs.saturating_sub(1);
        let Some(Names {
            statements,
            unanswered,
            ..
        }) = self.names.as_deref_mut()
        else {
            return;
        };
        let sync = unanswered
            .iter()
            .position(|change| matches!(change, Change::Sync));
        let skipped = sync.map_or(0, |at| at + 1);
        // The newest first.
        for change in unanswered.drain(..skipped).rev() {
            match change {
                Change::Added(name) => {
                    statements.remove(&name);
                }
                Change::Replaced(name, statement) | Change::Removed(name, Some(statement)) => {
                    statements.insert(name, statement);
                }
                Change::Described(name, told) => {
                    if let Some(named) = statements.get_mut(&name) {
                        named.told = told;
                    }
                }
                Change::Cleared(cleared) => {
                    for (name, statement) in cleared {
                        statements.entry(name).or_insert(statement);
                    }
                }
                Change::Removed(_, None) | Change::Sync => {}
            }
        }
        self.shrink();
    }

    /// The server is gone amid a batch that has no Sync yet: what has no answer did not happen.
    pub fn abandoned(&mut self) {
        self.sync();
        self.ready();
    }

    /// How many Syncs and Queries have no ReadyForQuery yet.
    pub fn syncs(&self) -> u32 {
        self.syncs
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names
            .as_ref()
            .map_or(0, |names| names.statements.len())
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn names(&mut self) -> &mut Names {
        let syncs = self.syncs;
        self.names.get_or_insert_with(|| {
            Box::new(Names {
                statements: HashMap::new(),
                any_told: false,
                unanswered: (0..syncs).map(|_| Change::Sync).collect(),
            })
        })
    }

    /// Nothing to keep takes no room.
    fn shrink(&mut self) {
        if let Some(names) = &self.names {
            if names.statements.is_empty() && names.unanswered.is_empty() {
                self.names = None;
            }
        }
    }
}

/// `prepared statement "…" does not exist`, 26000.
pub fn unknown(name: &[u8]) -> Error {
    Error::error(
        Fault::Client,
        SqlState::INVALID_SQL_STATEMENT_NAME,
        format!(
            "prepared statement \"{}\" does not exist",
            String::from_utf8_lossy(name)
        ),
    )
}

#[cfg(test)]
mod tests;
