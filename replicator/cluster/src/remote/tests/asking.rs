//! Questions and answers between nodes that belong together.

use std::time::Duration;

use proptest::prelude::*;

use super::super::frame::{Line, read_line};
use super::super::{AskError, Options, Remote};
use super::{LONG, Limits, Pki, Question, answerer, answerer_at, asker, echo};

#[tokio::test]
async fn the_peer_is_answered_and_known_by_name() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    let beta = asker(&alpha, pki.beta());
    assert_eq!(echo(&beta).await.unwrap(), "hello");
    assert!(beta.ask(&Question::WhoAmI, LONG).await.unwrap().starts_with("beta "));
    assert_eq!(alpha.server.statistics().accepted, 1, "one connection serves both");
    assert_eq!(alpha.server.statistics().answered, 2);
}

#[tokio::test]
async fn answers_up_to_the_limit_pass_and_one_beyond_is_refused() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    let beta = asker(&alpha, pki.beta());
    let near = super::super::RESPONSE_BYTES_MAX - 64;
    assert_eq!(beta.ask(&Question::Big(near), LONG).await.unwrap().len(), near);
    let beyond = beta.ask(&Question::Big(super::super::RESPONSE_BYTES_MAX), LONG).await;
    assert!(matches!(beyond, Err(AskError::Refused { .. })), "{beyond:?}");
    assert_eq!(echo(&beta).await.unwrap(), "hello", "the connection goes on");
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_not_sent() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    let beta = asker(&alpha, pki.beta());
    let long = beta.ask(&Question::Echo("x".repeat(super::super::REQUEST_BYTES_MAX)), LONG).await;
    assert!(matches!(long, Err(AskError::TooLong { .. })), "{long:?}");
    assert_eq!(alpha.asked(), 0);
}

#[tokio::test]
async fn a_handler_with_a_defect_costs_one_answer() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    let beta = asker(&alpha, pki.beta());
    let defect = beta.ask(&Question::Defect, LONG).await;
    assert!(matches!(defect, Err(AskError::Refused { .. })), "{defect:?}");
    assert_eq!(echo(&beta).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_handler_that_hangs_is_given_up_and_others_do_not_wait_for_it() {
    let pki = Pki::new();
    let limits = Limits { handle: Duration::from_millis(300), ..Limits::default() };
    let alpha = answerer(pki.alpha(), limits).await;
    let beta = asker(&alpha, pki.beta());
    let (hung, answered) = tokio::join!(beta.ask(&Question::Wait, LONG), echo(&beta));
    assert!(matches!(hung, Err(AskError::Refused { .. })), "{hung:?}");
    assert!(hung.unwrap_err().is_ambiguous());
    assert_eq!(answered.unwrap(), "hello");
}

#[tokio::test]
async fn an_asker_waits_no_longer_than_it_says() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    let beta = asker(&alpha, pki.beta());
    beta.connect(LONG).await.unwrap();
    let late = beta.ask(&Question::Wait, Duration::from_millis(200)).await;
    // The answerer gives up at the same time and may be the first to say so.
    assert!(matches!(late, Err(AskError::Late { .. } | AskError::Refused { .. })), "{late:?}");
    assert_eq!(echo(&beta).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_peer_that_returns_is_found_again() {
    let pki = Pki::new();
    let first = answerer(pki.alpha(), Limits::default()).await;
    let address = first.server.address();
    let beta = asker(&first, pki.beta());
    assert_eq!(echo(&beta).await.unwrap(), "hello");
    drop(first);
    // Until the listener's task is gone the connection may be taken and cut.
    while !matches!(echo(&beta).await, Err(AskError::Unreachable { .. })) {}
    let _again = answerer_at(address, pki.alpha(), Limits::default()).await;
    assert_eq!(echo(&beta).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_connection_that_idled_out_is_replaced_without_an_error() {
    let pki = Pki::new();
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let alpha = answerer(pki.alpha(), limits).await;
    let options = Options { idle: LONG, ..Options::default() };
    let beta: Remote<Question, String> = Remote::new(alpha.server.address(), pki.beta(), options);
    for _ in 0..3 {
        assert_eq!(echo(&beta).await.unwrap(), "hello");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(alpha.server.statistics().accepted >= 2);
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let pki = Pki::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let beta: Remote<Question, String> = Remote::new(address, pki.beta(), Options::default());
    let error = beta.connect(LONG).await.unwrap_err();
    assert!(matches!(error, AskError::Unreachable { .. }), "{error:?}");
    assert!(!error.is_ambiguous());
}

proptest! {
    /// Whatever comes, in whatever pieces, a line is bounded and nothing is lost between two of them.
    #[test]
    fn lines_are_bounded_and_complete(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
                                      most in 1_usize..40, piece in 1_usize..16) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut reader = tokio::io::BufReader::with_capacity(piece, bytes.as_slice());
        let (mut line, mut all) = (Vec::new(), Vec::new());
        loop {
            let read = runtime.block_on(read_line(&mut reader, most, &mut line)).unwrap();
            prop_assert!(line.len() <= most);
            all.extend_from_slice(&line);
            match read {
                Line::Whole => prop_assert_eq!(line.last(), Some(&b'\n')),
                Line::End => { prop_assert_eq!(all.len(), bytes.len()); break }
                Line::TooLong => prop_assert_eq!(line.len(), most),
                Line::Cut => prop_assert_eq!(all.len(), bytes.len()),
            }
        }
        prop_assert_eq!(all, bytes);
    }
}
