//! Tokens of AWS IAM that RDS takes for passwords: whose one is, and for how long it serves.
//!
//! To sign one takes the credentials of AWS, and those may take the network: that is not for here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keys::Password;

/// RDS takes a token for that long after it was signed, unless the credentials expire before.
///
/// Source: <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html>
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// What is left of its time when a token makes room for the next: for logins under way, and clocks that differ.
const MARGIN: Duration = Duration::from_secs(60);
/// So soon is tried again what has failed; who asks meanwhile hears of that failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Tokens known at a time.
const TOKENS_MAX: usize = 4096;

/// What a token is good for: it holds for one user of one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IamLogin {
    /// The server's name as configured; the signature covers it.
    pub host: String,
    /// Its port; so does it this.
    pub port: u16,
    /// The user on the server.
    pub user: String,
    /// AWS region of the server.
    pub region: String,
}

/// Tokens until shortly before they expire.
#[derive(Debug, Default)]
pub struct IamTokens {
    known: HashMap<IamLogin, Known>,
}

#[derive(Debug)]
struct Known {
    outcome: Outcome,
    until: Instant,
}

/// A token, or why there is none.
pub type Outcome = Result<Password, Arc<str>>;

impl IamTokens {
    /// The token to log in with, or why there is none yet; `None`: time to sign one.
    pub fn get(&self, login: &IamLogin, now: Instant) -> Option<Outcome> {
        let known = self.known.get(login)?;
        (now < known.until).then(|| known.outcome.clone())
    }

    /// What came of signing; `lasts` is what is left of the credentials' own time.
    pub fn signed(
        &mut self,
        login: &IamLogin,
        outcome: Outcome,
        lasts: Option<Duration>,
        now: Instant,
    ) {
        let serves = match &outcome {
            Ok(_) => lasts
                .map_or(TOKEN_LIFETIME, |lasts| lasts.min(TOKEN_LIFETIME))
                .saturating_sub(MARGIN),
            Err(_) => PAUSE,
        };
        if self.known.len() >= TOKENS_MAX && !self.known.contains_key(login) {
            self.known.retain(|_, known| now < known.until);
            let first = self.known.iter().min_by_key(|(_, known)| known.until);
            if let Some(first) = first.map(|(login, _)| login.clone()) {
                if self.known.len() >= TOKENS_MAX {
                    self.known.remove(&first);
                }
            }
        }
        let until = now + serves;
        self.known.insert(login.clone(), Known { outcome, until });
    }

    /// The server does not take this token: the next login gets a new one.
    pub fn refused(&mut self, login: &IamLogin, token: &Password) {
        let same = |known: &Known| known.outcome.as_ref().is_ok_and(|known| known == token);
        if self.known.get(login).is_some_and(same) {
            self.known.remove(login);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;

    fn login(user: &str) -> IamLogin {
        IamLogin {
            host: "db.example".to_owned(),
            port: 5432,
            user: user.to_owned(),
            region: "eu-west-1".to_owned(),
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_token_serves_until_a_minute_before_its_end_or_that_of_the_credentials() {
        for (lasts, serves) in [
            (None, 14 * 60),
            (Some(3600), 14 * 60),
            (Some(300), 240),
            (Some(60), 0),
            (Some(0), 0),
        ] {
            let now = Instant::now();
            let mut tokens = IamTokens::default();
            let lasts = lasts.map(Duration::from_secs);
            tokens.signed(&login("u"), Ok(Password::new("t")), lasts, now);
            let at = |seconds: u64| {
                tokens.get(&login("u"), now + SECOND * u32::try_from(seconds).unwrap())
            };
            if serves > 0 {
                assert_eq!(at(serves - 1), Some(Ok(Password::new("t"))), "{lasts:?}");
            }
            assert_eq!(at(serves), None, "{lasts:?}");
        }
    }

    #[test]
    fn each_host_port_user_and_region_has_its_own() {
        let now = Instant::now();
        let mut tokens = IamTokens::default();
        let known = login("u");
        tokens.signed(&known, Ok(Password::new("t")), None, now);
        let others = [
            login("v"),
            IamLogin {
                port: 5433,
                ..known.clone()
            },
            IamLogin {
                host: "other.example".to_owned(),
                ..known.clone()
            },
            IamLogin {
                region: "eu-west-2".to_owned(),
                ..known.clone()
            },
        ];
        assert!(others.iter().all(|other| tokens.get(other, now).is_none()));
        assert!(tokens.get(&known, now).is_some());
    }

    #[test]
    fn a_failure_is_not_tried_again_at_once() {
        let now = Instant::now();
        let mut tokens = IamTokens::default();
        tokens.signed(&login("u"), Err("no credentials".into()), None, now);
        let told = tokens.get(&login("u"), now + SECOND / 2);
        assert_eq!(told, Some(Err("no credentials".into())));
        assert_eq!(tokens.get(&login("u"), now + SECOND), None);
    }

    #[test]
    fn a_token_that_was_refused_is_forgotten_but_not_its_successor() {
        let now = Instant::now();
        let mut tokens = IamTokens::default();
        tokens.signed(&login("u"), Ok(Password::new("old")), None, now);
        tokens.signed(&login("u"), Ok(Password::new("new")), None, now);
        tokens.refused(&login("u"), &Password::new("old"));
        assert_eq!(tokens.get(&login("u"), now), Some(Ok(Password::new("new"))));
        tokens.refused(&login("u"), &Password::new("new"));
        assert_eq!(tokens.get(&login("u"), now), None);
    }

    #[test]
    fn at_the_limit_what_ends_first_makes_room() {
        let now = Instant::now();
        let mut tokens = IamTokens::default();
        for number in 0..TOKENS_MAX + 10 {
            let later = now + Duration::from_millis(number as u64);
            tokens.signed(
                &login(&number.to_string()),
                Ok(Password::new("t")),
                None,
                later,
            );
        }
        assert_eq!(tokens.known.len(), TOKENS_MAX);
        let known = |number: usize| tokens.get(&login(&number.to_string()), now).is_some();
        assert!(!known(9) && known(10) && known(TOKENS_MAX + 9));
    }
}
