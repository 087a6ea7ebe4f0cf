//! Settings that choose among words: every enumeration of the two files.

use super::value::{quoted, Flaw, Input, Value};

/// One enumeration a line: variants and the words of the file. A word after `|` is accepted as well.
macro_rules! choices {
    ($(
        $(#[doc = $about:literal])+
        $name:ident { $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal $(| $other:literal)*, )+ }
    )+) => { $(
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $( $(#[doc = $doc])+ $variant, )+ }

        impl $name {
            /// The word of the file.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Value for $name {
            const KIND: &'static str = concat!("one of" $(, " ", $word)+);

            fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
                match normal(input)?.as_str() {
                    $( $word $(| $other)* => Ok(Self::$variant), )+
                    other => Err(unknown(input, other, &[$($word),+])),
                }
            }

            fn literal(&self) -> Option<String> {
                Some(quoted(self.as_str()))
            }
        }
    )+ };
}

/// The word as the tables below spell it: files are exact, elsewhere case does not matter.
fn normal(input: Input<'_>) -> Result<String, Vec<Flaw>> {
    let text = input.text("a string")?;
    Ok(match input {
        Input::File(_) => text.to_owned(),
        Input::Word(_) => text.trim().to_ascii_lowercase(),
    })
}

fn unknown(input: Input<'_>, found: &str, words: &[&str]) -> Vec<Flaw> {
    input.flaw(format!(
        "expected one of {}, found `{found}`",
        words.join(", ")
    ))
}

choices! {
    /// How long a client keeps its server connection.
    PoolerMode {
        /// Until the transaction ends.
        Transaction = "transaction",
        /// Until the client leaves.
        Session = "session",
        /// Until the statement ends; no transactions.
        Statement = "statement",
    }

    /// What happens to a server connection whose client left abruptly.
    ConnectionRecovery {
        /// Drain what is owed and roll back.
        Recover = "recover",
        /// Roll back if nothing is owed, else close.
        RollbackOnly = "rollback_only" | "rollbackonly",
        /// Close.
        Drop = "drop",
    }

    /// What happens to a client after an error of its pool.
    ClientRecovery {
        /// It gets an ERROR and stays.
        Recover = "recover",
        /// It gets a FATAL and is closed.
        Drop = "drop" | "rollback_only" | "rollbackonly",
    }

    /// How clients prove who they are.
    AuthType {
        /// SCRAM-SHA-256.
        Scram = "scram",
        /// MD5 with a salt.
        Md5 = "md5",
        /// The password in clear text.
        Plain = "plain",
        /// Not at all.
        Trust = "trust",
    }

    /// May clients without an entry log in with what the server accepts?
    PassthroughAuth {
        /// No.
        Disabled = "disabled",
        /// Yes, over TLS.
        Enabled = "enabled",
        /// Yes, even without TLS.
        EnabledPlain = "enabled_plain",
        /// Over TLS; a new password replaces the old one.
        EnabledAllowChange = "enabled_allow_change",
        /// Even without TLS; a new password replaces the old one.
        EnabledPlainAllowChange = "enabled_plain_allow_change",
    }

    /// What happens to a query above `query_size_limit`.
    QuerySizeAction {
        /// It is logged.
        Warn = "warn",
        /// It is refused before it is buffered.
        Block = "block",
    }

    /// TLS towards servers.
    TlsVerify {
        /// No TLS.
        Disabled = "disabled" | "none",
        /// TLS if offered, certificates unchecked.
        Prefer = "prefer",
        /// TLS, chain checked.
        VerifyCa = "verify_ca",
        /// TLS, chain and host name checked.
        VerifyFull = "verify_full",
    }

    /// Which replica a read goes to.
    LoadBalancingStrategy {
        /// Any.
        Random = "random",
        /// Each in turn.
        RoundRobin = "round_robin",
        /// The one with the fewest connections in use.
        LeastActiveConnections = "least_active_connections",
        /// Each in turn, as often as its `lb_weight` says.
        WeightedRoundRobin = "weighted_round_robin",
    }

    /// Where explicit transactions go.
    ReadWriteStrategy {
        /// To the primary.
        Conservative = "conservative",
        /// Where their first statement may go.
        Aggressive = "aggressive",
    }

    /// Who serves reads.
    ReadWriteSplit {
        /// Replicas and the primary.
        IncludePrimary = "include_primary",
        /// Replicas only.
        ExcludePrimary = "exclude_primary",
        /// Replicas; the primary while one of them is banned.
        IncludePrimaryIfReplicaBanned = "include_primary_if_replica_banned",
        /// The primary, unless a hint asks for a replica.
        PreferPrimary = "prefer_primary",
    }

    /// When statements are parsed.
    QueryParser {
        /// Always.
        On = "on",
        /// Never.
        Off = "off",
        /// When the configuration or the text needs it.
        Auto = "auto",
        /// Only text that resembles session control.
        SessionControl = "session_control",
        /// The same, plus advisory locks.
        SessionControlAndLocks = "session_control_and_locks",
    }

    /// Interface of the parser library; accepted, without effect.
    QueryParserEngine {
        /// Through protobuf.
        PgQueryProtobuf = "pg_query_protobuf",
        /// Directly.
        PgQueryRaw = "pg_query_raw",
    }

    /// Which prepared statements work in transaction mode.
    PreparedStatements {
        /// None.
        Disabled = "disabled",
        /// Named ones of the extended protocol.
        Extended = "extended",
        /// Unnamed ones too.
        ExtendedAnonymous = "extended_anonymous",
        /// `PREPARE` and `EXECUTE` in SQL too.
        Full = "full",
    }

    /// How system catalogs are routed on a sharded database.
    SystemCatalogs {
        /// Like omnisharded tables.
        Omnisharded = "omnisharded",
        /// The same, one shard per client.
        OmnishardedSticky = "omnisharded_sticky",
        /// To all shards.
        Sharded = "sharded",
    }

    /// When the schema is loaded.
    LoadSchema {
        /// Always.
        On = "on",
        /// Never.
        Off = "off",
        /// With several shards, or multi-tenant.
        Auto = "auto",
    }

    /// Shape of generated IDs.
    UniqueIdFunction {
        /// 64 bits.
        Standard = "standard",
        /// 53 bits, safe for JavaScript.
        Compact = "compact",
    }

    /// Format of table copies while resharding.
    CopyFormat {
        /// Binary.
        Binary = "binary",
        /// Text, needed when integer widths change.
        Text = "text",
    }

    /// What happens when a cutover does not get there in time.
    CutoverAction {
        /// Traffic resumes on the old database.
        Abort = "abort",
        /// The swap happens anyway.
        Cutover = "cutover",
    }

    /// Format of log lines.
    LogFormat {
        /// For people.
        Text = "text",
        /// JSON, the message under `fields`.
        Json = "json",
        /// JSON, all on one level.
        JsonFlattened = "json_flattened",
    }

    /// What happens to a statement that needs rewriting.
    RewriteMode {
        /// It is refused.
        Error = "error",
        /// It is rewritten.
        Rewrite = "rewrite",
        /// It passes as it is.
        Ignore = "ignore",
    }

    /// What happens to an `INSERT` without its `BIGINT` key.
    PrimaryKeyRewrite {
        /// It is refused.
        Error = "error",
        /// A key is generated.
        Rewrite = "rewrite",
        /// A key is generated on omnisharded tables.
        RewriteOmni = "rewrite_omni",
        /// It passes as it is.
        Ignore = "ignore",
    }

    /// How this program logs in to Vault.
    VaultAuthMethod {
        /// With a Kubernetes service account.
        Kubernetes = "kubernetes",
        /// With a role and its secret.
        Approle = "approle",
    }

    /// Which statements are mirrored.
    MirrorLevel {
        /// All.
        All = "all",
        /// Data only.
        Dml = "dml",
        /// Schema only.
        Ddl = "ddl",
    }

    /// Role of a server.
    Role {
        /// Takes writes.
        Primary = "primary",
        /// Takes reads.
        Replica = "replica",
        /// Whatever the server says it is.
        Auto = "auto",
    }

    /// Type of a sharding key.
    ShardingKeyType {
        /// Integers.
        Bigint = "bigint",
        /// UUIDs.
        Uuid = "uuid",
        /// Text.
        Varchar = "varchar",
        /// Vectors, sharded by centroid.
        Vector = "vector",
    }

    /// Hash of a sharding key.
    Hasher {
        /// PostgreSQL's partition hash.
        Postgres = "postgres",
        /// SHA-1.
        Sha1 = "sha1",
    }

    /// What a lookup query returns.
    LookupResult {
        /// A value that is then hashed.
        Value = "value",
        /// The number of the shard.
        Shard = "shard",
    }

    /// Kind of a rule that maps keys to shards.
    MappingKind {
        /// Listed values.
        List = "list",
        /// From a start, inclusive, to an end, exclusive.
        Range = "range",
        /// All that no other rule takes.
        Default = "default",
    }

    /// Where the password for servers comes from.
    ServerAuth {
        /// From the files.
        Password = "password",
        /// From AWS, for RDS.
        RdsIam = "rds_iam",
        /// From Azure.
        AzureWorkloadIdentity = "azure_workload_identity",
        /// From Vault, made for us.
        VaultDynamic = "vault_dynamic",
        /// From Vault, rotated there.
        VaultStatic = "vault_static",
    }
}

impl PassthroughAuth {
    /// May a server be asked about the password of a client that has, or has not, encrypted?
    pub fn is_for(self, encrypted: bool) -> bool {
        match self {
            Self::Disabled => false,
            Self::Enabled | Self::EnabledAllowChange => encrypted,
            Self::EnabledPlain | Self::EnabledPlainAllowChange => true,
        }
    }

    /// May a password take the place of one that is known?
    pub fn allows_change(self) -> bool {
        matches!(
            self,
            Self::EnabledAllowChange | Self::EnabledPlainAllowChange
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_aliases() {
        for (word, expected) in [
            ("rollback_only", Some("rollback_only")),
            ("rollbackonly", Some("rollback_only")),
            ("DROP", Some("drop")),
            ("keep", None),
        ] {
            let read = ConnectionRecovery::read(Input::Word(word)).ok();
            assert_eq!(read.map(ConnectionRecovery::as_str), expected, "{word}");
        }
        assert_eq!(
            ClientRecovery::read(Input::Word("rollback_only")).unwrap(),
            ClientRecovery::Drop
        );
        assert_eq!(
            TlsVerify::read(Input::Word("none")).unwrap(),
            TlsVerify::Disabled
        );
    }

    #[test]
    fn an_unknown_word_names_the_known_ones() {
        let flaws = QuerySizeAction::read(Input::Word("maybe")).unwrap_err();
        assert_eq!(
            flaws[0].reason,
            "expected one of warn, block, found `maybe`"
        );
    }

    #[test]
    fn files_are_exact() {
        let parsed = toml::de::DeValue::parse("\"Trust\"").unwrap();
        assert!(AuthType::read(Input::File(&parsed)).is_err());
    }
}
