//! WITH: its queries are put where they are named, as subqueries of FROM.
//!
//! A query of WITH that only reads gives the same rows wherever and however often it is computed for one statement.

use pg_query::protobuf::{RangeSubselect, SelectStmt};
use pg_query::{Node, NodeEnum, NodeRef};

use super::edit::{alias, from_mut, queries_mut, Within};
use super::functions::{known, Known};
use super::nodes::{function_name, wrap};
use crate::error::Error;
use crate::merge::refused;
use crate::sql::parse::walk::children;

/// Places where a query of WITH may be put, in one statement: one that names another twice doubles it.
const PLACES_MAX: usize = 32;

struct Query {
    name: String,
    columns: Vec<Node>,
    select: Box<SelectStmt>,
    used: bool,
}

/// What becomes of the queries of WITH of one statement.
#[derive(Default)]
struct Inlining {
    places: usize,
    below: bool,
}

/// Leaves no WITH in this query. True: one has come to stand in an expression, where a column that its own tables have not is looked
/// for in those around it; PostgreSQL knows none.
///
/// Errors: 0A000 for what is not the same wherever it stands.
pub(super) fn inline(select: &mut SelectStmt) -> Result<bool, Error> {
    if !has_with(NodeRef::SelectStmt(select)) {
        return Ok(false);
    }
    let mut placed = Inlining::default();
    inline_within(select, &mut Vec::new(), 0, &mut placed)?;
    Ok(placed.below)
}

/// `around`: so many of the visible ones are of queries in whose expressions this one is.
fn inline_within(
    select: &mut SelectStmt,
    visible: &mut Vec<Query>,
    around: usize,
    placed: &mut Inlining,
) -> Result<(), Error> {
    let depth = visible.len();
    if let Some(with) = select.with_clause.take() {
        if with.recursive {
            return Err(refused("WITH RECURSIVE"));
        }
        if !select.locking_clause.is_empty() {
            return Err(refused("FOR UPDATE or FOR SHARE with WITH"));
        }
        for query in with.ctes {
            let Some(NodeEnum::CommonTableExpr(query)) = query.node else {
                return Err(refused("WITH"));
            };
            let found = query.ctequery.and_then(|node| node.node);
            let Some(NodeEnum::SelectStmt(mut select)) = found else {
                return Err(refused("WITH of a change"));
            };
            if is_done_once(&select) {
                return Err(refused("WITH of a volatile function or of FOR UPDATE"));
            }
            inline_within(&mut select, visible, around, placed)?;
            visible.push(Query {
                name: query.ctename,
                columns: query.aliascolnames,
                select,
                used: false,
            });
        }
    }
    queries_mut(select, &mut |query, within| {
        let around = match within {
            Within::Beside => around,
            Within::Expression => visible.len(),
        };
        inline_within(query, visible, around, placed)
    })?;
    // What is put here is complete already.
    let mut put = |node: &mut Node| put(node, visible, around, placed);
    from_mut(&mut select.from_clause, &mut put, &mut |_| Ok(()))?;
    if visible.drain(depth..).any(|query| !query.used) {
        return Err(refused("a query of WITH that is not used"));
    }
    Ok(())
}

/// Puts a query of WITH where FROM names it.
fn put(
    node: &mut Node,
    visible: &mut [Query],
    around: usize,
    placed: &mut Inlining,
) -> Result<(), Error> {
    let Some(NodeEnum::RangeVar(table)) = &mut node.node else {
        return Ok(());
    };
    let mut named = visible.iter_mut().enumerate().rev();
    let Some((at, query)) = named.find(|(_, query)| query.name == table.relname) else {
        return Ok(());
    };
    if !table.schemaname.is_empty() {
        return Ok(());
    }
    placed.places += 1;
    placed.below |= at < around;
    if placed.places > PLACES_MAX {
        return Err(refused("WITH that is named so often"));
    }
    query.used = true;
    let mut alias = table.alias.take().unwrap_or_else(|| alias(&query.name));
    let given = alias.colnames.len();
    let rest = query.columns.iter().skip(given).cloned();
    alias.colnames.extend(rest);
    let select = wrap(NodeEnum::SelectStmt(query.select.clone()));
    node.node = Some(NodeEnum::RangeSubselect(Box::new(RangeSubselect {
        lateral: false,
        subquery: Some(Box::new(select)),
        alias: Some(alias),
    })));
    Ok(())
}

fn has_with(node: NodeRef<'_>) -> bool {
    let mut found = matches!(node, NodeRef::WithClause(_));
    children(node, &mut |child| found = found || has_with(child));
    found
}

/// Does it matter how often this query is computed?
fn is_done_once(select: &SelectStmt) -> bool {
    fn look(node: NodeRef<'_>, found: &mut bool) {
        match node {
            NodeRef::FuncCall(call) => {
                *found |= function_name(call).and_then(known) == Some(Known::Volatile);
            }
            NodeRef::SelectStmt(select) => *found |= !select.locking_clause.is_empty(),
            _ => {}
        }
        let known = children(node, &mut |child| look(child, found));
        *found |= !known;
    }
    let mut found = false;
    look(NodeRef::SelectStmt(select), &mut found);
    found
}
