//! Which shard a row belongs to: keys, hashes, rules, and the tables that have a key.
//!
//! A [`ShardedColumn`] turns what a client wrote (a literal, a parameter, a field of COPY) into a canonical [`Key`], and
//! the key into its shard. Equal keys have one shard however they are spelled. [`ShardingTables`] knows which column is the
//! key of a table. The configuration builds both once; nothing here changes afterwards.

pub mod centroids;
pub mod families;
pub mod hash;
pub mod key;
pub mod lookups;
mod number;
pub mod references;
pub mod reshaped;
pub mod rows;
pub mod rules;
pub mod schema;
pub mod schemas;
pub mod shards;
pub mod tables;
pub mod unique_id;

pub use centroids::Centroids;
pub use key::{BadKey, Key, KeyType, Usage};
pub use rows::{CopyRouter, KeyColumn, RowTarget};
pub use rules::{Rule, RuleKey, Rules};
pub use schemas::{schemas_set, search_path, SchemaShards};
pub use shards::{Shards, SHARDS_MAX};
pub use tables::{
    lookup_failed, Function, Lookup, LookupAnswer, Placement, ShardedColumn, ShardingTables,
    TableKind,
};
