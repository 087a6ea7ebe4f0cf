//! Groups that several cores have a part of.

use super::super::shards::Shards;
use super::super::support::process::{poll, PATIENCE};
use super::super::support::wire::{query, Message, Wire};
use super::{ask, comparable, filled_with};

/// So many groups that they are divided, of a sum that differs by group.
const GROUPS: &str = "SELECT n, count(*), sum(n * id), avg(age), min(name), max(n % 7)
    FROM users, generate_series(1, 24000) n WHERE id <= 12 GROUP BY n";

fn on_two_cores(name: &str) -> (Wire, Shards) {
    filled_with(name, "", "workers = 2")
}

/// Mail that the cores have sent each other.
fn mail(shards: &Shards) -> u64 {
    let mut admin = shards.pgdog.admin();
    let cores = admin.rows("SHOW CORES");
    cores
        .iter()
        .map(|core| core[5].parse::<u64>().unwrap())
        .sum()
}

#[test]
fn groups_of_several_cores_are_those_of_one_postgresql() {
    let (mut one, shards) = on_two_cores("cores");
    let mut client = shards.client();
    for (rest, ordered) in [
        ("", false),
        (" ORDER BY n", true),
        (" ORDER BY 3 DESC, 1", true),
        (" HAVING sum(n * id) > 900000", false),
        (
            " HAVING sum(n * id) > 900000 ORDER BY n DESC LIMIT 100 OFFSET 20",
            true,
        ),
        (" ORDER BY max(n % 7), n LIMIT 20000", true),
    ] {
        let sql = format!("{GROUPS}{rest}");
        for binary in [false, true] {
            let before = mail(&shards);
            let found = comparable(ask(&mut client, &sql, binary), binary, ordered, false);
            let sent = mail(&shards) - before;
            let expected = comparable(ask(&mut one, &sql, binary), binary, ordered, false);
            assert!(
                found == expected,
                "{sql}: {} and {} messages",
                found.len(),
                expected.len()
            );
            assert!(sent > 10, "{sql}: {sent} mails between the cores");
        }
    }
    shards.pgdog.stop();
}

/// A statement that was divided and not finished leaves nothing behind.
#[test]
fn divided_statements_end_early() {
    let (_, shards) = on_two_cores("cores_early");
    let mut client = shards.client();
    let rows = |messages: &[Message]| {
        messages
            .iter()
            .filter(|message| message.tag == b'D')
            .count()
    };
    // By LIMIT, without an order.
    let limited = ask(&mut client, &format!("{GROUPS} LIMIT 3"), false);
    assert_eq!(rows(&limited), 3);
    // By what cores find: sums that are out of range.
    let sql = "SELECT n, sum(9223372036854775807 / 7 + id)::bigint FROM users, generate_series(1, 24000) n WHERE id <= 30 GROUP BY n";
    let failed = ask(&mut client, sql, false);
    let error = failed.iter().find(|message| message.tag == b'E');
    let code = error.map(|error| error.field(b'C'));
    assert_eq!(
        (rows(&failed), code.as_deref()),
        (0, Some("22003")),
        "{sql}"
    );
    assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    // By a cancel request, while the client reads nothing.
    client.send(&query(
        "SELECT repeat(name, 3000), n, count(*) FROM users, generate_series(1, 9000) n WHERE id <= 3 GROUP BY name, n",
    ));
    let key = client.key();
    Wire::cancel(shards.pgdog.port(), &key);
    let end = client.read_until(b'Z');
    assert!(
        end.iter().any(|message| message.tag == b'E'),
        "cancelled, or too large"
    );
    assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    // By a client that leaves.
    let mut leaver = shards.client();
    leaver.send(&query(GROUPS));
    leaver.read_until(b'T');
    leaver.reset();
    // Nobody holds on to its servers.
    poll(PATIENCE, "all servers at rest", || {
        let mut admin = shards.pgdog.admin();
        let pools = admin.rows("SHOW POOLS");
        // sv_active and sv_idle_xact
        (pools.iter().all(|pool| pool[9] == "0" && pool[10] == "0")).then_some(())
    });
    let all = ask(&mut client, GROUPS, false);
    assert_eq!(rows(&all), 24_000);
    shards.pgdog.stop();
}
