//! Lists, ranges and a default: rules that take the place of the hash.
//!
//! As in `PARTITION BY LIST` and `RANGE`: a list is looked at before the ranges, the default takes what is left, NULL
//! among it. Texts are compared as bytes, as under the collation `C`.

use std::cmp::Ordering;

use super::key::{uuid_text, Key};

/// A key that a rule names. Ordered within its type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleKey {
    /// Of `bigint`.
    Integer(i64),
    /// Of `uuid`.
    Uuid([u8; 16]),
    /// Of `varchar`.
    Text(String),
}

/// One rule as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Keys of a list.
    pub values: Vec<RuleKey>,
    /// First key of a range, inclusive.
    pub start: Option<RuleKey>,
    /// End of a range, exclusive.
    pub end: Option<RuleKey>,
    /// Shard of these keys, and of all others if there are none.
    pub shard: u32,
}

/// Rules that do not contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// By key.
    list: Vec<(RuleKey, u32)>,
    /// By start; none overlaps the next.
    ranges: Vec<Range>,
    default: Option<u32>,
}

/// A half-open range; `None` is infinite.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    start: Option<RuleKey>,
    end: Option<RuleKey>,
    shard: u32,
}

impl Rules {
    /// Errors: all that contradicts itself: two kinds in one rule, a key in two lists, ranges that are empty or overlap,
    /// two defaults.
    pub fn new(rules: Vec<Rule>) -> Result<Self, Vec<String>> {
        let mut flaws = Vec::new();
        let mut list: Vec<(RuleKey, usize, u32)> = Vec::new();
        let mut ranges = Vec::new();
        let mut defaults = Vec::new();
        for (at, rule) in rules.into_iter().enumerate() {
            let shard = rule.shard;
            let bounded = rule.start.is_some() || rule.end.is_some();
            if !rule.values.is_empty() {
                if bounded {
                    flaws.push(format!(
                        "a rule has either values or start and end (shard {shard})"
                    ));
                }
                list.extend(rule.values.into_iter().map(|key| (key, at, shard)));
            } else if bounded {
                if matches!((&rule.start, &rule.end), (Some(start), Some(end)) if start >= end) {
                    flaws.push(format!("the range of shard {shard} ends before it starts"));
                }
                ranges.push(Range {
                    start: rule.start,
                    end: rule.end,
                    shard,
                });
            } else {
                defaults.push(shard);
            }
        }
        list.sort();
        for pair in list.windows(2) {
            if let [(a, first, _), (b, second, _)] = pair {
                if a == b && first != second {
                    flaws.push(format!("{a} is in two lists"));
                }
            }
        }
        list.dedup_by(|a, b| a.0 == b.0);
        ranges.sort_by(|a, b| a.start.cmp(&b.start));
        for pair in ranges.windows(2) {
            if let [a, b] = pair {
                let apart = matches!((&a.end, &b.start), (Some(end), Some(start)) if end <= start);
                if !apart {
                    let (a, b) = (a.shard.min(b.shard), a.shard.max(b.shard));
                    flaws.push(format!("ranges of shards {a} and {b} overlap"));
                }
            }
        }
        if defaults.len() > 1 {
            flaws.push("two default rules".to_owned());
        }
        if !flaws.is_empty() {
            return Err(flaws);
        }
        Ok(Self {
            list: list
                .into_iter()
                .map(|(key, _, shard)| (key, shard))
                .collect(),
            ranges,
            default: defaults.first().copied(),
        })
    }

    /// The shard of a key; `None` if no rule takes it.
    pub fn shard(&self, key: &Key<'_>) -> Option<u32> {
        self.listed(key)
            .or_else(|| self.within(key))
            .or(self.default)
    }

    fn listed(&self, key: &Key<'_>) -> Option<u32> {
        let order = |(listed, _): &(RuleKey, u32)| listed.order(key).unwrap_or(Ordering::Less);
        let at = self.list.binary_search_by(order).ok()?;
        self.list.get(at).map(|(_, shard)| *shard)
    }

    fn within(&self, key: &Key<'_>) -> Option<u32> {
        let begins = |range: &Range| {
            let Some(start) = &range.start else {
                return !matches!(key, Key::Null | Key::Vector(_));
            };
            start.order(key).is_some_and(Ordering::is_le)
        };
        let last = self.ranges.partition_point(begins).checked_sub(1)?;
        let range = self.ranges.get(last)?;
        let ends = match &range.end {
            None => true,
            Some(end) => end.order(key) == Some(Ordering::Greater),
        };
        ends.then_some(range.shard)
    }

    /// The highest shard that a rule names.
    pub fn shard_max(&self) -> Option<u32> {
        let listed = self.list.iter().map(|(_, shard)| *shard);
        let ranged = self.ranges.iter().map(|range| range.shard);
        listed.chain(ranged).chain(self.default).max()
    }
}

impl RuleKey {
    /// `None`: of another type, or NULL.
    fn order(&self, key: &Key<'_>) -> Option<Ordering> {
        match (self, key) {
            (Self::Integer(a), Key::Integer(b)) => Some(a.cmp(b)),
            (Self::Uuid(a), Key::Uuid(b)) => Some(a.cmp(b)),
            (Self::Text(a), Key::Text(b)) => Some(a.as_bytes().cmp(b)),
            _ => None,
        }
    }
}

/// As in a file.
impl std::fmt::Display for RuleKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Uuid(bytes) => write!(f, "\"{}\"", uuid_text(bytes)),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn list(values: &[i64], shard: u32) -> Rule {
        Rule {
            values: values.iter().copied().map(RuleKey::Integer).collect(),
            start: None,
            end: None,
            shard,
        }
    }

    fn range(start: Option<i64>, end: Option<i64>, shard: u32) -> Rule {
        Rule {
            values: Vec::new(),
            start: start.map(RuleKey::Integer),
            end: end.map(RuleKey::Integer),
            shard,
        }
    }

    fn check(rules: &[Rule], expected: &[(i64, Option<u32>)]) {
        let rules = Rules::new(rules.to_vec()).unwrap();
        for (key, shard) in expected {
            assert_eq!(rules.shard(&Key::Integer(*key)), *shard, "{key}");
        }
    }

    #[test]
    fn lists_then_ranges_then_the_default() {
        let rules = [
            range(Some(0), Some(10), 1),
            list(&[5, 99, 5], 2),
            range(Some(10), Some(20), 3),
        ];
        check(
            &rules,
            &[
                (5, Some(2)),
                (99, Some(2)),
                (0, Some(1)),
                (9, Some(1)),
                (10, Some(3)),
                (19, Some(3)),
                (20, None),
                (-1, None),
            ],
        );
        let with_default = [&rules[..], &[list(&[], 4)]].concat();
        check(
            &with_default,
            &[(5, Some(2)), (20, Some(4)), (i64::MIN, Some(4))],
        );
    }

    #[test]
    fn open_ends_and_gaps() {
        let rules = [range(Some(100), None, 1), range(None, Some(0), 0)];
        check(
            &rules,
            &[
                (i64::MIN, Some(0)),
                (-1, Some(0)),
                (0, None),
                (99, None),
                (100, Some(1)),
                (i64::MAX, Some(1)),
            ],
        );
        assert_eq!(Rules::new(rules.to_vec()).unwrap().shard_max(), Some(1));
    }

    #[test]
    fn null_and_other_types_are_for_the_default_only() {
        let everything =
            Rules::new(vec![range(None, Some(0), 0), range(Some(0), None, 1)]).unwrap();
        assert_eq!(everything.shard(&Key::Null), None);
        let text = Key::Text(Cow::Borrowed(b"5"));
        assert_eq!(everything.shard(&text), None);
        let default = Rules::new(vec![list(&[1], 0), list(&[], 2)]).unwrap();
        assert_eq!(default.shard(&Key::Null), Some(2));
    }

    #[test]
    fn texts_are_compared_as_bytes() {
        let text = |text: &str| Some(RuleKey::Text(text.to_owned()));
        let rule = |start, end, shard| Rule {
            values: Vec::new(),
            start,
            end,
            shard,
        };
        let rules = Rules::new(vec![
            rule(text("a"), text("m"), 0),
            rule(text("m"), None, 1),
        ])
        .unwrap();
        for (key, shard) in [
            ("a", Some(0)),
            ("lzz", Some(0)),
            ("m", Some(1)),
            ("é", Some(1)),
            ("Z", None),
        ] {
            let found = rules.shard(&Key::Text(Cow::Borrowed(key.as_bytes())));
            assert_eq!(found, shard, "{key}");
        }
    }

    #[test]
    fn contradictions() {
        for (rules, flaw) in [
            (vec![list(&[1], 0), list(&[2, 1], 1)], "1 is in two lists"),
            (
                vec![range(Some(0), Some(5), 1), range(Some(4), None, 0)],
                "ranges of shards 0 and 1 overlap",
            ),
            (
                vec![range(None, Some(5), 0), range(None, Some(9), 1)],
                "ranges of shards 0 and 1 overlap",
            ),
            (
                vec![range(Some(0), None, 0), range(Some(9), Some(10), 1)],
                "ranges of shards 0 and 1 overlap",
            ),
            (
                vec![range(Some(5), Some(5), 3)],
                "the range of shard 3 ends before it starts",
            ),
            (vec![list(&[], 0), list(&[], 0)], "two default rules"),
        ] {
            assert_eq!(Rules::new(rules), Err(vec![flaw.to_owned()]));
        }
    }
}
