//! What a server has said of users whom it was asked about (`auth_query`), remembered for a moment.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::keys::Password;
use super::login::Credentials;
use super::verifier::Verifier;

/// How long an answer is good for. A password that has changed is noticed earlier, at the first login that fails.
pub const FRESH: Duration = Duration::from_secs(10);

/// Answers by user and database; users whom the server does not know are remembered, too.
#[derive(Debug)]
pub struct LookedUp {
    answers: HashMap<(Box<str>, Box<str>), (Credentials, Instant)>,
    answers_max: usize,
}

impl LookedUp {
    /// Holds at most `answers_max`, at least one. At the limit the oldest makes room.
    pub fn new(answers_max: usize) -> Self {
        Self {
            answers: HashMap::new(),
            answers_max: answers_max.max(1),
        }
    }

    /// What was said, if it is still good.
    pub fn get(&self, user: &str, database: &str, now: Instant) -> Option<Credentials> {
        let (answer, said) = self.answers.get(&(user.into(), database.into()))?;
        let age = now.saturating_duration_since(*said);
        (age < FRESH).then(|| answer.clone())
    }

    /// Remembers an answer. At the limit it walks over all of them, which is cheap beside the query.
    pub fn insert(&mut self, user: &str, database: &str, answer: Credentials, now: Instant) {
        let key = (user.into(), database.into());
        if self.answers.len() >= self.answers_max && !self.answers.contains_key(&key) {
            let oldest = self.answers.iter().min_by_key(|(_, (_, said))| *said);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.answers.remove(&oldest);
            }
        }
        self.answers.insert(key, (answer, now));
    }

    /// The answer may be out of date.
    pub fn forget(&mut self, user: &str, database: &str) {
        self.answers.remove(&(user.into(), database.into()));
    }

    /// They all may.
    pub fn clear(&mut self) {
        self.answers.clear();
    }
}

impl Credentials {
    /// From the second column of `auth_query`: a verifier, or a password. Null, empty, or something that wants to be
    /// a verifier and is none: nobody is let in.
    pub fn looked_up(secret: Option<&[u8]>) -> Self {
        let Some(text) = secret.filter(|text| !text.is_empty()) else {
            return Self::Unknown;
        };
        let known = std::str::from_utf8(text).ok().map(Verifier::parse);
        match known {
            Some(Ok(verifier)) => Self::Stored(verifier),
            _ if text.starts_with(b"SCRAM-SHA-256$") => Self::Unknown,
            _ => Self::Passwords(vec![Password::new(text)]),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do")]
mod tests {
    use super::*;

    #[test]
    fn answers_are_good_for_a_moment() {
        let (mut looked_up, now) = (LookedUp::new(8), Instant::now());
        let answer = Credentials::looked_up(Some(b"pencil"));
        looked_up.insert("u", "a", answer.clone(), now);
        assert_eq!(looked_up.get("u", "a", now), Some(answer.clone()));
        assert_eq!(looked_up.get("u", "b", now), None);
        assert_eq!(looked_up.get("v", "a", now), None);
        assert_eq!(looked_up.get("u", "a", now + FRESH), None);
        looked_up.forget("u", "a");
        assert_eq!(looked_up.get("u", "a", now), None);
        looked_up.insert("u", "a", answer, now);
        looked_up.clear();
        assert_eq!(looked_up.get("u", "a", now), None);
    }

    #[test]
    fn the_oldest_answer_makes_room() {
        let (mut looked_up, now) = (LookedUp::new(2), Instant::now());
        for (second, user) in (0..).zip(["a", "b", "a", "c"]) {
            let at = now + Duration::from_secs(second);
            looked_up.insert(user, "x", Credentials::Unknown, at);
        }
        let known = ["a", "b", "c"].map(|user| looked_up.get(user, "x", now).is_some());
        assert_eq!(known, [true, false, true]);
    }

    #[test]
    fn what_a_query_may_answer() {
        let verifier = Verifier::derive(b"pencil", b"salt", 2);
        let text = verifier.to_text();
        let md5 = b"md57474753e4b2f9e23953d5977773aabb0";
        assert_eq!(
            Credentials::looked_up(Some(text.as_bytes())),
            Credentials::Stored(verifier)
        );
        let stored = Credentials::looked_up(Some(md5));
        assert!(matches!(stored, Credentials::Stored(Verifier::Md5(_))));
        assert_eq!(
            Credentials::looked_up(Some(b"pencil")),
            Credentials::Passwords(vec![Password::new("pencil")])
        );
        for nobody in [None, Some(&b""[..]), Some(b"SCRAM-SHA-256$4096:x")] {
            assert_eq!(Credentials::looked_up(nobody), Credentials::Unknown);
        }
    }
}
