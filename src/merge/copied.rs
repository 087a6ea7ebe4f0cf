//! Data of COPY TO STDOUT of several legs as one: one header, one end.

use super::broken;
use crate::error::Error;
use crate::protocol::backend::tag;
use crate::protocol::copy::written::{HEADER, TRAILER};
use crate::protocol::wire::put_message;

/// COPY TO STDOUT.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    pub(super) binary: bool,
    /// Does each leg begin with a line of names?
    pub(super) names: bool,
    header_given: bool,
}

impl Copied {
    /// Data of a leg, its first or further ones.
    pub(super) fn put(
        &mut self,
        is_first: bool,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let header_given = std::mem::replace(&mut self.header_given, true);
        let mut data = body;
        if self.binary {
            if is_first && header_given {
                data = body
                    .get(HEADER.len()..)
                    .ok_or_else(|| broken("a binary COPY without a header"))?;
            }
            // Each leg has an end, alone or behind the header; the client gets one when all have sent theirs.
            if data == TRAILER || is_first && data.len() == HEADER.len() + TRAILER.len() {
                data = data.strip_suffix(TRAILER).unwrap_or(data);
            }
            if data.is_empty() {
                return Ok(());
            }
        } else if self.names && is_first && header_given {
            return Ok(());
        }
        put_message(out, tag::COPY_DATA, |out| out.extend_from_slice(data));
        Ok(())
    }

    /// All legs have sent theirs.
    pub(super) fn put_end(&self, out: &mut Vec<u8>) {
        if self.binary {
            put_message(out, tag::COPY_DATA, |out| out.extend_from_slice(TRAILER));
        }
    }
}
