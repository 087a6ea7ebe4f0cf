//! What the rows of a statement look like: a client that was told once goes on reading them like that.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::oid;
use crate::protocol::rows::{Field, RowDescription};
use crate::protocol::wire::Malformed;

/// Number, names and types of a statement's columns, as two hashes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// With the OIDs of all types.
    exact: u64,
    /// With those of PostgreSQL's own types: others have another OID on each server.
    everywhere: u64,
}

impl Shape {
    /// Of the body of a RowDescription, or of a statement without rows (NoData). What cannot be read is like nothing else.
    pub fn of(body: Option<&[u8]>) -> Self {
        let Some(body) = body else {
            return Self::of_fields([]).unwrap_or_default();
        };
        let rows = RowDescription::parse(body);
        rows.and_then(|rows| Self::of_fields(rows.fields()))
            .unwrap_or_default()
    }

    /// Of these columns. Errors: one that cannot be read.
    pub fn of_fields<'a>(
        fields: impl IntoIterator<Item = Result<Field<'a>, Malformed>>,
    ) -> Result<Self, Malformed> {
        let (mut exact, mut everywhere) = (DefaultHasher::new(), DefaultHasher::new());
        for field in fields {
            let Field { name, type_oid, .. } = field?;
            (name, type_oid).hash(&mut exact);
            (name, type_oid.min(oid::FIRST_OF_USERS)).hash(&mut everywhere);
        }
        Ok(Self {
            exact: exact.finish(),
            everywhere: everywhere.finish(),
        })
    }

    /// Can who was told this read rows of the other one? `one_server`: both are of one server, or of copies of one.
    pub fn agrees(self, other: Self, one_server: bool) -> bool {
        match one_server {
            true => self == other,
            false => self.everywhere == other.everywhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_told_apart_by_name_type_and_number() {
        let field = |name: &'static [u8], type_oid| {
            Ok(Field {
                name,
                table_oid: 1,
                column: 1,
                type_oid,
                type_bytes: 4,
                type_modifier: -1,
                format: 0,
            })
        };
        let shape = |fields: &[(&'static [u8], u32)]| {
            let fields = fields.iter().map(|(name, oid)| field(name, *oid));
            Shape::of_fields(fields).unwrap()
        };
        let one = shape(&[(b"a", oid::INT4)]);
        assert!(one.agrees(one, true));
        for other in [
            shape(&[]),
            shape(&[(b"a", oid::INT8)]),
            shape(&[(b"b", oid::INT4)]),
            shape(&[(b"a", oid::INT4), (b"a", oid::INT4)]),
            shape(&[(b"a", oid::FIRST_OF_USERS)]),
            Shape::of(Some(b"no description")),
        ] {
            assert!(!one.agrees(other, true) && !one.agrees(other, false));
        }
        let (here, there) = (shape(&[(b"a", 20_000)]), shape(&[(b"a", 20_001)]));
        assert!(here.agrees(there, false) && !here.agrees(there, true));
        assert_eq!(Shape::of(None), shape(&[]));
    }
}
