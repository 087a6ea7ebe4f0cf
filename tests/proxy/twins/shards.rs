//! The same with pgdog in front of three shards: wherever a statement of the session goes, its settings are those of the only
//! server that its twin has. What concerns several servers may be refused, and then its twin is not asked.

use super::{seeds, setting_statement, Random, Twin, BEGINNINGS, SETTINGS};
use crate::shards::Shards;
use crate::support::wire::{bind, execute, parse, query, sync};
use crate::support::Postgres;
use crate::together::Done;

const SEEDS: u64 = 6;
const STEPS: usize = 60;

struct Sessions {
    through: [Twin; 2],
    direct: [Twin; 2],
    /// Who has a transaction open.
    open: Option<usize>,
    done: Done,
    refused: usize,
    shards: Shards,
}

impl Sessions {
    fn new() -> Self {
        let postgres = Postgres::shared();
        let general = "workers = 1\ndefault_pool_size = 2\n";
        let table = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n";
        let shards = Shards::start("twins", general, table);
        let one = postgres.database("twins_one");
        let mut admins = vec![postgres.admin(&one)];
        admins.extend((0..3).map(|number| shards.shard(number)));
        for admin in &mut admins {
            admin.query(
                "DO $$BEGIN CREATE ROLE twin_role; EXCEPTION WHEN duplicate_object THEN END$$",
            );
            admin.query("GRANT twin_role TO alice");
            admin.query("CREATE TABLE t (id bigint); GRANT ALL ON t TO PUBLIC");
        }
        let port = shards.pgdog.port();
        Self {
            through: BEGINNINGS.map(|with| Twin::log_in(port, &shards.name, with)),
            direct: BEGINNINGS.map(|with| Twin::log_in(postgres.port(), &one, with)),
            open: None,
            done: Done::default(),
            refused: 0,
            shards,
        }
    }

    /// RESET ALL passes over what SET LOCAL has put to its default in the same transaction, and then depends on how that was
    /// done. It is left out there.
    fn statement(&self, random: &mut Random, alone: bool) -> String {
        let sql = setting_statement(random);
        match alone && self.open.is_none() || sql != "RESET ALL" {
            true => sql,
            false => "SELECT 1".to_owned(),
        }
    }

    /// Both do the same, or it is refused. `also`: other ways to ask, of which the twin knows nothing.
    fn step(&mut self, who: usize, what: &str, messages: &[u8], also: &[Vec<u8>]) {
        let found = self.through[who].ask(messages, 1);
        self.done.0.push(format!("{who}: {what} -> {found}"));
        if found.contains("E:0A000") {
            self.refused += 1;
            if !found.ends_with("Z:I") {
                self.open = None;
                let undo = query("ROLLBACK");
                self.through[who].ask(&undo, 1);
                self.direct[who].ask(&undo, 1);
                self.done.0.push(format!("{who}: ROLLBACK"));
            }
            return;
        }
        let expected = self.direct[who].ask(messages, 1);
        let found = from_error(&found);
        assert_eq!(found, from_error(&expected), "answered to {what}");
        for other in also {
            assert_eq!(
                self.through[who].ask(other, 1),
                expected,
                "elsewhere, to {what}"
            );
        }
        self.open = (!found.ends_with("Z:I")).then_some(who);
    }
}

/// What was answered before an error differs: a Parse is, before any server has seen it.
fn from_error(answer: &str) -> &str {
    answer.find("E:").map_or(answer, |at| &answer[at..])
}

#[test]
fn sessions_on_shards_that_change_settings_at_random() {
    if std::env::var_os("PGDOG_TEST_DIRECT").is_some() {
        return;
    }
    let look = SETTINGS.map(|(name, _)| format!("coalesce(current_setting('{name}', true), '')"));
    let look = format!("SELECT current_user, {}", look.join(", "));
    let mut sessions = Sessions::new();
    let mut admin = sessions.shards.pgdog.admin();
    let mut steps = 0;
    for seed in seeds(SEEDS) {
        eprintln!("TWINS_SEED={seed}");
        let mut random = Random(seed);

        for _ in 0..STEPS {
            let who = sessions.open.unwrap_or_else(|| random.below(2));
            steps += 1;
            match random.below(5) {
                0 => {
                    let reads = [
                        "SELECT count(*) FROM t",
                        "SELECT * FROM t WHERE id = 7",
                        "SELECT * FROM t WHERE id = 8",
                    ];
                    let sql = random.pick(&reads);
                    sessions.step(who, sql, &query(sql), &[]);
                }
                1 => {
                    let sql = sessions.statement(&mut random, true);
                    let messages = [parse("", &sql), bind("", "", &[]), execute("", 0), sync()];
                    sessions.step(who, &format!("portal: {sql}"), &messages.concat(), &[]);
                }
                2 => {
                    let count = random.below(3) + 1;
                    let texts = (0..count).map(|_| sessions.statement(&mut random, count == 1));
                    let text = texts.collect::<Vec<_>>().join("; ");
                    sessions.step(who, &text, &query(&text), &[]);
                }
                _ => {
                    let sql = sessions.statement(&mut random, true);
                    sessions.step(who, &sql, &query(&sql), &[]);
                }
            }
            // Outside of a transaction one may look at every shard, and has no server.
            if sessions.open.is_none() {
                let pins = crate::admin::show(&mut admin, "PINS");
                assert!(pins.is_empty(), "{pins:?}");
                let each = (0..3).map(|shard| query(&format!("/* pgdog_shard: {shard} */ {look}")));
                sessions.step(who, "look", &query(&look), &each.collect::<Vec<_>>());
            }
        }
        if let Some(who) = sessions.open {
            sessions.step(who, "ROLLBACK", &query("ROLLBACK"), &[]);
        }
    }
    let Sessions {
        refused, shards, ..
    } = sessions;
    eprintln!("{refused} of {steps} refused");
    assert!(refused * 4 < steps, "{refused} refused");
    shards.pgdog.stop();
}
