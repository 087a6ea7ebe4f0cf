//! SELECT over several shards: what each is asked, and how their rows become the result of one server.
//!
//! Everything is refused (0A000, with the construct's name) that is not known to give that result. What a query may
//! consist of is listed in `functions` and `nodes`; whether FROM distributes over shards is in `scope`, whether every
//! shard can compute a query by itself in `local`, and what is left to be merged here and in `grouped`.

mod below;
mod edit;
mod first;
mod functions;
mod gather;
mod grouped;
mod limit;
mod local;
mod nodes;
mod outputs;
mod overloads;
mod scope;
mod with;

#[cfg(test)]
mod tests;

use pg_query::protobuf::{SelectStmt, SetOperation};
use pg_query::NodeEnum;

use crate::error::{Error, Fault};
use crate::merge::plan::{Distinct, MergePlan};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;

use super::with_tree;
use crate::sql::lexer::Dialect;
use crate::sql::statement::Unparsed;
use local::{distinct_on, is_local, plain, targets, usage, with_ties, Usage};
use nodes::{column_name, integer, lone_name, write};
use outputs::Outputs;
pub use overloads::{is_type, Overload};
use overloads::{renames, Renaming};
use scope::{Scope, Spread};

/// A SELECT over several shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Across {
    /// What is asked before, in this order: the rows of each stand for a table in the texts behind it.
    pub gathered: Vec<Asked>,
    /// What gives the result.
    pub asked: Asked,
    /// A server may take its texts and yet find something wrong with the statement: one is to see that itself before.
    pub unchecked: bool,
    /// Why rows have to be gathered: what is told where that cannot be done either.
    pub why: Option<Error>,
}

/// What servers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which.
    pub of: Of,
    /// The statement.
    pub text: String,
    /// What becomes of their rows.
    pub plan: MergePlan,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Every shard: each has a part of the rows.
    EveryShard,
    /// Any one: it has all that is needed.
    AnyShard,
}

/// How the table is named that stands for the rows of `gathered[index]`.
pub fn gathered_name(index: usize) -> String {
    format!("{GATHERED}{index}")
}

/// What names of such tables begin with.
const GATHERED: &str = "__pgdog_gathered_";

/// Where a table's rows are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// All of them on every shard.
    Everywhere,
    /// Each on one shard.
    Sharded {
        /// The column that decides on which.
        key: String,
        /// Tables of one family have rows with equal keys on the same shard.
        family: usize,
    },
    /// On some shards only, for another reason than a key.
    Elsewhere,
}

/// What is known of tables.
pub trait Catalogue {
    /// Where the rows of this table are. Without a schema it is the one that the search path finds.
    fn table(&self, schema: Option<&str>, table: &str) -> Placed;

    /// Has one of the statement's tables a column of this name? `None`: that is not known.
    fn has_column(&self, column: &str) -> Option<bool>;

    /// Is this function, which PostgreSQL does not have itself, declared to be immutable and to give one value? Then it is made
    /// of its arguments alone, on whichever shard.
    fn is_immutable(&self, schema: Option<&str>, function: &str) -> bool;

    /// What functions of users there are of this name, beside PostgreSQL's, where one of the two is an aggregate.
    fn overload(&self, function: &str) -> Option<Overload> {
        let _ = function;
        None
    }

    /// Are all columns of this name, in the statement's tables, of types of PostgreSQL, or none of them? `None`: that is not known.
    fn is_of_postgres(&self, column: &str) -> Option<bool> {
        let _ = column;
        None
    }

    /// Are all columns of this name, in the statement's tables, of types that PostgreSQL has itself, which domains are not? False: or
    /// that is not known.
    fn is_built_in(&self, column: &str) -> bool {
        let _ = column;
        false
    }
}

/// Plans the SELECT that this text is; `None` when it is another statement or several.
///
/// The plan is of this text alone: literals are in it. Errors: as [`plan`]; 42601 for what is no SQL, 54001 for what is
/// nested too deeply.
pub fn plan_text(
    text: &[u8],
    dialect: Dialect,
    catalogue: &dyn Catalogue,
) -> Result<Option<Across>, Error> {
    planned(text, dialect, |select| match renames(select) {
        true => plan(select, &Renaming(catalogue)),
        false => plan(select, catalogue),
    })
}

/// The same, where values cannot be compared here that the plan of [`plan_text`] compares: a server computes the query
/// over the rows that it needs. `None` also where no server can.
///
/// Errors: as of [`plan_text`].
pub fn plan_text_apart(
    text: &[u8],
    dialect: Dialect,
    catalogue: &dyn Catalogue,
) -> Result<Option<Across>, Error> {
    let found = planned(text, dialect, |select| {
        let mut select = select.clone();
        with::inline(&mut select)?;
        // That server is to sort the rows, not we.
        let ordered = match first::is_of_rows(&select) {
            true => below::ordered(&select)?,
            false => None,
        };
        let select = ordered.unwrap_or(select);
        match renames(&select) {
            true => gather::plan(&select, &Renaming(catalogue), true),
            false => gather::plan(&select, catalogue, true),
        }
    });
    match found {
        Err(error) if error.code == SqlState::FEATURE_NOT_SUPPORTED => Ok(None),
        found => found,
    }
}

/// Plans the one SELECT that a text is.
fn planned(
    text: &[u8],
    dialect: Dialect,
    plan: impl Fn(&SelectStmt) -> Result<Across, Error>,
) -> Result<Option<Across>, Error> {
    if memchr::memmem::find(text, GATHERED.as_bytes()).is_some() {
        return Err(refused("this name"));
    }
    // The rewritten statement is somewhat deeper than the text; it is not told how deep that is.
    let planned = with_tree(text, dialect, usize::MAX, |tree| {
        let [statement] = tree.protobuf.stmts.as_slice() else {
            return Ok(None);
        };
        match statement.stmt.as_deref().and_then(nodes::inner) {
            Some(NodeEnum::SelectStmt(select)) => plan(select).map(Some),
            _ => Ok(None),
        }
    });
    planned.unwrap_or_else(|unparsed| {
        Err(match unparsed {
            Unparsed::Syntax(message) => {
                Error::error(Fault::Client, SqlState::SYNTAX_ERROR, message.into_string())
            }
            Unparsed::TooDeep => Error::error(
                Fault::Client,
                SqlState::STATEMENT_TOO_COMPLEX,
                "stack depth limit exceeded",
            ),
            Unparsed::TooLong => refused("a statement of this length"),
            Unparsed::Encoding => refused("a statement in this encoding"),
        })
    })
}

/// Plans a SELECT for all shards: one that was found to have no key that names a single one.
///
/// Errors: 0A000 with the name of what cannot be merged.
pub fn plan(select: &SelectStmt, catalogue: &dyn Catalogue) -> Result<Across, Error> {
    let mut select = select.clone();
    let unchecked = with::inline(&mut select)?;
    match merged(&select, catalogue) {
        Ok(asked) => Ok(Across {
            gathered: Vec::new(),
            asked,
            unchecked,
            why: None,
        }),
        // What it is refused for is what the client is told, unless PostgreSQL itself can do it.
        Err(refusal) if refusal.code == SqlState::FEATURE_NOT_SUPPORTED => {
            match gather::plan(&select, catalogue, false) {
                Ok(across) => Ok(Across {
                    why: Some(refusal),
                    ..across
                }),
                Err(_) => Err(refusal),
            }
        }
        Err(error) => Err(error),
    }
}

/// A SELECT whose rows are merged as they come from the shards.
fn merged(select: &SelectStmt, catalogue: &dyn Catalogue) -> Result<Asked, Error> {
    merged_in(select, catalogue, Order::AsBelow)
}

/// The order of rows that no ORDER BY of the query itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// That of its subquery.
    AsBelow,
    /// Any.
    Any,
}

fn merged_in(select: &SelectStmt, catalogue: &dyn Catalogue, order: Order) -> Result<Asked, Error> {
    if select.op() != SetOperation::SetopNone {
        return union(select, catalogue);
    }
    plain(select)?;
    let scope = Scope::read(
        catalogue,
        None,
        &select.from_clause,
        select.where_clause.as_deref(),
    )?;
    if scope.spread == Spread::Everywhere {
        return Err(refused("a query without a sharded table in FROM"));
    }
    let usage = usage(select, &scope)?;
    if !select.locking_clause.is_empty()
        && (select.limit_count.is_some() || select.limit_offset.is_some())
    {
        return Err(refused("FOR UPDATE or FOR SHARE with LIMIT"));
    }
    if usage.clock {
        return Err(refused("the current time in the result"));
    }
    if let Some(collation) = &usage.collation {
        return Err(refused(&format!("COLLATE \"{collation}\" in the result")));
    }
    if with_ties(select) && select.sort_clause.is_empty() {
        return Err(refused("WITH TIES without ORDER BY"));
    }
    if is_local(select, &scope, &usage) {
        let ordered = match order {
            Order::AsBelow if !usage.aggregates => below::ordered(select)?,
            _ => None,
        };
        return rows(ordered.as_ref().unwrap_or(select), Distinct::No);
    }
    if usage.windows {
        return Err(refused(
            "a window function that is not partitioned by the sharding key",
        ));
    }
    if let Some(name) = &usage.whole {
        return Err(refused(&format!("the aggregate {name}")));
    }
    let grouped =
        usage.aggregates || !select.group_clause.is_empty() || select.having_clause.is_some();
    if grouped {
        return grouped::plan(select, &scope, &usage);
    }
    distinct(select, &usage)
}

/// Rows as the shards have them, in the order of the query.
fn rows(select: &SelectStmt, distinct: Distinct) -> Result<Asked, Error> {
    let mut outputs = Outputs::of(select);
    // The shards drop duplicates themselves: a hidden column would make them differ.
    outputs.fixed = !select.distinct_clause.is_empty() && distinct_on(select).is_none();
    finish(select, outputs, distinct)
}

/// DISTINCT across shards.
fn distinct(select: &SelectStmt, usage: &Usage) -> Result<Asked, Error> {
    if usage.volatile {
        return Err(refused("DISTINCT with a volatile function"));
    }
    let mut outputs = Outputs::of(select);
    let Some(on) = distinct_on(select) else {
        outputs.fixed = true;
        return finish(select, outputs, Distinct::Rows);
    };
    if usage.rows {
        // It gives its rows for each that is left.
        return Err(refused("DISTINCT ON with a set-returning function"));
    }
    let columns = on
        .iter()
        .map(|node| Ok(outputs.column(outputs::Reference::Output(node))?.0));
    let columns = columns.collect::<Result<Vec<_>, Error>>()?;
    finish(select, outputs, Distinct::On(columns))
}

/// The common end: ORDER BY, LIMIT, and the text.
fn finish(
    select: &SelectStmt,
    mut outputs: Outputs<'_>,
    distinct: Distinct,
) -> Result<Asked, Error> {
    let order = outputs.order(&select.sort_clause)?;
    let limit = limit::read(select)?;
    let mut shards = select.clone();
    let hidden = outputs.append_to(&mut shards);
    limit::push_down(&mut shards, limit)?;
    Ok(Asked {
        of: Of::EveryShard,
        text: write(NodeEnum::SelectStmt(Box::new(shards)))?,
        plan: MergePlan {
            order,
            distinct,
            limit,
            hidden,
            ..MergePlan::concatenate()
        },
    })
}

/// UNION, whose branches are all computed by the shards themselves.
fn union(select: &SelectStmt, catalogue: &dyn Catalogue) -> Result<Asked, Error> {
    if select.with_clause.is_some() {
        return Err(refused("WITH"));
    }
    // Rows with the same key meet on one shard.
    let by_key = branches_by_key(select, catalogue, true).is_some();
    let all = select.all;
    if !by_key {
        branch(select, catalogue, all, true)?;
    }
    let mut first = select;
    while let Some(left) = first.larg.as_deref() {
        first = left;
    }
    let order = select.sort_clause.iter().map(|sort| {
        let (node, key) = outputs::order_key(sort)?;
        // ORDER BY of a UNION knows output columns only.
        let place = match (integer(node), lone_name(node)) {
            (Some(position), _) => usize::try_from(position)
                .ok()
                .and_then(|position| position.checked_sub(1)),
            (None, Some(name)) => {
                targets(first).position(|target| column_name(target) == Some(name))
            }
            (None, None) => None,
        };
        let starless =
            |place: &usize| integer(node).is_some() || !outputs::has_star(first, ..*place);
        let place = place
            .filter(starless)
            .ok_or_else(|| refused("ORDER BY of this column of a UNION"))?;
        Ok(key(crate::merge::plan::Column::FromStart(place)))
    });
    let order = order.collect::<Result<Vec<_>, Error>>()?;
    if with_ties(select) && order.is_empty() {
        return Err(refused("WITH TIES without ORDER BY"));
    }
    let limit = limit::read(select)?;
    let mut shards = select.clone();
    limit::push_down(&mut shards, limit)?;
    Ok(Asked {
        of: Of::EveryShard,
        text: write(NodeEnum::SelectStmt(Box::new(shards)))?,
        plan: MergePlan {
            order,
            limit,
            distinct: if all || by_key {
                Distinct::No
            } else {
                Distinct::Rows
            },
            ..MergePlan::concatenate()
        },
    })
}

/// The columns in which all branches have a sharding key of one family, if every shard can compute each branch by itself.
fn branches_by_key(
    select: &SelectStmt,
    catalogue: &dyn Catalogue,
    outermost: bool,
) -> Option<(Spread, Vec<usize>)> {
    let limited = select.limit_count.is_some()
        || select.limit_offset.is_some()
        || !select.sort_clause.is_empty();
    if limited && !outermost || !select.locking_clause.is_empty() {
        return None;
    }
    if select.op() != SetOperation::SetopNone {
        let (left, right) = (select.larg.as_deref()?, select.rarg.as_deref()?);
        let (spread, mut columns) = branches_by_key(left, catalogue, false)?;
        let (other, others) = branches_by_key(right, catalogue, false)?;
        columns.retain(|column| others.contains(column));
        return (spread == other && !columns.is_empty()).then_some((spread, columns));
    }
    plain(select).ok()?;
    let condition = select.where_clause.as_deref();
    let scope = Scope::read(catalogue, None, &select.from_clause, condition).ok()?;
    let usage = usage(select, &scope).ok()?;
    let columns = local::key_columns(select, &scope);
    let known = !usage.clock && usage.collation.is_none() && is_local(select, &scope, &usage);
    (scope.spread != Spread::Everywhere && known && !columns.is_empty())
        .then_some((scope.spread, columns))
}

/// A branch of a UNION. `all`: its duplicates are kept, so that it must not have any of its own.
fn branch(
    select: &SelectStmt,
    catalogue: &dyn Catalogue,
    all: bool,
    outermost: bool,
) -> Result<(), Error> {
    let limited = select.limit_count.is_some()
        || select.limit_offset.is_some()
        || !select.sort_clause.is_empty();
    if limited && !outermost {
        return Err(refused("ORDER BY or LIMIT in a branch of a UNION"));
    }
    if !select.locking_clause.is_empty() {
        return Err(refused("FOR UPDATE or FOR SHARE with UNION"));
    }
    if select.op() == SetOperation::SetopUnion {
        if all && !select.all {
            return Err(refused("UNION within UNION ALL"));
        }
        for side in [&select.larg, &select.rarg] {
            let side = side
                .as_deref()
                .ok_or_else(|| refused("this kind of UNION"))?;
            branch(side, catalogue, all, false)?;
        }
        return Ok(());
    }
    plain(select)?;
    let scope = Scope::read(
        catalogue,
        None,
        &select.from_clause,
        select.where_clause.as_deref(),
    )?;
    let usage = usage(select, &scope)?;
    if usage.clock || usage.collation.is_some() {
        return Err(refused(
            "UNION with the current time or a collation in the result",
        ));
    }
    match scope.spread {
        // What every shard has would come several times.
        Spread::Everywhere if all => {
            return Err(refused("UNION ALL with rows that are on every shard"))
        }
        Spread::Everywhere if usage.volatile || usage.windows || usage.whole.is_some() => {
            return Err(refused("UNION with rows that differ from shard to shard"));
        }
        _ => {}
    }
    if scope.spread != Spread::Everywhere && !is_local(select, &scope, &usage) {
        return Err(refused("UNION of rows that are aggregated across shards"));
    }
    Ok(())
}
