//! Every decoder of the protocol on any bytes: no panic, no more memory than arrived is worth, and what is understood is said again in bytes
//! that are understood as the same.

use replicator_core::recovery::Recovered;
use replicator_core::reunion::Account;
use replicator_core::succession::{Legacy, decode_copies, encode_copies};
use replicator_core::wire::BodyError;
use replicator_core::wire::attributes::Attributes;
use replicator_core::wire::body::{
    Ack, Digests, Holding, Resumption, decode_barrier, decode_extents, decode_files, decode_stream,
    encode_barrier, encode_extents, encode_files, encode_stream,
};
use replicator_core::wire::checksum::crc32c;
use replicator_core::wire::header::{HEADER_BYTES, Header, HeaderError, PAYLOAD_MAX, VERSION};
use replicator_core::wire::hello::{Hello, Proof, Refusal};
use replicator_core::wire::namespace::Operation;
use replicator_core::wire::seen::{Findings, Seen, SeenState, decode_names, encode_names};
use replicator_core::wire::verdict::{decode_verdict, encode_verdict};
use replicator_fuzz::{Random, Share, each, peak_of};

use super::encoded;

/// What a decoder may hold at once for each byte of a body, and for any. A member of the widest list (a file with all its parts) has about 200
/// bytes in memory for 23 on the wire, and a list that grows is there twice.
const FOR_EACH_BYTE: usize = 48;
const FOR_ANY: usize = 4096;

/// Decode; encode what came out; decode that.
fn check<T: PartialEq + std::fmt::Debug>(
    what: &str,
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, BodyError>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> bool {
    let (peak, decoded) = peak_of(|| decode(bytes));
    let most = FOR_ANY + FOR_EACH_BYTE * bytes.len();
    assert!(peak <= most, "{what}: {peak} bytes of memory for a body of {}", bytes.len());
    let Ok(value) = decoded else { return false };
    let again = decode(&encode(&value));
    assert_eq!(again.as_ref(), Ok(&value), "{what}: said again it is another");
    true
}

/// All decoders; how many of them understood the bytes.
fn decode_all(bytes: &[u8]) -> usize {
    let mut understood = 0;
    let mut count = |is_understood: bool| understood += usize::from(is_understood);
    count(check("operation", bytes, Operation::decode, Operation::encode));
    for version in 1..=VERSION {
        let decode = |bytes: &[u8]| Attributes::decode(bytes, version);
        count(check("attributes", bytes, decode, |attributes| attributes.encode(version)));
    }
    count(check("hello", bytes, Hello::decode, Hello::encode));
    count(check("proof", bytes, Proof::decode, Proof::encode));
    count(check("refusal", bytes, Refusal::decode, Refusal::encode));
    count(check("ack", bytes, Ack::decode, Ack::encode));
    count(check("digests", bytes, Digests::decode, Digests::encode));
    count(check("barrier", bytes, decode_barrier, encode_barrier));
    count(check("stream", bytes, decode_stream, |stream| encode_stream(*stream)));
    count(check("resumption", bytes, Resumption::decode, Resumption::encode));
    count(check("holding", bytes, Holding::decode, Holding::encode));
    count(check("account", bytes, Account::decode, Account::encode));
    count(check("extents", bytes, decode_extents, |extents| encode_extents(extents)));
    count(check("files", bytes, decode_files, |files| encode_files(files)));
    count(check("verdict", bytes, decode_verdict, encode_verdict));
    count(check("legacy", bytes, Legacy::decode, Legacy::encode));
    count(check("copies", bytes, decode_copies, |copies| encode_copies(copies)));
    count(check("recovered", bytes, Recovered::decode, Recovered::encode));
    count(check("names", bytes, decode_names, |names| encode_names(names)));
    count(check("findings", bytes, Findings::decode, Findings::encode));
    // The access time does not count, and is not said again.
    let state = |bytes: &[u8]| {
        SeenState::decode(bytes).map(|mut state| {
            state.attributes.atime = state.attributes.mtime;
            if state.kind != replicator_core::ids::FileKind::Regular {
                state.attributes.size = 0;
            }
            state
        })
    };
    count(check("state", bytes, state, SeenState::encode));
    if let Ok(seen) = Seen::decode(bytes) {
        assert_eq!(Seen::decode(&seen.encode()), Ok(seen));
        count(true);
    }
    understood
}

/// What a body may be: as it should be, nearly so, or anything.
fn body(random: &mut Random) -> (Vec<u8>, bool) {
    match random.below(16) {
        0 => (random.bytes(600), false),
        3 => {
            // As long as a text may be, and none.
            let mut bytes = vec![1, 0, 0];
            bytes.extend(random.bytes(1100));
            let length = (bytes.len() - 3) as u16;
            bytes[1..3].copy_from_slice(&length.to_le_bytes());
            (bytes, false)
        }
        1 => (encoded::any(random), true),
        2 => {
            // Two that are joined.
            let mut bytes = encoded::any(random);
            bytes.extend(encoded::any(random));
            (bytes, false)
        }
        _ => {
            let genuine = encoded::any(random);
            (random.changed(&genuine), false)
        }
    }
}

#[test]
fn any_body_is_understood_or_refused() {
    let mut refused = 0;
    let mut understood = 0;
    each("frames, bodies", Share::Whole, |random| {
        let (bytes, genuine) = body(random);
        let by = decode_all(&bytes);
        assert!(by > 0 || !genuine, "a body as it should be is refused");
        *if by == 0 { &mut refused } else { &mut understood } += 1;
    });
    // Inputs that are all refused at once, or all taken, would try nothing.
    assert!(replicator_fuzz::inputs() < 100 || refused > understood / 20 && understood > refused / 20);
}

/// With a checksum that holds, so that what it protects is looked at.
fn seal(bytes: &mut [u8; HEADER_BYTES]) {
    let sum = crc32c(&bytes[..HEADER_BYTES - 4]).to_le_bytes();
    bytes[HEADER_BYTES - 4..].copy_from_slice(&sum);
}

#[test]
fn any_header_is_understood_or_refused() {
    each("frames, headers", Share::Whole, |random| {
        let genuine = encoded::header(random).encode(
            random.below(8) as u16,
            random.next() as u32,
            random.next() as u32,
        );
        let mut bytes = genuine;
        for _ in 0..random.below(4) {
            let at = random.below(HEADER_BYTES);
            bytes[at] ^= random.next() as u8;
        }
        let sealed = random.chance(70);
        if sealed {
            seal(&mut bytes);
        }
        let lowest = random.below(8) as u16;
        let versions = lowest..=lowest.saturating_add(random.below(4) as u16);
        match Header::decode(&bytes, &versions) {
            Ok(decoded) => {
                assert!(sealed || bytes == genuine, "a header that was changed is taken");
                assert!(decoded.payload_length <= PAYLOAD_MAX && versions.contains(&decoded.version));
                let again =
                    decoded.header.encode(decoded.version, decoded.payload_length, decoded.payload_checksum);
                assert_eq!(again, bytes);
            }
            Err(HeaderError::Checksum { stated, computed }) => assert!(stated != computed && !sealed),
            Err(_) => {}
        }
    });
}
