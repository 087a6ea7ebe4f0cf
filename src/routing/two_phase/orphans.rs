//! Prepared transactions with names of our form that nobody here will finish: of another pgdog, or of one whose log is lost.
//!
//! They may be another's to finish, so nothing is done to them. They are told, once they have been there for two looks:
//! what is on its way is not.

use std::collections::BTreeMap;

use super::gid::{any_id, TransactionId};

/// Those of one shard that are told of; more are counted when these are gone.
pub const ORPHANS_MAX: usize = 100;

/// Asks a server for what it has prepared in this database, the oldest first.
pub const QUERY: &str = "SELECT gid FROM pg_catalog.pg_prepared_xacts \
    WHERE database = pg_catalog.current_database() AND gid LIKE 'pgdog.%' ORDER BY prepared LIMIT 1000";

/// A shard of a database.
pub type Place = (String, u32);

/// What was seen at the last look.
#[derive(Clone, Debug, Default)]
pub struct Orphans {
    /// By shard and GID.
    seen: BTreeMap<Place, BTreeMap<String, Seen>>,
}

/// How often it was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It may be on its way.
    Once,
    /// It was told.
    Again,
}

/// What a look has found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// There for the second time.
    pub found: Vec<String>,
    /// Told before, and gone.
    pub gone: Vec<String>,
}

impl Orphans {
    /// A shard has these prepared. `is_known`: transactions that are on their way, or being finished.
    pub fn look(
        &mut self,
        place: &Place,
        prepared: &[String],
        is_known: impl Fn(TransactionId) -> bool,
    ) -> News {
        let mut news = News::default();
        let orphans = prepared
            .iter()
            .filter(|gid| any_id(gid).is_some_and(|id| !is_known(id)))
            .take(ORPHANS_MAX);
        let here = self.seen.entry(place.clone()).or_default();
        let mut before = std::mem::take(here);
        for gid in orphans {
            let seen = match before.remove(gid) {
                None => Seen::Once,
                Some(earlier) => {
                    if earlier == Seen::Once {
                        news.found.push(gid.clone());
                    }
                    Seen::Again
                }
            };
            here.insert(gid.clone(), seen);
        }
        let told = before.into_iter().filter(|(_, seen)| *seen == Seen::Again);
        news.gone = told.map(|(gid, _)| gid).collect();
        news
    }

    /// No others are looked at any more.
    pub fn retain(&mut self, places: &[Place]) {
        self.seen.retain(|place, _| places.contains(place));
    }

    /// Those that were told of.
    pub fn iter(&self) -> impl Iterator<Item = (&Place, &str)> {
        self.seen.iter().flat_map(|(place, here)| {
            let told = here.iter().filter(|(_, seen)| **seen == Seen::Again);
            told.map(move |(gid, _)| (place, &**gid))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(number: u64) -> String {
        format!("pgdog.-.other.00000000000000ab.0.{number}.1")
    }

    #[test]
    fn what_stays_is_told_once() {
        let (mut orphans, place) = (Orphans::default(), ("shop".to_owned(), 1));
        let known = |id: TransactionId| id.number == 3;
        let manual = "manual".to_owned();
        let prepared = [gid(1), gid(2), gid(3), manual];
        let none = News::default();
        assert_eq!(orphans.look(&place, &prepared, known), none);
        assert_eq!(orphans.iter().count(), 0);
        let found = orphans.look(&place, &prepared[1..], known);
        assert_eq!(found.found, [gid(2)], "the first was on its way");
        assert_eq!(orphans.look(&place, &prepared[1..], known), none);
        assert_eq!(orphans.iter().next(), Some((&place, &*gid(2))));
        let other = ("shop".to_owned(), 0);
        assert_eq!(orphans.look(&other, &[], known), none);
        let gone = orphans.look(&place, &[], known);
        assert_eq!(gone.gone, [gid(2)]);
        assert_eq!(orphans.iter().count(), 0);
        // A shard that is not looked at any more.
        orphans.look(&place, &prepared, known);
        orphans.look(&place, &prepared, known);
        orphans.retain(&[other]);
        assert_eq!(orphans.iter().count(), 0);
    }

    #[test]
    fn there_may_be_many() {
        let (mut orphans, place) = (Orphans::default(), ("shop".to_owned(), 1));
        let prepared: Vec<_> = (0..3 * ORPHANS_MAX as u64).map(gid).collect();
        orphans.look(&place, &prepared, |_| false);
        let found = orphans.look(&place, &prepared, |_| false).found;
        assert_eq!(found.len(), ORPHANS_MAX);
    }
}
