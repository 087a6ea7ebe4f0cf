//! `auth_query`: a server is asked what checks the password of a user who has none here.

use std::rc::Rc;

use crate::auth::Credentials;
use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;
use crate::sql;

use super::super::core_state::CoreState;
use super::visitor::Visitor;
use super::wish::Wish;
use super::End;

/// What the user's password is checked against: from memory, or from a server of the database: the primary, or another one
/// if there is no connection to be had.
///
/// Errors: the query could not be run; why is for the log.
pub(super) async fn credentials(state: &Rc<CoreState>, wish: &Wish) -> Result<Credentials, End> {
    let (user, database) = (&wish.user, &wish.database);
    let now = state.core.now();
    if let Some(known) = state.looked_up.borrow().get(user, database, now) {
        return Ok(known);
    }
    let setup = state.config();
    let nothing = |reason: &dyn std::fmt::Display| {
        tracing::error!(%user, %database, "auth_query failed: {reason}");
        let text = format!("no server available for user \"{user}\", database \"{database}\"");
        End::Fatal(Error::fatal(
            Fault::Server,
            SqlState::CANNOT_CONNECT_NOW,
            text,
        ))
    };
    let Some(lookup) = setup.lookup(user, database) else {
        return Ok(Credentials::Unknown);
    };
    let Some(cluster) = state.cluster_of(lookup.auth_user, database) else {
        return Ok(Credentials::Unknown);
    };
    let query = sql::fill(lookup.query, user);
    let mut missed: Option<Error> = None;
    let mut answer = None;
    for slot in cluster.homes() {
        match Visitor::new(state, slot).run(&query).await {
            Ok(told) => {
                answer = Some(told);
                break;
            }
            // No server of that pool.
            Err(error) if error.fault == Fault::Server => drop(missed.get_or_insert(error)),
            Err(error) => return Err(nothing(&error)),
        }
    }
    let answer = answer.ok_or_else(|| match &missed {
        Some(error) => nothing(error),
        None => nothing(&"no server"),
    })?;
    let credentials = match answer.column(1) {
        Some(secret) => Credentials::looked_up(secret),
        None if answer.has_row() => return Err(nothing(&"it has no second column")),
        None => Credentials::Unknown,
    };
    let now = state.core.now();
    let mut looked_up = state.looked_up.borrow_mut();
    looked_up.insert(user, database, credentials.clone(), now);
    Ok(credentials)
}

/// What was said of this user may be out of date.
pub(super) fn forget(state: &CoreState, wish: &Wish) {
    let mut looked_up = state.looked_up.borrow_mut();
    looked_up.forget(&wish.user, &wish.database);
}
