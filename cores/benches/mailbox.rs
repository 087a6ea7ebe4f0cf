//! Mail from core to core: one-way latency to a sleeping and to a busy core, and messages per second.
//!
//! `cargo bench -p cores --bench mailbox`. Needs two CPUs; prints one line per measurement.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use cores::placement::{Placement, Wish};
use cores::{start, Core, Mailbox, PostOffice};

const LATENCIES: usize = 2_000;
const BURST: usize = 64;
const BURSTS: usize = 5_000;

enum Mail {
    Sent(Instant),
    Count,
    Stop,
}

/// What the receiving core does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Receiver {
    Sleeping,
    Busy,
}

fn main() {
    let cpus = Placement::choose(&Wish::default()).unwrap().cpus;
    let Some(pair) = cpus.get(..2) else {
        println!("needs two CPUs, this process may use {}", cpus.len());
        return;
    };
    for receiver in [Receiver::Sleeping, Receiver::Busy] {
        let mut delays = latency(pair, receiver);
        delays.sort();
        let at = |percent: usize| delays[(delays.len() - 1) * percent / 100];
        println!(
            "latency, receiver {receiver:?}: p50 {:?}, p99 {:?}, longest {:?}",
            at(50),
            at(99),
            at(100)
        );
    }
    println!(
        "throughput: {:.2} million mails per second, in bursts of {BURST}",
        throughput(pair) / 1e6
    );
}

/// One mail at a time, with a pause in which the receiver goes to sleep, or finds something to do.
fn latency(cpus: &[usize], receiver: Receiver) -> Vec<Duration> {
    let (tell, told) = mpsc::channel();
    let cores = start(
        cpus,
        LATENCIES + 1, // whoever gets no CPU is late, and nobody fails
        move |core: Core, mailbox: Mailbox<Mail>, office: PostOffice<Mail>| async move {
            if core.index() == 0 {
                for _ in 0..LATENCIES {
                    core.sleep(Duration::from_micros(300)).await;
                    assert!(office.send(1, Mail::Sent(Instant::now())).is_ok());
                }
                assert!(office.send(1, Mail::Stop).is_ok());
                return;
            }
            if receiver == Receiver::Busy {
                // A task that is always runnable, a microsecond at a time.
                let busy = core.clone();
                core.spawn(async move {
                    loop {
                        let begun = Instant::now();
                        while begun.elapsed() < Duration::from_micros(1) {}
                        busy.yield_now().await;
                    }
                });
            }
            while let Mail::Sent(at) = mailbox.recv().await {
                tell.send(at.elapsed()).unwrap();
            }
        },
    )
    .unwrap();
    cores.join().unwrap();
    told.iter().collect()
}

fn throughput(cpus: &[usize]) -> f64 {
    let (tell, told) = mpsc::channel();
    let cores = start(
        cpus,
        2 * BURST,
        move |core: Core, mailbox: Mailbox<Mail>, office: PostOffice<Mail>| async move {
            if core.index() == 0 {
                for _ in 0..BURSTS * BURST {
                    // A full box: let the other core work.
                    while office.send(1, Mail::Count).is_err() {
                        core.yield_now().await;
                    }
                }
                while office.send(1, Mail::Stop).is_err() {
                    core.yield_now().await;
                }
                return;
            }
            let begun = Instant::now();
            let mut count = 0_u32;
            while matches!(mailbox.recv().await, Mail::Count) {
                count += 1;
            }
            tell.send(f64::from(count) / begun.elapsed().as_secs_f64())
                .unwrap();
        },
    )
    .unwrap();
    cores.join().unwrap();
    told.recv().unwrap()
}
