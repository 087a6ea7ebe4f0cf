//! A client's request as a whole: a Query, or extended messages up to Sync or Flush. Routing looks at all of it, since
//! all of it goes to the same servers.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>

use super::frame::{peek, FrameError, Header, HEADER_BYTES};
use super::frontend::tag;

/// What is there of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole {
        /// Its bytes.
        bytes: usize,
        /// How it ends.
        end: BatchEnd,
    },
    /// Only its beginning.
    Partial {
        /// Where to go on: all messages before it are there.
        at: usize,
        /// Bytes that have to be there before it is worth looking again.
        bytes_wanted: usize,
    },
}

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchEnd {
    /// A Query or FunctionCall, which is a request of its own: ReadyForQuery will come.
    Simple,
    /// Sync: ReadyForQuery will come.
    Sync,
    /// Flush: more of the same batch follows.
    Flush,
    /// Terminate, or a message that has no place in a request: the messages before it are all there are.
    Cut,
}

/// How far the request at the front of `buffer` goes.
///
/// Errors: a length that cannot be, or a body above `body_bytes_max`.
pub fn extent(buffer: &[u8], body_bytes_max: usize) -> Result<Extent, FrameError> {
    extent_from(0, buffer, body_bytes_max)
}

/// The same, where an earlier look has come as far as `at`.
///
/// Errors: as of [`extent`].
pub fn extent_from(
    mut at: usize,
    buffer: &[u8],
    body_bytes_max: usize,
) -> Result<Extent, FrameError> {
    loop {
        let rest = buffer.get(at..).unwrap_or_default();
        let Some(header) = peek(rest, body_bytes_max)? else {
            let bytes_wanted = at + HEADER_BYTES;
            return Ok(Extent::Partial { at, bytes_wanted });
        };
        let end = match header.tag {
            // Behind extended messages that nobody has synchronised a Query is still a request of its own.
            tag::QUERY | tag::FUNCTION_CALL if at == 0 => BatchEnd::Simple,
            tag::SYNC => BatchEnd::Sync,
            tag::FLUSH => BatchEnd::Flush,
            tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE => {
                let bytes_wanted = at + header.frame_bytes();
                if buffer.len() < bytes_wanted {
                    return Ok(Extent::Partial { at, bytes_wanted });
                }
                at = bytes_wanted;
                continue;
            }
            _ => {
                return Ok(Extent::Whole {
                    bytes: at,
                    end: BatchEnd::Cut,
                })
            }
        };
        let bytes = at + header.frame_bytes();
        return Ok(match buffer.len() < bytes {
            true => Extent::Partial {
                at,
                bytes_wanted: bytes,
            },
            false => Extent::Whole { bytes, end },
        });
    }
}

/// The messages of a request that is all there: header and body.
pub fn messages(batch: &[u8]) -> impl Iterator<Item = (Header, &[u8])> + Clone {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let header = peek(rest, rest.len()).ok().flatten()?;
        let (frame, after) = rest.split_at_checked(header.frame_bytes())?;
        rest = after;
        Some((header, frame.get(HEADER_BYTES..)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frontend::{Bind, Execute, Parse, Query, FLUSH, SYNC, TERMINATE};

    fn extended(end: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Parse::encode_content(&mut bytes, b"", b"SELECT 1\0\0\0");
        Bind::encode(&mut bytes, b"", b"", [], [], []);
        Execute {
            portal: b"",
            rows_max: 0,
        }
        .encode(&mut bytes);
        bytes.extend_from_slice(end);
        bytes
    }

    fn query(text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Query { text }.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_request_ends_where_the_server_answers() {
        let of = |bytes: &[u8]| extent(bytes, 1000).unwrap();
        let whole = |bytes, end| Extent::Whole { bytes, end };
        let simple = query(b"SELECT 1");
        let twice = [&simple[..], &simple].concat();
        assert_eq!(of(&twice), whole(simple.len(), BatchEnd::Simple));
        for (end, name) in [(&SYNC, BatchEnd::Sync), (&FLUSH, BatchEnd::Flush)] {
            let batch = extended(end);
            let more = [&batch[..], &batch].concat();
            assert_eq!(of(&more), whole(batch.len(), name));
        }
        let open = extended(b"");
        for cut in [&TERMINATE[..], &simple] {
            let bytes = [&open[..], cut].concat();
            assert_eq!(of(&bytes), whole(open.len(), BatchEnd::Cut));
        }
    }

    #[test]
    fn of_a_request_that_is_not_all_there_more_is_wanted() {
        for batch in [query(b"SELECT 1"), extended(&SYNC), extended(&FLUSH)] {
            let mut at = 0;
            while at < batch.len() {
                let found = extent(&batch[..at], 1000).unwrap();
                let Extent::Partial {
                    at: seen,
                    bytes_wanted,
                } = found
                else {
                    panic!("{at} of {} bytes", batch.len());
                };
                // Who goes on from there finds the same.
                for more in at..=batch.len() {
                    let more = &batch[..more];
                    assert_eq!(extent_from(seen, more, 1000), extent(more, 1000));
                }
                assert!(bytes_wanted > at && bytes_wanted <= batch.len());
                at = bytes_wanted;
            }
            assert!(matches!(
                extent(&batch, 1000).unwrap(),
                Extent::Whole { .. }
            ));
        }
        assert!(extent(b"Q\xff\xff\xff\xff", 1000).is_err());
        assert!(extent(b"P\0\x0f\xff\xff", 1000).is_err());
    }

    #[test]
    fn its_messages_are_found_in_order() {
        let batch = extended(&SYNC);
        let tags: Vec<u8> = messages(&batch).map(|(header, _)| header.tag).collect();
        assert_eq!(tags, b"PBES");
        let (_, body) = messages(&batch).next().unwrap();
        assert_eq!(Parse::parse(body).unwrap().query, b"SELECT 1");
    }
}
