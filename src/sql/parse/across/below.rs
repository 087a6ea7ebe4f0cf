//! The order of a query that has none of its own, but a subquery in FROM that is ordered.
//!
//! SQL does not promise it, and PostgreSQL keeps it: `SELECT … FROM (SELECT … ORDER BY …) s LIMIT 10` gives the first ten, and
//! an aggregate or a window function sees the rows in that order (PostgreSQL documentation, 9.21 Aggregate Functions).

use pg_query::protobuf::{ColumnRef, RangeSubselect, SelectStmt, SetOperation, SortBy, SortByDir};
use pg_query::{Node, NodeEnum};

use super::local::targets;
use super::nodes::{column_name, inner, integer, is_star, lone_name, words, wrap};
use super::outputs::{has_star, Outputs};
use crate::error::Error;
use crate::merge::refused;

/// What rows are sorted by: the name of an output.
struct Sort {
    name: String,
    as_written: SortBy,
}

/// The same query with the order that it has from its subquery. `None`: it has its own, or none.
///
/// Errors: 0A000 if that cannot be said, since the subquery does not select what it is sorted by.
pub(super) fn ordered(select: &SelectStmt) -> Result<Option<SelectStmt>, Error> {
    let sort_clause: Vec<Node> = inherited(select)?
        .into_iter()
        .map(|(qualifier, sort)| {
            let fields = [qualifier, sort.name];
            let fields =
                fields.map(|sval| wrap(NodeEnum::String(pg_query::protobuf::String { sval })));
            let column = ColumnRef {
                fields: fields.to_vec(),
                location: 0,
            };
            wrap(NodeEnum::SortBy(Box::new(SortBy {
                node: Some(Box::new(wrap(NodeEnum::ColumnRef(column)))),
                ..sort.as_written
            })))
        })
        .collect();
    Ok((!sort_clause.is_empty()).then(|| SelectStmt {
        sort_clause,
        ..select.clone()
    }))
}

/// The order that a query has from its subquery, by columns of that one: their qualifier, and name.
fn inherited(select: &SelectStmt) -> Result<Vec<(String, Sort)>, Error> {
    let plain = select.op() == SetOperation::SetopNone
        && select.sort_clause.is_empty()
        && select.group_clause.is_empty()
        && select.having_clause.is_none()
        && select.distinct_clause.is_empty();
    let [from] = select.from_clause.as_slice() else {
        return Ok(Vec::new());
    };
    let Some(NodeEnum::RangeSubselect(from)) = inner(from).filter(|_| plain) else {
        return Ok(Vec::new());
    };
    let Some(NodeEnum::SelectStmt(below)) = from.subquery.as_deref().and_then(inner) else {
        return Ok(Vec::new());
    };
    let sorts = outputs_order(below)?.into_iter();
    let sorts = sorts.map(|sort| {
        // Without one, outputs of the query would be meant first.
        let qualifier = from.alias.as_ref().ok_or_else(unsaid)?.aliasname.clone();
        Ok((qualifier, renamed(sort, from, below)?))
    });
    sorts.collect()
}

/// The order of a query's rows by its outputs.
fn outputs_order(select: &SelectStmt) -> Result<Vec<Sort>, Error> {
    let mut first = select;
    while let Some(left) = first.larg.as_deref() {
        first = left;
    }
    let own = select.sort_clause.iter().map(|sort| {
        let Some(NodeEnum::SortBy(sort)) = inner(sort) else {
            return Err(unsaid());
        };
        let node = sort.node.as_deref().ok_or_else(unsaid)?;
        let name = output(first, node)?.ok_or_else(unsaid)?;
        if sort.sortby_dir() == SortByDir::SortbyUsing {
            return Err(unsaid());
        }
        Ok(Sort {
            name,
            as_written: SortBy::clone(sort),
        })
    });
    let own = own.collect::<Result<Vec<_>, Error>>()?;
    if !own.is_empty() {
        return Ok(own);
    }
    let passed = inherited(select)?.into_iter().map(|(_, sort)| {
        let name = passing(select, &sort.name).ok_or_else(unsaid)?;
        Ok(Sort { name, ..sort })
    });
    passed.collect()
}

/// The name of the output that an item of ORDER BY is, if it is one, and there is but one of that name.
fn output(select: &SelectStmt, node: &Node) -> Result<Option<String>, Error> {
    let outputs = Outputs::of(select);
    let found = match (
        integer(node),
        lone_name(node).and_then(|name| outputs.named(name)),
    ) {
        (Some(at), _) => {
            let at = usize::try_from(at).ok().and_then(|at| at.checked_sub(1));
            at.filter(|at| !has_star(select, ..*at + 1))
        }
        (None, Some(at)) => Some(at),
        (None, None) => outputs.alike(node)?,
    };
    let named = found.and_then(|at| outputs.target(at).and_then(column_name));
    let name = named.or_else(|| passed_by_star(select, node));
    let alone = name.filter(|name| is_alone(select, name, named.is_some()));
    Ok(alone.map(str::to_owned))
}

/// Is there no output of this name, or none but the one that is `listed`? What a star gives has any name.
fn is_alone(select: &SelectStmt, name: &str, listed: bool) -> bool {
    let alike = targets(select).filter(|target| column_name(target) == Some(name));
    alike.count() <= usize::from(listed)
}

/// The column that this is, if a star selects all columns of the one table that there is.
fn passed_by_star<'n>(select: &SelectStmt, node: &'n Node) -> Option<&'n str> {
    let Some(NodeEnum::ColumnRef(column)) = inner(node) else {
        return None;
    };
    let star = targets(select).any(|target| target.val.as_deref().is_some_and(is_star));
    let lone = column.fields.len() == 1
        || select.from_clause.len() == 1 && {
            let from = select.from_clause.first().and_then(inner);
            !matches!(from, Some(NodeEnum::JoinExpr(_)))
        };
    let name = words(&column.fields).pop().filter(|name| *name != "*");
    name.filter(|_| star && lone)
}

/// The output that is this column of the query's subquery.
fn passing(select: &SelectStmt, name: &str) -> Option<String> {
    let is_it = |value: &Node| match inner(value) {
        Some(NodeEnum::ColumnRef(column)) => {
            matches!(words(&column.fields).last(), Some(word) if *word == name || *word == "*")
        }
        _ => false,
    };
    let target = targets(select).find(|target| target.val.as_deref().is_some_and(is_it))?;
    let star = target.val.as_deref().is_some_and(is_star);
    let name = if star {
        Some(name)
    } else {
        column_name(target)
    };
    let alone = name.filter(|name| is_alone(select, name, !star));
    alone.map(str::to_owned)
}

/// As the output is called where the subquery's alias names its columns.
fn renamed(sort: Sort, from: &RangeSubselect, below: &SelectStmt) -> Result<Sort, Error> {
    let names = from.alias.as_ref().map(|alias| words(&alias.colnames));
    let Some(names) = names.filter(|names| !names.is_empty()) else {
        return Ok(sort);
    };
    let at = targets(below).position(|target| column_name(target) == Some(&sort.name));
    let at = at
        .filter(|at| !has_star(below, ..*at + 1))
        .ok_or_else(unsaid)?;
    match names.get(at) {
        Some(name) => Ok(Sort {
            name: (*name).to_owned(),
            ..sort
        }),
        None => Ok(sort),
    }
}

fn unsaid() -> Error {
    refused("a query in the order of a subquery that does not select what it is sorted by")
        .hint("give the query around it an ORDER BY")
}
