//! Built-in functions, operators and views: which are the same on a replica.

/// Names of functions, one a line. `harmless_functions.sql` says how it is made.
static HARMLESS: Words<1667, 4096> = Words::of(include_str!("harmless_functions.txt"));

/// Operators of `pg_catalog`, the same in PostgreSQL 15 to 18:
/// `SELECT string_agg(DISTINCT oprname, ' ') FROM pg_operator`.
static OPERATORS: Words<74, 256> = Words::of("!! !~ !~* !~~ !~~* # ## #- #> #>> % & && &< &<| &> * *< *<= *<> *= *> *>= + - -> ->> -|- / < <-> << <<= <<| <= <> <@ <^ = > >= >> >>= >^ ? ?# ?& ?- ?-| ?| ?|| @ @-@ @> @? @@ @@@ ^ ^@ | |&> |/ |>> || ||/ ~ ~* ~<=~ ~<~ ~= ~>=~ ~>~ ~~ ~~*");

/// Views of `pg_catalog` that tell of their own server, besides `pg_stat_*` and `pg_statio_*`.
const SERVER_VIEWS: [&str; 18] = [
    "pg_aios",
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_backend_memory_contexts",
    "pg_config",
    "pg_cursors",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_locks",
    "pg_prepared_statements",
    "pg_prepared_xacts",
    "pg_replication_origin_status",
    "pg_replication_slots",
    "pg_sequences",
    "pg_settings",
    "pg_shmem_allocations",
    "pg_shmem_allocations_numa",
];

/// The built-in functions that are not harmless, but for `pg_…` and `lo_…` and those that only upgrades use.
const HARMFUL: [&str; 32] = [
    "amvalidate",
    "array_sample",
    "array_shuffle",
    "brin_desummarize_range",
    "brin_summarize_new_values",
    "brin_summarize_range",
    "current_query",
    "current_setting",
    "currval",
    "cursor_to_xml",
    "gin_clean_pending_list",
    "inet_server_addr",
    "inet_server_port",
    "lastval",
    "loread",
    "lowrite",
    "mxid_age",
    "nextval",
    "query_to_xml",
    "random",
    "random_normal",
    "row_security_active",
    "set_config",
    "setseed",
    "setval",
    "table_to_xml",
    "ts_rewrite",
    "ts_stat",
    "txid_current",
    "txid_current_if_assigned",
    "txid_status",
    "version",
];

/// Words of a text, found by their hash: at most half of the slots are taken.
struct Words<const COUNT: usize, const SLOTS: usize> {
    words: [&'static str; COUNT],
    /// Indices of words and one more, from the slot of their hash on; 0 is free.
    slots: [u16; SLOTS],
}

impl<const COUNT: usize, const SLOTS: usize> Words<COUNT, SLOTS> {
    /// Those of a text, whose number must be right: it does not compile otherwise.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "asserted; there is no other way in a const fn"
    )]
    const fn of(text: &'static str) -> Self {
        let mut words = [""; COUNT];
        let mut slots = [0; SLOTS];
        let mut rest = text.as_bytes();
        let mut count = 0;
        while !rest.is_empty() {
            let mut at = 0;
            while at < rest.len() && !rest[at].is_ascii_whitespace() {
                at += 1;
            }
            let (word, behind) = rest.split_at(at);
            words[count] = match str::from_utf8(word) {
                Ok(word) => word,
                Err(_) => panic!("whitespace divides UTF-8 between its characters"),
            };
            count += 1;
            let mut slot = first_slot(word) % SLOTS;
            while slots[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = count as u16;
            rest = match behind {
                [_, rest @ ..] => rest,
                [] => behind,
            };
        }
        assert!(count == COUNT && 2 * COUNT <= SLOTS && COUNT < u16::MAX as usize);
        Self { words, slots }
    }

    fn contain(&self, word: &str) -> bool {
        let mut slot = first_slot(word.as_bytes()) % SLOTS;
        while let Some(index) = usize::from(self.slots[slot]).checked_sub(1) {
            if self.words[index] == word {
                return true;
            }
            slot = (slot + 1) % SLOTS;
        }
        false
    }
}

/// FNV-1a. What is looked up cannot lengthen a search: only what is stored could.
#[expect(clippy::cast_possible_truncation, reason = "any part of a hash is one")]
const fn first_slot(word: &[u8]) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < word.len() {
        hash = (hash ^ word[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    (hash ^ hash >> 32) as usize
}

/// Is there a built-in function of this name, and do all of that name change nothing, have no side effect, and
/// answer on a replica as on the primary?
pub fn is_harmless(name: &str) -> bool {
    HARMLESS.contain(name)
}

/// Is there a built-in function of this name that is not harmless? Whatever else is called `pg_…`
/// or `lo_…` counts as one.
pub fn is_harmful(name: &str) -> bool {
    let prefixed = name.starts_with("pg_") || name.starts_with("lo_");
    (prefixed && !is_harmless(name)) || HARMFUL.contains(&name)
}

/// Is it the name of a built-in function, or like one?
pub fn is_built_in(name: &str) -> bool {
    is_harmless(name) || is_harmful(name)
}

/// Built-in aggregates and window functions:
/// `SELECT string_agg(DISTINCT proname, ' ') FROM pg_proc WHERE prokind IN ('a', 'w')`.
static AGGREGATES: Words<61, 256> = Words::of("any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp cume_dist dense_rank every first_value json_agg json_agg_strict json_object_agg json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict jsonb_agg jsonb_agg_strict jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique jsonb_object_agg_unique_strict lag last_value lead max min mode nth_value ntile percent_rank percentile_cont percentile_disc range_agg range_intersect_agg rank regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy row_number stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance xmlagg");

/// May a call of this name be one of an aggregate or window function? Unknown functions may.
pub fn may_aggregate(name: &str) -> bool {
    AGGREGATES.contain(name) || !is_built_in(name)
}

/// Is it the name of a built-in operator, `<>` also as `!=`?
pub fn is_built_in_operator(name: &str) -> bool {
    name == "!=" || OPERATORS.contain(name)
}

/// Does a view of `pg_catalog` of this name tell of the server that is asked?
pub fn is_server_view(name: &str) -> bool {
    name.starts_with("pg_stat_") && !name.starts_with("pg_stat_ext")
        || name.starts_with("pg_statio_")
        || SERVER_VIEWS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_found_and_nothing_else() {
        let found = OPERATORS
            .words
            .iter()
            .filter(|name| OPERATORS.contain(name));
        assert_eq!(found.count(), OPERATORS.words.len());
        let found = AGGREGATES
            .words
            .iter()
            .filter(|name| AGGREGATES.contain(name));
        assert_eq!(found.count(), AGGREGATES.words.len());
        assert!(HARMLESS.words.len() > 1500 && HARMLESS.words.iter().all(|name| !name.is_empty()));
        for name in HARMLESS.words {
            assert!(is_harmless(name), "{name}");
            assert!(!is_harmless(&format!("{name}\u{7f}")), "{name}");
            assert!(!is_harmless(&format!("\u{1}{name}")), "{name}");
        }
        assert!(!is_harmless(""));
    }

    #[test]
    fn functions_that_write_or_tell_of_their_server_are_not_harmless() {
        for name in "nextval setval currval lastval set_config setseed pg_advisory_lock pg_try_advisory_xact_lock \
            pg_notify lo_import lo_from_bytea txid_current pg_current_xact_id pg_export_snapshot pg_is_in_recovery \
            pg_current_wal_lsn pg_backend_pid current_setting pg_stat_get_activity query_to_xml random \
            pg_terminate_backend pg_switch_wal pg_read_file"
            .split_whitespace()
        {
            assert!(!is_harmless(name), "{name}");
        }
        for name in
            "now count sum lower date_trunc to_char jsonb_build_object generate_series row_number \
            pg_table_is_visible clock_timestamp gen_random_uuid pg_sleep unnest extract"
                .split_whitespace()
        {
            assert!(is_harmless(name), "{name}");
        }
    }

    #[test]
    fn views_of_one_server() {
        assert!(is_server_view("pg_stat_activity") && is_server_view("pg_locks"));
        assert!(!is_server_view("pg_stats") && !is_server_view("pg_class"));
    }
}
