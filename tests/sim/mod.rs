//! Pools of several cores and what is said over their connections, simulated from a seed.
//!
//! `SIM_SEED=17 cargo test --test pure sim` runs one seed again, `SIM_SEEDS=10000` runs more of them
//! (with `--release` that takes seconds).

mod plan;
mod random;
mod talk;
mod world;

use std::time::Duration;

use pgdog::pool::Limits;

use self::plan::{Command, Fault, Plan, Report, MS};
use self::random::Random;
use self::talk::Defect;
use self::world::World;

/// Seeds of an ordinary run.
const SEEDS: u64 = 5_000;

/// A few busy moments on a few cores, with every kind of trouble.
fn plan(seed: u64) -> Plan {
    let mut random = Random::new(seed);
    let cores = random.between(1, 8);
    let limits = limits(&mut random);
    let clients = random.pick(&[1, 3, 10, 30, 60]);
    let skewed = random.percent(30);
    let think = random.pick(&[MS / 10, MS, MS * 10, MS * 50]);
    let transaction = random.pick(&[MS / 10, MS, MS * 4]);
    // About as many transactions whatever their length.
    let cycle = (think + transaction) / clients.max(1);
    let cycle = cycle.max(transaction / u32::try_from(limits.pool_size).expect("small"));
    let busy = (cycle * 300).clamp(MS * 50, MS * 400);
    let some_time = |random: &mut Random| random.up_to(busy * 9 / 10);
    let mut commands = Vec::new();
    let tries = if random.percent(50) { 0 } else { 3 };
    for _ in 0..tries {
        let at = some_time(&mut random);
        match random.below(5) {
            4 => {
                commands.push((at, Command::Drain));
                commands.push((at + random.up_to(MS * 100), Command::Revive));
            }
            0 => {
                commands.push((at, Command::Pause));
                commands.push((at + random.up_to(MS * 100), Command::Resume));
            }
            1 => commands.push((at, Command::Reconnect)),
            2 => commands.push((at, Command::KillIdle)),
            _ => {
                let resized = Limits {
                    pool_size: random.between(1, 20),
                    min_pool_size: random.below(4),
                    ..limits.clone()
                };
                commands.push((at, Command::Resize(resized)));
            }
        }
    }
    if commands.iter().any(|(_, c)| matches!(c, Command::Pause)) {
        commands.push((busy, Command::Resume));
    }
    if commands.iter().any(|(_, c)| matches!(c, Command::Drain)) {
        commands.push((busy, Command::Revive));
    }
    commands.sort_by_key(|(at, _)| *at);
    let outage = random.percent(20).then(|| {
        let from = some_time(&mut random);
        (from, from + random.up_to(MS * 200))
    });
    Plan {
        seed,
        cores,
        offset: random.below(20),
        limits,
        clients: (0..clients)
            .map(|_| if skewed { 0 } else { random.below(cores) })
            .collect(),
        busy,
        think,
        transaction,
        mail_delay: random.pick(&[MS / 1_000, MS / 20, MS, MS * 4]),
        connect_time: random.pick(&[MS / 10, MS * 2, MS * 20]),
        close_time: random.pick(&[MS / 1_000, MS]),
        lost: random.pick(&[0, 0, 1, 20]),
        impatient: random.pick(&[0, 0, 5, 50]),
        failing: random.pick(&[0, 0, 0, 5, 50]),
        outage,
        commands,
        fault: None,
    }
}

fn limits(random: &mut Random) -> Limits {
    let size_max = random.pick(&[1, 1, 3, 8, 20]);
    Limits {
        pool_size: random.between(1, size_max),
        min_pool_size: random.below(4),
        checkout_timeout: random.pick(&[Duration::MAX, Duration::MAX, MS * 20, MS * 200]),
        connect_attempts: u32::try_from(random.between(1, 3)).expect("small"),
        connect_attempt_delay: random.pick(&[Duration::ZERO, MS * 5]),
        idle_timeout: random.pick(&[MS * 20, MS * 200]),
        server_lifetime: random.pick(&[Duration::MAX, Duration::from_secs(3_600), MS * 30]),
        server_lifetime_jitter: random.pick(&[Duration::ZERO, MS * 20]),
    }
}

/// A pool at work without any trouble.
fn calm(cores: usize, pool_size: usize, clients: Vec<usize>) -> Plan {
    Plan {
        seed: 1,
        cores,
        offset: 0,
        limits: Limits {
            pool_size,
            idle_timeout: MS * 1_000,
            ..Limits::default()
        },
        clients,
        busy: Duration::from_secs(4),
        think: MS,
        transaction: MS,
        mail_delay: MS / 20,
        connect_time: MS * 2,
        close_time: MS / 10,
        lost: 0,
        impatient: 0,
        failing: 0,
        outage: None,
        commands: Vec::new(),
        fault: None,
    }
}

fn run(plan: Plan) -> Report {
    World::run(plan).expect("a calm pool")
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

#[test]
fn every_seed_keeps_the_invariants() {
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    let single = seeds.end - seeds.start == 1;
    let mut total = Report::default();
    for seed in seeds {
        let plan = plan(seed);
        if single {
            eprintln!("{plan:#?}");
        }
        match World::run(plan) {
            Ok(report) => {
                total.transactions += report.transactions;
                total.gifts += report.gifts;
                total.failed += report.failed;
                total.events += report.events;
            }
            Err(what) => panic!("SIM_SEED={seed}: {what}"),
        }
    }
    eprintln!("{total:?}");
    if !single {
        // The runs are about something.
        assert!(total.transactions > 1_000 && total.gifts > 1_000 && total.failed > 100);
    }
}

#[test]
fn a_seed_is_always_the_same_run() {
    for seed in 0..10 {
        let once = format!("{:?}", World::run(plan(seed)));
        assert_eq!(once, format!("{:?}", World::run(plan(seed))));
    }
}

#[test]
fn every_fault_is_found() {
    let faults = [
        Fault::DuplicatePermit,
        Fault::DropServer,
        Fault::DropPermit,
        Fault::DropAsk,
        Fault::ReuseBeforeClosed,
        Fault::ForgetCheckin,
        Fault::WrongOrder,
        Fault::Talk(Defect::LostReply),
        Fault::Talk(Defect::DuplicateReply),
        Fault::Talk(Defect::WrongFate),
        Fault::Talk(Defect::NotDrained),
    ];
    for fault in faults {
        let found = (0..100).find_map(|seed| {
            let broken = Plan {
                fault: Some(fault),
                ..plan(seed)
            };
            World::run(broken).err()
        });
        assert!(found.is_some(), "{fault:?} goes unnoticed");
        eprintln!("{fault:?}: {found:?}");
    }
}

#[test]
fn one_connection_serves_every_core() {
    let report = run(calm(8, 1, (0..8).collect()));
    assert_eq!((report.open_max, report.connects), (1, 1));
    // Eight clients in a queue of eight transactions, and as many moves.
    assert!(report.longest_wait < MS * 120, "{report:?}");
    assert!(report.transactions > 2_500, "{report:?}");
}

#[test]
fn at_steady_load_hardly_any_mail() {
    // Saturated, and with room to spare; on every core the same, and on some more.
    let even = |each: usize| (0..4 * each).map(|client| client % 4).collect::<Vec<_>>();
    let uneven: Vec<_> = (0..60)
        .map(|client| [0, 0, 0, 0, 0, 1, 1, 2, 2, 3][client % 10])
        .collect();
    for (name, clients, pool_size) in [
        ("saturated", even(20), 16),
        ("half used", even(4), 16),
        ("uneven", uneven.clone(), 16),
        ("uneven, large", uneven, 40),
    ] {
        let report = run(calm(4, pool_size, clients));
        let (mails, gifts, transactions) = report.late;
        eprintln!("{name}: {report:?}");
        assert!(mails * 50 < transactions, "{name}: {report:?}");
        assert!(gifts * 1_000 < transactions, "{name}: {report:?}");
    }
}

#[test]
fn permits_drift_to_where_the_clients_are() {
    let report = run(calm(4, 16, vec![2; 40]));
    assert!(report.permits[2] >= 15, "{report:?}");
    // Three quarters of the clients on one core: it gets most, the others keep what they use.
    let clients = (0..64)
        .map(|c| if c % 4 == 0 { c / 4 % 4 } else { 0 })
        .collect();
    let report = run(calm(4, 16, clients));
    assert!(report.permits[0] >= 10, "{report:?}");
    assert!(
        report.permits[1..].iter().all(|p| (1..=3).contains(p)),
        "{report:?}"
    );
}

#[test]
fn sessions_on_one_core_get_connections_of_all_cores() {
    let sessions = Plan {
        think: Duration::ZERO,
        transaction: Duration::from_secs(20),
        busy: MS * 500,
        ..calm(8, 24, vec![3; 24])
    };
    let report = run(sessions);
    assert!(report.longest_wait < MS * 200, "{report:?}");
}

#[test]
fn the_minimum_is_a_total() {
    let idle = Plan {
        limits: Limits {
            min_pool_size: 1,
            ..Limits::default()
        },
        ..calm(8, 10, Vec::new())
    };
    let report = run(idle);
    assert_eq!((report.open_max, report.connects), (1, 1));
}

#[test]
fn an_outage_is_not_hammered() {
    let outage = Plan {
        outage: Some((Duration::ZERO, Duration::from_secs(4))),
        ..calm(4, 40, (0..80).map(|client| client % 4).collect())
    };
    let report = run(outage);
    // Four cores, eight attempts at first, then one at a time with a pause of up to a second.
    assert!(report.connects < 4 * (8 + 20) + 40, "{report:?}");
}
#[test]
fn a_pool_smaller_than_the_number_of_cores_costs_a_few_mails() {
    for (cores, pool_size, clients) in [(8, 1, 40), (8, 3, 200), (8, 7, 100), (32, 10, 300)] {
        let plan = Plan {
            busy: MS * 1_000,
            ..calm(cores, pool_size, (0..clients).map(|c| c % cores).collect())
        };
        // One of fifty transactions takes ten times as long.
        let possible = pool_size as f64 * 1_000.0 / 1.18;
        let report = run(plan);
        let (mails, _, transactions) = report.late;
        let name = format!("{cores} cores, {pool_size} permits: {report:?}");
        assert!(mails < 4 * transactions, "{name}");
        assert!(report.transactions as f64 > 0.85 * possible, "{name}");
    }
}

/// Prints the table of `docs/scaling.md`:
/// `cargo test --release --no-default-features --test pure -- --ignored --nocapture mail_by`
#[test]
#[ignore = "a measurement, of some minutes in a debug build"]
fn mail_by_cores_and_permits() {
    println!("|cores|permits|clients|mails per transaction|moves per transaction|of the possible throughput|");
    for cores in [8, 32, 96] {
        for pool_size in [cores / 4, cores, cores * 4] {
            // Twice as many as can be served: half think, half wait or are served.
            let clients = (0..4 * pool_size).map(|c| c % cores).collect::<Vec<_>>();
            let report = run(Plan {
                mail_delay: MS / 50,
                ..calm(cores, pool_size, clients.clone())
            });
            let (mails, moves, transactions) = report.late;
            let per = |count: u64| count as f64 / transactions as f64;
            let possible = pool_size as f64 * 4_000.0 / 1.18;
            println!(
                "|{cores}|{pool_size}|{}|{:.3}|{:.4}|{:.0}%|",
                clients.len(),
                per(mails),
                per(moves),
                report.transactions as f64 * 100.0 / possible,
            );
        }
    }
}
