//! A client of PostgreSQL that knows exactly what it was answered: a few messages of its protocol, version 3, in simple queries.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>. psql(1) and libpq do not tell apart what was sent and what was answered when a
//! connection breaks in between.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::ledger::{Client, Conversation};
use super::net::Namespace;

/// The superuser, and the database that each server has.
pub const USER: &str = "postgres";
/// Version 3.0.
const PROTOCOL: i32 = 3 << 16;
/// Longer messages are nonsense here.
const LENGTH_MAX: usize = 1 << 20;
/// How long a client waits for an answer: longer than a commit may take while a checkpoint is written, too.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two commits of a client: one after the other as fast as they go would leave a resync hardly any of two processors.
const THINKS: Duration = Duration::from_millis(4);
/// Longest time until a question about everything is answered.
pub const LONG: Duration = Duration::from_secs(60);

/// A connection. After an error of a query other than the server's own it is of no use.
pub struct Session {
    out: TcpStream,
    from: BufReader<TcpStream>,
}

impl Session {
    /// Connect to a server that trusts whoever comes. Nothing of it takes longer than `patience`.
    ///
    /// # Errors
    /// There is none, or it does not take clients now.
    pub fn connect(server: SocketAddr, patience: Duration) -> Result<Session> {
        let stream = TcpStream::connect_timeout(&server, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut session = Session { out: stream.try_clone()?, from: BufReader::new(stream) };
        let mut body = PROTOCOL.to_be_bytes().to_vec();
        body.extend(format!("user\0{USER}\0database\0{USER}\0\0").as_bytes());
        session.send(None, &body)?;
        session.rows()?;
        Ok(session)
    }

    /// What a query gives: the fields of each row, joined with a space. Null is nothing.
    ///
    /// # Errors
    /// The server's, or those of the connection.
    pub fn query(&mut self, words: &str) -> Result<Vec<String>> {
        self.send(Some(b'Q'), format!("{words}\0").as_bytes())?;
        self.rows()
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<()> {
        let length = i32::try_from(body.len() + 4)?;
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend(length.to_be_bytes());
        message.extend(body);
        Ok(self.out.write_all(&message)?)
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.from.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        ensure!((4..LENGTH_MAX).contains(&length), "a message of {length} bytes");
        let mut body = vec![0; length - 4];
        self.from.read_exact(&mut body)?;
        Ok((kind, body))
    }

    /// Read until the server is ready for the next query. Only then what was asked is answered.
    fn rows(&mut self) -> Result<Vec<String>> {
        let (mut rows, mut error) = (Vec::new(), None);
        loop {
            let (kind, body) = self.receive()?;
            match kind {
                b'Z' => break,
                b'D' => rows.push(row(&body)?),
                b'R' => ensure!(body == [0; 4], "the server wants a password"),
                b'E' => {
                    let text = String::from_utf8_lossy(&body).replace('\0', " ");
                    // A server that refuses a connection says nothing after it.
                    if text.contains("FATAL") {
                        bail!("{text}");
                    }
                    error = Some(text);
                }
                _ => {}
            }
        }
        match error {
            None => Ok(rows),
            Some(error) => bail!("{error}"),
        }
    }
}

/// A row: a count of fields (16 bits), and for each its length (32 bits; -1: null) and text.
fn row(body: &[u8]) -> Result<String> {
    let mut fields = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        ensure!(length <= behind.len(), "a field of {length} bytes in a row of {}", body.len());
        let (field, behind) = behind.split_at(length);
        fields.push(String::from_utf8_lossy(field).into_owned());
        rest = behind;
    }
    Ok(fields.join(" "))
}

/// Ask a server one thing, from a namespace.
///
/// # Errors
/// It does not answer within [`LONG`], or refuses.
pub fn ask(namespace: &Namespace, server: SocketAddr, words: &str) -> Result<Vec<String>> {
    namespace.within(|| Session::connect(server, LONG)?.query(words))
}

/// The table that [`client`]s write to.
pub const TABLE: &str =
    "CREATE TABLE record(client INT, number BIGINT, words TEXT, PRIMARY KEY (client, number))";

/// A client that commits numbered rows of its own, one after the other, with a short rest in between. One that was not answered may have been committed, and is given again.
///
/// # Errors
/// The namespace cannot be entered.
pub fn client(namespace: &Namespace, server: SocketAddr, client: u32) -> Result<Client> {
    Client::converse(namespace, move || {
        let mut session = Session::connect(server, PATIENCE)?;
        let keep = move |number| {
            let insert = format!(
                "INSERT INTO record VALUES ({client}, {number}, repeat(md5('{number}'), 12)) ON CONFLICT DO NOTHING"
            );
            session.query(&insert)?;
            // Nothing is waited for: the rest between two commits.
            std::thread::sleep(THINKS);
            Ok(())
        };
        Ok(Box::new(keep) as Conversation)
    })
}

/// Of a client's rows, how many were answered and are missing. The server is asked after `answered` was counted.
///
/// # Errors
/// The server's; or it has rows that the client cannot have given.
pub fn missing(namespace: &Namespace, server: SocketAddr, client: u32, answered: u64) -> Result<u64> {
    let words = format!(
        "SELECT count(*) FILTER (WHERE number < {answered}), count(*) FILTER (WHERE words <> repeat(md5(number::text), 12)) \
         FROM record WHERE client = {client}"
    );
    let found = ask(namespace, server, &words)?;
    let numbers: Vec<u64> =
        found.iter().flat_map(|row| row.split(' ')).filter_map(|text| text.parse().ok()).collect();
    let [kept, damaged] = numbers[..] else { bail!("the server counts {found:?}") };
    ensure!(damaged == 0, "{damaged} rows of client {client} hold other words than were given");
    Ok(answered.saturating_sub(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_and_nonsense_is_not() {
        let body = [&[0, 3][..], &[0, 0, 0, 2], b"ab", &[0xff; 4], &[0, 0, 0, 1], b"c"].concat();
        assert_eq!(row(&body).unwrap(), "ab  c");
        assert!(row(&[0, 1, 0, 0, 0, 9, b'x']).is_err());
        assert_eq!(row(&[0]).unwrap(), "");
    }
}
