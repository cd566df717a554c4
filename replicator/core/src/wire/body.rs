//! Small bodies that the core itself writes and reads.

use alloc::vec::Vec;

use super::cursor::{BodyError, Cursor, Put};
use super::header::FLAG_MORE;
use crate::action::DurableScope;
use crate::extent::Extent;
use crate::ids::{FileId, Generation, Sequence, VolumeId};
use crate::resume::{Held, StreamId};

/// Most extents in one `DigestReply` frame.
pub const EXTENTS_MAX: usize = 65_536;
/// Most files in one `CreatedReply` or `Barrier` frame.
pub const FILES_MAX: usize = 65_536;
/// Length of one block's digest in bytes.
pub const DIGEST_BYTES: usize = 16;

/// Members for as many frames as they need, at least one, with the flags of each.
pub(crate) fn in_parts<T>(members: &[T], most: usize) -> impl Iterator<Item = (&[T], u16)> {
    let mut rest = Some(members);
    core::iter::from_fn(move || {
        let members = rest.take()?;
        let (part, behind) = members.split_at(members.len().min(most));
        rest = (!behind.is_empty()).then_some(behind);
        Some((part, if rest.is_some() { FLAG_MORE } else { 0 }))
    })
}

/// Payload of an `Ack`: the positions a secondary has reached, `received >= applied >= synced`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ack {
    /// Every frame up to this one arrived whole.
    pub received: Sequence,
    /// Every frame up to this one was applied.
    pub applied: Sequence,
    /// Every frame up to this one is durable.
    pub synced: Sequence,
}

impl Ack {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(24);
        body.put_u64(self.received.0);
        body.put_u64(self.applied.0);
        body.put_u64(self.synced.0);
        body
    }

    /// The positions in a payload.
    ///
    /// # Errors
    /// [`BodyError`]; also where the positions are not in order.
    pub fn decode(body: &[u8]) -> Result<Ack, BodyError> {
        let mut cursor = Cursor::new(body);
        let ack = Ack {
            received: Sequence(cursor.u64()?),
            applied: Sequence(cursor.u64()?),
            synced: Sequence(cursor.u64()?),
        };
        cursor.finish()?;
        if ack.received < ack.applied || ack.applied < ack.synced {
            return Err(BodyError::Value("order of positions"));
        }
        Ok(ack)
    }
}

/// Payload of a `Barrier`.
#[must_use]
pub fn encode_barrier(scope: &DurableScope) -> Vec<u8> {
    let mut body = Vec::with_capacity(32);
    match scope {
        DurableScope::Files(files) => {
            body.put_u8(0);
            body.put_count(files.len());
            for &(file, data_only) in files {
                body.put_file(file);
                body.put_u8(u8::from(data_only));
            }
        }
        DurableScope::Volume(volume) => {
            body.put_u8(1);
            body.put_u16(volume.0);
        }
        DurableScope::Everything => body.put_u8(2),
    }
    body
}

/// What a `Barrier` asks for.
///
/// # Errors
/// [`BodyError`].
pub fn decode_barrier(body: &[u8]) -> Result<DurableScope, BodyError> {
    let mut cursor = Cursor::new(body);
    let scope = match cursor.u8()? {
        0 => {
            let file = |cursor: &mut Cursor<'_>| Ok((cursor.file()?, cursor.flag("data only")?));
            DurableScope::Files(cursor.list(11, FILES_MAX, "files", file)?)
        }
        1 => DurableScope::Volume(VolumeId(cursor.u16()?)),
        2 => DurableScope::Everything,
        _ => return Err(BodyError::Value("barrier scope")),
    };
    cursor.finish()?;
    Ok(scope)
}

/// Payload of a `DigestReply`: the extents that differ.
#[must_use]
pub fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + extents.len() * 16);
    put_extents(&mut body, extents);
    body
}

pub(crate) fn put_extents(body: &mut Vec<u8>, extents: &[Extent]) {
    body.put_count(extents.len());
    for extent in extents {
        body.put_u64(extent.start);
        body.put_u64(extent.end);
    }
}

/// Extents, ascending and apart.
pub(crate) fn extents(cursor: &mut Cursor<'_>, max: usize) -> Result<Vec<Extent>, BodyError> {
    let extent = |cursor: &mut Cursor<'_>| Ok(Extent { start: cursor.u64()?, end: cursor.u64()? });
    let extents = cursor.list(16, max, "extents", extent)?;
    let apart = extents.is_sorted_by(|before, extent| before.end <= extent.start);
    if !apart || extents.iter().any(|extent| extent.is_empty()) {
        return Err(BodyError::Value("extent"));
    }
    Ok(extents)
}

/// The extents in a `DigestReply`, ascending and apart.
///
/// # Errors
/// [`BodyError`]; also where an extent is empty or begins before the end of the one before.
pub fn decode_extents(body: &[u8]) -> Result<Vec<Extent>, BodyError> {
    let mut cursor = Cursor::new(body);
    let extents = extents(&mut cursor, EXTENTS_MAX)?;
    cursor.finish()?;
    Ok(extents)
}

/// Payload of a `CreatedReply`: the files that were made.
#[must_use]
pub fn encode_files(files: &[FileId]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + files.len() * 10);
    put_files(&mut body, files);
    body
}

pub(crate) fn put_files(body: &mut Vec<u8>, files: &[FileId]) {
    body.put_count(files.len());
    files.iter().for_each(|file| body.put_file(*file));
}

pub(crate) fn files(cursor: &mut Cursor<'_>, max: usize) -> Result<Vec<FileId>, BodyError> {
    cursor.list(10, max, "files", |cursor| cursor.file())
}

/// The files in a `CreatedReply`.
///
/// # Errors
/// [`BodyError`].
pub fn decode_files(body: &[u8]) -> Result<Vec<FileId>, BodyError> {
    let mut cursor = Cursor::new(body);
    let files = files(&mut cursor, FILES_MAX)?;
    cursor.finish()?;
    Ok(files)
}

pub(crate) fn put_stream(body: &mut Vec<u8>, stream: StreamId) {
    body.put(&stream.incarnation);
    body.put_u64(stream.number);
}

pub(crate) fn stream(cursor: &mut Cursor<'_>) -> Result<StreamId, BodyError> {
    Ok(StreamId { incarnation: cursor.array()?, number: cursor.u64()? })
}

pub(crate) fn put_held(body: &mut Vec<u8>, held: Held) {
    put_stream(body, held.stream);
    body.put_u64(held.received.0);
}

pub(crate) fn held(cursor: &mut Cursor<'_>) -> Result<Held, BodyError> {
    Ok(Held { stream: stream(cursor)?, received: Sequence(cursor.u64()?) })
}

pub(crate) fn put_held_if_any(body: &mut Vec<u8>, held: Option<Held>) {
    body.put_u8(u8::from(held.is_some()));
    if let Some(held) = held {
        put_held(body, held);
    }
}

pub(crate) fn held_if_any(cursor: &mut Cursor<'_>) -> Result<Option<Held>, BodyError> {
    if cursor.flag("held")? { held(cursor).map(Some) } else { Ok(None) }
}

/// Payload of a `ResyncBegin` from version 2 on: which stream begins.
#[must_use]
pub fn encode_stream(id: StreamId) -> Vec<u8> {
    let mut body = Vec::with_capacity(24);
    put_stream(&mut body, id);
    body
}

/// The stream that a `ResyncBegin` names.
///
/// # Errors
/// [`BodyError`].
pub fn decode_stream(body: &[u8]) -> Result<StreamId, BodyError> {
    let mut cursor = Cursor::new(body);
    let id = stream(&mut cursor)?;
    cursor.finish()?;
    Ok(id)
}

/// Payload of a `ResumeBegin`: which stream begins, and what the secondary holds, from where it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resumption {
    /// The stream that begins.
    pub stream: StreamId,
    /// What the secondary said it holds.
    pub from: Held,
}

impl Resumption {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(56);
        put_stream(&mut body, self.stream);
        put_held(&mut body, self.from);
        body
    }

    /// The resumption in a payload.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<Resumption, BodyError> {
        let mut cursor = Cursor::new(body);
        let begun = stream(&mut cursor)?;
        let from = held(&mut cursor)?;
        cursor.finish()?;
        Ok(Resumption { stream: begun, from })
    }
}

/// Payload of a `Holding`: what a secondary has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// The generation its record has.
    pub generation: Generation,
    /// What of which stream; `None`: nothing that could be gone on from.
    pub held: Option<Held>,
}

impl Holding {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(41);
        body.put_u64(self.generation.0);
        put_held_if_any(&mut body, self.held);
        body
    }

    /// What a payload says is held.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<Holding, BodyError> {
        let mut cursor = Cursor::new(body);
        let generation = Generation(cursor.u64()?);
        let held = held_if_any(&mut cursor)?;
        cursor.finish()?;
        Ok(Holding { generation, held })
    }
}

/// Payload of a `Digests` frame: one digest for each block of the frame's extent, the last block as long as is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digests {
    /// Length of a block in bytes, not zero.
    pub block_bytes: u32,
    /// The digests in the order of the blocks.
    pub digests: Vec<[u8; DIGEST_BYTES]>,
}

impl Digests {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(8 + self.digests.len() * DIGEST_BYTES);
        body.put_u32(self.block_bytes);
        body.put_count(self.digests.len());
        self.digests.iter().for_each(|digest| body.put(digest));
        body
    }

    /// The digests in a payload. Whether their number fits the frame's extent is for the caller to check.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<Digests, BodyError> {
        let mut cursor = Cursor::new(body);
        let block_bytes = cursor.u32()?;
        if block_bytes == 0 {
            return Err(BodyError::Value("block size"));
        }
        let count = cursor.count(DIGEST_BYTES)?;
        let digests = (0..count).map(|_| cursor.array()).collect::<Result<Vec<_>, _>>()?;
        cursor.finish()?;
        Ok(Digests { block_bytes, digests })
    }
}
