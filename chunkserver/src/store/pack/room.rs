//! Room in packs that no replica needs: counted, given back as holes, or with the pack; and which packs had better be
//! emptied for that.
//!
//! Invariant: room is given back only where it is durable that no replica has it.

use super::format::{Geometry, UNIT};
use super::{Member, PackError, Packs};
use crate::store::disk::{Disk, DiskFile};
use std::sync::atomic::Ordering;

/// A pack is nearly empty if less than this part of it is used.
const SPARSE: u64 = 16;

impl<D: Disk> Packs<D> {
    /// Removes packs without replicas, once it is durable that they have none: until then their records
    /// would come back if the removal is lost.
    pub(in crate::store) fn remove_empty(&self) {
        let mut empty = Vec::new();
        let mut members = self.members.lock();
        let open = [members.filling, members.ready];
        members.packs.retain(|number, member| {
            let kept = open.contains(&Some(*number)) || member.damaged || member.pack.has_erased();
            let kept = kept || member.used.count() > 0;
            if !kept {
                self.idle.fetch_sub(member.idle * UNIT, Ordering::Relaxed);
                empty.push(*number);
            }
            kept
        });
        drop(members);
        for path in empty.into_iter().map(|number| self.path(number)) {
            if let Err(error) = self.disk.remove(&path) {
                tracing::warn!(file = %path.display(), %error, "a pack without replicas stays until the next start");
            }
        }
    }

    /// Packs whose replicas had better be elsewhere: those with few, without the fullest; or, if more room lies
    /// idle than is used, the one where most does.
    pub(in crate::store) fn sparse(&self) -> Vec<u32> {
        let members = self.members.lock();
        let is_sealed = |number: u32, member: &Member<D::File>| !members.is_open(number) && !member.damaged;
        let sealed = members.packs.iter().filter(|(number, member)| is_sealed(**number, member));
        let mut sealed: Vec<(u64, u64, u32)> =
            sealed.map(|(number, member)| (member.used.count(), member.idle, *number)).collect();
        sealed.sort_unstable();
        let units_of = |number| members.packs.get(&number).map_or(0, |member| u64::from(member.pack.geometry.units));
        let few = sealed.iter().filter(|(used, _, number)| used * SPARSE <= units_of(*number));
        let mut sparse: Vec<u32> = few.map(|(.., number)| *number).collect();
        sparse.pop();
        let (used, idle) = sealed.iter().fold((0, 0), |sum, (used, idle, _)| (sum.0 + used, sum.1 + idle));
        if sparse.is_empty() && idle > used + self.pack_bytes / UNIT {
            sparse.extend(sealed.iter().max_by_key(|(_, idle, _)| *idle).map(|(.., number)| *number));
        }
        sparse
    }

    /// Ends the filling of packs and gives back the room that was not given out: after the next start nobody would
    /// use it. Needs no flush: nothing was ever there.
    pub(in crate::store) fn seal(&self) {
        let mut members = self.members.lock();
        members.ready = None;
        let filling = members.filling.take();
        if let Some(member) = filling.and_then(|filling| members.packs.get_mut(&filling)) {
            let Geometry { number, units } = member.pack.geometry;
            let (next, left) = (member.next, u64::from(units - member.next));
            if member.allocated {
                member.idle -= left;
                self.idle.fetch_sub(left * UNIT, Ordering::Relaxed);
            }
            let pack = member.pack.clone();
            drop(members);
            if let Err(error) = pack.file().punch(pack.geometry.unit_at(next), left * UNIT) {
                tracing::warn!(pack = number, %error, "its room cannot be given back");
            }
        } else {
            drop(members);
        }
        self.remove_empty();
    }

    /// Bytes that could be used for replicas, or given back.
    pub(in crate::store) fn idle(&self) -> u64 {
        self.idle.load(Ordering::Relaxed)
    }

    /// Gives room back, of the pack where there is most; false if there is none, or it cannot be given back.
    pub(in crate::store) fn release(&self) -> Result<bool, PackError> {
        let (pack, gaps) = {
            let mut members = self.members.lock();
            let most = members.packs.values().filter(|member| !member.damaged).max_by_key(|member| member.idle);
            let Some(number) = most.filter(|member| member.idle > 0).map(|member| member.pack.geometry.number) else {
                return Ok(false);
            };
            members.close(number);
            let Some(member) = members.packs.get_mut(&number) else { return Ok(false) };
            self.idle.fetch_sub(member.idle * UNIT, Ordering::Relaxed);
            member.idle = 0;
            (member.pack.clone(), member.used.gaps(member.pack.geometry.units))
        };
        // what is still there after a crash must still have its bytes
        pack.flush()?;
        let punch =
            |(first, count): (u32, u32)| pack.file().punch(pack.geometry.unit_at(first), u64::from(count) * UNIT);
        let punched = gaps.into_iter().try_for_each(punch);
        if let Err(error) = &punched {
            tracing::warn!(pack = pack.geometry.number, %error, "its room cannot be given back");
        }
        self.remove_empty();
        Ok(punched.is_ok())
    }
}
