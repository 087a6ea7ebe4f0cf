//! INSERT, UPDATE, DELETE and MERGE: what becomes of rows.

use pg_query::protobuf as pb;
use pg_query::{NodeEnum, NodeRef};

use super::levels::{is_star, named, Reader};
use crate::sql::keys::{Change, Operand, Outputs, Overriding, Place, Rows, Write};
use crate::sql::statement::TableUse;

impl<'t> Reader<'t> {
    fn target(&mut self, table: Option<&'t pb::RangeVar>, usage: TableUse) -> u16 {
        let index = self.next_reference();
        match table {
            Some(table) => self.table(table, usage),
            None => self.keys.incomplete = true,
        }
        index
    }

    fn returning(&mut self, returning: Option<&'t pb::ReturningClause>) {
        if let Some(returning) = returning {
            let before = self.keys.system_columns;
            self.expressions_in(&returning.exprs);
            // A change within a query returns to what may store it.
            if self.level() == 0 {
                self.keys.system_columns = before;
            }
        }
    }

    pub(super) fn insert(&mut self, insert: &'t pb::InsertStmt) -> Outputs {
        self.with(insert.with_clause.as_ref());
        let level = self.level();
        let target = self.target(insert.relation.as_ref(), TableUse::Insert);
        let columns = insert.cols.iter().filter_map(named);
        let columns = columns.map(|column| column.name.as_str().into()).collect();
        let source = insert
            .select_stmt
            .as_ref()
            .and_then(|node| node.node.as_ref());
        let rows = match source {
            None => Rows::Defaults,
            Some(NodeEnum::SelectStmt(select)) if !select.values_lists.is_empty() => {
                self.with(select.with_clause.as_ref());
                let rows = self.values(&select.values_lists);
                self.expressions_in(&select.values_lists);
                if select.limit_count.is_some() || select.limit_offset.is_some() {
                    self.keys.incomplete = true;
                }
                rows
            }
            Some(node) => {
                let (level, outputs) = self.statement(node.to_ref(), Some(level), Place::Source);
                Rows::Select { level, outputs }
            }
        };
        let mut conflict_sets = Vec::new();
        if let Some(conflict) = &insert.on_conflict_clause {
            let sets = conflict.target_list.iter().filter_map(named);
            conflict_sets = sets.map(|set| set.name.as_str().into()).collect();
            self.parts(NodeRef::OnConflictClause(conflict));
        }
        self.returning(insert.returning_clause.as_ref());
        let change = Change::Insert {
            columns,
            rows,
            conflict_sets,
            overriding: match insert.r#override() {
                pb::OverridingKind::OverridingSystemValue => Overriding::System,
                pb::OverridingKind::OverridingUserValue => Overriding::User,
                _ => Overriding::Nothing,
            },
        };
        self.write(target, level, change);
        Outputs::open()
    }

    fn values(&mut self, lists: &[pb::Node]) -> Rows {
        let mut operands = Vec::new();
        let mut width = 0;
        for list in lists {
            let Some(NodeEnum::List(list)) = &list.node else {
                continue;
            };
            // Rows of different widths are an error.
            self.keys.incomplete |= !operands.is_empty() && list.items.len() != width;
            width = list.items.len();
            operands.extend(list.items.iter().map(|item| self.operand(Some(item))));
            // Where what follows a star is nobody knows.
            self.keys.incomplete |= list.items.iter().any(is_star);
        }
        Rows::Values { width, operands }
    }

    fn write(&mut self, target: u16, level: u16, change: Change) {
        self.keys.writes.push(Write {
            target,
            level,
            change,
        });
    }

    pub(super) fn update(&mut self, update: &'t pb::UpdateStmt) -> Outputs {
        self.with(update.with_clause.as_ref());
        let level = self.level();
        let target = self.target(update.relation.as_ref(), TableUse::Update);
        self.from(&update.from_clause);
        self.condition(update.where_clause.as_deref());
        let sets = update.target_list.iter().filter_map(named);
        let sets = sets.map(|set| {
            let value = match set.indirection.is_empty() {
                true => self.operand(set.val.as_deref()),
                false => Operand::Other,
            };
            (set.name.as_str().into(), value)
        });
        let sets = sets.collect();
        self.expressions_in(&update.target_list);
        self.returning(update.returning_clause.as_ref());
        self.write(target, level, Change::Update { sets });
        Outputs::open()
    }

    pub(super) fn delete(&mut self, delete: &'t pb::DeleteStmt) -> Outputs {
        self.with(delete.with_clause.as_ref());
        let level = self.level();
        let target = self.target(delete.relation.as_ref(), TableUse::Delete);
        self.from(&delete.using_clause);
        self.condition(delete.where_clause.as_deref());
        self.returning(delete.returning_clause.as_ref());
        self.write(target, level, Change::Delete);
        Outputs::open()
    }

    /// A MERGE is an outer join of its source with its target: ON decides about rows of the target only.
    pub(super) fn merge(&mut self, merge: &'t pb::MergeStmt) -> Outputs {
        self.with(merge.with_clause.as_ref());
        let level = self.level();
        let target = self.target(merge.relation.as_ref(), TableUse::Merge);
        if let Some(source) = &merge.source_relation {
            self.item(source);
        }
        let clauses = || {
            let nodes = merge.merge_when_clauses.iter();
            nodes.filter_map(|node| match node.node.as_ref()? {
                NodeEnum::MergeWhenClause(when) => Some(&**when),
                _ => None,
            })
        };
        let by_source = pb::MergeMatchKind::MergeWhenNotMatchedBySource;
        let unmatched_target = clauses().any(|when| when.match_kind() == by_source);
        if let Some(condition) = merge.join_condition.as_deref() {
            if !unmatched_target {
                self.note(condition, &(target..target + 1));
            }
            self.expression(condition);
        }
        let mut sets = Vec::new();
        let mut inserts = Vec::new();
        for when in clauses() {
            let targets = || when.target_list.iter().filter_map(named);
            match when.command_type() {
                pb::CmdType::CmdUpdate => {
                    sets.extend(targets().map(|set| set.name.as_str().into()))
                }
                pb::CmdType::CmdInsert => {
                    let columns = targets().map(|column| column.name.as_str().into());
                    let values = when.values.iter().map(|value| self.operand(Some(value)));
                    inserts.push(columns.zip(values).collect());
                    self.keys.incomplete |= when.target_list.is_empty();
                    self.keys.incomplete |= when.values.iter().any(is_star);
                }
                _ => {}
            }
        }
        self.expressions_in(&merge.merge_when_clauses);
        self.returning(merge.returning_clause.as_ref());
        let change = Change::Merge {
            sets,
            inserts,
            unmatched_target,
        };
        self.write(target, level, change);
        Outputs::open()
    }
}
