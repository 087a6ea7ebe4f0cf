//! What a client asks for in its startup packet.

use crate::error::{Error, Fault};
use crate::protocol::parameters::Parameters;
use crate::protocol::sqlstate::SqlState;
use crate::protocol::startup::{Replication, StartupMessage, Version};
use crate::protocol::startup_options;

use super::End;

/// What the startup packet asked for.
pub(super) struct Wish {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) settings: Parameters,
    pub(super) version: Version,
    /// NegotiateProtocolVersion, if there is something to negotiate.
    pub(super) negotiation: Vec<u8>,
}

impl Wish {
    pub(super) fn read(message: &StartupMessage<'_>) -> Result<Self, End> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let user = text(message.user().map_err(End::Fatal)?);
        let database = text(message.database().map_err(End::Fatal)?);
        if message.replication().map_err(End::Fatal)? != Replication::None {
            let text = format!("replication connections are not available to user \"{user}\"");
            return Err(End::Fatal(Error::fatal(
                Fault::Client,
                SqlState::FEATURE_NOT_SUPPORTED,
                text,
            )));
        }
        let mut settings = Parameters::new();
        if let Some(options) = message.options {
            for (name, value) in startup_options::parameters(options).map_err(End::Fatal)? {
                set(&mut settings, &name, &value)?;
            }
        }
        for (name, value) in message.session_parameters() {
            set(&mut settings, name, value)?;
        }
        let negotiation = message.negotiate();
        let mut reply = Vec::new();
        negotiation.encode(&mut reply);
        Ok(Self {
            user,
            database,
            settings,
            version: negotiation.version,
            negotiation: reply,
        })
    }
}

fn set(settings: &mut Parameters, name: &[u8], value: &[u8]) -> Result<(), End> {
    let ours = |prefix: &[u8]| prefix.eq_ignore_ascii_case(b"pgdog.");
    let known = [&b"pgdog.role"[..], b"pgdog.shard", b"pgdog.sharding_key"];
    let known = known.iter().any(|known| name.eq_ignore_ascii_case(known));
    if name.get(..6).is_some_and(ours) && !known {
        let name = String::from_utf8_lossy(name).into_owned();
        let error = Error::fatal(
            Fault::Client,
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("\"{name}\" is not available yet"),
        );
        return Err(End::Fatal(error));
    }
    settings.set(name, value);
    Ok(())
}
