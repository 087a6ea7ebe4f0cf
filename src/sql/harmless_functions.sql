-- Which built-in functions change nothing and answer on a replica as on the primary: `harmless_functions.txt`.
-- A name is in it if all functions of that name are, in every version in which there is one.
--
-- Made with PostgreSQL 15 and 18 (16 and 17 have nothing that neither of them has), by
--   for port in $OLDEST $NEWEST; do psql -p $port -qAt -F ' ' -f harmless_functions.sql; done | LC_ALL=C sort |
--     awk '{ all[$1] = all[$1] $2 } END { for (name in all) if (all[name] !~ /f/) print name }' | LC_ALL=C sort
--
-- Stable is not enough: txid_current() is, and takes a transaction id; pg_stat_get_activity() is, and tells of
-- its own server. Volatile ones that only look at a clock or a source of randomness are harmless.
-- *_to_xml read tables that no text names.
SELECT proname, bool_and(
    (provolatile IN ('i', 's') OR proname ~ '^(clock_timestamp|timeofday|gen_random_uuid|uuidv[47]|pg_sleep|pg_sleep_for|pg_sleep_until)$')
    AND prokind <> 'p'
    AND proname !~ '^(pg_stat|pg_current_|pg_prepared|pg_cursor|pg_show_|pg_listening|pg_available|pg_backend_pid|pg_conf_load|pg_config|pg_postmaster|pg_get_replication_slots|pg_replication|pg_event_trigger|pg_my_temp|pg_is_other_temp|pg_numa|pg_settings|pg_tablespace_|pg_timezone|pg_extension_update|pg_trigger_depth|pg_describe|pg_relation_file|pg_filenode|pg_sequence_|txid_current|inet_server|current_setting|version|ts_stat|pg_options_to_table|row_security_active|mxid_age|pg_column_toast)'
    AND proname !~ '_to_xml|wal|recovery')
FROM pg_catalog.pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace
    AND prorettype NOT IN ('internal'::regtype, 'cstring'::regtype, 'trigger'::regtype, 'event_trigger'::regtype,
        'language_handler'::regtype, 'fdw_handler'::regtype, 'index_am_handler'::regtype, 'tsm_handler'::regtype, 'table_am_handler'::regtype)
    AND NOT proargtypes::oid[] && ARRAY['internal'::regtype, 'cstring'::regtype]::oid[]
GROUP BY proname
;
