//! What a condition demands: columns among values, columns equal to columns.

use pg_query::protobuf as pb;
use pg_query::protobuf::{AExprKind, BoolExprType};
use pg_query::NodeEnum;

use super::levels::{column, Scope};
use super::names;
use super::operands::Literals;
use crate::sql::keys::{Column, Member, Operand};

/// Reads conditions at one place of a statement.
pub(super) struct Conditions<'s, 't> {
    pub(super) scopes: &'s [Scope<'t>],
    pub(super) literals: &'s Literals<'t>,
}

/// Two columns that must be equal, each with the level of its tables.
pub(super) struct Equal {
    pub(super) left: (Column, u16),
    pub(super) right: (Column, u16),
}

/// A column and what it must be among.
type Among = (Column, Vec<Member>);

impl Conditions<'_, '_> {
    /// What must hold when this condition does.
    pub(super) fn read(&self, condition: &pb::Node) -> (Vec<Among>, Vec<Equal>) {
        let mut among = Vec::new();
        let mut equal = Vec::new();
        self.all(condition, &mut among, &mut equal);
        (among, equal)
    }

    fn all(&self, condition: &pb::Node, among: &mut Vec<Among>, equal: &mut Vec<Equal>) {
        match condition.node.as_ref() {
            Some(NodeEnum::BoolExpr(expression)) => match expression.boolop() {
                BoolExprType::AndExpr => {
                    for condition in &expression.args {
                        self.all(condition, among, equal);
                    }
                }
                BoolExprType::OrExpr => among.extend(self.any(&expression.args)),
                _ => {}
            },
            Some(NodeEnum::AExpr(expression)) => self.comparison(expression, among, equal),
            _ => {}
        }
    }

    /// Of an OR: the columns that every arm restricts, to the values of all arms.
    fn any(&self, arms: &[pb::Node]) -> Vec<Among> {
        let mut arms = arms.iter();
        let Some(first) = arms.next() else {
            return Vec::new();
        };
        let mut common = self.read(first).0;
        for arm in arms {
            let mut other = self.read(arm).0;
            common.retain_mut(|(column, members)| {
                let found = other.iter().position(|(other, _)| other == column);
                match found {
                    Some(at) => {
                        members.append(&mut other.swap_remove(at).1);
                        true
                    }
                    None => false,
                }
            });
            if common.is_empty() {
                break;
            }
        }
        common
    }

    fn comparison(&self, expression: &pb::AExpr, among: &mut Vec<Among>, equal: &mut Vec<Equal>) {
        let equals = matches!(
            names::parts(&expression.name).as_slice(),
            ["="] | ["pg_catalog", "="]
        );
        let (Some(left), Some(right), true) = (&expression.lexpr, &expression.rexpr, equals) else {
            return;
        };
        match expression.kind() {
            AExprKind::AexprOp => self.equal(left, right, among, equal),
            AExprKind::AexprOpAny => {
                if let (Some((column, _)), Some(members)) =
                    (self.column(left), self.literals.members(right))
                {
                    among.push((column, members));
                }
            }
            AExprKind::AexprIn => {
                if let Some(NodeEnum::List(list)) = &right.node {
                    self.is_in(left, &list.items, among);
                }
            }
            _ => {}
        }
    }

    fn equal(
        &self,
        left: &pb::Node,
        right: &pb::Node,
        among: &mut Vec<Among>,
        equal: &mut Vec<Equal>,
    ) {
        if let (Some(NodeEnum::RowExpr(left)), Some(NodeEnum::RowExpr(right))) =
            (&left.node, &right.node)
        {
            if left.args.len() == right.args.len() {
                for (left, right) in left.args.iter().zip(&right.args) {
                    // A row within a row would be compared as a whole; its parts are equal all the same.
                    self.equal(left, right, among, equal);
                }
            }
            return;
        }
        match (self.column(left), self.column(right)) {
            (Some(left), Some(right)) => equal.push(Equal { left, right }),
            (Some((column, _)), None) => self.value(column, right, among),
            (None, Some((column, _))) => self.value(column, left, among),
            (None, None) => {}
        }
    }

    fn value(&self, column: Column, node: &pb::Node, among: &mut Vec<Among>) {
        if let Some(members) = self.literals.list(std::slice::from_ref(node)) {
            among.push((column, members));
        }
    }

    fn is_in(&self, left: &pb::Node, items: &[pb::Node], among: &mut Vec<Among>) {
        if let Some((column, _)) = self.column(left) {
            if let Some(members) = self.literals.list(items) {
                among.push((column, members));
            }
            return;
        }
        let Some(NodeEnum::RowExpr(columns)) = &left.node else {
            return;
        };
        for (at, node) in columns.args.iter().enumerate() {
            let Some((column, _)) = self.column(node) else {
                continue;
            };
            let values = items.iter().map(|item| match &item.node {
                Some(NodeEnum::RowExpr(row)) if row.args.len() == columns.args.len() => {
                    let members = self.literals.list(row.args.get(at..=at)?)?;
                    members.into_iter().next()
                }
                _ => None,
            });
            if let Some(members) = values.collect() {
                among.push((column, members));
            }
        }
    }

    fn column(&self, node: &pb::Node) -> Option<(Column, u16)> {
        match node.node.as_ref()? {
            NodeEnum::ColumnRef(reference) => column(self.scopes, reference),
            _ => None,
        }
    }

    /// A value, or a column as it is.
    pub(super) fn operand_or_column(&self, node: &pb::Node) -> Operand {
        match self.column(node) {
            Some((column, _)) => Operand::Column(column),
            None => self.literals.operand(node),
        }
    }
}
