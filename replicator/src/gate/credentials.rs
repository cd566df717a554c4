//! What a reader thread is allowed and as whom it acts.
//!
//! The kernel has checked permissions (`default_permissions`), so a thread keeps its capabilities and only changes what
//! leaves a trace on disk: file-system user and group id, umask, and CAP_FSETID, without which the file system clears set-id bits
//! as it does for an ordinary writer. CAP_SYS_RESOURCE is off for good: it would let users eat the reserve and their quotas.
//!
//! All of it belongs to the thread: the C library would change the whole process, so the system calls are made bare
//! (credentials(7), "Modifying process user and group IDs").

use std::io;

/// `SECBIT_NO_SETUID_FIXUP` (capabilities(7)): changing ids leaves the capabilities alone.
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_FSETID: u32 = 4;
const CAP_SYS_RESOURCE: u32 = 24;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Who asks, as the kernel says in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
}

/// The calling thread's identity. Changes stay until the next change, since most callers come in rows.
#[derive(Debug)]
pub struct Identity {
    caller: Caller,
    umask: u32,
    keeps_set_ids: bool,
    capabilities: [CapabilityData; 2],
    /// Not to be used on another thread than the one it describes.
    _thread: std::marker::PhantomData<*const ()>,
}

const ROOT: Caller = Caller { uid: 0, gid: 0 };

impl Identity {
    /// Prepare the calling thread: own umask, no signals, no supplementary groups, no CAP_SYS_RESOURCE.
    ///
    /// # Errors
    /// EPERM where the process is not root with CAP_SETUID, CAP_SETGID and CAP_SETPCAP.
    pub fn adopt() -> io::Result<Identity> {
        // SAFETY: none of these calls takes memory, but for the signal set, which is initialized first and outlives the
        // call; all of them change the calling thread only.
        unsafe {
            let mut signals = std::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&raw mut signals);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
            check(libc::unshare(libc::CLONE_FS) as libc::c_long)?;
            libc::umask(0);
            check(libc::syscall(libc::SYS_setgroups, 0_usize, std::ptr::null::<libc::gid_t>()))?;
            let bits = check(libc::prctl(libc::PR_GET_SECUREBITS).into())?;
            check(
                libc::prctl(libc::PR_SET_SECUREBITS, bits as libc::c_ulong | SECBIT_NO_SETUID_FIXUP).into(),
            )?;
        }
        let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
        let mut capabilities = [CapabilityData::default(); 2];
        // SAFETY: version 3 fills two data structures; both pointers outlive the call.
        check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, capabilities.as_mut_ptr()) })?;
        for word in &mut capabilities {
            // Whoever started the thread may have laid some aside.
            word.effective = word.permitted;
        }
        capabilities[0].effective &= !(1 << CAP_SYS_RESOURCE);
        let mut identity = Identity {
            caller: ROOT,
            umask: 0,
            keeps_set_ids: true,
            capabilities,
            _thread: std::marker::PhantomData,
        };
        identity.set_capabilities()?;
        identity.caller = Caller { uid: u32::MAX, gid: u32::MAX };
        identity.root()?;
        Ok(identity)
    }

    /// Act as root.
    ///
    /// # Errors
    /// What the system calls return; the thread must not go on then.
    pub fn root(&mut self) -> io::Result<()> {
        self.act_as(ROOT, true)
    }

    /// Act as `caller`. Without `keeps_set_ids`, writing, truncating and the like clear set-id bits.
    ///
    /// # Errors
    /// What the system calls return; the thread must not go on then.
    pub fn act_as(&mut self, caller: Caller, keeps_set_ids: bool) -> io::Result<()> {
        if self.caller.gid != caller.gid {
            set_filesystem_id(libc::SYS_setfsgid, caller.gid)?;
            self.caller.gid = caller.gid;
        }
        if self.caller.uid != caller.uid {
            set_filesystem_id(libc::SYS_setfsuid, caller.uid)?;
            self.caller.uid = caller.uid;
        }
        if self.keeps_set_ids != keeps_set_ids {
            self.keeps_set_ids = keeps_set_ids;
            self.set_capabilities()?;
        }
        Ok(())
    }

    /// Create files under this umask (the file system ignores it below a default ACL).
    pub fn set_umask(&mut self, umask: u32) {
        let umask = umask & 0o777;
        if self.umask != umask {
            // SAFETY: umask takes no memory and cannot fail.
            unsafe { libc::umask(umask) };
            self.umask = umask;
        }
    }

    fn set_capabilities(&mut self) -> io::Result<()> {
        let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
        let mut capabilities = self.capabilities;
        if !self.keeps_set_ids {
            capabilities[0].effective &= !(1 << CAP_FSETID);
        }
        // SAFETY: version 3 reads two data structures; both pointers outlive the call.
        check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, capabilities.as_ptr()) })?;
        Ok(())
    }
}

/// setfsuid(2) and setfsgid(2) report nothing: only asking again tells whether they worked.
fn set_filesystem_id(call: libc::c_long, id: u32) -> io::Result<()> {
    // SAFETY: neither call takes memory; both change the calling thread only.
    let now = unsafe {
        libc::syscall(call, id);
        libc::syscall(call, u32::MAX)
    };
    if now as u32 == id { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_belong_to_the_caller() {
        // SAFETY: geteuid takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            println!("not run: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        std::thread::spawn(move || {
            let mut identity = Identity::adopt().unwrap();
            identity.act_as(Caller { uid: 1234, gid: 5678 }, false).unwrap();
            std::fs::write(path.join("theirs"), b"x").unwrap();
            identity.root().unwrap();
            std::fs::write(path.join("ours"), b"x").unwrap();
        })
        .join()
        .unwrap();
        let theirs = std::fs::metadata(directory.path().join("theirs")).unwrap();
        assert_eq!((theirs.uid(), theirs.gid()), (1234, 5678));
        let ours = std::fs::metadata(directory.path().join("ours")).unwrap();
        assert_eq!((ours.uid(), ours.gid()), (0, 0));
    }
}
