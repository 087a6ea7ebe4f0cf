//! Conversations over one server connection, from a seed: what a client says, what the server answers, and what
//! `Exchange` makes of both, in any interleaving.
//!
//! The server is a model of PostgreSQL's message loop. The same messages of the client, without any of ours among
//! them, go to a twin of it: the client must get exactly what the twin answers.

use std::collections::VecDeque;

use pgdog::protocol::backend::TransactionStatus;
use pgdog::protocol::exchange::{Exchange, Fate, Owed};

use super::random::Random;

/// A reply: its tag, ReadyForQuery's status, and which message it answers.
type Reply = (u8, Option<u8>, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Rows(u8),
    Fail,
    Begin,
    End,
    CopyIn,
    CopyOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Query([Does; 2]),
    Parse { fails: bool },
    Bind { fails: bool },
    Describe,
    Execute(Does),
    Close,
    Sync,
    CopyData,
    CopyEnd { fails: bool },
}

/// Defects of a conversation, to prove that they are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// A reply of the server never arrives.
    LostReply,
    /// A reply arrives twice.
    DuplicateReply,
    /// The answer to a message of ours is noted as the client's.
    WrongFate,
    /// What the client has left unfinished is not drained.
    NotDrained,
}

/// How a conversation ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// At rest: fit for the next client.
    Fit,
    /// The server was lost.
    Lost,
}

/// PostgreSQL's message loop.
#[derive(Debug)]
struct Backend {
    inbox: VecDeque<(Message, u32)>,
    outbox: VecDeque<Reply>,
    status: u8,
    skipping: bool,
    /// The message whose COPY data is read, and whether it was a Query.
    copy: Option<(u32, bool)>,
    /// What is left of a Query whose COPY is under way.
    left: Option<Does>,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            status: b'I',
            skipping: false,
            copy: None,
            left: None,
        }
    }
}

impl Backend {
    fn is_at_rest(&self) -> bool {
        self.inbox.is_empty()
            && self.outbox.is_empty()
            && self.status == b'I'
            && !self.skipping
            && self.copy.is_none()
    }

    fn say(&mut self, tag: u8, of: u32) {
        self.outbox.push_back((tag, None, of));
    }

    fn ready(&mut self, of: u32) {
        self.outbox.push_back((b'Z', Some(self.status), of));
    }

    fn fail(&mut self, of: u32, query: bool) {
        self.say(b'E', of);
        self.copy = None;
        self.left = None;
        if self.status == b'T' {
            self.status = b'E';
        }
        if query {
            self.ready(of);
        } else {
            self.skipping = true;
        }
    }

    /// One statement. False: it failed, or its COPY data has to come first.
    fn run(&mut self, does: Does, of: u32, query: bool) -> bool {
        match does {
            Does::End => self.status = b'I',
            _ if self.status == b'E' => {
                self.fail(of, query);
                return false;
            }
            Does::Fail => {
                self.fail(of, query);
                return false;
            }
            Does::Begin => self.status = b'T',
            Does::Rows(count) => {
                if query {
                    self.say(b'T', of);
                }
                (0..count).for_each(|_| self.say(b'D', of));
            }
            Does::CopyOut => {
                self.say(b'H', of);
                self.say(b'd', of);
                self.say(b'c', of);
            }
            Does::CopyIn => {
                self.say(b'G', of);
                self.copy = Some((of, query));
                return false;
            }
        }
        self.say(b'C', of);
        true
    }

    /// Works on the next message.
    fn work(&mut self) {
        let Some((message, of)) = self.inbox.pop_front() else {
            return;
        };
        if let Some((copy, query)) = self.copy {
            match message {
                Message::CopyEnd { fails: true } => self.fail(copy, query),
                Message::CopyEnd { fails: false } => {
                    self.copy = None;
                    self.say(b'C', copy);
                    let left = self.left.take();
                    if query && left.is_none_or(|does| self.run(does, copy, true)) {
                        self.ready(copy);
                    }
                }
                Message::CopyData | Message::Sync => {}
                _ => self.fail(copy, query),
            }
            return;
        }
        match message {
            Message::Sync => {
                self.skipping = false;
                self.ready(of);
            }
            _ if self.skipping => {}
            Message::Query([first, second]) => {
                self.left = (first == Does::CopyIn).then_some(second);
                if self.run(first, of, true) && self.run(second, of, true) {
                    self.ready(of);
                }
            }
            Message::Parse { fails } | Message::Bind { fails } if fails || self.status == b'E' => {
                self.fail(of, false);
            }
            Message::Parse { .. } => self.say(b'1', of),
            Message::Bind { .. } => self.say(b'2', of),
            Message::Describe => self.say(b'n', of),
            Message::Execute(does) => {
                self.run(does, of, false);
            }
            Message::Close => self.say(b'3', of),
            Message::CopyData | Message::CopyEnd { .. } => {}
        }
    }
}

/// A server connection: what it is, and what we believe of it.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    exchange: Exchange,
    backend: Backend,
}

/// Serial of messages that are ours.
const OURS: u32 = u32::MAX;

impl Talk {
    /// The connection changes cores: only what it is goes along.
    pub(crate) fn moves(&mut self) -> Result<(), String> {
        match self.exchange.at_rest() && self.backend.is_at_rest() {
            true => self.exchange = Exchange::default(),
            false => return Err(format!("it moves amid a conversation: {self:?}")),
        }
        Ok(())
    }

    /// One client's time with the server.
    ///
    /// Errors: what must never happen, in words.
    pub(crate) fn converse(
        &mut self,
        random: &mut Random,
        vanishes: bool,
        breaks: bool,
        defect: Option<Defect>,
    ) -> Result<Rest, String> {
        if !self.exchange.at_rest() || !self.backend.is_at_rest() {
            return Err(format!("it was lent amid a conversation: {self:?}"));
        }
        let script = script(random);
        let mut twin = Backend::default();
        let mut expected = Vec::new();
        for (serial, message) in (0..).zip(&script) {
            twin.inbox.push_back((*message, serial));
            twin.work();
        }
        expected.extend(twin.outbox.drain(..));
        let mut heard = Vec::new();
        let mut defect = defect;
        let stop = match vanishes || breaks {
            true => random.below(script.len() + 1),
            false => script.len(),
        };
        let mut next = 0;
        while next < stop || self.is_busy() {
            let choice = random.below(3);
            if choice == 0 && next < stop {
                let serial = u32::try_from(next).expect("short");
                self.send(script[next], serial, random, &mut heard, &mut defect);
                next += 1;
            } else if choice == 1 {
                self.backend.work();
            } else {
                self.receive(&mut heard, &mut defect)?;
            }
            if next == stop && (breaks || vanishes) && random.percent(30) {
                break;
            }
        }
        let so_far = expected.get(..heard.len()).unwrap_or_default();
        let same = |(heard, twin): (&Reply, &Reply)| {
            (heard.0, heard.1) == (twin.0, twin.1) && (heard.2 == twin.2 || heard.2 == OURS)
        };
        if heard.len() != so_far.len() || !heard.iter().zip(so_far).all(same) {
            return Err(format!("{script:?}: {heard:?}, not {expected:?}"));
        }
        if breaks {
            return Ok(Rest::Lost);
        }
        if vanishes {
            self.clean(random, &mut defect)?;
        } else if heard.len() != expected.len() {
            return Err(format!("{script:?}: only {heard:?} of {expected:?}"));
        } else if !self.exchange.nothing_owed() {
            return Err(format!(
                "{script:?}: answers are awaited for ever: {self:?}"
            ));
        }
        if self.exchange.at_rest() != self.backend.is_at_rest() {
            return Err(format!("{script:?}: not at rest: {self:?}"));
        }
        match self.exchange.at_rest() {
            true => Ok(Rest::Fit),
            false => Err(format!("{script:?}: a script ends at rest")),
        }
    }

    fn is_busy(&self) -> bool {
        !self.backend.inbox.is_empty() || !self.backend.outbox.is_empty()
    }

    fn send(
        &mut self,
        message: Message,
        serial: u32,
        random: &mut Random,
        heard: &mut Vec<Reply>,
        defect: &mut Option<Defect>,
    ) {
        let inbox = &mut self.backend.inbox;
        let exchange = &mut self.exchange;
        if matches!(message, Message::Bind { .. }) && !exchange.is_skipping() && random.percent(30)
        {
            // The server lacks the statement, and had to make room for it.
            inbox.push_back((Message::Close, OURS));
            inbox.push_back((Message::Parse { fails: false }, OURS));
            let wrong = defect.take_if(|defect| *defect == Defect::WrongFate);
            let fate = wrong.map_or(Fate::Drop, |_| Fate::Forward);
            exchange.sent(Owed::CloseComplete, fate);
            exchange.sent(Owed::ParseComplete, fate);
        }
        let owed = match message {
            Message::Query(_) => Some(Owed::Results),
            Message::Parse { .. } => Some(Owed::ParseComplete),
            Message::Bind { .. } => Some(Owed::BindComplete),
            Message::Describe => Some(Owed::Description),
            Message::Execute(_) => Some(Owed::Execution),
            Message::Close => Some(Owed::CloseComplete),
            Message::Sync => Some(Owed::Ready),
            Message::CopyData => None,
            Message::CopyEnd { .. } => Some(Owed::CopyEnd),
        };
        // Others use the statement, too: it is closed for this client only.
        let ours = message == Message::Close && random.percent(50);
        if ours {
            exchange.sent(Owed::CloseComplete, Fate::Synthesize);
        } else {
            inbox.push_back((message, serial));
            if let Some(owed) = owed {
                exchange.sent(owed, Fate::Forward);
            }
        }
        self.synthesize(heard);
    }

    fn synthesize(&mut self, heard: &mut Vec<Reply>) {
        while self.exchange.next_synthetic().is_some() {
            heard.push((b'3', None, OURS));
        }
    }

    fn receive(
        &mut self,
        heard: &mut Vec<Reply>,
        defect: &mut Option<Defect>,
    ) -> Result<(), String> {
        let Some(reply) = self.backend.outbox.pop_front() else {
            return Ok(());
        };
        let times = match defect {
            Some(Defect::LostReply) => 0,
            Some(Defect::DuplicateReply) => 2,
            _ => 1,
        };
        if times != 1 {
            *defect = None;
        }
        for _ in 0..times {
            let (tag, status, _) = reply;
            let fate = self.exchange.received(tag, status);
            let fate = fate.map_err(|error| format!("{error:?} after {heard:?}"))?;
            if fate == Fate::Forward {
                heard.push(reply);
            }
            self.synthesize(heard);
        }
        Ok(())
    }

    /// As `proxy/server/reset.rs` does it.
    fn clean(&mut self, random: &mut Random, defect: &mut Option<Defect>) -> Result<(), String> {
        if *defect == Some(Defect::NotDrained) {
            return Ok(());
        }
        let exchange = &mut self.exchange;
        if exchange.copying_in() {
            let end = Message::CopyEnd { fails: true };
            self.backend.inbox.push_back((end, OURS));
            exchange.sent(Owed::CopyEnd, Fate::Forward);
        }
        if exchange.is_unsynced() {
            let fail = Message::Execute(Does::Fail);
            self.backend.inbox.push_back((fail, OURS));
            self.backend.inbox.push_back((Message::Sync, OURS));
            exchange.sent(Owed::Execution, Fate::Forward);
            exchange.sent(Owed::Ready, Fate::Forward);
        }
        self.drain(random, defect)?;
        if self.exchange.status() != TransactionStatus::Idle {
            let rollback = Message::Query([Does::End, Does::Rows(0)]);
            self.backend.inbox.push_back((rollback, OURS));
            self.exchange.sent(Owed::Results, Fate::Forward);
            self.drain(random, defect)?;
        }
        Ok(())
    }

    fn drain(&mut self, random: &mut Random, defect: &mut Option<Defect>) -> Result<(), String> {
        let mut nobody = Vec::new();
        while !self.exchange.nothing_owed() {
            if !self.is_busy() {
                // What takes too long is cancelled: here, COPY data that will never come.
                let Some((of, query)) = self.backend.copy else {
                    return Err(format!("answers are awaited for ever: {self:?}"));
                };
                self.backend.fail(of, query);
            }
            match random.below(2) {
                0 => self.backend.work(),
                _ => self.receive(&mut nobody, defect)?,
            }
        }
        Ok(())
    }
}

/// What a client says, up to the end of its transaction.
fn script(random: &mut Random) -> Vec<Message> {
    let mut script = Vec::new();
    let does = |random: &mut Random| match random.below(8) {
        0 => Does::Fail,
        1 => Does::Begin,
        2 => Does::CopyOut,
        _ => Does::Rows(u8::try_from(random.below(4)).expect("small")),
    };
    for _ in 0..random.between(1, 4) {
        match random.below(4) {
            0 => script.push(Message::Query([does(random), does(random)])),
            1 => {
                script.push(Message::Query([Does::CopyIn, does(random)]));
                (0..random.below(3)).for_each(|_| script.push(Message::CopyData));
                let fails = random.percent(30);
                script.push(Message::CopyEnd { fails });
            }
            _ => {
                for _ in 0..random.below(6) {
                    let fails = random.percent(10);
                    script.push(match random.below(5) {
                        0 => Message::Parse { fails },
                        1 => Message::Bind { fails },
                        2 => Message::Describe,
                        3 => Message::Execute(does(random)),
                        _ => Message::Close,
                    });
                }
                script.push(Message::Sync);
            }
        }
    }
    script.push(Message::Query([Does::End, Does::Rows(1)]));
    script
}
