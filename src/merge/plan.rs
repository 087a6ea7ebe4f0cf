//! What becomes of the replies of several shards to one statement: plain data, made when the statement is planned.

use std::sync::Arc;

use crate::error::{Error, Fault};
use crate::protocol::error_fields::Fields;
use crate::protocol::sqlstate::SqlState;
use crate::types::{read_integer, Format};

/// How the replies of several legs become one.
///
/// Rows pass these steps in this order: they are grouped and aggregated; groups that fail a condition are dropped; they
/// are ordered; duplicates are dropped; the first `offset` are skipped and `count` are given; hidden columns are cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergePlan {
    /// Whose rows the client gets.
    pub source: Source,
    /// GROUP BY and aggregates. `None`: rows stay as they are.
    pub grouping: Option<Box<Grouping>>,
    /// HAVING: all must hold.
    pub conditions: Vec<Condition>,
    /// ORDER BY. The legs' rows are in this order themselves, unless there is a grouping.
    pub order: Vec<OrderKey>,
    /// DISTINCT.
    pub distinct: Distinct,
    /// LIMIT and OFFSET.
    pub limit: Limit,
    /// So many columns at the end of the legs' rows are for the merge and not for the client.
    pub hidden: usize,
    /// What CommandComplete says.
    pub completion: Completion,
}

impl MergePlan {
    /// All rows of all legs, in any order.
    pub const fn concatenate() -> Self {
        Self {
            source: Source::EveryLeg,
            grouping: None,
            conditions: Vec::new(),
            order: Vec::new(),
            distinct: Distinct::No,
            limit: Limit::NONE,
            hidden: 0,
            completion: Completion::Selected,
        }
    }

    /// A write of sharded tables: rows of RETURNING are concatenated, counts added.
    pub fn sharded_write() -> Self {
        Self {
            completion: Completion::Added,
            ..Self::concatenate()
        }
    }

    /// An INSERT whose rows were divided among legs: for each row the one that stores it.
    pub fn divided_insert(turns: Arc<[usize]>) -> Self {
        Self {
            source: Source::Turns(turns),
            ..Self::sharded_write()
        }
    }

    /// The INSERT of a row that an UPDATE has moved.
    pub fn moved_row() -> Self {
        Self {
            completion: Completion::Moved,
            ..Self::concatenate()
        }
    }

    /// What an INSERT returns, of rows that it has stored before.
    pub fn inserted_rows() -> Self {
        Self {
            completion: Completion::Inserted,
            ..Self::concatenate()
        }
    }

    /// A write of omnisharded tables, which does the same on every shard: the first leg's rows, and one tag, which must
    /// be the same everywhere.
    pub fn omnisharded_write() -> Self {
        Self {
            source: Source::FirstLeg,
            completion: Completion::Same,
            ..Self::concatenate()
        }
    }

    /// DDL and whatever else is done on every shard and counts nothing, or the same.
    pub fn utility() -> Self {
        Self::omnisharded_write()
    }

    /// Are values compared, of types that only the legs know?
    pub fn compares(&self) -> bool {
        let mut aggregates = self.grouping.iter().flat_map(|found| &found.aggregates);
        self.order.iter().any(|key| !key.by_bytes)
            || !matches!(self.distinct, Distinct::No)
            || self
                .grouping
                .as_ref()
                .is_some_and(|found| !found.keys.is_empty())
            || aggregates.any(|found| {
                matches!(
                    found.function,
                    Function::Least | Function::Greatest | Function::CountDistinct { .. }
                )
            })
    }

    /// Is this column one of those that ORDER BY names?
    pub(super) fn orders_by(&self, column: Column) -> bool {
        self.order.iter().any(|key| key.column == column)
    }

    /// Is this ErrorResponse about what the merge needs, and not about the query? The values of `count(DISTINCT …)` come in
    /// an array, which cannot be made of arrays that are NULL, empty or of several sizes.
    pub(super) fn is_own_error(&self, body: &[u8]) -> bool {
        let counts = self.grouping.as_ref().is_some_and(|grouping| {
            let mut functions = grouping.aggregates.iter().map(|found| &found.function);
            functions.any(|function| matches!(function, Function::CountDistinct { .. }))
        });
        let code = Fields::parse(body).ok().and_then(|fields| fields.code());
        counts && code.is_some_and(|code| matches!(code.as_str(), "2202E" | "22004"))
    }

    /// Rows that each leg has to give for `rows` of the merge. `None`: all that it has.
    pub fn leg_rows(&self, rows: u64, slice: Slice) -> Option<u64> {
        let each_counts = self.grouping.is_none()
            && self.conditions.is_empty()
            && matches!(self.distinct, Distinct::No)
            && !slice.with_ties;
        each_counts.then(|| rows.saturating_add(slice.offset))
    }

    /// Must the columns be known to merge rows?
    pub(super) const fn needs_columns(&self) -> bool {
        self.grouping.is_some()
            || !self.conditions.is_empty()
            || !self.order.is_empty()
            || !matches!(self.distinct, Distinct::No)
    }
}

/// Whose rows the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Those of all legs: each has other rows.
    EveryLeg,
    /// Those of the first: all legs have the same.
    FirstLeg,
    /// The next row of each of these legs in turn: those of an INSERT that was divided, in the order of its rows.
    Turns(Arc<[usize]>),
}

/// A column of the legs' rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Counted from 0 at the first one.
    FromStart(usize),
    /// Counted from 0 at the last one: for columns behind a `*`, whose number is not known when the plan is made.
    FromEnd(usize),
}

/// Groups, and what is computed for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// Rows that are equal here are one group. Without any, all rows are.
    pub keys: Vec<Column>,
    /// What the group has in these columns; in all others it has what one of its rows has.
    pub aggregates: Vec<Aggregate>,
    /// What is computed from those.
    pub computed: Vec<Computed>,
}

/// An expression over aggregates in one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Computed {
    /// Where it is written. Its type must be the one that the expression has here.
    pub column: Column,
    /// How it is computed.
    pub expression: Expression,
}

/// An expression over numbers of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// The value of a column.
    Column(Column),
    /// A number as it is written: an int4 if it is one, an int8, or a numeric.
    Constant(String),
    /// `+`, `-`, `*`, `/`
    Arithmetic(Operator, Box<Expression>, Box<Expression>),
    /// COALESCE
    Coalesce(Vec<Expression>),
    /// NULLIF
    NullIf(Box<Expression>, Box<Expression>),
    /// `round(x)`, `round(x, 2)`
    Round(Box<Expression>, Option<i32>),
    /// `::type` by the type's OID.
    Cast(Box<Expression>, u32),
}

/// An arithmetic operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say it")]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// The aggregate in one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// Where each leg has its own result, and where the common one is written, in its type and format.
    pub column: Column,
    /// How it is computed from the legs'.
    pub function: Function,
}

/// How an aggregate is computed from those of the legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `count`, `sum`: the sum of the sums.
    Sum,
    /// `min`
    Least,
    /// `max`
    Greatest,
    /// `bool_and`, `every`
    And,
    /// `bool_or`
    Or,
    /// `bit_and` of integers
    BitAnd,
    /// `bit_or` of integers
    BitOr,
    /// `bit_xor` of integers
    BitXor,
    /// `any_value`
    Any,
    /// `avg`, from the sum and the count in other columns.
    Average {
        /// `sum` of the same values.
        sum: Column,
        /// `count` of them.
        count: Column,
    },
    /// `variance`, `stddev` and their kin over integers and numerics.
    Deviation {
        /// `sum` of the same values.
        sum: Column,
        /// `sum` of their squares as numerics.
        squares: Column,
        /// `count` of them.
        count: Column,
        /// Divided by count - 1 instead of count?
        sample: bool,
        /// `stddev` rather than `variance`?
        root: bool,
    },
    /// `count(DISTINCT x)`
    CountDistinct {
        /// `array_agg(DISTINCT x)` of the same values.
        values: Column,
    },
}

/// A comparison of HAVING: of an integer or numeric with a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is compared.
    pub column: Column,
    /// How.
    pub comparison: Comparison,
    /// With what: a number as PostgreSQL writes a numeric.
    pub constant: String,
}

/// `=` and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say it")]
pub enum Comparison {
    Less,
    LessOrEqual,
    Equal,
    NotEqual,
    GreaterOrEqual,
    Greater,
}

/// One expression of ORDER BY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderKey {
    /// Where its value is.
    pub column: Column,
    /// DESC?
    pub descending: bool,
    /// NULLS FIRST? Without either word, that is so where the order descends.
    pub nulls_first: bool,
    /// Has the query itself said that this text is compared by bytes (`COLLATE "C"`)?
    pub by_bytes: bool,
}

/// Which duplicates are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distinct {
    /// None.
    No,
    /// Rows that are equal in all columns. There are no hidden ones then.
    Rows,
    /// All but the first of those that are equal in these columns. What ORDER BY begins with, if there is one.
    On(Vec<Column>),
}

/// LIMIT and OFFSET as the statement has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Rows to give.
    pub count: Bound,
    /// Rows to skip before.
    pub offset: Bound,
    /// WITH TIES: also those that ORDER BY does not tell from the last.
    pub with_ties: bool,
}

/// A number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Not given, ALL or NULL.
    None,
    /// Given in the text.
    Constant(u64),
    /// The value of a parameter.
    Parameter {
        /// Which, counted from 1 as in `$1`.
        number: usize,
        /// The integer type that the text casts it to. A client sends a value of that type.
        type_oid: u32,
    },
}

/// [`Limit`] with the values of parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Rows to skip.
    pub offset: u64,
    /// Rows to give after them. `None`: all.
    pub count: Option<u64>,
    /// Also those that ORDER BY does not tell from the last?
    pub with_ties: bool,
}

impl Limit {
    /// All rows.
    pub const NONE: Self = Self {
        count: Bound::None,
        offset: Bound::None,
        with_ties: false,
    };

    /// The numbers that hold for one execution. `parameter` gives the format and value (`None` for NULL) that Bind has
    /// for a parameter counted from 1; `None` if it has no such parameter.
    ///
    /// Errors: PostgreSQL's own for a negative number and for what is no number.
    pub fn with_parameters<'a>(
        &self,
        parameter: impl Fn(usize) -> Option<(Format, Option<&'a [u8]>)>,
    ) -> Result<Slice, Error> {
        let resolve = |bound: Bound, code, name: &str| match bound {
            Bound::None => Ok(None),
            Bound::Constant(count) => Ok(Some(count)),
            Bound::Parameter { number, .. } => match parameter(number) {
                None => Err(Error::error(
                    Fault::Client,
                    SqlState::PROTOCOL_VIOLATION,
                    format!("bind message supplies no parameter ${number}"),
                )),
                Some((_, None)) => Ok(None),
                Some((format, Some(value))) => {
                    let value = row_count(format, value)?;
                    let negative = |_| {
                        Error::error(Fault::Client, code, format!("{name} must not be negative"))
                    };
                    u64::try_from(value).map(Some).map_err(negative)
                }
            },
        };
        let invalid = SqlState::INVALID_ROW_COUNT_IN_RESULT_OFFSET_CLAUSE;
        let offset = resolve(self.offset, invalid, "OFFSET")?.unwrap_or(0);
        let invalid = SqlState::INVALID_ROW_COUNT_IN_LIMIT_CLAUSE;
        let count = resolve(self.count, invalid, "LIMIT")?;
        Ok(Slice {
            offset,
            count,
            with_ties: self.with_ties,
        })
    }
}

/// A bigint as a client may write it.
fn row_count(format: Format, value: &[u8]) -> Result<i64, Error> {
    let trimmed = value.trim_ascii();
    let unsigned = trimmed.strip_prefix(b"+").unwrap_or(trimmed);
    let number = match format {
        Format::Text => read_integer(format, 8, unsigned),
        Format::Binary => read_integer(format, value.len(), value),
    };
    number.map_err(|_| {
        let text = match format {
            Format::Text => String::from_utf8_lossy(value).into_owned(),
            Format::Binary => format!("{} bytes", value.len()),
        };
        Error::error(
            Fault::Client,
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("invalid input syntax for type bigint: \"{text}\""),
        )
    })
}

/// What CommandComplete says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// `SELECT` and the number of rows that the client got.
    Selected,
    /// The common command, and the sum of the counts: `INSERT 0 5`, `COPY 7`.
    Added,
    /// What every leg says; it is an error when they do not say the same.
    Same,
    /// `UPDATE 1`, if the one leg has inserted one row.
    Moved,
    /// `INSERT 0` and the number of rows, which the one leg has selected.
    Inserted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_take_their_parameters_as_postgresql_does() {
        let parameter = |number| Bound::Parameter {
            number,
            type_oid: crate::types::oid::INT8,
        };
        let check = |value: Option<&'static str>, expected: Result<Option<u64>, &str>| {
            let limit = Limit {
                count: parameter(2),
                ..Limit::NONE
            };
            let found = limit.with_parameters(|number| {
                (number == 2).then_some((Format::Text, value.map(str::as_bytes)))
            });
            let found = found.map(|slice| slice.count).map_err(|error| error.code);
            assert_eq!(
                found.as_ref().map_err(|code| code.as_str()),
                expected.as_ref().map_err(|code| *code)
            );
        };
        check(Some("5"), Ok(Some(5)));
        check(Some(" +5 "), Ok(Some(5)));
        check(None, Ok(None));
        check(Some("-1"), Err("2201W"));
        check(Some("x"), Err("22P02"));
        let missing = Limit {
            offset: parameter(1),
            ..Limit::NONE
        };
        assert!(missing.with_parameters(|_| None).is_err());
        let binary = missing.with_parameters(|_| Some((Format::Binary, Some(&[0, 0, 0, 3][..]))));
        assert_eq!(binary.unwrap().offset, 3);
    }
}
