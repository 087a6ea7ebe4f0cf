//! The parser's trees, changed in place: expressions, what FROM names, the queries within a query.

use pg_query::protobuf::{Alias, RangeVar, SelectStmt, WindowDef};
use pg_query::{Node, NodeEnum};

use super::nodes::wrap;
use crate::error::Error;
use crate::merge::refused;

/// The direct parts of an expression, those of a subquery excepted: as `parts` in `nodes`, and GROUPING SETS.
///
/// Errors: 0A000 for a kind of expression that is not known here.
pub(super) fn parts_mut(node: &mut NodeEnum) -> Result<Vec<&mut Node>, Error> {
    let mut parts: Vec<&mut Node> = Vec::new();
    match node {
        NodeEnum::ColumnRef(_)
        | NodeEnum::AConst(_)
        | NodeEnum::ParamRef(_)
        | NodeEnum::SqlvalueFunction(_)
        | NodeEnum::String(_)
        | NodeEnum::AStar(_) => {}
        NodeEnum::TypeCast(cast) => parts.extend(cast.arg.as_deref_mut()),
        NodeEnum::CollateClause(collate) => parts.extend(collate.arg.as_deref_mut()),
        NodeEnum::AExpr(expr) => {
            parts.extend(expr.lexpr.as_deref_mut());
            parts.extend(expr.rexpr.as_deref_mut());
        }
        NodeEnum::BoolExpr(expr) => parts.extend(&mut expr.args),
        NodeEnum::List(list) => parts.extend(&mut list.items),
        NodeEnum::NullTest(test) => parts.extend(test.arg.as_deref_mut()),
        NodeEnum::BooleanTest(test) => parts.extend(test.arg.as_deref_mut()),
        NodeEnum::CaseExpr(case) => {
            parts.extend(case.arg.as_deref_mut());
            parts.extend(&mut case.args);
            parts.extend(case.defresult.as_deref_mut());
        }
        NodeEnum::CaseWhen(when) => {
            parts.extend(when.expr.as_deref_mut());
            parts.extend(when.result.as_deref_mut());
        }
        NodeEnum::CoalesceExpr(expr) => parts.extend(&mut expr.args),
        NodeEnum::MinMaxExpr(expr) => parts.extend(&mut expr.args),
        NodeEnum::AArrayExpr(expr) => parts.extend(&mut expr.elements),
        NodeEnum::RowExpr(expr) => parts.extend(&mut expr.args),
        NodeEnum::NamedArgExpr(expr) => parts.extend(expr.arg.as_deref_mut()),
        NodeEnum::AIndirection(expr) => {
            parts.extend(expr.arg.as_deref_mut());
            parts.extend(&mut expr.indirection);
        }
        NodeEnum::AIndices(expr) => {
            parts.extend(expr.lidx.as_deref_mut());
            parts.extend(expr.uidx.as_deref_mut());
        }
        NodeEnum::ResTarget(target) => parts.extend(target.val.as_deref_mut()),
        NodeEnum::SortBy(sort) => parts.extend(sort.node.as_deref_mut()),
        NodeEnum::SubLink(link) => parts.extend(link.testexpr.as_deref_mut()),
        NodeEnum::GroupingSet(set) => parts.extend(&mut set.content),
        NodeEnum::GroupingFunc(call) => parts.extend(&mut call.args),
        NodeEnum::WindowDef(window) => parts.extend(window_mut(window)),
        NodeEnum::FuncCall(call) => {
            parts.extend(&mut call.args);
            parts.extend(&mut call.agg_order);
            parts.extend(call.agg_filter.as_deref_mut());
            parts.extend(call.over.as_deref_mut().into_iter().flat_map(window_mut));
        }
        _ => return Err(refused("this kind of expression")),
    }
    Ok(parts)
}

fn window_mut(window: &mut WindowDef) -> impl Iterator<Item = &mut Node> {
    (window.partition_clause.iter_mut())
        .chain(&mut window.order_clause)
        .chain(window.start_offset.as_deref_mut())
        .chain(window.end_offset.as_deref_mut())
}

/// What is computed of the rows that FROM and WHERE give.
pub(super) fn clauses_mut(select: &mut SelectStmt) -> impl Iterator<Item = &mut Node> {
    let given = |node: &&mut Node| node.node.is_some();
    select
        .target_list
        .iter_mut()
        .chain(select.distinct_clause.iter_mut().filter(given))
        .chain(&mut select.group_clause)
        .chain(select.having_clause.as_deref_mut())
        .chain(&mut select.window_clause)
        .chain(&mut select.sort_clause)
}

/// Calls `leaf` with everything that FROM names, and `condition` with those of joins.
pub(super) fn from_mut(
    from: &mut [Node],
    leaf: &mut dyn FnMut(&mut Node) -> Result<(), Error>,
    condition: &mut dyn FnMut(&mut Node) -> Result<(), Error>,
) -> Result<(), Error> {
    for item in from {
        match &mut item.node {
            Some(NodeEnum::JoinExpr(join)) => {
                for side in [join.larg.as_deref_mut(), join.rarg.as_deref_mut()] {
                    let side = side.ok_or_else(|| refused("this kind of join"))?;
                    from_mut(std::slice::from_mut(side), leaf, condition)?;
                }
                if let Some(quals) = join.quals.as_deref_mut() {
                    condition(quals)?;
                }
            }
            _ => leaf(item)?,
        }
    }
    Ok(())
}

/// Where a query is within another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Within {
    /// A branch, or in FROM: it sees no columns of the other.
    Beside,
    /// An expression, whose columns may be those of the other.
    Expression,
}

/// Called with a query and where it is.
type EachQuery<'e> = dyn FnMut(&mut SelectStmt, Within) -> Result<(), Error> + 'e;

/// Calls `each` with every query directly within this one: its branches, those in FROM and in expressions.
pub(super) fn queries_mut(select: &mut SelectStmt, each: &mut EachQuery<'_>) -> Result<(), Error> {
    for side in [select.larg.as_deref_mut(), select.rarg.as_deref_mut()] {
        side.map_or(Ok(()), |side| each(side, Within::Beside))?;
    }
    let mut expressions: Vec<&mut Node> = Vec::new();
    let mut pending: Vec<&mut Node> = select.from_clause.iter_mut().collect();
    while let Some(item) = pending.pop() {
        match &mut item.node {
            Some(NodeEnum::JoinExpr(join)) => {
                pending.extend(join.larg.as_deref_mut());
                pending.extend(join.rarg.as_deref_mut());
                expressions.extend(join.quals.as_deref_mut());
            }
            Some(NodeEnum::RangeSubselect(subquery)) => {
                if let Some(NodeEnum::SelectStmt(select)) = subquery
                    .subquery
                    .as_deref_mut()
                    .and_then(|node| node.node.as_mut())
                {
                    each(select, Within::Beside)?;
                }
            }
            Some(NodeEnum::RangeFunction(function)) => {
                for item in &mut function.functions {
                    if let Some(NodeEnum::List(list)) = &mut item.node {
                        expressions.extend(list.items.first_mut());
                    }
                }
            }
            Some(NodeEnum::RangeVar(_)) => {}
            _ => return Err(refused("this kind of table expression")),
        }
    }
    let limits = [
        select.limit_count.as_deref_mut(),
        select.limit_offset.as_deref_mut(),
        select.where_clause.as_deref_mut(),
    ];
    expressions.extend(limits.into_iter().flatten());
    expressions.extend(&mut select.values_lists);
    let given = |node: &&mut Node| node.node.is_some();
    let clauses = (select.target_list.iter_mut())
        .chain(select.distinct_clause.iter_mut().filter(given))
        .chain(&mut select.group_clause)
        .chain(select.having_clause.as_deref_mut())
        .chain(&mut select.window_clause)
        .chain(&mut select.sort_clause);
    expressions.extend(clauses);
    expressions
        .into_iter()
        .try_for_each(|node| sublinks_mut(node, each))
}

fn sublinks_mut(node: &mut Node, each: &mut EachQuery<'_>) -> Result<(), Error> {
    let Some(found) = &mut node.node else {
        return Ok(());
    };
    if let NodeEnum::SubLink(link) = found {
        match link.subselect.as_deref_mut().map(|node| &mut node.node) {
            Some(Some(NodeEnum::SelectStmt(select))) => each(select, Within::Expression)?,
            _ => return Err(refused("this kind of subquery")),
        }
    }
    for part in parts_mut(found)? {
        sublinks_mut(part, each)?;
    }
    Ok(())
}

/// A name of a table in FROM, its columns keeping theirs.
pub(super) fn alias(name: &str) -> Alias {
    Alias {
        aliasname: name.to_owned(),
        colnames: Vec::new(),
    }
}

/// A table in FROM under another name.
pub(super) fn table(name: &str, alias: Alias) -> Node {
    wrap(NodeEnum::RangeVar(RangeVar {
        relname: name.to_owned(),
        inh: true,
        relpersistence: "p".to_owned(),
        alias: Some(alias),
        ..RangeVar::default()
    }))
}

/// An empty SELECT.
pub(super) fn select() -> SelectStmt {
    use pg_query::protobuf::{LimitOption, SetOperation};
    SelectStmt {
        limit_option: LimitOption::Default.into(),
        op: SetOperation::SetopNone.into(),
        ..SelectStmt::default()
    }
}
