//! The log of two-phase commits: its format, and what is left to do after a crash.
//!
//! ```text
//! segment   "PGDOG2PC"  version: u32  number: u64  record...        the first record is a checkpoint
//! record    bytes of the payload: u32  sequence: u64  digest: 8 bytes  payload
//! payload   kind: u8, then by kind: a transaction; its participants and owner; or all that is pending
//! ```
//!
//! Participants have their servers' addresses since version 2: numbers of shards mean others in another configuration. A
//! segment of version 1 is read, and names shards by their numbers alone.
//!
//! Numbers are little-endian. The digest, the first bytes of a SHA-256 over segment number, sequence and payload, makes a
//! record that was only partly written, or lies there from another file, be none. Each segment begins with a checkpoint of
//! all that is pending, so that older ones can go once it is on disk, and recovery needs the newest only. Where records
//! stop being valid the log ends: what was to be written there had not been reported as on disk. If valid records follow,
//! something else has damaged the file, and nothing is concluded from it.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::config::{Host, ServerAddress};

use super::gid::{Owner, TransactionId};
use super::Resolution;

const MAGIC: &[u8; 8] = b"PGDOG2PC";
const VERSION: u32 = 2;
/// Without addresses.
const VERSION_BEFORE: u32 = 1;
const HEADER_BYTES: usize = 20;
const FRAME_BYTES: usize = 20;
/// Longest name of a database or user in a record; PostgreSQL's have 63 bytes.
const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// What the log says of a transaction that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Whose GIDs it has; an earlier process may have had another instance id.
    pub owner: Owner,
    /// The database, as clients name it.
    pub database: String,
    /// The user whose pools reach it.
    pub user: String,
    /// Shards that may have prepared it.
    pub participants: Vec<Participant>,
    /// Is there a Commit record?
    pub committed: bool,
}

/// A shard that may have prepared a transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Participant {
    /// Its number at that time, which is in the GID.
    pub shard: u32,
    /// Its servers at that time, first the one that has prepared: whatever number they have in another configuration. None
    /// are known from logs of version 1.
    pub servers: Vec<ServerAddress>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Its shards are about to prepare this.
    Begin(TransactionId, Pending),
    /// All have prepared it: it is committed.
    Commit(TransactionId),
    /// Nothing of it is left.
    Done(TransactionId),
    /// Forget all that came before: this is what is pending.
    Checkpoint(Ledger),
}

/// All that is pending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pending: BTreeMap<TransactionId, Pending>,
}

/// Why a log cannot be used. Its transactions may be prepared on some shards and committed on others: the operator must
/// look at `pg_prepared_xacts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// Valid records follow an invalid one.
    Hole {
        /// Number of the segment.
        segment: u64,
        /// Where in the file.
        offset: usize,
    },
    /// No segment has a valid beginning.
    NoCheckpoint,
    /// A version that this program does not know.
    Version {
        /// Number of the segment.
        segment: u64,
        /// Its version.
        version: u32,
    },
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hole { segment, offset } => {
                write!(f, "segment {segment} is damaged at byte {offset}")
            }
            Self::NoCheckpoint => f.write_str("no segment begins with a checkpoint"),
            Self::Version { segment, version } => {
                write!(
                    f,
                    "segment {segment} has version {version}, {VERSION} is known"
                )
            }
        }
    }
}

/// What a log has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What must be finished.
    pub ledger: Ledger,
    /// Number for the next segment.
    pub next_segment: u64,
    /// Bytes at the end of the newest segment that are no record.
    pub torn_bytes: usize,
}

/// Writes the records of one segment.
#[derive(Clone, Debug)]
pub struct SegmentWriter {
    number: u64,
    sequence: u64,
}

impl SegmentWriter {
    /// Begins a segment with what is pending. Older segments may go once these bytes are on disk.
    pub fn begin(number: u64, ledger: &Ledger, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
        let mut writer = Self {
            number,
            sequence: 0,
        };
        writer.write(&Record::Checkpoint(ledger.clone()), out);
        writer
    }

    /// Appends a record.
    pub fn write(&mut self, record: &Record, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_BYTES]);
        record.encode(out);
        let Some((frame, payload)) = out
            .get_mut(start..)
            .and_then(|record| record.split_at_mut_checked(FRAME_BYTES))
        else {
            return;
        };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let fields = [
            &length.to_le_bytes()[..],
            &self.sequence.to_le_bytes(),
            &digest(self.number, self.sequence, payload),
        ];
        frame.copy_from_slice(&fields.concat());
        self.sequence += 1;
    }
}

fn digest(segment: u64, sequence: u64, payload: &[u8]) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update(segment.to_le_bytes());
    hash.update(sequence.to_le_bytes());
    hash.update(payload);
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// What is left to do, from the segments that there are, by number.
///
/// A segment that has no valid checkpoint was being begun when the process died; the one before it counts.
pub fn recover(segments: &BTreeMap<u64, Vec<u8>>) -> Result<Recovered, Damaged> {
    let next_segment = segments.keys().next_back().map_or(0, |last| last + 1);
    for (number, bytes) in segments.iter().rev() {
        if let Some((ledger, torn_bytes)) = replay(*number, bytes)? {
            return Ok(Recovered {
                ledger,
                next_segment,
                torn_bytes,
            });
        }
    }
    // The first segment ever may have been torn; nothing can have been logged before it was there. An empty one was never begun.
    match segments.values().filter(|bytes| !bytes.is_empty()).count() {
        0 | 1 => Ok(Recovered {
            next_segment,
            ..Recovered::default()
        }),
        _ => Err(Damaged::NoCheckpoint),
    }
}

/// What one segment comes to, and how many bytes at its end are no record. `None`: it has no valid checkpoint.
fn replay(number: u64, bytes: &[u8]) -> Result<Option<(Ledger, usize)>, Damaged> {
    let version = bytes.get(8..12).and_then(|version| version.first_chunk());
    let version = version.map_or(0, |version| u32::from_le_bytes(*version));
    let header =
        |version: u32| [&MAGIC[..], &version.to_le_bytes(), &number.to_le_bytes()].concat();
    let known = [VERSION, VERSION_BEFORE].contains(&version);
    if !known && bytes.len() >= 12 && bytes.starts_with(MAGIC) {
        return Err(Damaged::Version {
            segment: number,
            version,
        });
    }
    if !known || bytes.get(..HEADER_BYTES) != Some(&header(version)) {
        return Ok(None);
    }
    let segment = (number, version);
    let mut ledger = None;
    let mut at = HEADER_BYTES;
    let mut sequence = 0;
    while let Some((record, length)) = read(segment, sequence, bytes.get(at..).unwrap_or_default())
    {
        match (&mut ledger, record) {
            (None, Record::Checkpoint(found)) => ledger = Some(found),
            (Some(ledger), record) => ledger.apply(record),
            (None, _) => return Ok(None),
        }
        at += length;
        sequence += 1;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    for offset in 1..rest.len() {
        let later = rest.get(offset..).unwrap_or_default();
        let claimed = later.get(4..12).and_then(|claimed| claimed.first_chunk());
        let claimed = claimed.map_or(0, |claimed| u64::from_le_bytes(*claimed));
        // Sequences that can be: no record is shorter than its frame.
        let possible = u64::try_from(rest.len() / FRAME_BYTES).unwrap_or(u64::MAX);
        let plausible = claimed > sequence && claimed - sequence <= possible;
        if plausible && read(segment, claimed, later).is_some() {
            return Err(Damaged::Hole {
                segment: number,
                offset: at,
            });
        }
    }
    Ok(ledger.map(|ledger| (ledger, rest.len())))
}

/// The record at the beginning of these bytes, with its length, in a segment of this number and version.
fn read((segment, version): (u64, u32), sequence: u64, bytes: &[u8]) -> Option<(Record, usize)> {
    let (frame, rest) = bytes.split_first_chunk::<FRAME_BYTES>()?;
    let (length, frame) = frame.split_first_chunk()?;
    let (claimed, claimed_digest) = frame.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let payload = rest.get(..length)?;
    let valid = u64::from_le_bytes(*claimed) == sequence
        && claimed_digest == digest(segment, sequence, payload);
    let mut reader = Reader {
        bytes: payload,
        version,
    };
    let record = valid.then(|| Record::decode(&mut reader)).flatten()?;
    reader
        .bytes
        .is_empty()
        .then_some((record, FRAME_BYTES + length))
}

impl Ledger {
    /// Takes a record into account.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Begin(id, pending) => {
                self.pending.insert(id, pending);
            }
            Record::Commit(id) => {
                if let Some(pending) = self.pending.get_mut(&id) {
                    pending.committed = true;
                }
            }
            Record::Done(id) => {
                self.pending.remove(&id);
            }
            Record::Checkpoint(ledger) => *self = ledger,
        }
    }

    /// What is pending, in the order of the transactions.
    pub fn iter(&self) -> impl Iterator<Item = (TransactionId, &Pending)> {
        self.pending.iter().map(|(id, pending)| (*id, pending))
    }

    /// How many are pending.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Is nothing pending?
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// How a transaction that a server has prepared must end, if this log or `owner` has a say in it: as the log decided,
    /// and rolled back if it does not know the transaction, whose Begin record it would have had to have. `is_alive`
    /// knows the transactions of this process, which are not to be touched.
    ///
    /// Only with a log that was kept all the time: without one, nobody knows.
    pub fn resolution(
        &self,
        gid: &str,
        owner: &Owner,
        is_alive: impl Fn(TransactionId) -> bool,
    ) -> Option<Resolution> {
        let recorded = self.pending.iter().find(|(id, pending)| {
            pending
                .owner
                .parse(gid)
                .is_some_and(|(named, _)| named == **id)
        });
        match (recorded, owner.parse(gid)) {
            (Some((id, _)), _) if is_alive(*id) => None,
            (Some((_, pending)), _) => Some(pending.resolution()),
            (None, Some((id, _))) if !is_alive(id) => Some(Resolution::Rollback),
            (None, _) => None,
        }
    }
}

impl Pending {
    /// How it must end.
    pub fn resolution(&self) -> Resolution {
        match self.committed {
            true => Resolution::Commit,
            false => Resolution::Rollback,
        }
    }
}

const BEGIN: u8 = 1;
const COMMIT: u8 = 2;
const DONE: u8 = 3;
const CHECKPOINT: u8 = 4;

impl Record {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Begin(id, pending) => {
                out.push(BEGIN);
                put_pending(*id, pending, out);
            }
            Self::Commit(id) => {
                out.push(COMMIT);
                put_id(*id, out);
            }
            Self::Done(id) => {
                out.push(DONE);
                put_id(*id, out);
            }
            Self::Checkpoint(ledger) => {
                out.push(CHECKPOINT);
                for (id, pending) in &ledger.pending {
                    put_pending(*id, pending, out);
                }
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        match reader.take()? {
            [BEGIN] => {
                let (id, pending) = reader.pending()?;
                Some(Self::Begin(id, pending))
            }
            [COMMIT] => reader.id().map(Self::Commit),
            [DONE] => reader.id().map(Self::Done),
            [CHECKPOINT] => {
                let mut ledger = Ledger::default();
                while !reader.bytes.is_empty() {
                    let (id, pending) = reader.pending()?;
                    ledger.pending.insert(id, pending);
                }
                Some(Self::Checkpoint(ledger))
            }
            _ => None,
        }
    }
}

fn put_id(id: TransactionId, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.process.to_le_bytes());
    out.extend_from_slice(&id.core.to_le_bytes());
    out.extend_from_slice(&id.number.to_le_bytes());
}

fn put_pending(id: TransactionId, pending: &Pending, out: &mut Vec<u8>) {
    put_id(id, out);
    out.push(pending.committed.into());
    for name in [pending.owner.prefix(), &pending.database, &pending.user] {
        put_name(name, out);
    }
    put_count(pending.participants.len(), out);
    for participant in &pending.participants {
        out.extend_from_slice(&participant.shard.to_le_bytes());
        put_count(participant.servers.len(), out);
        for server in &participant.servers {
            put_name(&server.host.to_string(), out);
            out.extend_from_slice(&server.port.to_le_bytes());
            put_name(&server.database_name, out);
        }
    }
}

/// The configuration has no longer names; one that was cut would still end the transaction.
fn put_name(name: &str, out: &mut Vec<u8>) {
    let name = name.as_bytes();
    let name = name.get(..NAME_BYTES_MAX).unwrap_or(name);
    put_count(name.len(), out);
    out.extend_from_slice(name);
}

/// Shards and servers are far fewer.
fn put_count(count: usize, out: &mut Vec<u8>) {
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_le_bytes());
}

struct Reader<'a> {
    bytes: &'a [u8],
    /// Of the segment.
    version: u32,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*taken)
    }

    fn count(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn id(&mut self) -> Option<TransactionId> {
        Some(TransactionId {
            process: u64::from_le_bytes(self.take()?),
            core: u16::from_le_bytes(self.take()?),
            number: u64::from_le_bytes(self.take()?),
        })
    }

    fn name(&mut self) -> Option<String> {
        let length = usize::from(self.count()?);
        let (name, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        String::from_utf8(name.to_vec()).ok()
    }

    fn participant(&mut self) -> Option<Participant> {
        let shard = u32::from_le_bytes(self.take()?);
        let servers = match self.version {
            VERSION_BEFORE => 0,
            _ => self.count()?,
        };
        let servers = (0..servers).map(|_| self.server());
        let servers = servers.collect::<Option<_>>()?;
        (shard < crate::sharding::SHARDS_MAX).then_some(Participant { shard, servers })
    }

    fn server(&mut self) -> Option<ServerAddress> {
        Some(ServerAddress {
            host: Host::from(&*self.name()?),
            port: self.count()?,
            database_name: self.name()?,
        })
    }

    fn pending(&mut self) -> Option<(TransactionId, Pending)> {
        let id = self.id()?;
        let [committed] = self.take()?;
        let owner = Owner::from_prefix(&self.name()?)?;
        let (database, user) = (self.name()?, self.name()?);
        let count = self.count()?;
        let participants = (0..count).map(|_| self.participant());
        let participants = participants.collect::<Option<_>>()?;
        let pending = Pending {
            owner,
            database,
            user,
            participants,
            committed: committed == 1,
        };
        Some((id, pending))
    }
}

#[cfg(test)]
mod tests;
