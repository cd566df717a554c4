//! Durability calls: the caller is held until the sink answers; no reader waits.

use std::sync::Arc;

use replicator_core::event::SyncScope;

use super::super::abi::{FSYNC_FDATASYNC, FsyncIn};
use super::super::server::{Answer, Context, Held, Outcome};
use super::directory::open_listing;

pub fn fsync(context: &mut Context<'_>, input: &FsyncIn) -> Answer {
    let server = context.server;
    let open = server.handles.file(input.fh)?;
    let data_only = input.fsync_flags & FSYNC_FDATASYNC != 0;
    let scope = SyncScope::File { file: server.file(&open.inode), data_only };
    Ok(Outcome::Held(Held { scope, backing: Arc::clone(&open.file), body: Vec::new() }))
}

pub fn fsyncdir(context: &mut Context<'_>, input: &FsyncIn) -> Answer {
    let server = context.server;
    let (inode, directory) = context.directory()?;
    let file = Arc::new(open_listing(&directory)?);
    let data_only = input.fsync_flags & FSYNC_FDATASYNC != 0;
    let scope = SyncScope::File { file: server.file(&inode), data_only };
    Ok(Outcome::Held(Held { scope, backing: file, body: Vec::new() }))
}

pub fn syncfs(context: &mut Context<'_>) -> Answer {
    let server = context.server;
    let root = Arc::new(server.volume.root().try_clone_to_owned()?);
    let scope = SyncScope::Volume(server.volume.id);
    Ok(Outcome::Held(Held { scope, backing: root, body: Vec::new() }))
}
