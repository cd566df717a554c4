//! Lines of the peer on the channel between the nodes: what is no request is refused, and nobody is asked. `cargo xtask fuzz control` runs
//! this with many inputs.

use replicator_fuzz::{Random, Share, each};
use tokio::io::{AsyncWriteExt, BufReader};

use super::super::REQUEST_BYTES_MAX;
use super::super::frame::{Answered, Asked, Line, encode, read_line};
use super::limits::{line, raw};
use super::{Limits, Pki, Question, answerer};

fn genuine(random: &mut Random) -> Vec<u8> {
    let request = match random.below(3) {
        0 => Question::Echo(String::from_utf8_lossy(&random.bytes(30)).into_owned()),
        1 => Question::WhoAmI,
        _ => Question::Big(random.below(50)),
    };
    let asked = Asked { id: random.number(), within_ms: 60_000, request };
    encode(&asked, REQUEST_BYTES_MAX).unwrap()
}

fn said(random: &mut Random) -> Vec<u8> {
    match random.below(10) {
        0 => random.bytes(200),
        1 => genuine(random),
        2 => "[".repeat(random.below(3000)).into_bytes(),
        _ => {
            let genuine = genuine(random);
            random.changed(&genuine)
        }
    }
}

#[test]
fn any_bytes_are_lines_and_requests_or_none() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    each("control, lines of the peer", Share::Whole, |random| {
        let bytes = said(random);
        let most = 1 + random.below(200);
        let mut rest = BufReader::with_capacity(16, &bytes[..]);
        let mut read = Vec::new();
        let mut line = Vec::new();
        loop {
            let found = runtime.block_on(read_line(&mut rest, most, &mut line)).unwrap();
            assert!(line.len() <= most);
            read.extend_from_slice(&line);
            match found {
                Line::Whole => assert_eq!(line.last(), Some(&b'\n')),
                Line::End => break,
                Line::Cut | Line::TooLong => assert_ne!(line.last(), Some(&b'\n')),
            }
            if let Ok(asked) = serde_json::from_slice::<Asked<Question>>(&line) {
                let again = encode(&asked, REQUEST_BYTES_MAX).unwrap();
                assert!(serde_json::from_slice::<Asked<Question>>(&again).is_ok());
            }
        }
        assert_eq!(read, bytes, "what is read is what was said");
    });
}

/// Over one connection of TLS, so with a part of the inputs.
#[test]
fn what_is_no_request_asks_nobody() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let pki = Pki::new();
    let (alpha, mut stream) = runtime.block_on(async {
        let alpha = answerer(pki.alpha(), Limits::default()).await;
        let stream = raw(&alpha, &pki.beta()).await;
        (alpha, stream)
    });
    let mut asked = 0;
    each("control, conversations with the peer", Share::OneOf(100), |random| {
        let mut bytes = said(random);
        bytes.retain(|byte| *byte != b'\n');
        bytes.push(b'\n');
        let good = serde_json::from_slice::<Asked<Question>>(&bytes);
        // What takes for ever, breaks off on purpose, or is larger than memory, is another test's.
        if let Ok(Asked { request: Question::Wait | Question::Defect | Question::Big(1000..), .. }) = &good {
            return;
        }
        let answered = runtime.block_on(async {
            stream.write_all(&bytes).await.unwrap();
            stream.flush().await.unwrap();
            line(&mut stream).await
        });
        let answered: Answered<String> = serde_json::from_str(&answered).unwrap();
        asked += u64::from(good.is_ok());
        // One that is given no time is begun, and given up.
        let in_time = good.as_ref().is_ok_and(|asked| asked.within_ms > 1000);
        assert!(answered.answer.is_some() || !in_time, "{answered:?}", answered = answered.refused);
        assert!(answered.refused.is_some() || good.is_ok());
        assert!(alpha.asked() <= asked, "somebody is asked by what is no request");
    });
    assert!(asked > 0);
}
