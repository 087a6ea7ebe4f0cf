//! What FROM names, and whether its rows over all shards are the rows of each shard taken together.
//!
//! Of a sharded table each shard has other rows, of an omnisharded one all have the same. A join distributes over the
//! shards when no row of one shard can meet a row of another: sharded tables are joined by their keys, and an omnisharded
//! table is not the side of an outer join whose rows appear without a partner.

use pg_query::protobuf::{AExprKind, BoolExprType, JoinExpr, JoinType, RangeSubselect, RangeVar};
use pg_query::{Node, NodeEnum};

use super::local::{self, Local};
use super::nodes::{inner, words};
use super::{Catalogue, Placed, GATHERED};
use crate::error::Error;
use crate::merge::refused;

/// The relations of one FROM, within those of the queries around it.
pub(super) struct Scope<'a> {
    pub(super) catalogue: &'a dyn Catalogue,
    pub(super) outer: Option<&'a Scope<'a>>,
    relations: Vec<Relation>,
    /// Conditions of joins, not checked yet.
    pub(super) conditions: Vec<&'a Node>,
    /// Functions in FROM.
    pub(super) functions: Vec<&'a Node>,
    /// What the relations together are.
    pub(super) spread: Spread,
}

/// How rows lie on the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// Every shard has them all.
    Everywhere,
    /// Each shard has other rows; equal keys of one family are on one shard.
    Sharded {
        /// See [`Placed::Sharded`].
        family: usize,
    },
}

struct Relation {
    /// By which columns are qualified.
    name: String,
    sharded: bool,
    /// Columns that hold the key.
    keys: Vec<String>,
    /// May they be NULL because an outer join found no partner?
    nullable: bool,
}

/// Relations `start..end` of a scope.
struct Part {
    start: usize,
    end: usize,
    spread: Spread,
}

impl<'a> Scope<'a> {
    /// Reads FROM; `condition` is WHERE.
    ///
    /// Errors: 0A000 for what does not distribute over the shards.
    pub(super) fn read(
        catalogue: &'a dyn Catalogue,
        outer: Option<&'a Scope<'a>>,
        from: &'a [Node],
        condition: Option<&'a Node>,
    ) -> Result<Self, Error> {
        let mut scope = Self {
            catalogue,
            outer,
            relations: Vec::new(),
            conditions: Vec::new(),
            functions: Vec::new(),
            spread: Spread::Everywhere,
        };
        let mut filters = Vec::new();
        conjuncts(condition, &mut filters);
        let mut parts = Vec::new();
        for item in from {
            parts.push(scope.item(item, &filters)?);
        }
        // Listed tables may be connected in any order.
        let mut sharded: Vec<Part> = parts
            .into_iter()
            .filter(|part| part.spread != Spread::Everywhere)
            .collect();
        let mut joined: Vec<Part> = sharded.drain(..sharded.len().min(1)).collect();
        while !sharded.is_empty() {
            let connected = |part: &Part| {
                joined
                    .iter()
                    .any(|other| scope.connected(other, part, &filters, &[]))
            };
            let Some(next) = sharded.iter().position(connected) else {
                return Err(refused(NOT_BY_KEY));
            };
            joined.push(sharded.remove(next));
        }
        scope.spread = joined
            .first()
            .map_or(Spread::Everywhere, |part| part.spread);
        Ok(scope)
    }

    fn item(&mut self, node: &'a Node, filters: &[&'a Node]) -> Result<Part, Error> {
        match inner(node) {
            Some(NodeEnum::RangeVar(table)) => self.table(table),
            Some(NodeEnum::JoinExpr(join)) => self.join(join, filters),
            Some(NodeEnum::RangeSubselect(subquery)) => self.subquery(subquery),
            Some(NodeEnum::RangeFunction(function)) => {
                for item in &function.functions {
                    if let Some(NodeEnum::List(list)) = inner(item) {
                        self.functions.extend(list.items.first());
                    }
                }
                let name = function.alias.as_ref().map(|alias| alias.aliasname.clone());
                Ok(self.add(name.unwrap_or_default(), Spread::Everywhere, Vec::new()))
            }
            Some(NodeEnum::RangeTableSample(_)) => Err(refused("TABLESAMPLE")),
            _ => Err(refused("this kind of table expression")),
        }
    }

    fn add(&mut self, name: String, spread: Spread, keys: Vec<String>) -> Part {
        let start = self.relations.len();
        self.relations.push(Relation {
            name,
            sharded: spread != Spread::Everywhere,
            keys,
            nullable: false,
        });
        Part {
            start,
            end: start + 1,
            spread,
        }
    }

    fn table(&mut self, table: &RangeVar) -> Result<Part, Error> {
        let schema = (!table.schemaname.is_empty()).then_some(table.schemaname.as_str());
        let (name, renamed) = match &table.alias {
            Some(alias) => (alias.aliasname.clone(), !alias.colnames.is_empty()),
            None => (table.relname.clone(), false),
        };
        // What was gathered is the same for all.
        if schema.is_none() && table.relname.starts_with(GATHERED) {
            return Ok(self.add(name, Spread::Everywhere, Vec::new()));
        }
        Ok(match self.catalogue.table(schema, &table.relname) {
            Placed::Everywhere => self.add(name, Spread::Everywhere, Vec::new()),
            Placed::Sharded { key, family } => {
                let keys = if renamed { Vec::new() } else { vec![key] };
                self.add(name, Spread::Sharded { family }, keys)
            }
            Placed::Elsewhere => {
                return Err(refused("a table of a schema that is on other shards"))
            }
        })
    }

    fn subquery(&mut self, subquery: &'a RangeSubselect) -> Result<Part, Error> {
        let Some(NodeEnum::SelectStmt(select)) = subquery.subquery.as_deref().and_then(inner)
        else {
            return Err(refused("this kind of subquery"));
        };
        if subquery.lateral {
            return Err(refused("LATERAL"));
        }
        let Local {
            spread,
            keys,
            places,
        } = local::subquery(select, self.catalogue, None)?;
        let (name, columns) = match &subquery.alias {
            Some(alias) => (alias.aliasname.clone(), words(&alias.colnames)),
            None => (String::new(), Vec::new()),
        };
        let keys = match columns.is_empty() {
            true => keys,
            false => {
                let names = places.iter().filter_map(|place| columns.get(*place));
                names.map(|name| (*name).to_owned()).collect()
            }
        };
        Ok(self.add(name, spread, keys))
    }

    fn join(&mut self, join: &'a JoinExpr, filters: &[&'a Node]) -> Result<Part, Error> {
        let kind = join.jointype();
        // WHERE removes rows after an outer join, so that it says nothing about what the join may leave out.
        let filters = if kind == JoinType::JoinInner {
            filters
        } else {
            &[]
        };
        if join.alias.is_some() {
            return Err(refused("an alias of a join"));
        }
        let (Some(left), Some(right)) = (join.larg.as_deref(), join.rarg.as_deref()) else {
            return Err(refused("this kind of join"));
        };
        let left = self.item(left, filters)?;
        let right = self.item(right, filters)?;
        let mut conditions = filters.to_vec();
        conjuncts(join.quals.as_deref(), &mut conditions);
        self.conditions.extend(join.quals.as_deref());
        let spread = match (left.spread, right.spread, kind) {
            (Spread::Everywhere, Spread::Everywhere, _) => Spread::Everywhere,
            (spread, Spread::Everywhere, JoinType::JoinInner | JoinType::JoinLeft) => spread,
            (Spread::Everywhere, spread, JoinType::JoinInner | JoinType::JoinRight) => spread,
            (Spread::Everywhere, _, _) | (_, Spread::Everywhere, _) => {
                return Err(refused(
                    "an outer join that keeps all rows of an omnisharded table",
                ));
            }
            (spread, _, _) => {
                if join.is_natural {
                    return Err(refused("NATURAL JOIN of sharded tables"));
                }
                if !self.connected(&left, &right, &conditions, &words(&join.using_clause)) {
                    return Err(refused(NOT_BY_KEY));
                }
                spread
            }
        };
        let (left_missing, right_missing) = match kind {
            JoinType::JoinInner => (false, false),
            JoinType::JoinLeft => (false, true),
            JoinType::JoinRight => (true, false),
            JoinType::JoinFull => (true, true),
            _ => return Err(refused("this kind of join")),
        };
        for (part, missing) in [(&left, left_missing), (&right, right_missing)] {
            let relations = self
                .relations
                .get_mut(part.start..part.end)
                .unwrap_or_default();
            relations
                .iter_mut()
                .for_each(|relation| relation.nullable |= missing);
        }
        Ok(Part {
            start: left.start,
            end: right.end,
            spread,
        })
    }

    /// Does one of these conditions say that the keys of both parts are equal?
    fn connected(&self, left: &Part, right: &Part, conditions: &[&Node], using: &[&str]) -> bool {
        if left.spread != right.spread {
            return false;
        }
        let relations = |part: &Part| self.relations.get(part.start..part.end).unwrap_or_default();
        let is_key =
            |part: &Part, node: &Node| relations(part).iter().any(|relation| relation.holds(node));
        let named = |part: &Part, name: &str| {
            relations(part)
                .iter()
                .any(|relation| relation.keys.iter().any(|key| key == name))
        };
        using
            .iter()
            .any(|name| named(left, name) && named(right, name))
            || conditions
                .iter()
                .filter_map(|condition| equality(condition))
                .any(|(a, b)| {
                    is_key(left, a) && is_key(right, b) || is_key(left, b) && is_key(right, a)
                })
    }

    /// Is this a column with the key of the sharded tables, in every row?
    pub(super) fn is_key(&self, node: &Node) -> bool {
        self.relations
            .iter()
            .any(|relation| !relation.nullable && relation.holds(node))
    }

    /// Has a relation that this star stands for the key, in every row? Gives the columns.
    pub(super) fn keys_of_star(&self, node: &Node) -> Vec<String> {
        let Some(NodeEnum::ColumnRef(column)) = inner(node) else {
            return Vec::new();
        };
        let qualifier = match *words(&column.fields) {
            ["*"] => None,
            [.., name, "*"] => Some(name),
            _ => return Vec::new(),
        };
        let meant = |relation: &&Relation| {
            !relation.nullable && qualifier.is_none_or(|name| relation.name == name)
        };
        self.relations
            .iter()
            .filter(meant)
            .flat_map(|relation| relation.keys.clone())
            .collect()
    }

    /// Do the conditions bind this scope's rows to those of the query around it by the key? Then a row of the outer
    /// query meets all its rows on its own shard.
    pub(super) fn is_bound(&self, condition: Option<&Node>) -> bool {
        let Some(outer) = self.outer else {
            return false;
        };
        if outer.spread != self.spread {
            return false;
        }
        let mut filters = Vec::new();
        conjuncts(condition, &mut filters);
        // A name that this scope has hides the outer one, and of a bare name it is not known whose it is.
        let own = |node: &Node| {
            self.relations
                .iter()
                .any(|relation| relation.sharded && relation.holds(node))
        };
        let outers = |node: &Node| {
            let qualified =
                matches!(inner(node), Some(NodeEnum::ColumnRef(column)) if column.fields.len() > 1);
            qualified && !self.qualifies(node) && outer.is_key(node)
        };
        filters
            .iter()
            .filter_map(|filter| equality(filter))
            .any(|(a, b)| own(a) && outers(b) || own(b) && outers(a))
    }

    /// Does the qualifier of this column name a relation of this scope?
    fn qualifies(&self, node: &Node) -> bool {
        match inner(node) {
            Some(NodeEnum::ColumnRef(column)) => {
                let words = words(&column.fields);
                let qualifier = words.iter().rev().nth(1);
                qualifier.is_some_and(|name| {
                    self.relations.iter().any(|relation| relation.name == *name)
                })
            }
            _ => false,
        }
    }
}

const NOT_BY_KEY: &str = "joining sharded tables other than by their sharding keys";

impl Relation {
    /// Is this one of the relation's columns with the key?
    fn holds(&self, node: &Node) -> bool {
        let Some(NodeEnum::ColumnRef(column)) = inner(node) else {
            return false;
        };
        let has = |name: &str| self.keys.iter().any(|key| key == name);
        match *words(&column.fields) {
            [name] => has(name),
            [.., relation, name] => relation == self.name && has(name),
            _ => false,
        }
    }
}

/// The conditions that must all hold for this one to hold.
pub(super) fn conjuncts<'a>(condition: Option<&'a Node>, found: &mut Vec<&'a Node>) {
    let Some(condition) = condition else {
        return;
    };
    match inner(condition) {
        Some(NodeEnum::BoolExpr(expr)) if expr.boolop() == BoolExprType::AndExpr => {
            expr.args
                .iter()
                .for_each(|part| conjuncts(Some(part), found));
        }
        _ => found.push(condition),
    }
}

/// Both sides of `a = b`.
fn equality(node: &Node) -> Option<(&Node, &Node)> {
    match inner(node)? {
        NodeEnum::AExpr(expr)
            if expr.kind() == AExprKind::AexprOp && *words(&expr.name) == ["="] =>
        {
            Some((expr.lexpr.as_deref()?, expr.rexpr.as_deref()?))
        }
        _ => None,
    }
}
