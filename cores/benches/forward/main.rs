//! What does a forwarded request cost? Contenders take turns between a load generator and an echo target.
//!
//! ```text
//!  this process: load ──100 B──►  child: contender ──►  this process: target
//!                     ◄──100 B or 16 KiB──
//! ```
//!
//! `cargo bench -p cores --bench forward -- --rounds 5 --seconds 2 --connections 1,8,64,500 --answers 100,16384
//! --contenders epoll,tokio,ring --cores 1`. Every value has a default. CPU is what the contender's threads used
//! by their scheduler statistics, so a busy neighbour falsifies requests per second more than it does requests per
//! CPU-second. Contenders are interleaved; compare within a round, and the medians over rounds.

#![expect(clippy::print_stdout, reason = "its purpose")]
#![expect(clippy::unwrap_used, reason = "a measurement that fails should stop")]

mod contender;
mod load;
mod poller;

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use contender::Contender;
use cores::placement::{Placement, Wish};
use load::Measured;

/// Bytes a forwarder reads at once.
const BUFFER_BYTES: usize = 16 * 1024;

struct Plan {
    rounds: usize,
    window: Duration,
    connections: Vec<usize>,
    answers_bytes: Vec<usize>,
    contenders: Vec<Contender>,
    cores: usize,
}

struct Run {
    contender: Contender,
    connections: usize,
    answer_bytes: usize,
    round: usize,
    measured: Measured,
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, target, cpus] = args.as_slice() {
        if flag == "--contender" {
            let (contender, target) = (name.parse().unwrap(), target.parse().unwrap());
            let cpus = cpus.split(',').map(|cpu| cpu.parse().unwrap());
            return serve(contender, target, cpus.collect());
        }
    }
    let plan = Plan::read(&args);
    let (serving, loading) = share_cpus(plan.cores);
    println!(
        "contender on CPUs {serving:?}, load and target on {loading:?}, {} rounds of {:?}",
        plan.rounds, plan.window
    );

    let targets: Vec<(usize, SocketAddr)> = plan
        .answers_bytes
        .iter()
        .map(|&bytes| (bytes, load::start_target(bytes, loading.clone())))
        .collect();
    poller::pin(&loading)?;

    let mut runs = Vec::new();
    println!("round,contender,answer_bytes,connections,requests,cpu_ms,p50_us,p99_us");
    for round in 0..plan.rounds {
        for &(answer_bytes, target) in &targets {
            for &connections in &plan.connections {
                for &contender in &plan.contenders {
                    let child = Served::start(contender, target, &serving)?;
                    let cpu = || child.cpu();
                    let measured =
                        load::measure(child.address, connections, answer_bytes, plan.window, &cpu)
                            .map_err(|e| {
                                io::Error::new(e.kind(), format!("{contender}, {connections}: {e}"))
                            })?;
                    println!(
                        "{round},{contender},{answer_bytes},{connections},{},{},{},{}",
                        measured.requests,
                        measured.cpu.as_millis(),
                        measured.p50.as_micros(),
                        measured.p99.as_micros()
                    );
                    runs.push(Run {
                        contender,
                        connections,
                        answer_bytes,
                        round,
                        measured,
                    });
                }
            }
        }
    }
    summary(&plan, &runs);
    Ok(())
}

impl Plan {
    /// Without `--bench`, as under `cargo test --benches`, only a moment of each: does it still run?
    fn read(args: &[String]) -> Self {
        let measuring = args.iter().any(|arg| arg == "--bench");
        let value = |name: &str, default: &str, trial: &str| {
            let given = args.iter().position(|arg| arg == name);
            let given = given.and_then(|at| args.get(at + 1));
            given.map_or_else(
                || if measuring { default } else { trial }.to_owned(),
                String::clone,
            )
        };
        let list =
            |text: String| -> Vec<usize> { text.split(',').map(|n| n.parse().unwrap()).collect() };
        let names = value("--contenders", "epoll,tokio,ring", "epoll,tokio,ring");
        Self {
            rounds: value("--rounds", "3", "1").parse().unwrap(),
            window: Duration::from_secs_f64(value("--seconds", "1", "0.05").parse().unwrap()),
            connections: list(value("--connections", "1,8,64,500", "1,8")),
            answers_bytes: list(value("--answers", "100,16384", "100,16384")),
            contenders: names.split(',').map(|name| name.parse().unwrap()).collect(),
            cores: value("--cores", "1", "1").parse().unwrap(),
        }
    }
}

/// The contender's CPUs and everybody else's: apart, if there are enough.
fn share_cpus(cores: usize) -> (Vec<usize>, Vec<usize>) {
    let all = Placement::choose(&Wish::default()).unwrap().cpus;
    let mut serving = all.clone();
    let mut loading = serving.split_off(cores.min(all.len()));
    if loading.is_empty() {
        loading = all;
    }
    (serving, loading)
}

/// The child's side: announces its address, then forwards until the parent is gone.
fn serve(contender: Contender, target: SocketAddr, cpus: Vec<usize>) -> io::Result<()> {
    thread::spawn(|| {
        // Ends with the parent's end of the pipe, however the parent ends.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    contender.forward(target, cpus, |address| println!("{address}"))
}

/// A contender in a process of its own, which ends with this value.
struct Served {
    child: Child,
    address: SocketAddr,
}

impl Served {
    fn start(contender: Contender, target: SocketAddr, cpus: &[usize]) -> io::Result<Self> {
        let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "--contender",
                &contender.to_string(),
                &target.to_string(),
                &cpus.join(","),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line)?;
        let address = line.trim().parse();
        let address = address
            .map_err(|_| io::Error::other(format!("{contender} did not start: {line:?}")))?;
        Ok(Self { child, address })
    }

    /// CPU time of all its threads, from the scheduler, in nanoseconds exact.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanos = |task: io::Result<fs::DirEntry>| -> u64 {
            let text =
                fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            text.split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or_default()
        };
        Duration::from_nanos(tasks.map(nanos).sum())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Medians over the rounds; the ratio is taken within each round.
fn summary(plan: &Plan, runs: &[Run]) {
    println!("\nmedians: thousand requests per CPU-second (ratio to epoll), p50/p99 ms");
    for &answer_bytes in &plan.answers_bytes {
        println!("\nanswers of {answer_bytes} bytes");
        print!("{:<12}", "connections");
        plan.connections.iter().for_each(|n| print!("{n:>28}"));
        println!();
        for &contender in &plan.contenders {
            print!("{:<12}", contender.to_string());
            for &connections in &plan.connections {
                let of = |wanted: Contender| {
                    runs.iter().filter(move |run| {
                        run.contender == wanted
                            && run.connections == connections
                            && run.answer_bytes == answer_bytes
                    })
                };
                let base = |round| {
                    of(Contender::Epoll)
                        .find(|run| run.round == round)
                        .map(|run| run.measured.rate())
                };
                let rate = median(of(contender).map(|run| run.measured.rate()).collect());
                let ratios =
                    of(contender).filter_map(|run| Some(run.measured.rate() / base(run.round)?));
                let p50 = median(
                    of(contender)
                        .map(|run| run.measured.p50.as_secs_f64())
                        .collect(),
                );
                let p99 = median(
                    of(contender)
                        .map(|run| run.measured.p99.as_secs_f64())
                        .collect(),
                );
                let cell = format!(
                    "{:.1} ({:.2}) {:.2}/{:.2}",
                    rate / 1000.0,
                    median(ratios.collect()),
                    p50 * 1000.0,
                    p99 * 1000.0
                );
                print!("{cell:>28}");
            }
            println!();
        }
    }
}

/// NaN if there is nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
