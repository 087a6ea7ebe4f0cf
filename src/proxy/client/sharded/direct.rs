//! The usual request: one statement, outside of a transaction, that one of its values sends to one shard. What it says is
//! known already, so that a look at its shape and at that value is enough, and it is passed on as if there were no shards.
//!
//! Whatever is not like that takes the long way (`super::Session::serve_sharded`), which comes to the same.

use std::rc::Rc;

use crate::config::choice::PoolerMode;
use crate::protocol::batch::{extent, messages, BatchEnd, Extent};
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::frontend::{tag, Bind, Parse, Target};
use crate::routing::direct::{decisive, shard};
use crate::routing::values::{Parameter, Values};
use crate::sql::statement::{Analysis, Decisive, Kind, Statement};

use super::super::super::cluster::Want;
use super::super::super::pools::Held;
use super::super::facts::Facts;
use super::super::inbound::CLIENT_BODY_BYTES_MAX;
use super::super::obtain::Aim;
use super::super::Session;
use super::view::View;
use super::{Leg, Sharded};

/// Where the request goes.
struct Found {
    shard: usize,
    want: Want,
    analysis: Rc<Analysis>,
}

impl Sharded {
    /// Has it nothing that outlives a request?
    fn is_blank(&self) -> bool {
        let transaction = self.transaction.is_open() || self.ours || self.defined.any();
        self.legs.is_empty() && !transaction && self.portals.is_empty() && self.left.is_none()
    }
}

impl Session {
    /// The server of the shard to which the request in front goes, if that is one of the usual. `None`: it is not, or there is
    /// no server at once.
    pub(in super::super) fn take_direct(&mut self) -> Option<(Held, Aim)> {
        let blank = self.sharded.as_deref().is_none_or(Sharded::is_blank);
        let sharded = self.cluster.shards() > 1;
        if !sharded
            || !blank
            || self.manner.mode == PoolerMode::Session
            || self.settings.current().lead_elsewhere()
        {
            return None;
        }
        let found = self.decided()?;
        let types = self.types_of(found.shard).ok()?;
        let aim = Aim {
            shard: found.shard,
            want: found.want,
            writes: found.want == Want::Write,
        };
        // A choice that is not used would count.
        if self.cluster.shard(aim.shard)?.servers().len() > 1 {
            return None;
        }
        let mut held = self.obtain_idle(aim).ok()?;
        held.types = types;
        let mut cache = self.cluster.analyses.borrow_mut();
        cache.used(&found.analysis);
        cache.route(&found.analysis, false);
        self.cluster.over_shards.touched.record(1);
        self.point_at(&held);
        Some((held, aim))
    }

    fn decided(&self) -> Option<Found> {
        let bytes = self.inbound.bytes();
        let Ok(Extent::Whole { bytes: length, end }) = extent(bytes, CLIENT_BODY_BYTES_MAX) else {
            return None;
        };
        let request = bytes.get(..length)?;
        match end {
            BatchEnd::Simple if request.first() == Some(&tag::QUERY) => {
                self.decided_by(request.get(HEADER_BYTES..length - 1)?, None)
            }
            BatchEnd::Sync => {
                let (mut parsed, mut bound) = (None, None);
                for (header, body) in messages(request) {
                    match header.tag {
                        tag::PARSE if parsed.is_none() && bound.is_none() => {
                            parsed = Some(Parse::parse(body).ok()?);
                        }
                        tag::BIND if bound.is_none() => bound = Some(Bind::parse(body).ok()?),
                        tag::DESCRIBE => match Target::parse(body) {
                            Ok(Target::Portal(_)) => {}
                            _ => return None,
                        },
                        tag::EXECUTE | tag::SYNC => {}
                        _ => return None,
                    }
                }
                let bind = bound?;
                let Some(parse) = parsed else {
                    let statement = self.statement(bind.statement).ok()?;
                    let sent = (!statement.is_sql()).then(|| statement.definition())?;
                    let parse = Parse::of_content(sent).ok()?;
                    if !self.is_bound_alike(sent, &bind) {
                        return None;
                    }
                    return self.decided_by(parse.query, Some((&bind, &parse)));
                };
                let alike = parse.statement == bind.statement
                    && self.check_types(&parse).is_ok()
                    && self.is_declared_alike(&parse)
                    && self.is_bound_alike(parse.content(), &bind);
                alike.then(|| self.decided_by(parse.query, Some((&bind, &parse))))?
            }
            _ => None,
        }
    }

    /// `bound`: its values, if it has come with some, and what Parse has declared.
    fn decided_by(&self, text: &[u8], bound: Option<(&Bind<'_>, &Parse<'_>)>) -> Option<Found> {
        let dialect = self.session_dialect();
        let facts = self.cluster.known();
        let mut cache = self.cluster.analyses.borrow_mut();
        let (analysis, literals) = cache.find(text, dialect)?;
        let [statement] = analysis.statements.as_deref().ok()? else {
            return None;
        };
        let number = self.cluster.facts_number.get();
        let decisive = match analysis.decisive.get() {
            Some((at, found)) if at == number => found,
            _ => {
                let found = self.decisive_of(statement, &facts);
                analysis.decisive.set(Some((number, found)));
                found
            }
        }?;
        let sharding = facts.sharding(&self.cluster)?;
        let parameters = match bound {
            Some((bind, parse)) => Parameter::of(&bind.arguments().ok()?, parse.types.iter()),
            None => Vec::new(),
        };
        let values = Values {
            text,
            literals,
            backslashes: dialect.backslashes,
            encoded_as_stored: self.stores_keys(sharding),
            parameters: &parameters,
        };
        let shard = shard(statement, decisive, &values, sharding)?;
        let want = match statement.kind {
            Kind::Select => Want::Read,
            _ => Want::Write,
        };
        Some(Found {
            shard: shard as usize,
            want,
            analysis: Rc::clone(&analysis),
        })
    }

    fn decisive_of(&self, statement: &Statement, facts: &Facts) -> Option<Decisive> {
        let view = View::new(self, facts);
        let database = view.database(facts.sharding(&self.cluster)?);
        let foreign = view.foreign(statement).is_some();
        decisive(statement, &database).filter(|_| !foreign)
    }

    /// Keeps the server of such a request for what comes next.
    #[cold]
    pub(in super::super) fn keep_direct(&mut self, held: Held, shard: usize) {
        let leg = Leg::new(shard, held);
        self.keep(Leg { kept: true, ..leg });
    }
}
