//! Whose numbers `currval` and `lastval` would tell, on a server that clients take turns on.
//!
//! PostgreSQL keeps them for each connection, and a pooled client has one connection after the other. It is to be told what it
//! has counted itself, or that it has not (55000), and never what somebody else has left behind. What counts nobody can see:
//! defaults and triggers do. So it is known only who has had a server since when:
//!
//! ```text
//!          a client takes it         another takes it
//!   blank ──────────────────► one's ─────────────────► mixed
//!     ▲                         ▲                        │
//!     └ opened, DISCARD ALL     └────── [`WIPE`] ────────┘
//! ```
//!
//! Only a server that is one's is asked; one that is mixed is wiped before, and PostgreSQL says what is true. That takes the client's own
//! numbers, too. So who may ask gets back the server that it had, or another that is wiped before it counts there.

/// Takes what `currval` and `lastval` tell from a session, and numbers that a sequence's CACHE has set aside for it.
pub const WIPE: &str = "DISCARD SEQUENCES";

/// What is told who asks for numbers that nobody knows.
pub const RECALL_HINT: &str =
    "ask in the transaction that has counted, or let RETURNING tell what INSERT has stored";

/// Servers that are wiped in vain for one client, once clients of their pool have asked: it may be one that never does.
const WIPES_MAX: u16 = 1000;

/// A client's time with a server, or several if nobody else has had it in between, nor the client another one. No two have a
/// number, on whatever core; 0 is nobody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stay {
    core: u16,
    /// A number of 48 bits in two parts: every client keeps one, and they are small.
    high: u16,
    low: u32,
}

impl Stay {
    /// The one before a core's first.
    pub fn before(core: u16) -> Self {
        Self {
            core,
            high: 0,
            low: 0,
        }
    }

    /// The one after this, on the same core.
    #[must_use]
    pub fn next(self) -> Self {
        let (low, carries) = self.low.overflowing_add(1);
        Self {
            core: self.core,
            // A million of them in a second last for nine years.
            high: self.high.wrapping_add(u16::from(carries)),
            low,
        }
    }

    fn is_nobodys(self) -> bool {
        self.high == 0 && self.low == 0
    }
}

/// Who has had a server since it was blank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The last one, and nobody else unless `mixed`.
    stay: Stay,
    mixed: bool,
}

impl Counters {
    /// A client takes the server that has had this stay before. Answers which one it has now; `next`: one that nobody has had.
    #[inline]
    pub fn taken(&mut self, before: Stay, next: impl FnOnce() -> Stay) -> Stay {
        if self.stay.is_nobodys() || self.stay != before {
            self.mixed |= !self.stay.is_nobodys();
            self.stay = next();
        }
        self.stay
    }

    /// It was wiped.
    pub fn wiped(&mut self) {
        self.mixed = false;
    }

    /// The last stay.
    pub fn stay(&self) -> Stay {
        self.stay
    }

    /// Is the last stay this client's?
    pub fn are_last_of(&self, stay: Stay) -> bool {
        self.stay == stay && !stay.is_nobodys()
    }

    /// May others than the last client have counted?
    pub fn are_mixed(&self) -> bool {
        self.mixed
    }

    /// Would they be mixed if this client took the server?
    fn mix_with(&self, stay: Stay) -> bool {
        self.mixed || !self.stay.is_nobodys() && self.stay != stay
    }
}

/// A client, which may want to know what it has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    /// Where it may have counted last.
    pub stay: Stay,
    wipes_left: u16,
}

impl Default for Recall {
    fn default() -> Self {
        Self {
            stay: Stay::default(),
            wipes_left: WIPES_MAX,
        }
    }
}

impl Recall {
    /// It has asked, and so may again.
    pub fn asked(&mut self) {
        self.wipes_left = WIPES_MAX;
    }

    /// May it ask, if clients of its pool do?
    pub fn may_ask(&self) -> bool {
        self.wipes_left > 0
    }

    /// Is a server to be wiped before it counts there, if it may ask?
    pub fn needs_wiped(&self, server: &Counters) -> bool {
        self.may_ask() && server.mix_with(self.stay)
    }

    /// A server was wiped for it.
    pub fn wiped(&mut self) {
        self.wipes_left = self.wipes_left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients `a` and `b` on servers 0 and 1, as a text says: `a0` takes it, `w0` wipes it. Which servers are mixed.
    fn after(steps: &str) -> String {
        let (mut servers, mut clients) = ([Counters::default(); 2], [Recall::default(); 2]);
        let mut last = Stay::default();
        for step in steps.split_whitespace() {
            let server = &mut servers[usize::from(step.ends_with('1'))];
            match &step[..1] {
                "w" => server.wiped(),
                who => {
                    let client = &mut clients[usize::from(who == "b")];
                    client.stay = server.taken(client.stay, || {
                        last = last.next();
                        last
                    });
                    assert!(server.are_last_of(client.stay));
                }
            }
        }
        servers
            .map(|server| if server.mixed { "mixed" } else { "clean" })
            .join(" ")
    }

    #[test]
    fn a_server_is_mixed_as_soon_as_it_was_somebody_elses() {
        let cases = [
            ("", "clean clean"),
            ("a0 a0", "clean clean"),
            ("a0 b0", "mixed clean"),
            ("a0 b0 b0", "mixed clean"),
            ("a0 b1 a0 b1", "clean clean"),
            ("a0 b0 w0 b0", "clean clean"),
            ("a0 b0 w0 a0", "mixed clean"),
            // What it has counted here is not the last that it has counted.
            ("a0 a1 a0", "mixed clean"),
            ("a0 a1 a0 w0 a0", "clean clean"),
        ];
        for (steps, mixed) in cases {
            assert_eq!(after(steps), mixed, "{steps}");
        }
    }

    #[test]
    fn a_server_is_wiped_for_who_may_ask_unless_it_is_its_own() {
        let (mut client, mut server) = (Recall::default(), Counters::default());
        assert!(!client.needs_wiped(&server));
        client.stay = server.taken(client.stay, || Stay::before(0).next());
        assert!(!client.needs_wiped(&server));
        let other = Recall::default();
        assert!(other.needs_wiped(&server));
        server.taken(other.stay, || Stay::before(1).next());
        assert!(client.needs_wiped(&server));
        for _ in 0..WIPES_MAX {
            client.wiped();
        }
        assert!(!client.needs_wiped(&server) && !client.may_ask());
        client.asked();
        assert!(client.needs_wiped(&server));
    }

    #[test]
    fn cores_have_numbers_of_their_own() {
        let first = |core| Stay::before(core).next();
        assert_ne!(first(0), first(1));
        assert!(!first(0).is_nobodys() && !first(u16::MAX).is_nobodys());
        let last = Stay {
            low: u32::MAX,
            ..Stay::before(3)
        };
        let next = last.next();
        assert_eq!((next.core, next.high, next.low), (3, 1, 0));
        assert!(!next.is_nobodys());
    }

    #[test]
    fn nobody_is_the_last_on_a_server_that_nobody_has_had() {
        assert!(!Counters::default().are_last_of(Stay::default()));
    }
}
