//! The replies to statements of our own.

use cores::Buf;

use crate::protocol::backend::tag;
use crate::protocol::frame::{Frames, BODY_BYTES_MAX};

use super::{Lost, Recipient, WHOLE_BYTES_MAX};

/// Why a statement of ours did not run.
#[derive(Debug)]
pub(crate) enum RunError {
    /// The body of the server's ErrorResponse.
    Server(Vec<u8>),
    /// The connection is gone.
    Lost(Lost),
}

/// Takes the replies to our own statements, as far as they are short.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    bytes: Vec<u8>,
    cut: bool,
}

impl Collector {
    /// The first column of the first row, if it is there and not null.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.column(0)?
    }

    /// Is there a row?
    pub(crate) fn has_row(&self) -> bool {
        self.row().is_some()
    }

    /// This column of the first row, if it is there; the first is 0.
    pub(crate) fn column(&self, number: usize) -> Option<Option<&[u8]>> {
        let (_, mut rest) = self.row()?.split_first_chunk::<2>()?;
        let mut value = None;
        for _ in 0..=number {
            let (bytes, after) = rest.split_first_chunk::<4>()?;
            (value, rest) = match usize::try_from(i32::from_be_bytes(*bytes)) {
                Ok(bytes) => {
                    let (value, rest) = after.split_at_checked(bytes)?;
                    (Some(value), rest)
                }
                Err(_) => (None, after), // null
            };
        }
        Some(value)
    }

    /// The last command tag.
    pub(crate) fn tag(&self) -> Option<&[u8]> {
        let frames = Frames::new(&self.bytes, BODY_BYTES_MAX).filter_map(Result::ok);
        let complete = frames.filter(|frame| frame.tag == tag::COMMAND_COMPLETE);
        complete.last()?.body.strip_suffix(b"\0")
    }

    /// The body of the first DataRow.
    fn row(&self) -> Option<&[u8]> {
        let mut frames = Frames::new(&self.bytes, BODY_BYTES_MAX).filter_map(Result::ok);
        let row = frames.find(|frame| frame.tag == tag::DATA_ROW)?;
        Some(row.body)
    }

    /// What came besides the answer, and is the client's: ParameterStatus and NotificationResponse.
    pub(crate) fn asides(&self) -> Vec<u8> {
        let mut asides = Vec::new();
        let mut at = 0;
        let mut frames = Frames::new(&self.bytes, BODY_BYTES_MAX);
        while let Some(Ok(frame)) = frames.next() {
            if matches!(
                frame.tag,
                tag::PARAMETER_STATUS | tag::NOTIFICATION_RESPONSE
            ) {
                asides.extend_from_slice(self.bytes.get(at..frames.at()).unwrap_or_default());
            }
            at = frames.at();
        }
        asides
    }

    /// Was there more than is kept?
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    /// The body of the first ErrorResponse.
    pub(super) fn error(&self) -> Option<Vec<u8>> {
        let mut frames = Frames::new(&self.bytes, BODY_BYTES_MAX).filter_map(Result::ok);
        frames
            .find(|frame| frame.tag == tag::ERROR_RESPONSE)
            .map(|frame| frame.body.to_vec())
    }
}

impl Recipient for Collector {
    fn forward(&mut self, buf: Buf) {
        self.forward_copy(&buf);
    }

    fn forward_copy(&mut self, bytes: &[u8]) {
        let room = WHOLE_BYTES_MAX - self.bytes.len();
        self.cut |= bytes.len() > room;
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn parameter(&mut self, _: &[u8], _: &[u8]) {}
}
