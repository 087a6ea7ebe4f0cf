//! The columns of the legs' rows: do all legs have the same, and what a plan means by its columns.

use super::aggregate::Computed;
use super::expression::Formula;
use super::plan::{Column, Distinct, MergePlan};
use super::row::Row;
use super::{not_known, refused, unsupported_type};
use crate::error::{Error, Fault};
use crate::protocol::rows::{Field, RowDescription};
use crate::protocol::sqlstate::SqlState;
use crate::types::enums::{Enums, UserType};
use crate::types::key::{Kind, Purpose};
use crate::types::{numeric, oid, read_integer, Format, Invalid, Known, Session};

/// A value of a leg that is not written as its type is.
pub(super) fn invalid_value() -> Error {
    refused("merging a value of this form").detail(
        "It is written in another DateStyle or IntervalStyle than ISO and postgres, or is a new label of an enum.",
    )
}

/// Type and format of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) oid: u32,
    pub(super) format: Format,
}

/// A plan whose columns are known.
#[derive(Debug)]
pub(super) struct Columns {
    /// Number of columns of the legs' rows.
    pub(super) count: usize,
    pub(super) order: Vec<Key>,
    pub(super) distinct: Vec<Key>,
    pub(super) groups: Vec<Key>,
    pub(super) aggregates: Vec<Computed>,
    pub(super) formulas: Vec<Formula>,
    pub(super) conditions: Vec<Check>,
}

/// A column by which rows are compared.
#[derive(Clone, Debug)]
pub(super) struct Key {
    index: usize,
    kind: Kind,
    format: Format,
    descending: bool,
    nulls_first: bool,
}

impl Key {
    /// Appends what orders a row by this column.
    fn put(&self, row: Row<'_>, out: &mut Vec<u8>) -> Result<(), Invalid> {
        let Some(value) = row.value(self.index) else {
            out.push(if self.nulls_first { 0 } else { 2 });
            return Ok(());
        };
        out.push(1);
        let start = out.len();
        self.kind.put(self.format, value, out)?;
        if self.descending {
            out.iter_mut().skip(start).for_each(|byte| *byte = !*byte);
        }
        Ok(())
    }
}

/// Appends what orders, or identifies, a row by these columns.
pub(super) fn put_keys(keys: &[Key], row: Row<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
    keys.iter()
        .try_for_each(|key| key.put(row, out))
        .map_err(|Invalid| invalid_value())
}

/// A condition of HAVING whose column is known.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) index: usize,
    typed: Type,
    comparison: super::plan::Comparison,
    /// Key of the constant as a numeric.
    constant: Vec<u8>,
}

impl Check {
    pub(super) fn holds(&self, row: Row<'_>) -> Result<bool, Error> {
        use super::plan::Comparison as C;
        let Some(value) = row.value(self.index) else {
            return Ok(false);
        };
        let mut key = Vec::new();
        let found = match integer_bytes(self.typed.oid) {
            Some(bytes) => read_integer(self.typed.format, bytes, value).and_then(|value| {
                numeric::put_key(Format::Text, value.to_string().as_bytes(), &mut key)
            }),
            None => numeric::put_key(self.typed.format, value, &mut key),
        };
        found.map_err(|Invalid| invalid_value())?;
        let order = key.cmp(&self.constant);
        Ok(match self.comparison {
            C::Less => order.is_lt(),
            C::LessOrEqual => order.is_le(),
            C::Equal => order.is_eq(),
            C::NotEqual => order.is_ne(),
            C::GreaterOrEqual => order.is_ge(),
            C::Greater => order.is_gt(),
        })
    }
}

pub(super) const fn integer_bytes(type_oid: u32) -> Option<usize> {
    match type_oid {
        oid::INT2 => Some(2),
        oid::INT4 => Some(4),
        oid::INT8 => Some(8),
        _ => None,
    }
}

impl Columns {
    /// Must all groups be finished before the first one is given? Where they are ordered, and where one may turn out to
    /// be refused: no row comes before that.
    pub(super) fn is_all_or_nothing(&self) -> bool {
        !(self.order.is_empty() && self.formulas.is_empty() && self.conditions.is_empty())
    }

    /// What `plan` means for rows of this description, by a server with these enums.
    ///
    /// Errors: 0A000 for a type that cannot be merged as the plan says.
    pub(super) fn resolve(
        plan: &MergePlan,
        description: RowDescription<'_>,
        session: &Session,
        enums: &Enums,
    ) -> Result<Self, Error> {
        let mut types = Vec::with_capacity(description.len());
        for field in description.fields() {
            let field = field?;
            let format = Format::of(field.format).ok_or_else(|| refused("an unknown format"))?;
            types.push(Type {
                oid: field.type_oid,
                format,
            });
        }
        let resolver = Resolver {
            types: &types,
            session,
            enums,
        };
        let order = plan.order.iter().map(|key| {
            let by_bytes = Session {
                text_ordered_by_bytes: true,
                ..*session
            };
            let session = if key.by_bytes { &by_bytes } else { session };
            let found = Resolver {
                session,
                ..resolver
            }
            .key(key.column, Purpose::Order)?;
            Ok(Key {
                descending: key.descending,
                nulls_first: key.nulls_first,
                ..found
            })
        });
        let order = order.collect::<Result<_, Error>>()?;
        let equal = |columns: &mut dyn Iterator<Item = Column>| {
            columns
                .map(|column| resolver.key(column, Purpose::Equality))
                .collect::<Result<Vec<_>, Error>>()
        };
        let distinct = match &plan.distinct {
            Distinct::No => Vec::new(),
            Distinct::Rows => equal(&mut (0..types.len()).map(Column::FromStart))?,
            Distinct::On(columns) => equal(&mut columns.iter().copied())?,
        };
        let (groups, aggregates, formulas) = match &plan.grouping {
            None => (Vec::new(), Vec::new(), Vec::new()),
            Some(grouping) => (
                equal(&mut grouping.keys.iter().copied())?,
                grouping
                    .aggregates
                    .iter()
                    .map(|found| Computed::resolve(found, &resolver))
                    .collect::<Result<_, _>>()?,
                grouping
                    .computed
                    .iter()
                    .map(|computed| Formula::resolve(computed, &resolver))
                    .collect::<Result<_, _>>()?,
            ),
        };
        let conditions = plan.conditions.iter().map(|condition| {
            let (index, typed) = resolver.column(condition.column)?;
            if integer_bytes(typed.oid).is_none() && typed.oid != oid::NUMERIC {
                return Err(unsupported_type("HAVING", typed.oid));
            }
            let mut constant = Vec::new();
            numeric::put_key(Format::Text, condition.constant.as_bytes(), &mut constant)
                .map_err(|Invalid| refused("HAVING with this constant"))?;
            Ok(Check {
                index,
                typed,
                comparison: condition.comparison,
                constant,
            })
        });
        Ok(Self {
            count: types.len(),
            conditions: conditions.collect::<Result<_, Error>>()?,
            order,
            distinct,
            groups,
            aggregates,
            formulas,
        })
    }
}

/// Finds columns of a description.
#[derive(Clone, Copy)]
pub(super) struct Resolver<'a> {
    types: &'a [Type],
    session: &'a Session,
    enums: &'a Enums,
}

impl Resolver<'_> {
    pub(super) fn column(&self, column: Column) -> Result<(usize, Type), Error> {
        let index = match column {
            Column::FromStart(index) => Some(index),
            Column::FromEnd(index) => self.types.len().checked_sub(index + 1),
        };
        // PostgreSQL itself refuses positions beyond the end, so this is a fault of the plan.
        index
            .and_then(|index| Some((index, *self.types.get(index)?)))
            .ok_or_else(|| {
                Error::error(
                    Fault::Proxy,
                    SqlState::INTERNAL_ERROR,
                    "a merged column does not exist",
                )
            })
    }

    pub(super) fn key(&self, column: Column, purpose: Purpose) -> Result<Key, Error> {
        let (index, typed) = self.column(column)?;
        let what = match purpose {
            Purpose::Order => "ORDER BY, min or max",
            Purpose::Equality => "DISTINCT or GROUP BY",
        };
        let kind = self.kind(what, typed, purpose)?;
        Ok(Key {
            index,
            kind,
            format: typed.format,
            descending: false,
            nulls_first: false,
        })
    }

    /// How values are compared for `what`. Errors: they cannot be, or that is not known at the moment.
    pub(super) fn kind(&self, what: &str, typed: Type, purpose: Purpose) -> Result<Kind, Error> {
        let kind =
            |session: &Session| Kind::of(typed.oid, typed.format, purpose, session, self.enums);
        kind(self.session).ok_or_else(|| {
            let best = Session {
                text_ordered_by_bytes: true,
                text_equal_by_bytes: true,
                ..*self.session
            };
            let may_be = typed.oid >= oid::FIRST_OF_USERS || kind(&best).is_some();
            match self.session.known == Known::Yes || !may_be {
                true => unsupported_type(what, typed.oid),
                false => not_known(
                    &format!("how values are compared for {what}"),
                    self.session.known,
                ),
            }
        })
    }

    /// How elements of an array are compared.
    pub(super) fn element_kind(
        &self,
        what: &str,
        typed: Type,
        purpose: Purpose,
    ) -> Result<Kind, Error> {
        match self.kind(what, typed, purpose)? {
            Kind::Array(element) => Ok(Kind::clone(&element)),
            _ => Err(unsupported_type(what, typed.oid)),
        }
    }
}

/// Do two legs describe rows that can stand in one result?
///
/// OIDs of tables may differ, and so may OIDs of types of users as long as values are text. `enums` are those of the two
/// servers; the client does not get the last `hidden` columns. Errors: 42804.
pub(super) fn agree(
    first: RowDescription<'_>,
    other: RowDescription<'_>,
    enums: (&Enums, &Enums),
    hidden: usize,
) -> Result<(), Error> {
    let mismatch = |what: String| {
        Error::error(
            Fault::Server,
            SqlState::DATATYPE_MISMATCH,
            format!("shards disagree on the columns of the result: {what}"),
        )
    };
    if first.len() != other.len() {
        return Err(mismatch(format!(
            "{} and {} of them",
            first.len(),
            other.len()
        )));
    }
    let visible = first.len().saturating_sub(hidden);
    for (index, (a, b)) in first.fields().zip(other.fields()).enumerate() {
        let (a, b) = (a?, b?);
        let name = String::from_utf8_lossy(a.name);
        if a.name != b.name {
            return Err(mismatch(format!(
                "\"{name}\" and \"{}\"",
                String::from_utf8_lossy(b.name)
            )));
        }
        let users = |field: &Field<'_>| field.type_oid >= oid::FIRST_OF_USERS;
        let same_type = a.type_oid == b.type_oid
            || users(&a) && users(&b) && a.format == 0
            || is_same_enum(enums, &a, &b, index < visible);
        if !same_type
            || a.type_modifier != b.type_modifier
            || a.type_bytes != b.type_bytes
            || a.format != b.format
        {
            return Err(mismatch(format!("the type of \"{name}\"")));
        }
    }
    Ok(())
}

/// Are these columns, each of another server, of the same enum? Its values are written the same in both formats, but for
/// arrays of them in binary format: in these stands an OID, which matters where the client sees it.
pub(super) fn is_same_enum(
    enums: (&Enums, &Enums),
    a: &Field<'_>,
    b: &Field<'_>,
    seen: bool,
) -> bool {
    match (enums.0.get(a.type_oid), enums.1.get(b.type_oid)) {
        (Some(UserType::Array(_)), _) if seen && a.format != 0 => false,
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}
