//! Whether a GET is answered as expected.
//!
//! Asked for in HTTP/1.0: the answer then comes in one piece and ends with the connection. Redirections are not followed; their
//! codes count as they are.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Observation;

/// Longest answer that is read, head and body, in bytes. What is expected in the body must be before that.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const HEADERS_MAX: usize = 128;

/// What is asked, and what is to be answered.
pub(super) struct Question {
    pub address: SocketAddr,
    pub host: String,
    pub target: String,
    /// None: 200 to 399.
    pub status: Vec<u16>,
    pub contains: String,
}

pub(super) async fn look(question: &Question) -> Observation {
    match ask(question).await {
        Ok(()) => Observation::Success,
        Err(reason) => {
            Observation::Failure(format!("http://{}{}: {reason}", question.address, question.target))
        }
    }
}

async fn ask(question: &Question) -> Result<(), String> {
    let mut stream = TcpStream::connect(question.address).await.map_err(|error| error.to_string())?;
    let request = format!(
        "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: replicator\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        question.target, question.host
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 8192];
        let count = match stream.read(&mut part).await {
            Ok(count) => count,
            // Some servers reset the connection once all is sent.
            Err(_) if !answer.is_empty() => 0,
            Err(error) => return Err(error.to_string()),
        };
        answer.extend_from_slice(part.get(..count).unwrap_or_default());
        let ended = count == 0 || answer.len() > ANSWER_BYTES_MAX;
        if let Some(judgement) = judge(question, &answer, ended) {
            return judgement;
        }
    }
}

/// What is to be thought of the answer so far; `None` if more of it must come.
fn judge(question: &Question, answer: &[u8], ended: bool) -> Option<Result<(), String>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if ended => return Some(Err("the answer ends in its head".into())),
        Ok(httparse::Status::Partial) => return None,
        Err(error) => return Some(Err(format!("the answer is no HTTP: {error}"))),
    };
    let code = response.code.unwrap_or_default();
    let wanted =
        if question.status.is_empty() { (200..400).contains(&code) } else { question.status.contains(&code) };
    if !wanted {
        return Some(Err(format!("answered with {code} {}", response.reason.unwrap_or_default())));
    }
    let contains = question.contains.as_bytes();
    let body = answer.get(length..).unwrap_or_default();
    if contains.is_empty() || body.windows(contains.len()).any(|window| window == contains) {
        return Some(Ok(()));
    }
    let whole = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
    let ended = ended || whole.is_some_and(|whole| body.len() >= whole);
    ended.then(|| Err(format!("the body does not contain {:?}", question.contains)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question() -> Question {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let (host, target) = ("h".to_owned(), "/".to_owned());
        Question { address, host, target, status: vec![200], contains: "ready".into() }
    }

    proptest! {
        /// Whatever comes, in whatever pieces, there is a judgement at the end, and one that was good stays so.
        #[test]
        fn every_answer_is_judged(
            head in prop::sample::select(vec!["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"]),
            body in proptest::collection::vec(prop_oneof![Just(b"ready".to_vec()), proptest::collection::vec(any::<u8>(), 0..9)], 0..4),
        ) {
            let answer = [head.as_bytes().to_vec(), body.concat()].concat();
            let mut good = false;
            for length in 0..=answer.len() {
                let judged = judge(&question(), answer.get(..length).unwrap_or_default(), false);
                good |= judged == Some(Ok(()));
                if good {
                    prop_assert_eq!(judged, Some(Ok(())));
                }
            }
            let last = judge(&question(), &answer, true);
            prop_assert!(last.is_some());
            prop_assert_eq!(good, last == Some(Ok(())));
        }
    }
}
