//! What calls on a file's bytes do to the model.

use super::operation::{Outcome, Space, Via, Write, fill, rounded};
use super::predict::{Answer, DONE, SET_GID, SET_UID};
use super::state::{Id, Kind, Open, State};
use crate::lab::records::fnv;

/// The group may run it.
const GROUP_RUNS: u32 = 0o010;

impl State {
    pub(super) fn set_length(&mut self, id: Id, length: u64) {
        self.clear_set_id(id);
        if let Some(bytes) = self.change(id).bytes_mut() {
            bytes.resize(length as usize, 0);
        }
    }

    /// What a change of the bytes by somebody without `CAP_FSETID` does to the mode.
    pub(super) fn clear_set_id(&mut self, id: Id) {
        let inode = self.change(id);
        inode.mode &= !SET_UID;
        if inode.mode & GROUP_RUNS != 0 || inode.gid != 0 {
            inode.mode &= !SET_GID;
        }
    }

    fn put(&mut self, id: Id, at: u64, bytes: &[u8]) {
        if let Some(content) = self.change(id).bytes_mut() {
            let end = at as usize + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[at as usize..end].copy_from_slice(bytes);
        }
    }

    pub(super) fn write(&mut self, open: Open, (at, length): (u64, u64), tag: u64, how: Write) -> Answer {
        if !open.write {
            return Err(libc::EBADF);
        }
        let (at, length) = rounded(open.direct, at, length);
        let size = self.inode(open.id).bytes().map_or(0, |bytes| bytes.len() as u64);
        let appends = open.append || how == Write::Append && !open.direct;
        let place = if appends { size } else { at };
        if length > 0 {
            self.clear_set_id(open.id);
            self.put(open.id, place, &fill(tag, at, length));
        }
        Ok(Outcome::Done(length))
    }

    pub(super) fn read(&self, open: Open, at: u64, length: u64, via: Via) -> Answer {
        if !open.read {
            return Err(libc::EBADF);
        }
        let (at, length) = rounded(open.direct, at, length);
        let directory = match via {
            // A ring does not ask what is read when nothing is to be.
            Via::Ring if length == 0 => return Ok(Outcome::Done(fnv(&[]))),
            Via::Aio => libc::EINVAL,
            Via::Call | Via::Ring => libc::EISDIR,
        };
        self.inode(open.id).bytes().ok_or(directory)?;
        Ok(Outcome::Done(fnv(&self.part(open.id, at, length))))
    }

    /// Whether the open file can be mapped for stores.
    pub(super) fn mapped(&self, open: Open) -> Result<Id, i32> {
        match self.inode(open.id).kind {
            // Not opened for reading, or a shared mapping to be written of one not opened for writing.
            _ if !open.read => Err(libc::EACCES),
            Kind::Directory(_) if open.write => Err(libc::ENODEV),
            _ if !open.write => Err(libc::EACCES),
            _ => Ok(open.id),
        }
    }

    pub(super) fn store(&mut self, open: Open, at: u64, length: u64, tag: u64) -> Answer {
        let size = self.inode(open.id).bytes().map_or(0, |bytes| bytes.len() as u64);
        if at + length > size {
            return Ok(Outcome::Skipped);
        }
        let id = self.mapped(open)?;
        self.put(id, at, &fill(tag, at, length));
        self.change(id).stored = true;
        DONE
    }

    pub(super) fn store_mapped(
        &mut self,
        actor: usize,
        map: u8,
        (at, length): (u64, u64),
        tag: u64,
    ) -> Answer {
        match self.processes[actor].maps[usize::from(map)] {
            Some((id, _)) => {
                self.put(id, at, &fill(tag, at, length));
                self.change(id).stored = true;
                DONE
            }
            None => Ok(Outcome::Skipped),
        }
    }

    pub(super) fn allocate(&mut self, open: Open, space: Space, at: u64, length: u64) -> Answer {
        if length == 0 {
            return Err(libc::EINVAL);
        }
        if !open.write {
            return Err(libc::EBADF);
        }
        self.clear_set_id(open.id);
        if let Some(bytes) = self.change(open.id).bytes_mut() {
            let end = (at + length) as usize;
            if matches!(space, Space::Allocate | Space::Zero) && bytes.len() < end {
                bytes.resize(end, 0);
            }
            if !matches!(space, Space::Allocate | Space::Keep) {
                let end = end.min(bytes.len());
                let begin = (at as usize).min(end);
                bytes[begin..end].fill(0);
            }
        }
        DONE
    }

    pub(super) fn copy(&mut self, from: Open, to: Open, (from_at, to_at): (u64, u64), length: u64) -> Answer {
        if self.inode(from.id).bytes().is_none() || self.inode(to.id).bytes().is_none() {
            return Err(libc::EISDIR);
        }
        if !from.read || !to.write || to.append {
            return Err(libc::EBADF);
        }
        let bytes = self.part(from.id, from_at, length);
        let count = bytes.len() as u64;
        if from.id == to.id && to_at + count > from_at && to_at < from_at + count {
            return Err(libc::EINVAL);
        }
        self.put_copy(to.id, to_at, &bytes)
    }

    pub(super) fn send(&mut self, from: Open, to: Open, (from_at, to_at): (u64, u64), length: u64) -> Answer {
        // Asked for nothing, it is not called.
        match length {
            0 => return DONE,
            _ if !from.read || !to.write => return Err(libc::EBADF),
            _ if to.append => return Err(libc::EINVAL),
            _ => (),
        }
        let bytes = self.part(from.id, from_at, length);
        self.put_copy(to.id, to_at, &bytes)
    }

    pub(super) fn splice(
        &mut self,
        from: Open,
        to: Open,
        (from_at, to_at): (u64, u64),
        length: u64,
    ) -> Answer {
        if length > 0 && !from.read {
            return Err(libc::EBADF);
        }
        // The second half is called if there is something in the pipe.
        let bytes = self.part(from.id, from_at, length);
        match bytes.is_empty() {
            true => return DONE,
            false if !to.write => return Err(libc::EBADF),
            false if to.append => return Err(libc::EINVAL),
            false => (),
        }
        self.put_copy(to.id, to_at, &bytes)
    }

    /// What of a file is there to be read.
    pub(super) fn part(&self, id: Id, at: u64, length: u64) -> Vec<u8> {
        let bytes = self.inode(id).bytes().unwrap_or_default();
        let begin = (at as usize).min(bytes.len());
        bytes[begin..(begin + length as usize).min(bytes.len())].to_vec()
    }

    fn put_copy(&mut self, to: Id, at: u64, bytes: &[u8]) -> Answer {
        if !bytes.is_empty() {
            self.clear_set_id(to);
            self.put(to, at, bytes);
        }
        Ok(Outcome::Done(bytes.len() as u64))
    }
}
