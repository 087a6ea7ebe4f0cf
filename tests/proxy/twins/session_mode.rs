//! In session mode a client has its server to itself: whatever it does, it cannot tell that pgdog is in between.

use super::{any_message, check, setting_statement, Pair, Random, SETTINGS, TEXTS};
use crate::support::wire::{copy_data, copy_done, copy_fail, query, sync};

/// What a session keeps beside its settings. `{me}` is another number for each client.
const STATEMENTS: [&str; 52] = [
    "CREATE TEMP TABLE mine (a int)",
    "CREATE TEMP TABLE IF NOT EXISTS mine (a int) ON COMMIT DELETE ROWS",
    "CREATE TEMP TABLE mine AS SELECT 7 AS a",
    "INSERT INTO mine VALUES (1), (2)",
    "SELECT a FROM mine ORDER BY a",
    "DROP TABLE mine",
    "CREATE TEMP VIEW v AS SELECT 1 AS a",
    "SELECT * FROM v",
    "LISTEN channel_{me}",
    "UNLISTEN channel_{me}",
    "UNLISTEN *",
    "NOTIFY channel_{me}, 'hello'",
    "SELECT pg_notify('channel_{me}', 'again')",
    "SELECT count(*) FROM pg_listening_channels()",
    "SELECT pg_advisory_lock({me})",
    "SELECT pg_try_advisory_lock_shared(99)",
    "SELECT pg_try_advisory_lock(99)",
    "SELECT pg_advisory_unlock({me})",
    "SELECT pg_advisory_unlock_shared(99)",
    "SELECT pg_advisory_unlock(99)",
    "SELECT pg_advisory_unlock_all()",
    "SELECT pg_advisory_xact_lock({me})",
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM generate_series(1, 9) g",
    "DECLARE c SCROLL CURSOR FOR SELECT * FROM generate_series(1, 9) g",
    "FETCH 2 FROM c",
    "FETCH BACKWARD 1 FROM c",
    "MOVE 3 IN c",
    "CLOSE c",
    "CLOSE ALL",
    "SELECT name, is_holdable FROM pg_cursors ORDER BY name",
    "PREPARE s AS SELECT 2",
    "PREPARE q (int) AS SELECT $1 + 1",
    "EXECUTE s",
    "EXECUTE q (4)",
    "DEALLOCATE s",
    "DEALLOCATE q",
    "DEALLOCATE ALL",
    "SELECT name, statement, from_sql FROM pg_prepared_statements ORDER BY name",
    "DISCARD TEMP",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
    "SELECT nextval('numbers') > 0",
    "SELECT currval('numbers') > 0",
    "SELECT lastval() > 0",
    "DO $$BEGIN PERFORM set_config('app.x', 'done', false); END$$",
    "DO $$BEGIN RAISE NOTICE 'hello'; END$$",
    "SELECT set_config('app.x', 'new', false) = 'new'",
    "INSERT INTO t VALUES (1)",
    "SELECT count(*) FROM t",
    "SELECT * FROM missing",
    "COPY (SELECT g FROM generate_series(1, 3) g) TO STDOUT",
];

fn statement(random: &mut Random, who: usize) -> String {
    match random.below(3) {
        0 => setting_statement(random),
        _ => random.pick(&STATEMENTS).replace("{me}", &who.to_string()),
    }
}

/// COPY into a table, and how it ends.
fn copy(random: &mut Random) -> (&'static str, Vec<u8>) {
    let table = random.pick(&["t", "mine"]);
    let begin = query(&format!("COPY {table} FROM STDIN"));
    let data = copy_data(b"10\n11\n");
    match random.below(3) {
        0 => ("COPY", [begin, data, copy_done()].concat()),
        1 => (
            "COPY of no number",
            [begin, copy_data(b"x\n"), copy_done()].concat(),
        ),
        _ => ("COPY given up", [begin, data, copy_fail("enough")].concat()),
    }
}

/// One to three batches of the extended protocol; what they name is the client's own.
fn batches(random: &mut Random, who: usize) -> (String, Vec<u8>, usize) {
    let own: Vec<String> = (0..6).map(|_| statement(random, who)).collect();
    // A dollar stands for a parameter here.
    let own = own.iter().map(String::as_str);
    let own = own.filter(|text| !text.contains("$$"));
    let texts: Vec<&str> = TEXTS.into_iter().chain(own).collect();
    let (mut words, mut bytes) = (Vec::new(), Vec::new());
    let count = random.below(3) + 1;
    for _ in 0..count {
        for _ in 0..random.below(7) {
            let (word, message) = any_message(random, &texts, true);
            words.push(word);
            bytes.extend(message);
        }
        words.push("Sync".to_owned());
        bytes.extend(sync());
    }
    (words.join(", "), bytes, count)
}

fn step(random: &mut Random, pair: &mut Pair, who: usize) {
    match random.below(10) {
        0 => {
            let (words, bytes) = copy(random);
            pair.step(who, words, &bytes, 1);
        }
        1..=3 => {
            let (words, bytes, count) = batches(random, who);
            pair.step(who, &words, &bytes, count);
        }
        4 => pair.step(who, "DISCARD ALL", &query("DISCARD ALL"), 1),
        5 => {
            let texts: Vec<_> = (0..3).map(|_| statement(random, who)).collect();
            let bytes: Vec<_> = texts.iter().map(|text| query(text)).collect();
            pair.step(who, &format!("{texts:?}"), &bytes.concat(), texts.len());
        }
        _ => {
            let texts: Vec<_> = (0..=random.below(3))
                .map(|_| statement(random, who))
                .collect();
            let text = texts.join("; ");
            pair.step(who, &text, &query(&text), 1);
        }
    }
    if random.below(3) == 0 {
        let look =
            SETTINGS.map(|(name, _)| format!("coalesce(current_setting('{name}', true), '')"));
        let look = format!("SELECT session_user, current_user, {}", look.join(", "));
        pair.step(who, "look", &query(&look), 1);
        pair.compare_parameters(who);
    }
}

#[test]
fn sessions_with_a_server_of_their_own_at_random() {
    let session = "pooler_mode = \"session\"\ndefault_pool_size = 2\ncheckout_timeout = 60000";
    check(session, step);
}
