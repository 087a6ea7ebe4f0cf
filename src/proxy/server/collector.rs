//! Statements of our own, and the replies to them.

use std::future::poll_fn;
use std::sync::Arc;

use cores::Buf;

use crate::protocol::backend::{tag, TransactionStatus};
use crate::protocol::error_fields::Fields;
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frame::{Frames, BODY_BYTES_MAX};
use crate::protocol::frontend;
use crate::protocol::rows::DataRow;
use crate::protocol::sqlstate::SqlState;
use crate::sql::settings::{Settings, Transition};

use super::{Lost, Recipient, Server, WHOLE_BYTES_MAX};

/// Why a statement of ours did not run.
#[derive(Debug)]
pub(crate) enum RunError {
    /// The body of the server's ErrorResponse.
    Server(Vec<u8>),
    /// The connection is gone.
    Lost(Lost),
}

/// Takes the replies to our own statements, up to a limit.
#[derive(Debug)]
pub(crate) struct Collector {
    bytes: Vec<u8>,
    bytes_max: usize,
    cut: bool,
}

impl Default for Collector {
    fn default() -> Self {
        Self::up_to(WHOLE_BYTES_MAX)
    }
}

impl Collector {
    /// For so many bytes.
    pub(crate) fn up_to(bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            bytes_max,
            cut: false,
        }
    }

    /// Shows all rows.
    pub(crate) fn each_row(&self, mut show: impl FnMut(&[Option<&[u8]>])) {
        let frames = Frames::new(&self.bytes, BODY_BYTES_MAX).filter_map(Result::ok);
        for frame in frames.filter(|frame| frame.tag == tag::DATA_ROW) {
            if let Ok(row) = DataRow::parse(frame.body) {
                let values: Vec<_> = row.values().map_while(Result::ok).collect();
                show(&values);
            }
        }
    }

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
        self.messages(&[tag::PARAMETER_STATUS, tag::NOTIFICATION_RESPONSE])
    }

    /// The messages with these tags.
    pub(crate) fn messages(&self, tags: &[u8]) -> Vec<u8> {
        let frames = Frames::new(&self.bytes, BODY_BYTES_MAX).filter_map(Result::ok);
        let found = frames.filter(|frame| tags.contains(&frame.tag));
        found.flat_map(|frame| frame.message).copied().collect()
    }

    /// Errors: there is an ErrorResponse.
    pub(crate) fn outcome(&self) -> Result<(), RunError> {
        match self.error() {
            Some(body) => Err(RunError::Server(body)),
            None => Ok(()),
        }
    }

    /// Is there the warning that a server gives when all of its processes are to end at once?
    pub(crate) fn warns_of_the_end(&self) -> bool {
        let frames = Frames::new(&self.bytes, BODY_BYTES_MAX).filter_map(Result::ok);
        let mut notices = frames.filter(|frame| frame.tag == tag::NOTICE_RESPONSE);
        notices.any(|notice| {
            let fields = Fields::parse(notice.body).ok();
            let code = fields.and_then(|fields| fields.code());
            matches!(
                code,
                Some(SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN)
            )
        })
    }

    /// Was there more than is kept?
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    /// The body of the first ErrorResponse.
    pub(crate) fn error(&self) -> Option<Vec<u8>> {
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
        let room = self.bytes_max - self.bytes.len();
        self.cut |= bytes.len() > room;
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn parameter(&mut self, _: &[u8], _: &[u8]) {}

    /// It would be taken for the answer, which came before.
    fn hears_farewell(&self, _: TransactionStatus) -> bool {
        false
    }
}

impl Server {
    /// Runs statements of ours and reads their replies to the end. The exchange must owe nothing.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<Collector, RunError> {
        self.run_text(sql.as_bytes()).await
    }

    /// The same for a text in the client's encoding.
    pub(crate) async fn run_text(&mut self, text: &[u8]) -> Result<Collector, RunError> {
        self.send_query(text);
        self.answer().await
    }

    /// The same, for somebody who looks at the replies, errors among them.
    pub(crate) async fn run_into(
        &mut self,
        text: &[u8],
        replies: &mut impl Recipient,
    ) -> Result<(), RunError> {
        self.send_query(text);
        self.answer_into(replies).await
    }

    fn send_query(&mut self, text: &[u8]) {
        let mut message = Vec::with_capacity(text.len() + 6);
        frontend::Query { text }.encode(&mut message);
        self.stream.send_vec(message);
        self.link.meter.sent(frontend::tag::QUERY);
        self.sent_to_ready(Owed::Results, Fate::Forward, 0);
    }

    /// Sends a statement of ours, whose [`answer`](Self::answer) is read later. The exchange must owe nothing.
    pub(crate) fn ask(&mut self, sql: &str) {
        self.send_query(sql.as_bytes());
    }

    /// Brings the server from the settings that it has to these. Errors of the server leave it as it was, or unsure:
    /// then it is marked so, and must be closed.
    pub(crate) async fn bring_to(
        &mut self,
        settings: &Arc<Settings>,
    ) -> Result<Option<Collector>, RunError> {
        let Some(Transition { encoding, text }) = Transition::between(&self.settings, settings)
        else {
            return Ok(None);
        };
        let mut message = Vec::with_capacity(encoding.len() + text.len() + 12);
        for text in [&encoding, &text] {
            if !text.is_empty() {
                frontend::Query { text }.encode(&mut message);
                self.sent_to_ready(Owed::Results, Fate::Forward, 0);
            }
        }
        self.stream.send_vec(message);
        let outcome = self.answer().await;
        if outcome.is_ok() && self.exchange.said_farewell() {
            return Err(RunError::Lost(Lost::Closed(None)));
        }
        if outcome.is_ok() {
            self.settings = Arc::clone(settings);
        } else if !encoding.is_empty() {
            self.exchange.note_farewell(); // in an encoding between the two
        }
        outcome.map(Some)
    }

    /// Reads the replies to what was asked.
    pub(crate) async fn answer(&mut self) -> Result<Collector, RunError> {
        let mut replies = Collector::default();
        self.answer_into(&mut replies).await?;
        replies.outcome().map(|()| replies)
    }

    /// The same, for somebody who looks at the replies, errors among them.
    pub(crate) async fn answer_into(
        &mut self,
        replies: &mut impl Recipient,
    ) -> Result<(), RunError> {
        self.drain(replies).await.map_err(RunError::Lost)
    }

    /// Reads until nothing is owed.
    pub(super) async fn drain(&mut self, to: &mut impl Recipient) -> Result<(), Lost> {
        let drained = self.take_all(to).await;
        self.count_traffic();
        drained.inspect_err(|_| self.link.meter.lost())
    }

    async fn take_all(&mut self, to: &mut impl Recipient) -> Result<(), Lost> {
        while !self.exchange.nothing_owed() || !self.replies.is_whole() {
            poll_fn(|cx| self.poll_take(to, cx)).await?;
        }
        Ok(())
    }
}
