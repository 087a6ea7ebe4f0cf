//! To which shards a statement goes.

use crate::error::{Error, Fault};
use crate::protocol::frontend::Bind;
use crate::protocol::sqlstate::SqlState;
use crate::routing::verdict::{refused, Place, Run};
use crate::sql::hints::Hints;
use crate::sql::shape::Literal;
use crate::sql::statement::Statement;

use super::super::role::unquoted;
use super::super::Session;

impl Session {
    /// Where a query runs. `literals`: those of its text, with the hints in its comments.
    pub(super) fn route_query(
        &mut self,
        statement: &Statement,
        _text: &[u8],
        (_literals, hints): &(Vec<Literal>, Hints),
        _bind: Option<&Bind<'_>>,
    ) -> Result<Run, Error> {
        if let Some(shard) = self.asked_shard(hints)? {
            return Ok(Run::at(Place::These(vec![shard])));
        }
        if statement.tables.is_empty() {
            return Ok(Run::at(Place::Any));
        }
        Err(refused("this statement"))
    }

    /// The shard that a comment or a setting asks for. Errors: there is none of that number.
    fn asked_shard(&self, hints: &Hints) -> Result<Option<usize>, Error> {
        let set = || {
            let value = self.settings.current().get(b"pgdog.shard")?;
            Some(
                String::from_utf8_lossy(&unquoted(value.sql()))
                    .parse::<u32>()
                    .ok(),
            )
        };
        let asked = hints.shard.map(Some).or_else(set);
        match asked {
            None => Ok(None),
            Some(Some(shard)) if (shard as usize) < self.cluster.shards() => {
                Ok(Some(shard as usize))
            }
            Some(_) => {
                let text = "invalid value for \"pgdog.shard\"";
                Err(Error::error(
                    Fault::Client,
                    SqlState::INVALID_PARAMETER_VALUE,
                    text,
                ))
            }
        }
    }
}
