//! Aggregates of all legs from those of each: `count` and `sum` added up, `avg` from sums and counts, and so on.

use std::collections::HashSet;

use super::columns::{integer_bytes, invalid_value, Resolver, Type};
use super::plan::{Aggregate, Column, Function};
use super::row::Row;
use super::{refused, unsupported_type};
use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;
use crate::types::array::elements;
use crate::types::key::{Kind, Purpose};
use crate::types::numeric::{deviation, Numeric};
use crate::types::{
    oid, put_float4_text, put_float8_text, read_bool, read_float4, read_float8, read_integer,
    Format, Invalid,
};

/// An aggregate whose columns and types are known.
#[derive(Clone, Debug)]
pub(super) struct Computed {
    /// The column that it fills.
    pub(super) index: usize,
    typed: Type,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Sum(Number),
    Best {
        kind: Kind,
        greatest: bool,
    },
    Bool {
        and: bool,
    },
    Bits {
        bytes: usize,
        operation: Bits,
    },
    Any,
    Average {
        sum: Part,
        count: Part,
    },
    Deviation {
        sum: Part,
        squares: Part,
        count: Part,
        sample: bool,
        root: bool,
    },
    Distinct {
        index: usize,
        format: Format,
        kind: Kind,
    },
}

#[derive(Clone, Copy, Debug)]
enum Bits {
    And,
    Or,
    Xor,
}

/// Types that can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Integer(usize),
    Numeric,
    Float4,
    Float8,
}

impl Number {
    fn of(typed: Type) -> Option<Self> {
        match typed.oid {
            oid::NUMERIC => Some(Self::Numeric),
            oid::FLOAT4 => Some(Self::Float4),
            oid::FLOAT8 => Some(Self::Float8),
            other => integer_bytes(other).map(Self::Integer),
        }
    }
}

/// A number in another column.
#[derive(Clone, Copy, Debug)]
struct Part {
    index: usize,
    format: Format,
    number: Number,
}

/// What has been gathered for one group. Each begins with nothing, which is SQL's NULL.
#[derive(Clone, Debug)]
pub(super) enum State {
    Nothing,
    Integer(i64),
    Numeric(Numeric),
    Float4(f32),
    Float8(f64),
    /// The least or greatest value, with its key.
    Best {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// Sums of the parts, in their order.
    Parts(Box<[State; 3]>),
    Set(HashSet<Box<[u8]>>),
}

impl Computed {
    pub(super) fn resolve(aggregate: &Aggregate, resolver: &Resolver<'_>) -> Result<Self, Error> {
        let (index, typed) = resolver.column(aggregate.column)?;
        let part = |column: Column| {
            let (index, typed) = resolver.column(column)?;
            Number::of(typed)
                .map(|number| Part {
                    index,
                    format: typed.format,
                    number,
                })
                .ok_or_else(|| unsupported_type("this aggregate", typed.oid))
        };
        let how = match aggregate.function {
            Function::Sum => {
                How::Sum(Number::of(typed).ok_or_else(|| unsupported_type("sum", typed.oid))?)
            }
            Function::Least | Function::Greatest => How::Best {
                kind: resolver.kind("min or max", typed, Purpose::Order)?,
                greatest: aggregate.function == Function::Greatest,
            },
            Function::And | Function::Or if typed.oid == oid::BOOL => How::Bool {
                and: aggregate.function == Function::And,
            },
            Function::And | Function::Or => {
                return Err(unsupported_type("bool_and or bool_or", typed.oid))
            }
            Function::BitAnd | Function::BitOr | Function::BitXor => How::Bits {
                bytes: integer_bytes(typed.oid)
                    .ok_or_else(|| unsupported_type("bit_and or bit_or", typed.oid))?,
                operation: match aggregate.function {
                    Function::BitAnd => Bits::And,
                    Function::BitOr => Bits::Or,
                    _ => Bits::Xor,
                },
            },
            Function::Any => How::Any,
            Function::Average { sum, count } => {
                let (sum, count) = (part(sum)?, part(count)?);
                // The sum of float4 is a float4, which has lost what their average, a float8, needs.
                let fits = match sum.number {
                    Number::Integer(_) | Number::Numeric => typed.oid == oid::NUMERIC,
                    Number::Float8 => typed.oid == oid::FLOAT8,
                    Number::Float4 => false,
                };
                if !fits {
                    return Err(refused("avg of real"));
                }
                How::Average { sum, count }
            }
            Function::Deviation {
                sum,
                squares,
                count,
                sample,
                root,
            } => {
                if typed.oid != oid::NUMERIC {
                    return Err(refused("stddev or variance of floating-point numbers"));
                }
                How::Deviation {
                    sum: part(sum)?,
                    squares: part(squares)?,
                    count: part(count)?,
                    sample,
                    root,
                }
            }
            Function::CountDistinct { values } => {
                let (index, typed) = resolver.column(values)?;
                let what = "count(DISTINCT …)";
                How::Distinct {
                    index,
                    format: typed.format,
                    kind: resolver.element_kind(what, typed, Purpose::Equality)?,
                }
            }
        };
        Ok(Self { index, typed, how })
    }

    /// Takes what one leg has in `row`. Gives the bytes of memory that the state has grown by.
    pub(super) fn take(&self, state: &mut State, row: Row<'_>) -> Result<usize, Error> {
        let format = self.typed.format;
        match &self.how {
            &How::Sum(number) => {
                if let Some(value) = row.value(self.index) {
                    state.add(number, format, value)?;
                }
            }
            How::Best { kind, greatest } => {
                let Some(value) = row.value(self.index) else {
                    return Ok(0);
                };
                let mut found = Vec::new();
                kind.put(format, value, &mut found)
                    .map_err(|Invalid| invalid_value())?;
                let better = match &*state {
                    State::Best { key, .. } if *greatest => found > *key,
                    State::Best { key, .. } => found < *key,
                    _ => true,
                };
                if better {
                    let grown = found.len() + value.len();
                    *state = State::Best {
                        key: found,
                        value: value.to_vec(),
                    };
                    return Ok(grown);
                }
            }
            &How::Bool { and } => {
                if let Some(value) = row.value(self.index) {
                    let value = read_bool(format, value).map_err(|Invalid| invalid_value())?;
                    let known = match state {
                        State::Integer(known) => *known == 1,
                        _ => and,
                    };
                    *state = State::Integer(i64::from(if and {
                        known && value
                    } else {
                        known || value
                    }));
                }
            }
            &How::Bits { bytes, operation } => {
                if let Some(value) = row.value(self.index) {
                    let value =
                        read_integer(format, bytes, value).map_err(|Invalid| invalid_value())?;
                    *state = State::Integer(match (&*state, operation) {
                        (State::Integer(known), Bits::And) => known & value,
                        (State::Integer(known), Bits::Or) => known | value,
                        (State::Integer(known), Bits::Xor) => known ^ value,
                        _ => value,
                    });
                }
            }
            How::Any => {
                if let (State::Nothing, Some(value)) = (&*state, row.value(self.index)) {
                    *state = State::Best {
                        key: Vec::new(),
                        value: value.to_vec(),
                    };
                    return Ok(value.len());
                }
            }
            How::Average { sum, count } => state.parts(row, &[*sum, *count])?,
            How::Deviation {
                sum,
                squares,
                count,
                ..
            } => state.parts(row, &[*sum, *count, *squares])?,
            How::Distinct {
                index,
                format,
                kind,
            } => {
                if !matches!(state, State::Set(_)) {
                    *state = State::Set(HashSet::new());
                }
                let (State::Set(set), Some(array)) = (state, row.value(*index)) else {
                    return Ok(0);
                };
                let mut grown = 0;
                let mut key = Vec::new();
                let found = elements(*format, array, |element| {
                    if let Some(element) = element {
                        key.clear();
                        kind.put(*format, element, &mut key)?;
                        if !set.contains(key.as_slice()) {
                            grown += key.len() + ENTRY_BYTES;
                            set.insert(key.as_slice().into());
                        }
                    }
                    Ok(())
                });
                found.map_err(|Invalid| refused("count(DISTINCT …) of these values"))?;
                return Ok(grown);
            }
        }
        Ok(0)
    }

    /// Writes the result into `out`. False: it is NULL, and nothing is written.
    pub(super) fn put(&self, state: &State, out: &mut Vec<u8>) -> Result<bool, Error> {
        let format = self.typed.format;
        let numeric = |result: Option<Numeric>, out: &mut Vec<u8>| {
            result.map(|result| result.put(format, out)).is_some()
        };
        Ok(match (&self.how, state) {
            (How::Sum(Number::Integer(bytes)) | How::Bits { bytes, .. }, State::Integer(sum)) => {
                put_integer(out, format, *bytes, *sum)?;
                true
            }
            (How::Bool { .. }, State::Integer(value)) => {
                out.push(match (format, value) {
                    (Format::Text, 0) => b'f',
                    (Format::Text, _) => b't',
                    (Format::Binary, 0) => 0,
                    (Format::Binary, _) => 1,
                });
                true
            }
            (How::Distinct { .. }, State::Set(set)) => {
                put_integer(out, format, 8, i64::try_from(set.len()).unwrap_or(i64::MAX))?;
                true
            }
            (How::Average { .. }, State::Parts(parts)) => match (&parts[0], &parts[1]) {
                (State::Float8(sum), State::Integer(count)) if *count > 0 => {
                    #[expect(
                        clippy::cast_precision_loss,
                        reason = "PostgreSQL counts in a float8"
                    )]
                    // PostgreSQL adds up from 0, which has no sign.
                    put_float8(out, format, (sum + 0.0) / *count as f64);
                    true
                }
                (State::Integer(sum), State::Integer(count)) => {
                    numeric(Numeric::from(*sum).average(*count), out)
                }
                (State::Numeric(sum), State::Integer(count)) => numeric(sum.average(*count), out),
                _ => false,
            },
            (How::Deviation { sample, root, .. }, State::Parts(parts)) => {
                let sum = match &parts[0] {
                    State::Integer(sum) => Numeric::from(*sum),
                    State::Numeric(sum) => sum.clone(),
                    _ => return Ok(false),
                };
                match (&parts[1], &parts[2]) {
                    (State::Integer(count), State::Numeric(squares)) => {
                        numeric(deviation(&sum, squares, *count, *sample, *root), out)
                    }
                    _ => false,
                }
            }
            (_, State::Numeric(sum)) => numeric(Some(sum.clone()), out),
            (_, State::Float8(sum)) => {
                put_float8(out, format, *sum);
                true
            }
            (_, State::Float4(sum)) => {
                match format {
                    Format::Text => put_float4_text(out, *sum),
                    Format::Binary => out.extend_from_slice(&sum.to_be_bytes()),
                }
                true
            }
            (_, State::Best { value, .. }) => {
                out.extend_from_slice(value);
                true
            }
            _ => false,
        })
    }
}

/// Memory of an entry of a table beside its key's bytes.
pub(super) const ENTRY_BYTES: usize = 48;

fn put_float8(out: &mut Vec<u8>, format: Format, value: f64) {
    match format {
        Format::Text => put_float8_text(out, value),
        Format::Binary => out.extend_from_slice(&value.to_be_bytes()),
    }
}

fn put_integer(out: &mut Vec<u8>, format: Format, bytes: usize, value: i64) -> Result<(), Error> {
    let fits = match bytes {
        2 => i16::try_from(value).is_ok(),
        4 => i32::try_from(value).is_ok(),
        _ => true,
    };
    if !fits {
        return Err(out_of_range(Number::Integer(bytes)));
    }
    match format {
        Format::Text => out.extend_from_slice(value.to_string().as_bytes()),
        Format::Binary => out.extend(value.to_be_bytes().into_iter().skip(8 - bytes)),
    }
    Ok(())
}

/// PostgreSQL's own error for a sum that its type cannot hold.
fn out_of_range(number: Number) -> Error {
    let message = match number {
        Number::Integer(2) => "smallint out of range",
        Number::Integer(4) => "integer out of range",
        Number::Integer(_) => "bigint out of range",
        Number::Numeric => "value overflows numeric format",
        Number::Float4 | Number::Float8 => "value out of range: overflow",
    };
    Error::error(Fault::Client, SqlState::NUMERIC_VALUE_OUT_OF_RANGE, message)
}

impl State {
    /// Adds a value to a sum.
    fn add(&mut self, number: Number, format: Format, value: &[u8]) -> Result<(), Error> {
        let invalid = |Invalid| invalid_value();
        let sum = match number {
            Number::Integer(bytes) => {
                let value = read_integer(format, bytes, value).map_err(invalid)?;
                match self {
                    Self::Integer(sum) => sum.checked_add(value),
                    _ => Some(value),
                }
                .map(Self::Integer)
            }
            Number::Numeric => {
                let value = Numeric::read(format, value).map_err(invalid)?;
                if let Self::Numeric(sum) = self {
                    return match sum.increase(&value) {
                        true => Ok(()),
                        false => Err(out_of_range(number)),
                    };
                }
                Some(Self::Numeric(value))
            }
            Number::Float4 => {
                let value = read_float4(format, value).map_err(invalid)?;
                match self {
                    Self::Float4(sum) => {
                        let total = *sum + value;
                        (total.is_finite() || !sum.is_finite() || !value.is_finite())
                            .then_some(total)
                    }
                    _ => Some(value),
                }
                .map(Self::Float4)
            }
            Number::Float8 => {
                let value = read_float8(format, value).map_err(invalid)?;
                match self {
                    Self::Float8(sum) => {
                        let total = *sum + value;
                        (total.is_finite() || !sum.is_finite() || !value.is_finite())
                            .then_some(total)
                    }
                    _ => Some(value),
                }
                .map(Self::Float8)
            }
        };
        *self = sum.ok_or_else(|| out_of_range(number))?;
        Ok(())
    }

    fn parts(&mut self, row: Row<'_>, parts: &[Part]) -> Result<(), Error> {
        if !matches!(self, Self::Parts(_)) {
            *self = Self::Parts(Box::new([const { Self::Nothing }; 3]));
        }
        let Self::Parts(states) = self else {
            return Ok(());
        };
        for (part, state) in parts.iter().zip(states.iter_mut()) {
            if let Some(value) = row.value(part.index) {
                state.add(part.number, part.format, value)?;
            }
        }
        Ok(())
    }
}
