//! The columns of a query, and hidden ones behind them for what the merge must know.

use std::ops::RangeTo;

use pg_query::protobuf::{ResTarget, SelectStmt, SortByDir, SortByNulls};
use pg_query::{Node, NodeEnum};

use super::local::targets;
use super::nodes::{column_name, inner, integer, is_star, lone_name, text, words, wrap};
use crate::error::Error;
use crate::merge::plan::{Column, OrderKey};
use crate::merge::refused;

/// Visible and hidden columns of one query.
pub(super) struct Outputs<'a> {
    targets: Vec<&'a ResTarget>,
    /// The first is the last column, see [`Column::FromEnd`].
    hidden: Vec<Node>,
    /// Those that are expressions of the query, by their text.
    added: Vec<(String, Column)>,
    /// May no hidden column be added?
    pub(super) fixed: bool,
}

/// How a clause speaks of a column.
#[derive(Clone, Copy)]
pub(super) enum Reference<'n> {
    /// As ORDER BY and DISTINCT ON do: a position, an output's name, or an expression.
    Output(&'n Node),
    /// An expression, where names are those of the tables.
    Input(&'n Node),
}

/// How a column was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There was one.
    Present,
    /// It was added, and is hidden.
    Added,
}

/// Is there a star among these outputs?
pub(super) fn has_star(select: &SelectStmt, range: RangeTo<usize>) -> bool {
    targets(select)
        .take(range.end)
        .any(|target| target.val.as_deref().is_some_and(is_star))
}

impl<'a> Outputs<'a> {
    pub(super) fn of(select: &'a SelectStmt) -> Self {
        Self {
            targets: targets(select).collect(),
            hidden: Vec::new(),
            added: Vec::new(),
            fixed: false,
        }
    }

    /// The visible columns' expressions.
    pub(super) fn expressions(&self) -> impl Iterator<Item = &'a Node> + '_ {
        self.targets
            .iter()
            .filter_map(|target| target.val.as_deref())
    }

    pub(super) fn target(&self, index: usize) -> Option<&'a ResTarget> {
        self.targets.get(index).copied()
    }

    /// The column of this reference, added if there is none.
    pub(super) fn column(&mut self, reference: Reference<'_>) -> Result<(Column, Found), Error> {
        let node = match reference {
            Reference::Output(node) | Reference::Input(node) => node,
        };
        if let Some(position) = integer(node) {
            // PostgreSQL refuses what is out of range, also in the shards' query.
            let index = usize::try_from(position)
                .ok()
                .and_then(|position| position.checked_sub(1));
            let index = index.ok_or_else(|| refused("a position below 1"))?;
            return Ok((Column::FromStart(index), Found::Present));
        }
        let named = match reference {
            Reference::Output(_) => lone_name(node).and_then(|name| self.named(name)),
            Reference::Input(_) => None,
        };
        if let Some(index) = named {
            let column = self.visible(index);
            let column =
                column.ok_or_else(|| refused("ORDER BY of an output between two stars"))?;
            return Ok((column, Found::Present));
        }
        let alike = self.alike(node)?;
        if let Some(column) = alike.and_then(|index| self.visible(index)) {
            return Ok((column, Found::Present));
        }
        let wanted = text(node)?;
        if let Some((_, column)) = self.added.iter().find(|(added, _)| *added == wanted) {
            return Ok((*column, Found::Present));
        }
        let column = self.hide(node.clone())?;
        self.added.push((wanted, column));
        Ok((column, Found::Added))
    }

    /// The first output of this name, unless that is a star.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        let mut targets = self.targets.iter();
        let named = targets.position(|target| column_name(target) == Some(name))?;
        let value = self.target(named)?.val.as_deref();
        (!value.is_some_and(is_star)).then_some(named)
    }

    /// The first output that is this expression.
    pub(super) fn alike(&self, node: &Node) -> Result<Option<usize>, Error> {
        let wanted = text(node)?;
        for (index, target) in self.targets.iter().enumerate() {
            let value = target.val.as_deref().filter(|value| !is_star(value));
            if value
                .map(text)
                .transpose()?
                .is_some_and(|text| text == wanted)
            {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Adds a hidden column.
    pub(super) fn hide(&mut self, value: Node) -> Result<Column, Error> {
        if self.fixed {
            return Err(refused(
                "ORDER BY of what is not in the output of SELECT DISTINCT",
            ));
        }
        let name = format!("__pgdog_{}", self.hidden.len() + 1);
        self.hidden
            .push(wrap(NodeEnum::ResTarget(Box::new(ResTarget {
                name,
                val: Some(Box::new(value)),
                ..ResTarget::default()
            }))));
        Ok(Column::FromEnd(self.hidden.len() - 1))
    }

    /// Where a visible column is. `None`: it has a star before it.
    fn visible(&self, index: usize) -> Option<Column> {
        let stars = self
            .targets
            .iter()
            .take(index)
            .any(|target| target.val.as_deref().is_some_and(is_star));
        (!stars).then_some(Column::FromStart(index))
    }

    /// Reads ORDER BY.
    pub(super) fn order(&mut self, clause: &[Node]) -> Result<Vec<OrderKey>, Error> {
        let mut order = Vec::with_capacity(clause.len());
        for sort in clause {
            let (node, key) = order_key(sort)?;
            order.push(key(self.column(Reference::Output(node))?.0));
        }
        Ok(order)
    }

    /// Adds the hidden columns to a shard's query. Gives their number.
    pub(super) fn append_to(self, select: &mut SelectStmt) -> usize {
        let count = self.hidden.len();
        select.target_list.extend(self.hidden.into_iter().rev());
        count
    }
}

/// The expression of one item of ORDER BY, and its key once the column is known.
pub(super) fn order_key(sort: &Node) -> Result<(&Node, impl Fn(Column) -> OrderKey), Error> {
    let Some(NodeEnum::SortBy(sort)) = inner(sort) else {
        return Err(refused("this kind of ORDER BY"));
    };
    let descending = match sort.sortby_dir() {
        SortByDir::SortbyDefault | SortByDir::SortbyAsc => false,
        SortByDir::SortbyDesc => true,
        _ => return Err(refused("ORDER BY … USING")),
    };
    let nulls_first = match sort.sortby_nulls() {
        SortByNulls::SortbyNullsFirst => true,
        SortByNulls::SortbyNullsLast => false,
        _ => descending,
    };
    let node = sort
        .node
        .as_deref()
        .ok_or_else(|| refused("this kind of ORDER BY"))?;
    // Other collations than C have been refused.
    let by_bytes = matches!(inner(node), Some(NodeEnum::CollateClause(collate)) if !words(&collate.collname).is_empty());
    let key = move |column| OrderKey {
        column,
        descending,
        nulls_first,
        by_bytes,
    };
    Ok((node, key))
}
