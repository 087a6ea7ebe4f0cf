//! LIMIT and OFFSET: what the merge counts off, and what the shards are asked for.

use pg_query::protobuf::{a_const, AConst, Integer, LimitOption, SelectStmt};
use pg_query::{Node, NodeEnum};

use super::local::with_ties;
use super::nodes::{inner, parse, words, wrap};
use crate::error::{Error, Fault};
use crate::merge::plan::{Bound, Limit};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;
use crate::types::oid;

/// Reads the limit of a query.
///
/// Errors: 0A000 for expressions, PostgreSQL's own for negative numbers.
pub(super) fn read(select: &SelectStmt) -> Result<Limit, Error> {
    let limit = Limit {
        count: bound(
            select.limit_count.as_deref(),
            oid::INT8,
            "LIMIT",
            SqlState::INVALID_ROW_COUNT_IN_LIMIT_CLAUSE,
        )?,
        offset: bound(
            select.limit_offset.as_deref(),
            oid::INT8,
            "OFFSET",
            SqlState::INVALID_ROW_COUNT_IN_RESULT_OFFSET_CLAUSE,
        )?,
        with_ties: with_ties(select),
    };
    if limit.with_ties
        && !matches!(
            (limit.count, limit.offset),
            (Bound::Constant(_), Bound::None | Bound::Constant(_))
        )
    {
        return Err(refused("WITH TIES with a parameter"));
    }
    Ok(limit)
}

/// One number of rows. `type_oid`: what type a parameter has there.
fn bound(
    node: Option<&Node>,
    type_oid: u32,
    name: &str,
    negative: SqlState,
) -> Result<Bound, Error> {
    let refuse = || refused(&format!("{name} with an expression"));
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| refuse());
    let Some(node) = node.and_then(inner) else {
        return Ok(Bound::None);
    };
    let value = match node {
        NodeEnum::AConst(AConst { isnull: true, .. }) => return Ok(Bound::None),
        NodeEnum::AConst(AConst {
            val: Some(value), ..
        }) => match value {
            a_const::Val::Ival(value) => i64::from(value.ival),
            a_const::Val::Fval(value) => number(&value.fval)?,
            a_const::Val::Sval(value) => number(&value.sval)?,
            _ => return Err(refuse()),
        },
        NodeEnum::ParamRef(parameter) => {
            let number = usize::try_from(parameter.number).map_err(|_| refuse())?;
            return Ok(Bound::Parameter { number, type_oid });
        }
        NodeEnum::TypeCast(cast) => {
            let names = cast
                .type_name
                .as_ref()
                .map(|name| words(&name.names))
                .unwrap_or_default();
            let arrays = cast
                .type_name
                .as_ref()
                .is_some_and(|name| !name.array_bounds.is_empty());
            let type_oid = match names.last() {
                Some(&"int8") if !arrays => oid::INT8,
                Some(&"int4") if !arrays => oid::INT4,
                Some(&"int2") if !arrays => oid::INT2,
                _ => return Err(refuse()),
            };
            return bound(cast.arg.as_deref(), type_oid, name, negative);
        }
        _ => return Err(refuse()),
    };
    u64::try_from(value).map(Bound::Constant).map_err(|_| {
        Error::error(
            Fault::Client,
            negative,
            format!("{name} must not be negative"),
        )
    })
}

/// Makes a shard's query give as many rows as the merge may want: the first `count + offset`.
pub(super) fn push_down(select: &mut SelectStmt, limit: Limit) -> Result<(), Error> {
    let pushed = match (limit.count, limit.offset) {
        (Bound::None, Bound::None | Bound::Constant(_)) => None,
        (Bound::None, Bound::Parameter { .. }) => return mention(select, limit),
        (Bound::Constant(count), Bound::None) => Some(constant(count)?),
        (Bound::Constant(count), Bound::Constant(offset)) => {
            Some(constant(count.saturating_add(offset))?)
        }
        (count, offset) => {
            let term = |bound| match bound {
                Bound::None => "0".to_owned(),
                Bound::Constant(count) => count.to_string(),
                Bound::Parameter { number, type_oid } => cast(number, type_oid),
            };
            // NULL is no limit: both functions pass over it. A negative OFFSET is an error of the whole query. Neither sum can
            // be too great for an int8. PostgreSQL reads OFFSET first, which may give a parameter of both its type.
            let (count, offset) = (term(count), format!("GREATEST({}, 0)", term(offset)));
            Some(parse(&format!(
                "LEAST({} - {offset}, {count}) + {offset}",
                i64::MAX
            ))?)
        }
    };
    let option = match (&pushed, limit.with_ties) {
        (None, _) => LimitOption::Default,
        (Some(_), true) => LimitOption::WithTies,
        (Some(_), false) => LimitOption::Count,
    };
    select.limit_offset = None;
    select.limit_count = pushed.map(Box::new);
    select.set_limit_option(option);
    Ok(())
}

/// Makes a shard's query give all rows, and yet have the parameters of its limit: a client binds them.
pub(super) fn mention(select: &mut SelectStmt, limit: Limit) -> Result<(), Error> {
    let parameters = [limit.offset, limit.count]
        .into_iter()
        .filter_map(|bound| match bound {
            Bound::Parameter { number, type_oid } => Some(cast(number, type_oid)),
            _ => None,
        });
    let parameters: Vec<_> = parameters.collect();
    select.limit_offset = None;
    select.limit_count = None;
    select.set_limit_option(LimitOption::Default);
    if !parameters.is_empty() {
        let text = format!(
            "CASE WHEN COALESCE({}) IS NULL THEN NULL::int8 END",
            parameters.join(", ")
        );
        select.limit_count = Some(Box::new(parse(&text)?));
        select.set_limit_option(LimitOption::Count);
    }
    Ok(())
}

/// A parameter as a bigint. Its own type is that of the first cast.
fn cast(number: usize, type_oid: u32) -> String {
    let first = match type_oid {
        oid::INT2 => "::int2",
        oid::INT4 => "::int4",
        _ => "",
    };
    format!("${number}{first}::int8")
}

fn constant(count: u64) -> Result<Node, Error> {
    match i32::try_from(count) {
        Ok(ival) => Ok(wrap(NodeEnum::AConst(AConst {
            val: Some(a_const::Val::Ival(Integer { ival })),
            ..AConst::default()
        }))),
        Err(_) => parse(&count.min(i64::MAX as u64).to_string()),
    }
}
