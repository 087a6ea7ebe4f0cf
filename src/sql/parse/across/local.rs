//! Can every shard compute a query by itself, so that the rows of all shards together are its result?
//!
//! Groups, duplicates and partitions of windows that share a key are on one shard. What is not so must be merged, which
//! only the outermost query can be.

use pg_query::protobuf::{LimitOption, SelectStmt, SetOperation, SqlValueFunctionOp, SubLinkType};
use pg_query::{Node, NodeEnum};

use super::super::names::is_system_column;
use super::functions::{called, known, Known};
use super::nodes::{column_name, function_name, inner, integer, is_star, lone_name, parts, words};
use super::overloads::{meant, Meant};
use super::scope::{conjuncts, Scope, Spread};
use super::Catalogue;
use crate::error::Error;
use crate::merge::refused;

/// A query that every shard can compute by itself.
pub(super) struct Local {
    pub(super) spread: Spread,
    /// Names of columns that hold the key.
    pub(super) keys: Vec<String>,
    /// Places of such columns, as far as they are known.
    pub(super) places: Vec<usize>,
}

/// What the expressions of a query use.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "a query may use any of them")]
pub(super) struct Usage {
    pub(super) aggregates: bool,
    /// Aggregates that cannot be put together, with the name of one.
    pub(super) whole: Option<String>,
    pub(super) windows: bool,
    /// Is every window partitioned by the key?
    pub(super) windows_local: bool,
    pub(super) rows: bool,
    pub(super) volatile: bool,
    pub(super) clock: bool,
    /// A collation other than C, with its name.
    pub(super) collation: Option<String>,
}

/// A query within another one.
///
/// Errors: 0A000 for one that needs rows of several shards.
pub(super) fn subquery<'a>(
    select: &'a SelectStmt,
    catalogue: &'a dyn Catalogue,
    outer: Option<&'a Scope<'a>>,
) -> Result<Local, Error> {
    plain(select)?;
    let where_clause = select.where_clause.as_deref();
    let scope = Scope::read(catalogue, outer, &select.from_clause, where_clause)?;
    let usage = usage(select, &scope)?;
    if usage.clock || usage.collation.is_some() {
        return Err(refused(
            "a subquery with the current time or a collation in its result",
        ));
    }
    let limited = select.limit_count.is_some() || select.limit_offset.is_some();
    if scope.spread == Spread::Everywhere {
        // Copies have the same rows, in an order of their own each.
        if limited
            || usage.windows
            || usage.whole.is_some()
            || usage.volatile
            || distinct_on(select).is_some()
        {
            return Err(refused(
                "a subquery whose result depends on the order of an omnisharded table's rows",
            ));
        }
        return Ok(Local {
            spread: Spread::Everywhere,
            keys: Vec::new(),
            places: Vec::new(),
        });
    }
    if scope.is_bound(where_clause) {
        return Ok(Local {
            spread: scope.spread,
            keys: Vec::new(),
            places: Vec::new(),
        });
    }
    if limited {
        return Err(refused("LIMIT in a subquery over a sharded table"));
    }
    if !is_local(select, &scope, &usage) {
        return Err(refused("a subquery that aggregates rows of several shards"));
    }
    let keys = outputs_with_key(select, &scope);
    Ok(Local {
        spread: scope.spread,
        keys,
        places: key_columns(select, &scope),
    })
}

/// Is nothing of this query's grouping, DISTINCT and windows across shards?
pub(super) fn is_local(select: &SelectStmt, scope: &Scope<'_>, usage: &Usage) -> bool {
    let grouped = usage.aggregates
        || usage.whole.is_some()
        || !select.group_clause.is_empty()
        || select.having_clause.is_some();
    let by_key = || {
        select
            .group_clause
            .iter()
            .any(|item| group_item_is_key(select, scope, item))
    };
    let distinct_by_key = || match distinct_on(select) {
        Some(on) => on.iter().any(|node| scope.is_key(node)),
        None => select.distinct_clause.is_empty() || !outputs_with_key(select, scope).is_empty(),
    };
    (!grouped || by_key()) && distinct_by_key() && (!usage.windows || usage.windows_local)
}

/// Is this item of GROUP BY a column with the key? A bare name that is also an output's is not certain to be one.
fn group_item_is_key(select: &SelectStmt, scope: &Scope<'_>, item: &Node) -> bool {
    let target = |name: &str| {
        targets(select)
            .find(|target| target.name == name)
            .and_then(|target| target.val.as_deref())
    };
    if let Some(position) =
        integer(item).and_then(|position| usize::try_from(position).ok()?.checked_sub(1))
    {
        let stars = targets(select).any(|target| target.val.as_deref().is_some_and(is_star));
        let target = targets(select)
            .nth(position)
            .and_then(|target| target.val.as_deref());
        return !stars && target.is_some_and(|target| scope.is_key(target));
    }
    let hidden = lone_name(item)
        .and_then(target)
        .is_some_and(|value| !scope.is_key(value));
    scope.is_key(item) && !hidden
}

/// Names of output columns that hold the key in every row.
fn outputs_with_key(select: &SelectStmt, scope: &Scope<'_>) -> Vec<String> {
    let mut keys = Vec::new();
    for target in targets(select) {
        let Some(value) = target.val.as_deref() else {
            continue;
        };
        if is_star(value) {
            keys.extend(scope.keys_of_star(value));
        } else if scope.is_key(value) {
            keys.extend(column_name(target).map(str::to_owned));
        }
    }
    keys
}

/// Output columns that hold the key in every row, counted from 0, as far as it is known which they are.
pub(super) fn key_columns(select: &SelectStmt, scope: &Scope<'_>) -> Vec<usize> {
    let values = targets(select).filter_map(|target| target.val.as_deref());
    let counted = values.take_while(|value| !is_star(value)).enumerate();
    counted
        .filter(|(_, value)| scope.is_key(value))
        .map(|(index, _)| index)
        .collect()
}

/// The expressions of DISTINCT ON.
pub(super) fn distinct_on(select: &SelectStmt) -> Option<&[Node]> {
    let on = select
        .distinct_clause
        .first()
        .is_some_and(|node| inner(node).is_some());
    on.then_some(&select.distinct_clause)
}

/// The output columns.
pub(super) fn targets(select: &SelectStmt) -> impl Iterator<Item = &pg_query::protobuf::ResTarget> {
    select
        .target_list
        .iter()
        .filter_map(|node| match inner(node) {
            Some(NodeEnum::ResTarget(target)) => Some(&**target),
            _ => None,
        })
}

/// Refuses what is not a plain SELECT.
pub(super) fn plain(select: &SelectStmt) -> Result<(), Error> {
    match select.op() {
        SetOperation::SetopNone => {}
        SetOperation::SetopIntersect => return Err(refused("INTERSECT")),
        SetOperation::SetopExcept => return Err(refused("EXCEPT")),
        _ => return Err(refused("UNION in a subquery")),
    }
    if select.with_clause.is_some() {
        return Err(refused("WITH"));
    }
    if select.into_clause.is_some() {
        return Err(refused("SELECT INTO"));
    }
    if !select.values_lists.is_empty() {
        return Err(refused("VALUES"));
    }
    Ok(())
}

/// Checks all expressions of a query, and says what they use.
///
/// Errors: 0A000 for functions and expressions of which nothing is known, and for subqueries that need other shards.
pub(super) fn usage(select: &SelectStmt, scope: &Scope<'_>) -> Result<Usage, Error> {
    let mut usage = Usage {
        windows_local: true,
        ..Usage::default()
    };
    let mut filters = Usage::default();
    let mut check = Check {
        scope,
        select,
        usage: &mut filters,
    };
    for node in &scope.conditions {
        check.expression(node)?;
    }
    let mut conditions = Vec::new();
    conjuncts(select.where_clause.as_deref(), &mut conditions);
    for node in conditions {
        if !check.is_in_by_key(node)? {
            check.expression(node)?;
        }
    }
    // A collation or the time in a condition decides about one row, wherever that is.
    let mut check = Check {
        scope,
        select,
        usage: &mut usage,
    };
    let distinct = distinct_on(select).unwrap_or_default().iter();
    let windows = select.window_clause.iter();
    let clauses = select
        .target_list
        .iter()
        .chain(&select.group_clause)
        .chain(&select.sort_clause);
    for node in clauses
        .chain(distinct)
        .chain(windows)
        .chain(select.having_clause.as_deref())
    {
        check.expression(node)?;
    }
    for function in &scope.functions {
        check.expression(function)?;
    }
    // A set-returning function in FROM makes no rows in the output.
    usage.rows &= targets(select).any(|target| target.val.as_deref().is_some_and(has_rows));
    Ok(usage)
}

fn has_rows(node: &Node) -> bool {
    super::nodes::any(node, &mut |node| match node {
        NodeEnum::FuncCall(call) => function_name(call).and_then(known) == Some(Known::Rows),
        _ => false,
    })
}

struct Check<'c, 'a> {
    scope: &'c Scope<'a>,
    select: &'c SelectStmt,
    usage: &'c mut Usage,
}

impl Check<'_, '_> {
    fn expression(&mut self, node: &Node) -> Result<(), Error> {
        let Some(node) = inner(node) else {
            return Ok(());
        };
        match node {
            NodeEnum::ColumnRef(column) if is_system_column(column) => {
                return Err(refused("a system column"));
            }
            NodeEnum::FuncCall(call) => self.call(call)?,
            NodeEnum::SubLink(link) => {
                let Some(NodeEnum::SelectStmt(select)) = link.subselect.as_deref().and_then(inner)
                else {
                    return Err(refused("this kind of subquery"));
                };
                self.sublink(select)?;
            }
            NodeEnum::SqlvalueFunction(function) => {
                use SqlValueFunctionOp as Op;
                let same = matches!(
                    function.op(),
                    Op::SvfopCurrentRole
                        | Op::SvfopCurrentUser
                        | Op::SvfopUser
                        | Op::SvfopSessionUser
                        | Op::SvfopCurrentSchema
                );
                if function.op() == Op::SvfopCurrentCatalog {
                    return Err(refused("current_catalog"));
                }
                self.usage.clock |= !same;
            }
            NodeEnum::CollateClause(collate) => {
                let is_c = matches!(
                    *words(&collate.collname),
                    ["C" | "POSIX" | "ucs_basic"] | ["pg_catalog", "C" | "POSIX" | "ucs_basic"]
                );
                if !is_c {
                    self.usage.collation = Some(words(&collate.collname).join("."));
                }
            }
            NodeEnum::AExpr(expr) => {
                let qualified =
                    expr.name.len() > 1 && words(&expr.name).first() != Some(&"pg_catalog");
                if qualified {
                    return Err(refused("an operator of a schema"));
                }
            }
            NodeEnum::GroupingSet(_) => return Err(refused("GROUPING SETS, ROLLUP or CUBE")),
            _ => {}
        }
        parts(node)?
            .into_iter()
            .try_for_each(|part| self.expression(part))
    }

    fn call(&mut self, call: &pg_query::protobuf::FuncCall) -> Result<(), Error> {
        let name = words(&call.funcname).join(".");
        let found = called(call, self.scope.catalogue);
        if let Some(window) = call.over.as_deref() {
            self.usage.windows = true;
            self.usage.windows_local &= found.is_some() && self.is_partitioned(window);
            return Ok(());
        }
        match found {
            None => {
                return Err(refused(&format!(
                    "the function {name}, of which nothing is known,"
                )))
            }
            Some(_) if meant(call, self.scope.catalogue) != Meant::PostgreSql => {
                self.usage.whole = Some(format!("{name} of types that users may have made"));
            }
            Some(Known::Scalar) => {}
            Some(Known::Volatile) => self.usage.volatile = true,
            Some(Known::Clock) => self.usage.clock = true,
            Some(Known::Rows) => self.usage.rows = true,
            Some(Known::Aggregate) => self.usage.aggregates = true,
            Some(Known::Whole) => self.usage.whole = Some(name),
        }
        Ok(())
    }

    /// Is this window partitioned by the key?
    fn is_partitioned(&self, window: &pg_query::protobuf::WindowDef) -> bool {
        if !window.refname.is_empty() {
            return false;
        }
        let named = || {
            let mut windows =
                self.select
                    .window_clause
                    .iter()
                    .filter_map(|node| match inner(node) {
                        Some(NodeEnum::WindowDef(window)) => Some(window),
                        _ => None,
                    });
            windows.find(|found| found.name == window.name && found.refname.is_empty())
        };
        let partition = if window.name.is_empty() {
            &window.partition_clause
        } else {
            match named() {
                Some(window) => &window.partition_clause,
                None => return false,
            }
        };
        partition.iter().any(|node| self.scope.is_key(node))
    }

    /// Is this condition of WHERE `key IN (SELECT key …)`? A partner is then on the same shard. Elsewhere than in a
    /// condition that must hold it would matter that a shard does not see the NULLs of the others.
    fn is_in_by_key(&self, node: &Node) -> Result<bool, Error> {
        let Some(NodeEnum::SubLink(link)) = inner(node) else {
            return Ok(false);
        };
        let is_in = link.sub_link_type() == SubLinkType::AnySublink && link.oper_name.is_empty();
        let Some(NodeEnum::SelectStmt(select)) =
            link.subselect.as_deref().and_then(inner).filter(|_| is_in)
        else {
            return Ok(false);
        };
        let found = subquery(select, self.scope.catalogue, None);
        let Ok(Local { spread, keys, .. }) = found else {
            return Ok(false);
        };
        let test = link
            .testexpr
            .as_deref()
            .is_some_and(|test| self.scope.is_key(test));
        Ok(test && spread == self.scope.spread && targets(select).count() == 1 && keys.len() == 1)
    }

    /// A subquery in an expression. It sees the rows of its own shard.
    fn sublink(&self, select: &SelectStmt) -> Result<(), Error> {
        let found = subquery(select, self.scope.catalogue, Some(self.scope))?;
        if found.spread == Spread::Everywhere {
            return Ok(());
        }
        let condition = select.where_clause.as_deref();
        let scope = Scope::read(
            self.scope.catalogue,
            Some(self.scope),
            &select.from_clause,
            condition,
        )?;
        if scope.is_bound(condition) {
            return Ok(());
        }
        Err(refused(
            "a subquery over a sharded table that is not bound to the outer row's sharding key",
        ))
    }
}

/// Can every shard compute this subquery of an expression by itself, for its own rows? `condition`: it stands alone among
/// those of WHERE.
pub(super) fn sublink_is_local(
    node: &Node,
    condition: bool,
    select: &SelectStmt,
    scope: &Scope<'_>,
) -> bool {
    let check = Check {
        scope,
        select,
        usage: &mut Usage::default(),
    };
    if condition && check.is_in_by_key(node).unwrap_or(false) {
        return true;
    }
    match inner(node) {
        Some(NodeEnum::SubLink(link)) => match link.subselect.as_deref().and_then(inner) {
            Some(NodeEnum::SelectStmt(select)) => check.sublink(select).is_ok(),
            _ => false,
        },
        _ => false,
    }
}

/// Is WITH TIES asked for?
pub(super) fn with_ties(select: &SelectStmt) -> bool {
    select.limit_option() == LimitOption::WithTies
}
