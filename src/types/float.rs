//! Floating-point numbers in PostgreSQL's text form: the fewest digits that give the number back.
//!
//! Source: `double_to_shortest_decimal_buf`, `float_to_shortest_decimal_buf`

use num_bigint::BigUint;

/// So many digits tell every float8 from its neighbours.
const DIGITS_MAX: usize = 17;

/// Appends a float8 as the server does with `extra_float_digits` from 1.
pub fn put_float8_text(out: &mut Vec<u8>, value: f64) {
    let bits = value.to_bits();
    let exponent = i32::try_from(bits >> 52 & 0x7ff).unwrap_or(0);
    let parts = Parts::new(bits & ((1 << 52) - 1), exponent, 52, 1_075);
    let written = parts.write(
        |precision| match precision {
            None => format!("{value:e}"),
            Some(precision) => format!("{value:.precision$e}"),
        },
        |digits| digits.parse() == Ok(value),
    );
    put(out, &written, 15);
}

/// Appends a float4.
pub fn put_float4_text(out: &mut Vec<u8>, value: f32) {
    let bits = value.to_bits();
    let exponent = i32::try_from(bits >> 23 & 0xff).unwrap_or(0);
    let parts = Parts::new(u64::from(bits & ((1 << 23) - 1)), exponent, 23, 150);
    let written = parts.write(
        |precision| match precision {
            None => format!("{value:e}"),
            Some(precision) => format!("{value:.precision$e}"),
        },
        |digits| digits.parse() == Ok(value),
    );
    put(out, &written, 6);
}

/// A number as `mantissa * 2^exponent`.
struct Parts {
    mantissa: u64,
    exponent: i32,
    /// The number below is only half as far as the number above.
    lower_is_nearer: bool,
}

impl Parts {
    fn new(fraction: u64, biased: i32, width: u32, bias: i32) -> Self {
        Self {
            mantissa: if biased == 0 {
                fraction
            } else {
                fraction | 1 << width
            },
            exponent: biased.max(1) - bias,
            lower_is_nearer: fraction == 0 && biased > 1,
        }
    }

    /// The fewest digits that give the number back however they are rounded; of two as near, the one that ends evenly.
    /// `digits` writes the fewest, or so many after the first; `is_same` reads them.
    fn write(
        &self,
        digits: impl Fn(Option<usize>) -> String,
        is_same: impl Fn(&str) -> bool,
    ) -> String {
        let fewest = digits(None);
        let count = fewest
            .bytes()
            .take_while(|byte| *byte != b'e')
            .filter(u8::is_ascii_digit)
            .count();
        // Rust writes the fewest that it reads back itself, and rounds up between two; with a given number of digits it
        // rounds to even. With more digits it comes nearer to the number, and out of the middle.
        let good = |digits: &String| is_same(digits) && !self.is_bound(digits);
        let more =
            (count.saturating_sub(1)..DIGITS_MAX).map(|after_first| digits(Some(after_first)));
        more.into_iter().find(good).unwrap_or(fewest)
    }

    /// Does this decimal lie exactly in the middle between the number and a neighbour? Reading it back depends on how a
    /// reader rounds, so PostgreSQL writes another digit.
    fn is_bound(&self, decimal: &str) -> bool {
        let (digits, power) = decimal
            .trim_start_matches('-')
            .split_once('e')
            .unwrap_or((decimal, "0"));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let fraction_digits = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
        let power = power
            .parse::<i32>()
            .unwrap_or(0)
            .saturating_sub(fraction_digits);
        let Some(digits) = BigUint::parse_bytes(format!("{whole}{fraction}").as_bytes(), 10) else {
            return false;
        };
        // Both sides as integers: digits * 10^power and middle * 2^(exponent - 2).
        let middles = [
            self.mantissa
                .checked_mul(4)
                .and_then(|middle| middle.checked_add(2)),
            self.mantissa
                .checked_mul(4)
                .and_then(|middle| middle.checked_sub(if self.lower_is_nearer { 1 } else { 2 })),
        ];
        let raised =
            |base: u8, power: i32| BigUint::from(base).pow(u32::try_from(power).unwrap_or(0));
        let left = digits * raised(10, power) * raised(2, 2 - self.exponent);
        let right = raised(10, power.saturating_neg()) * raised(2, self.exponent - 2);
        middles
            .into_iter()
            .flatten()
            .any(|middle| left == &right * middle)
    }
}

/// Appends Rust's `-1.25e-7` in PostgreSQL's form: an exponent is written below -4 and from `digits_max` on.
fn put(out: &mut Vec<u8>, scientific: &str, digits_max: i32) {
    let (sign, rest) = match scientific.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", scientific),
    };
    match rest {
        "NaN" => return out.extend_from_slice(b"NaN"),
        "inf" => return out.extend_from_slice(format!("{sign}Infinity").as_bytes()),
        _ => out.extend_from_slice(sign.as_bytes()),
    }
    let (mantissa, exponent) = rest.split_once('e').unwrap_or((rest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: Vec<u8> = mantissa.bytes().filter(|byte| *byte != b'.').collect();
    if exponent < -4 || exponent >= digits_max {
        let sign = if exponent < 0 { '-' } else { '+' };
        out.extend_from_slice(format!("{mantissa}e{sign}{:02}", exponent.abs()).as_bytes());
    } else if exponent < 0 {
        let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', zeros));
        out.extend_from_slice(&digits);
    } else {
        let whole = usize::try_from(exponent).unwrap_or(0) + 1;
        match digits.split_at_checked(whole) {
            Some((whole, [])) => out.extend_from_slice(whole),
            Some((whole, fraction)) => {
                out.extend_from_slice(whole);
                out.push(b'.');
                out.extend_from_slice(fraction);
            }
            None => {
                out.extend_from_slice(&digits);
                out.extend(std::iter::repeat_n(b'0', whole - digits.len()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_postgresql_writes_them() {
        let check = |value: f64, expected: &str| {
            let mut out = Vec::new();
            put_float8_text(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(0.0, "0");
        check(-0.0, "-0");
        check(1.0, "1");
        check(0.1, "0.1");
        check(-2.5, "-2.5");
        check(100_000.0, "100000");
        check(123_456_789_012_345.0, "123456789012345");
        check(1e14, "100000000000000");
        check(1e15, "1e+15");
        check(1_234_567_890_123_456.0, "1.234567890123456e+15");
        check(1e-4, "0.0001");
        check(1.5e-5, "1.5e-05");
        check(1e300, "1e+300");
        check(5e-324, "5e-324");
        check(-469_418_746_885_399_168.0, "-4.6941874688539917e+17");
        check(9_007_199_254_740_992.0, "9.007199254740992e+15");
        check(f64::NAN, "NaN");
        check(-f64::NAN, "NaN");
        check(f64::NEG_INFINITY, "-Infinity");

        let check = |value: f32, expected: &str| {
            let mut out = Vec::new();
            put_float4_text(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(0.1, "0.1");
        check(999_999.0, "999999");
        check(1e6, "1e+06");
        check(2_709_629.0 / 8.0, "338703.62");
        check(404_374_016.0, "4.0437402e+08");
        check(1_234_567.0, "1.234567e+06");
    }
}
