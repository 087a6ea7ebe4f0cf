//! PROBE: a connection outside of all pools, to see whether a server answers, and how soon.

use std::rc::Rc;

use crate::admin::{Act, Answer, Command, Rows, Value};
use crate::error::{Error, Fault};
use crate::pool::{ConnectFailure, PoolId};
use crate::protocol::sqlstate::SqlState;

use super::super::core_state::CoreState;
use super::super::pools::PoolSlot;
use super::super::server::connect::{connect, Purpose};

/// Of the pool that is in no list.
const NO_POOL: PoolId = PoolId(u32::MAX);

/// Connects, within `connect_timeout`, and runs `SELECT 1`. Errors: 08001, with the reason.
pub(super) async fn probe(state: &Rc<CoreState>, url: &str) -> Result<Answer, Error> {
    let setup = state.config();
    let pool = setup.probe(url).map_err(failed)?;
    let slot = PoolSlot::new(NO_POOL, &pool, &setup, &state.core);
    let began = state.core.clock();
    let timeout = setup.servers.connect_timeout;
    let deadline = timeout.and_then(|timeout| began.checked_add(timeout));
    let asked = Box::pin(async {
        let mut server = connect(state, &slot, Purpose::Check)
            .await
            .map_err(ConnectFailure::reason)?;
        match server.run("SELECT 1").await {
            Ok(_) => Ok(server),
            Err(_) => Err("SELECT 1 has failed".to_owned()),
        }
    });
    let outcome = state.core.timeout_at(deadline, asked).await;
    let server = outcome
        .unwrap_or_else(|| Err("no answer within connect_timeout".to_owned()))
        .map_err(failed)?;
    let took = state.core.clock().saturating_duration_since(began);
    Box::new(server).close(state).await;
    let probe = Command::Act(Act::Probe { url: String::new() });
    let latency = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
    Ok(Answer {
        rows: Some(Rows {
            columns: probe.columns().unwrap_or_default(),
            rows: vec![vec![Value::Int(latency)]],
        }),
        ..Answer::done("PROBE".to_owned())
    })
}

fn failed(reason: String) -> Error {
    let code = SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
    Error::error(Fault::Client, code, format!("probe failed: {reason}"))
}
