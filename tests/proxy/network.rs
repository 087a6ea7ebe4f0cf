//! Servers that are there and do not answer: a network that drops everything, processes that are stopped.

use std::time::Duration;

use crate::failover::{
    create_table, pgdog_before, ports, primary_of, replace_amid, strike_under_load, Fault,
    CHECK_INTERVAL_MS,
};
use crate::support::process::{poll, PATIENCE};
use crate::support::replicas::SERVERS;
use crate::support::wire::{query, transcript};
use crate::support::{Forwarder, Trio};

/// More than cores, so that no core has one only.
const CLIENTS: usize = 6;

/// A network between pgdog and each server.
fn networks(trio: &Trio) -> Vec<Forwarder> {
    let servers = 0..SERVERS;
    servers
        .map(|server| Forwarder::to(trio.port(server)))
        .collect()
}

fn ports_of(networks: &[Forwarder]) -> Vec<u16> {
    networks.iter().map(Forwarder::port).collect()
}

#[test]
fn servers_behind_a_network_that_drops_everything_are_passed_over() {
    let mut trio = Trio::start();
    let networks = networks(&trio);
    let ports = ports_of(&networks);
    let hold = Duration::from_millis(4 * CHECK_INTERVAL_MS);
    let cut = |_: &mut Trio, server: usize| networks[server].cut();
    let mend = |trio: &mut Trio, server: usize| {
        networks[server].mend();
        primary_of(trio)
    };
    // It lives on, is replaced, and is heard again.
    let replace =
        |trio: &mut Trio, server: usize| replace_amid(trio, server, |_| networks[server].mend());
    let fault = |name, primary, hold, mend| Fault {
        name,
        primary,
        hold,
        strike: &cut,
        mend,
    };
    strike_under_load(
        &mut trio,
        &ports,
        [
            fault(
                "replica, network dropped for four seconds",
                false,
                hold,
                &mend,
            ),
            fault(
                "primary, network dropped for four seconds",
                true,
                hold,
                &mend,
            ),
            fault(
                "primary, network dropped, a replica is promoted, the old one is heard again",
                true,
                Duration::ZERO,
                &replace as &dyn Fn(&mut Trio, usize) -> usize,
            ),
        ],
    );
}

/// Without `query_timeout`, statements on a replica that hangs would wait for as long as it does.
#[test]
fn what_a_replica_has_when_it_hangs_is_given_up() {
    let trio = Trio::start();
    let networks = networks(&trio);
    for cut in [false, true] {
        let ports = match cut {
            true => ports_of(&networks),
            false => ports(&trio),
        };
        let pgdog = pgdog_before(
            &ports,
            "load_balancing_strategy = \"least_active_connections\"",
        );
        create_table(&pgdog);
        trio.caught_up(0);
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| pgdog.client("app")).collect();
        for client in &mut clients {
            client.query("SET pgdog.role = 'replica'");
            client.send(&query("SELECT pg_sleep(600)"));
        }
        let sleeping = |server: usize| {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
            let count = trio.admin(server, "postgres").value(sql);
            count.parse::<usize>().expect("a number")
        };
        poll(PATIENCE, "all to be asleep", || {
            (sleeping(1) + sleeping(2) == CLIENTS).then_some(())
        });
        let there = sleeping(2);
        assert!(there > 0 && there < CLIENTS, "{there}");
        match cut {
            true => networks[2].cut(),
            false => trio.freeze(2),
        }
        let mut hit = Vec::new();
        poll(PATIENCE, "what is there to be given up", || {
            let heard = clients.iter().position(|client| !client.is_silent());
            hit.extend(heard.map(|heard| clients.swap_remove(heard)));
            (hit.len() == there).then_some(())
        });
        for client in &mut hit {
            assert_eq!(transcript(&client.read_until(b'Z')), "E:08006 Z:I");
            // It goes on elsewhere.
            let port = client.value("SELECT inet_server_port()");
            assert_eq!(port, trio.port(1).to_string());
        }
        assert!(
            clients.iter().all(|client| client.is_silent()),
            "the others"
        );
        match cut {
            true => networks[2].mend(),
            false => trio.thaw(2),
        }
        drop(clients);
        pgdog.stop();
        trio.admin(0, "app").query("DROP TABLE t");
        poll(PATIENCE, "nobody to be asleep", || {
            (sleeping(1) + sleeping(2) == 0).then_some(())
        });
    }
}
