//! Requests of the kernel, typed. Parsing never trusts a length: what is too short is [`Malformed`].

use std::ffi::CStr;

use super::abi::{
    BatchForgetIn, CopyFileRangeIn, CreateIn, FallocateIn, ForgetIn, ForgetOne, FsyncIn, GetattrIn,
    GetxattrIn, InHeader, IoctlIn, LinkIn, LseekIn, MkdirIn, MknodIn, OpenIn, Plain, ReadIn, ReleaseIn,
    Rename2In, RenameIn, SetattrIn, SetxattrIn, SetxattrInOld, StatxIn, WriteIn, opcode,
};

/// One request.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Request<'a> {
    Lookup {
        name: &'a CStr,
    },
    Forget {
        count: u64,
    },
    BatchForget {
        items: Forgets<'a>,
    },
    Getattr {
        input: GetattrIn,
    },
    Statx {
        input: StatxIn,
    },
    Setattr {
        input: SetattrIn,
    },
    Readlink,
    Symlink {
        name: &'a CStr,
        target: &'a CStr,
    },
    Mknod {
        input: MknodIn,
        name: &'a CStr,
    },
    Mkdir {
        input: MkdirIn,
        name: &'a CStr,
    },
    Unlink {
        name: &'a CStr,
    },
    Rmdir {
        name: &'a CStr,
    },
    Rename {
        new_parent: u64,
        flags: u32,
        old_name: &'a CStr,
        new_name: &'a CStr,
    },
    Link {
        input: LinkIn,
        name: &'a CStr,
    },
    Open {
        input: OpenIn,
    },
    Create {
        input: CreateIn,
        name: &'a CStr,
    },
    Tmpfile {
        input: CreateIn,
    },
    Read {
        input: ReadIn,
    },
    Write {
        input: WriteIn,
        data: &'a [u8],
    },
    Statfs,
    Release {
        input: ReleaseIn,
    },
    Fsync {
        input: FsyncIn,
    },
    Setxattr {
        input: SetxattrIn,
        name: &'a CStr,
        value: &'a [u8],
    },
    Getxattr {
        input: GetxattrIn,
        name: &'a CStr,
    },
    Listxattr {
        input: GetxattrIn,
    },
    Removexattr {
        name: &'a CStr,
    },
    Opendir {
        input: OpenIn,
    },
    Readdir {
        input: ReadIn,
        plus: bool,
    },
    Releasedir {
        input: ReleaseIn,
    },
    Fsyncdir {
        input: FsyncIn,
    },
    Syncfs,
    Fallocate {
        input: FallocateIn,
    },
    Lseek {
        input: LseekIn,
    },
    CopyFileRange {
        input: CopyFileRangeIn,
        wide: bool,
    },
    Ioctl {
        input: IoctlIn,
        data: &'a [u8],
    },
    /// The caller would like to stop waiting. It must not: an fsync that ends with EINTR makes databases panic.
    Interrupt,
    /// The mount is going away.
    Destroy,
    /// Something this gate does not take part in: answered ENOSYS, after which the kernel does not ask again.
    Unsupported,
}

/// A request that makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed request (opcode {opcode:?}): {reason}")]
pub struct Malformed {
    /// To be answered under this number; `None` where not even the header was there.
    pub unique: Option<u64>,
    /// Its kind, where known.
    pub opcode: Option<u32>,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The items of a BATCH_FORGET.
#[derive(Clone, Copy, Debug)]
pub struct Forgets<'a> {
    bytes: &'a [u8],
}

impl Iterator for Forgets<'_> {
    type Item = ForgetOne;

    fn next(&mut self) -> Option<ForgetOne> {
        let item = ForgetOne::read(self.bytes)?;
        self.bytes = self.bytes.get(size_of::<ForgetOne>()..)?;
        Some(item)
    }
}

/// The body of a request, consumed from the front.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take<T: Plain>(&mut self) -> Result<T, &'static str> {
        let value = T::read(self.0).ok_or("shorter than its structure")?;
        self.0 = self.0.get(size_of::<T>()..).unwrap_or_default();
        Ok(value)
    }

    /// Bytes up to a NUL.
    fn string(&mut self) -> Result<&'a CStr, &'static str> {
        let string = CStr::from_bytes_until_nul(self.0).map_err(|_| "string without end")?;
        self.0 = self.0.get(string.count_bytes() + 1..).unwrap_or_default();
        Ok(string)
    }

    /// A name as it may stand in a directory. The kernel hands on longer ones than any file system below takes: that one
    /// says how long is too long.
    fn name(&mut self) -> Result<&'a CStr, &'static str> {
        let name = self.string()?;
        let bytes = name.to_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err("not a name");
        }
        Ok(name)
    }

    fn data(&mut self, length: u32) -> Result<&'a [u8], &'static str> {
        self.0.get(..length as usize).ok_or("shorter than its data")
    }
}

/// Take a request apart. `extended_setxattr`: SETXATTR_EXT was negotiated.
///
/// # Errors
/// [`Malformed`], to be answered and counted.
pub fn parse(bytes: &[u8], extended_setxattr: bool) -> Result<(InHeader, Request<'_>), Malformed> {
    let header = InHeader::read(bytes).ok_or(Malformed {
        unique: None,
        opcode: None,
        reason: "shorter than its header",
    })?;
    let malformed = |reason| Malformed { unique: Some(header.unique), opcode: Some(header.opcode), reason };
    if header.len as usize != bytes.len() {
        return Err(malformed("length differs from the header's"));
    }
    let body = Body(bytes.get(size_of::<InHeader>()..).unwrap_or_default());
    let request = parse_body(header.opcode, body, extended_setxattr).map_err(malformed)?;
    Ok((header, request))
}

fn parse_body(opcode: u32, mut body: Body<'_>, extended_setxattr: bool) -> Result<Request<'_>, &'static str> {
    Ok(match opcode {
        opcode::LOOKUP => Request::Lookup { name: body.name()? },
        opcode::FORGET => Request::Forget { count: body.take::<ForgetIn>()?.nlookup },
        opcode::BATCH_FORGET => {
            let count = body.take::<BatchForgetIn>()?.count as usize;
            let length = count.checked_mul(size_of::<ForgetOne>()).ok_or("too many items")?;
            Request::BatchForget {
                items: Forgets { bytes: body.0.get(..length).ok_or("fewer items than announced")? },
            }
        }
        opcode::GETATTR => Request::Getattr { input: body.take()? },
        opcode::STATX => Request::Statx { input: body.take()? },
        opcode::SETATTR => Request::Setattr { input: body.take()? },
        opcode::READLINK => Request::Readlink,
        opcode::SYMLINK => Request::Symlink { name: body.name()?, target: body.string()? },
        opcode::MKNOD => Request::Mknod { input: body.take()?, name: body.name()? },
        opcode::MKDIR => Request::Mkdir { input: body.take()?, name: body.name()? },
        opcode::UNLINK => Request::Unlink { name: body.name()? },
        opcode::RMDIR => Request::Rmdir { name: body.name()? },
        opcode::RENAME => {
            let new_parent = body.take::<RenameIn>()?.newdir;
            Request::Rename { new_parent, flags: 0, old_name: body.name()?, new_name: body.name()? }
        }
        opcode::RENAME2 => {
            let input = body.take::<Rename2In>()?;
            let (old_name, new_name) = (body.name()?, body.name()?);
            Request::Rename { new_parent: input.newdir, flags: input.flags, old_name, new_name }
        }
        opcode::LINK => Request::Link { input: body.take()?, name: body.name()? },
        opcode::CREATE => Request::Create { input: body.take()?, name: body.name()? },
        // The name that follows is the kernel's own and says nothing.
        opcode::TMPFILE => Request::Tmpfile { input: body.take()? },
        _ => return parse_handle_body(opcode, body, extended_setxattr),
    })
}

/// The second half: requests about open files, extended attributes, directories and the rest.
fn parse_handle_body(
    opcode: u32,
    mut body: Body<'_>,
    extended_setxattr: bool,
) -> Result<Request<'_>, &'static str> {
    Ok(match opcode {
        opcode::OPEN => Request::Open { input: body.take()? },
        opcode::READ => Request::Read { input: body.take()? },
        opcode::WRITE => {
            let input = body.take::<WriteIn>()?;
            Request::Write { input, data: body.data(input.size)? }
        }
        opcode::STATFS => Request::Statfs,
        opcode::RELEASE => Request::Release { input: body.take()? },
        opcode::FSYNC => Request::Fsync { input: body.take()? },
        opcode::SETXATTR => {
            let input = if extended_setxattr {
                body.take::<SetxattrIn>()?
            } else {
                let old = body.take::<SetxattrInOld>()?;
                SetxattrIn { size: old.size, flags: old.flags, ..SetxattrIn::default() }
            };
            Request::Setxattr { input, name: body.string()?, value: body.data(input.size)? }
        }
        opcode::GETXATTR => Request::Getxattr { input: body.take()?, name: body.string()? },
        opcode::LISTXATTR => Request::Listxattr { input: body.take()? },
        opcode::REMOVEXATTR => Request::Removexattr { name: body.string()? },
        opcode::OPENDIR => Request::Opendir { input: body.take()? },
        opcode::READDIR => Request::Readdir { input: body.take()?, plus: false },
        opcode::READDIRPLUS => Request::Readdir { input: body.take()?, plus: true },
        opcode::RELEASEDIR => Request::Releasedir { input: body.take()? },
        opcode::FSYNCDIR => Request::Fsyncdir { input: body.take()? },
        opcode::SYNCFS => Request::Syncfs,
        opcode::FALLOCATE => Request::Fallocate { input: body.take()? },
        opcode::LSEEK => Request::Lseek { input: body.take()? },
        opcode::COPY_FILE_RANGE => Request::CopyFileRange { input: body.take()?, wide: false },
        opcode::COPY_FILE_RANGE_64 => Request::CopyFileRange { input: body.take()?, wide: true },
        opcode::IOCTL => {
            let input = body.take::<IoctlIn>()?;
            Request::Ioctl { input, data: body.data(input.in_size)? }
        }
        opcode::INTERRUPT | opcode::NOTIFY_REPLY => Request::Interrupt,
        opcode::DESTROY => Request::Destroy,
        _ => Request::Unsupported,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let len = (size_of::<InHeader>() + body.len()) as u32;
        let header = InHeader { len, opcode, unique: 7, nodeid: 1, ..InHeader::default() };
        [header.bytes(), body].concat()
    }

    #[test]
    fn a_whole_request_is_taken_apart() {
        let bytes = request(opcode::LOOKUP, b"name\0");
        let (header, parsed) = parse(&bytes, true).unwrap();
        assert_eq!(header.unique, 7);
        assert!(matches!(parsed, Request::Lookup { name } if name == c"name"));
    }

    /// Every kind of request cut at every length is either whole or malformed, and never a panic.
    #[test]
    fn cut_requests_are_malformed() {
        for code in 0..64 {
            let full = request(code, &[1_u8; 200]);
            for cut in 0..full.len() {
                let mut bytes = full[..cut].to_vec();
                if let Some(length) = bytes.get_mut(..4) {
                    length.copy_from_slice(&(cut as u32).to_ne_bytes());
                }
                let _ = parse(&bytes, cut % 2 == 0);
            }
            assert!(parse(&full[..full.len() - 1], true).is_err(), "opcode {code}: length differs");
        }
        assert_eq!(parse(&[0; 10], true).unwrap_err().unique, None);
    }

    #[test]
    fn impossible_names_are_refused() {
        for name in [&b"\0"[..], b".\0", b"..\0", b"a/b\0", b"no end"] {
            let bytes = request(opcode::LOOKUP, name);
            assert_eq!(parse(&bytes, true).unwrap_err().unique, Some(7));
        }
    }

    #[test]
    fn announced_lengths_are_checked() {
        let write = WriteIn { size: 100, ..WriteIn::default() };
        assert!(parse(&request(opcode::WRITE, &[write.bytes(), &[0; 99]].concat()), true).is_err());
        assert!(parse(&request(opcode::WRITE, &[write.bytes(), &[0; 100]].concat()), true).is_ok());
        let forgets = BatchForgetIn { count: u32::MAX, dummy: 0 };
        assert!(parse(&request(opcode::BATCH_FORGET, forgets.bytes()), true).is_err());
    }
}
