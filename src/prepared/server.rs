//! What one server connection has prepared: the least recently used goes first.
//!
//! What we send may fail, or be skipped after an error up to the next Sync. So each `Parse` and `Close` is noted
//! until it is answered. At ReadyForQuery whatever has no answer is undone. Where a later batch cannot know how
//! an earlier one ends, the statement is closed and parsed anew: Close of a name that does not exist is no error.
//!
//! Nothing in here belongs to a core: it travels with the connection.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>

use std::collections::{HashMap, VecDeque};

use super::Id;
use crate::types::shape::Shape;

/// The prepared statements of one server connection. All methods take constant time, but for undoing.
#[derive(Debug)]
pub struct ServerStatements {
    limit: usize,
    index: HashMap<Id, u32>,
    /// A list through a vector: `slots[newest]` is the most recently used, unused slots hang on `free`.
    slots: Vec<Slot>,
    newest: u32,
    oldest: u32,
    free: u32,
    /// What was sent and has no answer, oldest first.
    sent: VecDeque<Sent>,
    /// How much was ever taken from the front of `sent`: `sent[n]` has the number `answered + n`.
    answered: u64,
    /// The number behind the last Sync: what is older belongs to an earlier batch.
    batch: u64,
    /// How many Syncs are in `sent`.
    syncs: u32,
    /// Entries of an older generation may have been deallocated.
    generation: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    id: Id,
    newer: u32,
    older: u32,
    generation: u32,
    state: State,
    /// What its rows are like, if the server has said so since it was parsed.
    shape: Option<Shape>,
}

/// What is known about a name on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is there.
    Ready,
    /// Its Parse was sent with this number.
    Parsing(u64),
    /// It may be there or not.
    Unsure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Parse(Id),
    Close(Id),
    Describe(Id),
    Sync,
}

/// What must be sent before a statement can be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensure {
    /// Nothing.
    Present,
    /// `Close` of the evicted statement, if there is one, then `Parse`.
    Prepare {
        /// Makes room.
        evict: Option<Id>,
    },
    /// `Close` of this very name, then `Parse`: the server may have it.
    Replace,
}

/// No slot.
const NONE: u32 = u32::MAX;

impl ServerStatements {
    /// A fresh connection, which shall have at most this many statements; zero counts as one.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            index: HashMap::new(),
            slots: Vec::new(),
            newest: NONE,
            oldest: NONE,
            free: NONE,
            sent: VecDeque::new(),
            answered: 0,
            batch: 0,
            syncs: 0,
            generation: 0,
        }
    }

    /// A statement is about to be bound or described: says what to send before, and takes it as sent.
    pub fn ensure(&mut self, id: Id) -> Ensure {
        if let Some(&at) = self.index.get(&id) {
            self.touch(at);
            let slot = self.slot(at);
            let sure = slot.generation == self.generation
                && match slot.state {
                    State::Ready => true,
                    State::Parsing(number) => number >= self.batch,
                    State::Unsure => false,
                };
            if sure {
                return Ensure::Present;
            }
            self.parse_anew(at, id);
            return Ensure::Replace;
        }
        if self.syncs > 0 {
            // A Close of it may be among what is skipped.
            let at = self.insert(id);
            self.parse_anew(at, id);
            return Ensure::Replace;
        }
        let evict = if self.index.len() >= self.limit {
            self.evict()
        } else {
            None
        };
        let at = self.insert(id);
        self.send_parse(at, id);
        Ensure::Prepare { evict }
    }

    /// While there are more than the limit, after it was lowered or after something was undone: the next to close.
    pub fn trim(&mut self) -> Option<Id> {
        if self.index.len() > self.limit {
            self.evict()
        } else {
            None
        }
    }

    /// Are there more than the limit?
    pub fn is_beyond(&self) -> bool {
        self.index.len() > self.limit
    }

    /// Changes the limit; [`Self::trim`] says what to close.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// What the rows of a statement are like that the server has. `None`: it has not said.
    pub fn shape(&self, id: Id) -> Option<Shape> {
        let at = *self.index.get(&id)?;
        self.slot(at).shape
    }

    /// Is it about to say what the rows of this statement are like?
    pub fn awaits_shape(&self, id: Id) -> bool {
        self.shape(id).is_none() && self.sent.contains(&Sent::Describe(id))
    }

    /// `Describe` of a statement was sent, after [`Self::ensure`].
    pub fn describing(&mut self, id: Id) {
        self.sent.push_back(Sent::Describe(id));
    }

    /// The oldest unanswered of those, which is the oldest of all, has been answered.
    pub fn described(&mut self, shape: Shape) {
        if let Some(Sent::Describe(id)) = self.sent.front().copied() {
            self.pop();
            if let Some(slot) = self.slot_of(id) {
                slot.shape = Some(shape);
            }
        }
    }

    /// The oldest unanswered `Parse` or `Close` of those asked for here has been answered with ParseComplete or
    /// CloseComplete.
    pub fn succeeded(&mut self) {
        match self.sent.front().copied() {
            None | Some(Sent::Sync) => {}
            Some(sent) => {
                let number = self.answered;
                self.pop();
                if let Sent::Parse(id) = sent {
                    if let Some(slot) = self.slot_of(id) {
                        if slot.state == State::Parsing(number) {
                            slot.state = State::Ready;
                        }
                    }
                }
            }
        }
    }

    /// A `Sync` was sent, or a `Query`.
    pub fn sync(&mut self) {
        self.sent.push_back(Sent::Sync);
        self.syncs += 1;
        self.batch = self.next_number();
    }

    /// ReadyForQuery has come: what was sent before the Sync and has no answer has not happened.
    pub fn ready(&mut self) {
        let Some(sync) = self.sent.iter().position(|sent| *sent == Sent::Sync) else {
            return;
        };
        for at in (0..sync).rev() {
            let number = self.answered + at as u64;
            match self.sent.get(at).copied() {
                Some(Sent::Parse(id)) => {
                    let parsing = self.slot_of(id).map(|slot| slot.state);
                    if parsing == Some(State::Parsing(number)) {
                        self.remove(id);
                    }
                }
                Some(Sent::Close(id)) if !self.index.contains_key(&id) => {
                    let at = self.insert_oldest(id);
                    self.slot_mut(at).state = State::Unsure;
                }
                _ => {}
            }
        }
        for _ in 0..=sync {
            self.pop();
        }
        self.syncs -= 1;
    }

    /// The statement is to be prepared anew when it is next used: its `Parse` failed, or the server has refused to
    /// run it ("cached plan must not change result type").
    pub fn failed(&mut self, id: Id) {
        if let Some(slot) = self.slot_of(id) {
            slot.state = State::Unsure;
        }
    }

    /// `DEALLOCATE ALL` or `DISCARD ALL` was sent. It may yet fail, so everything sent before may be there or not.
    pub fn forget_all(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// How many statements the server has, as far as we know.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Has everything been answered? Only then may the connection change hands.
    pub fn is_settled(&self) -> bool {
        self.sent.is_empty()
    }

    fn next_number(&self) -> u64 {
        self.answered + self.sent.len() as u64
    }

    fn pop(&mut self) {
        self.sent.pop_front();
        self.answered += 1;
    }

    fn parse_anew(&mut self, at: u32, id: Id) {
        self.sent.push_back(Sent::Close(id));
        self.send_parse(at, id);
    }

    fn send_parse(&mut self, at: u32, id: Id) {
        let number = self.next_number();
        let generation = self.generation;
        let slot = self.slot_mut(at);
        slot.state = State::Parsing(number);
        slot.generation = generation;
        slot.shape = None;
        self.sent.push_back(Sent::Parse(id));
    }

    fn evict(&mut self) -> Option<Id> {
        if self.oldest == NONE {
            return None;
        }
        let id = self.slot(self.oldest).id;
        self.remove(id);
        self.sent.push_back(Sent::Close(id));
        Some(id)
    }

    fn slot(&self, at: u32) -> &Slot {
        self.slots
            .get(at as usize)
            .expect("links and the index name slots that exist")
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot {
        self.slots
            .get_mut(at as usize)
            .expect("links and the index name slots that exist")
    }

    fn slot_of(&mut self, id: Id) -> Option<&mut Slot> {
        let at = *self.index.get(&id)?;
        Some(self.slot_mut(at))
    }

    /// A new entry, most recently used.
    fn insert(&mut self, id: Id) -> u32 {
        let slot = Slot {
            id,
            newer: NONE,
            older: NONE,
            generation: self.generation,
            state: State::Unsure,
            shape: None,
        };
        let at = if self.free == NONE {
            let at = u32::try_from(self.slots.len()).expect("a server has fewer statements");
            self.slots.push(slot);
            at
        } else {
            let at = self.free;
            self.free = self.slot(at).older;
            *self.slot_mut(at) = slot;
            at
        };
        self.index.insert(id, at);
        self.link_newest(at);
        at
    }

    /// A new entry, the next to go.
    fn insert_oldest(&mut self, id: Id) -> u32 {
        let at = self.insert(id);
        self.unlink(at);
        let oldest = self.oldest;
        let slot = self.slot_mut(at);
        (slot.newer, slot.older) = (oldest, NONE);
        match oldest {
            NONE => self.newest = at,
            _ => self.slot_mut(oldest).older = at,
        }
        self.oldest = at;
        at
    }

    fn remove(&mut self, id: Id) {
        if let Some(at) = self.index.remove(&id) {
            self.unlink(at);
            self.slot_mut(at).older = self.free;
            self.free = at;
        }
    }

    fn touch(&mut self, at: u32) {
        if self.newest != at {
            self.unlink(at);
            self.link_newest(at);
        }
    }

    fn link_newest(&mut self, at: u32) {
        let newest = self.newest;
        let slot = self.slot_mut(at);
        (slot.newer, slot.older) = (NONE, newest);
        match newest {
            NONE => self.oldest = at,
            _ => self.slot_mut(newest).newer = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let Slot { newer, older, .. } = *self.slot(at);
        match newer {
            NONE => self.newest = older,
            _ => self.slot_mut(newer).older = older,
        }
        match older {
            NONE => self.oldest = newer,
            _ => self.slot_mut(older).newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(n: u8) -> Id {
        Id(u128::from(n))
    }

    /// Everything sent has an answer.
    fn settle(server: &mut ServerStatements) {
        server.sync();
        while !matches!(server.sent.front(), None | Some(Sent::Sync)) {
            server.succeeded();
        }
        server.ready();
        assert!(server.is_settled());
    }

    fn is_send<T: Send>(_: &T) {}

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut server = ServerStatements::new(2);
        is_send(&server);
        assert_eq!(server.ensure(id(1)), Ensure::Prepare { evict: None });
        assert_eq!(server.ensure(id(2)), Ensure::Prepare { evict: None });
        assert_eq!(server.ensure(id(1)), Ensure::Present);
        let evict = Some(id(2));
        assert_eq!(server.ensure(id(3)), Ensure::Prepare { evict });
        assert_eq!(server.ensure(id(1)), Ensure::Present);
        settle(&mut server);
        let evict = Some(id(3));
        assert_eq!(server.ensure(id(2)), Ensure::Prepare { evict });
        assert_eq!(server.len(), 2);
        settle(&mut server);
        server.set_limit(0);
        assert_eq!(server.trim(), Some(id(1)));
        assert_eq!(server.trim(), None);
    }

    #[test]
    fn what_was_skipped_after_an_error_is_undone() {
        let mut server = ServerStatements::new(1);
        server.ensure(id(1));
        settle(&mut server);
        let evict = Some(id(1));
        assert_eq!(server.ensure(id(2)), Ensure::Prepare { evict });
        server.sync();
        server.ready(); // neither Close nor Parse has happened
        assert_eq!(server.ensure(id(1)), Ensure::Replace);
        settle(&mut server);
        assert_eq!(server.ensure(id(1)), Ensure::Present);
        assert_eq!(server.len(), 1);
    }

    #[test]
    fn a_later_batch_does_not_trust_an_earlier_one() {
        let mut server = ServerStatements::new(10);
        server.ensure(id(1));
        server.sync();
        assert_eq!(server.ensure(id(1)), Ensure::Replace);
        assert_eq!(server.ensure(id(1)), Ensure::Present);
        assert_eq!(server.ensure(id(2)), Ensure::Replace);
        server.sync();
        server.ready(); // the first was skipped
        while server.sent.front() != Some(&Sent::Sync) {
            server.succeeded();
        }
        server.ready();
        assert_eq!(server.ensure(id(1)), Ensure::Present);
        assert_eq!(server.ensure(id(2)), Ensure::Present);
    }

    #[test]
    fn what_is_deallocated_or_stale_is_prepared_anew() {
        let mut server = ServerStatements::new(10);
        server.ensure(id(1));
        settle(&mut server);
        server.forget_all();
        assert_eq!(server.ensure(id(2)), Ensure::Prepare { evict: None });
        assert_eq!(server.ensure(id(1)), Ensure::Replace);
        settle(&mut server);
        assert_eq!(server.ensure(id(1)), Ensure::Present);
        server.failed(id(1));
        assert_eq!(server.ensure(id(1)), Ensure::Replace);
    }

    /// What PostgreSQL does with what we send, one message after the other.
    #[derive(Default)]
    struct Backend {
        statements: BTreeSet<Id>,
        skipping: bool,
    }

    #[derive(Clone, Copy, Debug)]
    enum Message {
        Parse(Id),
        Close(Id),
        Bind(Id),
        /// Any message that fails.
        Fail,
        DeallocateAll,
        Sync,
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Use(u8),
        Fail,
        DeallocateAll,
        Sync,
        /// The server handles this many messages.
        Answer(usize),
        Limit(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            12 => (0..6_u8).prop_map(Op::Use),
            1 => Just(Op::Fail),
            1 => Just(Op::DeallocateAll),
            4 => Just(Op::Sync),
            6 => (1..6_usize).prop_map(Op::Answer),
            1 => (0..5_usize).prop_map(Op::Limit),
        ]
    }

    impl Backend {
        /// Handles a message and tells the client side what it hears.
        fn handle(&mut self, message: Message, server: &mut ServerStatements) {
            match message {
                Message::Sync => {
                    self.skipping = false;
                    server.ready();
                }
                _ if self.skipping => {}
                Message::Fail => self.skipping = true,
                Message::Parse(id) => {
                    assert!(self.statements.insert(id), "already exists");
                    server.succeeded();
                }
                Message::Close(id) => {
                    self.statements.remove(&id);
                    server.succeeded();
                }
                Message::Bind(id) => assert!(self.statements.contains(&id), "does not exist"),
                Message::DeallocateAll => self.statements.clear(),
            }
        }
    }

    proptest! {
        /// Whatever fails or is skipped, in however deep a pipeline: no Parse meets a statement of its name, no Bind
        /// misses one, and the server never has one that we do not know of.
        #[test]
        fn any_pipeline_finds_its_statements(ops in prop::collection::vec(op(), 0..80), limit in 0..5_usize) {
            let mut server = ServerStatements::new(limit);
            let mut backend = Backend::default();
            let mut wire = VecDeque::new();
            let settle = [Op::Sync, Op::Answer(usize::MAX)];
            for op in ops.into_iter().chain(settle) {
                match op {
                    Op::Use(n) => {
                        match server.ensure(id(n)) {
                            Ensure::Present => {}
                            Ensure::Prepare { evict } => {
                                wire.extend(evict.map(Message::Close));
                                wire.push_back(Message::Parse(id(n)));
                            }
                            Ensure::Replace => {
                                wire.push_back(Message::Close(id(n)));
                                wire.push_back(Message::Parse(id(n)));
                            }
                        }
                        wire.push_back(Message::Bind(id(n)));
                    }
                    Op::Fail => wire.push_back(Message::Fail),
                    Op::DeallocateAll => {
                        server.forget_all();
                        wire.push_back(Message::DeallocateAll);
                    }
                    Op::Sync => {
                        while let Some(id) = server.trim() {
                            wire.push_back(Message::Close(id));
                        }
                        server.sync();
                        wire.push_back(Message::Sync);
                    }
                    Op::Answer(count) => {
                        for message in wire.drain(..count.min(wire.len())) {
                            backend.handle(message, &mut server);
                        }
                    }
                    Op::Limit(limit) => server.set_limit(limit),
                }
            }
            prop_assert!(server.is_settled());
            for id in &backend.statements {
                prop_assert!(server.index.contains_key(id));
            }
            while let Some(_evicted) = server.trim() {}
            prop_assert!(server.len() <= server.limit);
        }
    }
}
