//! `numeric`: exact decimal numbers with the scale that PostgreSQL shows them in, and its rules for the scale of
//! quotients and roots.
//!
//! Source: <https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/numeric.c>

use num_bigint::{BigInt, BigUint, Sign};

use super::{Format, Invalid};

/// Digits after the decimal point that a stored value may have.
const SCALE_MAX: usize = 16_383;
/// Digits before it.
const WHOLE_DIGITS_MAX: usize = 131_072;
/// Significant digits that a quotient has at least.
const SIGNIFICANT_DIGITS: i64 = 16;
/// Digits of any number that fits 128 bits.
const U128_DIGITS: usize = 38;
/// Digits after the decimal point of a quotient at most.
const QUOTIENT_SCALE_MAX: i64 = 1_000;

/// A numeric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numeric {
    /// `-Infinity`, from PostgreSQL 14.
    NegativeInfinity,
    /// A number.
    Finite(Decimal),
    /// `Infinity`.
    Infinity,
    /// `NaN`, which equals itself and is greater than everything.
    NaN,
}

/// `digits / 10^scale`, written with `scale` digits after the decimal point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    digits: BigInt,
    scale: usize,
}

impl From<i64> for Numeric {
    fn from(value: i64) -> Self {
        Self::Finite(Decimal {
            digits: value.into(),
            scale: 0,
        })
    }
}

impl Numeric {
    /// Reads one.
    pub fn read(format: Format, value: &[u8]) -> Result<Self, Invalid> {
        if let (Format::Text, Some(decimal)) = (format, Decimal::short(value)) {
            return Ok(Self::Finite(decimal));
        }
        let written = Written::read(format, value)?;
        Ok(match written {
            Written::NegativeInfinity => Self::NegativeInfinity,
            Written::Infinity => Self::Infinity,
            Written::NaN => Self::NaN,
            Written::Finite {
                negative,
                digits,
                point,
                scale,
            } => {
                // `digits` need not reach to the scale, and binary ones may reach beyond it with zeros.
                let length = usize::try_from(point + i64::try_from(scale).map_err(|_| Invalid)?)
                    .unwrap_or(0);
                let mut text: Vec<u8> = digits;
                if text.len() > length && text.split_off(length).iter().any(|digit| *digit != b'0')
                {
                    return Err(Invalid);
                }
                text.resize(length, b'0');
                let digits = if text.len() <= U128_DIGITS {
                    let value = |value: u128, digit: &u8| value * 10 + u128::from(digit - b'0');
                    BigUint::from(text.iter().fold(0, value))
                } else {
                    BigUint::parse_bytes(&text, 10).ok_or(Invalid)?
                };
                let sign = if negative { Sign::Minus } else { Sign::Plus };
                Self::Finite(Decimal {
                    digits: BigInt::from_biguint(sign, digits),
                    scale,
                })
            }
        })
    }

    /// Appends it in this format.
    pub fn put(&self, format: Format, out: &mut Vec<u8>) {
        let (word, sign) = match self {
            Self::Finite(decimal) => return decimal.put(format, out),
            Self::NegativeInfinity => ("-Infinity", 0xF000u16),
            Self::Infinity => ("Infinity", 0xD000),
            Self::NaN => ("NaN", 0xC000),
        };
        match format {
            Format::Text => out.extend_from_slice(word.as_bytes()),
            Format::Binary => {
                out.extend_from_slice(&[0; 4]);
                out.extend_from_slice(&sign.to_be_bytes());
                out.extend_from_slice(&[0; 2]);
            }
        }
    }

    /// The sum, in the greater scale of both. `None` when it has too many digits for a numeric.
    pub fn add(&self, other: &Self) -> Option<Self> {
        let mut sum = self.clone();
        sum.increase(other).then_some(sum)
    }

    /// Becomes the sum of both, as of [`Self::add`]. False when that has too many digits.
    pub fn increase(&mut self, other: &Self) -> bool {
        match (&mut *self, other) {
            (Self::Finite(a), Self::Finite(b)) => {
                let scale = a.scale.max(b.scale);
                if a.scale < scale {
                    *a = Decimal {
                        digits: a.digits_at(scale),
                        scale,
                    };
                }
                match b.scale == scale {
                    true => a.digits += &b.digits,
                    false => a.digits += b.digits_at(scale),
                }
                return a.fits();
            }
            (Self::NaN, _) => {}
            (_, Self::NaN)
            | (Self::Infinity, Self::NegativeInfinity)
            | (Self::NegativeInfinity, Self::Infinity) => *self = Self::NaN,
            (Self::Finite(_), infinity) => *self = infinity.clone(),
            (Self::Infinity | Self::NegativeInfinity, _) => {}
        }
        true
    }

    /// The product, in the sum of both scales. `None` when it has too many digits, or a factor is infinite.
    pub fn multiply(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::NaN, _) | (_, Self::NaN) => Some(Self::NaN),
            (Self::Finite(a), Self::Finite(b)) => {
                let scale = a.scale + b.scale;
                let product = Decimal {
                    digits: &a.digits * &b.digits,
                    scale,
                };
                (scale <= SCALE_MAX).then(|| product.checked())?
            }
            _ => None,
        }
    }

    /// The quotient, in the scale of PostgreSQL's. `None` when it has too many digits, the divisor is zero, or either is
    /// infinite.
    pub fn divide(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::NaN, _) | (_, Self::NaN) => Some(Self::NaN),
            (Self::Finite(a), Self::Finite(b)) if !other.is_zero() => a.divide(b).checked(),
            _ => None,
        }
    }

    /// The same with the other sign.
    #[must_use]
    pub fn negated(&self) -> Self {
        match self {
            Self::NegativeInfinity => Self::Infinity,
            Self::Finite(decimal) => Self::Finite(Decimal {
                digits: -&decimal.digits,
                scale: decimal.scale,
            }),
            Self::Infinity => Self::NegativeInfinity,
            Self::NaN => Self::NaN,
        }
    }

    /// Is it 0?
    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Finite(decimal) if decimal.digits.sign() == Sign::NoSign)
    }

    /// Rounded half away from zero to so many digits after the decimal point, negative ones before it.
    #[must_use]
    pub fn round(&self, places: i32) -> Self {
        let Self::Finite(decimal) = self else {
            return self.clone();
        };
        // PostgreSQL's own bounds.
        let places = places.clamp(-2_000, 2_000);
        let scale = usize::try_from(places).unwrap_or(0);
        let excess = signed(decimal.scale) - i64::from(places);
        let Some(excess) = u32::try_from(excess).ok().filter(|excess| *excess > 0) else {
            return Self::Finite(Decimal {
                digits: decimal.digits_at(scale),
                scale,
            });
        };
        let unit = BigUint::from(10u8).pow(excess);
        let magnitude = (decimal.digits.magnitude() * 2u8 + &unit) / (&unit * 2u8);
        let before = u32::try_from(-places).unwrap_or(0);
        let magnitude = magnitude * BigUint::from(10u8).pow(before);
        let sign = decimal.digits.sign();
        Self::Finite(Decimal {
            digits: BigInt::from_biguint(
                if sign == Sign::NoSign {
                    Sign::Plus
                } else {
                    sign
                },
                magnitude,
            ),
            scale,
        })
    }

    /// Rounded to an integer. `None`: it is no number, or too great.
    pub fn to_integer(&self) -> Option<i64> {
        match self.round(0) {
            Self::Finite(decimal) => i64::try_from(decimal.digits).ok(),
            _ => None,
        }
    }

    /// The nearest float8. `None`: there is none.
    pub fn to_float8(&self) -> Option<f64> {
        let mut text = Vec::new();
        self.put(Format::Text, &mut text);
        let value = super::read_float8(Format::Text, &text).ok()?;
        (value.is_finite() || !matches!(self, Self::Finite(_))).then_some(value)
    }

    /// What `avg` makes of a sum and a count: the sum divided by it. `None` for a count of 0.
    pub fn average(&self, count: i64) -> Option<Self> {
        if count <= 0 {
            return None;
        }
        Some(match self {
            Self::Finite(sum) => Self::Finite(sum.divide(&Decimal::from(count))),
            other => other.clone(),
        })
    }
}

impl From<i64> for Decimal {
    fn from(value: i64) -> Self {
        Self {
            digits: value.into(),
            scale: 0,
        }
    }
}

impl Decimal {
    fn digits_at(&self, scale: usize) -> BigInt {
        match u32::try_from(scale - self.scale).unwrap_or(0) {
            0 => self.digits.clone(),
            more => &self.digits * BigInt::from(10).pow(more),
        }
    }

    /// The digits without a sign, in decimal.
    fn text(&self) -> String {
        match u128::try_from(self.digits.magnitude()) {
            Ok(small) => small.to_string(),
            Err(_) => self.digits.magnitude().to_string(),
        }
    }

    /// Reads digits, with a point among them, if 128 bits are enough.
    fn short(text: &[u8]) -> Option<Self> {
        let (sign, text) = match text {
            [b'-', text @ ..] => (Sign::Minus, text),
            text => (Sign::Plus, text),
        };
        let (mut value, mut scale) = (0, None);
        if text.len() > U128_DIGITS || !text.first()?.is_ascii_digit() {
            return None;
        }
        for byte in text {
            match byte {
                b'0'..=b'9' => value = value * 10 + u128::from(byte - b'0'),
                b'.' if scale.is_none() => scale = Some(0),
                _ => return None,
            }
            scale = scale.map(|scale| scale + usize::from(*byte != b'.'));
        }
        // What ends with a point is nothing that PostgreSQL writes.
        (scale != Some(0)).then(|| Self {
            digits: BigInt::from_biguint(sign, BigUint::from(value)),
            scale: scale.unwrap_or(0),
        })
    }

    /// Has it few enough digits for a numeric?
    fn fits(&self) -> bool {
        // Three bits are less than a digit.
        let few = self.digits.bits() / 3 < WHOLE_DIGITS_MAX as u64;
        few || self.text().len().saturating_sub(self.scale) <= WHOLE_DIGITS_MAX
    }

    fn checked(self) -> Option<Numeric> {
        self.fits().then_some(Numeric::Finite(self))
    }

    /// Exponent of 10,000 and value of the first digit to that base, as PostgreSQL stores it; zero has neither.
    fn first(&self) -> (i64, u64) {
        if self.digits.sign() == Sign::NoSign {
            return (0, 0);
        }
        let text = self.text();
        let point = signed(text.len()) - signed(self.scale);
        let weight = (point - 1).div_euclid(4);
        let length = usize::try_from(point - weight * 4).unwrap_or(0);
        let digit = (0..length).fold(0, |digit, index| {
            digit * 10
                + text
                    .as_bytes()
                    .get(index)
                    .map_or(0, |byte| u64::from(byte - b'0'))
        });
        (weight, digit)
    }

    /// The scale of a quotient.
    ///
    /// Source: `select_div_scale`
    fn quotient_scale(&self, divisor: &Self) -> usize {
        let (weight, first) = self.first();
        let (divisor_weight, divisor_first) = divisor.first();
        let weight = weight - divisor_weight - i64::from(first <= divisor_first);
        let scale = (SIGNIFICANT_DIGITS - weight * 4)
            .max(signed(self.scale))
            .max(signed(divisor.scale))
            .clamp(0, QUOTIENT_SCALE_MAX);
        usize::try_from(scale).unwrap_or(0)
    }

    /// The quotient in its scale, rounded half away from zero. The divisor is not zero.
    fn divide(&self, divisor: &Self) -> Self {
        self.divide_at(divisor, self.quotient_scale(divisor))
    }

    fn divide_at(&self, divisor: &Self, scale: usize) -> Self {
        let (above, below) = (self.digits.magnitude(), divisor.digits.magnitude());
        // self/10^a ÷ divisor/10^b × 10^scale
        let power = |count: usize| u32::try_from(count).unwrap_or(0);
        let (up, down) = (power(divisor.scale + scale), power(self.scale));
        let small = || {
            let above = u128::try_from(above)
                .ok()?
                .checked_mul(10u128.checked_pow(up)?)?;
            let below = u128::try_from(below)
                .ok()?
                .checked_mul(10u128.checked_pow(down)?)?;
            Some((above.checked_mul(2)?.checked_add(below)?) / below.checked_mul(2)?)
        };
        let large = || {
            let above = above * BigUint::from(10u8).pow(up);
            let below = below * BigUint::from(10u8).pow(down);
            (above * 2u8 + &below) / (below * 2u8)
        };
        let magnitude = small().map_or_else(large, BigUint::from);
        let sign = if self.digits.sign() == divisor.digits.sign() {
            Sign::Plus
        } else {
            Sign::Minus
        };
        Self {
            digits: BigInt::from_biguint(sign, magnitude),
            scale,
        }
    }

    fn square_root(&self, scale: usize) -> Self {
        // One digit more than asked for: a root is rational only when that digit is exact.
        let power = scale * 2 + 2;
        let text = self.digits_at(self.scale.max(power));
        let excess = u32::try_from(self.scale.max(power) - power).unwrap_or(0);
        let root = (text.magnitude() / BigUint::from(10u8).pow(excess)).sqrt();
        Self {
            digits: BigInt::from_biguint(Sign::Plus, (root + 5u8) / 10u8),
            scale,
        }
    }

    fn put(&self, format: Format, out: &mut Vec<u8>) {
        let negative = self.digits.sign() == Sign::Minus;
        let mut text = self.text().into_bytes();
        if text.len() <= self.scale {
            text.splice(0..0, std::iter::repeat_n(b'0', self.scale + 1 - text.len()));
        }
        let (whole, fraction) = text.split_at(text.len() - self.scale);
        match format {
            Format::Text => {
                if negative {
                    out.push(b'-');
                }
                out.extend_from_slice(whole);
                if !fraction.is_empty() {
                    out.push(b'.');
                    out.extend_from_slice(fraction);
                }
            }
            Format::Binary => put_binary(out, negative, whole, fraction),
        }
    }
}

/// `variance` and its kin of `count` values with this sum and this sum of squares; `None` is NULL.
///
/// Source: `numeric_stddev_internal`
pub fn deviation(
    sum: &Numeric,
    squares: &Numeric,
    count: i64,
    sample: bool,
    root: bool,
) -> Option<Numeric> {
    if count < 1 || sample && count == 1 {
        return None;
    }
    let (Numeric::Finite(sum), Numeric::Finite(squares)) = (sum, squares) else {
        return Some(Numeric::NaN);
    };
    // count × squares - sum × sum, in twice the scale of the sum
    let scale = sum.scale * 2;
    let numerator = squares.digits_at(scale.max(squares.scale)) * count
        - (&sum.digits * &sum.digits)
            * BigInt::from(10).pow(u32::try_from(scale.max(squares.scale) - scale).ok()?);
    let numerator = Decimal {
        digits: numerator,
        scale: scale.max(squares.scale),
    };
    if numerator.digits.sign() != Sign::Plus {
        return Some(Numeric::from(0));
    }
    let denominator = Decimal {
        digits: BigInt::from(count) * BigInt::from(if sample { count - 1 } else { count }),
        scale: 0,
    };
    let scale = numerator.quotient_scale(&denominator);
    let variance = numerator.divide_at(&denominator, scale);
    Some(Numeric::Finite(if root {
        variance.square_root(scale)
    } else {
        variance
    }))
}

fn put_binary(out: &mut Vec<u8>, negative: bool, whole: &[u8], fraction: &[u8]) {
    // Groups of four digits, aligned at the decimal point, without groups of zeros at both ends.
    let padded = |count: usize| std::iter::repeat_n(b'0', (4 - count % 4) % 4);
    let digits: Vec<u8> = padded(whole.len())
        .chain(whole.iter().copied())
        .chain(fraction.iter().copied())
        .chain(padded(fraction.len()))
        .collect();
    let groups: Vec<u16> = digits
        .chunks(4)
        .map(|group| {
            group
                .iter()
                .fold(0, |value, byte| value * 10 + u16::from(byte - b'0'))
        })
        .collect();
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let weight = whole.len().div_ceil(4);
    let kept = groups.get(leading..).unwrap_or_default();
    let trailing = kept.iter().rev().take_while(|group| **group == 0).count();
    let kept = kept.get(..kept.len() - trailing).unwrap_or_default();
    let weight = if kept.is_empty() {
        0
    } else {
        signed(weight) - signed(leading) - 1
    };
    let short = |value: i64| i16::try_from(value).unwrap_or(i16::MAX).to_be_bytes();
    out.extend_from_slice(&short(signed(kept.len())));
    out.extend_from_slice(&short(weight));
    out.extend_from_slice(&if negative { 0x4000u16 } else { 0 }.to_be_bytes());
    out.extend_from_slice(&short(signed(fraction.len())));
    for group in kept {
        out.extend_from_slice(&group.to_be_bytes());
    }
}

/// A numeric as it is written: decimal digits without leading zeros, and where among them the point is.
enum Written {
    NegativeInfinity,
    Finite {
        negative: bool,
        /// `0` to `9`, the first not `0`; none for zero.
        digits: Vec<u8>,
        /// Digits before the decimal point; negative when zeros follow it that are not among `digits`.
        point: i64,
        /// Digits after the point that are shown.
        scale: usize,
    },
    Infinity,
    NaN,
}

impl Written {
    fn read(format: Format, value: &[u8]) -> Result<Self, Invalid> {
        match format {
            Format::Text => Self::text(value),
            Format::Binary => Self::binary(value),
        }
    }

    fn text(value: &[u8]) -> Result<Self, Invalid> {
        match value {
            b"NaN" => return Ok(Self::NaN),
            b"Infinity" => return Ok(Self::Infinity),
            b"-Infinity" => return Ok(Self::NegativeInfinity),
            _ => {}
        }
        let (negative, rest) = match value {
            [b'-', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let mut parts = rest.splitn(2, |byte| *byte == b'.');
        let whole = parts
            .next()
            .filter(|whole| !whole.is_empty())
            .ok_or(Invalid)?;
        let fraction = match parts.next() {
            Some([]) => return Err(Invalid),
            Some(fraction) => fraction,
            None => &[],
        };
        let all_digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
        if !all_digits || whole.len() > WHOLE_DIGITS_MAX || fraction.len() > SCALE_MAX {
            return Err(Invalid);
        }
        let zeros = whole
            .iter()
            .chain(fraction)
            .take_while(|digit| **digit == b'0')
            .count();
        Ok(Self::Finite {
            negative,
            digits: whole.iter().chain(fraction).skip(zeros).copied().collect(),
            point: signed(whole.len()) - signed(zeros),
            scale: fraction.len(),
        })
    }

    fn binary(value: &[u8]) -> Result<Self, Invalid> {
        let (header, groups) = value.split_first_chunk::<8>().ok_or(Invalid)?;
        let [c0, c1, w0, w1, s0, s1, d0, d1] = *header;
        let negative = match u16::from_be_bytes([s0, s1]) {
            0 => false,
            0x4000 => true,
            0xC000 => return Ok(Self::NaN),
            0xD000 => return Ok(Self::Infinity),
            0xF000 => return Ok(Self::NegativeInfinity),
            _ => return Err(Invalid),
        };
        let weight = i64::from(i16::from_be_bytes([w0, w1]));
        let scale = usize::from(u16::from_be_bytes([d0, d1]));
        if groups.len() != usize::from(u16::from_be_bytes([c0, c1])) * 2 || scale > SCALE_MAX {
            return Err(Invalid);
        }
        let mut digits = Vec::with_capacity(groups.len() * 2);
        for group in groups.chunks_exact(2) {
            let group = u16::from_be_bytes(group.try_into().map_err(|_| Invalid)?);
            if group > 9_999 {
                return Err(Invalid);
            }
            digits.extend_from_slice(format!("{group:04}").as_bytes());
        }
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        Ok(Self::Finite {
            negative,
            point: (weight + 1) * 4 - signed(zeros),
            digits,
            scale,
        })
    }
}

/// Appends a key of PostgreSQL's order: -Infinity, numbers, Infinity, NaN; the scale does not matter.
///
/// ```text
///  class  position of the point, biased   pairs of digits + 1   0     all but the class inverted for negative values
/// ```
pub fn put_key(format: Format, value: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let (negative, mut digits, point) = match Written::read(format, value)? {
        Written::NegativeInfinity => {
            out.push(1);
            return Ok(());
        }
        Written::Infinity => {
            out.push(5);
            return Ok(());
        }
        Written::NaN => {
            out.push(6);
            return Ok(());
        }
        Written::Finite {
            negative,
            digits,
            point,
            ..
        } => (negative, digits, point),
    };
    while digits.last() == Some(&b'0') {
        digits.pop();
    }
    if digits.is_empty() {
        out.push(3);
        return Ok(());
    }
    out.push(if negative { 2 } else { 4 });
    let start = out.len();
    let point = u32::try_from(point + (1 << 30)).map_err(|_| Invalid)?;
    out.extend_from_slice(&point.to_be_bytes());
    out.extend(digits.chunks(2).map(|pair| {
        let digit = |index: usize| pair.get(index).map_or(0, |byte| byte - b'0');
        digit(0) * 10 + digit(1) + 1
    }));
    out.push(0);
    if negative {
        out.iter_mut().skip(start).for_each(|byte| *byte = !*byte);
    }
    Ok(())
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
