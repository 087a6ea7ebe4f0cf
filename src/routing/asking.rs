//! Which values a statement has of servers, so that one of them is to be asked first.
//!
//! A change that every shard does says `now()`, or leaves a column to a default that counts or throws dice: each shard would store
//! something else. The key of a row is left to such a default, or is an expression: nobody knows where the row belongs.

use std::ops::Range;

use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;
use crate::session::RECALL_HINT;
use crate::sharding::{KeyType, ShardedColumn};
use crate::sql::asked::{as_text, calls, known, Asking, Draft, Known};
use crate::sql::gaps::{edits, value_at, Missing};
use crate::sql::insert_rows::InsertRows;
use crate::sql::keys::{Change, Operand, Overriding, Reference, Rows, Write};
use crate::sql::lexer::{Dialect, Lexer};
use crate::sql::statement::{Copy, Function, Kind as Command, Statement};

use super::defined::Defined;
use super::moves::parameters;
use super::primary_key::{gap, given_at};
use super::role::Catalogue;
use super::route::{Maker, Schema, TableColumn};

/// A statement's text, and how it is read.
pub type Text<'t> = (&'t [u8], Dialect);

/// Columns that are missing.
type Lacking<'c> = Vec<(Missing<'c>, &'c TableColumn)>;

/// Has each server an answer of its own to this function, of which all can be given the same?
pub(super) fn is_asked(function: &Function) -> bool {
    let built_in = matches!(function.schema.as_deref(), None | Some("pg_catalog"));
    built_in && known(&function.name).is_some()
}

/// Does it answer anew with every call, so that it is only asked for a value of an INSERT's rows?
pub(super) fn is_volatile(function: &Function) -> bool {
    known(&function.name).is_some_and(|known| !known.stable)
}

/// Has each server an answer of its own to this function, which changes nothing? It is about connections, or numbers of the catalogue.
pub(super) fn is_of_server(function: &Function) -> bool {
    let built_in = matches!(function.schema.as_deref(), None | Some("pg_catalog"));
    let name = &*function.name;
    built_in && OF_SERVERS.contains(&name)
}

/// Functions of PostgreSQL's of that kind.
///
/// Source: PostgreSQL's documentation, "System Information Functions and Operators".
const OF_SERVERS: [&str; 12] = [
    "inet_client_addr",
    "inet_client_port",
    "to_regclass",
    "to_regcollation",
    "to_regnamespace",
    "to_regoper",
    "to_regoperator",
    "to_regproc",
    "to_regprocedure",
    "to_regrole",
    "to_regtype",
    "to_regtypemod",
];

/// Is it about what sequences have done in the session?
pub fn recalls(statement: &Statement) -> bool {
    let mut functions = statement.functions.iter();
    functions
        .any(|function| is_asked(function) && known(&function.name).is_some_and(Known::recalls))
}

/// May a statement take numbers from sequences of the servers that run it?
pub fn may_count(statement: &Statement, schema: &dyn Schema, functions: &Catalogue) -> bool {
    let mut called = statement.functions.iter();
    let calls = called.any(|function| match is_asked(function) {
        true => *function.name == *"nextval",
        false => !functions.function_is_harmless(function),
    });
    let of_sequences = |column: &TableColumn| column.maker != Maker::Nothing && !column.generated;
    let leaves = |write: &Write| {
        let columns = columns_of(write, statement, schema);
        let inserts = matches!(write.change, Change::Insert { .. } | Change::Merge { .. });
        let missing = missing(write, columns, of_sequences);
        inserts && (columns.is_empty() || missing.map_or(true, |missing| !missing.is_empty()))
    };
    let writes = statement.keys.iter().flat_map(|keys| &keys.writes);
    let by_name = matches!(statement.kind, Command::Execute { .. } | Command::Copy(_));
    calls || by_name || writes.clone().any(leaves)
}

/// Does it call functions that may change something, other than those of which servers are asked?
pub fn calls_others(statement: &Statement, functions: &Catalogue) -> bool {
    let mut called = statement.functions.iter();
    called.any(|function| !is_asked(function) && !functions.function_is_harmless(function))
}

/// What is to be asked where sequences have counted before a statement is run elsewhere that wants to know what they have done.
///
/// Errors: it does not say so plainly (0A000).
pub fn recalled(statement: &Statement, (text, dialect): Text<'_>) -> Result<Asking, Error> {
    let mut draft = Draft::new(text, dialect);
    let calls = calls(text, dialect);
    for call in calls.iter().filter(|call| call.known.recalls()) {
        if !call.constant {
            return Err(recalled_elsewhere(statement));
        }
        draft.call(call);
    }
    draft.finish()?.ok_or_else(|| recalled_elsewhere(statement))
}

/// Why a statement is not run that wants to know what sequences have done, if they have on several shards.
pub fn recalled_elsewhere(statement: &Statement) -> Error {
    let name = recalling(statement);
    refused(&format!("{name}() here, after sequences of other shards,"))
        .hint("RETURNING tells what an INSERT has stored")
}

/// The same outside of a transaction.
pub fn recalled_alone(statement: &Statement) -> Error {
    let name = recalling(statement);
    let text = format!("{name}() outside of the transaction that has counted is not defined");
    let code = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
    Error::error(Fault::Client, code, text).hint(RECALL_HINT)
}

/// The function by which it wants to know that.
fn recalling(statement: &Statement) -> &str {
    let mut functions = statement.functions.iter();
    let function = functions.find(|function| known(&function.name).is_some_and(Known::recalls));
    function.map_or("", |function| &*function.name)
}

/// Is it about sequences, which are those of the first shard?
pub(super) fn is_of_sequences(function: &Function) -> bool {
    matches!(&*function.name, "nextval" | "currval" | "lastval")
}

/// Is this INSERT the statement itself, and are its rows in its text?
pub(super) fn has_rows(write: &Write, writes: &[Write]) -> bool {
    let values = |rows: &Rows| matches!(rows, Rows::Values { .. } | Rows::Defaults);
    let inserts = matches!(&write.change, Change::Insert { rows, .. } if values(rows));
    inserts && write.level == 0 && writes.len() == 1
}

/// What is to be asked before a change that several shards do alike. `None`: nothing.
///
/// Errors: a value that is not the same everywhere stands where it cannot be told (0A000).
pub fn everywhere(
    statement: &Statement,
    (text, dialect): Text<'_>,
    schema: &dyn Schema,
    defined: &Defined,
) -> Result<Option<Asking>, Error> {
    let Some(keys) = statement.keys.as_deref() else {
        return Ok(None);
    };
    let rows = InsertRows::find(text, dialect);
    let rows = rows.as_ref().map_or(&[][..], InsertRows::ranges);
    let mut draft = Draft::new(text, dialect);
    let recalls = add_calls(&mut draft, statement, (text, dialect), rows)?;
    let tail = within(text, rows.last().map_or(0, |row| row.end)..text.len());
    for write in &keys.writes {
        let missing = left_to_defaults(write, statement, (tail, dialect), schema, defined)?;
        let counts = |(_, column): &(Missing<'_>, &TableColumn)| column.maker == Maker::Sequence;
        if let Some(name) = recalls.filter(|_| missing.iter().any(counts)) {
            return Err(by_function(name)); // which of them is first?
        }
        keeps_identities(write, columns_of(write, statement, schema))?;
        add(&mut draft, (text, dialect), &missing)?;
    }
    draft.finish()
}

/// Adds what is called of functions that differ from server to server. Tells which of them asks what sequences have done.
fn add_calls(
    draft: &mut Draft<'_>,
    statement: &Statement,
    (text, dialect): Text<'_>,
    rows: &[Range<usize>],
) -> Result<Option<&'static str>, Error> {
    let calls = calls(text, dialect);
    let unseen = |function: &&Function| {
        let mut found = calls.iter().map(|call| call.known.name());
        is_asked(function) && !found.any(|name| *name == *function.name)
    };
    if let Some(function) = statement.functions.iter().find(unseen) {
        return Err(by_function(&function.name));
    }
    let mut recalls = None;
    for call in &calls {
        let row = rows.iter().find(|row| row.contains(&call.place.start));
        let once = row.is_some_and(|row| !has_query(within(text, row.clone()), dialect));
        match call.known.stable {
            // Of one server.
            true if call.returned => continue,
            stable if call.constant && (stable || once) => {}
            _ => return Err(by_function(call.known.name())),
        }
        if call.known.recalls() {
            recalls = Some(call.known.name());
        }
        draft.call(call);
    }
    Ok(recalls)
}

/// The columns that a change leaves to defaults that differ from server to server. `tail`: what follows the rows of an INSERT.
///
/// Errors: one of them cannot be given a value in this form, or nobody knows what its default is.
fn left_to_defaults<'s>(
    write: &Write,
    statement: &Statement,
    (tail, dialect): Text<'_>,
    schema: &'s dyn Schema,
    defined: &Defined,
) -> Result<Lacking<'s>, Error> {
    let keys = statement.keys.as_deref();
    let writes = keys.map_or(&[][..], |keys| &keys.writes);
    let reference = keys.and_then(|keys| keys.references.get(usize::from(write.target)));
    let adds = matches!(write.change, Change::Insert { .. } | Change::Merge { .. });
    let varies_below = |one: &Reference| schema.below(one.schema.as_deref(), &one.name).varies;
    if adds && reference.is_some_and(varies_below) {
        let what = "a change of an omnisharded table with such defaults through a view";
        return Err(refused(what));
    }
    let made = reference.map_or(&[][..], |reference| defined.defaults(&reference.name));
    if let Some(column) = made.iter().find(|column| may_be_missing(write, column)) {
        return Err(by_default(column));
    }
    let columns = columns_of(write, statement, schema);
    let set = |column: &&TableColumn| {
        varies(column) && may_set_default(write, &column.name, tail, dialect)
    };
    if let Some(column) = columns.iter().find(set) {
        return Err(by_default(&column.name));
    }
    let missing = missing(write, columns, varies).map_err(|column| by_default(&column.name))?;
    match missing.first() {
        Some((_, column)) if !has_rows(write, writes) => Err(by_default(&column.name)),
        _ => Ok(missing),
    }
}

/// What is to be asked before an INSERT whose rows have keys of this column that nobody knows yet.
///
/// Errors: they cannot be told before the rows are there (0A000).
pub fn key(
    statement: &Statement,
    (text, dialect): Text<'_>,
    schema: &dyn Schema,
    (column, defined): (&ShardedColumn, &Defined),
) -> Result<Asking, Error> {
    let refusal = || {
        refused(&format!(
            "this form of the sharding key \"{}\"",
            column.column
        ))
    };
    let keys = statement.keys.as_deref().ok_or_else(refusal)?;
    let write = keys
        .writes
        .first()
        .filter(|write| has_rows(write, &keys.writes));
    let write = write.ok_or_else(refusal)?;
    let columns = columns_of(write, statement, schema);
    let is_key = |known: &TableColumn| *known.name == *column.column;
    let mut draft = Draft::new(text, dialect);
    let missing = missing(write, columns, is_key).map_err(|_| refusal())?;
    let table = keys.references.get(usize::from(write.target));
    let another = table.map_or(&[][..], |table| defined.defaults(&table.name));
    if !missing.is_empty() && another.iter().any(|name| **name == *column.column) {
        let what = "the default of a sharding key, which its transaction has changed,";
        return Err(refused(what));
    }
    keeps_identities(write, columns)?;
    add(&mut draft, (text, dialect), &missing)?;
    if let Change::Insert {
        columns: named,
        rows: Rows::Values { width, operands },
        ..
    } = &write.change
    {
        let at = match named.is_empty() {
            true => columns.iter().position(is_key),
            false => named.iter().position(|name| **name == *column.column),
        };
        let rows = InsertRows::find(text, dialect).ok_or_else(refusal)?;
        let lists = operands.chunks((*width).max(1));
        for (row, range) in lists.zip(rows.ranges()) {
            let Some(at) = at.filter(|at| row.get(*at) == Some(&Operand::Other)) else {
                continue;
            };
            let place = value_at(text, dialect, range, at).ok_or_else(refusal)?;
            let written = within(text, place.clone());
            if has_query(written, dialect) || parameters(written, dialect).next().is_some() {
                return Err(refusal());
            }
            draft.value(place, type_of(column.key_type));
        }
    }
    draft.finish()?.ok_or_else(refusal)
}

/// The columns of what is written to, as far as they are known.
fn columns_of<'s>(
    write: &Write,
    statement: &Statement,
    schema: &'s dyn Schema,
) -> &'s [TableColumn] {
    let keys = statement.keys.as_deref();
    let reference = keys.and_then(|keys| keys.references.get(usize::from(write.target)));
    let columns = reference.and_then(|one| schema.columns(one.schema.as_deref(), &one.name));
    columns.unwrap_or_default()
}

/// Does a default give each server a value of its own?
pub(super) fn varies(column: &TableColumn) -> bool {
    let default = column.default.as_deref();
    !column.generated && default.is_some_and(|default| default.varies)
}

/// The columns of these that a change leaves to their defaults. Errors: one of them, in a form in which its value cannot be told.
fn missing<'c>(
    write: &Write,
    columns: &'c [TableColumn],
    wanted: impl Fn(&TableColumn) -> bool,
) -> Result<Lacking<'c>, &'c TableColumn> {
    let may_lack = |position| match &write.change {
        Change::Insert {
            columns,
            rows: Rows::Select { outputs, .. },
            ..
        } => columns.is_empty() && outputs.may_lack(position),
        _ => false,
    };
    let mut found = Vec::new();
    let all = columns.iter().enumerate();
    for (position, column) in all.filter(|(_, column)| wanted(column)) {
        match gap(write, &column.name, position) {
            None if may_lack(position) => return Err(column),
            None => {}
            Some(None) => return Err(column),
            Some(Some(gap)) => {
                let name = &*column.name;
                found.push((Missing { column: name, gap }, column));
            }
        }
    }
    Ok(found)
}

/// Is the table that an INSERT is for one whose columns are known?
pub fn target_is_known(statement: &Statement, schema: &dyn Schema) -> bool {
    let keys = statement.keys.as_deref();
    let mut writes = keys.into_iter().flat_map(|keys| &keys.writes);
    writes.all(|write| !columns_of(write, statement, schema).is_empty())
}

/// May a change leave a column to its default of which it is not known where it is?
fn may_be_missing(write: &Write, column: &str) -> bool {
    let unnamed = matches!(&write.change, Change::Insert { columns, .. } if columns.is_empty());
    unnamed || gap(write, column, 0).is_some()
}

/// Would a COPY of the same rows to several servers, into a table with these columns, store the same on each? `made`: those whose
/// defaults the open transaction has changed.
///
/// Errors: not for sure (0A000).
pub fn copied(
    statement: &Statement,
    copy: &Copy,
    (text, dialect): Text<'_>,
    (columns, made): (&[TableColumn], &[Box<str>]),
    functions: &Catalogue,
) -> Result<(), Error> {
    let named = |column: &str| {
        let mut named = copy.columns.iter();
        copy.columns.is_empty() || named.any(|name| **name == *column)
    };
    let marked = copy.options.iter().any(|(name, _)| **name == *"default");
    let varying = columns.iter().filter(|column| varies(column));
    let mut varying = varying.map(|column| &column.name).chain(made);
    if let Some(column) = varying.find(|column| marked || !named(column)) {
        return Err(by_default(column));
    }
    let mut called = statement.functions.iter();
    let differs =
        |function: &&Function| is_of_server(function) || !functions.function_is_harmless(function);
    let other = called.find(differs);
    let calls = match copy.filtered {
        true => calls(text, dialect),
        false => Vec::new(),
    };
    let own = calls.first().map(|call| call.known.name());
    match own.or_else(|| other.map(|function| &*function.name)) {
        Some(name) => Err(by_function(name)),
        None => Ok(()),
    }
}

/// May an UPDATE, on its own or within another change, set this column to DEFAULT? `tail`: what follows the rows of an INSERT.
fn may_set_default(write: &Write, column: &str, tail: &[u8], dialect: Dialect) -> bool {
    let named = |sets: &[Box<str>]| sets.iter().any(|set| **set == *column);
    match &write.change {
        Change::Update { sets } => {
            let mut sets = sets.iter();
            sets.any(|(set, value)| **set == *column && *value == Operand::Default)
        }
        Change::Insert {
            conflict_sets: sets,
            ..
        }
        | Change::Merge { sets, .. } => {
            let mut tokens = Lexer::new(tail, dialect);
            named(sets) && tokens.any(|token| token.is_word(tail, "default"))
        }
        Change::Delete => false,
    }
}

/// What PostgreSQL says of an INSERT that gives a value to an identity that is always its own: once values of ours stand beside it,
/// with the OVERRIDING that they need, no server would say it.
fn keeps_identities(write: &Write, columns: &[TableColumn]) -> Result<(), Error> {
    let Change::Insert {
        columns: named,
        rows: Rows::Values { width, operands },
        overriding: Overriding::Nothing,
        ..
    } = &write.change
    else {
        return Ok(());
    };
    let given = |(position, column): &(usize, &TableColumn)| {
        let at = given_at(named, &column.name, *position);
        let mut rows = operands.chunks((*width).max(1));
        let value = |row: &[Operand]| at.and_then(|at| row.get(at)) != Some(&Operand::Default);
        column.always && at.is_some_and(|at| at < *width) && rows.any(value)
    };
    match columns.iter().enumerate().find(given) {
        None => Ok(()),
        Some((_, TableColumn { name, .. })) => {
            let text = format!("cannot insert a non-DEFAULT value into column \"{name}\"");
            let error = Error::error(Fault::Client, SqlState::GENERATED_ALWAYS, text);
            let detail =
                format!("Column \"{name}\" is an identity column defined as GENERATED ALWAYS.");
            Err(error
                .detail(detail)
                .hint("Use OVERRIDING SYSTEM VALUE to override."))
        }
    }
}

/// The type whose values keys of this type are; that of vectors is in a schema of the database's choice.
fn type_of(key_type: KeyType) -> Option<&'static str> {
    match key_type {
        KeyType::Bigint => Some("int8"),
        KeyType::Uuid => Some("uuid"),
        KeyType::Varchar => Some("text"),
        KeyType::Vector => None,
    }
}

/// Adds the values of these columns to what is asked.
fn add(
    draft: &mut Draft<'_>,
    (text, dialect): Text<'_>,
    lacking: &Lacking<'_>,
) -> Result<(), Error> {
    let Some((_, first)) = lacking.first() else {
        return Ok(());
    };
    let missing: Vec<Missing<'_>> = lacking.iter().map(|(missing, _)| *missing).collect();
    let overrides = lacking.iter().any(|(_, column)| column.always);
    let expressions = lacking.iter().map(|(_, column)| {
        let default = column.default.as_deref();
        let default = default.filter(|default| !default.expression.is_empty());
        default.map(|default| as_text(default.expression.as_bytes(), &default.of_type))
    });
    let expressions: Option<Vec<_>> = expressions.collect();
    let edits = edits(text, dialect, &missing, overrides);
    let (Some(expressions), Some(edits)) = (expressions, edits) else {
        return Err(by_default(&first.name));
    };
    draft.columns(edits, &expressions);
    Ok(())
}

fn within(text: &[u8], place: Range<usize>) -> &[u8] {
    text.get(place).unwrap_or_default()
}

/// May a query be within this?
fn has_query(text: &[u8], dialect: Dialect) -> bool {
    const WORDS: [&str; 4] = ["select", "values", "table", "with"];
    let mut tokens = Lexer::new(text, dialect);
    tokens.any(|token| WORDS.iter().any(|word| token.is_word(text, word)))
}

fn by_function(name: &str) -> Error {
    refused(&format!(
        "a change of an omnisharded table by {name}() in this place"
    ))
}

fn by_default(column: &str) -> Error {
    let what = format!(
        "a change of an omnisharded table that leaves \"{column}\" to its default in this form"
    );
    refused(&what).hint("each shard would store another value: name the column, and the value")
}

#[cfg(test)]
mod tests;
