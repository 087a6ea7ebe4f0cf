//! How long things take: log-linear histograms with two significant digits, recorded by one core without locks.
//!
//! ```text
//!   units of 256 ns:   0 … 63 │ 64 … 127 │ 128 … 254 │ 256 … 508 │ …  up to 69 s
//!   page               0      │ 1        │ 2         │ 3         │ …  64 counters each
//!   width of a counter 1      │ 1        │ 2         │ 4         │
//! ```
//!
//! A counter is at most 1/64 of its values wide, so its middle is within 0.8% of all of them; below 16 µs it is
//! 256 ns wide. A page gets memory with its first value, at most once: usual latencies touch five to ten pages.
//!
//! hdrhistogram, which the tests compare this with, allots 10 to 20 KB to each and copies all of it when a larger
//! value or a reader comes; there is one per pool, core and phase.

use std::cell::{Cell, OnceCell};
use std::ops::{AddAssign, Sub};
use std::time::Duration;

/// Counters per page, and the finest division of a power of two.
const PAGE: usize = 64;
const PAGE_BITS: u32 = PAGE.trailing_zeros();
/// Nanoseconds per unit, as a power of two.
const UNIT_BITS: u32 = 8;
/// Longer values count as this long: 69 s.
const UNITS_MAX: u64 = (1 << 28) - 1;
/// Pages up to that.
const PAGES: usize = page_and_slot(UNITS_MAX).0 + 1;

/// Recorded by one core.
#[derive(Debug)]
pub struct Histogram {
    pages: [OnceCell<Box<[Cell<u64>; PAGE]>>; PAGES],
    /// Nanoseconds.
    sum: Cell<u64>,
    max: Cell<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            pages: [const { OnceCell::new() }; PAGES],
            sum: Cell::new(0),
            max: Cell::new(0),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "below 64")]
const fn page_and_slot(units: u64) -> (usize, usize) {
    // The highest bit names the page, the six below it the counter; small values have a page of their own.
    let shift = (u64::BITS - PAGE_BITS - 1).saturating_sub((units | 1).leading_zeros());
    let page = if units < PAGE as u64 { 0 } else { shift + 1 };
    (page as usize, ((units >> shift) % PAGE as u64) as usize)
}

/// The lowest value of a counter and of the one above it, in nanoseconds.
fn edges(page: usize, slot: usize) -> (u64, u64) {
    let (base, shift) = match page {
        0 => (0, 0),
        _ => (PAGE, page - 1),
    };
    let lowest = ((base + slot) as u64) << shift;
    let width = 1 << shift;
    (lowest << UNIT_BITS, (lowest + width) << UNIT_BITS)
}

impl Histogram {
    /// Counts a time in nanoseconds.
    #[inline]
    pub fn record(&self, nanoseconds: u64) {
        let units = (nanoseconds >> UNIT_BITS).min(UNITS_MAX);
        let (page, slot) = page_and_slot(units);
        let page = self.pages[page].get_or_init(empty_page);
        let counter = &page[slot];
        counter.set(counter.get() + 1);
        self.sum.set(self.sum.get().wrapping_add(nanoseconds));
        if nanoseconds > self.max.get() {
            self.max.set(nanoseconds);
        }
    }

    /// What was recorded so far. Takes time with the pages in use.
    pub fn read(&self) -> Distribution {
        let read = |page: &OnceCell<Box<[Cell<u64>; PAGE]>>| {
            let page = page.get()?;
            Some(Box::new(std::array::from_fn(|slot| page[slot].get())))
        };
        Distribution {
            pages: std::array::from_fn(|at| read(&self.pages[at])),
            sum: self.sum.get(),
            max: self.max.get(),
        }
    }
}

#[cold]
fn empty_page() -> Box<[Cell<u64>; PAGE]> {
    Box::new([const { Cell::new(0) }; PAGE])
}

/// What was recorded up to some moment, by any number of cores, or between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    pages: [Option<Box<[u64; PAGE]>>; PAGES],
    sum: u64,
    max: u64,
}

impl Distribution {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counters().map(|(.., count)| count).sum()
    }

    /// Nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.pages.iter().all(Option::is_none)
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum)
    }

    /// The longest one. Of a difference, it is the middle of the highest counter.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The value that this share of them, between 0 and 1, does not exceed; zero if there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let count = self.count();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let wanted = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (page, slot, count) in self.counters() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(middle(page, slot).min(self.max));
            }
        }
        Duration::ZERO
    }

    /// How many values there are up to each of these bounds, which ascend. A counter belongs where its middle does.
    pub fn up_to<'a>(&'a self, bounds: &'a [Duration]) -> impl Iterator<Item = u64> + 'a {
        let mut counters = self.counters().peekable();
        let mut total = 0;
        bounds.iter().map(move |bound| {
            let inside = |&(page, slot, _): &(usize, usize, u64)| {
                u128::from(middle(page, slot)) <= bound.as_nanos()
            };
            while let Some((.., count)) = counters.next_if(inside) {
                total += count;
            }
            total
        })
    }

    /// Page, slot and count of all that are not zero, ascending.
    fn counters(&self) -> impl Iterator<Item = (usize, usize, u64)> + '_ {
        let pages = self.pages.iter().enumerate();
        pages.flat_map(|(at, page)| {
            let counts = page.iter().flat_map(|page| page.iter().enumerate());
            counts
                .filter(|(_, count)| **count > 0)
                .map(move |(slot, count)| (at, slot, *count))
        })
    }
}

fn middle(page: usize, slot: usize) -> u64 {
    let (low, high) = edges(page, slot);
    low.midpoint(high)
}

impl AddAssign<&Distribution> for Distribution {
    fn add_assign(&mut self, other: &Distribution) {
        for (mine, more) in self.pages.iter_mut().zip(&other.pages) {
            let Some(more) = more else { continue };
            let mine = mine.get_or_insert_with(|| Box::new([0; PAGE]));
            for (mine, more) in mine.iter_mut().zip(&**more) {
                *mine += more;
            }
        }
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }
}

/// What was recorded since.
impl Sub for &Distribution {
    type Output = Distribution;

    fn sub(self, before: &Distribution) -> Distribution {
        let mut since = self.clone();
        for (mine, less) in since.pages.iter_mut().zip(&before.pages) {
            if let (Some(mine), Some(less)) = (mine.as_mut(), less) {
                for (mine, less) in mine.iter_mut().zip(&**less) {
                    *mine = mine.saturating_sub(*less);
                }
            }
            if mine
                .as_ref()
                .is_some_and(|page| page.iter().all(|count| *count == 0))
            {
                *mine = None;
            }
        }
        since.sum = self.sum.saturating_sub(before.sum);
        since.max = 0;
        if let Some((page, slot, _)) = since.counters().last() {
            since.max = middle(page, slot).min(self.max);
        }
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: u64 = 1 << UNIT_BITS;

    fn of(values: &[u64]) -> Histogram {
        let histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        histogram
    }

    #[test]
    fn counters_follow_on_each_other_without_gaps() {
        let mut expected = 0;
        for page in 0..PAGES {
            for slot in 0..PAGE {
                let (low, high) = edges(page, slot);
                assert_eq!(low, expected);
                for value in [low, high - 1] {
                    assert_eq!(page_and_slot(value / UNIT), (page, slot), "{value}");
                }
                assert!(low < PAGE as u64 * UNIT || (high - low) * 64 <= low);
                expected = high;
            }
        }
        assert_eq!(expected, (UNITS_MAX + 1) * UNIT);
    }

    #[test]
    fn an_empty_one_has_no_values_and_no_pages() {
        let empty = Histogram::default().read();
        assert!(empty.is_empty());
        assert_eq!(empty.count(), 0);
        assert_eq!(empty.quantile(0.99), Duration::ZERO);
        assert_eq!(empty.max(), Duration::ZERO);
        let bounds = [Duration::from_secs(1)];
        assert_eq!(empty.up_to(&bounds).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_value_beyond_the_range_counts_and_keeps_its_length() {
        let hours = Duration::from_secs(100_000);
        let histogram = of(&[u64::try_from(hours.as_nanos()).unwrap()]).read();
        assert_eq!((histogram.count(), histogram.max()), (1, hours));
        assert_eq!(histogram.sum(), hours);
        assert!(histogram.quantile(0.5) > Duration::from_secs(68));
    }

    #[test]
    fn bounds_count_what_is_not_above_them() {
        let ms = |n| Duration::from_millis(n);
        let histogram = of(&[0, 999_000, 1_040_000, 9_000_000, 50_000_000]).read();
        let bounds = [ms(1), ms(10), ms(20), ms(60_000)];
        assert_eq!(histogram.up_to(&bounds).collect::<Vec<_>>(), [2, 4, 4, 5]);
    }

    fn latencies() -> impl Strategy<Value = Vec<u64>> {
        let exponent = 0..36_u32;
        let value = exponent.prop_flat_map(|bits| 0..=(1_u64 << bits));
        prop::collection::vec(value, 1..200)
    }

    proptest! {
        /// hdrhistogram is the reference: both have two significant digits, so they agree within both errors.
        #[test]
        fn quantiles_are_those_of_hdrhistogram(values in latencies(), share in 0.0..=1.0_f64) {
            let ours = of(&values).read();
            let mut reference = hdrhistogram::Histogram::<u64>::new(3).unwrap();
            values.iter().for_each(|value| reference.record(*value).unwrap());
            let exact = reference.value_at_quantile(share);
            let found = u64::try_from(ours.quantile(share).as_nanos()).unwrap();
            let tolerated = exact / 100 + UNIT;
            prop_assert!(found.abs_diff(exact) <= tolerated, "{} instead of {}", found, exact);
            prop_assert_eq!(ours.count(), values.len() as u64);
            prop_assert_eq!(ours.sum(), Duration::from_nanos(values.iter().sum()));
        }

        #[test]
        fn sums_and_differences_are_those_of_the_values(first in latencies(), second in latencies()) {
            let histogram = of(&first);
            let before = histogram.read();
            second.iter().for_each(|value| histogram.record(*value));
            let after = histogram.read();
            let mut sum = before.clone();
            sum += &of(&second).read();
            prop_assert_eq!(&sum, &after);
            let since = &after - &before;
            let lone = of(&second).read();
            let (median, expected) = (since.quantile(0.5), lone.quantile(0.5));
            prop_assert!(median.abs_diff(expected).as_nanos() <= expected.as_nanos() / 64 + u128::from(UNIT));
            prop_assert_eq!((since.count(), since.sum()), (lone.count(), lone.sum()));
            prop_assert!(since.max().as_nanos() + u128::from(UNIT) >= lone.max().as_nanos() * 99 / 100);
        }
    }
}
