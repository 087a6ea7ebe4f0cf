//! Results and COPY far larger than what the proxy may hold: back-pressure in both directions.

use std::io::ErrorKind;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::process::signal_process;
use crate::support::wire::{
    bind, copy_data, copy_done, execute, parse, query, sync, tagged, Message,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

/// Size of the results and COPYs.
const GIGABYTE: usize = 1 << 30;
/// What the proxy's memory may grow by, in kB.
const GROWTH_MAX_KB: u64 = 64 * 1024;
/// Length of the text in each row.
const ROW: usize = 8_000;

/// Runs `work` on a fresh client; pgdog's memory may not grow by more than the limit meanwhile.
fn check(work: impl FnOnce(&Pgdog, &mut Wire, &str)) {
    let database = Postgres::shared().database("streaming");
    let pgdog = Config::of(&database).start();
    let mut client = pgdog.client(&database);
    assert_eq!(client.value("SELECT 1"), "1");
    let before_kb = pgdog.forget_peak();
    work(&pgdog, &mut client, &database);
    let growth_kb = pgdog.peak_kb().saturating_sub(before_kb);
    println!("grew by {growth_kb} kB");
    assert!(growth_kb < GROWTH_MAX_KB, "grew by {growth_kb} kB");
    assert_eq!(client.query("SELECT 2"), "T D:2 C:SELECT_1 Z:I");
    pgdog.stop();
}

/// Reads a result of `rows` rows, calling `pace` with the bytes read so far before each read.
fn read_rows(client: &mut Wire, mut pace: impl FnMut(usize)) -> usize {
    let mut rows = 0;
    let mut bytes = 0;
    loop {
        pace(bytes);
        let Message { tag, body } = client.read();
        bytes += body.len() + 5;
        match tag {
            b'D' => {
                assert_eq!(body.len(), 2 + 4 + ROW);
                rows += 1;
            }
            b'Z' => return rows,
            b'E' => panic!("an error after {rows} rows"),
            _ => {}
        }
    }
}

fn rows_query(bytes: usize) -> (Vec<u8>, usize) {
    let rows = bytes / ROW;
    (
        query(&format!(
            "SELECT repeat('x', {ROW}) FROM generate_series(1, {rows})"
        )),
        rows,
    )
}

#[test]
fn a_result_of_one_gigabyte() {
    check(|_, client, _| {
        let (query, rows) = rows_query(GIGABYTE);
        client.send(&query);
        assert_eq!(read_rows(client, |_| {}), rows);
    });
}

#[test]
fn a_result_of_one_gigabyte_for_a_slow_reader() {
    check(|_, client, _| {
        let (query, rows) = rows_query(GIGABYTE);
        client.send(&query);
        // Two seconds of nothing, then a crawl for the first 20 MB, then a pause in the middle.
        let mut paused = 0;
        let pace = |bytes: usize| {
            if bytes == 0 || (paused == 0 && bytes > GIGABYTE / 2) {
                paused = usize::from(bytes > 0);
                std::thread::sleep(Duration::from_secs(2));
            } else if bytes < 20_000_000 {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        assert_eq!(read_rows(client, pace), rows);
    });
}

#[test]
fn a_single_row_of_two_hundred_megabytes() {
    const LENGTH: usize = 200_000_000;
    check(|_, client, _| {
        client.send(&query(&format!("SELECT repeat('x', {LENGTH})")));
        let messages = client.read_until(b'Z');
        let row = messages.iter().find(|message| message.tag == b'D').unwrap();
        assert_eq!(row.body.len(), 2 + 4 + LENGTH);
    });
}

#[test]
fn a_single_parameter_of_two_hundred_megabytes() {
    const LENGTH: usize = 200_000_000;
    check(|_, client, _| {
        let value = "x".repeat(LENGTH);
        let messages = [
            parse("", "SELECT length($1::text)"),
            bind("", "", &[Some(&value)]),
            execute("", 0),
            sync(),
        ];
        assert_eq!(
            client.ask(&messages),
            format!("1 2 D:{LENGTH} C:SELECT_1 Z:I")
        );
    });
}

#[test]
fn copy_in_of_one_gigabyte() {
    check(|_, client, database| {
        client.query("CREATE UNLOGGED TABLE t (v text)");
        assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
        let line = [&[b'x'; ROW][..], b"\n"].concat();
        let frame = copy_data(&line.repeat(10));
        let frames = GIGABYTE / frame.len();
        for _ in 0..frames {
            client.send(&frame);
        }
        assert_eq!(
            client.ask(&[copy_done()]),
            format!("C:COPY_{} Z:I", frames * 10)
        );
        let counted =
            Postgres::shared().value(database, "SELECT count(*) || ' ' || sum(length(v)) FROM t");
        assert_eq!(counted, format!("{} {}", frames * 10, frames * 10 * ROW));
        client.query("DROP TABLE t");
    });
}

#[test]
fn copy_out_of_one_gigabyte() {
    check(|_, client, _| {
        let rows = GIGABYTE / ROW;
        client.send(&query(&format!(
            "COPY (SELECT repeat('x', {ROW}) FROM generate_series(1, {rows})) TO STDOUT"
        )));
        let mut lines = 0;
        loop {
            let Message { tag, body } = client.read();
            match tag {
                b'd' => {
                    assert_eq!(body.len(), ROW + 1);
                    lines += 1;
                }
                b'Z' => break,
                b'E' => panic!("an error after {lines} lines"),
                _ => {}
            }
        }
        assert_eq!(lines, rows);
    });
}

#[test]
fn copy_in_waits_for_a_server_that_does_not_read() {
    check(|pgdog, client, database| {
        client.query("CREATE UNLOGGED TABLE t (v text)");
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        let backend = client.value("SELECT pg_backend_pid()").parse().unwrap();
        assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
        signal_process(backend, Signal::STOP);
        let frame = copy_data(&[&[b'x'; ROW][..], b"\n"].concat());
        client.patience(Duration::from_secs(2));
        // The kernel's buffers and ours fill up, then the client has to wait: it cannot send a gigabyte.
        let stopped =
            (0..GIGABYTE / frame.len()).find_map(|number| match client.try_send(&frame) {
                Ok(()) => None,
                Err(error) => Some((number, error)),
            });
        signal_process(backend, Signal::CONT);
        let (number, error) = stopped.expect("back-pressure reaches the client");
        assert!(
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{error}"
        );
        assert!(
            number * frame.len() < 100_000_000,
            "{number} frames were taken"
        );
        // Where in the frame the client was stopped is not known: this connection is of no more use.
        let fresh = pgdog.client(database);
        std::mem::replace(client, fresh).reset();
    });
}

#[test]
fn a_long_query_text() {
    check(|_, client, _| {
        let text = format!("SELECT length('{}')", "x".repeat(20_000_000));
        assert_eq!(client.query(&text), "T D:20000000 C:SELECT_1 Z:I");
        assert_eq!(
            client.ask(&[tagged(b'Q', b"SELECT 3\0")]),
            "T D:3 C:SELECT_1 Z:I"
        );
    });
}
