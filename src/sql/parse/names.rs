//! Strings and numbers out of nodes.

use pg_query::protobuf as pb;
use pg_query::protobuf::a_const::Val;
use pg_query::NodeEnum;

/// A list of strings: the parts of a qualified name.
pub(super) fn parts(list: &[pb::Node]) -> Vec<&str> {
    list.iter().filter_map(string).collect()
}

/// The last two parts of a qualified name: schema and name.
pub(super) fn qualified(list: &[pb::Node]) -> (Option<Box<str>>, Box<str>) {
    let parts = parts(list);
    match parts.as_slice() {
        [.., schema, name] => (Some((*schema).into()), (*name).into()),
        [name] => (None, (*name).into()),
        [] => (None, "".into()),
    }
}

/// Has a column of this name the name of a system column?
pub(super) fn is_system_column(column: &pb::ColumnRef) -> bool {
    matches!(
        column.fields.last().and_then(string),
        Some("ctid" | "tableoid" | "xmin" | "xmax" | "cmin" | "cmax")
    )
}

/// A string node's content.
pub(super) fn string(node: &pb::Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::String(string) => Some(&string.sval),
        _ => None,
    }
}

/// Nothing for an empty string, as the tree has them for what is not there.
pub(super) fn some(text: &str) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// A value of SET, COPY or EXPLAIN, as text: constants, words, types of constants left out.
pub(super) fn value(node: &pb::Node) -> Option<Box<str>> {
    match node.node.as_ref()? {
        NodeEnum::AConst(constant) => constant_text(constant),
        NodeEnum::String(string) => Some(string.sval.as_str().into()),
        NodeEnum::Integer(integer) => Some(integer.ival.to_string().into()),
        NodeEnum::Float(float) => Some(float.fval.as_str().into()),
        NodeEnum::Boolean(boolean) => Some(if boolean.boolval { "true" } else { "false" }.into()),
        NodeEnum::TypeCast(cast) => value(cast.arg.as_ref()?),
        NodeEnum::TypeName(name) => Some(qualified(&name.names).1),
        NodeEnum::AStar(_) => Some("*".into()),
        _ => None,
    }
}

/// A constant as text, none for NULL.
pub(super) fn constant_text(constant: &pb::AConst) -> Option<Box<str>> {
    Some(match constant.val.as_ref()? {
        Val::Ival(integer) => integer.ival.to_string().into(),
        Val::Fval(float) => float.fval.as_str().into(),
        Val::Boolval(boolean) => if boolean.boolval { "true" } else { "false" }.into(),
        Val::Sval(string) => string.sval.as_str().into(),
        Val::Bsval(bits) => bits.bsval.as_str().into(),
    })
}

/// Is an option on: `ANALYZE`, `ANALYZE true`, `ANALYZE 1`, `ANALYZE on`? What is not understood counts as on.
pub(super) fn is_on(option: &pb::DefElem) -> bool {
    let Some(argument) = &option.arg else {
        return true;
    };
    let off = ["false", "off", "0"];
    value(argument).is_none_or(|value| !off.iter().any(|word| value.eq_ignore_ascii_case(word)))
}

/// The options of a list.
pub(super) fn options(list: &[pb::Node]) -> impl Iterator<Item = &pb::DefElem> {
    list.iter().filter_map(|node| match node.node.as_ref()? {
        NodeEnum::DefElem(option) => Some(&**option),
        _ => None,
    })
}
