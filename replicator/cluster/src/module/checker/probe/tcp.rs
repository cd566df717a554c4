//! Whether a connection is accepted, and what is sent is answered.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Observation;

/// Longest answer that is looked through, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

pub(super) async fn look(address: SocketAddr, send: &str, expect: &str) -> Observation {
    match talk(address, send.as_bytes(), expect.as_bytes()).await {
        Ok(()) => Observation::Success,
        Err(reason) => Observation::Failure(format!("{address}: {reason}")),
    }
}

async fn talk(address: SocketAddr, send: &[u8], expect: &[u8]) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    if !send.is_empty() {
        stream.write_all(send).await.map_err(|error| error.to_string())?;
    }
    if expect.is_empty() {
        return Ok(());
    }
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await.map_err(|error| error.to_string())?;
        answer.extend_from_slice(part.get(..count).unwrap_or_default());
        if answer.windows(expect.len()).any(|window| window == expect) {
            return Ok(());
        }
        if count == 0 || answer.len() > ANSWER_BYTES_MAX {
            return Err("the answer is not the expected one".into());
        }
    }
}
