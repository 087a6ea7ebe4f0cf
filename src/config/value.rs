//! Values as they stand in a file or in the environment: numbers, times, sizes, texts, lists.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;
use toml::Spanned;

use super::secret::Secret;

/// Numbers of this size and larger mean "no limit", whatever the unit.
pub(super) const DISABLED: u64 = i64::MAX as u64;

/// Where a value comes from.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    /// A typed value of a file.
    File(&'a Spanned<DeValue<'a>>),
    /// A bare word: the environment, a flag, a key of a URL, a default of the table.
    Word(&'a str),
}

/// What is wrong with a value, before it is known in which file it stands.
#[derive(Debug)]
pub(super) struct Flaw {
    /// Byte offset in the file.
    pub(super) offset: Option<usize>,
    /// Key below the value that was being read, empty for the value itself.
    pub(super) key: String,
    /// The reason, a sentence without the value of a secret.
    pub(super) reason: String,
}

/// A type that a setting can have.
pub(super) trait Value: Sized {
    /// What belongs there, for the shipped files.
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "the shipped files are made in tests")
    )]
    const KIND: &'static str;

    /// Reads the value; every flaw that it has is reported.
    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>>;

    /// As one would write it in a file. `None` when unset; secrets are masked.
    fn literal(&self) -> Option<String>;

    /// For people: as the literal, but without quotes and with readable durations.
    fn show(&self) -> String {
        match self.literal() {
            Some(literal) => literal.trim_matches('"').to_owned(),
            None => "default".to_owned(),
        }
    }
}

impl<'a> Input<'a> {
    /// One flaw in this value.
    pub(super) fn flaw(self, reason: impl Into<String>) -> Vec<Flaw> {
        let offset = match self {
            Input::File(value) => Some(value.span().start),
            Input::Word(_) => None,
        };
        vec![Flaw {
            offset,
            key: String::new(),
            reason: reason.into(),
        }]
    }

    fn expected(self, what: &str) -> Vec<Flaw> {
        match self {
            Input::File(value) => {
                self.flaw(format!("expected {what}, found {}", kind(value.get_ref())))
            }
            Input::Word(word) => self.flaw(format!("expected {what}, found `{word}`")),
        }
    }

    pub(super) fn text(self, what: &str) -> Result<&'a str, Vec<Flaw>> {
        match self {
            Input::Word(word) => Ok(word),
            Input::File(value) => value.get_ref().as_str().ok_or_else(|| self.expected(what)),
        }
    }

    /// Any whole number that TOML can spell; what does not fit is clamped.
    fn integer(self, what: &str) -> Result<i128, Vec<Flaw>> {
        let (digits, radix) = match self {
            Input::Word(word) => (word.trim(), 10),
            Input::File(value) => match value.get_ref() {
                DeValue::Integer(integer) => (integer.as_str(), integer.radix()),
                _ => return Err(self.expected(what)),
            },
        };
        i128::from_str_radix(digits, radix).or_else(|error| match error.kind() {
            std::num::IntErrorKind::PosOverflow => Ok(i128::MAX),
            std::num::IntErrorKind::NegOverflow => Ok(i128::MIN),
            _ => Err(self.expected(what)),
        })
    }

    /// A whole number from 0 on. Beyond 64 bits it is clamped, which means [`DISABLED`].
    fn unsigned(self, what: &str) -> Result<u64, Vec<Flaw>> {
        let integer = self.integer(what)?;
        if integer < 0 {
            return Err(self.flaw(format!("expected {what}, found a negative number")));
        }
        Ok(u64::try_from(integer).unwrap_or(u64::MAX))
    }

    fn float(self, what: &str) -> Result<f64, Vec<Flaw>> {
        let digits = match self {
            Input::Word(word) => word.trim(),
            Input::File(value) => match value.get_ref() {
                DeValue::Float(float) => float.as_str(),
                DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
                _ => return Err(self.expected(what)),
            },
        };
        match digits.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok(float),
            _ => Err(self.expected(what)),
        }
    }
}

/// TOML's name for the type of a value, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                literal.push('\\');
                literal.push(c);
            }
            c if c.is_control() => literal.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => literal.push(c),
        }
    }
    literal.push('"');
    literal
}

/// A time in milliseconds, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Millis(pub(super) u64);

impl Millis {
    /// As a limit: `None` when disabled.
    pub(super) fn limit(self) -> Option<Duration> {
        (self.0 < DISABLED).then(|| self.duration())
    }

    /// As a length of time, where "never" makes no sense.
    pub(super) fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl Value for Millis {
    const KIND: &'static str = "ms";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        input.unsigned("a whole number of milliseconds").map(Self)
    }

    fn literal(&self) -> Option<String> {
        Some(self.0.to_string())
    }

    fn show(&self) -> String {
        const WEEK: u64 = 7 * 86_400_000;
        const UNITS: [(u64, &str); 4] = [
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1_000, "s"),
        ];
        let whole = |(length, _): &&(u64, &str)| self.0 > 0 && self.0.is_multiple_of(*length);
        match UNITS.iter().find(whole) {
            Some((length, unit)) if self.0 < WEEK => format!("{}{unit}", self.0 / length),
            _ => format!("{}ms", self.0),
        }
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

impl Value for Bytes {
    const KIND: &'static str = "bytes";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        input.unsigned("a whole number of bytes").map(Self)
    }

    fn literal(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// Whole numbers of a given width.
macro_rules! whole_numbers {
    ($($type:ty),+) => { $(
        impl Value for $type {
            const KIND: &'static str = "number";

            fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
                let wide = input.unsigned("a whole number")?;
                <$type>::try_from(wide).map_err(|_| {
                    input.flaw(format!("{wide} is too large, the largest value is {}", <$type>::MAX))
                })
            }

            fn literal(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+ };
}

whole_numbers!(u8, u16, u32, u64, usize);

impl Value for bool {
    const KIND: &'static str = "boolean";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        const WHAT: &str = "true or false";
        match input {
            Input::File(value) => value
                .get_ref()
                .as_bool()
                .ok_or_else(|| input.expected(WHAT)),
            Input::Word(word) => match word.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(input.expected(WHAT)),
            },
        }
    }

    fn literal(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// A share of a whole, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fraction(pub(super) f64);

impl Value for Fraction {
    const KIND: &'static str = "0 to 1";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        let share = input.float("a number from 0 to 1")?;
        if (0.0..=1.0).contains(&share) {
            Ok(Self(share))
        } else {
            Err(input.flaw(format!("expected a number from 0 to 1, found {share}")))
        }
    }

    fn literal(&self) -> Option<String> {
        self.0.literal()
    }
}

impl Value for f64 {
    const KIND: &'static str = "decimal";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        input.float("a number")
    }

    fn literal(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl Value for String {
    const KIND: &'static str = "text";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        input.text("a string").map(str::to_owned)
    }

    fn literal(&self) -> Option<String> {
        Some(quoted(self))
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "path";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        input.text("a path").map(PathBuf::from)
    }

    fn literal(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl Value for Secret {
    const KIND: &'static str = "secret";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        input.text("a string").map(Self::from)
    }

    fn literal(&self) -> Option<String> {
        Some(quoted("***"))
    }
}

/// Name of a table, schema or column, folded as PostgreSQL folds identifiers: lower case unless `"Quoted"`.
///
/// Source: <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identifier(pub(super) String);

impl Value for Identifier {
    const KIND: &'static str = "identifier";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        let text = input.text("a string")?;
        let quoted = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        Ok(Self(match quoted {
            Some(inside) => inside.replace("\"\"", "\""),
            None => text.to_ascii_lowercase(),
        }))
    }

    fn literal(&self) -> Option<String> {
        Some(quoted(&self.0))
    }
}

impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        T::read(input).map(Some)
    }

    fn literal(&self) -> Option<String> {
        self.as_ref().and_then(T::literal)
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "default".to_owned(), T::show)
    }
}

impl<T: Value> Value for Vec<T> {
    const KIND: &'static str = "list";

    /// A bare word is read as TOML, so that defaults and examples of the table can be lists.
    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        let value = match input {
            Input::File(value) => value,
            Input::Word(word) => {
                let parsed = DeValue::parse(word).map_err(|_| input.expected("a list"))?;
                return Self::read(Input::File(&parsed));
            }
        };
        let items = value
            .get_ref()
            .as_array()
            .ok_or_else(|| input.expected("a list"))?;
        let (mut good, mut flaws) = (Self::new(), Vec::new());
        for item in items.iter() {
            match T::read(Input::File(item)) {
                Ok(item) => good.push(item),
                Err(more) => flaws.extend(more),
            }
        }
        if flaws.is_empty() {
            Ok(good)
        } else {
            Err(flaws)
        }
    }

    fn literal(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(T::literal).collect();
        (!items.is_empty()).then(|| format!("[{}]", items.join(", ")))
    }
}

/// Names and secret values: a table in a file, `name=value,name=value` elsewhere.
impl Value for BTreeMap<String, Secret> {
    const KIND: &'static str = "table";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        match input {
            Input::Word(word) => word
                .split(',')
                .map(|pair| match pair.split_once('=') {
                    Some((name, value)) => Ok((name.trim().to_owned(), Secret::from(value.trim()))),
                    None => Err(input.flaw("expected name=value pairs, separated by commas")),
                })
                .collect(),
            Input::File(value) => {
                let table = value
                    .get_ref()
                    .as_table()
                    .ok_or_else(|| input.expected("a table"))?;
                let (mut good, mut flaws) = (Self::new(), Vec::new());
                for (name, value) in table {
                    match Secret::read(Input::File(value)) {
                        Ok(secret) => {
                            good.insert(name.get_ref().to_string(), secret);
                        }
                        Err(more) => flaws.extend(more),
                    }
                }
                if flaws.is_empty() {
                    Ok(good)
                } else {
                    Err(flaws)
                }
            }
        }
    }

    fn literal(&self) -> Option<String> {
        let pairs: Vec<String> = self
            .keys()
            .map(|name| format!("{} = \"***\"", quoted(name)))
            .collect();
        (!pairs.is_empty()).then(|| format!("{{ {} }}", pairs.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a literal of a file and writes it again; `Err` holds the first reason.
    fn read<T: Value>(literal: &str) -> Result<String, String> {
        let parsed = DeValue::parse(literal).unwrap();
        match T::read(Input::File(&parsed)) {
            Ok(value) => Ok(value.show()),
            Err(flaws) => Err(flaws[0].reason.clone()),
        }
    }

    fn word<T: Value>(word: &str) -> Result<String, String> {
        T::read(Input::Word(word))
            .map(|value| value.show())
            .map_err(|flaws| flaws[0].reason.clone())
    }

    #[test]
    fn times() {
        for (literal, shown) in [
            ("0", "0ms"),
            ("1500", "1500ms"),
            ("5_000", "5s"),
            ("60000", "1m"),
            ("90000", "90s"),
            ("86400000", "1d"),
            ("604800000", "604800000ms"),
            ("0x10", "16ms"),
        ] {
            assert_eq!(read::<Millis>(literal).as_deref(), Ok(shown), "{literal}");
        }
        for (literal, reason) in [
            (
                "\"5s\"",
                "expected a whole number of milliseconds, found a string",
            ),
            (
                "5.0",
                "expected a whole number of milliseconds, found a float",
            ),
            (
                "-1",
                "expected a whole number of milliseconds, found a negative number",
            ),
            (
                "true",
                "expected a whole number of milliseconds, found a boolean",
            ),
        ] {
            assert_eq!(read::<Millis>(literal).unwrap_err(), reason, "{literal}");
        }
    }

    #[test]
    fn the_largest_time_and_all_above_mean_never() {
        for (literal, limit) in [
            (
                "9223372036854775806",
                Some(Duration::from_millis(DISABLED - 1)),
            ),
            ("9223372036854775807", None),
            ("18446744073709551615", None),
            ("99999999999999999999999999999999999999999999", None),
        ] {
            let parsed = DeValue::parse(literal).unwrap();
            assert_eq!(
                Millis::read(Input::File(&parsed)).unwrap().limit(),
                limit,
                "{literal}"
            );
        }
    }

    #[test]
    fn numbers_have_a_width() {
        assert_eq!(read::<u16>("65535").as_deref(), Ok("65535"));
        assert_eq!(
            read::<u16>("65536").unwrap_err(),
            "65536 is too large, the largest value is 65535"
        );
        assert_eq!(
            read::<u8>("256").unwrap_err(),
            "256 is too large, the largest value is 255"
        );
        assert_eq!(read::<Fraction>("1").as_deref(), Ok("1.0"));
        assert_eq!(read::<Fraction>("0.25").as_deref(), Ok("0.25"));
        assert_eq!(
            read::<Fraction>("1.5").unwrap_err(),
            "expected a number from 0 to 1, found 1.5"
        );
        assert!(read::<Fraction>("nan").is_err());
    }

    #[test]
    fn words_of_the_environment() {
        for (text, expected) in [
            ("true", true),
            ("1", true),
            ("YES", true),
            ("on", true),
            ("false", false),
            ("0", false),
            ("no", false),
            ("Off", false),
        ] {
            assert_eq!(bool::read(Input::Word(text)).unwrap(), expected, "{text}");
        }
        assert_eq!(
            word::<bool>("maybe").unwrap_err(),
            "expected true or false, found `maybe`"
        );
        assert_eq!(word::<u16>(" 6432 ").as_deref(), Ok("6432"));
        assert_eq!(
            word::<Millis>("5s").unwrap_err(),
            "expected a whole number of milliseconds, found `5s`"
        );
        assert_eq!(
            word::<BTreeMap<String, Secret>>("a=1, b=2").unwrap(),
            r#"{ "a" = "***", "b" = "***" }"#
        );
    }

    #[test]
    fn identifiers_fold() {
        for (text, folded) in [
            ("Users", "users"),
            ("\"Users\"", "Users"),
            ("\"a\"\"b\"", "a\"b"),
            ("\"", "\""),
        ] {
            assert_eq!(
                Identifier::read(Input::Word(text)).unwrap().0,
                folded,
                "{text}"
            );
        }
    }

    #[test]
    fn a_list_reports_every_bad_item() {
        let parsed = DeValue::parse(r#"["a", 1, "b", false]"#).unwrap();
        let flaws = Vec::<String>::read(Input::File(&parsed)).unwrap_err();
        let offsets: Vec<_> = flaws.iter().map(|flaw| flaw.offset.unwrap()).collect();
        assert_eq!(offsets, [6, 14]);
    }

    #[test]
    fn literals_are_toml() {
        for text in [
            "plain",
            "with \"quotes\" and \\",
            "tab\tnewline\n",
            "ünïcode",
        ] {
            let literal = text.to_owned().literal().unwrap();
            let parsed = DeValue::parse(&literal).unwrap();
            assert_eq!(parsed.get_ref().as_str(), Some(text));
        }
    }
}
