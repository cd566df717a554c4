//! A place for one request over io_uring: where its parts lie, and where its answer goes.
//!
//! ```text
//! front page:  | header (128) | first argument (128) | RingEntry (32) |   ...   room | body: the other arguments
//! ```
//!
//! The kernel writes request and answer in parts. The gate's parser takes a request as /dev/fuse has it, in one piece: header and
//! first argument are copied into the room right before the body, which is never copied.

use std::io;

use replicator_core::ids::Errno;

use super::abi::{
    InHeader, OutHeader, Plain, RING_ARGUMENT_BYTES, RING_ARGUMENT_OFFSET, RING_ENTRY_OFFSET,
    RING_HEADERS_BYTES, RingArguments, RingEntry,
};
use super::device::refusal;
use super::session::{PAGES_MAX, TRANSFER_BYTES_MAX};
use crate::uring::{ARGUMENT_BYTES, Seat};

/// Bytes before the body: a page holds the headers and the room.
const FRONT_BYTES: usize = 4096;
const _: () = assert!(RING_HEADERS_BYTES + size_of::<InHeader>() + RING_ARGUMENT_BYTES <= FRONT_BYTES);

/// The place, with the request in it or the answer.
#[derive(Debug)]
pub struct Place {
    seat: Seat,
}

impl Place {
    /// A new one, to be registered.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(number: u32) -> io::Result<Place> {
        // As the kernel reckons (fuse_uring_create): the largest transfer, or so many of its pages.
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
        let body = (TRANSFER_BYTES_MAX as usize).max(usize::from(PAGES_MAX) * page.unsigned_abs() as usize);
        Ok(Place { seat: Seat::new(number, FRONT_BYTES, RING_HEADERS_BYTES, body)? })
    }

    /// The place in memory that came back.
    pub fn from_seat(seat: Seat) -> Place {
        Place { seat }
    }

    /// Its memory.
    pub fn into_seat(self) -> Seat {
        self.seat
    }

    /// The number it was made with.
    pub fn number(&self) -> u32 {
        self.seat.number()
    }

    /// The request's header.
    pub fn header(&self) -> InHeader {
        InHeader::read(self.seat.bytes()).unwrap_or_default()
    }

    fn entry(&self) -> RingEntry {
        self.seat.bytes().get(RING_ENTRY_OFFSET..).and_then(RingEntry::read).unwrap_or_default()
    }

    /// The request in one piece; empty if its lengths contradict each other.
    pub fn request(&mut self) -> &[u8] {
        let header = self.header();
        let (length, body) = (header.len as usize, self.entry().payload_sz as usize);
        let argument = length.saturating_sub(size_of::<InHeader>() + body);
        let end = FRONT_BYTES + body;
        let bytes = self.seat.bytes_mut();
        if argument > RING_ARGUMENT_BYTES
            || size_of::<InHeader>() + argument + body != length
            || end > bytes.len()
        {
            return &[];
        }
        let start = FRONT_BYTES - size_of::<InHeader>() - argument;
        bytes.copy_within(..size_of::<InHeader>(), start);
        bytes.copy_within(RING_ARGUMENT_OFFSET..RING_ARGUMENT_OFFSET + argument, FRONT_BYTES - argument);
        bytes.get(start..end).unwrap_or_default()
    }

    /// Put an answer in.
    pub fn answer(&mut self, unique: u64, result: Result<&[u8], Errno>) {
        let header = match result {
            Ok(body) => {
                let len = u32::try_from(size_of::<OutHeader>() + body.len()).unwrap_or(u32::MAX);
                OutHeader { len, error: 0, unique }
            }
            Err(errno) => refusal(unique, errno),
        };
        let body = result.unwrap_or_default();
        let entry = RingEntry { payload_sz: body.len() as u32, ..self.entry() };
        self.put(0, header.bytes());
        self.put(RING_ENTRY_OFFSET, entry.bytes());
        self.put(FRONT_BYTES, body);
    }

    /// Operations ask for no more than there is room for.
    fn put(&mut self, offset: usize, part: &[u8]) {
        if let Some(room) = self.seat.bytes_mut().get_mut(offset..offset + part.len()) {
            room.copy_from_slice(part);
        }
    }

    /// What the command says that hands the place back to this queue.
    pub fn arguments(&self, queue: u16) -> [u8; ARGUMENT_BYTES] {
        arguments(RingArguments { commit_id: self.entry().commit_id, qid: queue, ..RingArguments::default() })
    }
}

fn arguments(arguments: RingArguments) -> [u8; ARGUMENT_BYTES] {
    let mut bytes = [0; ARGUMENT_BYTES];
    bytes[..size_of::<RingArguments>()].copy_from_slice(arguments.bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel writes for a request.
    fn kernel_puts(place: &mut Place, header: InHeader, argument: &[u8], body: &[u8]) {
        let entry = RingEntry { payload_sz: body.len() as u32, commit_id: 7, ..RingEntry::default() };
        place.put(0, header.bytes());
        place.put(RING_ARGUMENT_OFFSET, argument);
        place.put(RING_ENTRY_OFFSET, entry.bytes());
        place.put(FRONT_BYTES, body);
    }

    #[test]
    fn a_request_in_parts_becomes_one_piece() {
        for (argument, body) in [
            (&b""[..], &b"name\0"[..]),
            (b"12345678", b""),
            (b"", b""),
            (&[9; RING_ARGUMENT_BYTES], &[3; 9000]),
        ] {
            let mut place = Place::new(1).unwrap();
            let len = (size_of::<InHeader>() + argument.len() + body.len()) as u32;
            let header = InHeader { len, opcode: 1, unique: 8, ..InHeader::default() };
            kernel_puts(&mut place, header, argument, body);
            assert_eq!(place.request(), [header.bytes(), argument, body].concat());
            place.answer(8, Ok(b"answer"));
            assert_eq!(
                OutHeader::read(place.seat.bytes()).map(|out| (out.len, out.error, out.unique)),
                Some((22, 0, 8))
            );
            assert_eq!((place.entry().payload_sz, place.entry().commit_id), (6, 7));
            assert_eq!(&place.seat.bytes()[FRONT_BYTES..FRONT_BYTES + 6], b"answer");
            place.answer(8, Err(Errno(100_000)));
            assert_eq!(OutHeader::read(place.seat.bytes()).map(|out| out.error), Some(-libc::EIO));
        }
    }

    #[test]
    fn lengths_that_contradict_each_other_are_no_request() {
        let mut place = Place::new(1).unwrap();
        for (len, body) in
            [(0, 0), (39, 0), (40, 1), (40 + 129, 0), (u32::MAX, u32::MAX), (40, u32::MAX), (u32::MAX, 0)]
        {
            let header = InHeader { len, ..InHeader::default() };
            kernel_puts(&mut place, header, b"", b"");
            let entry = RingEntry { payload_sz: body, ..RingEntry::default() };
            place.put(RING_ENTRY_OFFSET, entry.bytes());
            assert_eq!(place.request(), b"", "{len} {body}");
        }
    }
}
