//! How statements are read and routed.

use std::time::Duration;

use super::choice::{
    PrimaryKeyRewrite, ReadWriteStrategy, RewriteMode, SystemCatalogs, UniqueIdFunction,
};
use super::file::File;
use crate::sharding::unique_id::IdFunction;

/// How statements are read and routed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent settings of the files"
)]
pub struct Routing {
    /// Analysed texts kept, over all cores.
    pub analyses_max: usize,
    /// What decides where a transaction goes.
    pub strategy: ReadWriteStrategy,
    /// EXPLAIN tells of the routing, too.
    pub expanded_explain: bool,
    /// Statements of databases that are not sharded are routed as if they were, for SHOW QUERY_CACHE alone.
    pub dry_run: bool,
    /// Statements that need several shards are refused.
    pub cross_shard_disabled: bool,
    /// Bytes of rows that statements over several shards may hold, on all cores together.
    pub merge_bytes_max: usize,
    /// The schema is read again after definitions that pass here.
    pub reload_schema_on_ddl: bool,
    /// INSERT of rows for several shards.
    pub split_inserts: RewriteMode,
    /// UPDATE of a sharding key.
    pub shard_key: RewriteMode,
    /// INSERT without its primary key.
    pub primary_key: PrimaryKeyRewrite,
    /// How system catalogues are read.
    pub system_catalogs: SystemCatalogs,
    /// Omnisharded tables that are listed nowhere are read from one shard per client.
    pub omnisharded_sticky: bool,
    /// What `pgdog.unique_id()` gives.
    pub unique_ids: IdFunction,
    /// What is added to each of these.
    pub unique_id_min: u64,
    /// Bytes of translated keys that are remembered for one user and database, over all cores.
    pub lookups_bytes_max: usize,
    /// Types are numbered as on the first shard.
    pub canonical_types: bool,
    /// Longest time for one lookup query.
    pub lookup_timeout: Option<Duration>,
}

impl Routing {
    pub(super) fn of(file: &File) -> Self {
        let (general, rewrite) = (&file.general.value, &file.rewrite.value);
        // A mode is "rewrite" only where rewriting is allowed.
        let allowed = |mode: RewriteMode| match mode {
            RewriteMode::Rewrite if !rewrite.enabled => RewriteMode::Error,
            mode => mode,
        };
        Self {
            analyses_max: general.query_cache_limit,
            strategy: general.read_write_strategy,
            expanded_explain: general.expanded_explain,
            dry_run: general.dry_run,
            cross_shard_disabled: general.cross_shard_disabled,
            merge_bytes_max: usize::try_from(general.cross_shard_memory.0).unwrap_or(usize::MAX),
            reload_schema_on_ddl: general.reload_schema_on_ddl,
            split_inserts: allowed(rewrite.split_inserts),
            shard_key: allowed(rewrite.shard_key),
            primary_key: match rewrite.primary_key {
                PrimaryKeyRewrite::Rewrite | PrimaryKeyRewrite::RewriteOmni if !rewrite.enabled => {
                    PrimaryKeyRewrite::Ignore
                }
                mode => mode,
            },
            system_catalogs: general.system_catalogs,
            omnisharded_sticky: general.omnisharded_sticky,
            unique_ids: match general.unique_id_function {
                UniqueIdFunction::Standard => IdFunction::Standard,
                UniqueIdFunction::Compact => IdFunction::Compact,
            },
            unique_id_min: general.unique_id_min,
            lookups_bytes_max: usize::try_from(general.sharding_lookup_cache_size.0)
                .unwrap_or(usize::MAX),
            canonical_types: general.canonicalize_type_information,
            lookup_timeout: general.sharding_lookup_timeout.limit(),
        }
    }
}
