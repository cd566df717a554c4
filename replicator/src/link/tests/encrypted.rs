//! Records: whatever is done to the bytes on the way, what comes out is a beginning of what went in, and then an error or the end.

use std::io::Write;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use replicator_cluster::tls::any_name;
use replicator_core::wire::header::{Kind, PAYLOAD_MAX};
use rustls::client::UnbufferedClientConnection;
use rustls::server::{ServerSessionMemoryCache, UnbufferedServerConnection};

use super::super::error::LinkError;
use super::super::handshake::PROTOCOL;
use super::super::outgoing::Payload;
use super::super::papers::{Papers, acquainted, introduce, strangers};
use super::super::records::{RECORD_BODY_MAX, RECORD_HEADER_BYTES, Records};
use super::ring::End;
use super::{assert_same, encode, header, pattern};
use crate::uring::{Pool, Shared};

/// What goes over the wire for these pieces.
fn seal(records: &mut Records, pieces: &[Vec<u8>]) -> Vec<u8> {
    let pieces: Vec<_> = pieces.iter().cloned().map(Shared::from).collect();
    records.seal(&pieces, &Pool::default()).expect("sealed").iter().flat_map(|piece| piece.to_vec()).collect()
}

/// Let the bytes come in these portions (repeated in turn): what came out, and what went wrong.
fn open(records: &mut Records, mut bytes: &[u8], portions: &[usize]) -> (Vec<u8>, Option<LinkError>) {
    let (mut content, mut arrived) = (Vec::new(), Vec::new());
    for portion in portions.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (now, later) = bytes.split_at((*portion).min(bytes.len()));
        bytes = later;
        arrived.extend_from_slice(now);
        let opened = records.open(&mut arrived, &mut |part| {
            content.extend_from_slice(part);
            Ok(())
        });
        match opened {
            Ok(done) => drop(arrived.drain(..done)),
            Err(error) => return (content, Some(error)),
        }
        assert!(arrived.len() < RECORD_HEADER_BYTES + RECORD_BODY_MAX, "what is whole is opened");
    }
    (content, None)
}

#[test]
fn both_sides_get_acquainted_in_portions_of_any_size() {
    for portion in [1, 2, 5, 100, 1000, usize::MAX] {
        let (mut client, mut server) = strangers();
        introduce(&mut client, &mut server, portion);
        assert_eq!((client.protocol(), server.protocol()), (Some(PROTOCOL), Some(PROTOCOL)));
        let sealed = seal(&mut client, &[b"first".to_vec()]);
        assert_eq!(open(&mut server, &sealed, &[portion]).0, b"first");
    }
}

#[test]
fn nothing_of_what_is_sent_can_be_seen() {
    let (mut client, _) = acquainted();
    let word = b"a word that is looked for on the wire";
    let sealed = seal(&mut client, &[word.repeat(1000)]);
    assert!(!sealed.windows(8).any(|bytes| bytes == &word[..8]));
}

#[test]
fn large_frames_pass_both_ways_in_odd_portions() {
    let (mut client, mut server) = acquainted();
    let frames: Vec<_> = [PAYLOAD_MAX as usize, 0, 3 << 20, 16_384, 16_320, PAYLOAD_MAX as usize]
        .iter()
        .zip(1..)
        .map(|(length, number)| (header(Kind::Data, number, *length), pattern(number, *length)))
        .collect();
    let bytes = encode(&frames);
    for portions in [vec![70_001], vec![1, 16_383, 16_385, 1 << 20], vec![usize::MAX]] {
        let pass = |from: &mut Records, to: &mut Records| {
            let sealed = seal(from, std::slice::from_ref(&bytes));
            let (content, error) = open(to, &sealed, &portions);
            assert!(error.is_none() && content == bytes, "{portions:?}: {error:?}");
        };
        pass(&mut client, &mut server);
        pass(&mut server, &mut client);
    }
}

/// One step of two ends of TLS: who (true: the client) does what.
#[derive(Clone, Debug)]
enum Move {
    Send(bool, Vec<usize>),
    ChangeKeys(bool),
    Deliver(bool, Vec<usize>),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let length = prop_oneof![4 => 1usize..400, 2 => 16_000usize..17_000, 1 => 60_000usize..2_500_000];
    let portion = prop_oneof![1usize..40, 1000usize..40_000, Just(usize::MAX)];
    prop::collection::vec(
        prop_oneof![
            4 => (any::<bool>(), prop::collection::vec(length, 1..6)).prop_map(|(who, what)| Move::Send(who, what)),
            1 => any::<bool>().prop_map(Move::ChangeKeys),
            4 => (any::<bool>(), prop::collection::vec(portion, 1..8)).prop_map(|(who, how)| Move::Deliver(who, how)),
        ],
        1..30,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever both send, in whatever portions it arrives, and whenever they change their keys: each gets what the other sent.
    #[test]
    fn a_conversation_is_complete_whatever_its_portions(moves in moves()) {
        let (client, server) = acquainted();
        let mut ends = [client, server];
        let mut wire: [Vec<u8>; 2] = Default::default();
        let mut said: [Vec<u8>; 2] = Default::default();
        let mut heard: [Vec<u8>; 2] = Default::default();
        let mut number = 0;
        let all = [true, false].map(|client| Move::Deliver(client, vec![9999]));
        for step in moves.into_iter().chain(all.clone()).chain(all) {
            match step {
                Move::Send(client, lengths) => {
                    let who = usize::from(!client);
                    let pieces: Vec<_> = lengths.iter().map(|length| { number += 1; pattern(number, *length) }).collect();
                    said[who].extend(pieces.concat());
                    wire[who].extend(seal(&mut ends[who], &pieces));
                }
                Move::ChangeKeys(client) => ends[usize::from(!client)].change_keys(),
                Move::Deliver(client, portions) => {
                    let (who, other) = (usize::from(!client), usize::from(client));
                    let (content, error) = open(&mut ends[who], &std::mem::take(&mut wire[other]), &portions);
                    prop_assert!(error.is_none(), "{error:?}");
                    heard[who].extend(content);
                }
            }
        }
        prop_assert!(heard[0] == said[1] && heard[1] == said[0]);
    }
}

#[test]
fn keys_are_changed_and_the_peer_follows() {
    let (mut client, mut server) = acquainted();
    for round in 0..5u8 {
        client.change_keys();
        let sealed = seal(&mut client, &[vec![round]]);
        assert_eq!(open(&mut server, &sealed, &[3]).0, [round]);
        // It was asked for its own: the answer is in what it sends next.
        let before = seal(&mut server, &[]).len();
        let answered = seal(&mut server, &[vec![round; 2]]);
        assert!(before == 0 && answered.len() > 2 * (2 + 22), "{} bytes", answered.len());
        assert_eq!(open(&mut client, &answered, &[7]).0, [round; 2]);
    }
}

#[test]
fn every_flipped_bit_is_an_error_and_nothing_of_it_comes_out() {
    let pieces = [pattern(1, 300), pattern(2, 50)];
    for at in 0..350 + 2 * 22 {
        let (mut client, mut server) = acquainted();
        let mut sealed = seal(&mut client, &pieces);
        assert_eq!(sealed.len(), 350 + 2 * 22);
        sealed[at] ^= 0x10;
        // The last byte of the version in a record's header means nothing (RFC 8446, 5.1), and no other is left out.
        if [2, 300 + 22 + 2].contains(&at) {
            assert!(
                matches!(open(&mut server, &sealed, &[99]), (content, None) if content == pieces.concat())
            );
            continue;
        }
        let (content, error) = open(&mut server, &sealed, &[usize::MAX]);
        let first = at >= 300 + 22;
        assert!(
            content == pieces[0][..if first { 300 } else { 0 }],
            "byte {at}: {} bytes came out",
            content.len()
        );
        // A length that became larger waits for bytes that never come: that is a stream which is cut off.
        match error {
            Some(error) => {
                assert!(matches!(error, LinkError::Tls(_)) && error.is_nonsense(), "byte {at}: {error}")
            }
            None => assert!(matches!(at, 3 | 4 | 325 | 326), "byte {at} went unnoticed"),
        }
        assert!(!server.peer_closed());
    }
}

#[test]
fn the_peer_is_told_of_nonsense() {
    let (mut client, mut server) = acquainted();
    let mut sealed = seal(&mut client, &[pattern(1, 100)]);
    sealed[50] ^= 1;
    assert!(matches!(open(&mut server, &sealed, &[usize::MAX]).1, Some(LinkError::Tls(_))));
    let alert = server.farewell();
    let (_, error) = open(&mut client, &alert, &[usize::MAX]);
    assert!(matches!(error, Some(LinkError::Tls(rustls::Error::AlertReceived(_)))), "{error:?}");
    assert!(server.farewell().is_empty(), "it is said once");
}

#[test]
fn garbage_before_and_after_the_handshake_is_an_error() {
    for seed in 0..200 {
        let garbage = pattern(seed, 3000);
        for acquainted_first in [true, false] {
            let (mut client, mut server) = if acquainted_first { acquainted() } else { strangers() };
            for records in [&mut client, &mut server] {
                let (content, error) = open(records, &garbage, &[1 + seed as usize % 700]);
                assert!(
                    content.is_empty() && matches!(error, Some(LinkError::Tls(_))),
                    "seed {seed}: {error:?}"
                );
            }
        }
    }
}

#[test]
fn a_stream_cut_at_any_place_gives_whole_records_and_no_orderly_end() {
    let pieces = [pattern(1, 70), pattern(2, 40)];
    let whole = 110 + 2 * 22;
    for cut in 0..=whole {
        let (mut client, mut server) = acquainted();
        let sealed = seal(&mut client, &pieces);
        let (content, error) = open(&mut server, &sealed[..cut], &[11]);
        let expected = if cut == whole {
            110
        } else if cut >= 92 {
            70
        } else {
            0
        };
        assert!(error.is_none() && content == pieces.concat()[..expected], "cut at {cut}: {error:?}");
        assert!(!server.peer_closed());
    }
}

/// A message of TLS in several records, of which only the first has come, is refused: the library could not send meanwhile.
#[test]
fn a_split_message_of_tls_ends_the_connection() {
    let papers = Papers::new();
    let client = papers.alpha().configurations(PROTOCOL).expect("credentials").client;
    let mut server = (*papers.beta().configurations(PROTOCOL).expect("credentials").server).clone();
    server.send_tls13_tickets = 1;
    server.session_storage = ServerSessionMemoryCache::new(1);
    server.max_fragment_size = Some(64);
    let mut client = Records::client(UnbufferedClientConnection::new(client, any_name()).expect("a client"));
    let mut server =
        Records::server(UnbufferedServerConnection::new(std::sync::Arc::new(server)).expect("a server"));
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    while !server.is_established() {
        to_server.extend({
            let done = client.open(&mut to_client, &mut |_| Ok(())).expect("a handshake");
            to_client.drain(..done);
            client.take_pending()
        });
        let done = server.open(&mut to_server, &mut |_| Ok(())).expect("a handshake");
        to_server.drain(..done);
        to_client.extend(server.take_pending());
    }
    // What is left is the ticket, in several records.
    assert!(client.is_established());
    let first = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([to_client[3], to_client[4]]));
    assert!(first < to_client.len());
    let (content, error) = open(&mut client, &to_client[..first], &[usize::MAX]);
    assert!(content.is_empty() && matches!(error, Some(LinkError::Tls(_))), "{error:?}");
    assert!(client.farewell().is_empty());
}

// ---- over a ring -------------------------------------------------------------------------------------------

#[test]
fn an_end_that_was_announced_is_told_from_one_that_was_not() {
    for announced in [true, false] {
        let (client, mut server) = acquainted();
        let (left, mut right) = UnixStream::pair().expect("a socket pair");
        let mut left = End::over(left, Some(client), 1);
        let frames = vec![(header(Kind::Goodbye, 0, 0), Vec::new())];
        right.write_all(&seal(&mut server, &[encode(&frames)])).expect("written");
        if announced {
            right.write_all(&server.farewell()).expect("written");
        }
        drop(right);
        left.until(|end| end.closed().is_some());
        assert_same(&left.frames(), &frames);
        match left.closed() {
            Some(LinkError::PeerClosed) => assert!(announced),
            Some(LinkError::CutOff) => assert!(!announced),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_frame_that_is_cut_off_is_not_one() {
    let (client, mut server) = acquainted();
    let (left, mut right) = UnixStream::pair().expect("a socket pair");
    let mut left = End::over(left, Some(client), 1);
    let bytes = encode(&[(header(Kind::Data, 1, 1000), pattern(1, 1000))]);
    right.write_all(&seal(&mut server, &[bytes[..1000].to_vec()])).expect("written");
    // Even if the peer says that this is all.
    right.write_all(&server.farewell()).expect("written");
    left.until(|end| end.closed().is_some());
    assert!(left.frames().is_empty());
    assert!(matches!(left.closed(), Some(LinkError::Truncated { missing: 64 })), "{:?}", left.closed());
}

#[test]
fn who_closes_says_so() {
    let (client, server) = acquainted();
    let (left, right) = UnixStream::pair().expect("a socket pair");
    let mut left = End::over(left, Some(client), 1);
    let mut right = End::over(right, Some(server), 2);
    left.connection.queue(&header(Kind::Data, 1, 9), Payload::Bytes(pattern(1, 9)));
    left.until(|end| end.connection.queued_bytes() == 0);
    left.connection.close();
    right.until(|end| end.closed().is_some());
    assert_eq!(right.frames().len(), 1);
    assert!(matches!(right.closed(), Some(LinkError::PeerClosed)), "{:?}", right.closed());
}
