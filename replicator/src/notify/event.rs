//! What the kernel writes into a group's descriptor, taken apart (fanotify(7), linux/fanotify.h). No system calls here: bytes
//! become values, whatever they are.

use libc::{
    FAN_EVENT_INFO_TYPE_DFID, FAN_EVENT_INFO_TYPE_DFID_NAME, FAN_EVENT_INFO_TYPE_FID,
    FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, FAN_EVENT_INFO_TYPE_OLD_DFID_NAME,
};

/// `FANOTIFY_METADATA_VERSION`.
const METADATA_VERSION: u8 = 3;
/// Bytes of `struct fanotify_event_metadata`: length, version, reserved byte, length of itself, mask, descriptor, process.
const METADATA_BYTES: usize = 24;
/// Bytes of `struct fanotify_event_info_header`: type, padding, length.
const INFO_BYTES: usize = 4;
/// Bytes of a file system's id before the file handle.
const FILESYSTEM_BYTES: usize = 8;
/// Bytes of `struct file_handle` before the handle itself: length, kind.
const HANDLE_BYTES: usize = 8;

/// A file handle in an event (name_to_handle_at(2)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle<'a> {
    /// Its kind.
    pub kind: i32,
    /// What the file system put in it.
    pub bytes: &'a [u8],
}

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place<'a> {
    /// The directory.
    pub directory: Handle<'a>,
    /// The name, without its NUL; `.` where the event is about the directory itself, empty where the kernel told none.
    pub name: &'a [u8],
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event<'a> {
    /// What happened: `FAN_*`. Events about the same names and files are put together, so there may be several.
    pub mask: u64,
    /// Which process did it, as numbered in the reader's PID namespace; 0 for one outside of it.
    pub process: i32,
    /// Where: of a rename, where from.
    pub place: Option<Place<'a>>,
    /// Of a rename, where to.
    pub target_place: Option<Place<'a>>,
    /// The file it happened to.
    pub file: Option<Handle<'a>>,
}

/// What is in the buffer is no sequence of events: how many there were cannot be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the kernel's notification makes no sense: {0}")]
pub struct Malformed(&'static str);

/// Takes a buffer apart, event by event. Ends after the first [`Malformed`].
pub struct Events<'a> {
    rest: &'a [u8],
}

impl<'a> Events<'a> {
    /// The events in what one read(2) returned.
    #[must_use]
    pub fn new(buffer: &'a [u8]) -> Events<'a> {
        Events { rest: buffer }
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, Malformed>;

    fn next(&mut self) -> Option<Result<Event<'a>, Malformed>> {
        if self.rest.is_empty() {
            return None;
        }
        let taken = take_event(self.rest);
        self.rest = taken.as_ref().map_or(&[], |(_, rest)| rest);
        Some(taken.map(|(event, _)| event))
    }
}

fn take_event(bytes: &[u8]) -> Result<(Event<'_>, &[u8]), Malformed> {
    let length = word(bytes, 0).ok_or(Malformed("it ends within a header"))? as usize;
    let (event, rest) = bytes.split_at_checked(length).ok_or(Malformed("it ends within an event"))?;
    let metadata = half(event, 6).ok_or(Malformed("an event is shorter than its header"))?;
    if event.get(4) != Some(&METADATA_VERSION) {
        return Err(Malformed("its version is another one"));
    }
    let metadata = usize::from(metadata);
    if metadata < METADATA_BYTES {
        return Err(Malformed("its header is too short"));
    }
    let infos = event.get(metadata..).ok_or(Malformed("an event is shorter than its header"))?;
    let too_short = Malformed("its header is too short");
    let mut parsed = Event {
        mask: u64::from(word(event, 8).ok_or(too_short)?)
            | u64::from(word(event, 12).ok_or(too_short)?) << 32,
        process: word(event, 20).ok_or(too_short)? as i32,
        ..Event::default()
    };
    take_infos(infos, &mut parsed)?;
    Ok((parsed, rest))
}

fn take_infos<'a>(mut infos: &'a [u8], event: &mut Event<'a>) -> Result<(), Malformed> {
    while !infos.is_empty() {
        let kind = infos[0];
        let length = usize::from(half(infos, 2).ok_or(Malformed("a record ends within its header"))?);
        let (info, rest) = infos.split_at_checked(length).ok_or(Malformed("a record ends within itself"))?;
        let body = info.get(INFO_BYTES..).ok_or(Malformed("a record is shorter than its header"))?;
        match kind {
            FAN_EVENT_INFO_TYPE_FID => event.file = Some(take_handle(body)?.0),
            FAN_EVENT_INFO_TYPE_DFID_NAME | FAN_EVENT_INFO_TYPE_DFID | FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => {
                event.place = Some(take_place(body)?)
            }
            FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => event.target_place = Some(take_place(body)?),
            // Kernels may tell more than this program knows of.
            _ => {}
        }
        infos = rest;
    }
    Ok(())
}

fn take_place(body: &[u8]) -> Result<Place<'_>, Malformed> {
    let (directory, rest) = take_handle(body)?;
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    Ok(Place { directory, name: rest.get(..end).unwrap_or_default() })
}

fn take_handle(body: &[u8]) -> Result<(Handle<'_>, &[u8]), Malformed> {
    let short = Malformed("a record ends within a file handle");
    let handle = body.get(FILESYSTEM_BYTES..).ok_or(short)?;
    let length = word(handle, 0).ok_or(short)? as usize;
    let kind = word(handle, 4).ok_or(short)? as i32;
    let (bytes, rest) =
        handle.get(HANDLE_BYTES..).and_then(|after| after.split_at_checked(length)).ok_or(short)?;
    Ok((Handle { kind, bytes }, rest))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: Handle<'static> = Handle { kind: 1, bytes: &[2, 0, 0, 0, 0, 0, 0, 0] };
    const FILE: Handle<'static> = Handle { kind: 1, bytes: &[12, 0, 0, 0, 7, 0, 0, 0] };

    fn info(kind: u8, handle: Handle<'_>, name: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = vec![0xfe; FILESYSTEM_BYTES];
        bytes.extend_from_slice(&(handle.bytes.len() as u32).to_ne_bytes());
        bytes.extend_from_slice(&handle.kind.to_ne_bytes());
        bytes.extend_from_slice(handle.bytes);
        if let Some(name) = name {
            bytes.extend_from_slice(name);
            bytes.push(0);
        }
        // The kernel aligns each record.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let length = (bytes.len() + INFO_BYTES) as u16;
        [&[kind, 0][..], &length.to_ne_bytes(), &bytes].concat()
    }

    fn event(mask: u64, process: i32, infos: &[Vec<u8>]) -> Vec<u8> {
        let infos = infos.concat();
        let mut bytes = ((METADATA_BYTES + infos.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&[METADATA_VERSION, 0]);
        bytes.extend_from_slice(&(METADATA_BYTES as u16).to_ne_bytes());
        bytes.extend_from_slice(&mask.to_ne_bytes());
        bytes.extend_from_slice(&(-1i32).to_ne_bytes());
        bytes.extend_from_slice(&process.to_ne_bytes());
        [bytes, infos].concat()
    }

    fn created() -> Vec<u8> {
        let infos = [
            info(FAN_EVENT_INFO_TYPE_DFID_NAME, DIRECTORY, Some(b"new")),
            info(FAN_EVENT_INFO_TYPE_FID, FILE, None),
        ];
        event(libc::FAN_CREATE, 77, &infos)
    }

    fn renamed() -> Vec<u8> {
        let infos = [
            info(FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, DIRECTORY, Some(b"a")),
            info(FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, FILE, Some(&[0xff; 255])),
        ];
        event(libc::FAN_RENAME | libc::FAN_ONDIR, 0, &infos)
    }

    #[test]
    fn events_are_taken_apart() {
        let buffer = [created(), renamed(), event(libc::FAN_Q_OVERFLOW, 0, &[])].concat();
        let events: Vec<_> = Events::new(&buffer).map(Result::unwrap).collect();
        let expected = [
            Event {
                mask: libc::FAN_CREATE,
                process: 77,
                place: Some(Place { directory: DIRECTORY, name: b"new" }),
                target_place: None,
                file: Some(FILE),
            },
            Event {
                mask: libc::FAN_RENAME | libc::FAN_ONDIR,
                place: Some(Place { directory: DIRECTORY, name: b"a" }),
                target_place: Some(Place { directory: FILE, name: &[0xff; 255] }),
                ..Event::default()
            },
            Event { mask: libc::FAN_Q_OVERFLOW, ..Event::default() },
        ];
        assert_eq!(events, expected);
    }

    /// A record of a kind that is not known here hides nothing of the others.
    #[test]
    fn unknown_records_are_passed_over() {
        let infos = [vec![200, 0, 8, 0, 1, 2, 3, 4], info(FAN_EVENT_INFO_TYPE_FID, FILE, None)];
        let buffer = event(libc::FAN_ATTRIB, 1, &infos);
        assert_eq!(Events::new(&buffer).next().unwrap().unwrap().file, Some(FILE));
    }

    #[test]
    fn whatever_is_cut_off_is_a_value_and_the_end() {
        for whole in [created(), renamed()] {
            for length in 1..whole.len() {
                let events: Vec<_> = Events::new(&whole[..length]).collect();
                assert!(matches!(events[..], [Err(_)]), "{length} of {}: {events:?}", whole.len());
            }
        }
    }

    #[test]
    fn no_byte_that_changed_does_harm() {
        let whole = [created(), renamed()].concat();
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                assert!(Events::new(&bytes).count() <= 4);
            }
        }
        assert!(
            matches!(Events::new(&[0; 64]).collect::<Vec<_>>()[..], [Err(_)]),
            "an event without a length"
        );
        assert!(Events::new(&[]).next().is_none());
    }
}
