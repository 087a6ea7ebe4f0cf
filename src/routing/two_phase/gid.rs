//! Names of prepared transactions: `pgdog.<deployment>.<instance>.<process>.<core>.<number>.<shard>`.
//!
//! They are unique within a PostgreSQL cluster, even if several shards are databases of one, and say who may finish them.
//! At most 200 bytes, of letters, digits, `_`, `-` and dots, so that they need no escaping.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Longest name that stands in a GID as it is.
const NAME_BYTES_MAX: usize = 48;

/// A transaction of this deployment, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    /// Drawn at random when the process starts.
    pub process: u64,
    /// Core of the client.
    pub core: u16,
    /// Counts on that core.
    pub number: u64,
}

/// Whose transactions: of one instance of one deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `DEPLOYMENT_ID` and the instance's id, in a form that a GID can hold.
    prefix: String,
}

impl Owner {
    /// Of `DEPLOYMENT_ID`, if there is one, and the id of the instance.
    pub fn new(deployment: Option<&str>, instance: &str) -> Self {
        let deployment = name(deployment.unwrap_or_default());
        Self {
            prefix: format!("pgdog.{deployment}.{}", name(instance)),
        }
    }

    /// The owner that a log names.
    pub fn from_prefix(prefix: &str) -> Option<Self> {
        let mut parts = prefix.split('.');
        let plain = |part: Option<&str>| part.is_some_and(is_plain);
        let fits = parts.next() == Some("pgdog") && plain(parts.next()) && plain(parts.next());
        (fits && parts.next().is_none()).then(|| Self {
            prefix: prefix.to_owned(),
        })
    }

    /// What the GIDs of this owner begin with, for the log.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The name of a transaction: what its GIDs begin with.
    pub fn name(&self, id: TransactionId) -> String {
        let TransactionId {
            process,
            core,
            number,
        } = id;
        format!("{}.{process:016x}.{core}.{number}", self.prefix)
    }

    /// The name of a transaction on one shard.
    pub fn gid(&self, id: TransactionId, shard: u32) -> String {
        format!("{}.{shard}", self.name(id))
    }

    /// Which transaction of this owner a GID names, and its shard. `None`: it is somebody else's.
    pub fn parse(&self, gid: &str) -> Option<(TransactionId, u32)> {
        let rest = gid.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        let mut parts = rest.split('.');
        let id = TransactionId {
            process: u64::from_str_radix(parts.next()?, 16).ok()?,
            core: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        let shard = parts.next()?.parse().ok()?;
        // Only the one spelling that we use is ours.
        (self.gid(id, shard) == gid).then_some((id, shard))
    }
}

/// The transaction that a GID names, whoever's it is. `None`: it is not of our form.
pub fn any_id(gid: &str) -> Option<TransactionId> {
    let end = gid.match_indices('.').nth(2)?.0;
    let owner = Owner::from_prefix(gid.get(..end)?)?;
    owner.parse(gid).map(|(id, _)| id)
}

/// A name as it is if a GID can hold it, else its hash.
fn name(name: &str) -> String {
    if is_plain(name) {
        return name.to_owned();
    }
    let mut text = String::from(if name.is_empty() { "-" } else { "h-" });
    for byte in Sha256::digest(name)
        .iter()
        .take(if name.is_empty() { 0 } else { 16 })
    {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = TransactionId {
        process: 0xab,
        core: 3,
        number: 42,
    };

    #[test]
    fn gids_name_deployment_instance_and_transaction() {
        let owner = Owner::new(Some("prod"), "pgdog-0");
        let gid = owner.gid(ID, 7);
        assert_eq!(gid, "pgdog.prod.pgdog-0.00000000000000ab.3.42.7");
        assert_eq!(owner.parse(&gid), Some((ID, 7)));
        assert_eq!(Owner::from_prefix(owner.prefix()), Some(owner));
        assert_eq!(any_id(&gid), Some(ID));
        for other in [
            "",
            "pgdog.a.b",
            "pgdog.a.b.c",
            "x.a.b.00000000000000ab.3.42.7",
        ] {
            assert_eq!(any_id(other), None, "{other}");
        }
    }

    #[test]
    fn others_gids_are_not_ours() {
        let owner = Owner::new(None, "a");
        for gid in [
            "pgdog.-.b.00000000000000ab.3.42.7",
            "pgdog.prod.a.00000000000000ab.3.42.7",
            "pgdog.-.a.ab.3.42.7",
            "pgdog.-.a.00000000000000ab.+3.42.7",
            "pgdog.-.a.00000000000000ab.3.42",
            "pgdog.-.a.00000000000000ab.3.42.7.8",
            "pgdog.-.ab.3.42.7",
            "manual",
        ] {
            assert_eq!(owner.parse(gid), None, "{gid}");
        }
    }

    #[test]
    fn any_name_fits() {
        let long = "x".repeat(300);
        for (deployment, instance) in [
            ("a.b", "c"),
            ("a", "b.c"),
            (long.as_str(), "it's"),
            ("", "é"),
        ] {
            let owner = Owner::new(Some(deployment), instance);
            let id = TransactionId {
                process: u64::MAX,
                core: u16::MAX,
                number: u64::MAX,
            };
            let gid = owner.gid(id, u32::MAX);
            assert!(gid.len() <= 200 && !gid.contains('\''), "{gid}");
            assert_eq!(owner.parse(&gid), Some((id, u32::MAX)));
        }
        assert_ne!(Owner::new(Some("a.b"), "c"), Owner::new(Some("a"), "b.c"));
        assert_eq!(Owner::from_prefix("pgdog.a"), None);
        assert_eq!(Owner::from_prefix("pgdog.a.b.c"), None);
    }
}
