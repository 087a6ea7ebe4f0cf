//! Thread-per-core runtime: one pinned glommio executor per CPU, one io_uring ring of sockets under each.
//!
//! Tasks of a core share its state without locks; between cores only mail passes. It has never heard of
//! PostgreSQL: a proxy for another protocol could be built on it.

pub mod activation;
pub mod blocking;
mod buffer;
pub mod durable;
mod executor;
pub mod gate;
pub mod journal;
pub mod limits;
mod listener;
pub mod log;
mod mailbox;
pub mod names;
pub mod placement;
pub mod places;
pub mod preflight;
mod quota;
mod ring;
pub mod signal;
mod stream;
mod timer;
pub mod tls;

pub use buffer::{Buf, BUFFER_BYTES};
pub use executor::EXECUTOR_ENTRIES;
pub use executor::{start, Core, CoreStats, Cores};
pub use listener::{bind, BoundSocket, Listener};
pub use mailbox::{Mailbox, PostOffice};
pub use socket2::SockRef;
pub use stream::{lacks_resources, Address, Detached, Stream, TcpOptions};
pub use timer::Sleep;

/// Size of the ring that each core sets up.
pub const fn ring_size() -> limits::RingSize {
    ring::SIZE
}
