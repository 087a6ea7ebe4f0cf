//! ORDER BY with LIMIT where a server sorts what was gathered: each shard gives those of its rows that may be among the
//! first.

use pg_query::protobuf::SelectStmt;
use pg_query::{Node, NodeEnum};

use super::functions::{known, Known};
use super::limit;
use super::local::targets;
use super::nodes::{column_name, function_name, inner, integer, is_star, lone_name, parts};
use crate::merge::plan::{Bound, Limit};

/// Where a query gives but the first rows in an order: how each shard finds those of its rows that may be among them.
pub(super) fn rows(select: &SelectStmt) -> Option<(Vec<Node>, Limit)> {
    let limit = limit::read(select).ok()?;
    let sorts = select.sort_clause.iter().map(|sort| match inner(sort) {
        Some(NodeEnum::SortBy(sort)) => sort.node.as_deref(),
        _ => None,
    });
    let outputs = targets(select).map(|target| target.val.as_deref());
    let plain = select.group_clause.is_empty()
        && select.having_clause.is_none()
        && select.distinct_clause.is_empty()
        && !limit.with_ties
        && outputs
            .chain(sorts)
            .all(|node| node.is_some_and(keeps_rows));
    if !plain || limit.count == Bound::None || select.sort_clause.is_empty() {
        return None;
    }
    let mut sort_clause = select.sort_clause.clone();
    for sort in &mut sort_clause {
        let Some(NodeEnum::SortBy(sort)) = &mut sort.node else {
            return None;
        };
        let node = sort.node.as_deref_mut()?;
        let mut outputs = targets(select);
        let output = match (integer(node), lone_name(node)) {
            // Behind a star nobody knows which that is.
            (Some(_), _) if outputs.any(|one| one.val.as_deref().is_none_or(is_star)) => {
                return None;
            }
            (Some(position), _) => {
                let index = usize::try_from(position).ok()?.checked_sub(1)?;
                Some(targets(select).nth(index)?)
            }
            (None, Some(name)) => outputs.find(|output| column_name(output) == Some(name)),
            (None, None) => None,
        };
        let value = output.and_then(|output| output.val.as_deref());
        if let Some(value) = value.filter(|value| !is_star(value)) {
            *node = value.clone();
        }
    }
    Some((sort_clause, limit))
}

/// Is a row of FROM and WHERE a row of the result, as far as the outputs are concerned?
pub(super) fn is_of_rows(select: &SelectStmt) -> bool {
    targets(select).all(|target| target.val.as_deref().is_some_and(keeps_rows))
}

/// Is a row of FROM and WHERE a row of the result, as far as this expression is concerned?
fn keeps_rows(node: &Node) -> bool {
    let Some(found) = inner(node) else {
        return false;
    };
    let itself = match found {
        NodeEnum::FuncCall(call) => {
            let found = function_name(call).and_then(known);
            call.over.is_none() && matches!(found, Some(Known::Scalar | Known::Clock))
        }
        _ => true,
    };
    itself && parts(found).is_ok_and(|parts| parts.into_iter().all(keeps_rows))
}
