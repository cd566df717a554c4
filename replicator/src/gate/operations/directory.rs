//! Directory listings. Offsets are the covered directory's own cookies, so they stay valid while names come and go.
//!
//! No directory is opened at the gate: the kernel is told so at its first OPENDIR (ENOSYS), and from then on keeps listings itself until
//! a name in the directory changes. So a directory that has not changed is listed without any request.

use std::ffi::CStr;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::super::abi::{Dirent, EntryOut, ReadIn, align8};
use super::super::inodes::Inode;
use super::super::listings::{Directory, Listing};
use super::super::server::{Answer, Context, Outcome, Refusal, ReplyBuffer, Server, Undo};
use super::names::{find, is_reserved};

pub fn readdir(context: &mut Context<'_>, input: &ReadIn, plus: bool) -> Answer {
    let server = context.server;
    let inode = context.inode()?;
    let which = Directory { node: inode.node, generation: inode.generation };
    let (kept, changes) = server.listings.take(which, input.offset);
    let mut listing = match kept {
        Some(listing) => listing,
        None => {
            let directory = server.inodes.directory(&inode, &server.volume)?;
            Listing::begin(which, open_listing(&directory)?, input.offset)?
        }
    };
    let limit = input.size as usize;
    let mut nodes = Vec::new();
    let filled = fill(server, &inode, &mut listing, context.reply, limit, plus, &mut nodes);
    match filled {
        // What was announced before the failure must reach the kernel, or be taken back; the next call fails again.
        Err(refusal) if context.reply.length() == 0 => return Err(refusal),
        Err(_) => {}
        // An empty answer is the listing's end.
        Ok(()) if context.reply.length() > 0 => server.listings.keep(listing, changes),
        Ok(()) => {}
    }
    Ok(Outcome::Reply(Undo::Entries { nodes }))
}

/// A descriptor for reading of a directory of which there is any descriptor.
///
/// # Errors
/// What openat(2) returns.
pub fn open_listing(directory: &std::os::fd::OwnedFd) -> Result<std::os::fd::OwnedFd, Refusal> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::openat(directory, c".", flags, Mode::empty())?)
}

/// Put entries into the answer until it is full or the directory ends. `nodes` gets those that were announced.
fn fill(
    server: &Server,
    parent: &Inode,
    listing: &mut Listing,
    reply: &mut ReplyBuffer,
    limit: usize,
    plus: bool,
    nodes: &mut Vec<u64>,
) -> Result<(), Refusal> {
    loop {
        let Some(entry) = listing.current()? else { return Ok(()) };
        let step = entry.step();
        if !is_reserved(parent.node, entry.name) {
            let length = align8(size_of::<Dirent>() + entry.name.count_bytes())
                + if plus { size_of::<EntryOut>() } else { 0 };
            if reply.length() + length > limit {
                return Ok(());
            }
            let (ino, kind, next) = (entry.ino, entry.kind, entry.next);
            let name = entry.name.to_owned();
            if plus {
                let announced = announce(server, parent, listing, &name);
                nodes.extend((announced.nodeid != 0).then_some(announced.nodeid));
                reply.put(&announced);
            }
            let name = name.to_bytes();
            reply.put(&Dirent { ino, off: next, namelen: name.len() as u32, kind: u32::from(kind) });
            reply.put_bytes(name);
            let padding = align8(name.len()) - name.len();
            reply.put_bytes(&[0; 8][..padding]);
        }
        listing.advance(step);
    }
}

/// A listed name looked up at once. Where that fails the name is listed all the same (node 0).
fn announce(server: &Server, parent: &Inode, listing: &Listing, name: &CStr) -> EntryOut {
    if matches!(name.to_bytes(), b"." | b"..") {
        return EntryOut::default();
    }
    find(server, &listing.file, name)
        .and_then(|(fd, stat)| {
            let inode = server.admit(parent, &fd, &stat)?;
            server.strict.note_name(server, &inode, parent.node, name.to_bytes());
            Ok(server.entry(&inode, &stat))
        })
        .unwrap_or_default()
}
