//! Partitions: packets between some of the machines are dropped for a while. Nobody is told; connections stay.

use super::{Field, Strike};
use crate::data::Stream;
use crate::network::Drops;
use crate::wait::until;
use anyhow::{Context, Result};
use std::time::Duration;

/// Short ones last so many seconds at least, and less than as many more: longer than a read lease and than the master
/// takes to suspect a server, some of them longer than it takes to miss its copies; shorter than sessions live.
const SECONDS_MIN: u64 = 3;
const SECONDS_MORE: u64 = 8;
/// Longer than a lease of a chunk.
const LONG: Duration = Duration::from_secs(63);

/// From whom a chunkserver is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Master,
    Peer,
    Mounts,
}

/// A chunkserver, for some seconds.
pub(super) fn chunkserver(field: &mut Field, from: From, chance: &mut Stream) -> Result<Strike> {
    let number = draw(chance, field.servers());
    let others = match from {
        From::Master => vec![MASTER.to_owned()],
        From::Peer => vec![server((number + 1 + draw(chance, field.servers() - 1)) % field.servers())],
        From::Mounts => (0..field.mounts.len()).map(mount).collect(),
    };
    let pairs: Vec<Pair> = others.into_iter().map(|other| (server(number), other, Drops::Both)).collect();
    part(field, &pairs, short(chance))
}

/// What somebody sends to somebody else does not arrive; the other way it does.
pub(super) fn one_way(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let number = draw(chance, field.servers());
    let other = match draw(chance, 3) {
        0 => MASTER.to_owned(),
        1 => server((number + 1) % field.servers()),
        _ => mount(draw(chance, field.mounts.len())),
    };
    let pair = if draw(chance, 2) == 0 { (server(number), other) } else { (other, server(number)) };
    part(field, &[(pair.0, pair.1, Drops::ToFirst)], short(chance))
}

/// The mount that is written through, from the master.
pub(super) fn mount_from_master(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    part(field, &[(mount(0), MASTER.to_owned(), Drops::Both)], short(chance))
}

/// A chunkserver from the master and all its peers, until leases have run out; mounts reach it.
pub(super) fn for_long(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let number = draw(chance, field.servers());
    let peers = (0..field.servers()).filter(|peer| *peer != number).map(server);
    let others = peers.chain([MASTER.to_owned()]);
    let pairs: Vec<Pair> = others.map(|other| (server(number), other, Drops::Both)).collect();
    part(field, &pairs, LONG)
}

type Pair = (String, String, Drops);

fn part(field: &mut Field, pairs: &[Pair], time: Duration) -> Result<Strike> {
    let network = field.network.clone().context("the machines have no network of their own")?;
    pairs.iter().try_for_each(|(first, second, drops)| network.cut(first, second, *drops))?;
    let _ = until("the time has passed", time, || Ok(false)); // an error by intent: the fault is the time
    network.heal()?;
    field.start_all()?;
    Ok(Strike { count: 1, loss: None })
}

/// The name of its process, as of all hosts.
const MASTER: &str = "master";

fn server(number: usize) -> String {
    format!("chunkserver-{number}")
}

fn mount(number: usize) -> String {
    format!("mount-{number}")
}

fn short(chance: &mut Stream) -> Duration {
    Duration::from_secs(SECONDS_MIN + (chance.number() >> 33) % SECONDS_MORE)
}

fn draw(chance: &mut Stream, bound: usize) -> usize {
    usize::try_from(chance.number() >> 33).unwrap_or_default() % bound
}
