//! What statements do to their session, and whether a server has the client's settings.

use std::hint::black_box;
use std::sync::Arc;

use gungraun::{library_benchmark, library_benchmark_group};
use pgdog::sql::lexer::Dialect;
use pgdog::sql::session::{effects, Effects};
use pgdog::sql::session_settings::SessionSettings;
use pgdog::sql::settings::{Settings, SettingsStore, Transition};
use pgdog_benches::SELECT_LITERAL;

/// A report over some tables, of which the quick path can prove that it is plain.
const REPORT: &[u8] = b"SELECT c.name, count(*) AS orders, sum(o.total) FROM customers c JOIN orders o \
    ON o.customer_id = c.id WHERE o.placed_at >= '2026-01-01' AND o.state IN ('paid', 'sent') AND c.region = 'eu' \
    GROUP BY c.name HAVING count(*) > 10 ORDER BY 3 DESC LIMIT 50";
/// It calls a function that the quick path does not know.
const CALL: &[u8] =
    b"SELECT refresh_totals(o.customer_id) FROM orders o WHERE o.state = 'paid; not sent' LIMIT 50";
const BATCH: &[u8] = b"BEGIN; UPDATE accounts SET balance = balance - 10 WHERE id = 4711; COMMIT";

#[library_benchmark]
#[bench::point_query(SELECT_LITERAL)]
#[bench::report(REPORT)]
#[bench::begin(b"BEGIN")]
#[bench::insert(
    b"INSERT INTO log (at, who, what) VALUES (now(), 'alice', 'logged in') RETURNING id"
)]
fn quick_path(text: &[u8]) -> Effects {
    effects(black_box(text), Dialect::default())
}

#[library_benchmark]
#[bench::call(CALL)]
#[bench::batch(BATCH)]
#[bench::set(b"SET search_path TO tenant_4711, public")]
#[bench::set_config(b"SELECT set_config('app.tenant', '4711', false)")]
fn whole_text(text: &[u8]) -> Effects {
    effects(black_box(text), Dialect::default())
}

fn settings(store: &mut SettingsStore, timezone: &[u8]) -> Arc<Settings> {
    let startup: [(&[u8], &[u8]); 4] = [
        (b"application_name", b"shop"),
        (b"client_encoding", b"UTF8"),
        (b"DateStyle", b"ISO"),
        (b"TimeZone", timezone),
    ];
    Arc::clone(SessionSettings::new(startup, store).committed())
}

/// The same settings of two clients: one pointer.
fn alike() -> (Arc<Settings>, Arc<Settings>) {
    let mut store = SettingsStore::default();
    (settings(&mut store, b"UTC"), settings(&mut store, b"UTC"))
}

/// The same from two cores: compared by value.
fn alike_elsewhere() -> (Arc<Settings>, Arc<Settings>) {
    let one = || settings(&mut SettingsStore::default(), b"UTC");
    (one(), one())
}

fn different() -> (Arc<Settings>, Arc<Settings>) {
    let mut store = SettingsStore::default();
    (
        settings(&mut store, b"UTC"),
        settings(&mut store, b"Europe/Berlin"),
    )
}

#[library_benchmark]
#[bench::same(alike())]
#[bench::same_from_another_core(alike_elsewhere())]
#[bench::different(different())]
fn settings_compared(
    pair: (Arc<Settings>, Arc<Settings>),
) -> (Option<Transition>, [Arc<Settings>; 2]) {
    let transition = Transition::between(black_box(&pair.0), black_box(&pair.1));
    (transition, [pair.0, pair.1])
}

library_benchmark_group!(
    name = sessions,
    benchmarks = [quick_path, whole_text, settings_compared]
);
