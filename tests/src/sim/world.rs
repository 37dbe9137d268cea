//! One world: its processes, their machines, what befalls them, and the steps in which its time goes on.
//!
//! ```text
//!   work, with faults ---> calm: everything mended and started, clients finish, fsync, stop
//!                                     ---> settled: every copy is made, every deletion done, all is equal
//! ```

use super::check::{Checks, STRANGERS, Server};
use super::client::{Client, Known, Will};
use super::dice::Dice;
use super::entropy;
use super::master::{LOST_AFTER, MasterDisks, MasterProcess};
use super::net::{Endpoint, Net, Place, TICK};
use super::panics;
use super::server::{Machine, ServerProcess};
use super::trace::Trace;
use gfs_chunkserver::node::Node;
use gfs_chunkserver::store::mem::MemDisk;
use gfs_master::master::Master;
use gfs_proto::ids::{ChunkHandle, LogIndex};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Runtime;

const CLIENTS: u8 = 2;
const GOAL: usize = 3;
/// Faults begin after so many ticks.
const PEACE: u64 = 60;
/// Ticks from the last fault to an end that all agree on. A client believes that a chunk is lost half a minute after its
/// chain broke and no grant was to be had, and half a minute later again; both may come twice.
const SETTLE_MAX: u64 = 15_000;
/// What has changed is looked at in each tick, everything every so many.
const LOOK: u64 = 64;
/// A server has nothing happen to it again for so many ticks.
const RESPITE: u64 = 120;

/// See the module's text.
pub(super) struct World {
    net: Arc<Net>,
    dice: Dice,
    disks: MasterDisks,
    master: Option<MasterProcess>,
    machines: Vec<Machine>,
    servers: BTreeMap<u8, ServerProcess>,
    clients: Runtime,
    known: Vec<Arc<Mutex<Known>>>,
    crew: Vec<Arc<Client>>,
    will: Arc<Will>,
    /// When what is down starts again.
    starts: BTreeMap<Place, u64>,
    /// Until when a place is left alone.
    respite: BTreeMap<Place, u64>,
    mends: Vec<(u64, Place, Place)>,
    strangers: u64,
    /// State of the master when it stopped in order that nothing was under way.
    before: Option<(LogIndex, u128)>,
}

/// How something stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    Kill,
    Power,
    /// Power goes in the middle of one of the next operations of the disk.
    Midway,
}

/// A replica that neither counts nor is kept aside, if nothing is garbage any more.
pub(super) fn unwanted(master: &Master, place: Place, node: &Node<MemDisk>) -> Option<String> {
    let (view, server) = (master.store.view(), node.server());
    let is_known = |handle: ChunkHandle| {
        let counts = matches!(view.chunk(handle), Ok(Some(record)) if record.entitled.contains(&server));
        counts || matches!(view.quarantined(handle, server), Ok(Some(_)))
    };
    let row = node.store.rows().into_iter().find(|row| !is_known(row.handle))?;
    let record = view.chunk(row.handle);
    Some(format!("{place:?}, {server}, has {row:?}, which nobody wants: {record:?}"))
}

impl Drop for World {
    fn drop(&mut self) {
        std::mem::take(&mut self.servers).into_values().for_each(ServerProcess::end);
        if let Some(master) = self.master.take() {
            master.end(&mut self.disks, None);
        }
        self.net.clear();
    }
}

impl World {
    pub(super) fn new(seed: u64, trace: Trace) -> Self {
        let mut dice = Dice::new(seed);
        let net = Net::new(dice.fork(), trace);
        let machines: Vec<Machine> = (0..dice.within(3, 5) as u8).map(Machine::new).collect();
        let known: Vec<Arc<Mutex<Known>>> = (0..CLIENTS).map(|_| Arc::default()).collect();
        Self {
            net,
            dice,
            disks: MasterDisks::new(),
            master: None,
            machines,
            servers: BTreeMap::new(),
            clients: super::runtime(),
            known,
            crew: Vec::new(),
            will: Arc::default(),
            starts: BTreeMap::new(),
            respite: BTreeMap::new(),
            mends: Vec::new(),
            strangers: STRANGERS,
            before: None,
        }
    }

    pub(super) fn checks(&self) -> &Checks {
        &self.net.checks
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.net.trace.note(self.net.tick(), what);
    }

    /// Works for so many ticks under faults, then until all is settled.
    pub(super) fn run(&mut self, steps: u64) {
        self.start_master();
        (0..self.machines.len() as u8).for_each(|number| self.start_server(number));
        self.start_clients();
        while self.net.tick() < steps && self.is_well() {
            if self.net.tick() > PEACE {
                self.befall();
            }
            self.step();
        }
        self.calm();
        let end = self.net.tick() + SETTLE_MAX;
        while self.is_well() {
            self.step();
            if self.net.tick().is_multiple_of(LOOK) && self.has_settled() {
                return self.compare_at_the_end();
            }
            if self.net.tick() > end {
                let what = self.unsettled();
                self.checks().fail(|| format!("nothing comes to rest: {what}"));
            }
        }
    }

    fn is_well(&self) -> bool {
        if let Some(panic) = panics::taken() {
            self.checks().fail(|| panic);
        }
        self.checks().violation().is_none()
    }

    /// One tick.
    fn step(&mut self) {
        self.net.step();
        entropy::set_clock(TICK * u32::try_from(self.net.tick()).unwrap_or(u32::MAX));
        self.start_what_is_due();
        let mut order: Vec<u8> = (0..self.machines.len() as u8 + 2).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.dice.below(at as u64 + 1) as usize);
        }
        for who in order {
            let runtime = match who {
                0 => self.master.as_ref().map(MasterProcess::runtime),
                1 => Some(&self.clients),
                server => self.servers.get(&(server - 2)).map(ServerProcess::runtime),
            };
            if let Some(runtime) = runtime {
                runtime.block_on(async { tokio::time::sleep(TICK).await });
            }
        }
        self.end_what_has_stopped();
        self.look(self.net.tick().is_multiple_of(LOOK));
    }

    fn running(&self) -> Vec<Server> {
        self.servers.iter().map(|(number, server)| (Place::Server(*number), server.node().clone())).collect()
    }

    fn look(&self, everything: bool) {
        let servers = self.running();
        let operations =
            || self.servers.keys().map(|number| self.machines[usize::from(*number)].operations()).collect();
        self.net.checks.look(&self.net, &servers, operations, everything);
    }

    fn start_clients(&mut self) {
        for number in 0..CLIENTS {
            let client = Arc::new(Client::new(self.net.clone(), number, self.known[usize::from(number)].clone()));
            self.crew.push(client.clone());
            let runtime = self.clients.handle().clone();
            self.net.start(Place::Client(number), Endpoint::Client, runtime, Box::new(|| false));
            self.clients.spawn(client.run(self.dice.fork(), self.will.clone()));
        }
    }

    fn start_master(&mut self) {
        match self.disks.start(&self.net) {
            Ok(master) => {
                let (index, digest) = master.state();
                self.note(|| format!("the master starts at {index}"));
                self.checks().recovered(index);
                if let Some((_, before)) = self.before.take().filter(|(_, before)| *before != digest) {
                    self.checks().fail(|| format!("replay gives another state: {before:x} was, {digest:x} is"));
                }
                self.master = Some(master);
            }
            Err(error) => self.checks().fail(|| error),
        }
    }

    fn start_server(&mut self, number: u8) {
        match self.machines[usize::from(number)].start(&self.net) {
            Ok(server) => {
                self.note(|| format!("server {number} starts"));
                self.servers.insert(number, server);
            }
            // power may go again while it starts
            Err(_) if self.machines[usize::from(number)].is_stopped() => {
                self.machines[usize::from(number)].ended(Some(self.dice.next()));
                self.starts.insert(Place::Server(number), self.net.tick() + 20);
            }
            Err(error) => self.checks().fail(|| error),
        }
    }

    fn start_what_is_due(&mut self) {
        let tick = self.net.tick();
        let due: Vec<Place> = self.starts.iter().filter(|(_, at)| **at <= tick).map(|(place, _)| *place).collect();
        for place in due {
            self.starts.remove(&place);
            match place {
                Place::Master => self.start_master(),
                Place::Server(number) => self.start_server(number),
                Place::Client(_) => {}
            }
        }
        let (over, rest) = std::mem::take(&mut self.mends).into_iter().partition(|(at, ..)| *at <= tick);
        self.mends = rest;
        let over: Vec<(u64, Place, Place)> = over;
        over.into_iter().for_each(|(_, a, b)| self.net.mend(a, b));
    }

    /// Machines that stopped in the middle of something.
    fn end_what_has_stopped(&mut self) {
        if self.master.is_some() && self.disks.is_stopped() {
            self.end_master(Stop::Midway);
        }
        let stopped = |number: &u8| self.machines[usize::from(*number)].is_stopped();
        let stopped: Vec<u8> = self.servers.keys().copied().filter(stopped).collect();
        for number in stopped {
            let ticks = self.dice.within(10, 250);
            self.end_server(number, Stop::Midway, ticks);
        }
    }

    fn end_master(&mut self, how: Stop) {
        let servers = self.running();
        self.net.checks.refresh(&self.net, &servers);
        let Some(master) = self.master.take() else { return };
        self.note(|| format!("the master stops: {how:?}"));
        self.checks().count(|counts| counts.crashes += 1);
        // in the middle of a commit nobody knows what is logged
        self.before = (how != Stop::Midway).then(|| master.state());
        self.net.stop(Place::Master, if how == Stop::Kill { 0 } else { 60 });
        if how == Stop::Kill {
            master.end(&mut self.disks, None);
        } else {
            self.net.darken(Place::Master);
            let mut dice = self.dice.fork();
            master.end(&mut self.disks, Some(&mut dice));
        }
        let ticks = self.dice.within(5, 120);
        self.starts.insert(Place::Master, self.net.tick() + ticks);
    }

    fn end_server(&mut self, number: u8, how: Stop, ticks: u64) {
        let servers = self.running();
        self.net.checks.refresh(&self.net, &servers);
        let Some(server) = self.servers.remove(&number) else { return };
        let place = Place::Server(number);
        self.note(|| format!("server {number} stops: {how:?}, for {ticks}"));
        self.checks().count(|counts| counts.crashes += 1);
        self.net.stop(place, if how == Stop::Kill { 0 } else { 60 });
        server.end();
        drop(servers);
        let power = how != Stop::Kill;
        if power {
            self.net.darken(place);
        }
        if power || TICK * ticks as u32 >= LOST_AFTER / 2 {
            self.checks().memory_lost(number);
        }
        let seed = self.dice.next();
        self.machines[usize::from(number)].ended(power.then_some(seed));
        self.starts.insert(place, self.net.tick() + ticks);
        self.respite.insert(place, self.net.tick() + ticks + RESPITE);
    }

    /// Perhaps something happens.
    fn befall(&mut self) {
        if !self.dice.chance(12) {
            return;
        }
        match self.dice.below(100) {
            0..40 => self.befall_server(),
            40..60 => self.befall_master(),
            60..90 => self.befall_network(),
            _ => self.plant(),
        }
    }

    fn befall_server(&mut self) {
        let number = self.dice.below(self.machines.len() as u64) as u8;
        if !self.is_fit(Place::Server(number)) || !self.servers.contains_key(&number) {
            return;
        }
        let ticks = if self.dice.chance(60) { self.dice.within(900, 1100) } else { self.dice.within(3, 250) };
        match self.dice.below(3) {
            0 => self.end_server(number, Stop::Kill, ticks),
            1 => self.end_server(number, Stop::Power, ticks),
            _ => self.machines[usize::from(number)].stop_after(self.dice.within(1, 40)),
        }
    }

    fn is_fit(&self, place: Place) -> bool {
        self.respite.get(&place).is_none_or(|until| *until <= self.net.tick())
    }

    fn befall_master(&mut self) {
        if self.master.is_none() {
            return;
        }
        match self.dice.below(3) {
            0 => self.end_master(Stop::Kill),
            1 => self.end_master(Stop::Power),
            _ => self.disks.stop_after(self.dice.within(1, 12)),
        }
    }

    fn befall_network(&mut self) {
        let mut places: Vec<Place> = self.machines.iter().map(Machine::place).collect();
        places.push(Place::Master);
        places.extend((0..CLIENTS).map(Place::Client));
        let (Some(a), Some(b)) = (self.dice.pick(&places).copied(), self.dice.pick(&places).copied()) else { return };
        let fit = |place: Place| matches!(place, Place::Master | Place::Client(_)) || self.is_fit(place);
        if a == b || !fit(a) || !fit(b) {
            return;
        }
        let ticks = self.dice.within(5, 300);
        self.note(|| format!("{a:?} and {b:?} are cut off from each other for {ticks}"));
        self.checks().count(|counts| counts.partitions += 1);
        self.net.cut(a, b);
        let until = self.net.tick() + ticks;
        self.mends.push((until, a, b));
        for place in [a, b] {
            self.respite.insert(place, until + RESPITE);
        }
    }

    fn plant(&mut self) {
        let number = self.dice.below(self.machines.len() as u64) as u8;
        self.strangers += 1;
        if let Some(server) = self.servers.get(&number) {
            server.plant(ChunkHandle::new(self.strangers));
        }
    }

    /// No more faults; everything that is down starts, clients finish.
    fn calm(&mut self) {
        self.note(|| "calm".to_owned());
        self.net.calm();
        self.mends.clear();
        self.disks.stop_never();
        self.machines.iter().for_each(Machine::stop_never);
        let soon = self.net.tick() + 5;
        self.starts.values_mut().for_each(|at| *at = soon);
        self.will.stop.store(true, Ordering::Relaxed);
    }

    fn leader(&self) -> Option<Arc<Master>> {
        match self.net.endpoint(Place::Master) {
            Some(Endpoint::Master(master)) => Some(master),
            _ => None,
        }
    }

    fn has_settled(&self) -> bool {
        self.unsettled().is_empty()
    }

    /// What is still to be done; empty if nothing is.
    fn unsettled(&self) -> String {
        let Some(master) = self.leader() else { return "the master is away".to_owned() };
        if self.will.stopped.load(Ordering::Relaxed) < u32::from(CLIENTS) {
            return "clients are at work".to_owned();
        }
        match master.store.view().garbage(None, 1) {
            Ok(garbage) if garbage.is_empty() => {}
            other => return format!("garbage: {other:?}"),
        }
        let servers = self.running();
        let wanted = GOAL.min(servers.len());
        for (inode, chunk) in self.net.checks.chunks(&master) {
            let copies = servers.iter().filter(|(_, node)| Checks::bytes(&chunk, node).is_some()).count();
            let never_written = master.unwritten.contains(chunk.handle);
            if !never_written && (copies != wanted || chunk.record.entitled.len() != wanted) {
                return format!("inode {inode} has {copies} copies of {chunk:?}");
            }
        }
        servers.iter().find_map(|(place, node)| unwanted(&master, *place, node)).unwrap_or_default()
    }

    /// All copies are equal, names and sizes are what clients know.
    fn compare_at_the_end(&mut self) {
        self.look(true);
        let servers = self.running();
        if let Some(master) = self.leader() {
            for (inode, chunk) in self.net.checks.chunks(&master) {
                let mut copies = servers.iter().filter_map(|(_, node)| Checks::bytes(&chunk, node));
                let first = copies.next();
                if !copies.all(|copy| Some(&copy) == first.as_ref()) {
                    self.checks().fail(|| format!("the copies of {chunk:?} of inode {inode} differ"));
                }
            }
        }
        let crew = self.crew.clone();
        let compare = async move {
            for client in crew {
                client.list().await;
                client.measure().await;
            }
        };
        let done = self.clients.spawn(compare);
        while !done.is_finished() && self.is_well() {
            self.step();
        }
    }
}
