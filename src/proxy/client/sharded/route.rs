//! To which shards a statement goes.

use std::borrow::Cow;

use crate::config::choice::{PrimaryKeyRewrite, RewriteMode};
use crate::error::{Error, Fault};
use crate::merge::{refused, MergePlan};
use crate::protocol::frontend::Bind;
use crate::protocol::sqlstate::SqlState;
use crate::routing::asking;
use crate::routing::defined::Defined;
use crate::routing::echo::{may_be_echoed, Echo};
use crate::routing::moves::{Moving, Target};
use crate::routing::primary_key::{inserts, missing_key};
use crate::routing::role::statement_is_readable;
use crate::routing::route::{
    changes_alike, key_changes, reads_catalogue, route, route_key, Database, Route,
};
use crate::routing::several;
use crate::routing::split::{divide, Parameters};
use crate::routing::values::{Argument, Parameter, Values};
use crate::routing::verdict::{Place, Run};
use crate::sharding::schema::{Table, TableKind};
use crate::sharding::{schemas_set, search_path, ShardedColumn, Shards};
use crate::sql::across::Of;
use crate::sql::hints::{Hints, Role};
use crate::sql::lexer::Dialect;
use crate::sql::session::{Effect, Effects};
use crate::sql::set::{Change, Value};
use crate::sql::shape::Literal;
use crate::sql::statement::{Kind, Statement, TableUse};

use super::super::super::cluster::Want;
use super::super::facts::Facts;
use super::super::role::{asked_role, by_hint, invalid};
use super::super::Session;
use super::route_copy::copying;
use super::unknown::made;
use super::view::View;

/// Where a statement has come from.
pub(super) struct Source<'a> {
    /// The whole text, which `literals` are of.
    pub(super) text: &'a [u8],
    /// The statement's own.
    pub(super) part: &'a [u8],
    pub(super) dialect: Dialect,
    pub(super) literals: &'a [Literal],
    pub(super) hints: &'a Hints,
    /// The sharding key that a hint gives.
    pub(super) hinted_key: Option<&'a [u8]>,
    pub(super) bind: Option<&'a Bind<'a>>,
    /// Of its parameters, as Parse has declared them.
    pub(super) types: &'a [u32],
    /// Arguments of EXECUTE.
    pub(super) given: &'a [Argument],
}

impl Session {
    /// Where a query runs. Errors: it cannot be done, or that is not known (57P03).
    pub(super) fn route_query(
        &mut self,
        statement: &Statement,
        source: &Source<'_>,
    ) -> Result<Run, Error> {
        let routed = self.route_as_known(statement, source);
        routed.map_err(|refusal| self.cluster.known().doubt(refusal))
    }

    fn route_as_known(&mut self, statement: &Statement, source: &Source<'_>) -> Result<Run, Error> {
        let run = self.route_to(statement, source)?;
        if run.place.single().is_none() && self.cluster.shards() > 1 {
            let facts = self.cluster.known();
            if self.lacks_functions(statement, &facts)? {
                return Ok(run); // the plan is not used
            }
            let mut functions = statement.functions.iter();
            if let Some(function) =
                functions.find(|function| facts.readers.contains(&function.name))
            {
                let what = format!("function \"{}\", which may read tables,", function.name);
                return Err(refused(&what));
            }
        }
        if run.place.count(self.cluster.shards()) > 1 && self.refuses_several() {
            let text = "cross-shard queries are disabled";
            let error = Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text);
            return Err(error.hint("add the sharding key"));
        }
        Ok(run)
    }

    fn route_to(&mut self, statement: &Statement, source: &Source<'_>) -> Result<Run, Error> {
        let facts = self.cluster.known();
        if let Kind::Copy(copy) = &statement.kind {
            if !copy.stream {
                return Err(refused("COPY of a file or program"));
            }
            if let Some(query) = &copy.query {
                return self.copy_query(copy, query, source);
            }
        }
        let want = self.wanted(statement, source, &facts)?;
        let at = |place| Run {
            want,
            copying: copying(statement),
            ..Run::at(place)
        };
        let asked = self.asked_shard(source.hints)?;
        if let Some(shard) = asked.filter(|_| !statement.writes()) {
            return Ok(at(Place::These(vec![shard])));
        }
        let config = self.state.config();
        let cluster = std::rc::Rc::clone(&self.cluster);
        let Some(tables) = facts.sharding(&cluster) else {
            return Err(facts.not_known("which tables follow others"));
        };
        let view = View::new(self, &facts);
        if let Some(foreign) = view.foreign(statement) {
            return Err(refused(&format!("foreign table \"{foreign}\"")));
        }
        let mode = config.routing.primary_key;
        if mode != PrimaryKeyRewrite::Ignore && facts.are_unknown() && inserts(statement) {
            return Err(facts.not_known("which key a table has"));
        }
        if let Some(missing) = missing_key(statement, mode, tables, &view) {
            return Err(lacks_key(missing.column, mode));
        }
        let database = Database {
            search_path: view.placed(tables),
            lookups: &|column, key| self.translated(column, key),
            ..view.database(tables)
        };
        let asked = match (asked, self.asked_key(source)?) {
            (None, Some(key)) => match route_key(&key, self.stores_keys(tables), &database)? {
                Route::One(shard) => Some(shard as usize),
                _ => return Err(refused("a sharding key with lookup_query")),
            },
            (asked, _) => asked,
        };
        if let Some(shard) = asked {
            self.check_alike(statement, source, &database)?;
            return Ok(at(Place::These(vec![shard])));
        }
        if self.lacks_tables(statement, &database, &facts)? {
            return Ok(at(Place::Any)); // the plan is not used
        }
        if let Kind::Copy(copy) = &statement.kind {
            return self.copy_table(statement, copy, source, (tables, &view));
        }
        let arguments = source.bind.and_then(|bind| bind.arguments().ok());
        let parameters =
            arguments.map(|arguments| Parameter::of(&arguments, source.types.to_vec()));
        let given = || source.given.iter().map(Argument::parameter).collect();
        let parameters = parameters.unwrap_or_else(given);
        let values = Values {
            text: source.text,
            literals: source.literals,
            backslashes: source.dialect.backslashes,
            encoded_as_stored: self.stores_keys(tables),
            parameters: &parameters,
        };
        let nothing = Defined::default();
        let route = route(statement, &values, &database)?;
        let defined = self.sharded.as_deref().map(|sharded| &sharded.defined);
        let defined = defined.unwrap_or(&nothing);
        if matches!(route, Route::Same(_) | Route::Echoed(_) | Route::New(_)) && inserts(statement)
        {
            if facts.are_unknown() {
                return Err(facts.not_known("which defaults a table has"));
            }
            if matches!(route, Route::New(_)) && !asking::target_is_known(statement, &view) {
                if self.learns_anew() {
                    return Ok(at(Place::Any)); // the plan is not used
                }
                if defined.any() {
                    return Err(made("the default of a sharding key"));
                }
            }
        }
        let reads = |statement: &Statement| {
            let keys = statement.keys.as_deref();
            keys.is_some_and(|keys| reads_catalogue(keys, &view))
        };
        let route = match self.recalled(statement, source, route)? {
            Recalled::There(route) => route,
            Recalled::First(run) => return Ok(*run),
        };
        Ok(match route {
            Route::One(shard) => at(Place::These(vec![shard as usize])),
            // Where types have the numbers that clients see.
            Route::Any { .. } if facts.contents().is_some() && reads(statement) => {
                at(Place::These(vec![0]))
            }
            Route::Any { sticky: true } => at(Place::Any),
            Route::Any { sticky: false } => at(Place::Balanced),
            Route::Same(shards) => {
                let text = (source.part, source.dialect);
                let asking = match shards.len() {
                    1 => Ok(None),
                    _ => asking::everywhere(statement, text, &view, defined),
                };
                match asking {
                    Ok(asking) => Run {
                        merge: MergePlan::omnisharded_write(),
                        together: true,
                        asking: asking.map(Box::new),
                        ..Run::at(these(shards))
                    },
                    Err(why) => echoed(statement, source, shards, &view)?.ok_or(why)?,
                }
            }
            Route::Echoed(shards) => echoed(statement, source, shards, &view)?
                .ok_or_else(|| refused("this form of an INSERT … SELECT"))?,
            Route::Unmade { column, of } => {
                let text = (source.part, source.dialect);
                let asking = asking::key(statement, text, &view, (column, defined))?;
                let at = match of.single() {
                    Some(shard) => Place::These(vec![shard as usize]),
                    None => Place::Balanced,
                };
                Run {
                    asking: Some(Box::new(asking)),
                    ..Run::at(at)
                }
            }
            Route::New(shards) => {
                let all: Vec<_> = shards.iter().collect();
                let at = self.one_of(all.len());
                let shard = all.get(at).copied().unwrap_or_default();
                Run::at(Place::These(vec![shard as usize]))
            }
            Route::Several(shards) if statement.kind == Kind::Select => {
                if self.lacks_functions(statement, &facts)? {
                    return Ok(at(Place::All)); // the plan is not used
                }
                let (part, dialect) = (source.part, source.dialect);
                let across = several::plan(statement, part, dialect, &database)?;
                let by_bytes = self.value_facts().text_ordered_by_bytes;
                let apart = match across.asked.of == Of::EveryShard
                    && !by_bytes
                    && across.asked.plan.compares()
                {
                    true => several::plan_apart(statement, part, dialect, &database)?,
                    false => None,
                };
                let apart = apart.map(Box::new);
                match across.gathered.is_empty() {
                    true => Run {
                        merge: across.asked.plan,
                        unchecked: across.unchecked,
                        text: Some(across.asked.text.into_bytes().into()),
                        apart,
                        ..at(these(shards))
                    },
                    false => Run {
                        gathering: Some(Box::new(across)),
                        apart,
                        ..at(Place::All)
                    },
                }
            }
            Route::Several(shards) => Run {
                merge: MergePlan::sharded_write(),
                together: true,
                ..Run::at(these(shards))
            },
            Route::Rows(rows) => self.split_rows(&rows, source)?,
            Route::Move { from, to, column } => {
                self.moving(statement, source, from, (to, column))?
            }
            Route::Lookup(..) => return Err(refused("a sharding key with lookup_query")),
        })
    }

    /// Where a statement runs if there is one shard: only its role matters.
    pub(super) fn route_at_home(
        &self,
        statement: &Statement,
        source: &Source<'_>,
    ) -> Result<Run, Error> {
        let want = self.wanted(statement, source, &self.cluster.known())?;
        Ok(Run {
            want,
            copying: copying(statement),
            ..Run::at(Place::These(vec![0]))
        })
    }

    /// What its server is for, by the hint, or what it does. Errors: a hint that is none.
    fn wanted(
        &self,
        statement: &Statement,
        source: &Source<'_>,
        facts: &Facts,
    ) -> Result<Want, Error> {
        let hint = match source.hints.role {
            Some(hint) => Some(hint),
            None => asked_role(self.settings.current())?,
        };
        Ok(match hint {
            Some(role) => by_hint(Some(role)),
            None => match statement_is_readable(statement, &facts.functions) {
                Ok(()) => self.for_session(Want::Read),
                Err(_) => Want::Write,
            },
        })
    }

    /// An INSERT whose rows go to several shards: each gets its own.
    fn split_rows(&self, shards: &[u32], source: &Source<'_>) -> Result<Run, Error> {
        if self.state.config().routing.split_inserts == RewriteMode::Error {
            let text = "multi-row INSERT spans shards, refused by rewrite.split_inserts";
            let error = Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text);
            return Err(error);
        }
        if !source.given.is_empty() {
            return Err(refused("a multi-row INSERT for several shards by EXECUTE"));
        }
        let arguments = source.bind.map(Bind::arguments).transpose()?;
        let parameters = arguments.map(|arguments| Parameters {
            types: source.types,
            count: arguments.len(),
            statement: source.bind.map_or(&[], |bind| bind.statement),
        });
        let division = divide(source.part, source.dialect, shards, parameters)?;
        Ok(Run {
            merge: MergePlan::divided_insert(division.turns),
            together: true,
            parts: division.parts,
            ..Run::at(Place::These(division.shards))
        })
    }

    /// An UPDATE that gives rows of these shards a key of another.
    fn moving(
        &self,
        statement: &Statement,
        source: &Source<'_>,
        from: Shards,
        (to, column): (u32, &ShardedColumn),
    ) -> Result<Run, Error> {
        if self.state.config().routing.shard_key == RewriteMode::Error {
            return Err(key_changes(column));
        }
        let mut tables = statement.tables.iter();
        let target = tables.find(|table| table.usage == TableUse::Update);
        let target = target.ok_or_else(|| refused("this UPDATE"))?;
        let facts = self.cluster.known();
        let view = View::new(self, &facts);
        let found = view.table(target.schema.as_deref(), &target.name);
        if found.is_some_and(Table::is_view) {
            return Err(refused("an UPDATE that moves rows of a view"));
        }
        let moving = Moving::new(
            source.part,
            source.dialect,
            Target {
                schema: target.schema.as_deref(),
                name: &target.name,
                alias: target.alias.as_deref(),
            },
            source.types,
            (to as usize, &column.column),
        )?;
        Ok(Run {
            together: true,
            moving: Some(Box::new(moving)),
            ..Run::at(these(from.union(Shards::one(to))))
        })
    }

    /// Where a statement goes, if it wants to know what sequences have done in its transaction: to the shard whose have counted, or that
    /// is asked first.
    ///
    /// Errors: several have counted, or it goes to several (0A000); it is in none, and servers are others' in between (55000).
    fn recalled<'s>(
        &self,
        statement: &Statement,
        source: &Source<'_>,
        route: Route<'s>,
    ) -> Result<Recalled<'s>, Error> {
        if !asking::recalls(statement) {
            return Ok(Recalled::There(route));
        }
        if !self.in_transaction() {
            return match self.pools() && !self.holds_servers() {
                true => Err(asking::recalled_alone(statement)),
                false => Ok(Recalled::There(route)),
            };
        }
        let legs = self.sharded.iter().flat_map(|sharded| &sharded.legs);
        let counted = legs.filter(|leg| leg.does.counts);
        let counted: Shards = counted
            .filter_map(|leg| u32::try_from(leg.shard).ok())
            .collect();
        if counted.is_empty() {
            return Ok(Recalled::There(route));
        }
        let elsewhere = || asking::recalled_elsewhere(statement);
        let on = counted.single().ok_or_else(elsewhere)?;
        Ok(Recalled::There(match route {
            Route::Any { .. } => Route::One(on),
            Route::One(shard) if shard != on => {
                let asking = asking::recalled(statement, (source.part, source.dialect))?;
                return Ok(Recalled::First(Box::new(Run {
                    asking: Some(Box::new(asking)),
                    ..Run::at(Place::These(vec![on as usize]))
                })));
            }
            Route::One(_) => route,
            Route::Unmade { of, .. } | Route::Same(of) | Route::Echoed(of)
                if of.first() == Some(on) =>
            {
                route
            }
            _ => return Err(elsewhere()),
        }))
    }

    fn refuses_several(&self) -> bool {
        let config = self.state.config();
        let names = &self.cluster.names;
        let user = config.users.find(&names.user, &names.database);
        config.routing.cross_shard_disabled || user.is_some_and(|user| user.cross_shard_disabled)
    }

    /// The schemas in which names without one are looked for.
    pub(super) fn search_path(&self) -> Vec<String> {
        let set = self.settings.current().get(b"search_path");
        let mut path = match set {
            Some(value) => schemas_set(value),
            None => search_path(self.cluster.known().search_path())
                .map(Cow::into_owned)
                .collect(),
        };
        for schema in path.iter_mut().filter(|schema| *schema == "$user") {
            *schema = self.current_user();
        }
        path
    }

    /// As whom its statements run.
    fn current_user(&self) -> String {
        let settings = self.settings.current();
        let set = |name: &[u8]| {
            let text = settings.get(name)?.text()?;
            Some(String::from_utf8_lossy(&text).into_owned())
        };
        let role = set(b"role").filter(|role| role != "none");
        role.or_else(|| set(b"session_authorization"))
            .unwrap_or_else(|| self.cluster.home().config().login.user.clone())
    }

    /// The sharding key that a comment or a setting gives. Errors: one that is not plainly written.
    fn asked_key(&self, source: &Source<'_>) -> Result<Option<Vec<u8>>, Error> {
        if let Some(key) = source.hinted_key {
            return Ok(Some(key.to_vec()));
        }
        let name = "pgdog.sharding_key";
        let Some(value) = self.settings.current().get(name.as_bytes()) else {
            return Ok(None);
        };
        let key = value.text().ok_or_else(|| invalid(name))?;
        Ok(Some(key.into_owned()))
    }

    pub(super) fn in_transaction(&self) -> bool {
        let sharded = self.sharded.as_deref();
        sharded.is_some_and(|sharded| sharded.transaction.is_open())
    }

    /// Errors: what a hint sends to one shard changes a table that must stay the same on several. A table that is not known is a
    /// temporary one, or quite new: whoever hints knows better.
    fn check_alike(
        &self,
        statement: &Statement,
        source: &Source<'_>,
        database: &Database<'_>,
    ) -> Result<(), Error> {
        if !changes_alike(statement, database) {
            return Ok(());
        }
        let by_comment = source.hints.shard.is_some() || source.hinted_key.is_some();
        let (code, text) = match !by_comment && self.in_transaction() {
            true => (
                SqlState::INVALID_TRANSACTION_STATE,
                "omnisharded write not possible in a single-shard transaction",
            ),
            false => (
                SqlState::FEATURE_NOT_SUPPORTED,
                "omnisharded write must reach every shard",
            ),
        };
        Err(Error::error(Fault::Client, code, text))
    }

    /// The same of COPY and TRUNCATE, which a hint sends to one shard as they are.
    pub(super) fn check_hinted(
        &self,
        statement: &Statement,
        source: &Source<'_>,
    ) -> Result<(), Error> {
        let statement = match &statement.kind {
            Kind::Copy(copy) => copy.query.as_deref().unwrap_or(statement),
            Kind::Truncate => statement,
            _ => return Ok(()),
        };
        let facts = self.cluster.known();
        let Some(tables) = facts.sharding(&self.cluster) else {
            return Ok(()); // no table is known
        };
        let view = View::new(self, &facts);
        let database = Database {
            search_path: view.placed(tables),
            ..view.database(tables)
        };
        self.check_alike(statement, source, &database)
    }

    /// Errors: a setting of ours gets a value that it cannot have.
    pub(super) fn check_ours(&self, effects: &Effects) -> Result<(), Error> {
        for step in effects.steps() {
            let Effect::Setting(Change::Set {
                name,
                value: Some(value),
                ..
            }) = &step.effect
            else {
                continue;
            };
            let shards = self.cluster.shards();
            let allowed = match &**name {
                b"pgdog.shard" => number_in(value).is_some_and(|shard| (shard as usize) < shards),
                b"pgdog.role" => value
                    .text()
                    .is_some_and(|text| Role::parse(&text).is_some()),
                _ => true,
            };
            if !allowed {
                return Err(invalid(&String::from_utf8_lossy(name)));
            }
        }
        Ok(())
    }

    /// The shard that a comment or a setting asks for. Errors: there is none of that number; 25000 for a comment that asks
    /// for another one than the open transaction is kept to.
    pub(super) fn asked_shard(&self, hints: &Hints) -> Result<Option<usize>, Error> {
        let set = self.settings.current().get(b"pgdog.shard");
        let bound = set.map(number_in);
        if let (Some(asked), Some(Some(bound))) = (hints.shard, bound) {
            if asked != bound && self.in_transaction() {
                let text = format!("transaction is bound to shard {bound}");
                let code = SqlState::INVALID_TRANSACTION_STATE;
                return Err(Error::error(Fault::Client, code, text));
            }
        }
        let asked = hints.shard.map(Some).or(bound);
        match asked {
            None => Ok(None),
            Some(Some(shard)) if (shard as usize) < self.cluster.shards() => {
                Ok(Some(shard as usize))
            }
            Some(_) => Err(invalid("pgdog.shard")),
        }
    }
}

/// The number of a shard that a setting gives.
fn number_in(value: &Value) -> Option<u32> {
    let text = value.text()?;
    std::str::from_utf8(&text).ok()?.parse().ok()
}

/// Where a statement goes that wants to know what sequences have done.
enum Recalled<'s> {
    /// There.
    There(Route<'s>),
    /// Another shard is asked first.
    First(Box<Run>),
}

/// An INSERT of a query's rows, which the first of these shards does for all. `None`: it is none, or its table is not as it was.
fn echoed(
    statement: &Statement,
    source: &Source<'_>,
    shards: Shards,
    view: &View<'_>,
) -> Result<Option<Run>, Error> {
    let keys = statement.keys.as_deref();
    let Some([write]) = keys.map(|keys| &*keys.writes) else {
        return Ok(None);
    };
    let target = keys.and_then(|keys| keys.references.get(usize::from(write.target)));
    let Some(target) = target.filter(|_| may_be_echoed(write)) else {
        return Ok(None);
    };
    let sharded = view.session.sharded.as_deref();
    let changed = sharded.is_some_and(|sharded| sharded.defined.named(&target.name).is_some());
    let table = view.table(target.schema.as_deref(), &target.name);
    let Some(table) = table.filter(|table| !changed && table.kind == TableKind::Table) else {
        return Ok(None);
    };
    let mut named = statement.tables.iter();
    let named = named.find(|named| named.usage == TableUse::Insert);
    let target = Target {
        schema: Some(&table.schema),
        name: &target.name,
        alias: named.and_then(|named| named.alias.as_deref()),
    };
    let echo = Echo::new(source.part, source.dialect, target, &table.columns)?;
    Ok(Some(Run {
        together: true,
        echo: Some(Box::new(echo)),
        ..Run::at(these(shards))
    }))
}

/// Of an INSERT that has come so far without its primary key.
fn lacks_key(column: &str, mode: PrimaryKeyRewrite) -> Error {
    match mode {
        PrimaryKeyRewrite::Error => {
            let text = format!("primary key \"{column}\" is missing");
            Error::error(Fault::Client, SqlState::NOT_NULL_VIOLATION, text)
        }
        _ => refused(&format!(
            "an INSERT of this form without its primary key \"{column}\""
        )),
    }
}

pub(super) fn these(shards: Shards) -> Place {
    Place::These(shards.iter().map(|shard| shard as usize).collect())
}
