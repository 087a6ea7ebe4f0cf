//! Dates, times and intervals, as PostgreSQL counts them: days or microseconds from 2000-01-01.
//!
//! Text is read in `DateStyle` ISO and `IntervalStyle` postgres, which are the defaults. Every other style differs in
//! its first component, so that it is an error here: `02/01/2000`, `Wed Jan 02 …`, `@ 1 day`, `P1D`, `1-2`.

use super::{fixed, Format, Invalid};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// A `date` as days from 2000-01-01; the least and the greatest value are -infinity and infinity.
pub fn date(format: Format, value: &[u8]) -> Result<i32, Invalid> {
    match format {
        Format::Binary => fixed(value).map(i32::from_be_bytes),
        Format::Text if value == b"infinity" => Ok(i32::MAX),
        Format::Text if value == b"-infinity" => Ok(i32::MIN),
        Format::Text => {
            let (value, before_christ) = era(value);
            let mut text = Text(value);
            let days = text.date(before_christ)?;
            text.end()?;
            i32::try_from(days).map_err(|_| Invalid)
        }
    }
}

/// A `timestamp`, or with `zone` a `timestamptz`, as microseconds from 2000-01-01 (UTC); the least and the greatest
/// value are -infinity and infinity.
pub fn timestamp(format: Format, zone: bool, value: &[u8]) -> Result<i64, Invalid> {
    match format {
        Format::Binary => fixed(value).map(i64::from_be_bytes),
        Format::Text if value == b"infinity" => Ok(i64::MAX),
        Format::Text if value == b"-infinity" => Ok(i64::MIN),
        Format::Text => {
            let (value, before_christ) = era(value);
            let mut text = Text(value);
            let days = text.date(before_christ)?;
            text.byte(b' ')?;
            let mut micros = text.time()?;
            if zone {
                micros -= text.offset()? * SECOND;
            }
            text.end()?;
            days.checked_mul(DAY)
                .and_then(|day| day.checked_add(micros))
                .ok_or(Invalid)
        }
    }
}

/// A `time` as microseconds from midnight.
pub fn time(format: Format, value: &[u8]) -> Result<i64, Invalid> {
    match format {
        Format::Binary => fixed(value).map(i64::from_be_bytes),
        Format::Text => {
            let mut text = Text(value);
            let micros = text.time()?;
            text.end()?;
            Ok(micros)
        }
    }
}

/// A `timetz` in the two parts by which it is ordered: microseconds of the time in UTC, and seconds west of it.
///
/// Source: `timetz_cmp_internal`
pub fn timetz(format: Format, value: &[u8]) -> Result<(i64, i32), Invalid> {
    let (micros, west) = match format {
        Format::Binary => {
            let (micros, west) = value.split_first_chunk().ok_or(Invalid)?;
            (
                i64::from_be_bytes(*micros),
                i32::from_be_bytes(fixed(west)?),
            )
        }
        Format::Text => {
            let mut text = Text(value);
            let micros = text.time()?;
            let east = text.offset()?;
            text.end()?;
            (micros, i32::try_from(-east).map_err(|_| Invalid)?)
        }
    };
    let utc = micros
        .checked_add(i64::from(west) * SECOND)
        .ok_or(Invalid)?;
    Ok((utc, west))
}

/// An `interval`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Months, the years among them.
    pub months: i32,
    /// Days, which need not have 24 hours.
    pub days: i32,
    /// The rest in microseconds.
    pub micros: i64,
}

impl Interval {
    /// Reads one. PostgreSQL 17's infinities have the greatest and the least value in every part.
    pub fn read(format: Format, value: &[u8]) -> Result<Self, Invalid> {
        match format {
            Format::Binary => {
                let (micros, rest) = value.split_first_chunk().ok_or(Invalid)?;
                let (days, months) = rest.split_first_chunk().ok_or(Invalid)?;
                Ok(Self {
                    months: i32::from_be_bytes(fixed(months)?),
                    days: i32::from_be_bytes(*days),
                    micros: i64::from_be_bytes(*micros),
                })
            }
            Format::Text if value == b"infinity" => Ok(Self {
                months: i32::MAX,
                days: i32::MAX,
                micros: i64::MAX,
            }),
            Format::Text if value == b"-infinity" => Ok(Self {
                months: i32::MIN,
                days: i32::MIN,
                micros: i64::MIN,
            }),
            Format::Text => Self::text(value),
        }
    }

    /// `1 year 2 mons -3 days +04:05:06.789`, where only what is not zero is written.
    fn text(value: &[u8]) -> Result<Self, Invalid> {
        let mut interval = Self::default();
        let mut words = value.split(|byte| *byte == b' ');
        while let Some(word) = words.next() {
            let (negative, digits) = match word {
                [b'-', digits @ ..] => (true, digits),
                [b'+', digits @ ..] => (false, digits),
                digits => (false, digits),
            };
            let mut text = Text(digits);
            if digits.contains(&b':') {
                let micros = text.clock()?;
                text.end()?;
                interval.micros = if negative { -micros } else { micros };
                return words.next().map_or(Ok(interval), |_| Err(Invalid));
            }
            let count = text.number()?;
            text.end()?;
            let count =
                i32::try_from(if negative { -count } else { count }).map_err(|_| Invalid)?;
            let months = match words.next() {
                Some(b"year" | b"years") => count.checked_mul(12),
                Some(b"mon" | b"mons") => Some(count),
                Some(b"day" | b"days") => {
                    interval.days = count;
                    Some(0)
                }
                _ => None,
            };
            let months = months.and_then(|months| interval.months.checked_add(months));
            interval.months = months.ok_or(Invalid)?;
        }
        Ok(interval)
    }

    /// By what it is compared: its length in microseconds, with months of 30 days of 24 hours.
    ///
    /// Source: `interval_cmp_value`
    pub fn span(&self) -> i128 {
        let days = i128::from(self.months) * 30 + i128::from(self.days);
        days * i128::from(DAY) + i128::from(self.micros)
    }
}

/// Without ` BC` at the end, and whether it was there.
fn era(value: &[u8]) -> (&[u8], bool) {
    value
        .strip_suffix(b" BC")
        .map_or((value, false), |value| (value, true))
}

/// What of a text is not read yet.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn end(&self) -> Result<(), Invalid> {
        self.0.is_empty().then_some(()).ok_or(Invalid)
    }

    fn byte(&mut self, expected: u8) -> Result<(), Invalid> {
        match self.0 {
            [byte, rest @ ..] if *byte == expected => {
                self.0 = rest;
                Ok(())
            }
            _ => Err(Invalid),
        }
    }

    /// All digits that follow, at most 12.
    fn number(&mut self) -> Result<i64, Invalid> {
        let count = self
            .0
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (digits, rest) = self.0.split_at(count);
        if !(1..=12).contains(&count) {
            return Err(Invalid);
        }
        self.0 = rest;
        Ok(digits
            .iter()
            .fold(0, |value, byte| value * 10 + i64::from(byte - b'0')))
    }

    fn two(&mut self) -> Result<i64, Invalid> {
        let before = self.0.len();
        let value = self.number()?;
        (before - self.0.len() == 2).then_some(value).ok_or(Invalid)
    }

    /// `2000-01-02`: days from 2000-01-01. A year has four digits at least, which no other style begins with.
    fn date(&mut self, before_christ: bool) -> Result<i64, Invalid> {
        let before = self.0.len();
        let year = self.number()?;
        if before - self.0.len() < 4 || year > 6_000_000 {
            return Err(Invalid);
        }
        self.byte(b'-')?;
        let month = self.two()?;
        self.byte(b'-')?;
        let day = self.two()?;
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(Invalid);
        }
        let year = if before_christ { 1 - year } else { year };
        Ok(days_from_2000(year, month, day))
    }

    /// `04:05:06.789` of at least two digits of hours, in microseconds.
    fn clock(&mut self) -> Result<i64, Invalid> {
        let before = self.0.len();
        let hours = self.number()?;
        if before - self.0.len() < 2 {
            return Err(Invalid);
        }
        self.byte(b':')?;
        let minutes = self.two()?;
        self.byte(b':')?;
        let seconds = self.two()?;
        let mut micros = hours
            .checked_mul(3_600)
            .and_then(|hours| {
                hours
                    .checked_add(minutes * 60 + seconds)?
                    .checked_mul(SECOND)
            })
            .ok_or(Invalid)?;
        if self.byte(b'.').is_ok() {
            let before = self.0.len();
            let fraction = self.number()?;
            let digits = u32::try_from(before - self.0.len()).map_err(|_| Invalid)?;
            let places = 6u32.checked_sub(digits).ok_or(Invalid)?;
            micros = micros
                .checked_add(fraction * 10i64.pow(places))
                .ok_or(Invalid)?;
        }
        Ok(micros)
    }

    /// A time of a day, up to 24:00:00.
    fn time(&mut self) -> Result<i64, Invalid> {
        self.clock()
            .and_then(|micros| (micros <= DAY).then_some(micros).ok_or(Invalid))
    }

    /// `+02`, `-03:30`, `+00:19:32`: seconds east of UTC.
    fn offset(&mut self) -> Result<i64, Invalid> {
        let negative = match self.byte(b'+') {
            Ok(()) => false,
            Err(Invalid) => self.byte(b'-').map(|()| true)?,
        };
        let mut seconds = self.two()? * 3_600;
        if self.byte(b':').is_ok() {
            seconds += self.two()? * 60;
        }
        if self.byte(b':').is_ok() {
            seconds += self.two()?;
        }
        Ok(if negative { -seconds } else { seconds })
    }
}

/// Days from 2000-01-01 in the Gregorian calendar, also before there was one; year 0 is 1 BC.
fn days_from_2000(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last one.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 730_425
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_count_from_2000() {
        let check =
            |text: &str, days| assert_eq!(date(Format::Text, text.as_bytes()), days, "{text}");
        check("2000-01-01", Ok(0));
        check("1999-12-31", Ok(-1));
        check("2000-03-01", Ok(60));
        check("1970-01-01", Ok(-10957));
        check("2024-02-29", Ok(8825));
        check("0001-01-01", Ok(-730_119));
        check("0001-12-31 BC", Ok(-730_120));
        check("4714-11-24 BC", Ok(-2_451_545));
        check("5874897-12-31", Ok(2_145_031_948));
        check("infinity", Ok(i32::MAX));
        for text in [
            "01-02-2000",
            "01/02/2000",
            "01.02.2000",
            "2000-1-1",
            "2000-13-01",
            "2000-01-01x",
            "",
        ] {
            check(text, Err(Invalid));
        }
    }

    #[test]
    fn timestamps_are_moved_to_utc() {
        let check = |zone, text: &str, micros| {
            assert_eq!(
                timestamp(Format::Text, zone, text.as_bytes()),
                micros,
                "{text}"
            );
        };
        check(false, "2000-01-01 00:00:01.5", Ok(1_500_000));
        check(false, "2000-01-01 00:00:00.000001", Ok(1));
        check(true, "2000-01-01 02:00:00+02", Ok(0));
        check(true, "1999-12-31 20:30:00-03:30", Ok(0));
        check(true, "2000-01-01 00:19:32+00:19:32", Ok(0));
        check(false, "0001-12-31 00:00:00 BC", Ok(-730_120 * DAY));
        check(true, "-infinity", Ok(i64::MIN));
        check(true, "2000-01-01 00:00:00", Err(Invalid));
        check(false, "2000-01-01 00:00:00+00", Err(Invalid));
        check(false, "Sat Jan 01 00:00:00 2000", Err(Invalid));
        check(false, "01/01/2000 00:00:00", Err(Invalid));
        check(false, "01.01.2000 00:00:00", Err(Invalid));
        check(true, "01/01/2000 00:00:00 UTC", Err(Invalid));
    }

    #[test]
    fn times_of_a_day() {
        assert_eq!(time(Format::Text, b"24:00:00"), Ok(DAY));
        assert_eq!(time(Format::Text, b"24:00:01"), Err(Invalid));
        assert_eq!(timetz(Format::Text, b"02:00:00+02"), Ok((0, -7200)));
        assert_eq!(timetz(Format::Text, b"02:00:00"), Err(Invalid));
    }

    #[test]
    fn intervals_are_read_in_the_default_style_only() {
        let check = |text: &str, expected: Option<(i32, i32, i64)>| {
            let found = Interval::read(Format::Text, text.as_bytes()).ok();
            assert_eq!(
                found.map(|i| (i.months, i.days, i.micros)),
                expected,
                "{text}"
            );
        };
        check("00:00:00", Some((0, 0, 0)));
        check(
            "1 year 2 mons 3 days 04:05:06.789",
            Some((14, 3, 14_706_789_000)),
        );
        check(
            "-1 years -2 mons +3 days -04:05:06",
            Some((-14, 3, -14_706_000_000)),
        );
        check("1 mon", Some((1, 0, 0)));
        check("100:00:00", Some((0, 0, 360_000_000_000)));
        for text in [
            "1-2",
            "3 4:05:06",
            "+1-2 +3 +4:05:06",
            "P1Y2M",
            "PT0S",
            "@ 1 day",
            "@ 0",
            "0",
            "",
        ] {
            check(text, None);
        }
        let span = |text: &str| {
            Interval::read(Format::Text, text.as_bytes())
                .unwrap()
                .span()
        };
        assert_eq!(span("1 mon"), span("30 days"));
        assert!(span("infinity") > span("178000000 years"));
    }
}
