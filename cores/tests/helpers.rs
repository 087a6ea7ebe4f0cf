//! Helper threads and a real core: a sleeping core is woken by the result, and a long job does not hold it up.

#![expect(clippy::unwrap_used, reason = "a test, its support functions too")]

use std::thread;
use std::time::{Duration, Instant};

use cores::blocking::{Blocking, Helpers, Lost};
use cores::names::Names;
use cores::placement::{Placement, Wish};
use cores::{start, Core, Mailbox, PostOffice};
use crossbeam_channel::Sender;

/// Runs `main` on one core with helpers, and hands out what it sends.
fn on_a_core<F, Fut, T>(main: F) -> T
where
    F: FnOnce(Core, Blocking, Sender<T>) -> Fut + Clone + Send + 'static,
    Fut: std::future::Future<Output = ()> + 'static,
    T: Send + 'static,
{
    let one = Wish {
        workers: Some(1),
        cpus: Vec::new(),
    };
    let cpus = Placement::choose(&one).unwrap().cpus;
    let helpers = Blocking::start(&Helpers {
        threads: 2,
        jobs_max: 64,
        avoid: cpus.clone(),
        nice: 5,
    });
    let helpers = helpers.unwrap();
    let (result, results) = crossbeam_channel::bounded(1);
    let main = move |core: Core, _: Mailbox<()>, _: PostOffice<()>| main(core, helpers, result);
    let cores = start(&cpus, 16, main).unwrap();
    let value = results.recv_timeout(Duration::from_secs(20)).unwrap();
    cores.join().unwrap();
    value
}

#[test]
fn results_wake_a_core_that_has_nothing_else_to_do() {
    let slowest = on_a_core(|core, helpers, result| async move {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            // Long enough for the core to fall asleep in its ring.
            let job = helpers.run(|| {
                thread::sleep(Duration::from_millis(15));
                Instant::now()
            });
            let finished = core.foreign(job).await.unwrap();
            slowest = slowest.max(finished.elapsed());
        }
        result.send(slowest).unwrap();
    });
    // Missing a wake would cost the longest wait in the ring, a second.
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[test]
fn a_long_job_does_not_hold_up_its_core() {
    let ticks = on_a_core(|core, helpers, result| async move {
        let job = core.foreign(helpers.run(|| thread::sleep(Duration::from_millis(300))));
        let mut job = std::pin::pin!(job);
        let mut ticks = 0;
        loop {
            let deadline = Instant::now() + Duration::from_millis(5);
            if core
                .timeout_at(Some(deadline), job.as_mut())
                .await
                .is_some()
            {
                break;
            }
            ticks += 1;
        }
        result.send(ticks).unwrap();
    });
    assert!(ticks >= 10, "{ticks} turns in 300 ms");
}

#[test]
fn names_and_panics() {
    on_a_core(|core, helpers, result| async move {
        let names = Names::start().unwrap();
        let addresses = core
            .foreign(names.resolve("localhost", 5432))
            .await
            .unwrap();
        assert!(addresses.iter().all(|address| address.port() == 5432));
        let lost: Result<(), Lost> = core
            .foreign(helpers.run(|| std::panic::resume_unwind(Box::new("expected"))))
            .await;
        assert_eq!(lost, Err(Lost::Panicked));
        result.send(()).unwrap();
    });
}

#[test]
fn a_core_that_panics_is_told_of_while_others_run() {
    let one = Wish {
        workers: Some(1),
        cpus: Vec::new(),
    };
    let cpu = Placement::choose(&one).unwrap().cpus[0];
    let cpus = [cpu, cpu];
    let main = |core: Core, mailbox: Mailbox<()>, _: PostOffice<()>| async move {
        mailbox.recv().await;
        assert!(core.index() == 0, "the other one");
        mailbox.recv().await;
    };
    let cores = start(&cpus, 16, main).unwrap();
    let office = cores.office().clone();
    let joined = thread::spawn(move || cores.join());
    assert!(office.send(0, ()).is_ok());
    assert!(office.send(1, ()).is_ok());
    let error = joined.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("its main task panicked"), "{error}");
    assert!(office.send(0, ()).is_ok(), "the first one still runs");
}
