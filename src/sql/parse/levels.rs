//! Levels of a query, their tables, and which columns must equal what.
//!
//! The comments on joins say which comparisons hold for which rows. In doubt nothing is noted: then a statement goes to
//! more shards or is refused, and never to too few.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use pg_query::protobuf as pb;
use pg_query::protobuf::{JoinType, SetOperation, SubLinkType};
use pg_query::{NodeEnum, NodeRef};

use super::conditions::{Conditions, Equal};
use super::names;
use super::operands::Literals;
use super::walk::children;
use crate::sql::functions::may_aggregate;
use crate::sql::keys::{
    Column, Equality, Keys, Level, Nearest, Operand, Outputs, Place, Reference, Restriction,
};
use crate::sql::statement::TableUse;

/// More tables or levels than this are not followed.
const REFERENCES_MAX: usize = 256;

/// What a query says about keys.
pub(super) fn keys(node: NodeRef<'_>, literals: Literals<'_>) -> Keys {
    let mut reader = Reader {
        keys: Keys::default(),
        literals,
        scopes: Vec::new(),
        expressions: HashMap::new(),
        done: HashSet::new(),
    };
    reader.statement(node, None, Place::Top);
    reader.keys
}

pub(super) struct Reader<'t> {
    pub(super) keys: Keys,
    literals: Literals<'t>,
    /// The levels that are being read, outermost first.
    scopes: Vec<Scope<'t>>,
    /// Common table expressions in sight by name, innermost last.
    expressions: HashMap<&'t str, Vec<u16>>,
    /// Subqueries that have been read, by their place in the text.
    done: HashSet<i32>,
}

/// A level that is being read.
pub(super) struct Scope<'t> {
    level: u16,
    /// What qualifies columns: its tables, and nothing for subqueries, functions and the like.
    names: HashMap<&'t str, Option<u16>>,
    /// Its tables so far.
    references: Range<u16>,
}

/// Columns of `names` as this place sees them.
pub(super) fn column(scopes: &[Scope<'_>], reference: &pb::ColumnRef) -> Option<(Column, u16)> {
    let parts = names::parts(&reference.fields);
    if parts.len() != reference.fields.len() {
        return None; // a star
    }
    match parts.as_slice() {
        [name] => {
            let scope = scopes.last()?;
            let column = Column {
                level: scope.level,
                of: scope.references.clone(),
                name: (*name).into(),
            };
            Some((column, scope.level))
        }
        [.., qualifier, name] => {
            let found = scopes
                .iter()
                .rev()
                .find_map(|scope| Some((scope.names.get(qualifier)?, scope.level)));
            let (&reference, level) = found?;
            let reference = reference?;
            let column = Column {
                level,
                of: reference..reference + 1,
                name: (*name).into(),
            };
            Some((column, level))
        }
        [] => None,
    }
}

impl<'t> Reader<'t> {
    /// Reads a statement or subquery as a level of its own. Answers the level and, of a SELECT, its outputs.
    pub(super) fn statement(
        &mut self,
        node: NodeRef<'t>,
        parent: Option<u16>,
        place: Place,
    ) -> (u16, Outputs) {
        let level = u16::try_from(self.keys.levels.len()).unwrap_or(0);
        if self.keys.levels.len() >= REFERENCES_MAX {
            self.keys.incomplete = true;
            return (0, Outputs::open());
        }
        let start = self.next_reference();
        self.keys.levels.push(Level {
            parent,
            place,
            references: start..start,
            reduces: false,
            combines: false,
            outer_joins: Vec::new(),
            uses: 1,
        });
        self.scopes.push(Scope {
            level,
            names: HashMap::new(),
            references: start..start,
        });
        let outer = self.expressions.clone();
        let outputs = match node {
            NodeRef::SelectStmt(select) => self.select(select),
            NodeRef::InsertStmt(insert) => self.insert(insert),
            NodeRef::UpdateStmt(update) => self.update(update),
            NodeRef::DeleteStmt(delete) => self.delete(delete),
            NodeRef::MergeStmt(merge) => self.merge(merge),
            _ => {
                self.keys.incomplete = true;
                Outputs::open()
            }
        };
        self.expressions = outer;
        self.scopes.pop();
        (level, outputs)
    }

    pub(super) fn next_reference(&self) -> u16 {
        u16::try_from(self.keys.references.len()).unwrap_or(u16::MAX)
    }

    pub(super) fn level(&self) -> u16 {
        self.scopes.last().map_or(0, |scope| scope.level)
    }

    fn level_mut(&mut self) -> Option<&mut Level> {
        let level = usize::from(self.level());
        self.keys.levels.get_mut(level)
    }

    fn select(&mut self, select: &'t pb::SelectStmt) -> Outputs {
        self.with(select.with_clause.as_ref());
        if select.op() > SetOperation::SetopNone {
            let only_append = select.op() == SetOperation::SetopUnion && select.all;
            let limited = select.limit_count.is_some() || select.limit_offset.is_some();
            let parent = self.level();
            if let Some(level) = self.level_mut() {
                level.combines = !only_append;
                level.reduces |= limited;
            }
            for arm in [&select.larg, &select.rarg].into_iter().flatten() {
                self.statement(NodeRef::SelectStmt(arm), Some(parent), Place::Arm);
            }
            self.expressions_in(&select.sort_clause);
            return Outputs::open();
        }
        self.from(&select.from_clause);
        self.condition(select.where_clause.as_deref());
        let grouped = !select.distinct_clause.is_empty()
            || !select.group_clause.is_empty()
            || select.having_clause.is_some()
            || reduce(&select.target_list);
        let reduces = grouped
            || select.limit_count.is_some()
            || select.limit_offset.is_some()
            || !select.window_clause.is_empty()
            || reduce(&select.sort_clause);
        if let Some(level) = self.level_mut() {
            level.reduces |= reduces;
        }
        if !grouped {
            let nearest = self.nearest(select);
            self.keys.nearest.extend(nearest);
        }
        for list in [
            &select.distinct_clause,
            &select.target_list,
            &select.group_clause,
            &select.window_clause,
            &select.values_lists,
            &select.sort_clause,
        ] {
            self.expressions_in(list);
        }
        for node in [
            &select.having_clause,
            &select.limit_count,
            &select.limit_offset,
        ]
        .into_iter()
        .flatten()
        {
            self.expression(node);
        }
        let targets = select.target_list.iter().filter_map(named);
        let mut targets = targets.map(|target| target.val.as_deref());
        let mut outputs = Outputs {
            open: !select.values_lists.is_empty(),
            ..Outputs::default()
        };
        for target in targets.by_ref() {
            if target.is_some_and(is_star) {
                outputs.open = true;
                break;
            }
            outputs.first.push(self.operand(target));
        }
        outputs
    }

    /// Does it want the first rows of one table in order of a column's distance to a value? Not of a join: what an outer
    /// one does not find there would be taken for missing.
    fn nearest(&self, select: &'t pb::SelectStmt) -> Option<Nearest> {
        let [item] = select.from_clause.as_slice() else {
            return None;
        };
        if !matches!(item.node, Some(NodeEnum::RangeVar(_))) {
            return None;
        }
        let limit = self.operand(Some(select.limit_count.as_deref()?));
        let Some(NodeEnum::SortBy(first)) = select.sort_clause.first()?.node.as_ref() else {
            return None;
        };
        let ascending = matches!(
            first.sortby_dir(),
            pb::SortByDir::SortbyDefault | pb::SortByDir::SortbyAsc
        );
        let mut order = first.node.as_deref().filter(|_| ascending)?;
        if let Some(NodeEnum::ColumnRef(reference)) = &order.node {
            // The name of an output comes before that of a column.
            let [name] = names::parts(&reference.fields)[..] else {
                return None;
            };
            let mut outputs = select.target_list.iter().filter_map(named);
            order = outputs.find(|output| output.name == name)?.val.as_deref()?;
        }
        let Some(NodeEnum::AExpr(distance)) = &order.node else {
            return None;
        };
        let is_distance = distance.kind() == pb::AExprKind::AexprOp
            && names::parts(&distance.name).last() == Some(&"<->");
        let (left, right) = (distance.lexpr.as_deref(), distance.rexpr.as_deref());
        let operands = (self.operand(left), self.operand(right));
        let ((Operand::Column(column), to) | (to, Operand::Column(column))) = operands else {
            return None;
        };
        let own = is_distance && column.level == self.level();
        own.then_some(Nearest { column, to, limit })
    }

    /// Each common table expression is a level, seen by those after it.
    pub(super) fn with(&mut self, with: Option<&'t pb::WithClause>) {
        let Some(with) = with else { return };
        let place = if with.recursive {
            Place::Recursive
        } else {
            Place::With
        };
        let parent = self.level();
        for node in &with.ctes {
            let Some(NodeEnum::CommonTableExpr(expression)) = &node.node else {
                continue;
            };
            if with.recursive {
                // It reads itself; what it reads more than its tables is not followed.
                let itself = u16::try_from(self.keys.levels.len()).unwrap_or(0);
                self.enter(&expression.ctename, itself);
            }
            let query = expression
                .ctequery
                .as_ref()
                .and_then(|query| query.node.as_ref());
            let Some(query) = query else { continue };
            let (level, _) = self.statement(query.to_ref(), Some(parent), place);
            if let Some(level) = self.keys.levels.get_mut(usize::from(level)) {
                level.uses = 0;
                level.parent = Some(parent);
            }
            if !with.recursive {
                self.enter(&expression.ctename, level);
            }
        }
    }

    fn enter(&mut self, name: &'t str, level: u16) {
        self.expressions.entry(name).or_default().push(level);
    }

    pub(super) fn from(&mut self, items: &'t [pb::Node]) {
        for item in items {
            self.item(item);
        }
    }

    /// One item of FROM. Answers its tables.
    pub(super) fn item(&mut self, item: &'t pb::Node) -> Range<u16> {
        let start = self.next_reference();
        match item.node.as_ref() {
            Some(NodeEnum::RangeVar(table)) => self.table(table, TableUse::Read),
            Some(NodeEnum::JoinExpr(join)) => self.join(join),
            Some(NodeEnum::RangeSubselect(select)) => {
                let parent = self.level();
                if let Some(query) = select
                    .subquery
                    .as_ref()
                    .and_then(|query| query.node.as_ref())
                {
                    // Its tables are of its level: they must not be between those of this one.
                    self.statement(query.to_ref(), Some(parent), Place::From);
                }
                self.name(select.alias.as_ref(), None, None);
            }
            Some(NodeEnum::RangeTableSample(sample)) => {
                // Which rows it takes is up to each server.
                if let Some(level) = self.level_mut() {
                    level.reduces = true;
                }
                if let Some(relation) = &sample.relation {
                    self.item(relation);
                }
                self.expressions_in(&sample.args);
            }
            Some(node) => {
                let alias = match node {
                    NodeEnum::RangeFunction(function) => function.alias.as_ref(),
                    NodeEnum::RangeTableFunc(function) => function.alias.as_ref(),
                    NodeEnum::JsonTable(table) => table.alias.as_ref(),
                    _ => None,
                };
                self.parts(node.to_ref());
                self.name(alias, None, None);
            }
            None => self.keys.incomplete = true,
        }
        start..self.next_reference()
    }

    pub(super) fn table(&mut self, table: &'t pb::RangeVar, usage: TableUse) {
        let expression = self
            .expressions
            .get(table.relname.as_str())
            .and_then(|levels| levels.last());
        if let (Some(&level), true, TableUse::Read) =
            (expression, table.schemaname.is_empty(), usage)
        {
            let parent = self.level();
            if let Some(level) = self.keys.levels.get_mut(usize::from(level)) {
                level.uses += 1;
                level.parent = Some(parent);
            }
            self.name(table.alias.as_ref(), Some(&table.relname), None);
            return;
        }
        if self.keys.references.len() >= REFERENCES_MAX {
            self.keys.incomplete = true;
            return;
        }
        let index = self.next_reference();
        self.keys.references.push(Reference {
            schema: names::some(&table.schemaname),
            name: table.relname.as_str().into(),
            usage,
            level: self.level(),
        });
        self.name(table.alias.as_ref(), Some(&table.relname), Some(index));
        let end = self.next_reference();
        if let Some(scope) = self.scopes.last_mut() {
            if scope.references.is_empty() {
                scope.references.start = index;
            }
            scope.references.end = end;
            let (level, references) = (usize::from(scope.level), scope.references.clone());
            if let Some(level) = self.keys.levels.get_mut(level) {
                level.references = references;
            }
        }
    }

    fn name(&mut self, alias: Option<&'t pb::Alias>, name: Option<&'t str>, table: Option<u16>) {
        let name = alias.map_or(name, |alias| Some(alias.aliasname.as_str()));
        // Its columns have other names now.
        let renamed = alias.is_some_and(|alias| !alias.colnames.is_empty());
        if renamed && table.is_some() {
            self.keys.incomplete = true;
        }
        if let (Some(name), Some(scope)) = (name, self.scopes.last_mut()) {
            // `s1.t` and `s2.t`: a column of `t` may be of either.
            let twice = scope.names.contains_key(name);
            scope.names.insert(name, table.filter(|_| !twice));
        }
    }

    fn join(&mut self, join: &'t pb::JoinExpr) {
        let mut side =
            |side: &'t Option<Box<pb::Node>>| side.as_ref().map_or(0..0, |side| self.item(side));
        let (left, right) = (side(&join.larg), side(&join.rarg));
        let both = left.start.min(right.start)..left.end.max(right.end);
        // Of an outer join, ON decides about the rows of the side that may be missing, and of no others.
        let (outer, within) = match join.jointype() {
            JoinType::JoinInner => (None, Some(both.clone())),
            JoinType::JoinLeft => (Some((left.clone(), right.clone())), Some(right.clone())),
            JoinType::JoinRight => (Some((right.clone(), left.clone())), Some(left.clone())),
            _ => {
                if let Some(level) = self.level_mut() {
                    level.outer_joins.push((left.clone(), right.clone()));
                }
                (Some((right.clone(), left.clone())), None)
            }
        };
        if let (Some(outer), Some(level)) = (outer, self.level_mut()) {
            level.outer_joins.push(outer);
        }
        // Which columns NATURAL compares no text tells: nothing is noted.
        let using: Vec<&str> = join.using_clause.iter().filter_map(names::string).collect();
        let level = self.level();
        if let Some(within) = &within {
            for name in using {
                let of = |of: &Range<u16>| Column {
                    level,
                    of: of.clone(),
                    name: name.into(),
                };
                for (from, to) in [(&left, &right), (&right, &left)] {
                    if to.start >= within.start && to.end <= within.end {
                        self.keys.equalities.push(Equality {
                            from: of(from),
                            to: of(to),
                            within: within.clone(),
                            correlated: false,
                        });
                    }
                }
            }
        }
        if let (Some(quals), Some(within)) = (join.quals.as_deref(), within) {
            // ON sees the two sides and nothing else: a bare name in it is none of the target's of an UPDATE.
            let all = self.see(both);
            self.note(quals, &within);
            self.see(all);
        }
        if let Some(quals) = join.quals.as_deref() {
            self.expression(quals);
        }
        if let Some(alias) = &join.alias {
            // A column of its tables may have another name now, and that name be another's.
            self.keys.incomplete |= !alias.colnames.is_empty();
            self.name(Some(alias), None, None);
        }
    }

    /// Changes which tables bare names may be of; answers which they were.
    fn see(&mut self, references: Range<u16>) -> Range<u16> {
        match self.scopes.last_mut() {
            Some(scope) => std::mem::replace(&mut scope.references, references),
            None => references,
        }
    }

    /// WHERE: it holds for all rows of this level.
    pub(super) fn condition(&mut self, condition: Option<&'t pb::Node>) {
        let Some(condition) = condition else { return };
        let within = self
            .scopes
            .last()
            .map_or(0..0, |scope| scope.references.clone());
        self.note(condition, &within);
        self.expression(condition);
    }

    /// Notes what a condition says about the tables in `within`, for which it holds.
    pub(super) fn note(&mut self, condition: &'t pb::Node, within: &Range<u16>) {
        let conditions = Conditions {
            scopes: &self.scopes,
            literals: &self.literals,
        };
        let level = self.level();
        let (restrictions, equal) = conditions.read(condition);
        for (column, members) in restrictions {
            self.keys.restrictions.push(Restriction {
                column,
                within: within.clone(),
                members,
            });
        }
        for Equal { left, right } in equal {
            for ((from, from_level), (to, to_level)) in [(&left, &right), (&right, &left)] {
                // An inner level follows an outer one, never the other way round.
                if *to_level == level {
                    self.keys.equalities.push(Equality {
                        from: from.clone(),
                        to: to.clone(),
                        within: within.clone(),
                        correlated: *from_level != level,
                    });
                }
            }
        }
        self.memberships(condition, within);
    }

    /// `column IN (SELECT column …)` that must hold: both have the same values.
    fn memberships(&mut self, condition: &'t pb::Node, within: &Range<u16>) {
        match condition.node.as_ref() {
            Some(NodeEnum::BoolExpr(all)) if all.boolop() == pb::BoolExprType::AndExpr => {
                for condition in &all.args {
                    self.memberships(condition, within);
                }
            }
            Some(NodeEnum::SubLink(link)) if link.sub_link_type() == SubLinkType::AnySublink => {
                let equals = matches!(names::parts(&link.oper_name).as_slice(), [] | ["="]);
                let tested = match link.testexpr.as_ref().and_then(|test| test.node.as_ref()) {
                    Some(NodeEnum::ColumnRef(reference)) => column(&self.scopes, reference),
                    _ => None,
                };
                let (Some((tested, level)), true) = (tested, equals) else {
                    return;
                };
                let Some(query) = link
                    .subselect
                    .as_ref()
                    .and_then(|query| query.node.as_ref())
                else {
                    return;
                };
                // The subquery is read here for its output, and not again as an expression.
                let (inner, outputs) =
                    self.statement(query.to_ref(), Some(self.level()), Place::Expression);
                self.done.insert(link.location);
                if let Some(test) = link.testexpr.as_deref() {
                    self.expression(test);
                }
                let reduces = self
                    .keys
                    .levels
                    .get(usize::from(inner))
                    .is_none_or(|level| level.reduces || level.combines);
                let ([Operand::Column(output)], false) = (&*outputs.first, outputs.open) else {
                    return;
                };
                if reduces || level != self.level() {
                    return;
                }
                let inner = self
                    .keys
                    .levels
                    .get(usize::from(inner))
                    .map_or(0..0, |level| level.references.clone());
                let mut push = |from: &Column, to: &Column, within: &Range<u16>| {
                    self.keys.equalities.push(Equality {
                        from: from.clone(),
                        to: to.clone(),
                        within: within.clone(),
                        correlated: true,
                    });
                };
                push(&tested, output, &inner);
                push(output, &tested, within);
            }
            _ => {}
        }
    }

    pub(super) fn operand(&self, node: Option<&pb::Node>) -> Operand {
        let conditions = Conditions {
            scopes: &self.scopes,
            literals: &self.literals,
        };
        node.map_or(Operand::Other, |node| conditions.operand_or_column(node))
    }

    /// Subqueries of an expression.
    pub(super) fn expression(&mut self, node: &'t pb::Node) {
        if let Some(node) = &node.node {
            self.visit(node.to_ref());
        }
    }

    pub(super) fn expressions_in(&mut self, nodes: &'t [pb::Node]) {
        for node in nodes {
            self.expression(node);
        }
    }

    fn visit(&mut self, node: NodeRef<'t>) {
        match node {
            NodeRef::SelectStmt(_) => {
                self.statement(node, Some(self.level()), Place::Expression);
            }
            NodeRef::SubLink(link) if self.done.contains(&link.location) => {}
            // Which row that is only the cursor's server knows.
            NodeRef::CurrentOfExpr(_) => self.keys.incomplete = true,
            NodeRef::ColumnRef(column) => {
                self.keys.system_columns |= names::is_system_column(column);
            }
            _ => self.parts(node),
        }
    }

    pub(super) fn parts(&mut self, node: NodeRef<'t>) {
        if !children(node, &mut |child| self.visit(child)) {
            self.keys.incomplete = true;
        }
    }
}

/// May one of these expressions be an aggregate, or look at other rows? Subqueries are levels of their own.
fn reduce(nodes: &[pb::Node]) -> bool {
    fn one(node: NodeRef<'_>) -> bool {
        let mut found = match node {
            NodeRef::SubLink(_) | NodeRef::SelectStmt(_) => return false,
            NodeRef::FuncCall(call) => {
                let (_, name) = names::qualified(&call.funcname);
                call.over.is_some() || call.agg_star || call.agg_distinct || may_aggregate(&name)
            }
            NodeRef::JsonObjectAgg(_) | NodeRef::JsonArrayAgg(_) => true,
            _ => false,
        };
        children(node, &mut |child| found = found || one(child));
        found
    }
    let mut nodes = nodes.iter().filter_map(|node| node.node.as_ref());
    nodes.any(|node| one(node.to_ref()))
}

/// Is it as many values as its row has: `*`, `t.*`, `(x).*`?
pub(super) fn is_star(node: &pb::Node) -> bool {
    let last = match &node.node {
        Some(NodeEnum::ColumnRef(reference)) => reference.fields.last(),
        Some(NodeEnum::AIndirection(indirection)) => indirection.indirection.last(),
        _ => None,
    };
    last.is_some_and(|last| matches!(last.node, Some(NodeEnum::AStar(_))))
}

/// An item of a list of outputs, columns or assignments.
pub(super) fn named(node: &pb::Node) -> Option<&pb::ResTarget> {
    match node.node.as_ref()? {
        NodeEnum::ResTarget(target) => Some(target),
        _ => None,
    }
}
