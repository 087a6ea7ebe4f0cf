//! Tokens of AWS IAM for logins to RDS. They are made and kept on a thread of their own: credentials may take the
//! network, and no core and no login of others waits for that.

#[cfg(feature = "rds-iam")]
mod aws;
#[cfg(not(feature = "rds-iam"))]
mod aws {
    //! What a build without the feature `rds-iam` has instead.

    use super::{IamLogin, Signed};

    #[derive(Debug, Default)]
    pub(super) struct Signer;

    impl Signer {
        pub(super) fn sign(&mut self, _login: &IamLogin) -> Result<Signed, String> {
            Err("this build has no RDS IAM".to_owned())
        }
    }
}

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use cores::blocking::{Blocking, Helpers};

use crate::auth::iam::{IamLogin, IamTokens, Outcome};
use crate::auth::Password;

/// Logins that may wait for that thread.
const WAITING_MAX: usize = 4096;

/// A new token.
struct Signed {
    token: Password,
    /// What is left of the credentials' time, if that is limited.
    lasts: Option<Duration>,
}

/// Gives tokens to every core; one that is known is not made again.
#[derive(Clone)]
pub(crate) struct Tokens {
    helper: Blocking,
    desk: Arc<Desk>,
}

#[expect(
    clippy::disallowed_types,
    reason = "it belongs to the helper, which alone takes it; a job is moved there, its state is not"
)]
type Desk = std::sync::Mutex<Books>;

/// What the thread has.
#[derive(Default)]
struct Books {
    tokens: IamTokens,
    signer: aws::Signer,
}

impl Tokens {
    /// Starts the thread. Until it is asked it does nothing.
    ///
    /// Errors: there is none to be had.
    pub(crate) fn start() -> io::Result<Self> {
        let helper = Blocking::start(&Helpers {
            threads: 1,
            jobs_max: WAITING_MAX,
            avoid: Vec::new(),
            nice: 0,
        })?;
        let desk = Arc::default();
        Ok(Self { helper, desk })
    }

    /// The token for this login, or why there is none.
    pub(crate) fn token(&self, login: IamLogin) -> impl std::future::Future<Output = Outcome> {
        let answer = self.at_the_desk(move |books| books.token(&login));
        async move {
            match answer.await {
                Ok(outcome) => outcome,
                Err(lost) => Err(lost.to_string().into()),
            }
        }
    }

    /// The server did not take this one.
    pub(crate) fn refused(&self, login: IamLogin, token: Password) {
        // Where that is lost the token stays until it expires.
        drop(self.at_the_desk(move |books| books.tokens.refused(&login, &token)));
    }

    fn at_the_desk<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Books) -> T + Send + 'static,
    ) -> cores::blocking::Answer<T> {
        let desk = Arc::clone(&self.desk);
        self.helper.run(move || {
            // A job that has panicked leaves tokens that are whole or not there.
            job(&mut desk.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}

impl Books {
    fn token(&mut self, login: &IamLogin) -> Outcome {
        if let Some(known) = self.tokens.get(login, now()) {
            return known;
        }
        let (outcome, lasts) = match self.signer.sign(login) {
            Ok(signed) => (Ok(signed.token), signed.lasts),
            Err(reason) => {
                let IamLogin { host, user, .. } = login;
                tracing::error!("no RDS IAM token for {user} at {host}: {reason}");
                (Err(reason.into()), None)
            }
        };
        self.tokens.signed(login, outcome.clone(), lasts, now());
        outcome
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own")]
fn now() -> Instant {
    Instant::now()
}
