//! What the client was promised of the rows before they come: by a server that was asked about its statement, or when that was
//! described.

use std::sync::Arc;

use super::columns::is_same_enum;
use super::refused;
use crate::error::{Error, Fault};
use crate::protocol::rows::{Field, RowDescription};
use crate::protocol::sqlstate::SqlState;
use crate::types::enums::Enums;
use crate::types::shape::Shape;

/// What a server says of the rows of the client's own statement.
#[derive(Clone, Debug)]
pub struct Promised {
    /// RowDescription, a whole message.
    pub rows: Box<[u8]>,
    /// Of that server.
    pub enums: Arc<Enums>,
}

/// Gives columns the names and types that were promised, by servers with these enums. Errors: they have other types.
pub(super) fn as_promised<'a>(
    fields: &mut [Field<'a>],
    promised: RowDescription<'a>,
    enums: (&Enums, &Enums),
) -> Result<(), Error> {
    let differ = || refused("this query, whose result would have other types,");
    if fields.len() != promised.len() {
        return Err(differ());
    }
    for (field, promised) in fields.iter_mut().zip(promised.fields()) {
        let promised = promised?;
        if field.type_oid != promised.type_oid && !is_same_enum(enums, field, &promised, true) {
            return Err(differ());
        }
        *field = Field {
            format: field.format,
            ..promised
        };
    }
    Ok(())
}

/// The client was told before what rows there are. Errors: these are others.
pub(super) fn as_told(fields: &[Field<'_>], told: Shape) -> Result<(), Error> {
    let shape = Shape::of_fields(fields.iter().copied().map(Ok))?;
    match told.agrees(shape, false) {
        true => Ok(()),
        false => Err(stale_plan()),
    }
}

/// As PostgreSQL says it. Drivers know it by its routine, and prepare anew.
pub fn stale_plan() -> Error {
    let code = SqlState::FEATURE_NOT_SUPPORTED;
    let text = "cached plan must not change result type";
    Error::error(Fault::Client, code, text).routine("RevalidateCachedQuery")
}
