//! Prepared statements of a client that goes to another core: each core has its own copy of a text.

use std::collections::HashMap;
use std::rc::Rc;

use super::{ClientStatements, Id, Kept, Named, Names, Statement, Statements};
use crate::types::shape::Shape;

/// A statement between two cores.
#[derive(Debug)]
pub struct MovedStatement {
    id: Id,
    bytes: Box<[u8]>,
    definition: usize,
    text: usize,
}

/// A client's prepared statements between two cores, by their names.
#[derive(Debug, Default)]
pub struct MovedStatements(Vec<(Box<[u8]>, MovedStatement, Option<Shape>)>);

impl From<&Statement> for MovedStatement {
    fn from(statement: &Statement) -> Self {
        Self {
            id: statement.id,
            bytes: statement.bytes.clone(),
            definition: statement.definition,
            text: statement.text,
        }
    }
}

impl Statements {
    /// Takes a statement in that a client has brought. It is kept whatever there is already: it was within the bounds of the core
    /// that it comes from.
    pub fn take_in(&mut self, moved: MovedStatement) -> Rc<Statement> {
        if let Some(kept) = self.kept.get(&*moved.bytes) {
            return Rc::clone(&kept.0);
        }
        let statement = Rc::new(Statement {
            id: moved.id,
            bytes: moved.bytes,
            definition: moved.definition,
            text: moved.text,
            effects: Default::default(),
        });
        if self.bytes + statement.size() > self.sweep_at {
            self.sweep();
        }
        self.bytes += statement.size();
        self.kept.insert(Kept(Rc::clone(&statement)));
        statement
    }
}

impl ClientStatements {
    /// Is everything that the client has said of them answered?
    pub fn are_settled(&self) -> bool {
        self.syncs == 0 && self.names.as_ref().is_none_or(|n| n.unanswered.is_empty())
    }

    /// For another core. What is not settled is lost.
    pub fn moved(self) -> MovedStatements {
        let named = self.names.map(|names| names.statements).into_iter();
        let moved = named
            .flatten()
            .map(|(name, named)| (name, (&*named.statement).into(), named.told));
        MovedStatements(moved.collect())
    }

    /// What a client has brought from another core.
    pub fn arrived(moved: MovedStatements, kept: &mut Statements) -> Self {
        let statements: HashMap<_, _> = moved
            .0
            .into_iter()
            .map(|(name, statement, told)| {
                let statement = kept.take_in(statement);
                (name, Named { statement, told })
            })
            .collect();
        let names = (!statements.is_empty()).then(|| {
            Box::new(Names {
                any_told: statements.values().any(|named| named.told.is_some()),
                statements,
                unanswered: Default::default(),
            })
        });
        Self { names, syncs: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = b"SELECT 1\0\0\0";

    #[test]
    fn statements_mean_the_same_on_another_core() {
        let (mut here, mut there) = (Statements::new(1000), Statements::new(1000));
        let mut client = ClientStatements::default();
        client
            .prepare(b"a", here.intern(ONE, b"context").unwrap())
            .unwrap();
        assert!(!client.are_settled());
        client.succeeded();
        assert!(client.are_settled());
        let id = client.get(b"a").unwrap().id();
        let known = there.intern(ONE, b"context").unwrap();

        let client = ClientStatements::arrived(client.moved(), &mut there);
        let found = client.get(b"a").unwrap();
        assert_eq!(found.id(), id);
        assert!(Rc::ptr_eq(found, &known), "each text once");
        assert!(client.get(b"b").is_err());
        assert!(client.are_settled());
    }

    #[test]
    fn what_is_brought_is_kept_although_there_is_no_room() {
        let (mut here, mut there) = (Statements::new(1000), Statements::new(0));
        let mut client = ClientStatements::default();
        client.prepare(b"", here.intern(ONE, b"").unwrap()).unwrap();
        client.succeeded();
        let client = ClientStatements::arrived(client.moved(), &mut there);
        assert_eq!(client.get(b"").unwrap().definition(), ONE);
        assert_eq!(there.bytes(), client.get(b"").unwrap().size());
    }

    #[test]
    fn a_client_with_a_sync_under_way_is_not_settled() {
        let mut client = ClientStatements::default();
        client.sync();
        assert!(!client.are_settled());
        client.ready();
        assert!(client.are_settled());
    }
}
