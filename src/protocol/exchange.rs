//! The conversation with one server: which replies it owes, and what becomes of each.
//!
//! Every message sent is noted with [`Exchange::sent`], every reply shown to [`Exchange::received`], which answers
//! whether the client gets it. A server is at rest when nothing is owed and it said ReadyForQuery idle after all
//! that was sent.
//!
//! ```text
//!              Parse  Bind  Execute  Sync        sent, in order
//!   owed:     [ 1      2     D* C     Z ]
//!              ▲ the head: what the next reply must answer
//!   an error:  1 2 E            ─►  [ Z ]        the server skips to Sync, and so do we
//! ```
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html>

use std::collections::VecDeque;

use super::backend::TransactionStatus;

/// What a message that we send makes the server answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// Parse: ParseComplete.
    ParseComplete,
    /// Bind: BindComplete.
    BindComplete,
    /// Close: CloseComplete.
    CloseComplete,
    /// Describe: ParameterDescription for a statement, then RowDescription or NoData.
    Description,
    /// Execute: rows or COPY data, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execution,
    /// Query or FunctionCall: anything up to ReadyForQuery.
    Results,
    /// Sync: ReadyForQuery.
    Ready,
    /// CopyDone or CopyFail: nothing of its own; it ends what the server reads as COPY data.
    CopyEnd,
}

/// What becomes of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The client gets it.
    Forward,
    /// It answers a message of ours: nobody gets it.
    Drop,
    /// The server was never asked: the client gets one made by us when its turn comes.
    Synthesize,
}

/// The server said something that answers nothing we sent: it and we are out of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfStep {
    /// The type byte of the message.
    pub tag: u8,
}

/// Where the extended protocol is between two Syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batch {
    /// Nothing was sent after the last Sync.
    Synced,
    Open,
    /// And something was executed for the client.
    Executed,
    /// After an error the server ignores everything up to a Sync that we have yet to send.
    Skipping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    None,
    /// The server reads COPY data, and ignores Flush and Sync among it.
    In,
    /// CopyBothResponse: replication, which never ends in order.
    Both,
}

/// A mark that comes back with the answer to a message; what it means is up to the sender.
pub type Note = u8;

#[derive(Clone, Copy, Debug)]
struct Entry {
    owed: Owed,
    fate: Fate,
    note: Note,
}

/// What one server owes. See the module's text.
#[derive(Debug)]
pub struct Exchange {
    owed: VecDeque<Entry>,
    status: TransactionStatus,
    /// See [`Self::take_note`].
    note: Note,
    /// See [`Self::take_skipped`].
    skipped: Note,
    /// The server has said an unprompted error: it is about to close.
    farewell: bool,
    /// Syncs and Queries that were noted as owed a ReadyForQuery, and turned out to be ignored.
    ignored_syncs: u32,
    batch: Batch,
    copy: Copy,
    /// See [`Self::hide`].
    hidden: bool,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            owed: VecDeque::new(),
            status: TransactionStatus::Idle,
            note: 0,
            skipped: 0,
            farewell: false,
            ignored_syncs: 0,
            batch: Batch::Synced,
            copy: Copy::None,
            hidden: false,
        }
    }
}

impl Exchange {
    /// Replies that may be owed before [`Exchange::is_full`] asks for a pause: the depth of a pipeline.
    pub const OWED_MAX: usize = 16_384;

    /// Nothing is owed, no transaction is open, and the server has synchronised after all we sent.
    #[inline]
    pub fn at_rest(&self) -> bool {
        self.owed.is_empty()
            && self.status == TransactionStatus::Idle
            && self.batch == Batch::Synced
    }

    /// Nothing is owed right now; a transaction may be open.
    #[inline]
    pub fn nothing_owed(&self) -> bool {
        self.owed.is_empty()
    }

    /// The status of the last ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// A batch was begun that no Sync has ended.
    pub fn is_unsynced(&self) -> bool {
        self.batch != Batch::Synced
    }

    /// Does what the client has executed next begin a transaction? `None`: that depends on answers that have not come.
    pub fn begins_transaction(&self) -> Option<bool> {
        if matches!(self.batch, Batch::Executed | Batch::Skipping) {
            return Some(false);
        }
        // From the end: batches before this one end right in front of it.
        let ready = |entry: &Entry| matches!(entry.owed, Owed::Ready | Owed::Results);
        let mut owed = self.owed.iter().rev();
        let open = owed.any(|entry| entry.fate == Fate::Forward && ready(entry));
        (!open).then_some(self.status == TransactionStatus::Idle)
    }

    /// Nothing is owed, and the server has synchronised after all we sent; a transaction may be open.
    #[inline]
    pub fn is_resting(&self) -> bool {
        self.owed.is_empty() && self.batch == Batch::Synced
    }

    /// After an error the server ignores everything up to a Sync that was not sent yet.
    #[inline]
    pub fn is_skipping(&self) -> bool {
        self.batch == Batch::Skipping
    }

    /// Take no more from the client until replies have come.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.owed.len() >= Self::OWED_MAX
    }

    /// The server reads COPY data, and ignores a Sync that comes now.
    #[inline]
    pub fn copying_in(&self) -> bool {
        self.copy == Copy::In
    }

    /// The server speaks the streaming replication protocol, and its connection will never be fit for another use.
    pub fn replicating(&self) -> bool {
        self.copy == Copy::Both
    }

    /// An error of severity FATAL was received: the server closes after it.
    pub fn note_farewell(&mut self) {
        self.farewell = true;
    }

    /// Has the server announced that it is about to close?
    pub fn said_farewell(&self) -> bool {
        self.farewell
    }

    /// The note of the message that the last ParseComplete, CloseComplete, RowDescription, NoData, CommandComplete or
    /// PortalSuspended answered; 0 when taken.
    #[inline]
    pub fn take_note(&mut self) -> Note {
        std::mem::take(&mut self.note)
    }

    /// The notes of the messages that the last ErrorResponse has left undone, all together; 0 when taken.
    #[inline]
    pub fn take_skipped(&mut self) -> Note {
        std::mem::take(&mut self.skipped)
    }

    /// Has the message whose answer is next one of these notes?
    pub fn is_noted(&self, note: Note) -> bool {
        self.owed
            .front()
            .is_some_and(|entry| entry.note & note != 0)
    }

    /// Is an answer owed to a message with this note?
    pub fn owes(&self, note: Note) -> bool {
        self.owed.iter().any(|entry| entry.note & note != 0)
    }

    /// How many ReadyForQuery are owed.
    pub fn batches_owed(&self) -> usize {
        let ready = |entry: &&Entry| matches!(entry.owed, Owed::Ready | Owed::Results);
        self.owed.iter().filter(ready).count()
    }

    /// The next reply, whatever it is, is for nobody.
    pub fn drop_next(&mut self) {
        if let Some(entry) = self.owed.front_mut() {
            entry.fate = Fate::Drop;
        }
    }

    /// Within a Query: are the results of the next statement for nobody? So it is until the next call, or an error.
    pub fn hide(&mut self, hidden: bool) {
        self.hidden = hidden;
    }

    /// How many Syncs and Queries are owed a ReadyForQuery no more since the last call: Syncs amid COPY data, Queries
    /// skipped after an error.
    #[inline]
    pub fn take_ignored_syncs(&mut self) -> u32 {
        std::mem::take(&mut self.ignored_syncs)
    }

    /// Notes that a message was sent, or, for [`Fate::Synthesize`], that it was not. False: the server ignores it,
    /// and answers nothing.
    #[inline]
    pub fn sent(&mut self, owed: Owed, fate: Fate) -> bool {
        self.sent_with(owed, fate, 0)
    }

    /// As [`Self::sent`], with a note that comes back with the answer.
    #[inline]
    pub fn sent_with(&mut self, owed: Owed, fate: Fate, note: Note) -> bool {
        match owed {
            // Better not sent at all: by the time it arrives the COPY may have failed, and then it counts.
            Owed::Ready if self.copy == Copy::In => return false,
            Owed::Ready => self.batch = Batch::Synced,
            _ if self.batch == Batch::Skipping => return false,
            Owed::Results => self.batch = Batch::Synced,
            Owed::CopyEnd if self.copy == Copy::In => {
                self.copy = Copy::None;
                return false;
            }
            // The server has said already that it does not want COPY data.
            Owed::CopyEnd if self.owed.is_empty() => return false,
            Owed::CopyEnd => {}
            Owed::Execution if fate == Fate::Forward => self.batch = Batch::Executed,
            Owed::ParseComplete
            | Owed::BindComplete
            | Owed::CloseComplete
            | Owed::Description
            | Owed::Execution => {
                if fate != Fate::Synthesize && self.batch == Batch::Synced {
                    self.batch = Batch::Open;
                }
            }
        }
        self.owed.push_back(Entry { owed, fate, note });
        true
    }

    /// Is the next reply ours to make?
    #[inline]
    pub fn has_synthetic(&self) -> bool {
        self.owed
            .front()
            .is_some_and(|entry| entry.fate == Fate::Synthesize)
    }

    /// The next reply that is ours to make, in its turn: ParseComplete or CloseComplete.
    #[inline]
    pub fn next_synthetic(&mut self) -> Option<Owed> {
        if !self.has_synthetic() {
            return None;
        }
        let entry = self.owed.pop_front()?;
        self.note = entry.note;
        Some(entry.owed)
    }

    /// Shows a message of the server. `first` is the first byte of its body (ReadyForQuery's status).
    ///
    /// NoticeResponse, NotificationResponse and ParameterStatus may come at any time and change nothing.
    ///
    /// Errors: the message answers nothing that was sent; the connection is of no further use.
    #[inline]
    pub fn received(&mut self, tag: u8, first: Option<u8>) -> Result<Fate, OutOfStep> {
        let Some(&Entry {
            owed: head,
            fate,
            note,
        }) = self.owed.front()
        else {
            return self.unprompted(tag);
        };
        match (tag, head) {
            (b'C' | b'D' | b'I' | b'T', Owed::Results) if self.hidden => {
                self.note = note;
                Ok(Fate::Drop)
            }
            (b'N', Owed::Results) if self.hidden => Ok(Fate::Drop),
            (b'D' | b'd', Owed::Execution | Owed::Results) => Ok(fate),
            (b'Z', Owed::Ready | Owed::Results) => {
                self.hidden = false;
                self.status = first
                    .and_then(|byte| TransactionStatus::parse(&[byte]).ok())
                    .ok_or(OutOfStep { tag })?;
                self.copy = Copy::None;
                self.pop();
                Ok(fate)
            }
            (b'1', Owed::ParseComplete) | (b'3', Owed::CloseComplete) => {
                self.pop();
                self.note = note;
                Ok(fate)
            }
            (b'C', Owed::Execution) => {
                self.pop();
                self.note = note;
                Ok(fate)
            }
            (b'C', Owed::Results) => {
                self.note = note;
                Ok(fate)
            }
            (b's', Owed::Execution) => {
                self.pop();
                self.note = note;
                Ok(fate)
            }
            (b'T' | b'n', Owed::Description) => {
                self.pop();
                self.note = note;
                Ok(fate)
            }
            (b'I', Owed::Execution) | (b'2', Owed::BindComplete) => {
                self.pop();
                Ok(fate)
            }
            (b't', Owed::Description)
            | (b'I' | b'T' | b'V', Owed::Results)
            | (b'H' | b'c', Owed::Execution | Owed::Results)
            | (b'N' | b'S', _) => Ok(fate),
            // The client listens, whatever is asked for it.
            (b'A', _) => Ok(Fate::Forward),
            (b'G', Owed::Execution | Owed::Results) => {
                self.begin_copy_in();
                Ok(fate)
            }
            (b'W', Owed::Execution | Owed::Results) => {
                self.copy = Copy::Both;
                Ok(fate)
            }
            (b'E', _) => self.failed(head, fate),
            _ => Err(OutOfStep { tag }),
        }
    }

    fn unprompted(&mut self, tag: u8) -> Result<Fate, OutOfStep> {
        match tag {
            // An error without a question is a farewell: the server is about to close.
            b'E' => {
                self.farewell = true;
                Ok(Fate::Forward)
            }
            b'N' | b'A' | b'S' => Ok(Fate::Forward),
            _ => Err(OutOfStep { tag }),
        }
    }

    /// The head is answered.
    fn pop(&mut self) {
        self.owed.pop_front();
        while self
            .owed
            .front()
            .is_some_and(|entry| entry.owed == Owed::CopyEnd)
        {
            self.owed.pop_front();
        }
    }

    /// The server reads COPY data from here on: whatever Syncs were sent ahead of their end it ignores.
    fn begin_copy_in(&mut self) {
        let end = self
            .owed
            .iter()
            .position(|entry| entry.owed == Owed::CopyEnd);
        self.copy = if end.is_some() { Copy::None } else { Copy::In };
        let until = end.unwrap_or(self.owed.len());
        let (mut at, mut ignored_syncs) = (0, 0);
        self.owed.retain(|entry| {
            let sync = at < until && entry.owed == Owed::Ready;
            let kept = !sync && Some(at) != end;
            ignored_syncs += u32::from(sync);
            at += 1;
            kept
        });
        self.ignored_syncs += ignored_syncs;
        let extended = self
            .owed
            .front()
            .is_some_and(|entry| entry.owed == Owed::Execution);
        if extended && !self.owed.iter().any(|entry| entry.owed == Owed::Ready) {
            self.batch = Batch::Executed;
        }
    }

    /// An error ends the batch: the server skips to Sync. After a Query it says ReadyForQuery by itself.
    fn failed(&mut self, head: Owed, fate: Fate) -> Result<Fate, OutOfStep> {
        self.hidden = false;
        match head {
            Owed::Results => {
                self.copy = Copy::None;
                return Ok(fate);
            }
            // The server could not even synchronise (a deferred constraint at commit): ReadyForQuery follows.
            Owed::Ready => return Ok(fate),
            _ => {}
        }
        self.copy = Copy::None;
        while let Some(entry) = self.owed.front() {
            if entry.owed == Owed::Ready {
                // An error in a message of ours is an error in what it was sent for: the client hears of it, unless
                // the whole batch is ours.
                return Ok(entry.fate);
            }
            self.ignored_syncs += u32::from(entry.owed == Owed::Results);
            self.skipped |= entry.note;
            self.owed.pop_front();
        }
        self.batch = Batch::Skipping;
        Ok(Fate::Forward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: Fate = Fate::Forward;

    /// Plays a script: `>x` sends, `<x` receives; `x` names are those of the protocol's type bytes.
    fn play(script: &str) -> (Exchange, Vec<Result<Fate, OutOfStep>>) {
        let mut exchange = Exchange::default();
        let mut fates = Vec::new();
        for step in script.split_whitespace() {
            let (direction, what) = step.split_at(1);
            let (what, fate) = match what.strip_suffix('!') {
                Some(what) => (what, Fate::Drop),
                None => match what.strip_suffix('?') {
                    Some(what) => (what, Fate::Synthesize),
                    None => (what, F),
                },
            };
            if direction == ">" {
                let owed = match what {
                    "P" => Owed::ParseComplete,
                    "B" => Owed::BindComplete,
                    "C" => Owed::CloseComplete,
                    "D" => Owed::Description,
                    "E" => Owed::Execution,
                    "Q" => Owed::Results,
                    "S" => Owed::Ready,
                    "c" | "f" => Owed::CopyEnd,
                    "H" => continue, // Flush is answered by nothing
                    other => panic!("no such message: {other}"),
                };
                exchange.sent(owed, fate);
            } else {
                let bytes = what.as_bytes();
                fates.push(exchange.received(bytes[0], bytes.get(1).copied()));
                while exchange.next_synthetic().is_some() {
                    fates.push(Ok(Fate::Synthesize));
                }
            }
        }
        (exchange, fates)
    }

    #[test]
    fn rests_only_when_everything_is_answered() {
        // (script, at rest at the end)
        let cases = [
            ("", true),
            (">Q", false),
            (">Q <T <D <C", false),
            (">Q <T <D <C <ZI", true),
            (">Q <C <ZT", false),
            (">Q <C <ZT >Q <C <ZI", true),
            (">Q <E <ZI", true),
            (">Q <E <ZE", false),
            (">Q <T <D <C <C <I <ZI", true),
            (">P >B >D >E >S <1 <2 <T <D <D <C <ZI", true),
            (">P >D >H <1 <t <T", false),
            (">P >D >H <1 <t <n >S <ZI", true),
            (">B >E >S <2 <s <ZT", false),
            // A portal with a row limit inside an implicit transaction: nothing owed, but not synchronised.
            (">P >B >E >H <1 <2 <D <s", false),
            (">P >B >E >H <1 <2 <D <s >E >S <D <C <ZI", true),
            // Two batches in one pipeline, the first fails.
            (">P >B >E >S >B >E >S <1 <E <ZI <2 <C <ZI", true),
            // An error before the Sync was sent: what comes until then is ignored.
            (">P >H <E >B >E", false),
            (">P >H <E >B >E >S <ZI", true),
            (">P >H <E >Q >S <ZI", true),
            // A failed Sync (deferred constraint).
            (">P >B >E >S <1 <2 <C <E <ZI", true),
            // Function call.
            (">Q <V <ZI", true),
            // Empty query.
            (">Q <I <ZI", true),
            (">P >B >E >S <1 <2 <I <ZI", true),
        ];
        for (script, at_rest) in cases {
            let (exchange, fates) = play(script);
            assert!(fates.iter().all(Result::is_ok), "{script}: {fates:?}");
            assert_eq!(exchange.at_rest(), at_rest, "{script}: {exchange:?}");
        }
    }

    #[test]
    fn notifications_are_the_clients_whatever_is_owed() {
        let (_, fates) = play(">P! <A <N <1 >Q <A");
        assert_eq!(fates, [Ok(F), Ok(Fate::Drop), Ok(Fate::Drop), Ok(F)]);
    }

    #[test]
    fn a_transaction_begins_with_what_is_executed() {
        let cases = [
            ("", Some(true)),
            (">P >B >D >C", Some(true)),
            // What we execute begins nothing for the client.
            (">P! >B! >E!", Some(true)),
            (">Q!", Some(true)),
            (">C?", Some(true)),
            (">P >B >E", Some(false)),
            (">P >B >E >P >B", Some(false)),
            (">P >B >E >E!", Some(false)),
            (">B >E <2 <C", Some(false)),
            // Where that leaves it is not known yet.
            (">B >E >S", None),
            (">Q", None),
            (">Q >P >B", None),
            (">Q >P >B >E", Some(false)),
            (">Q <C <ZI", Some(true)),
            (">Q <C <ZT", Some(false)),
            (">Q <C <ZT >P", Some(false)),
            (">Q <C <ZT >Q", None),
            (">B >E >S <2 <G", Some(false)),
            (">B >E <E", Some(false)),
        ];
        for (script, begins) in cases {
            let (exchange, _) = play(script);
            assert_eq!(exchange.begins_transaction(), begins, "{script}");
        }
    }

    #[test]
    fn copy_in_ignores_syncs_until_its_data_ends() {
        let cases = [
            // Simple protocol.
            (">Q <G", false),
            (">Q <G >c <C <ZI", true),
            (">Q <G >f <E <ZI", true),
            // The server fails while the client streams; its CopyDone comes late and means nothing.
            (">Q <G <E <ZI", true),
            (">Q <G <E <ZI >c", true),
            // CopyDone was on its way when the error came.
            (">Q <G >c <E <ZI", true),
            (">Q >c <E <ZI", true),
            // All sent ahead.
            (">Q >c <G <C <ZI", true),
            (">Q >c >Q <G <C <ZI <C <ZI", true),
            // libpq: Sync ahead of the data is ignored, the one after it counts.
            (">P >B >D >E >S <1 <2 <n <G >c >S <C <ZI", true),
            (">P >B >D >E >S <1 <2 <n <G >c", false),
            (">P >B >D >E >S <1 <2 <n <G", false),
            (">P >B >E >S >c >S <1 <2 <G <C <ZI", true),
            // It fails amid the data: the server waits for a Sync.
            (">P >B >E >S <1 <2 <G <E", false),
            (">P >B >E >S <1 <2 <G <E >c >S <ZI", true),
            (">P >B >E <1 <2 <G >S <E >f >S <ZI", true),
            // It fails before it begins: that Sync counts.
            (">P >B >E >S <1 <2 <E <ZI", true),
            // Out.
            (">Q <H <d <d <c <C <ZI", true),
            (">P >B >E >S <1 <2 <H <d <c <C <ZI", true),
        ];
        for (script, at_rest) in cases {
            let (exchange, fates) = play(script);
            assert!(fates.iter().all(Result::is_ok), "{script}: {fates:?}");
            assert_eq!(exchange.at_rest(), at_rest, "{script}: {exchange:?}");
        }
    }

    #[test]
    fn replies_to_our_own_messages_do_not_reach_the_client() {
        use Fate::{Drop, Forward, Synthesize};

        let cases: [(&str, &[Fate]); 5] = [
            (">Q! >Q <C <ZI <C <ZI", &[Drop, Drop, Forward, Forward]),
            (
                ">P! >B >E >S <1 <2 <C <ZI",
                &[Drop, Forward, Forward, Forward],
            ),
            (
                ">B >P? >E >S <2 <C <ZI",
                &[Forward, Synthesize, Forward, Forward],
            ),
            // Our Parse of the client's statement fails: the client hears it, once.
            (">P! >B >E >S <E <ZI", &[Forward, Forward]),
            // What was not sent is not answered after an error either.
            (">B >P? >E >S <E <ZI", &[Forward, Forward]),
        ];
        for (script, expected) in cases {
            let (exchange, fates) = play(script);
            let fates: Vec<Fate> = fates.into_iter().map(Result::unwrap).collect();
            assert_eq!(fates, expected, "{script}");
            assert!(exchange.at_rest(), "{script}");
        }
    }

    #[test]
    fn syncs_that_are_never_answered_are_counted() {
        let cases = [
            (">P >B >E >S <1 <2 <C <ZI", 0),
            // Skipped with the rest of the batch, known only afterwards.
            (">P >Q >S <E <ZI", 1),
            (">P >Q >B >Q >S <E <ZI", 2),
            // Skipped, known when it is sent: not noted in the first place.
            (">P >H <E >Q >S <ZI", 0),
            // Amid COPY data: the same two ways.
            (">P >B >E >S <1 <2 <G >c >S <C <ZI", 1),
            (">P >B >E <1 <2 <G >S >c >S <C <ZI", 0),
        ];
        for (script, expected) in cases {
            let (mut exchange, fates) = play(script);
            assert!(fates.iter().all(Result::is_ok), "{script}");
            assert_eq!(exchange.take_ignored_syncs(), expected, "{script}");
            assert!(exchange.at_rest(), "{script}");
        }
    }

    #[test]
    fn an_answer_to_nothing_is_out_of_step() {
        for script in [
            "<D", "<ZI", "<C", ">S <D", ">P <2", ">B <1", ">Q <1", ">Q <Z?", ">S <C", ">E <T",
            "<K", ">Q <R",
        ] {
            let (_, fates) = play(&script.replace("<Z?", "<Zx"));
            assert!(fates.last().unwrap().is_err(), "{script}");
        }
    }

    #[test]
    fn notices_may_come_at_any_time() {
        for script in ["<N", "<S", "<A", ">Q <N <C <S <ZI", ">P >S <N <1 <ZI <A"] {
            let (exchange, fates) = play(script);
            assert!(fates.iter().all(|fate| *fate == Ok(F)), "{script}");
            assert!(exchange.at_rest());
        }
    }
}
