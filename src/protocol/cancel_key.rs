//! The BackendKeyData we issue: which core holds the session, which session it is, and a secret.
//!
//! ```text
//!   process id, 1 to 2^31 - 1           = sequence * cores + core
//!   secret, 4 bytes or 32 from 3.2 on     random
//! ```
//!
//! A CancelRequest may land on any core; the process id says which one to mail.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS>

use subtle::ConstantTimeEq;

use super::backend::BackendKeyData;
use super::startup::{CancelRequest, Version};

/// Bytes of a secret in protocol 3.2, as many as PostgreSQL 18 uses.
pub const LONG_SECRET_BYTES: usize = 32;

/// Gives out the process ids of one core, each a different one until they begin anew.
#[derive(Clone, Debug)]
pub struct ProcessIds {
    core: u16,
    cores: u16,
    sequence: u32,
}

impl ProcessIds {
    /// Ids of core number `core` of `cores`.
    ///
    /// Panics unless `core` is below `cores`.
    pub fn new(core: u16, cores: u16) -> Self {
        assert!(core < cores, "cores are counted from 0");
        Self {
            core,
            cores,
            sequence: 0,
        }
    }

    /// The next id, positive. After 2^31 ids of all cores together the numbers begin anew, so the caller
    /// must pass over those of sessions that still live.
    pub fn issue(&mut self) -> i32 {
        let next = self
            .sequence
            .checked_add(1)
            .and_then(|sequence| Some((sequence, self.process_id(sequence)?)));
        let (sequence, process_id) = next.unwrap_or_else(|| {
            let first = self.process_id(1);
            (1, first.expect("65,535 cores leave room for sequence 1"))
        });
        self.sequence = sequence;
        process_id
    }

    fn process_id(&self, sequence: u32) -> Option<i32> {
        let id = u64::from(sequence) * u64::from(self.cores) + u64::from(self.core);
        i32::try_from(id).ok()
    }
}

/// The core that issued `process_id`, of `cores`; `None` if none of them did.
pub fn core_of(process_id: i32, cores: u16) -> Option<u16> {
    let id = u32::try_from(process_id).ok()?;
    if id < u32::from(cores) {
        return None; // sequences begin with 1
    }
    u16::try_from(id.checked_rem(u32::from(cores))?).ok()
}

/// The key of one session.
#[derive(Clone)]
pub struct CancelKey {
    process_id: i32,
    secret: Secret,
}

#[derive(Clone)]
enum Secret {
    Short([u8; 4]),
    /// Boxed: few clients have one, and all would keep room for it.
    Long(Box<[u8; LONG_SECRET_BYTES]>),
}

impl CancelKey {
    /// The key of a session that speaks `version`, of which `random` is the unpredictable part.
    pub fn new(process_id: i32, version: Version, random: [u8; LONG_SECRET_BYTES]) -> Self {
        let [a, b, c, d, ..] = random;
        let secret = if version.has_long_cancel_keys() {
            Secret::Long(Box::new(random))
        } else {
            Secret::Short([a, b, c, d])
        };
        Self { process_id, secret }
    }

    /// Process id, see [`ProcessIds`].
    pub const fn process_id(&self) -> i32 {
        self.process_id
    }

    fn secret(&self) -> &[u8] {
        match &self.secret {
            Secret::Short(bytes) => bytes,
            Secret::Long(bytes) => &**bytes,
        }
    }

    /// Does the request carry this key? Takes the same time wherever a wrong secret differs.
    pub fn matches(&self, request: &CancelRequest<'_>) -> bool {
        let same_id = self.process_id.ct_eq(&request.process_id);
        let same_secret = self.secret().ct_eq(request.secret);
        (same_id & same_secret).into()
    }

    /// The message that tells the client.
    pub fn backend_key_data(&self) -> BackendKeyData<'_> {
        BackendKeyData {
            process_id: self.process_id,
            secret: self.secret(),
        }
    }

    /// The request that carries this key.
    pub fn cancel_request(&self) -> CancelRequest<'_> {
        CancelRequest {
            process_id: self.process_id,
            secret: self.secret(),
        }
    }
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelKey")
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::startup::{parse, Packet};
    use super::*;
    use proptest::prelude::*;

    fn key(version: Version) -> CancelKey {
        CancelKey::new(77, version, *b"thirty-two bytes that are random")
    }

    #[test]
    fn a_secret_has_4_bytes_and_32_from_3_2_on() {
        let bytes = |version| {
            let mut out = Vec::new();
            key(version).backend_key_data().encode(&mut out);
            out.len() - 9
        };
        assert_eq!([bytes(Version::V3_0), bytes(Version::new(3, 1))], [4, 4]);
        assert_eq!(bytes(Version::V3_2), 32);
    }

    #[test]
    fn only_the_whole_key_matches() {
        for version in [Version::V3_0, Version::V3_2] {
            let key = key(version);
            let mut bytes = Vec::new();
            key.cancel_request().encode(&mut bytes);
            let Ok(Some((Packet::CancelRequest(request), _))) = parse(&bytes) else {
                panic!();
            };
            assert!(key.matches(&request));

            let with =
                |process_id, secret: &[u8]| key.matches(&CancelRequest { process_id, secret });
            let mut wrong = request.secret.to_vec();
            assert!(!with(78, &wrong));
            assert!(!with(77, &wrong[1..]));
            wrong.push(0);
            assert!(!with(77, &wrong));
            wrong.pop();
            *wrong.last_mut().unwrap() ^= 1;
            assert!(!with(77, &wrong));
        }
    }

    #[test]
    fn ids_begin_anew_at_the_end() {
        let mut ids = ProcessIds {
            core: 2,
            cores: 3,
            sequence: 715_827_880,
        };
        assert_eq!(ids.issue(), i32::MAX - 2);
        assert_eq!(ids.issue(), 5);

        let mut alone = ProcessIds::new(0, 1);
        assert_eq!([alone.issue(), alone.issue()], [1, 2]);
    }

    #[test]
    fn ids_that_nobody_issued_have_no_core() {
        for id in [i32::MIN, -1, 0, 1, 3] {
            assert_eq!(core_of(id, 4), None, "{id}");
        }
        assert_eq!(core_of(4, 4), Some(0));
        assert_eq!(core_of(9, 0), None);
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(
            format!("{:?}", key(Version::V3_2)),
            "CancelKey { process_id: 77, .. }"
        );
    }

    proptest! {
        #[test]
        fn an_id_leads_back_to_its_core(cores in 1u16.., core: u16, sequence: u32) {
            let core = core % cores;
            let mut ids = ProcessIds { sequence, ..ProcessIds::new(core, cores) };
            for _ in 0..3 {
                let id = ids.issue();
                prop_assert!(id > 0);
                prop_assert_eq!(core_of(id, cores), Some(core));
            }
        }
    }
}
