//! A set of shards.

/// Most shards of a database: a set of them is one number of so many bits.
pub const SHARDS_MAX: u32 = u128::BITS;

/// A set of shards of one database, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shards(u128);

impl Shards {
    /// No shard.
    pub const NONE: Self = Self(0);

    /// This shard only.
    ///
    /// # Panics
    /// From [`SHARDS_MAX`] on, which the configuration refuses.
    pub fn one(shard: u32) -> Self {
        assert!(shard < SHARDS_MAX, "the configuration admits fewer shards");
        Self(1 << shard)
    }

    /// The shards from 0 up to `count`, exclusive; at most [`SHARDS_MAX`] of them.
    pub fn all(count: u32) -> Self {
        match SHARDS_MAX.checked_sub(count) {
            None | Some(0) => Self(u128::MAX),
            Some(SHARDS_MAX) => Self::NONE,
            Some(unused) => Self(u128::MAX >> unused),
        }
    }

    /// Is it none?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Is this one among them?
    pub fn contains(self, shard: u32) -> bool {
        shard < SHARDS_MAX && self.0 & (1 << shard) != 0
    }

    /// The only one; `None` for none and for several.
    pub fn single(self) -> Option<u32> {
        (self.len() == 1).then(|| self.0.trailing_zeros())
    }

    /// The one with the lowest number.
    pub fn first(self) -> Option<u32> {
        (!self.is_empty()).then(|| self.0.trailing_zeros())
    }

    /// This one too.
    pub fn insert(&mut self, shard: u32) {
        *self = self.union(Self::one(shard));
    }

    /// Those of either: `a = 1 OR a = 2`.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of both: `a = 1 AND a IN (1, 2)`.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that the other does not have.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// In the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let shard = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(shard)
        })
    }
}

impl FromIterator<u32> for Shards {
    fn from_iter<I: IntoIterator<Item = u32>>(shards: I) -> Self {
        let mut set = Self::NONE;
        shards.into_iter().for_each(|shard| set.insert(shard));
        set
    }
}

/// `0`, `0, 2`; nothing for none.
impl std::fmt::Display for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, shard) in self.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{shard}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_members() {
        for count in [0, 1, 2, 64, 127, 128, 200] {
            let all = Shards::all(count);
            assert_eq!(all.len(), count.min(SHARDS_MAX), "{count}");
            assert!(all.iter().eq(0..count.min(SHARDS_MAX)));
            assert!(!all.contains(count));
        }
        assert_eq!(Shards::all(1).single(), Some(0));
        assert_eq!(Shards::all(2).single(), None);
        assert_eq!(Shards::NONE.single(), None);
        assert_eq!(Shards::one(127).first(), Some(127));
    }

    #[test]
    fn sets() {
        let (a, b): (Shards, Shards) = ([5, 1, 3].into_iter().collect(), (0..4).collect());
        assert_eq!(a.union(b).to_string(), "0, 1, 2, 3, 5");
        assert_eq!(a.intersection(b).to_string(), "1, 3");
        assert_eq!(a.without(b).to_string(), "5");
        assert_eq!(Shards::NONE.to_string(), "");
    }
}
