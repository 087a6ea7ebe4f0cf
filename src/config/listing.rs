//! Entries of both files as they are listed to PgBouncer's users: one line each, with what it inherits.

use std::time::Duration;

use super::choice::PoolerMode;
use super::{Config, ServerAddress};

/// An entry of `[[databases]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseEntry {
    /// Name that clients use.
    pub name: String,
    /// Where it is.
    pub address: ServerAddress,
    /// Number of its shard.
    pub shard: u32,
    /// As whom everybody logs in there, if that is fixed.
    pub force_user: Option<String>,
    /// Size of its pools, unless a user has another.
    pub pool_size: usize,
    /// Connections kept open, unless a user has another number.
    pub pool_size_min: usize,
    /// Age at which connections are retired; `None`: never.
    pub lifetime: Option<Duration>,
    /// How long a client keeps its connection, unless a user has another mode.
    pub mode: PoolerMode,
}

/// Entries of `[[users]]` of one name: the first one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserListing {
    /// Login name.
    pub name: String,
    /// If it overrides that of the database.
    pub pool_size: Option<usize>,
    /// If it overrides that of the database.
    pub mode: Option<PoolerMode>,
}

impl Config {
    /// Entries of `[[databases]]`, in the order of the file.
    pub fn database_entries(&self) -> impl Iterator<Item = DatabaseEntry> + '_ {
        use super::choice::Role;
        let general = &self.file.general.value;
        self.file.databases.iter().map(move |entry| {
            let entry = &entry.value;
            let (size, size_min) = match entry.role {
                Role::Primary => (entry.pool_size_primary, entry.min_pool_size_primary),
                Role::Replica => (entry.pool_size_replica, entry.min_pool_size_replica),
                Role::Auto => (None, None),
            };
            let size = size
                .or(entry.pool_size)
                .unwrap_or(general.default_pool_size);
            let size_min = size_min
                .or(entry.min_pool_size)
                .unwrap_or(general.min_pool_size);
            DatabaseEntry {
                name: entry.name.clone(),
                address: entry.address(),
                shard: entry.shard,
                force_user: entry.user.clone(),
                pool_size: size,
                pool_size_min: size_min.min(size),
                lifetime: entry
                    .server_lifetime
                    .unwrap_or(general.server_lifetime)
                    .limit(),
                mode: entry.pooler_mode.unwrap_or(general.pooler_mode),
            }
        })
    }

    /// Users by name, in the order of the file.
    pub fn user_listings(&self) -> impl Iterator<Item = UserListing> + '_ {
        let users = &self.users_file.users;
        users.iter().enumerate().filter_map(move |(at, entry)| {
            let entry = &entry.value;
            let before = users.iter().take(at);
            let first = !before
                .into_iter()
                .any(|other| other.value.name == entry.name);
            first.then(|| UserListing {
                name: entry.name.clone(),
                pool_size: entry.pool_size,
                mode: entry.pooler_mode,
            })
        })
    }
}
