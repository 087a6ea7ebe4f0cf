//! Expressions over aggregates: arithmetic, COALESCE, NULLIF, round and casts of numbers, as PostgreSQL computes them.
//!
//! The type that an expression has here is compared with the type that the shards describe: where they differ, we would
//! compute something else than PostgreSQL, and refuse.

use super::columns::{integer_bytes, invalid_value, Resolver, Type};
use super::plan::{Computed, Expression, Operator};
use super::row::Row;
use super::{refused, unsupported_type};
use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;
use crate::types::numeric::Numeric;
use crate::types::{oid, put_float8_text, read_float8, read_integer, Format, Invalid};

/// Types of numbers, each of which is turned into the next where they meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Number {
    Int2,
    Int4,
    Int8,
    Numeric,
    Float8,
}

impl Number {
    fn of(type_oid: u32) -> Option<Self> {
        Some(match type_oid {
            oid::INT2 => Self::Int2,
            oid::INT4 => Self::Int4,
            oid::INT8 => Self::Int8,
            oid::NUMERIC => Self::Numeric,
            oid::FLOAT8 => Self::Float8,
            _ => return None,
        })
    }

    fn is_integer(self) -> bool {
        self <= Self::Int8
    }
}

#[derive(Clone, Debug)]
enum Value {
    Integer(i64),
    Numeric(Numeric),
    Float8(f64),
}

/// An expression whose columns and types are known.
#[derive(Debug)]
pub(super) struct Formula {
    /// The column that it fills.
    pub(super) index: usize,
    typed: Type,
    root: Typed,
}

#[derive(Debug)]
struct Typed {
    number: Number,
    node: Node,
}

#[derive(Debug)]
enum Node {
    Column(usize, Type),
    Constant(Value),
    Arithmetic(Operator, Box<Typed>, Box<Typed>),
    Coalesce(Vec<Typed>),
    NullIf(Box<Typed>, Box<Typed>),
    Round(Box<Typed>, i32),
    Cast(Box<Typed>),
}

impl Formula {
    pub(super) fn resolve(computed: &Computed, resolver: &Resolver<'_>) -> Result<Self, Error> {
        let (index, typed) = resolver.column(computed.column)?;
        let root = Typed::resolve(&computed.expression, resolver)?;
        if Number::of(typed.oid) != Some(root.number) {
            return Err(refused("this expression over aggregates"));
        }
        Ok(Self { index, typed, root })
    }

    /// The value for a row, in the column's format; `None` is NULL.
    pub(super) fn value(&self, row: Row<'_>) -> Result<Option<Vec<u8>>, Error> {
        let Some(value) = self.root.value(row)? else {
            return Ok(None);
        };
        let mut out = Vec::new();
        match (value, self.typed.format) {
            (Value::Integer(value), Format::Text) => {
                out.extend_from_slice(value.to_string().as_bytes())
            }
            (Value::Integer(value), Format::Binary) => {
                let bytes = integer_bytes(self.typed.oid).unwrap_or(8);
                out.extend(value.to_be_bytes().into_iter().skip(8 - bytes));
            }
            (Value::Numeric(value), format) => value.put(format, &mut out),
            (Value::Float8(value), Format::Text) => put_float8_text(&mut out, value),
            (Value::Float8(value), Format::Binary) => out.extend_from_slice(&value.to_be_bytes()),
        }
        Ok(Some(out))
    }
}

impl Typed {
    fn resolve(expression: &Expression, resolver: &Resolver<'_>) -> Result<Self, Error> {
        let resolve = |expression: &Expression| Self::resolve(expression, resolver);
        let refuse = || refused("this expression over aggregates");
        Ok(match expression {
            Expression::Column(column) => {
                let (index, typed) = resolver.column(*column)?;
                let number = Number::of(typed.oid)
                    .ok_or_else(|| unsupported_type("an expression over aggregates", typed.oid))?;
                Self {
                    number,
                    node: Node::Column(index, typed),
                }
            }
            Expression::Constant(text) => {
                let (number, value) = match text.parse::<i64>() {
                    Ok(value) if i32::try_from(value).is_ok() => {
                        (Number::Int4, Value::Integer(value))
                    }
                    Ok(value) => (Number::Int8, Value::Integer(value)),
                    Err(_) => {
                        let value = Numeric::read(Format::Text, text.as_bytes())
                            .map_err(|Invalid| refuse())?;
                        (Number::Numeric, Value::Numeric(value))
                    }
                };
                Self {
                    number,
                    node: Node::Constant(value),
                }
            }
            Expression::Arithmetic(operator, left, right) => {
                let (left, right) = (resolve(left)?, resolve(right)?);
                Self {
                    number: left.number.max(right.number),
                    node: Node::Arithmetic(*operator, Box::new(left), Box::new(right)),
                }
            }
            Expression::Coalesce(items) => {
                let items = items.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
                Self {
                    number: items
                        .iter()
                        .map(|item| item.number)
                        .max()
                        .ok_or_else(refuse)?,
                    node: Node::Coalesce(items),
                }
            }
            Expression::NullIf(left, right) => {
                let (left, right) = (resolve(left)?, resolve(right)?);
                // Else PostgreSQL would turn the first into the second's type.
                if left.number < right.number {
                    return Err(refuse());
                }
                Self {
                    number: left.number,
                    node: Node::NullIf(Box::new(left), Box::new(right)),
                }
            }
            Expression::Round(value, places) => {
                let value = resolve(value)?;
                let number = match (value.number, places) {
                    (Number::Numeric, _) => Number::Numeric,
                    (number, Some(_)) if number.is_integer() => Number::Numeric,
                    (_, None) => Number::Float8,
                    _ => return Err(refuse()),
                };
                Self {
                    number,
                    node: Node::Round(Box::new(value), places.unwrap_or(0)),
                }
            }
            Expression::Cast(value, type_oid) => {
                let value = resolve(value)?;
                let number = Number::of(*type_oid).ok_or_else(refuse)?;
                // PostgreSQL keeps 15 digits of a float there.
                if value.number == Number::Float8 && number == Number::Numeric {
                    return Err(refuse());
                }
                Self {
                    number,
                    node: Node::Cast(Box::new(value)),
                }
            }
        })
    }

    fn value(&self, row: Row<'_>) -> Result<Option<Value>, Error> {
        let value = match &self.node {
            Node::Column(index, typed) => {
                let Some(value) = row.value(*index) else {
                    return Ok(None);
                };
                let found = match (integer_bytes(typed.oid), typed.oid) {
                    (Some(bytes), _) => {
                        read_integer(typed.format, bytes, value).map(Value::Integer)
                    }
                    (None, oid::NUMERIC) => Numeric::read(typed.format, value).map(Value::Numeric),
                    (None, _) => read_float8(typed.format, value).map(Value::Float8),
                };
                found.map_err(|Invalid| invalid_value())?
            }
            Node::Constant(value) => value.clone(),
            Node::Arithmetic(operator, left, right) => {
                let (Some(left), Some(right)) = (left.value(row)?, right.value(row)?) else {
                    return Ok(None);
                };
                let (left, right) = (self.number.take(left)?, self.number.take(right)?);
                self.number.compute(*operator, left, right)?
            }
            Node::Coalesce(items) => {
                for item in items {
                    if let Some(value) = item.value(row)? {
                        return self.number.take(value).map(Some);
                    }
                }
                return Ok(None);
            }
            Node::NullIf(left, right) => {
                let Some(value) = left.value(row)? else {
                    return Ok(None);
                };
                if let Some(other) = right.value(row)? {
                    if is_equal(&self.number.take(value.clone())?, &self.number.take(other)?) {
                        return Ok(None);
                    }
                }
                value
            }
            Node::Round(value, places) => {
                let Some(value) = value.value(row)? else {
                    return Ok(None);
                };
                match self.number.take(value)? {
                    Value::Numeric(value) => Value::Numeric(value.round(*places)),
                    Value::Float8(value) => Value::Float8(value.round_ties_even()),
                    other @ Value::Integer(_) => other,
                }
            }
            Node::Cast(value) => {
                let Some(value) = value.value(row)? else {
                    return Ok(None);
                };
                self.number.take(value)?
            }
        };
        Ok(Some(value))
    }
}

fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a == b,
        (Value::Numeric(a), Value::Numeric(b)) => {
            b.negated()
                .add(a)
                .is_some_and(|difference| difference.is_zero())
                || *a == Numeric::NaN && *b == Numeric::NaN
        }
        (Value::Float8(a), Value::Float8(b)) => a == b || a.is_nan() && b.is_nan(),
        _ => false,
    }
}

impl Number {
    /// A value as one of this type.
    fn take(self, value: Value) -> Result<Value, Error> {
        let integer = match (self, value) {
            (Self::Numeric, Value::Integer(value)) => return Ok(Value::Numeric(value.into())),
            (Self::Numeric, value @ Value::Numeric(_)) => return Ok(value),
            (Self::Numeric, Value::Float8(_)) => {
                return Err(refused("this expression over aggregates"))
            }
            #[expect(clippy::cast_precision_loss, reason = "as PostgreSQL does")]
            (Self::Float8, Value::Integer(value)) => return Ok(Value::Float8(value as f64)),
            (Self::Float8, Value::Numeric(value)) => {
                return value
                    .to_float8()
                    .map(Value::Float8)
                    .ok_or_else(|| self.out_of_range());
            }
            (Self::Float8, value @ Value::Float8(_)) => return Ok(value),
            (_, Value::Integer(value)) => Some(value),
            (_, Value::Numeric(value)) => value.to_integer(),
            (_, Value::Float8(value)) => {
                let rounded = value.round_ties_even();
                // -2^63 is a float8, 2^63 - 1 is none.
                let fits =
                    (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded);
                #[expect(clippy::cast_possible_truncation, reason = "it was checked")]
                fits.then_some(rounded as i64)
            }
        };
        self.integer(integer)
    }

    /// An integer, if it is one of this type.
    fn integer(self, value: Option<i64>) -> Result<Value, Error> {
        let fits = |value: &i64| match self {
            Self::Int2 => i16::try_from(*value).is_ok(),
            Self::Int4 => i32::try_from(*value).is_ok(),
            _ => true,
        };
        value
            .filter(fits)
            .map(Value::Integer)
            .ok_or_else(|| self.out_of_range())
    }

    fn compute(self, operator: Operator, left: Value, right: Value) -> Result<Value, Error> {
        let zero = || {
            Error::error(
                Fault::Client,
                SqlState::DIVISION_BY_ZERO,
                "division by zero",
            )
        };
        match (left, right) {
            (Value::Integer(left), Value::Integer(right)) => self.integer(match operator {
                Operator::Add => left.checked_add(right),
                Operator::Subtract => left.checked_sub(right),
                Operator::Multiply => left.checked_mul(right),
                Operator::Divide if right == 0 => return Err(zero()),
                Operator::Divide => left.checked_div(right),
            }),
            (Value::Numeric(left), Value::Numeric(right)) => {
                let infinite = |value: &Numeric| {
                    matches!(value, Numeric::Infinity | Numeric::NegativeInfinity)
                };
                if infinite(&left) || infinite(&right) {
                    return Err(refused("an expression over an infinite aggregate"));
                }
                let result = match operator {
                    Operator::Add => left.add(&right),
                    Operator::Subtract => left.add(&right.negated()),
                    Operator::Multiply => left.multiply(&right),
                    Operator::Divide if right.is_zero() && left != Numeric::NaN => {
                        return Err(zero())
                    }
                    Operator::Divide => left.divide(&right),
                };
                result
                    .map(Value::Numeric)
                    .ok_or_else(|| self.out_of_range())
            }
            (Value::Float8(left), Value::Float8(right)) => {
                let result = match operator {
                    Operator::Add => left + right,
                    Operator::Subtract => left - right,
                    Operator::Multiply => left * right,
                    Operator::Divide if right == 0.0 && !left.is_nan() => return Err(zero()),
                    Operator::Divide => left / right,
                };
                let overflow = result.is_infinite() && left.is_finite() && right.is_finite();
                let underflow = result == 0.0
                    && match operator {
                        Operator::Multiply => left != 0.0 && right != 0.0,
                        Operator::Divide => left != 0.0 && right.is_finite(),
                        Operator::Add | Operator::Subtract => false,
                    };
                if overflow || underflow {
                    return Err(self.out_of_range());
                }
                Ok(Value::Float8(result))
            }
            _ => Err(refused("this expression over aggregates")),
        }
    }

    fn out_of_range(self) -> Error {
        let message = match self {
            Self::Int2 => "smallint out of range",
            Self::Int4 => "integer out of range",
            Self::Int8 => "bigint out of range",
            Self::Numeric => "value overflows numeric format",
            Self::Float8 => "value out of range",
        };
        Error::error(Fault::Client, SqlState::NUMERIC_VALUE_OUT_OF_RANGE, message)
    }
}
