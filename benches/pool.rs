//! The pool: what every transaction pays, and what waiting and moving between cores cost.

use std::hint::black_box;
use std::time::{Duration, Instant};

use gungraun::{library_benchmark, library_benchmark_group};
use pgdog::pool::{Action, Checkout, ClientId, Lease, Limits, Place, Pool};

/// Slices of one pool, and the time, which stands still.
struct World {
    slices: Vec<Pool<u32>>,
    now: Instant,
    out: Vec<Action<u32>>,
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "a pool compares times, and any will do"
    )]
    fn new(cores: usize, pool_size: usize) -> Self {
        let now = Instant::now();
        let limits = Limits {
            pool_size,
            ..Limits::default()
        };
        let place = |core| Place {
            core,
            cores,
            offset: 0,
        };
        let slice = |core| Pool::new(place(core), limits.clone(), 7, now);
        Self {
            slices: (0..cores).map(slice).collect(),
            now,
            out: Vec::with_capacity(16),
        }
    }

    /// One pool of 10 connections that are all open and idle, on one core.
    fn idle() -> Self {
        let mut world = Self::new(1, 10);
        for n in 0..10 {
            let client = ClientId(n);
            let _ = world.slices[0].checkout(client, world.now, &mut world.out);
        }
        let mut leases = Vec::new();
        while let Some(action) = world.out.pop() {
            match action {
                Action::Connect { generation } => {
                    world.slices[0].connected(7, generation, world.now, &mut world.out);
                }
                Action::Serve { lease, .. } => leases.push(lease),
                _ => {}
            }
        }
        assert_eq!(leases.len(), 10);
        for lease in leases {
            world.slices[0].checkin(lease, world.now, &mut world.out);
        }
        world
    }

    /// All 10 are checked out, and so many clients wait.
    fn busy(waiting: u64) -> (Self, Vec<Lease<u32>>) {
        let mut world = Self::idle();
        let mut leases = Vec::new();
        for n in 0..10 + waiting {
            if let Checkout::Ready(lease) =
                world.slices[0].checkout(ClientId(n), world.now, &mut world.out)
            {
                leases.push(lease);
            }
        }
        assert!(world.out.is_empty());
        (world, leases)
    }

    /// A pool of one connection, idle on the first of so many cores.
    fn spread(cores: usize) -> Self {
        let mut world = Self::new(cores, 1);
        let _ = world.slices[0].checkout(ClientId(1), world.now, &mut world.out);
        let Some(Action::Connect { generation }) = world.out.pop() else {
            unreachable!("the permit is here");
        };
        world.slices[0].connected(7, generation, world.now, &mut world.out);
        let Some(Action::Serve { lease, .. }) = world.out.pop() else {
            unreachable!("the client waits");
        };
        world.slices[0].checkin(lease, world.now, &mut world.out);
        // By now nobody counts on it any more.
        world.now += Duration::from_secs(1);
        world
    }

    /// Delivers mail until there is none; who was served.
    fn deliver(&mut self) -> Vec<Lease<u32>> {
        let mut served = Vec::new();
        while let Some(action) = self.out.pop() {
            match action {
                Action::Mail { to, mail } => {
                    self.slices[to].receive(mail, self.now, &mut self.out);
                }
                Action::Serve { lease, .. } => served.push(lease),
                _ => {}
            }
        }
        served
    }
}

// An idle connection is taken and comes back.
#[library_benchmark]
#[bench::idle(World::idle())]
fn checkout_and_checkin(mut world: World) -> World {
    let answer = world.slices[0].checkout(black_box(ClientId(4711)), world.now, &mut world.out);
    let Checkout::Ready(lease) = answer else {
        unreachable!("10 are idle");
    };
    world.slices[0].checkin(lease, world.now, &mut world.out);
    world
}

// A client queues, and gets the connection that comes back next.
#[library_benchmark]
#[bench::alone(World::busy(0))]
#[bench::behind_500(World::busy(500))]
fn wait_and_serve((mut world, mut leases): (World, Vec<Lease<u32>>)) -> (World, Vec<Lease<u32>>) {
    let answer = world.slices[0].checkout(black_box(ClientId(4711)), world.now, &mut world.out);
    assert!(matches!(answer, Checkout::Wait(_)));
    let lease = leases.pop().unwrap();
    world.slices[0].checkin(lease, world.now, &mut world.out);
    assert!(matches!(world.out.pop(), Some(Action::Serve { .. })));
    (world, leases)
}

// The connection is on core 0, the client on core 1, and the search goes upwards: the longest way.
#[library_benchmark]
#[bench::on_2_cores(World::spread(2))]
#[bench::on_32_cores(World::spread(32))]
fn seek_from_another_core(mut world: World) -> (World, Vec<Lease<u32>>) {
    let answer = world.slices[1].checkout(black_box(ClientId(4711)), world.now, &mut world.out);
    assert!(matches!(answer, Checkout::Wait(_)));
    let served = world.deliver();
    assert_eq!(served.len(), 1);
    (world, served)
}

// The upkeep of an idle slice, done some times a second.
#[library_benchmark]
#[bench::idle(World::idle())]
fn tick(mut world: World) -> World {
    let later = world.now + Duration::from_millis(200);
    world.slices[0].tick(black_box(later), &mut world.out);
    world
}

library_benchmark_group!(
    name = pools,
    benchmarks = [
        checkout_and_checkin,
        wait_and_serve,
        seek_from_another_core,
        tick
    ]
);
