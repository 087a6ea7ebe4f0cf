//! Streams, mail and timers of real cores against plain blocking sockets.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests fail by panicking"
)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cores::{start, Address, Mailbox, PostOffice, Stream, TcpOptions};

use support::{serve, wander};

enum Mail {
    Stop,
    Count(u64),
}

fn cpus(count: usize) -> Vec<usize> {
    vec![0, 1].into_iter().take(count).collect()
}

async fn echo(stream: Stream) {
    while let Ok(Some(buf)) = stream.recv().await {
        if std::future::poll_fn(|cx| stream.poll_room(cx))
            .await
            .is_err()
        {
            return;
        }
        stream.send(buf);
    }
    let _ = stream.close().await;
}

/// The kernel takes its time to take a ring apart, and what listens there with it.
#[test]
fn cores_that_have_ended_refuse_at_once() {
    let (address, stop) = serve(&cpus(2), |_, stream| echo(stream));
    drop(TcpStream::connect(address).unwrap());
    stop();
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// A core is not woken for a connection and again for what it says; silent ones come after a second.
#[test]
fn connections_come_with_their_first_bytes() {
    let (tell, told) = mpsc::channel();
    let (address, stop) = serve(&cpus(1), move |_, stream| {
        tell.send(stream.peer().unwrap()).unwrap();
        echo(stream)
    });
    loop {
        let begun = Instant::now();
        let silent = TcpStream::connect(address).unwrap();
        let mut first = TcpStream::connect(address).unwrap();
        first.write_all(b"first").unwrap();
        let came = told.recv().unwrap();
        let in_time = begun.elapsed() < Duration::from_secs(1);
        let last = told.recv().unwrap();
        // If this thread was held up for so long, either may have come first.
        if in_time {
            let connected = [&first, &silent].map(|socket| socket.local_addr().unwrap());
            assert_eq!([came, last], connected);
            break;
        }
    }
    stop();
}

#[test]
fn echoes_many_sizes_intact() {
    let (address, stop) = serve(&cpus(2), |_, stream| echo(stream));
    std::thread::scope(|scope| {
        for client in 0..8_u8 {
            scope.spawn(move || {
                let mut socket = TcpStream::connect(address).unwrap();
                for size in [1, 7, 100, 16_383, 16_384, 16_385, 300_000] {
                    let sent: Vec<u8> = (0..size).map(|at| (at % 251) as u8 ^ client).collect();
                    let mut writer = socket.try_clone().unwrap();
                    let mut back = vec![0; size];
                    std::thread::scope(|scope| {
                        scope.spawn(|| writer.write_all(&sent).unwrap());
                        socket.read_exact(&mut back).unwrap();
                    });
                    assert!(back == sent, "client {client}, {size} bytes");
                }
                socket.shutdown(Shutdown::Write).unwrap();
                assert_eq!(socket.read(&mut [0; 8]).unwrap(), 0);
            });
        }
    });
    stop();
}

#[test]
fn a_stalled_reader_holds_back_the_sender_and_nobody_else() {
    let (address, stop) = serve(&cpus(1), |_, stream| echo(stream));
    let stalled: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.set_nonblocking(true).unwrap();
            let chunk = [7; 65_536];
            // Until the way there and back is full.
            while socket.write(&chunk).is_ok() {}
            socket
        })
        .collect();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(b"still served").unwrap();
    let mut back = [0; 12];
    socket.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still served");
    drop(stalled);
    stop();
}

/// The scheduling policy of this thread: 0 is SCHED_OTHER, 3 is SCHED_BATCH (proc_pid_stat(5), the 41st field).
fn policy() -> u8 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // Behind the name, which may have spaces, and is the second.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let policy = fields.split_whitespace().nth(41 - 3).unwrap();
    policy.parse().unwrap()
}

#[test]
fn a_core_gives_way_while_it_receives_bulk() {
    const BULK: usize = 1 << 20;
    if policy() != 0 {
        return; // somebody has chosen another one, which cores keep
    }
    let (address, stop) = serve(&cpus(1), |_, stream| async move {
        let mut received = 0;
        while let Ok(Some(buf)) = stream.recv().await {
            received += buf.len();
            drop(buf);
            if received >= BULK {
                stream.write(&[policy()]);
            }
        }
    });
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    let mut told = [0];
    socket.write_all(&vec![0; BULK]).unwrap();
    socket.read_exact(&mut told).unwrap();
    assert_eq!(told, [3], "in bulk");
    for _ in 0..100 {
        socket.write_all(&[0]).unwrap();
        socket.read_exact(&mut told).unwrap();
    }
    assert_eq!(told, [0], "after a hundred small messages");
    drop(socket);
    stop();
}

#[test]
fn connects_and_reports_refusal() {
    let (address, stop) = serve(&cpus(1), |_, stream| echo(stream));
    let (tell, told) = mpsc::channel();
    let unused = TcpStream::connect(address).unwrap().local_addr().unwrap();
    let client = start(
        &cpus(1),
        1,
        move |core, _: Mailbox<()>, _: PostOffice<()>| async move {
            let options = TcpOptions::default();
            let refused = Stream::connect(&core, &Address::Tcp(unused), &options).await;
            tell.send(refused.err().map(|error| error.kind())).unwrap();
            let stream = Stream::connect(&core, &Address::Tcp(address), &options)
                .await
                .unwrap();
            stream.write(b"ping");
            stream.write(b"pong");
            let mut got = Vec::new();
            while got.len() < 8 {
                got.extend_from_slice(&stream.recv().await.unwrap().unwrap());
            }
            assert_eq!(got, b"pingpong");
            stream.close().await.unwrap();
        },
    )
    .unwrap();
    client.join().unwrap();
    assert_eq!(
        told.recv().unwrap(),
        Some(std::io::ErrorKind::ConnectionRefused)
    );
    stop();
}

#[test]
fn a_panic_ends_one_task_only() {
    let (address, stop) = serve(&cpus(1), |_, stream| async move {
        let first = stream.recv().await.unwrap().unwrap();
        assert_ne!(first.first(), Some(&b'!'), "a panic on purpose");
        stream.send(first);
        let _ = stream.close().await;
    });
    let mut bad = TcpStream::connect(address).unwrap();
    bad.write_all(b"!").unwrap();
    assert_eq!(bad.read(&mut [0; 8]).unwrap_or(0), 0);
    let mut good = TcpStream::connect(address).unwrap();
    good.write_all(b"ok").unwrap();
    let mut back = Vec::new();
    good.read_to_end(&mut back).unwrap();
    assert_eq!(back, b"ok");
    stop();
}

#[test]
fn timers_fire_in_order_and_dropped_ones_do_not() {
    let (tell, told) = mpsc::channel();
    let cores = start(
        &cpus(1),
        1,
        move |core, _: Mailbox<()>, _: PostOffice<()>| async move {
            let begun = core.now();
            let none = core
                .timeout_at(
                    Some(core.now() + Duration::from_millis(20)),
                    std::future::pending::<()>(),
                )
                .await;
            tell.send(none.is_none()).unwrap();
            assert!(core.now() - begun >= Duration::from_millis(20));
            drop(core.sleep(Duration::from_secs(3600)));
            let some = core
                .timeout_at(Some(core.now() + Duration::from_secs(3600)), async { 7 })
                .await;
            tell.send(some == Some(7)).unwrap();
        },
    )
    .unwrap();
    cores.join().unwrap();
    assert_eq!(told.iter().collect::<Vec<_>>(), [true, true]);
}

#[test]
fn mail_reaches_sleeping_and_busy_cores() {
    const ROUNDS: u64 = 3_000;
    let (tell, told) = mpsc::channel();
    let cores = start(
        &cpus(2),
        4,
        move |core, mailbox: Mailbox<Mail>, office: PostOffice<Mail>| async move {
            let other = 1 - core.index();
            if core.index() == 0 {
                assert!(office.send(other, Mail::Count(0)).is_ok());
            }
            loop {
                let Mail::Count(count) = mailbox.recv().await else {
                    return;
                };
                if count % 7 == 0 {
                    // Something else to do now and then, so that mail also meets a busy core.
                    for _ in 0..count % 50 {
                        core.yield_now().await;
                    }
                }
                if count >= ROUNDS {
                    let _ = office.send(other, Mail::Stop);
                    tell.send(count).unwrap();
                    return;
                }
                assert!(office.send(other, Mail::Count(count + 1)).is_ok());
            }
        },
    )
    .unwrap();
    cores.join().unwrap();
    assert_eq!(told.recv().unwrap(), ROUNDS);
}

#[test]
fn a_full_mailbox_gives_the_mail_back() {
    let (tell, told) = mpsc::channel();
    let cores = start(
        &cpus(1),
        2,
        move |_, mailbox: Mailbox<Mail>, office: PostOffice<Mail>| async move {
            assert!(office.send(0, Mail::Count(1)).is_ok());
            assert!(office.send(0, Mail::Count(2)).is_ok());
            let back = office.send(0, Mail::Count(3));
            tell.send(matches!(back, Err(Mail::Count(3)))).unwrap();
            assert!(office.send(7, Mail::Stop).is_err());
            assert!(matches!(mailbox.recv().await, Mail::Count(1)));
        },
    )
    .unwrap();
    cores.join().unwrap();
    assert!(told.recv().unwrap());
}

#[test]
fn a_connection_moves_between_cores_mid_stream() {
    let (address, cores) = wander(10_000, |stream| async { stream });
    let sent: Vec<u8> = (0..2_000_000_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut socket = TcpStream::connect(address).unwrap();
    let mut writer = socket.try_clone().unwrap();
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        socket.read_to_end(&mut back).unwrap();
    });
    assert!(back == sent);
    cores.join().unwrap();
}

/// Receives go on by themselves where little comes at a time: what they bring while nobody reads waits in its order, with the end behind
/// it, also where the connection goes elsewhere.
#[test]
fn what_comes_while_nobody_reads_is_kept_in_order() {
    let (address, stop) = serve(&cpus(1), |core, mut stream| async move {
        for _ in 0..40 {
            let request = stream.recv().await.unwrap().unwrap();
            stream.send(request);
        }
        for round in 0.. {
            core.sleep(Duration::from_millis(2)).await;
            if round % 3 == 0 {
                let Ok(detached) = stream.detach().await else {
                    return; // the last clients are gone
                };
                let received = detached.received.clone();
                stream = Stream::attach(&core, detached);
                stream.write(&received);
            }
            let Ok(Some(bytes)) = stream.recv().await else {
                break;
            };
            stream.send(bytes);
        }
        let _ = stream.close().await;
    });
    for chunk in [1, 10, 700, 5_000, 100_000] {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        for _ in 0..40 {
            socket.write_all(b"?").unwrap();
            socket.read_exact(&mut [0]).unwrap();
        }
        let sent: Vec<u8> = (0..chunk * 60).map(|at| (at % 251) as u8).collect();
        let mut writer = socket.try_clone().unwrap();
        let mut back = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in sent.chunks(chunk) {
                    writer.write_all(piece).unwrap();
                    std::thread::sleep(Duration::from_micros(300));
                }
                writer.shutdown(Shutdown::Write).unwrap();
            });
            socket.read_to_end(&mut back).unwrap();
        });
        assert!(
            back == sent,
            "{} of {} bytes of {chunk}",
            back.len(),
            sent.len()
        );
    }
    // One that is gone with what nobody has read.
    for _ in 0..20 {
        let mut socket = TcpStream::connect(address).unwrap();
        for _ in 0..40 {
            socket.write_all(b"?").unwrap();
            socket.read_exact(&mut [0]).unwrap();
        }
        for _ in 0..20 {
            socket.write_all(b"more").unwrap();
        }
    }
    stop();
}
