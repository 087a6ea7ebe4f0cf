//! What cannot be merged: parts of the query are asked first, and PostgreSQL itself computes the rest over their rows.
//!
//! A subquery that does not depend on the query around it is asked by itself; so are branches of UNION, INTERSECT and
//! EXCEPT, tables that are joined other than by their keys, and in the end the columns that a query needs of its rows.
//! What was asked stands for a table that every shard has; the proxy puts the rows themselves there. If nothing else is
//! left in the query, one server computes it.

use pg_query::protobuf::{a_const, AConst, Alias, BoolExprType, ColumnRef, ResTarget, SelectStmt};
use pg_query::protobuf::{Integer, JoinType, SetOperation, SubLinkType};
use pg_query::{Node, NodeEnum, NodeRef};

use super::super::names::is_system_column;
use super::edit::{self, clauses_mut, from_mut, parts_mut};
use super::functions::called;
use super::grouped::cannot_be_a_column;
use super::local::{distinct_on, sublink_is_local, subquery, targets};
use super::nodes::{any, column_name, inner, is_star, lone_name, text, words, wrap, write};
use super::overloads::{meant, Meant};
use super::scope::{conjuncts, Scope};
use super::{
    first, gathered_name, limit, merged, merged_in, Across, Asked, Catalogue, Of, Order, Placed,
    GATHERED,
};
use crate::error::Error;
use crate::merge::{refused, MergePlan};
use crate::protocol::sqlstate::SqlState;
use crate::sql::parse::walk::children;

/// Parts of one query that are asked before it.
const PARTS_MAX: usize = 32;
/// How the rows are called that stand where a whole FROM stood.
const ROWS: &str = "__pgdog_rows";

/// Plans a query without WITH that cannot be merged. `apart`: even if it can, as far as its text tells.
///
/// Errors: 0A000; what for is of no use to the client.
pub(super) fn plan(
    select: &SelectStmt,
    catalogue: &dyn Catalogue,
    apart: bool,
) -> Result<Across, Error> {
    // Rows are put where such a name stands, and one may be written in escapes.
    let whole = write(NodeEnum::SelectStmt(Box::new(select.clone())))?;
    if whole.contains(GATHERED) {
        return Err(refused("this name"));
    }
    let mut gather = Gather {
        catalogue,
        gathered: Vec::new(),
    };
    let asked = gather.asked(select.clone(), apart)?;
    if gather.gathered.is_empty() {
        return Err(refused("a query that is not about sharded tables"));
    }
    Ok(Across {
        gathered: gather.gathered,
        asked,
        unchecked: false, // what is run in parts is always seen before
        why: None,
    })
}

struct Gather<'a> {
    catalogue: &'a dyn Catalogue,
    gathered: Vec<Asked>,
}

impl Gather<'_> {
    /// How a query is asked, after its parts. `apart`: by one server.
    fn asked(&mut self, mut select: SelectStmt, apart: bool) -> Result<Asked, Error> {
        if !select.locking_clause.is_empty() || select.with_clause.is_some() {
            return Err(refused("FOR UPDATE or FOR SHARE"));
        }
        let merged = |select: &SelectStmt| match merged(select, self.catalogue) {
            Err(error) if error.code == SqlState::FEATURE_NOT_SUPPORTED => None,
            other => (!apart || other.is_err()).then_some(other),
        };
        if !self.is_everywhere(&select) {
            if let Some(merged) = merged(&select) {
                return merged;
            }
            self.reduce(&mut select)?;
        }
        if !self.is_everywhere(&select) {
            if let Some(merged) = merged(&select) {
                return merged;
            }
            self.gather_rows(&mut select)?;
        }
        if !self.is_everywhere(&select) {
            return Err(refused("a query of this kind"));
        }
        Ok(Asked {
            of: Of::AnyShard,
            text: write(NodeEnum::SelectStmt(Box::new(select)))?,
            plan: MergePlan::concatenate(),
        })
    }

    /// Asks a part of the query first. Gives the name of the table that its rows stand for.
    fn gather(&mut self, select: SelectStmt) -> Result<String, Error> {
        if !stands_alone(&select) || has_collation(&select) {
            return Err(refused("a subquery that depends on the query around it"));
        }
        let asked = self.asked(select, false)?;
        self.part(asked)
    }

    /// The name of the table that the rows of this part stand for. It is asked once, wherever it is needed: the rows come in
    /// any order, and a query that is named twice has one.
    fn part(&mut self, asked: Asked) -> Result<String, Error> {
        let known = self.gathered.iter().position(|other| *other == asked);
        let index = known.unwrap_or(self.gathered.len());
        if index >= PARTS_MAX {
            return Err(refused("a query of so many parts"));
        }
        if known.is_none() {
            self.gathered.push(asked);
        }
        Ok(gathered_name(index))
    }

    /// Has every shard all that this query reads, and is all known that it calls?
    fn is_everywhere(&self, select: &SelectStmt) -> bool {
        self.node_is_everywhere(NodeRef::SelectStmt(select))
    }

    fn node_is_everywhere(&self, node: NodeRef<'_>) -> bool {
        let itself = match node {
            NodeRef::RangeVar(table) if !table.schemaname.is_empty() => {
                self.catalogue
                    .table(Some(&table.schemaname), &table.relname)
                    == Placed::Everywhere
            }
            NodeRef::RangeVar(table) => {
                table.relname.starts_with(GATHERED)
                    || self.catalogue.table(None, &table.relname) == Placed::Everywhere
            }
            NodeRef::FuncCall(call) => {
                called(call, self.catalogue).is_some() && meant(call, self.catalogue) != Meant::Own
            }
            NodeRef::AExpr(expr) => {
                expr.name.len() < 2 || words(&expr.name).first() == Some(&"pg_catalog")
            }
            NodeRef::ColumnRef(column) => !is_system_column(column),
            NodeRef::SelectStmt(select) => {
                select.locking_clause.is_empty()
                    && select.into_clause.is_none()
                    && select.with_clause.is_none()
            }
            _ => true,
        };
        let mut all = itself;
        let understood = children(node, &mut |child| {
            all = all && self.node_is_everywhere(child);
        });
        all && understood
    }

    /// Asks first what each shard cannot compute by itself: branches, subqueries, tables that are joined across shards.
    fn reduce(&mut self, select: &mut SelectStmt) -> Result<(), Error> {
        if select.op() != SetOperation::SetopNone {
            for side in [&mut select.larg, &mut select.rarg] {
                let side = side
                    .as_deref_mut()
                    .ok_or_else(|| refused("this kind of UNION"))?;
                self.reduce_branch(side)?;
            }
            return Ok(());
        }
        let mut from = std::mem::take(&mut select.from_clause);
        let mut leaf = |node: &mut Node| self.reduce_subquery(node);
        from_mut(&mut from, &mut leaf, &mut |_| Ok(()))?;
        select.from_clause = from;
        if self.scope_fails(select) {
            // The first table stays where it is, if that is enough.
            self.gather_tables(select, 1)?;
        }
        if self.scope_fails(select) {
            self.gather_tables(select, 0)?;
        }
        self.reduce_sublinks(select)
    }

    fn scope_fails(&self, select: &SelectStmt) -> bool {
        let condition = select.where_clause.as_deref();
        Scope::read(self.catalogue, None, &select.from_clause, condition).is_err()
    }

    fn reduce_branch(&mut self, branch: &mut SelectStmt) -> Result<(), Error> {
        if self.is_everywhere(branch) {
            return Ok(());
        }
        let plain = branch.sort_clause.is_empty()
            && branch.limit_count.is_none()
            && branch.limit_offset.is_none();
        if branch.op() != SetOperation::SetopNone
            && plain
            && merged(branch, self.catalogue).is_err()
        {
            return self.reduce(branch);
        }
        let name = self.gather(std::mem::take(branch))?;
        *branch = all_of(&name);
        Ok(())
    }

    /// A subquery in FROM.
    fn reduce_subquery(&mut self, node: &mut Node) -> Result<(), Error> {
        let Some(NodeEnum::RangeSubselect(found)) = &mut node.node else {
            return Ok(());
        };
        let select = found
            .subquery
            .as_deref_mut()
            .and_then(|node| node.node.as_mut());
        let (Some(NodeEnum::SelectStmt(select)), Some(alias), false) =
            (select, &found.alias, found.lateral)
        else {
            return Err(refused("LATERAL"));
        };
        if subquery(select, self.catalogue, None).is_ok() {
            return Ok(());
        }
        let alias = alias.clone();
        let name = self.gather(std::mem::take(select))?;
        *node = edit::table(&name, alias);
        Ok(())
    }

    /// Asks for whole tables, but the first `kept` sharded ones.
    fn gather_tables(&mut self, select: &mut SelectStmt, kept: usize) -> Result<(), Error> {
        let mut conditions = Vec::new();
        if select.from_clause.iter().all(is_inner) {
            conjuncts(select.where_clause.as_deref(), &mut conditions);
        }
        let conditions: Vec<Node> = conditions.into_iter().cloned().collect();
        let mut seen = 0;
        let mut from = std::mem::take(&mut select.from_clause);
        let mut leaf = |node: &mut Node| {
            if let Some(NodeEnum::RangeVar(table)) = &node.node {
                let schema = (!table.schemaname.is_empty()).then_some(&*table.schemaname);
                if table.relname.starts_with(GATHERED)
                    || self.catalogue.table(schema, &table.relname) == Placed::Everywhere
                {
                    return Ok(());
                }
            }
            let Some(alias) = name_of(node) else {
                return Ok(());
            };
            seen += 1;
            if seen <= kept {
                return Ok(());
            }
            let own = conditions
                .iter()
                .filter(|node| is_only_of(node, &alias.aliasname));
            let own: Vec<Node> = own.cloned().collect();
            let rows = SelectStmt {
                target_list: vec![star()],
                from_clause: vec![std::mem::take(node)],
                where_clause: all_hold(own).map(Box::new),
                ..edit::select()
            };
            let gathered = self.gather(rows)?;
            *node = edit::table(&gathered, alias);
            Ok(())
        };
        from_mut(&mut from, &mut leaf, &mut |_| Ok(()))?;
        select.from_clause = from;
        Ok(())
    }

    /// Subqueries in expressions.
    fn reduce_sublinks(&mut self, select: &mut SelectStmt) -> Result<(), Error> {
        let whole = select.clone();
        let catalogue = self.catalogue;
        let condition = whole.where_clause.as_deref();
        let scope = Scope::read(catalogue, None, &whole.from_clause, condition)?;
        let stays = |node: &Node, alone: bool| sublink_is_local(node, alone, &whole, &scope);
        if let Some(condition) = select.where_clause.as_deref_mut() {
            self.reduce_expression(condition, true, &stays)?;
        }
        for clause in clauses_mut(select) {
            self.reduce_expression(clause, false, &stays)?;
        }
        let mut from = std::mem::take(&mut select.from_clause);
        let mut condition = |node: &mut Node| self.reduce_expression(node, false, &stays);
        from_mut(&mut from, &mut |_| Ok(()), &mut condition)?;
        select.from_clause = from;
        Ok(())
    }

    fn reduce_expression(
        &mut self,
        node: &mut Node,
        alone: bool,
        stays: &dyn Fn(&Node, bool) -> bool,
    ) -> Result<(), Error> {
        if matches!(inner(node), Some(NodeEnum::SubLink(_))) && stays(node, alone) {
            return Ok(());
        }
        let Some(found) = &mut node.node else {
            return Ok(());
        };
        let mut both = false;
        match found {
            NodeEnum::SubLink(link) => {
                let exists = link.sub_link_type() == SubLinkType::ExistsSublink;
                let select = link
                    .subselect
                    .as_deref_mut()
                    .and_then(|node| node.node.as_mut());
                let Some(NodeEnum::SelectStmt(select)) = select else {
                    return Err(refused("this kind of subquery"));
                };
                if exists && select.limit_count.is_none() && select.limit_offset.is_none() {
                    select.limit_count = Some(Box::new(one()));
                    select.set_limit_option(pg_query::protobuf::LimitOption::Count);
                }
                if exists && select.target_list.is_empty() {
                    select.target_list.push(output("", one()));
                }
                let name = self.gather(std::mem::take(&mut **select))?;
                **select = all_of(&name);
            }
            NodeEnum::BoolExpr(expr) => both = expr.boolop() == BoolExprType::AndExpr,
            _ => {}
        }
        for part in parts_mut(found)? {
            self.reduce_expression(part, alone && both, stays)?;
        }
        Ok(())
    }

    /// Asks for the columns that the query needs of the rows of FROM and WHERE.
    fn gather_rows(&mut self, select: &mut SelectStmt) -> Result<(), Error> {
        if select.op() != SetOperation::SetopNone || !select.values_lists.is_empty() {
            return Err(refused("this kind of query"));
        }
        let whole = select.clone();
        let star_given = targets(select).any(|target| target.val.as_deref().is_some_and(is_star));
        let (outputs, alias) = match (star_given, select.from_clause.as_slice()) {
            (true, [only]) => (
                vec![star()],
                name_of(only).ok_or_else(|| refused("a star"))?,
            ),
            (true, _) => return Err(refused("a star")),
            (false, from) => {
                let lone = from.len() == 1 && from.iter().all(|node| name_of(node).is_some());
                (needed(select, lone, self.catalogue)?, edit::alias(ROWS))
            }
        };
        let first = first::rows(&whole);
        let rows = SelectStmt {
            target_list: outputs,
            from_clause: std::mem::take(&mut select.from_clause),
            where_clause: select.where_clause.take(),
            ..edit::select()
        };
        // Not what this is part of once more.
        if !stands_alone(&rows) {
            return Err(refused("a subquery that depends on the query around it"));
        }
        // Where they are sorted afterwards, one by one, theirs is none.
        let order =
            match first.is_some() || !whole.sort_clause.is_empty() && first::is_of_rows(&whole) {
                true => Order::Any,
                false => Order::AsBelow,
            };
        let mut asked = merged_in(&rows, self.catalogue, order)?;
        if let Some((sort_clause, limit)) = first {
            let mut rows = SelectStmt {
                sort_clause,
                ..rows
            };
            limit::push_down(&mut rows, limit)?;
            asked.text = write(NodeEnum::SelectStmt(Box::new(rows)))?;
        }
        let name = self.part(asked)?;
        select.from_clause = vec![edit::table(&name, alias)];
        Ok(())
    }
}

/// The outputs of a query for the columns that `select` needs, which are replaced in it by their names. `lone`: there is one
/// relation, so that a qualifier says nothing.
fn needed(
    select: &mut SelectStmt,
    lone: bool,
    catalogue: &dyn Catalogue,
) -> Result<Vec<Node>, Error> {
    let names: Vec<String> = targets(select)
        .map(|target| column_name(target).unwrap_or("?column?").to_owned())
        .collect();
    let group = select.group_clause.clone();
    for item in &group {
        // A column of the tables if there is one of that name, else an output.
        let Some(name) = lone_name(item) else {
            continue;
        };
        for target in targets(select).filter(|target| target.name == name) {
            let value = target.val.as_deref().ok_or_else(|| refused("an output"))?;
            if text(value)? != text(item)? && !cannot_be_a_column(name, value, &group, catalogue) {
                return Err(refused(
                    "GROUP BY of a name that may be an output's or a column's",
                ));
            }
        }
    }
    let aliases: Vec<String> = targets(select)
        .filter(|target| {
            !target.name.is_empty()
                && target
                    .val
                    .as_deref()
                    .is_none_or(|value| lone_name(value) != Some(&target.name))
        })
        .map(|target| target.name.clone())
        .collect();
    let mut outputs = Needed {
        columns: Vec::new(),
        lone,
    };
    for (target, name) in select.target_list.iter_mut().zip(&names) {
        if let Some(NodeEnum::ResTarget(target)) = &mut target.node {
            target.name.clone_from(name);
        }
    }
    let is_distinct_on = distinct_on(select).is_some();
    let by_output =
        |node: &Node| lone_name(node).is_some_and(|name| names.iter().any(|n| n == name));
    for target in &mut select.target_list {
        outputs.replace(target)?;
    }
    for item in &mut select.group_clause {
        if lone_name(item).is_none_or(|name| !aliases.iter().any(|alias| alias == name)) {
            outputs.replace(item)?;
        }
    }
    if is_distinct_on {
        for item in &mut select.distinct_clause {
            if !by_output(item) {
                outputs.replace(item)?;
            }
        }
    }
    for sort in &mut select.sort_clause {
        let Some(NodeEnum::SortBy(sort)) = &mut sort.node else {
            return Err(refused("this kind of ORDER BY"));
        };
        if let Some(node) = sort.node.as_deref_mut().filter(|node| !by_output(node)) {
            outputs.replace(node)?;
        }
    }
    let rest = select.having_clause.as_deref_mut().into_iter();
    for node in rest.chain(&mut select.window_clause) {
        outputs.replace(node)?;
    }
    if outputs.columns.is_empty() {
        outputs
            .columns
            .push((String::new(), wrap(NodeEnum::AConst(one_value()))));
    }
    let columns = outputs.columns.into_iter().enumerate();
    Ok(columns
        .map(|(index, (_, value))| output(&column(index), value))
        .collect())
}

struct Needed {
    /// What tells it from others, and the expression.
    columns: Vec<(String, Node)>,
    lone: bool,
}

impl Needed {
    fn replace(&mut self, node: &mut Node) -> Result<(), Error> {
        let lone = self.lone;
        let Some(found) = &mut node.node else {
            return Ok(());
        };
        match found {
            NodeEnum::ColumnRef(reference) => {
                let words = words(&reference.fields);
                if words.last() == Some(&"*") {
                    return Err(refused("a star in an expression"));
                }
                let key = match words.last() {
                    Some(name) if lone => (*name).to_owned(),
                    _ => words.join("\0"),
                };
                let known = self.columns.iter().position(|(other, _)| *other == key);
                let index = known.unwrap_or(self.columns.len());
                let replaced = column_ref(&column(index));
                let value = std::mem::replace(node, replaced);
                if known.is_none() {
                    self.columns.push((key, value));
                }
                Ok(())
            }
            NodeEnum::SubLink(_) => Err(refused("a subquery among outputs")),
            _ => parts_mut(found)?
                .into_iter()
                .try_for_each(|part| self.replace(part)),
        }
    }
}

fn column(index: usize) -> String {
    format!("__pgdog_{}", index + 1)
}

fn column_ref(name: &str) -> Node {
    let word = NodeEnum::String(pg_query::protobuf::String {
        sval: name.to_owned(),
    });
    wrap(NodeEnum::ColumnRef(ColumnRef {
        fields: vec![wrap(word)],
        location: 0,
    }))
}

fn output(name: &str, value: Node) -> Node {
    wrap(NodeEnum::ResTarget(Box::new(ResTarget {
        name: name.to_owned(),
        val: Some(Box::new(value)),
        ..ResTarget::default()
    })))
}

fn star() -> Node {
    let star = wrap(NodeEnum::AStar(pg_query::protobuf::AStar {}));
    output(
        "",
        wrap(NodeEnum::ColumnRef(ColumnRef {
            fields: vec![star],
            location: 0,
        })),
    )
}

/// `SELECT * FROM` what was gathered.
fn all_of(name: &str) -> SelectStmt {
    SelectStmt {
        target_list: vec![star()],
        from_clause: vec![edit::table(name, edit::alias(ROWS))],
        ..edit::select()
    }
}

fn one_value() -> AConst {
    AConst {
        val: Some(a_const::Val::Ival(Integer { ival: 1 })),
        ..AConst::default()
    }
}

fn one() -> Node {
    wrap(NodeEnum::AConst(one_value()))
}

fn all_hold(mut conditions: Vec<Node>) -> Option<Node> {
    if conditions.len() < 2 {
        return conditions.pop();
    }
    Some(wrap(NodeEnum::BoolExpr(Box::new(
        pg_query::protobuf::BoolExpr {
            boolop: BoolExprType::AndExpr.into(),
            args: conditions,
            ..Default::default()
        },
    ))))
}

/// By what a lone relation's columns are qualified.
fn name_of(node: &Node) -> Option<Alias> {
    let name = match inner(node)? {
        NodeEnum::RangeVar(table) => match &table.alias {
            Some(alias) => &alias.aliasname,
            None => &table.relname,
        },
        NodeEnum::RangeSubselect(subquery) => &subquery.alias.as_ref()?.aliasname,
        _ => return None,
    };
    Some(edit::alias(name))
}

/// Are there inner joins only?
fn is_inner(node: &Node) -> bool {
    match inner(node) {
        Some(NodeEnum::JoinExpr(join)) => {
            join.jointype() == JoinType::JoinInner
                && join.larg.as_deref().is_some_and(is_inner)
                && join.rarg.as_deref().is_some_and(is_inner)
        }
        _ => true,
    }
}

/// Is this condition about columns of this relation alone?
fn is_only_of(condition: &Node, relation: &str) -> bool {
    let mut columns = 0;
    let other = any(condition, &mut |node| match node {
        NodeEnum::ColumnRef(column) => {
            columns += 1;
            let words = words(&column.fields);
            words.len() != 2 || words.first() != Some(&relation)
        }
        NodeEnum::SubLink(_) | NodeEnum::FuncCall(_) => true,
        _ => false,
    });
    !other && columns > 0
}

/// Do all qualified columns of a query belong to what it names itself? Of bare ones the server says so.
fn stands_alone(select: &SelectStmt) -> bool {
    fn look<'t>(node: NodeRef<'t>, names: &mut Vec<&'t str>, used: &mut Vec<&'t str>) -> bool {
        match node {
            NodeRef::RangeVar(table) => names.push(match &table.alias {
                Some(alias) => &alias.aliasname,
                None => &table.relname,
            }),
            NodeRef::RangeSubselect(subquery) => {
                names.extend(subquery.alias.as_ref().map(|alias| &*alias.aliasname));
            }
            NodeRef::RangeFunction(function) => {
                names.extend(function.alias.as_ref().map(|alias| &*alias.aliasname));
            }
            NodeRef::JoinExpr(join) => {
                names.extend(join.alias.as_ref().map(|alias| &*alias.aliasname));
                names.extend(
                    join.join_using_alias
                        .as_ref()
                        .map(|alias| &*alias.aliasname),
                );
            }
            NodeRef::ColumnRef(column) if column.fields.len() > 1 => {
                used.extend(words(&column.fields).into_iter().rev().nth(1));
            }
            _ => {}
        }
        let mut all = true;
        let understood = children(node, &mut |child| all &= look(child, names, used));
        understood && all
    }
    let (mut names, mut used) = (Vec::new(), Vec::new());
    look(NodeRef::SelectStmt(select), &mut names, &mut used)
        && used.iter().all(|name| names.contains(name))
}

/// Has an output a collation of its own, which a value does not carry with it?
fn has_collation(select: &SelectStmt) -> bool {
    let of = |select: &SelectStmt| {
        targets(select).any(|target| {
            target.val.as_deref().is_some_and(|value| {
                any(value, &mut |node| {
                    matches!(node, NodeEnum::CollateClause(_))
                })
            })
        })
    };
    of(select)
        || [&select.larg, &select.rarg]
            .into_iter()
            .flatten()
            .any(|side| has_collation(side))
}
