//! The RPC layer in simulated worlds: one master, three chunkservers, two clients over simulated TCP (`turmoil`),
//! which is delayed, cut and broken, while processes and machines stop and start (`docs/adr/0014`).
//!
//! What runs is the programs' own: sessions, requests, callbacks and caches of the client library, the
//! chunkservers' link, the master's port, all of them over tonic and HTTP/2. A segment that is lost is not
//! sent again, so a connection that lost one hangs: only pings and signs of life find that out.

mod crew;
mod sockets;
mod trace;

use super::check::STRANGERS;
use super::dice::Dice;
use super::master::{MasterDisks, timings};
use super::net::Place;
use super::server::Machine;
use super::world::unwanted;
use super::{Counts, Outcome, entropy, panics};
use crew::Worker;
use gfs_chunkserver::link;
use gfs_chunkserver::net::dial::CallError;
use gfs_chunkserver::node::Node;
use gfs_chunkserver::peers::{Carried, Carrier, Peer, Request};
use gfs_chunkserver::store::mem::MemDisk;
use gfs_master::master::Master;
use gfs_master::rpc;
use gfs_proto::ids::{ChunkHandle, ChunkVersion, LogIndex};
use sockets::{SimDial, SimPort, SimReach};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::watch;
use trace::{Trace, Voice};
use tracing_subscriber::layer::SubscriberExt;
use turmoil::Sim;

/// Ticks of work under faults, each 5 ms of the world's time.
pub const STEPS_DEFAULT: u64 = 6000;

/// The master's address.
const MASTER: &str = "master:9400";
const MASTER_PORT: u16 = 9400;
/// Where chunkservers say that they listen.
const DATA_PORT: u16 = 9500;
const SERVERS: u8 = 3;
const CLIENTS: u64 = 2;
const TICK: Duration = Duration::from_millis(5);
/// Faults begin after so many ticks.
const PEACE: u64 = 200;
/// Ticks from the last fault until all is well again: pings find a hanging connection after ten seconds, an
/// open waits five for who holds the file.
const SETTLE_MAX: u64 = 40_000;
/// The master's state is looked at every so many ticks.
const LOOK: u64 = 20;
/// A host is cut off for so many ticks at most, and then left alone for so many: sessions, which expire after half a
/// minute of silence, outlive whatever befalls their clients here.
const CUT_MAX: u64 = 1400;
const RESPITE: u64 = 2400;
/// In a million segments so many break their link for a while.
const BREAKS: f64 = 400e-6;
/// Of the segments that meet a broken link so many find it mended.
const MENDS: f64 = 0.2;

/// What the world, its processes and its clients have in common.
struct Shared {
    trace: Trace,
    disks: RefCell<MasterDisks>,
    master: RefCell<Option<Arc<Master>>>,
    machines: RefCell<Vec<Machine>>,
    nodes: RefCell<BTreeMap<u8, Arc<Node<MemDisk>>>>,
    stop: Cell<bool>,
    finished: Cell<u64>,
    operations: Cell<u64>,
    violation: RefCell<Option<String>>,
    /// State of the master when it stopped.
    before: Cell<Option<(LogIndex, u128)>>,
}

impl Shared {
    fn fail(&self, what: String) {
        self.violation.borrow_mut().get_or_insert(what);
    }

    fn is_well(&self) -> bool {
        if let Some(panic) = panics::taken() {
            self.fail(panic);
        }
        self.violation.borrow().is_none()
    }
}

fn state(master: &Master) -> (LogIndex, u128) {
    (master.store.applied().index, master.store.digest_of_rows().expect("memory does not fail"))
}

/// Chunkservers have nothing to say to each other: no file has any chunks.
struct NoPeers;

impl Carrier for NoPeers {
    fn carry<'a>(&'a self, _: &'a Peer, _: Request, _: Duration) -> Carried<'a> {
        Box::pin(async { Err(CallError::Io(io::ErrorKind::Unsupported.into())) })
    }
}

fn host(number: u8) -> String {
    format!("server-{number}")
}

async fn be_master(shared: Rc<Shared>) -> turmoil::Result {
    let port = SimPort::bind(MASTER_PORT).await?;
    let master = shared.disks.borrow().open(Arc::new(SimReach), timings())?;
    if let Some((_, before)) = shared.before.take().filter(|(_, before)| *before != state(&master).1) {
        shared.fail(format!("replay gives another state than {before:x}"));
    }
    *shared.master.borrow_mut() = Some(master.clone());
    rpc::serve(master, port, (Ipv4Addr::UNSPECIFIED, MASTER_PORT).into()).await;
    Err("the master's port is served no more".into())
}

async fn be_server(number: u8, shared: Rc<Shared>) -> turmoil::Result {
    let port = SimPort::bind(DATA_PORT).await?;
    tokio::spawn(port.be_there());
    let (_stop, stopped) = watch::channel(false);
    let address = SocketAddr::new(turmoil::lookup(host(number)), DATA_PORT);
    let (node, settings) = {
        let machines = shared.machines.borrow();
        let machine = &machines[usize::from(number)];
        let node = machine.open(Arc::new(NoPeers), &stopped)?;
        let settings = machine.settings(MASTER.to_owned(), address, node.incarnation);
        (node, settings)
    };
    shared.nodes.borrow_mut().insert(number, node.clone());
    link::run_over(node, settings, &SimDial, stopped).await?;
    Err("the link was ended".into())
}

/// How something stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    Kill,
    Power,
}

/// See the module's text.
struct World {
    sim: Sim<'static>,
    shared: Rc<Shared>,
    dice: Dice,
    tick: u64,
    /// When what is down starts again.
    starts: BTreeMap<String, u64>,
    /// Until when two hosts are cut off from each other.
    cuts: Vec<(u64, String, String)>,
    /// Until when a host is left alone.
    respite: BTreeMap<String, u64>,
    strangers: u64,
    counts: Counts,
}

impl World {
    fn new(seed: u64, trace: Trace) -> Self {
        let mut dice = Dice::new(seed);
        let shared = Rc::new(Shared {
            trace,
            disks: RefCell::new(MasterDisks::new()),
            master: RefCell::default(),
            machines: RefCell::new((0..SERVERS).map(Machine::new).collect()),
            nodes: RefCell::default(),
            stop: Cell::default(),
            finished: Cell::default(),
            operations: Cell::default(),
            violation: RefCell::default(),
            before: Cell::default(),
        });
        let mut sim = turmoil::Builder::new()
            .rng_seed(dice.next())
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(40))
            .simulation_duration(Duration::from_secs(86_400))
            .tcp_capacity(1024)
            .repair_rate(MENDS)
            .enable_random_order()
            .build();
        let master = shared.clone();
        sim.host("master", move || be_master(master.clone()));
        for number in 0..SERVERS {
            let shared = shared.clone();
            sim.host(host(number), move || be_server(number, shared.clone()));
        }
        for number in 0..CLIENTS {
            let (shared, dice) = (shared.clone(), dice.fork());
            sim.client(format!("client-{number}"), async move {
                Worker::run(number, shared, dice).await;
                Ok(())
            });
        }
        Self {
            sim,
            shared,
            dice,
            tick: 0,
            starts: BTreeMap::new(),
            cuts: Vec::new(),
            respite: BTreeMap::new(),
            strangers: STRANGERS,
            counts: Counts::default(),
        }
    }

    fn note(&self, what: &str) {
        self.shared.trace.note(what, Voice::Loud);
    }

    /// Works for so many ticks under faults, then until all is well.
    fn run(&mut self, steps: u64) {
        while self.tick < steps && self.shared.is_well() {
            if self.tick == PEACE {
                self.sim.set_fail_rate(BREAKS);
            }
            if self.tick > PEACE {
                self.befall();
            }
            self.step();
        }
        self.calm();
        let end = self.tick + SETTLE_MAX;
        while self.shared.is_well() {
            self.step();
            let what = self.unsettled();
            if what.is_empty() {
                return self.replay();
            }
            if self.tick > end {
                self.shared.fail(format!("nothing comes to rest: {what}"));
            }
        }
    }

    fn step(&mut self) {
        self.tick += 1;
        entropy::set_clock(TICK * u32::try_from(self.tick).unwrap_or(u32::MAX));
        self.start_what_is_due();
        if let Err(error) = self.sim.step() {
            let why = panics::taken().unwrap_or_else(|| error.to_string());
            self.shared.fail(format!("a process ended: {why}"));
        }
        if self.tick.is_multiple_of(LOOK)
            && let Some(master) = &*self.shared.master.borrow()
        {
            match master.store.check() {
                Ok(found) if found.is_empty() => {}
                found => self.shared.fail(format!("the master's state: {found:?}")),
            }
        }
    }

    fn start_what_is_due(&mut self) {
        let tick = self.tick;
        let over = |at: &mut u64| *at <= tick;
        let due: Vec<(String, u64)> = self.starts.extract_if(.., |_, at| over(at)).collect();
        for (name, _) in due {
            self.note(&format!("{name} starts"));
            self.join(&name);
            self.sim.bounce(name);
        }
        let mended: Vec<_> = self.cuts.extract_if(.., |(at, ..)| over(at)).collect();
        for (_, a, b) in mended {
            self.sim.repair(a, b);
        }
    }

    /// What a machine without power could not reach can be reached again.
    fn join(&self, name: &str) {
        self.hosts().into_iter().filter(|other| other != name).for_each(|other| self.sim.repair(name, other));
    }

    fn hosts(&self) -> Vec<String> {
        let servers = (0..SERVERS).map(host);
        let clients = (0..CLIENTS).map(|number| format!("client-{number}"));
        servers.chain(clients).chain(["master".to_owned()]).collect()
    }

    /// Perhaps something happens.
    fn befall(&mut self) {
        if !self.dice.chance(4) {
            return;
        }
        match self.dice.below(100) {
            0..25 => self.stop_master(),
            25..45 => self.stop_server(),
            45..90 => self.cut(),
            _ => self.plant(),
        }
    }

    /// Puts a replica on a server that the master knows nothing of: it is to be told of it, and to keep it aside.
    fn plant(&mut self) {
        let number = self.dice.below(u64::from(SERVERS)) as u8;
        self.strangers += 1;
        if let Some(node) = self.shared.nodes.borrow().get(&number)
            && node.store.create(ChunkHandle::new(self.strangers), ChunkVersion::new(1), 1).is_ok()
        {
            node.outbox.touched(ChunkHandle::new(self.strangers));
        }
    }

    fn how(&mut self) -> Stop {
        if self.dice.chance(500) { Stop::Kill } else { Stop::Power }
    }

    fn stop_master(&mut self) {
        if !self.is_fit("master") {
            return;
        }
        self.end_master();
    }

    fn end_master(&mut self) {
        let Some(master) = self.shared.master.take() else { return };
        let how = self.how();
        self.stopping("master", how, 1000);
        self.shared.before.set(Some(state(&master)));
        let left = {
            let disks = self.shared.disks.borrow();
            disks.left((how == Stop::Power).then_some(&mut self.dice))
        };
        *self.shared.disks.borrow_mut() = left;
        drop(master);
        self.sim.crash("master");
    }

    fn stop_server(&mut self) {
        let number = self.dice.below(u64::from(SERVERS)) as u8;
        let Some(node) = self.shared.nodes.borrow_mut().remove(&number) else { return };
        let how = self.how();
        self.stopping(&host(number), how, 2000);
        drop(node);
        self.sim.crash(host(number));
        let seed = self.dice.next();
        self.shared.machines.borrow_mut()[usize::from(number)].ended((how == Stop::Power).then_some(seed));
    }

    /// A machine that loses its power says nothing more to anybody.
    fn stopping(&mut self, name: &str, how: Stop, ticks_max: u64) {
        let ticks = self.dice.within(5, ticks_max);
        self.note(&format!("{name} stops: {how:?}, for {ticks}"));
        self.counts.crashes += 1;
        if how == Stop::Power {
            self.hosts().into_iter().filter(|other| other != name).for_each(|other| self.sim.partition(name, other));
        }
        self.starts.insert(name.to_owned(), self.tick + ticks);
        self.respite.insert(name.to_owned(), self.tick + ticks + RESPITE / 2);
    }

    fn cut(&mut self) {
        let others: Vec<String> = self.hosts().into_iter().filter(|name| name != "master").collect();
        let Some(other) = self.dice.pick(&others).cloned() else { return };
        if self.starts.contains_key("master") || self.starts.contains_key(&other) || !self.is_fit(&other) {
            return;
        }
        let ticks = self.dice.within(5, CUT_MAX);
        self.counts.partitions += 1;
        let master = "master".to_owned();
        let what = match self.dice.below(4) {
            0 => {
                self.sim.partition_oneway("master", other.as_str());
                "does not get through to"
            }
            1 => {
                self.sim.partition_oneway(other.as_str(), "master");
                "is not reached by"
            }
            _ => {
                self.sim.partition("master", other.as_str());
                "is cut off from"
            }
        };
        self.note(&format!("the master {what} {other} for {ticks}"));
        self.respite.insert(other.clone(), self.tick + ticks + RESPITE);
        self.cuts.push((self.tick + ticks, master, other));
    }

    fn is_fit(&self, name: &str) -> bool {
        self.respite.get(name).is_none_or(|until| *until <= self.tick)
    }

    /// No more faults; everything that is down starts, clients finish.
    fn calm(&mut self) {
        self.note("calm");
        self.sim.set_fail_rate(0.0);
        self.cuts.clear();
        let soon = self.tick + 5;
        self.starts.values_mut().for_each(|at| *at = soon);
        let hosts = self.hosts();
        for (at, a) in hosts.iter().enumerate() {
            hosts[at + 1..].iter().for_each(|b| self.sim.repair(a.as_str(), b.as_str()));
        }
        self.shared.stop.set(true);
    }

    /// What is still to be done; empty if nothing is.
    fn unsettled(&self) -> String {
        let Some(master) = self.shared.master.borrow().clone() else { return "the master is away".to_owned() };
        if self.shared.finished.get() < CLIENTS {
            return "clients are at work".to_owned();
        }
        let nodes = self.shared.nodes.borrow();
        let is_linked = |node: &Arc<Node<MemDisk>>| master.servers.is_connected(node.server()) && node.lease.is_held();
        let linked = nodes.values().filter(|node| is_linked(node)).count();
        if linked < usize::from(SERVERS) {
            return format!("{linked} of {SERVERS} chunkservers are linked");
        }
        nodes.iter().find_map(|(number, node)| unwanted(&master, Place::Server(*number), node)).unwrap_or_default()
    }

    /// The log gives the state again.
    fn replay(&mut self) {
        self.end_master();
        let end = self.tick + SETTLE_MAX;
        while self.shared.is_well() && (self.shared.master.borrow().is_none() || !self.unsettled().is_empty()) {
            self.step();
            if self.tick > end {
                self.shared.fail(format!("after the last start of the master: {}", self.unsettled()));
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.shared.master.take());
        self.shared.nodes.borrow_mut().clear();
    }
}

/// Runs the world of a seed; `aloud`: prints what happens.
///
/// # Panics
/// If no thread can be started.
pub fn run(seed: u64, steps: u64, aloud: bool) -> Outcome {
    panics::keep();
    let world = thread::Builder::new().name(format!("seed {seed}")).stack_size(8 << 20).spawn(move || {
        let _entered = entropy::enter(seed);
        let trace = Trace::new(aloud);
        let _logged = tracing::subscriber::set_default(tracing_subscriber::registry().with(trace.clone()));
        let mut world = World::new(seed, trace.clone());
        let panicked = catch_unwind(AssertUnwindSafe(|| world.run(steps))).is_err();
        let panic = if panicked { panics::taken() } else { None };
        let violation = panic.or_else(|| world.shared.violation.borrow().clone());
        let (operations, events) = (world.shared.operations.get(), trace.events());
        let counts = Counts { operations, events, ..world.counts };
        drop(world);
        Outcome { seed, violation, trace: trace.lines(), hash: trace.hash(), counts }
    });
    world.expect("a thread").join().unwrap_or_else(|_| Outcome::panicked(seed))
}
