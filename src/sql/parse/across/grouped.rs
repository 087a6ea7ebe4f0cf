//! GROUP BY, aggregates and HAVING across shards: each shard groups its rows, the merge puts groups together.
//!
//! The visible columns stay as they are, so that the shards' description has PostgreSQL's own names and types; what an
//! aggregate is put together from comes in hidden columns.

use pg_query::protobuf::{AExprKind, FuncCall, SelectStmt};
use pg_query::{Node, NodeEnum};

use super::functions::{known, Known};
use super::local::Usage;
use super::nodes::{
    any, column_name, function_name, inner, integer, is_star, lone_name, parse, text, words, wrap,
    write,
};
use super::outputs::{order_key, Found, Outputs, Reference};
use super::scope::{conjuncts, Scope};
use super::{limit, Asked, Catalogue, Of};
use crate::error::Error;
use crate::merge::plan::{
    Aggregate, Column, Comparison, Computed, Condition, Distinct, Expression, Function, Grouping,
    MergePlan, Operator,
};
use crate::merge::refused;
use crate::types::oid;

/// Plans a query with groups that span shards.
pub(super) fn plan(select: &SelectStmt, scope: &Scope<'_>, usage: &Usage) -> Result<Asked, Error> {
    if usage.volatile {
        return Err(refused("a volatile function beside aggregates"));
    }
    if usage.rows {
        return Err(refused("a set-returning function beside aggregates"));
    }
    if !select.locking_clause.is_empty() {
        return Err(refused("FOR UPDATE or FOR SHARE with aggregates"));
    }
    let mut outputs = Outputs::of(select);
    if outputs.expressions().any(is_star) {
        return Err(refused("GROUP BY with a star"));
    }
    let mut shards = select.clone();
    let mut groups = Groups {
        scope,
        aggregates: Vec::new(),
        computed: Vec::new(),
    };
    for (index, value) in outputs
        .expressions()
        .collect::<Vec<_>>()
        .into_iter()
        .enumerate()
    {
        groups.output(&mut outputs, Column::FromStart(index), value)?;
    }

    let mut keys = Vec::with_capacity(select.group_clause.len());
    for (index, item) in select.group_clause.iter().enumerate() {
        let (column, spelled) = key(&mut outputs, item, &select.group_clause, scope.catalogue)?;
        keys.push(column);
        if let (Some(spelled), Some(item)) = (spelled, shards.group_clause.get_mut(index)) {
            *item = spelled;
        }
    }

    let mut order = Vec::with_capacity(select.sort_clause.len());
    for sort in &select.sort_clause {
        let (node, key) = order_key(sort)?;
        let (column, found) = outputs.column(Reference::Output(node))?;
        if found == Found::Added {
            groups.output(&mut outputs, column, node)?;
        }
        order.push(key(column));
    }

    let (kept, conditions) = having(select, &mut outputs, &mut groups)?;
    shards.having_clause = kept;
    let distinct = if select.distinct_clause.is_empty() {
        Distinct::No
    } else {
        Distinct::Rows
    };
    let limit = limit::read(select)?;
    shards.sort_clause.clear();
    shards.distinct_clause.clear();
    limit::mention(&mut shards, limit)?;
    let hidden = outputs.append_to(&mut shards);
    for computed in &groups.computed {
        describe_only(&mut shards, computed.column)?;
    }
    if distinct == Distinct::Rows && hidden > 0 || super::distinct_on(select).is_some() {
        return Err(refused("DISTINCT of groups"));
    }
    Ok(Asked {
        of: Of::EveryShard,
        text: write(NodeEnum::SelectStmt(Box::new(shards)))?,
        plan: MergePlan {
            grouping: Some(Box::new(Grouping {
                keys,
                aggregates: groups.aggregates,
                computed: groups.computed,
            })),
            conditions,
            order,
            distinct,
            limit,
            hidden,
            ..MergePlan::concatenate()
        },
    })
}

/// Leaves of an output of the shards' query its name and type alone: a shard's part of an expression is of no use, and may
/// be an error where the whole is none (`sum(a) / sum(b)`).
fn describe_only(shards: &mut SelectStmt, column: Column) -> Result<(), Error> {
    let index = match column {
        Column::FromStart(index) => Some(index),
        Column::FromEnd(index) => shards.target_list.len().checked_sub(index + 1),
    };
    let target = index.and_then(|index| shards.target_list.get_mut(index));
    let Some(NodeEnum::ResTarget(target)) = target.and_then(|target| target.node.as_mut()) else {
        return Err(refused("this kind of output"));
    };
    target.name = column_name(target).unwrap_or("?column?").to_owned();
    let mut case = parse("CASE WHEN false THEN NULL END")?;
    if let Some(NodeEnum::CaseExpr(case)) = &mut case.node {
        if let Some(NodeEnum::CaseWhen(when)) =
            case.args.first_mut().and_then(|when| when.node.as_mut())
        {
            when.result = target.val.take();
        }
    }
    target.val = Some(Box::new(case));
    Ok(())
}

struct Groups<'s, 'a> {
    scope: &'s Scope<'a>,
    aggregates: Vec<Aggregate>,
    computed: Vec<Computed>,
}

fn is_aggregate(node: &NodeEnum) -> bool {
    matches!(node, NodeEnum::FuncCall(call) if function_name(call).and_then(known) == Some(Known::Aggregate))
}

impl Groups<'_, '_> {
    /// An output is an aggregate, or the same in all rows of a group.
    fn output(
        &mut self,
        outputs: &mut Outputs<'_>,
        column: Column,
        value: &Node,
    ) -> Result<(), Error> {
        if !any(value, &mut is_aggregate) {
            return Ok(());
        }
        let call = match inner(value) {
            Some(found @ NodeEnum::FuncCall(call)) if is_aggregate(found) => Some(call),
            Some(NodeEnum::TypeCast(cast)) => match cast.arg.as_deref().and_then(inner) {
                // A count is a sum of counts also as an int4.
                Some(NodeEnum::FuncCall(call)) if is_plain_count(call) && is_integer(cast) => {
                    Some(call)
                }
                _ => None,
            },
            _ => None,
        };
        let Some(call) = call else {
            let expression = self.expression(outputs, value)?;
            self.computed.push(Computed { column, expression });
            return Ok(());
        };
        let function = self.function(outputs, call)?;
        self.aggregates.push(Aggregate { column, function });
        Ok(())
    }

    /// An expression over aggregates, each of which has a column of its own.
    fn expression(&mut self, outputs: &mut Outputs<'_>, value: &Node) -> Result<Expression, Error> {
        let refuse = || refused("an expression over aggregates");
        let found = inner(value).ok_or_else(refuse)?;
        if is_aggregate(found) || !any(value, &mut is_aggregate) {
            if let Some(constant) = number(value) {
                return Ok(Expression::Constant(constant));
            }
            let (column, found) = outputs.column(Reference::Input(value))?;
            if found == Found::Added {
                self.output(outputs, column, value)?;
            }
            return Ok(Expression::Column(column));
        }
        let mut part = |node: Option<&Node>| {
            let node = node.ok_or_else(refuse)?;
            self.expression(outputs, node).map(Box::new)
        };
        Ok(match found {
            NodeEnum::AExpr(expr) => {
                let (left, right) = (part(expr.lexpr.as_deref())?, part(expr.rexpr.as_deref())?);
                let operator = match (expr.kind(), words(&expr.name).last()) {
                    (AExprKind::AexprNullif, _) => return Ok(Expression::NullIf(left, right)),
                    (AExprKind::AexprOp, Some(&"+")) => Operator::Add,
                    (AExprKind::AexprOp, Some(&"-")) => Operator::Subtract,
                    (AExprKind::AexprOp, Some(&"*")) => Operator::Multiply,
                    (AExprKind::AexprOp, Some(&"/")) => Operator::Divide,
                    _ => return Err(refuse()),
                };
                Expression::Arithmetic(operator, left, right)
            }
            NodeEnum::CoalesceExpr(expr) => {
                let items = expr
                    .args
                    .iter()
                    .map(|item| part(Some(item)).map(|item| *item));
                Expression::Coalesce(items.collect::<Result<_, _>>()?)
            }
            NodeEnum::FuncCall(call)
                if function_name(call) == Some("round") && call.over.is_none() =>
            {
                match call.args.as_slice() {
                    [value] => Expression::Round(part(Some(value))?, None),
                    [value, places] => {
                        let places = integer(places).and_then(|places| i32::try_from(places).ok());
                        Expression::Round(part(Some(value))?, Some(places.ok_or_else(refuse)?))
                    }
                    _ => return Err(refuse()),
                }
            }
            NodeEnum::TypeCast(cast) => {
                let name = cast
                    .type_name
                    .as_ref()
                    .filter(|name| name.array_bounds.is_empty() && name.typmods.is_empty());
                let type_oid = match *name.map(|name| words(&name.names)).unwrap_or_default() {
                    ["int2"] | ["pg_catalog", "int2"] => oid::INT2,
                    ["int4"] | ["pg_catalog", "int4"] => oid::INT4,
                    ["int8"] | ["pg_catalog", "int8"] => oid::INT8,
                    ["numeric"] | ["pg_catalog", "numeric"] => oid::NUMERIC,
                    ["float8"] | ["pg_catalog", "float8"] => oid::FLOAT8,
                    _ => return Err(refuse()),
                };
                Expression::Cast(part(cast.arg.as_deref())?, type_oid)
            }
            _ => return Err(refuse()),
        })
    }

    fn function(&self, outputs: &mut Outputs<'_>, call: &FuncCall) -> Result<Function, Error> {
        let name = function_name(call).unwrap_or_default();
        if !call.agg_order.is_empty() || call.agg_within_group || call.func_variadic {
            return Err(refused(&format!("ORDER BY or VARIADIC in {name}")));
        }
        // With DISTINCT of the key the shards have no value in common.
        let by_key = call.agg_distinct
            && call.args.len() == 1
            && call.args.iter().all(|node| self.scope.is_key(node));
        let distinct = call.agg_distinct && !by_key;
        let part = |outputs: &mut Outputs<'_>, name: &str, args: Vec<Node>| {
            let call = FuncCall {
                funcname: vec![word("pg_catalog"), word(name)],
                args,
                ..call.clone()
            };
            outputs.hide(wrap(NodeEnum::FuncCall(Box::new(call))))
        };
        Ok(match name {
            "count" if distinct => {
                if call.args.len() != 1 {
                    return Err(refused("count(DISTINCT …) of several values"));
                }
                Function::CountDistinct {
                    values: part(outputs, "array_agg", call.args.clone())?,
                }
            }
            "min" => Function::Least,
            "max" => Function::Greatest,
            "bool_and" | "every" => Function::And,
            "bool_or" => Function::Or,
            "bit_and" => Function::BitAnd,
            "bit_or" => Function::BitOr,
            "any_value" => Function::Any,
            _ if distinct => return Err(refused(&format!("{name}(DISTINCT …)"))),
            "count" | "sum" => Function::Sum,
            "bit_xor" => Function::BitXor,
            "avg" => Function::Average {
                sum: part(outputs, "sum", call.args.clone())?,
                count: part(outputs, "count", call.args.clone())?,
            },
            "stddev" | "stddev_samp" | "stddev_pop" | "variance" | "var_samp" | "var_pop" => {
                let [value] = call.args.as_slice() else {
                    return Err(refused(name));
                };
                let value = text(value)?;
                let value = value.strip_prefix("SELECT ").unwrap_or(&value);
                let square = parse(&format!("({value})::numeric * ({value})::numeric"))?;
                if call.agg_distinct {
                    return Err(refused(&format!("{name}(DISTINCT …)")));
                }
                Function::Deviation {
                    sum: part(outputs, "sum", call.args.clone())?,
                    squares: part(outputs, "sum", vec![square])?,
                    count: part(outputs, "count", call.args.clone())?,
                    sample: !name.ends_with("_pop"),
                    root: name.starts_with("stddev"),
                }
            }
            _ => return Err(refused(&format!("the aggregate {name}"))),
        })
    }
}

fn word(word: &str) -> Node {
    wrap(NodeEnum::String(pg_query::protobuf::String {
        sval: word.to_owned(),
    }))
}

fn is_plain_count(call: &FuncCall) -> bool {
    function_name(call) == Some("count") && !call.agg_distinct
}

fn is_integer(cast: &pg_query::protobuf::TypeCast) -> bool {
    cast.type_name.as_ref().is_some_and(|name| {
        name.array_bounds.is_empty()
            && matches!(
                *words(&name.names),
                ["int2" | "int4" | "int8"] | ["pg_catalog", "int2" | "int4" | "int8"]
            )
    })
}

/// The column of an item of GROUP BY, and how the shards' query must spell it if not as the client does.
fn key(
    outputs: &mut Outputs<'_>,
    item: &Node,
    all: &[Node],
    catalogue: &dyn Catalogue,
) -> Result<(Column, Option<Node>), Error> {
    match inner(item) {
        Some(NodeEnum::GroupingSet(_)) => return Err(refused("GROUPING SETS, ROLLUP or CUBE")),
        Some(NodeEnum::RowExpr(_)) => return Err(refused("GROUP BY of a row")),
        _ => {}
    }
    if integer(item).is_some() {
        return Ok((outputs.column(Reference::Output(item))?.0, None));
    }
    // A bare name is a column of a table if there is one, else an output's name.
    if let Some(name) = lone_name(item) {
        let mut named = (0..).map_while(|index| Some((index, outputs.target(index)?)));
        if let Some((index, target)) = named.find(|(_, target)| target.name == name) {
            let value = target
                .val
                .as_deref()
                .ok_or_else(|| refused("this kind of output"))?;
            if text(value)? == text(item)? {
                return Ok((Column::FromStart(index), None));
            }
            if !cannot_be_a_column(name, value, all, catalogue) {
                return Err(refused(
                    "GROUP BY of a name that may be an output's or a column's",
                ));
            }
            return Ok((Column::FromStart(index), Some(value.clone())));
        }
        // An output that is not named in the text has a name all the same: that of its function.
        if let Some(index) = outputs.named(name) {
            let value = outputs
                .target(index)
                .and_then(|target| target.val.as_deref());
            let computed =
                value.filter(|value| !matches!(inner(value), Some(NodeEnum::ColumnRef(_))));
            let output = computed.filter(|value| cannot_be_a_column(name, value, all, catalogue));
            if let Some(value) = output {
                return Ok((Column::FromStart(index), Some(value.clone())));
            }
        }
    }
    Ok((outputs.column(Reference::Input(item))?.0, None))
}

/// Can the name in GROUP BY only mean the output with this value? Were it a column, the output would have to be computed
/// from what is grouped by; it uses a column that is not. But where that column is a primary key, it may use all others.
pub(super) fn cannot_be_a_column(
    name: &str,
    value: &Node,
    all: &[Node],
    catalogue: &dyn Catalogue,
) -> bool {
    if catalogue.has_column(name) == Some(true) {
        return false;
    }
    let grouped: Vec<&str> = all.iter().filter_map(last_name).collect();
    let mut uses_itself = false;
    let mut uses_other = false;
    any(value, &mut |node| {
        if let NodeEnum::ColumnRef(column) = node {
            let column = words(&column.fields).last().copied().unwrap_or_default();
            uses_itself |= column == name;
            uses_other |= !grouped.contains(&column);
        }
        false
    });
    uses_other && !uses_itself
}

fn last_name(node: &Node) -> Option<&str> {
    match inner(node)? {
        NodeEnum::ColumnRef(column) => words(&column.fields).last().copied(),
        _ => None,
    }
}

/// HAVING in two parts: what the shards can decide, because it is the same for all of a group's rows, and what only the
/// merge can, because it is about an aggregate.
fn having(
    select: &SelectStmt,
    outputs: &mut Outputs<'_>,
    groups: &mut Groups<'_, '_>,
) -> Result<(Option<Box<Node>>, Vec<Condition>), Error> {
    let mut all = Vec::new();
    conjuncts(select.having_clause.as_deref(), &mut all);
    let mut kept: Vec<Node> = Vec::new();
    let mut conditions = Vec::new();
    for condition in all {
        if any(condition, &mut is_aggregate) {
            conditions.push(comparison(condition, outputs, groups)?);
        } else if select.group_clause.is_empty() {
            return Err(refused("HAVING without GROUP BY"));
        } else {
            kept.push(condition.clone());
        }
    }
    let kept = match kept.len() {
        0 => None,
        1 => kept.pop(),
        _ => {
            let texts = kept.iter().map(text).collect::<Result<Vec<_>, _>>()?;
            let texts: Vec<_> = texts
                .iter()
                .map(|text| format!("({})", text.trim_start_matches("SELECT ")))
                .collect();
            Some(parse(&texts.join(" AND "))?)
        }
    };
    Ok((kept.map(Box::new), conditions))
}

/// `count(*) > 5`
fn comparison(
    condition: &Node,
    outputs: &mut Outputs<'_>,
    groups: &mut Groups<'_, '_>,
) -> Result<Condition, Error> {
    let refuse = || refused("HAVING other than comparing an aggregate with a number");
    let Some(NodeEnum::AExpr(expr)) = inner(condition) else {
        return Err(refuse());
    };
    let (Some(left), Some(right)) = (expr.lexpr.as_deref(), expr.rexpr.as_deref()) else {
        return Err(refuse());
    };
    let operator = match *words(&expr.name) {
        [operator] if expr.kind() == AExprKind::AexprOp => operator,
        _ => return Err(refuse()),
    };
    let (value, constant, mirrored) = match (number(left), number(right)) {
        (None, Some(constant)) => (left, constant, false),
        (Some(constant), None) => (right, constant, true),
        _ => return Err(refuse()),
    };
    let comparison = match (operator, mirrored) {
        ("<", false) | (">", true) => Comparison::Less,
        ("<=", false) | (">=", true) => Comparison::LessOrEqual,
        ("=", _) => Comparison::Equal,
        ("<>" | "!=", _) => Comparison::NotEqual,
        (">=", false) | ("<=", true) => Comparison::GreaterOrEqual,
        (">", false) | ("<", true) => Comparison::Greater,
        _ => return Err(refuse()),
    };
    let (column, found) = outputs.column(Reference::Input(value))?;
    if found == Found::Added {
        groups.output(outputs, column, value)?;
    }
    Ok(Condition {
        column,
        comparison,
        constant,
    })
}

/// A number as PostgreSQL writes a numeric.
fn number(node: &Node) -> Option<String> {
    use pg_query::protobuf::a_const::Val;
    match inner(node)? {
        NodeEnum::AConst(constant) if !constant.isnull => match constant.val.as_ref()? {
            Val::Ival(value) => Some(value.ival.to_string()),
            Val::Fval(value) => {
                let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.' || byte == b'-';
                let text = value.fval.as_str();
                (text.bytes().all(plain) && !text.starts_with('.') && !text.ends_with('.'))
                    .then(|| text.to_owned())
            }
            _ => None,
        },
        // The parser leaves out the value of a zero.
        _ => None,
    }
}
