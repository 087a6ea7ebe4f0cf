//! A query's tables and functions, and what in it only the primary may do.

use std::collections::HashMap;

use pg_query::protobuf as pb;
use pg_query::protobuf::AExprKind;
use pg_query::NodeRef;

use super::levels;
use super::names::{self, some};
use super::operands::Literals;
use super::utility;
use super::walk::children;
use crate::sql::functions;
use crate::sql::statement::{Function, Kind, Need, Statement, Table, TableUse};

/// One statement of a text.
pub(super) fn statement(node: NodeRef<'_>, literals: Literals<'_>) -> Statement {
    match kind_of_query(node) {
        Some(kind) => query(kind, node, literals),
        None => utility::statement(node, literals),
    }
}

/// The statement in an optional field of another.
pub(super) fn optional(node: Option<&pb::Node>, literals: Literals<'_>) -> Statement {
    match node.and_then(|node| node.node.as_ref()) {
        Some(node) => statement(node.to_ref(), literals),
        None => Statement {
            needs_primary: Some(Need::Unknown),
            ..Statement::new(Kind::Ddl { alone: false })
        },
    }
}

fn kind_of_query(node: NodeRef<'_>) -> Option<Kind> {
    Some(match node {
        NodeRef::SelectStmt(_) => Kind::Select,
        NodeRef::InsertStmt(_) => Kind::Insert,
        NodeRef::UpdateStmt(_) => Kind::Update,
        NodeRef::DeleteStmt(_) => Kind::Delete,
        NodeRef::MergeStmt(_) => Kind::Merge,
        _ => return None,
    })
}

/// Reads the facts of a part of a statement into it.
pub(super) fn read(statement: &mut Statement, node: NodeRef<'_>) {
    let mut reader = Reader {
        statement,
        ctes: Vec::new(),
        visible: HashMap::new(),
    };
    reader.node(node);
}

fn query(kind: Kind, node: NodeRef<'_>, literals: Literals<'_>) -> Statement {
    let mut statement = Statement::new(kind);
    statement.returns_rows = match node {
        NodeRef::InsertStmt(n) => n.returning_clause.is_some(),
        NodeRef::UpdateStmt(n) => n.returning_clause.is_some(),
        NodeRef::DeleteStmt(n) => n.returning_clause.is_some(),
        NodeRef::MergeStmt(n) => n.returning_clause.is_some(),
        _ => false,
    };
    read(&mut statement, node);
    statement.keys = Some(Box::new(levels::keys(node, literals)));
    statement
}

struct Reader<'s, 't> {
    statement: &'s mut Statement,
    /// Names of the common table expressions in scope, innermost last.
    ctes: Vec<&'t str>,
    /// How often each is there.
    visible: HashMap<&'t str, usize>,
}

impl<'t> Reader<'_, 't> {
    fn node(&mut self, node: NodeRef<'t>) {
        match node {
            NodeRef::SelectStmt(select) => {
                if !select.locking_clause.is_empty() {
                    self.need(Need::LocksRows);
                }
                self.scope(node, None);
            }
            NodeRef::InsertStmt(n) => self.change(node, n.relation.as_ref(), TableUse::Insert),
            NodeRef::UpdateStmt(n) => self.change(node, n.relation.as_ref(), TableUse::Update),
            NodeRef::DeleteStmt(n) => self.change(node, n.relation.as_ref(), TableUse::Delete),
            NodeRef::MergeStmt(n) => self.change(node, n.relation.as_ref(), TableUse::Merge),
            NodeRef::WithClause(with) => self.with(with),
            // Its tables are those of the query, by their aliases.
            NodeRef::LockingClause(_) => {}
            NodeRef::IntoClause(into) => {
                self.need(Need::MakesTable);
                if let Some(table) = &into.rel {
                    self.table(table, TableUse::Definition);
                }
            }
            NodeRef::RangeVar(table) => {
                let cte = self
                    .visible
                    .get(table.relname.as_str())
                    .is_some_and(|&count| count > 0);
                if !cte || !table.schemaname.is_empty() {
                    self.table(table, TableUse::Read);
                }
            }
            NodeRef::FuncCall(call) => {
                self.function(&call.funcname);
                self.children(node);
            }
            NodeRef::AExpr(expression) => {
                let named = matches!(
                    expression.kind(),
                    AExprKind::AexprBetween
                        | AExprKind::AexprNotBetween
                        | AExprKind::AexprBetweenSym
                        | AExprKind::AexprNotBetweenSym
                );
                if !named {
                    self.operator(&expression.name);
                }
                self.children(node);
            }
            NodeRef::SubLink(link) => {
                self.operator(&link.oper_name);
                self.children(node);
            }
            NodeRef::SortBy(sort) => {
                self.operator(&sort.use_op);
                self.children(node);
            }
            NodeRef::ParamRef(parameter) => {
                let number = u32::try_from(parameter.number).unwrap_or(0);
                self.statement.parameters = self.statement.parameters.max(number);
            }
            NodeRef::RangeTableSample(sample) => {
                let built_in = matches!(
                    names::parts(&sample.method).as_slice(),
                    ["bernoulli" | "system"]
                );
                if !built_in {
                    self.function(&sample.method);
                }
                self.children(node);
            }
            _ => self.children(node),
        }
    }

    fn children(&mut self, node: NodeRef<'t>) {
        if !children(node, &mut |child| self.node(child)) {
            self.need(Need::Unknown);
        }
    }

    /// A statement that may begin with WITH, whose names end with it. `target` is not among those that are read.
    fn scope(&mut self, node: NodeRef<'t>, target: Option<&'t pb::RangeVar>) {
        let outer = self.ctes.len();
        let known = children(node, &mut |child| match (child, target) {
            (NodeRef::RangeVar(table), Some(target)) if std::ptr::eq(table, target) => {}
            _ => self.node(child),
        });
        debug_assert!(known, "every query is known");
        for name in self.ctes.drain(outer..) {
            self.visible.entry(name).and_modify(|count| *count -= 1);
        }
    }

    fn change(&mut self, node: NodeRef<'t>, target: Option<&'t pb::RangeVar>, usage: TableUse) {
        self.need(Need::ChangesData);
        if let Some(target) = target {
            self.table(target, usage);
        }
        self.scope(node, target);
    }

    /// Each common table expression sees those before it, with RECURSIVE all.
    fn with(&mut self, with: &'t pb::WithClause) {
        let expressions = || {
            with.ctes
                .iter()
                .filter_map(|node| match node.node.as_ref()? {
                    pg_query::NodeEnum::CommonTableExpr(expression) => Some(&**expression),
                    _ => None,
                })
        };
        if with.recursive {
            expressions().for_each(|expression| self.enter(&expression.ctename));
        }
        for expression in expressions() {
            self.children(NodeRef::CommonTableExpr(expression));
            if !with.recursive {
                self.enter(&expression.ctename);
            }
        }
    }

    fn enter(&mut self, name: &'t str) {
        self.ctes.push(name);
        *self.visible.entry(name).or_default() += 1;
    }

    fn table(&mut self, table: &pb::RangeVar, usage: TableUse) {
        if table.schemaname.starts_with("pg_temp") || table.relpersistence == "t" {
            self.need(Need::Temporary);
        }
        if matches!(table.schemaname.as_str(), "" | "pg_catalog")
            && functions::is_server_view(&table.relname)
        {
            self.need(Need::ServerState(table.relname.as_str().into()));
        }
        push(&mut self.statement.tables, table_of(table, usage));
    }

    fn function(&mut self, name: &[pb::Node]) {
        let (schema, name) = names::qualified(name);
        let harmless =
            matches!(schema.as_deref(), None | Some("pg_catalog")) && functions::is_harmless(&name);
        push(
            &mut self.statement.functions,
            Function {
                schema,
                name,
                harmless,
            },
        );
    }

    fn operator(&mut self, name: &[pb::Node]) {
        let parts = names::parts(name);
        let known = match parts.as_slice() {
            [] => true,
            [name] | ["pg_catalog", name] => functions::is_built_in_operator(name),
            _ => false,
        };
        if !known {
            let name = parts.last().copied().unwrap_or_default();
            self.need(Need::Operator(name.into()));
        }
    }

    fn need(&mut self, need: Need) {
        let statement = &mut *self.statement;
        statement.changes_rows |= need == Need::ChangesData;
        statement.makes_table |= need == Need::MakesTable;
        statement.locks_rows |= need == Need::LocksRows;
        statement.needs_primary.get_or_insert(need);
    }
}

/// In longer lists than this, nobody looks for what is there already: it would take the square of their length.
const DISTINCT_MAX: usize = 64;

fn push<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if list.len() >= DISTINCT_MAX || !list.contains(&item) {
        list.push(item);
    }
}

/// A table as a statement names it.
pub(super) fn table_of(table: &pb::RangeVar, usage: TableUse) -> Table {
    Table {
        schema: some(&table.schemaname),
        name: table.relname.as_str().into(),
        alias: table
            .alias
            .as_ref()
            .and_then(|alias| some(&alias.aliasname)),
        usage,
    }
}
