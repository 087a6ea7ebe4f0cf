//! The parser's expressions: their parts, their names as columns, whether two are the same.

use pg_query::protobuf::{
    self, a_const, AConst, FuncCall, ResTarget, SelectStmt, SqlValueFunctionOp, SubLinkType,
    TypeName,
};
use pg_query::{Node, NodeEnum};

use crate::error::Error;
use crate::merge::refused;

/// The part of a node that is not its wrapping.
pub(super) fn inner(node: &Node) -> Option<&NodeEnum> {
    node.node.as_ref()
}

pub(super) fn wrap(node: NodeEnum) -> Node {
    Node { node: Some(node) }
}

/// The direct parts of an expression, those of a subquery excepted.
///
/// Errors: 0A000 for a kind of expression that is not known here, with its name.
pub(super) fn parts(node: &NodeEnum) -> Result<Vec<&Node>, Error> {
    let mut parts: Vec<&Node> = Vec::new();
    match node {
        NodeEnum::ColumnRef(_)
        | NodeEnum::AConst(_)
        | NodeEnum::ParamRef(_)
        | NodeEnum::SqlvalueFunction(_)
        | NodeEnum::String(_)
        | NodeEnum::AStar(_) => {}
        NodeEnum::TypeCast(cast) => parts.extend(cast.arg.as_deref()),
        NodeEnum::CollateClause(collate) => parts.extend(collate.arg.as_deref()),
        NodeEnum::AExpr(expr) => {
            parts.extend(expr.lexpr.as_deref());
            parts.extend(expr.rexpr.as_deref());
        }
        NodeEnum::BoolExpr(expr) => parts.extend(&expr.args),
        NodeEnum::List(list) => parts.extend(&list.items),
        NodeEnum::NullTest(test) => parts.extend(test.arg.as_deref()),
        NodeEnum::BooleanTest(test) => parts.extend(test.arg.as_deref()),
        NodeEnum::CaseExpr(case) => {
            parts.extend(case.arg.as_deref());
            parts.extend(&case.args);
            parts.extend(case.defresult.as_deref());
        }
        NodeEnum::CaseWhen(when) => {
            parts.extend(when.expr.as_deref());
            parts.extend(when.result.as_deref());
        }
        NodeEnum::CoalesceExpr(expr) => parts.extend(&expr.args),
        NodeEnum::MinMaxExpr(expr) => parts.extend(&expr.args),
        NodeEnum::AArrayExpr(expr) => parts.extend(&expr.elements),
        NodeEnum::RowExpr(expr) => parts.extend(&expr.args),
        NodeEnum::NamedArgExpr(expr) => parts.extend(expr.arg.as_deref()),
        NodeEnum::AIndirection(expr) => {
            parts.extend(expr.arg.as_deref());
            parts.extend(&expr.indirection);
        }
        NodeEnum::AIndices(expr) => {
            parts.extend(expr.lidx.as_deref());
            parts.extend(expr.uidx.as_deref());
        }
        NodeEnum::ResTarget(target) => parts.extend(target.val.as_deref()),
        NodeEnum::SortBy(sort) => parts.extend(sort.node.as_deref()),
        NodeEnum::SubLink(link) => parts.extend(link.testexpr.as_deref()),
        NodeEnum::WindowDef(window) => {
            parts.extend(&window.partition_clause);
            parts.extend(&window.order_clause);
            parts.extend(window.start_offset.as_deref());
            parts.extend(window.end_offset.as_deref());
        }
        NodeEnum::FuncCall(call) => {
            parts.extend(&call.args);
            parts.extend(&call.agg_order);
            parts.extend(call.agg_filter.as_deref());
            if let Some(window) = call.over.as_deref() {
                parts.extend(&window.partition_clause);
                parts.extend(&window.order_clause);
                parts.extend(window.start_offset.as_deref());
                parts.extend(window.end_offset.as_deref());
            }
        }
        other => return Err(refused(kind(other))),
    }
    Ok(parts)
}

/// What people call an expression that is not known here.
fn kind(node: &NodeEnum) -> &'static str {
    match node {
        NodeEnum::GroupingFunc(_) => "GROUPING",
        NodeEnum::GroupingSet(_) => "GROUPING SETS, ROLLUP or CUBE",
        NodeEnum::XmlExpr(_) | NodeEnum::XmlSerialize(_) => "an XML expression",
        NodeEnum::JsonObjectAgg(_) | NodeEnum::JsonArrayAgg(_) => "JSON_OBJECTAGG or JSON_ARRAYAGG",
        NodeEnum::CurrentOfExpr(_) => "WHERE CURRENT OF",
        NodeEnum::SetToDefault(_) => "DEFAULT",
        _ => "this kind of expression",
    }
}

/// Calls `each` with an expression and all its parts, those of subqueries excepted, until it says that it has found
/// what it looks for.
pub(super) fn any(node: &Node, each: &mut dyn FnMut(&NodeEnum) -> bool) -> bool {
    let Some(node) = inner(node) else {
        return false;
    };
    each(node) || parts(node).is_ok_and(|parts| parts.into_iter().any(|part| any(part, each)))
}

/// The words of a name: `a.b`; a star is `*`.
pub(super) fn words(nodes: &[Node]) -> Vec<&str> {
    let mut found = Vec::with_capacity(nodes.len());
    for node in nodes {
        match inner(node) {
            Some(NodeEnum::String(word)) => found.push(word.sval.as_str()),
            _ => found.push("*"),
        }
    }
    found
}

/// The name of a column reference of one word.
pub(super) fn lone_name(node: &Node) -> Option<&str> {
    match inner(node)? {
        NodeEnum::ColumnRef(column) => match *words(&column.fields) {
            [name] if name != "*" => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// The name of a function of PostgreSQL; `None` for one of another schema.
pub(super) fn function_name(call: &FuncCall) -> Option<&str> {
    match *words(&call.funcname) {
        [name] | ["pg_catalog", name] => Some(name),
        _ => None,
    }
}

/// Does this column end in a star?
pub(super) fn is_star(node: &Node) -> bool {
    matches!(inner(node), Some(NodeEnum::ColumnRef(column)) if words(&column.fields).last() == Some(&"*"))
}

/// An integer written in the text.
pub(super) fn integer(node: &Node) -> Option<i64> {
    match inner(node)? {
        NodeEnum::AConst(AConst {
            val: Some(value),
            isnull: false,
            ..
        }) => match value {
            a_const::Val::Ival(value) => Some(value.ival.into()),
            a_const::Val::Fval(value) => value.fval.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// The name that PostgreSQL gives to a column of this expression; `None` for `?column?`.
///
/// Source: `FigureColnameInternal`
pub(super) fn column_name(target: &ResTarget) -> Option<&str> {
    if !target.name.is_empty() {
        return Some(&target.name);
    }
    target
        .val
        .as_deref()
        .and_then(figured)
        .map(|(name, _)| name)
}

/// The name, and whether it is a strong one, which a cast does not change.
fn figured(node: &Node) -> Option<(&str, bool)> {
    match inner(node)? {
        NodeEnum::ColumnRef(column) => words(&column.fields).last().map(|name| (*name, true)),
        NodeEnum::AIndirection(indirection) => {
            let named = words(&indirection.indirection)
                .into_iter()
                .rev()
                .find(|name| *name != "*");
            named
                .map(|name| (name, true))
                .or_else(|| indirection.arg.as_deref().and_then(figured))
        }
        NodeEnum::FuncCall(call) => words(&call.funcname).last().map(|name| (*name, true)),
        NodeEnum::AExpr(expr) if expr.kind() == protobuf::AExprKind::AexprNullif => {
            Some(("nullif", true))
        }
        NodeEnum::TypeCast(cast) => match cast.arg.as_deref().and_then(figured) {
            Some((name, true)) => Some((name, true)),
            _ => cast
                .type_name
                .as_ref()
                .and_then(last_word)
                .map(|name| (name, false)),
        },
        NodeEnum::CollateClause(collate) => collate.arg.as_deref().and_then(figured),
        NodeEnum::CaseExpr(case) => match case.defresult.as_deref().and_then(figured) {
            Some((name, true)) => Some((name, true)),
            _ => Some(("case", false)),
        },
        NodeEnum::AArrayExpr(_) => Some(("array", true)),
        NodeEnum::SubLink(link) => match link.sub_link_type() {
            SubLinkType::ExistsSublink => Some(("exists", true)),
            SubLinkType::ArraySublink => Some(("array", true)),
            SubLinkType::ExprSublink => named_below(link.subselect.as_deref()?),
            _ => None,
        },
        NodeEnum::SqlvalueFunction(value) => named_value(value.op()).map(|name| (name, true)),
        NodeEnum::RowExpr(_) => Some(("row", true)),
        NodeEnum::CoalesceExpr(_) => Some(("coalesce", true)),
        NodeEnum::MinMaxExpr(expr) => Some((
            if expr.op() == protobuf::MinMaxOp::IsGreatest {
                "greatest"
            } else {
                "least"
            },
            true,
        )),
        _ => None,
    }
}

/// The name of the only column of a subquery: that of its first branch, if it has several.
fn named_below(subselect: &Node) -> Option<(&str, bool)> {
    let Some(NodeEnum::SelectStmt(select)) = inner(subselect) else {
        return None;
    };
    let mut first: &SelectStmt = select;
    while let Some(left) = first.larg.as_deref() {
        first = left;
    }
    let Some(NodeEnum::ResTarget(target)) = first.target_list.first().and_then(inner) else {
        return Some(("column1", true)); // VALUES
    };
    Some((column_name(target).unwrap_or("?column?"), true))
}

fn named_value(function: SqlValueFunctionOp) -> Option<&'static str> {
    use SqlValueFunctionOp as Op;
    Some(match function {
        Op::SvfopCurrentDate => "current_date",
        Op::SvfopCurrentTime | Op::SvfopCurrentTimeN => "current_time",
        Op::SvfopCurrentTimestamp | Op::SvfopCurrentTimestampN => "current_timestamp",
        Op::SvfopLocaltime | Op::SvfopLocaltimeN => "localtime",
        Op::SvfopLocaltimestamp | Op::SvfopLocaltimestampN => "localtimestamp",
        Op::SvfopCurrentRole => "current_role",
        Op::SvfopCurrentUser => "current_user",
        Op::SvfopUser => "user",
        Op::SvfopSessionUser => "session_user",
        Op::SvfopCurrentCatalog => "current_catalog",
        Op::SvfopCurrentSchema => "current_schema",
        Op::SqlvalueFunctionOpUndefined => return None,
    })
}

fn last_word(name: &TypeName) -> Option<&str> {
    words(&name.names).last().copied()
}

/// The expression as text without regard to where it stood, to compare two.
///
/// Errors: what the parser library cannot write.
pub(super) fn text(node: &Node) -> Result<String, Error> {
    let target = wrap(NodeEnum::ResTarget(Box::new(ResTarget {
        val: Some(Box::new(node.clone())),
        ..ResTarget::default()
    })));
    let select = SelectStmt {
        target_list: vec![target],
        limit_option: protobuf::LimitOption::Default.into(),
        op: protobuf::SetOperation::SetopNone.into(),
        ..SelectStmt::default()
    };
    write(NodeEnum::SelectStmt(Box::new(select)))
}

/// A statement as text.
pub(super) fn write(statement: NodeEnum) -> Result<String, Error> {
    let statement = protobuf::RawStmt {
        stmt: Some(Box::new(wrap(statement))),
        stmt_location: 0,
        stmt_len: 0,
    };
    let tree = protobuf::ParseResult {
        stmts: vec![statement],
        ..protobuf::ParseResult::default()
    };
    pg_query::deparse(&tree, pg_query::DeparseOptions::default())
        .map_err(|_| refused("a statement that cannot be rewritten"))
}

/// The expression of this SQL, which is ours.
pub(super) fn parse(expression: &str) -> Result<Node, Error> {
    let failed = || refused("a statement that cannot be rewritten");
    let tree = pg_query::parse(
        &format!("SELECT {expression}"),
        pg_query::ParserOptions::default(),
    )
    .map_err(|_| failed())?;
    let statement = tree
        .protobuf
        .stmts
        .into_iter()
        .next()
        .and_then(|raw| raw.stmt?.node);
    match statement {
        Some(NodeEnum::SelectStmt(select)) => {
            let target = select
                .target_list
                .into_iter()
                .next()
                .and_then(|target| target.node);
            match target {
                Some(NodeEnum::ResTarget(target)) => {
                    target.val.map(|value| *value).ok_or_else(failed)
                }
                _ => Err(failed()),
            }
        }
        _ => Err(failed()),
    }
}
