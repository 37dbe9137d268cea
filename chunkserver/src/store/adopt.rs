//! Comparing replicas with their checksums, and making a suspect one count.

use super::disk::Disk;
use super::image::{Comparison, STEP};
use super::index::{Live, Open};
use super::replica::check_version;
use super::{Adopted, ChunkStore};
use gfs_proto::control::{ReplicaRow, ReplicaState};
use gfs_proto::frame::DataError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion};

/// What was done about blocks that do not match.
struct Resummed {
    bad: Vec<u32>,
    /// Left as they were.
    kept: usize,
}

impl<D: Disk> ChunkStore<D> {
    /// Compares all blocks with their sums; the number that does not match. Writers wait for a part of
    /// the chunk at a time, not for all of it.
    pub fn verify(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<u32, DataError> {
        let mut found = Comparison::default();
        let mut offset = 0;
        loop {
            let more = self.with_shared(handle, version, |open, live| {
                if offset >= live.length {
                    return Ok(false);
                }
                let length = STEP.min(live.length - offset);
                let compared = self.image(open, live)?.compare(offset, length, &mut found);
                compared.map_err(|error| self.failed(open, live, &error)).map(|()| true)
            })?;
            if !more {
                return Ok(found.bad.len() as u32);
            }
            offset += STEP;
        }
    }

    /// Makes a replica, suspect or not, count under version `to`: sums that do not match are made anew,
    /// everything is flushed, the replica is clean. Idempotent.
    pub fn adopt(&self, handle: ChunkHandle, version: ChunkVersion, to: ChunkVersion) -> Result<Adopted, DataError> {
        check_version(to)?;
        let open = self.open_replica(handle)?;
        let mut live = open.live.write();
        if live.gone {
            return Err(DataError::NoChunk);
        }
        let repeated = live.entry.version == to && live.entry.state == ReplicaState::Clean;
        let mut blocks_resummed = 0;
        if !repeated {
            if live.entry.version != version || to < version {
                return Err(DataError::Version);
            }
            blocks_resummed = self.repair(&open, &mut live)?;
            self.adopt_as(&open, &mut live, to)?;
        }
        let row = ReplicaRow { handle, version: to, length: live.length, state: self.state_of(live.entry) };
        Ok(Adopted { row, blocks_resummed })
    }

    /// Makes header, sums and what lies beyond the length agree with the data, durably.
    fn repair(&self, open: &Open<D::File>, live: &mut Live<D::File>) -> Result<u32, DataError> {
        if !self.directory(live.entry).in_service() {
            return Err(DataError::Io);
        }
        let chunk = self.image(open, live)?;
        let mut work = || {
            if live.headless {
                live.length = chunk.length_by_size()?;
                let header = chunk.layout.header(chunk.handle, live.length);
                chunk.bytes.write(0, &[&header[..super::layout::FIELDS_LEN]])?;
            } else if !live.header {
                chunk.write_header(live.length)?;
            }
            let found = chunk.compare_all(live.length)?;
            if live.entry.damaged {
                // what does not match is not an unfinished write for certain: new sums would make rot pass for data
                chunk.clear_beyond(live.length)?;
                return Ok(Resummed { kept: found.bad.len(), bad: Vec::new() });
            }
            chunk.resum(&found.bad, live.length)?;
            chunk.clear_beyond(live.length)?;
            Ok(Resummed { kept: 0, bad: found.bad })
        };
        let Resummed { kept, bad } = work().map_err(|error| self.failed(open, live, &error))?;
        self.flush_bytes(open.handle, live)?;
        if !bad.is_empty() {
            tracing::warn!(chunk = %open.handle, blocks = ?bad, "blocks of an adopted replica got new checksums");
        }
        if kept > 0 {
            tracing::error!(chunk = %open.handle, blocks = kept, "damaged blocks of an adopted replica cannot be read");
        }
        (live.header, live.headless) = (true, false);
        live.writes += 1;
        live.writes_synced = live.writes;
        Ok(bad.len() as u32)
    }

    /// The new name first, durably; then the mark is taken away.
    fn adopt_as(&self, open: &Open<D::File>, live: &mut Live<D::File>, to: ChunkVersion) -> Result<(), DataError> {
        // until its mark is gone the replica is suspect, whatever its name says
        let directory = self.directory(live.entry);
        if !live.entry.marked {
            directory.marks.mark(open.handle, super::marks::Mark::Suspect)?;
            self.publish(open, live, |entry| entry.marked = true);
        }
        self.rename(open, live, |entry| {
            entry.version = to;
            entry.unclean_name = false;
        })?;
        self.sync_name(open.handle, live.entry)?;
        live.name_synced = true;
        directory.marks.clear(open.handle);
        directory.marks.flush()?;
        self.publish(open, live, |entry| {
            entry.state = ReplicaState::Clean;
            entry.marked = false;
        });
        Ok(())
    }
}
