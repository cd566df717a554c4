//! The file system's operations, one function per request.
//!
//! The kernel has checked permissions and names; what is done here is the same system call on the covered directory, the
//! report to the sink, and the answer.

mod attributes;
mod data;
mod directory;
mod extended;
mod names;
mod namespace;
mod open;
mod sync;

use super::request::Request;
use super::server::{Answer, Context, Outcome, REPLY, Refusal};

/// Do what a request asks. The answer's body is left in the reply buffer.
///
/// # Errors
/// The refusal to answer with.
pub fn serve(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    if let Request::Write { input, data } = request {
        return data::write(context, input, data);
    }
    if !leaves_no_trace(request) {
        context.identity.root()?;
    }
    let answer = dispatch(context, request);
    if let Some(parents) = changed_directories(context, request) {
        // Also after a failure: a part may have been done.
        context.server.listings.changed(parents);
        context.server.outdate(parents[0]);
        if parents[1] != parents[0] {
            context.server.outdate(parents[1]);
        }
    }
    answer
}

/// Whether it does not matter as whom a request is served: it changes nothing on disk, or takes on the caller's identity itself where it
/// does. The thread's capabilities are there whoever it acts as, so that these need no system call to change it.
fn leaves_no_trace(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::Lookup { .. }
            | Request::Forget { .. }
            | Request::BatchForget { .. }
            | Request::Readlink
            | Request::Getattr { .. }
            | Request::Statx { .. }
            | Request::Statfs
            | Request::Getxattr { .. }
            | Request::Readdir { .. }
            | Request::Open { .. }
            | Request::Create { .. }
            | Request::Release { .. }
            | Request::Fsync { .. }
            | Request::Fsyncdir { .. }
    )
}

/// The directories in which a request changes names.
fn changed_directories(context: &Context<'_>, request: &Request<'_>) -> Option<[u64; 2]> {
    let parent = context.header.nodeid;
    match request {
        Request::Rename { new_parent, .. } => Some([parent, *new_parent]),
        Request::Symlink { .. }
        | Request::Mknod { .. }
        | Request::Mkdir { .. }
        | Request::Unlink { .. }
        | Request::Rmdir { .. }
        | Request::Link { .. }
        | Request::Create { .. } => Some([parent; 2]),
        _ => None,
    }
}

fn dispatch(context: &mut Context<'_>, request: &Request<'_>) -> Answer {
    match request {
        Request::Lookup { name } => names::lookup(context, name),
        Request::Forget { count } => names::forget(context, *count),
        Request::BatchForget { items } => names::batch_forget(context, *items),
        Request::Readlink => names::readlink(context),
        Request::Getattr { input } => attributes::getattr(context, input),
        Request::Statx { input } => attributes::statx(context, input),
        Request::Setattr { input } => attributes::setattr(context, input),
        Request::Statfs => attributes::statfs(context),
        Request::Symlink { name, target } => namespace::symlink(context, name, target),
        Request::Mknod { input, name } => namespace::mknod(context, input, name),
        Request::Mkdir { input, name } => namespace::mkdir(context, input, name),
        Request::Unlink { name } => namespace::unlink(context, name, false),
        Request::Rmdir { name } => namespace::unlink(context, name, true),
        Request::Rename { new_parent, flags, old_name, new_name } => {
            namespace::rename(context, *new_parent, *flags, old_name, new_name)
        }
        Request::Link { input, name } => namespace::link(context, input, name),
        Request::Open { input } => open::open(context, input),
        Request::Create { input, name } => open::create(context, input, name),
        Request::Tmpfile { input } => open::tmpfile(context, input),
        Request::Release { input } => open::release(context, input),
        Request::Read { input } => data::read(context, input),
        Request::Fallocate { input } => data::fallocate(context, input),
        Request::Lseek { input } => data::lseek(context, input),
        Request::CopyFileRange { input, wide } => data::copy_file_range(context, input, *wide),
        Request::Fsync { input } => sync::fsync(context, input),
        Request::Fsyncdir { input } => sync::fsyncdir(context, input),
        Request::Syncfs => sync::syncfs(context),
        Request::Setxattr { input, name, value } => extended::setxattr(context, input, name, value),
        Request::Getxattr { input, name } => extended::getxattr(context, input, name),
        Request::Listxattr { input } => extended::listxattr(context, input),
        Request::Removexattr { name } => extended::removexattr(context, name),
        Request::Ioctl { input, data } => extended::ioctl(context, input, data),
        Request::Readdir { input, plus } => directory::readdir(context, input, *plus),
        // "Directories need not be opened", after which the kernel does not ask again.
        Request::Opendir { .. } => Err(Refusal::errno(libc::ENOSYS)),
        Request::Releasedir { .. } => REPLY,
        Request::Interrupt | Request::Destroy => Ok(Outcome::Silent),
        Request::Unsupported | Request::Write { .. } => Err(Refusal::errno(libc::ENOSYS)),
    }
}
