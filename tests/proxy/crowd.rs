//! Thousands of connected clients of which few are active.

use std::time::{Duration, Instant};

use crate::support::process::allow_open_files;
use crate::support::sampler::Sampler;
use crate::support::{Config, Postgres, Wire};

const CLIENTS: usize = 5_000;
const ACTIVE: usize = 50;
/// Most memory of an idle client here, without optimisation: 1,740 when this was written.
const IDLE_BYTES_MAX: u64 = 2_100;

#[test]
fn five_thousand_clients_fifty_of_them_active() {
    // Our end of each connection; pgdog, a process of its own, has as many and raises its limit itself.
    allow_open_files(CLIENTS as u64 + 500);
    let database = Postgres::shared().database("crowd");
    // Cleartext passwords: 5,000 key derivations of ours would only slow the test down.
    let pgdog = Config::of(&database)
        .general("auth_type = \"plain\"\nlog_connections = false\nlog_disconnections = false")
        .start();
    let before_kb = pgdog.forget_peak();
    let mut idle = (0..CLIENTS)
        .map(|_| pgdog.client(&database))
        .collect::<Vec<_>>();
    let bytes = (pgdog.peak_kb() - before_kb) * 1024 / CLIENTS as u64;
    println!("{bytes} bytes per idle client");
    assert!(bytes <= IDLE_BYTES_MAX, "{bytes} bytes per idle client");

    let sampler = Sampler::start(&database);
    let active = idle.split_off(CLIENTS - ACTIVE);
    let end = Instant::now() + Duration::from_secs(3);
    let statements = std::thread::scope(|scope| {
        let run = |mut client: Wire| {
            let mut statements = 0_u64;
            while Instant::now() < end {
                assert_eq!(client.query("SELECT 7"), "T D:7 C:SELECT_1 Z:I");
                statements += 1;
            }
            statements
        };
        let threads = active
            .into_iter()
            .map(|client| scope.spawn(move || run(client)));
        threads
            .collect::<Vec<_>>()
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum::<u64>()
    });
    assert!(statements >= ACTIVE as u64, "only {statements} statements");
    for client in &mut idle {
        assert_eq!(client.query("SELECT 8"), "T D:8 C:SELECT_1 Z:I");
    }
    assert!(sampler.stop() <= 10);
    drop(idle);
    pgdog.stop();
}
