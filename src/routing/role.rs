//! May this run on a replica?
//!
//! Only if it is provably read-only and a replica's answer is the primary's of a moment ago. All else is the
//! primary's: a read that goes there in vain costs little, a write that meets a replica fails.
//!
//! What the text cannot tell: a user's function with the name and arguments of a built-in one, operators and
//! casts of a user that are named like built-in ones, views and row security policies that call functions. The
//! [`Catalogue`] tells of functions and views; row security policies are trusted.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::config::choice::{QueryParser, ReadWriteSplit, ReadWriteStrategy};
use crate::sql::across::Overload;
use crate::sql::functions::{is_built_in, is_harmful};
use crate::sql::hints::{Hints, Role};
use crate::sql::statement::{
    Analysis, Function, Isolation, Kind, Modes, Need, Statement, Table, Unparsed,
};

/// Where a text goes, as far as roles decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleRoute<'a> {
    /// Any of these may answer.
    Read(Readers, Why<'a>),
    /// Only the primary.
    Primary(Why<'a>),
    /// No server is needed yet: a transaction begins (or is given modes) whose first statement decides. It has
    /// these modes.
    Defer(Modes),
    /// The transaction has its server.
    Stay,
}

/// Who may answer a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Replicas and the primary alike.
    All,
    /// Replicas; the primary while none of them, or not all, can.
    ReplicasThenPrimary,
    /// Replicas only.
    Replicas,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why<'a> {
    /// It only reads.
    ReadOnly,
    /// A comment or `pgdog.role` asks for this.
    Hint,
    /// The transaction is READ ONLY.
    ReadOnlyTransaction,
    /// The transaction is READ WRITE, in its own words.
    ReadWriteTransaction,
    /// The transaction is SERIALIZABLE, which no replica offers.
    Serializable,
    /// `read_write_strategy = "conservative"`: explicit transactions are writes.
    Conservative,
    /// `read_write_split = "prefer_primary"`.
    PreferPrimary,
    /// It is not a query.
    NotAQuery,
    /// Several statements in one text.
    Several,
    /// The session has temporary tables.
    TemporaryTables,
    /// The statement says so.
    Need(&'a Need),
    /// It calls a function that is not known to be harmless.
    Function(&'a Function),
    /// It reads a view that is not known to be harmless.
    View(&'a Table),
    /// It reads a table or sequence that replicas do not have as it is.
    Unreplicated(&'a Table),
    /// It does not parse.
    Unparsed(&'a Unparsed),
    /// The configuration does not want it parsed.
    NotAnalysed,
}

/// What is known of the session.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c> {
    /// Where its transaction is.
    pub transaction: Transaction,
    /// `pgdog.role`. A comment's hint wins.
    pub hint: Option<Role>,
    /// What it has set for its transactions to come: `default_transaction_read_only` and `…_isolation`.
    pub defaults: Modes,
    /// It has temporary tables, which may hide others.
    pub temporary: bool,
    /// Setting.
    pub strategy: ReadWriteStrategy,
    /// Setting.
    pub split: ReadWriteSplit,
    /// Functions and views of the database.
    pub catalogue: &'c Catalogue,
}

/// Where a session's transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// There is none.
    None,
    /// It has begun with these modes, and no server knows of it.
    Deferred(Modes),
    /// It is on a server.
    Begun,
}

/// Functions and views of a database that its own catalogue tells of.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// By name, of all schemas but `pg_catalog`: the most that any of that name may do.
    functions: HashMap<Box<str>, Volatility>,
    /// Those beside functions of PostgreSQL of the same name, where one of the two is an aggregate.
    overloads: HashMap<Box<str>, Overload>,
    /// Names of views that call what is not harmless, in any schema.
    views: HashSet<Box<str>>,
    /// Names of tables and sequences that replicas have otherwise, or not at all, in any schema.
    unreplicated: HashSet<Box<str>>,
}

/// What a function may do, by what was said when it was made, least first.
///
/// Source: <https://www.postgresql.org/docs/current/xfunc-volatility.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volatility {
    /// One value, made of its arguments alone. Functions that give several rows, and aggregates, count as stable.
    Immutable,
    /// It changes nothing.
    Stable,
    /// Anything.
    Volatile,
}

impl Volatility {
    /// What [`Catalogue::FUNCTIONS`] says of a function.
    pub fn of(told: &[u8]) -> Self {
        match told {
            b"i" => Self::Immutable,
            b"s" => Self::Stable,
            _ => Self::Volatile,
        }
    }
}

impl Catalogue {
    /// Asks a server for its functions: name, and the most that any of that name may do (see [`Volatility::of`]).
    pub const FUNCTIONS: &'static str = "SELECT proname, CASE \
        WHEN NOT bool_and(provolatile IN ('i', 's')) THEN 'v' \
        WHEN bool_and(provolatile = 'i' AND NOT proretset AND oid NOT IN (SELECT aggfnoid FROM pg_catalog.pg_aggregate)) THEN 'i' \
        ELSE 's' END FROM pg_catalog.pg_proc \
        WHERE pronamespace <> 'pg_catalog'::pg_catalog.regnamespace GROUP BY proname";
    /// Asks a server for what its replicas do not have as it is: unlogged tables, and sequences, of which they have numbers
    /// that are yet to come.
    pub const UNREPLICATED: &'static str = "SELECT relname FROM pg_catalog.pg_class \
        WHERE relkind = 'S' OR relkind IN ('r', 'p', 'm') AND relpersistence = 'u'";
    /// What a server is told first, in a transaction, so that it says the schema of each table in views' definitions, and waits
    /// for nobody: it locks what views read, which a transaction that changes definitions has for itself, maybe for long.
    pub const BEFORE_VIEWS: &'static str =
        "SET LOCAL search_path = ''; SET LOCAL lock_timeout = '100ms'";
    /// Asks a server for its views: schema, name, whether it is materialised, and definition; NULL where somebody has, or waits
    /// for, an exclusive lock.
    pub const VIEWS: &'static str =
        "SELECT n.nspname, c.relname, c.relkind = 'm', CASE WHEN c.oid NOT IN ( \
        SELECT w.ev_class FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_depend d ON d.refobjid = l.relation \
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
        AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid \
        WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock') THEN pg_catalog.pg_get_viewdef(c.oid) END \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')";
    /// The same without definitions, for when a lock came in between.
    pub const VIEWS_BY_NAME: &'static str =
        "SELECT n.nspname, c.relname, c.relkind = 'm', NULL FROM pg_catalog.pg_class c \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')";

    /// A function of a user or an extension.
    pub fn add_function(&mut self, name: &str, volatility: Volatility) {
        let all = self.functions.entry(name.into()).or_insert(volatility);
        *all = volatility.max(*all);
    }

    /// What functions of users there are of a name that PostgreSQL's have, too, where one of the two is an aggregate.
    pub fn add_overload(&mut self, name: &str, overload: Overload) {
        let most = self.overloads.entry(name.into()).or_insert(overload);
        *most = overload.max(*most);
    }

    /// The same, if there are some.
    pub fn overload(&self, name: &str) -> Option<Overload> {
        self.overloads.get(name).copied()
    }

    /// Is whatever this name may mean immutable?
    pub fn function_is_immutable(&self, schema: Option<&str>, name: &str) -> bool {
        self.functions.get(name) == Some(&Volatility::Immutable)
            && (schema.is_some() || !is_built_in(name))
    }

    /// A table or sequence that replicas do not have as it is.
    pub fn add_unreplicated(&mut self, name: &str) {
        self.unreplicated.insert(name.into());
    }

    /// The views, by name and analysed definition, when all functions are there. One without a definition may do anything.
    pub fn add_views(&mut self, views: &[(&str, &Analysis)]) {
        // Each turn finds at least one more, or is the last.
        loop {
            let before = self.views.len();
            for (name, analysis) in views {
                let unknown = matches!(&analysis.statements, Ok(none) if none.is_empty());
                let harmless = !unknown && readable(analysis, self).is_ok();
                if !self.views.contains(*name) && !harmless {
                    self.views.insert((*name).into());
                }
            }
            if self.views.len() == before {
                return;
            }
        }
    }

    /// Is there such a function, as far as is known?
    pub fn knows(&self, function: &Function) -> bool {
        function.schema.as_deref() == Some("pg_catalog")
            || self.functions.contains_key(&function.name)
            || is_built_in(&function.name)
    }

    /// Does it change nothing, and answer everywhere alike?
    pub fn function_is_harmless(&self, function: &Function) -> bool {
        if function.schema.as_deref() == Some("pg_catalog") {
            return function.harmless;
        }
        match self.functions.get(&function.name) {
            // Without a schema it may as well be a built-in one of the same name.
            Some(volatility) => {
                *volatility != Volatility::Volatile
                    && (function.schema.is_some() || !is_harmful(&function.name))
            }
            None => function.harmless,
        }
    }
}

/// Is a database's traffic to be parsed? What resembles session control is read by other means at every level.
pub fn analyses(level: QueryParser, needs: Needs) -> bool {
    match level {
        QueryParser::On => true,
        QueryParser::Auto => needs != Needs::default(),
        QueryParser::Off | QueryParser::SessionControl | QueryParser::SessionControlAndLocks => {
            false
        }
    }
}

/// What a database needs the parser for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a configuration"
)]
pub struct Needs {
    /// It has several shards.
    pub sharded: bool,
    /// It has a primary and replicas.
    pub balanced: bool,
    /// `[multi_tenant]`
    pub multi_tenant: bool,
    /// `dry_run`
    pub dry_run: bool,
    /// `prepared_statements = "full"`
    pub full_prepared: bool,
}

/// Where a text goes. `analysis`: none if the configuration does not want it parsed.
pub fn route_role<'a>(
    analysis: Option<&'a Analysis>,
    hints: &Hints,
    context: &Context<'a>,
) -> RoleRoute<'a> {
    let deferred = match context.transaction {
        Transaction::Begun => return RoleRoute::Stay,
        Transaction::Deferred(modes) => Some(modes),
        Transaction::None => None,
    };
    let hint = hints.role.or(context.hint);
    let only = match analysis.map(|analysis| analysis.statements.as_deref()) {
        Some(Ok([statement])) => Some(&statement.kind),
        _ => None,
    };
    match (deferred, only) {
        (None, Some(&Kind::Begin(modes))) => return begin(modes, hint, context),
        (Some(earlier), Some(&Kind::SetTransaction(modes))) => {
            return RoleRoute::Defer(modes.over(earlier));
        }
        (Some(modes), Some(Kind::Commit { .. } | Kind::Rollback { .. })) => {
            return RoleRoute::Defer(modes);
        }
        _ => {}
    }
    if context.temporary {
        return RoleRoute::Primary(Why::TemporaryTables);
    }
    if let Some(role) = hint {
        return by_hint(role, context);
    }
    let own = deferred.unwrap_or_default();
    if let Some(why) = primary_by_modes(own, context.defaults) {
        return RoleRoute::Primary(why);
    }
    let modes = own.over(context.defaults);
    if deferred.is_some() && modes.read_only == Some(true) {
        return read(Why::ReadOnlyTransaction, context);
    }
    if deferred.is_some() && context.strategy == ReadWriteStrategy::Conservative {
        return RoleRoute::Primary(Why::Conservative);
    }
    let Some(analysis) = analysis else {
        return RoleRoute::Primary(Why::NotAnalysed);
    };
    match readable(analysis, context.catalogue) {
        Ok(()) => read(Why::ReadOnly, context),
        Err(why) => RoleRoute::Primary(why),
    }
}

/// Why the modes alone have a transaction go to the primary: its `own`, and those that the session gives to all. `None`: they do not.
pub fn primary_by_modes(own: Modes, defaults: Modes) -> Option<Why<'static>> {
    if own.over(defaults).isolation == Some(Isolation::Serializable) {
        return Some(Why::Serializable);
    }
    (own.read_only == Some(false)).then_some(Why::ReadWriteTransaction)
}

/// May a replica run all of a text? The reason why not.
pub fn readable<'a>(analysis: &'a Analysis, catalogue: &Catalogue) -> Result<(), Why<'a>> {
    match analysis.statements.as_deref() {
        Ok([statement]) => statement_is_readable(statement, catalogue),
        Ok(_) => Err(Why::Several),
        Err(unparsed) => Err(Why::Unparsed(unparsed)),
    }
}

/// May a replica run this statement? The reason why not.
pub fn statement_is_readable<'a>(
    statement: &'a Statement,
    catalogue: &Catalogue,
) -> Result<(), Why<'a>> {
    match &statement.kind {
        Kind::Select => {}
        // Explaining a write writes nothing, but the primary's plan is the one that is asked for.
        Kind::Explain { statement, .. }
        | Kind::Declare {
            statement,
            hold: false,
            ..
        } => return statement_is_readable(statement, catalogue),
        _ => {
            let need = statement.needs_primary.as_ref();
            return Err(need.map_or(Why::NotAQuery, Why::Need));
        }
    }
    if let Some(need) = &statement.needs_primary {
        return Err(Why::Need(need));
    }
    let mut functions = statement.functions.iter();
    if let Some(function) = functions.find(|function| !catalogue.function_is_harmless(function)) {
        return Err(Why::Function(function));
    }
    let mut tables = statement.tables.iter();
    let reason = tables.find_map(|table| {
        let unreplicated = catalogue.unreplicated.contains(&table.name);
        let writes = || catalogue.views.contains(&table.name);
        let by_itself = unreplicated.then_some(Why::Unreplicated(table));
        by_itself.or_else(|| writes().then_some(Why::View(table)))
    });
    reason.map_or(Ok(()), Err)
}

fn begin<'a>(modes: Modes, hint: Option<Role>, context: &Context<'a>) -> RoleRoute<'a> {
    let effective = modes.over(context.defaults);
    if context.temporary {
        RoleRoute::Primary(Why::TemporaryTables)
    } else if let Some(role) = hint {
        by_hint(role, context)
    } else if effective.isolation == Some(Isolation::Serializable) {
        RoleRoute::Primary(Why::Serializable)
    } else if effective.read_only == Some(true) {
        read(Why::ReadOnlyTransaction, context)
    } else {
        RoleRoute::Defer(modes)
    }
}

fn read<'a>(why: Why<'a>, context: &Context<'_>) -> RoleRoute<'a> {
    let readers = match context.split {
        ReadWriteSplit::IncludePrimary => Readers::All,
        ReadWriteSplit::ExcludePrimary => Readers::Replicas,
        ReadWriteSplit::IncludePrimaryIfReplicaBanned => Readers::ReplicasThenPrimary,
        ReadWriteSplit::PreferPrimary => return RoleRoute::Primary(Why::PreferPrimary),
    };
    RoleRoute::Read(readers, why)
}

fn by_hint<'a>(role: Role, context: &Context<'_>) -> RoleRoute<'a> {
    match (role, context.split) {
        (Role::Primary, _) => RoleRoute::Primary(Why::Hint),
        (Role::Replica, ReadWriteSplit::ExcludePrimary) => {
            RoleRoute::Read(Readers::Replicas, Why::Hint)
        }
        (Role::Replica, _) => RoleRoute::Read(Readers::ReplicasThenPrimary, Why::Hint),
    }
}

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnly => f.write_str("reads only"),
            Self::Hint => f.write_str("asked for"),
            Self::ReadOnlyTransaction => f.write_str("transaction is READ ONLY"),
            Self::ReadWriteTransaction => f.write_str("transaction is READ WRITE"),
            Self::Serializable => f.write_str("transaction is SERIALIZABLE"),
            Self::Conservative => f.write_str("transaction, read_write_strategy is conservative"),
            Self::PreferPrimary => f.write_str("read_write_split is prefer_primary"),
            Self::NotAQuery => f.write_str("not a query"),
            Self::Several => f.write_str("several statements"),
            Self::TemporaryTables => f.write_str("session has temporary tables"),
            Self::Need(need) => need.fmt(f),
            Self::Function(function) => {
                write!(f, "function {} is not known to be harmless", function.name)
            }
            Self::View(view) => write!(f, "view {} is not known to be harmless", view.name),
            Self::Unreplicated(table) => {
                write!(f, "{} is an unlogged table or a sequence", table.name)
            }
            Self::Unparsed(unparsed) => write!(f, "not understood: {unparsed}"),
            Self::NotAnalysed => f.write_str("not parsed"),
        }
    }
}

#[cfg(test)]
mod tests;
