//! Functions of users that are called like those of PostgreSQL: which of them a call means depends on the types of its arguments.

use pg_query::protobuf::{AExprKind, FuncCall, SelectStmt};
use pg_query::{Node, NodeEnum, NodeRef};

use super::functions::known;
use super::nodes::{any, function_name, words};
use super::{Catalogue, Placed};
use crate::sql::parse::walk::children;

/// What functions of users there are of one name, beside PostgreSQL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Overload {
    /// They take types that users have made, and no domains.
    OwnTypes,
    /// They may take PostgreSQL's types, too.
    AnyTypes,
    /// They take domains, whose values look like those of another type. PostgreSQL has the same of what these are domains of, so that no
    /// other values are theirs.
    Domains,
    /// They take domains, and perhaps what PostgreSQL's do not take.
    AnyDomains,
}

impl Overload {
    /// Asks a server for these functions, where one of the two is an aggregate: name and kind, see [`Self::of`].
    pub const QUERY: &'static str = "SELECT p.proname, CASE WHEN bool_or(a.domains) THEN \
        CASE WHEN bool_and(CASE WHEN a.domains THEN a.bases = ANY (b.takes) ELSE a.own END) THEN 'd' ELSE 'e' END \
        WHEN bool_and(a.own) THEN 'o' ELSE 'a' END FROM pg_catalog.pg_proc p \
        CROSS JOIN LATERAL (SELECT bool_or(t.typtype = 'd') AS domains, bool_and(t.oid >= 16384) AS own, \
        string_agg(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END::text, ' ' ORDER BY a.n) AS bases \
        FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a (oid, n) JOIN pg_catalog.pg_type t ON t.oid = a.oid) a \
        JOIN (SELECT b.proname, bool_or(b.oid IN (SELECT aggfnoid FROM pg_catalog.pg_aggregate)) AS aggregates, \
        array_agg(b.proargtypes::text) AS takes \
        FROM pg_catalog.pg_proc b WHERE b.pronamespace = 'pg_catalog'::pg_catalog.regnamespace GROUP BY 1) b \
        ON b.proname = p.proname WHERE p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace \
        AND (b.aggregates OR p.oid IN (SELECT aggfnoid FROM pg_catalog.pg_aggregate)) GROUP BY 1";

    /// What that says.
    pub fn of(told: &[u8]) -> Self {
        match told {
            b"o" => Self::OwnTypes,
            b"d" => Self::Domains,
            b"e" => Self::AnyDomains,
            _ => Self::AnyTypes,
        }
    }
}

/// Which function a call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// PostgreSQL's.
    PostgreSql,
    /// Only a server that has the values knows.
    Unknown,
    /// One of users, or what is gathered would not have its types.
    Own,
}

pub(super) fn meant(call: &FuncCall, catalogue: &dyn Catalogue) -> Meant {
    let [name] = *words(&call.funcname) else {
        return Meant::PostgreSql; // or of a schema: nothing is known of these
    };
    match catalogue.overload(name) {
        None => Meant::PostgreSql,
        Some(Overload::AnyDomains) => Meant::Own,
        Some(Overload::Domains) => {
            let has_domain = |value: &Node| {
                any(value, &mut |node| match node {
                    NodeEnum::ColumnRef(column) => {
                        let name = words(&column.fields).last().copied().unwrap_or_default();
                        !catalogue.is_built_in(name)
                    }
                    // Of no type, and maybe of the domain's.
                    NodeEnum::ParamRef(_) => true,
                    _ => false,
                })
            };
            let is_plain = |value: &Node| is_of_postgres(value, catalogue) && !has_domain(value);
            match call.args.iter().all(is_plain) {
                true => Meant::PostgreSql,
                false => Meant::Own,
            }
        }
        Some(Overload::AnyTypes) => Meant::Unknown,
        Some(Overload::OwnTypes) => {
            let all = |is: &dyn Fn(&Node) -> bool| call.args.iter().all(is);
            if all(&|value| is_of_postgres(value, catalogue)) {
                Meant::PostgreSql
            } else if all(&|value| !names_own(value, catalogue)) {
                Meant::Unknown
            } else {
                Meant::Own
            }
        }
    }
}

/// Is a value certainly of one of PostgreSQL's types?
fn is_of_postgres(value: &Node, catalogue: &dyn Catalogue) -> bool {
    !any(value, &mut |node| match node {
        NodeEnum::ColumnRef(column) => {
            let name = words(&column.fields).last().copied().unwrap_or_default();
            catalogue.is_of_postgres(name) != Some(true)
        }
        NodeEnum::TypeCast(cast) => {
            let name = cast.type_name.as_ref().map(|name| words(&name.names));
            !match name.as_deref() {
                Some(["pg_catalog", _]) => true,
                Some([name]) => is_type(name),
                _ => false,
            }
        }
        NodeEnum::FuncCall(call) => {
            function_name(call).and_then(known).is_none()
                || meant(call, catalogue) != Meant::PostgreSql
        }
        NodeEnum::AExpr(expr) => {
            expr.kind() == AExprKind::AexprOp
                && !words(&expr.name)
                    .last()
                    .is_some_and(|name| OPERATORS.contains(name))
        }
        NodeEnum::AConst(_)
        | NodeEnum::BoolExpr(_)
        | NodeEnum::NullTest(_)
        | NodeEnum::BooleanTest(_)
        | NodeEnum::CaseExpr(_)
        | NodeEnum::CaseWhen(_)
        | NodeEnum::CoalesceExpr(_)
        | NodeEnum::MinMaxExpr(_)
        | NodeEnum::SqlvalueFunction(_)
        | NodeEnum::List(_) => false,
        _ => true,
    })
}

/// Is there a column in it that is certainly of a type that users have made?
fn names_own(value: &Node, catalogue: &dyn Catalogue) -> bool {
    any(value, &mut |node| match node {
        NodeEnum::ColumnRef(column) => {
            let name = words(&column.fields).last().copied().unwrap_or_default();
            catalogue.is_of_postgres(name) == Some(false)
        }
        _ => false,
    })
}

/// Operators that give, of PostgreSQL's types, one of these.
const OPERATORS: [&str; 13] = [
    "+", "-", "*", "/", "%", "^", "||", "=", "<>", "<", ">", "<=", ">=",
];

/// Is this the name of a type of PostgreSQL? Only usual ones are known.
pub fn is_type(name: &str) -> bool {
    TYPES.split_ascii_whitespace().any(|known| known == name)
}

const TYPES: &str = "bool bytea name int2 int4 int8 oid text varchar bpchar float4 float8 numeric money date time timetz
    timestamp timestamptz interval uuid json jsonb inet cidr macaddr bit varbit xml";

/// A statement in which columns may have other names, or types, than in their tables.
pub(super) struct Renaming<'a>(pub(super) &'a dyn Catalogue);

impl Catalogue for Renaming<'_> {
    fn table(&self, schema: Option<&str>, table: &str) -> Placed {
        self.0.table(schema, table)
    }

    fn has_column(&self, column: &str) -> Option<bool> {
        self.0.has_column(column)
    }

    fn is_immutable(&self, schema: Option<&str>, function: &str) -> bool {
        self.0.is_immutable(schema, function)
    }

    fn overload(&self, function: &str) -> Option<Overload> {
        self.0.overload(function)
    }
}

/// Does something in it give columns names?
pub(super) fn renames(select: &SelectStmt) -> bool {
    node_renames(NodeRef::SelectStmt(select))
}

fn node_renames(node: NodeRef<'_>) -> bool {
    let mut found = match node {
        NodeRef::RangeVar(table) => {
            let alias = table.alias.as_ref();
            alias.is_some_and(|alias| !alias.colnames.is_empty())
        }
        NodeRef::JoinExpr(join) => join.alias.is_some(),
        NodeRef::RangeSubselect(_)
        | NodeRef::RangeFunction(_)
        | NodeRef::RangeTableFunc(_)
        | NodeRef::CommonTableExpr(_) => true,
        _ => false,
    };
    let understood = children(node, &mut |child| found = found || node_renames(child));
    found || !understood
}
