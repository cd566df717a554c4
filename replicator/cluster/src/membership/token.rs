//! The join token: what the other node must know to find this one, to know it, and to be let in once.
//!
//! As text: `rjt1_` and base64url without padding of these bytes, integers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version of the token, 1 |
//! | 16 | cluster id |
//! | 32 | SHA-256 of the authority's certificate in DER |
//! | 16 | secret |
//! | 8 | when it expires, in seconds since 1970 |
//! | 1 | number of addresses, 1 to 8 |
//! | 7 or 19 each | family (4 or 6), address (4 or 16 bytes), port (2 bytes) |
//! | 4 | the first bytes of the blake3 hash of all before |
//!
//! From the secret both sides derive the token's id, under which it is looked up, and the key that proves its possession. The issuing
//! node keeps only these two.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use super::authority::Fingerprint;
use super::error::TokenError;
use super::identity::ClusterId;
use super::secrets::Secret;

/// How a token begins.
pub(super) const PREFIX: &str = "rjt1_";
/// How long a token is valid if nothing else is wanted.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
/// Most addresses in a token.
pub(super) const ADDRESSES_MAX: usize = 8;

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
/// Longest text that is looked at.
const TEXT_BYTES_MAX: usize = 1024;

const ID: &str = "replicator cluster 2026 v1: join token id";
const KEY: &str = "replicator cluster 2026 v1: join token key";

/// A join token. Who has it can become a member until it is used or expires.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The cluster.
    pub cluster: ClusterId,
    /// The certificate of its authority.
    pub authority: Fingerprint,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
    /// Where the issuing node waits.
    pub addresses: Vec<SocketAddr>,
    pub(super) secret: Zeroizing<[u8; 16]>,
}

impl Token {
    /// The token as text, to be typed on the other node. It is a secret: to be shown to who asked for it, and nowhere else.
    #[must_use]
    pub fn reveal(&self) -> String {
        let mut bytes = Zeroizing::new(vec![VERSION]);
        bytes.extend_from_slice(&self.cluster.0);
        bytes.extend_from_slice(&self.authority.0);
        bytes.extend_from_slice(&*self.secret);
        bytes.extend_from_slice(&self.expires.to_le_bytes());
        bytes.push(self.addresses.len() as u8);
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_le_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// The token in a text; white space around it does not matter.
    ///
    /// # Errors
    /// [`TokenError`]: what is wrong with it. Whether it has expired is not looked at.
    pub fn parse(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        let Some(body) = text.strip_prefix(PREFIX).filter(|_| text.len() <= TEXT_BYTES_MAX) else {
            return Err(TokenError::NotAToken);
        };
        let is_of_a_token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if let Some(at) = body.bytes().position(|byte| !is_of_a_token(byte)) {
            return Err(TokenError::Character { position: PREFIX.len() + at + 1 });
        }
        let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| TokenError::Mistyped)?;
        let bytes = Zeroizing::new(bytes);
        let (content, found) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TokenError::Mistyped)?;
        if checksum(content) != *found {
            return Err(TokenError::Mistyped);
        }
        match content.first() {
            Some(&VERSION) => {}
            Some(&found) => return Err(TokenError::Version { found, known: VERSION }),
            None => return Err(TokenError::Mistyped),
        }
        let mut reader = Reader(content.get(1..).unwrap_or_default());
        reader.token().ok_or(TokenError::Mistyped)
    }

    /// Whether it has expired by this clock.
    #[must_use]
    pub fn has_expired(&self, now: SystemTime) -> bool {
        seconds(now) >= self.expires
    }

    /// Under what it is looked up.
    pub(super) fn id(&self) -> [u8; 16] {
        let derived = blake3::derive_key(ID, &*self.secret);
        derived.first_chunk().copied().unwrap_or_default()
    }

    /// What proves its possession.
    pub(super) fn key(&self) -> Secret {
        Secret::from_bytes(blake3::derive_key(KEY, &*self.secret))
    }
}

/// Seconds since 1970; 0 before.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    blake3::hash(bytes).as_bytes().first_chunk().copied().unwrap_or_default()
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const BYTES: usize>(&mut self) -> Option<[u8; BYTES]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn token(&mut self) -> Option<Token> {
        let cluster = ClusterId(self.take()?);
        let authority = Fingerprint(self.take()?);
        let secret = Zeroizing::new(self.take()?);
        let expires = u64::from_le_bytes(self.take()?);
        let [count] = self.take()?;
        let fits = (1..=ADDRESSES_MAX).contains(&usize::from(count));
        let addresses = fits.then(|| (0..count).map(|_| self.address()).collect::<Option<Vec<_>>>())??;
        self.0.is_empty().then_some(Token { cluster, authority, expires, addresses, secret })
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let ip = match self.take()? {
            [4] => IpAddr::V4(Ipv4Addr::from(self.take::<4>()?)),
            [6] => IpAddr::V6(Ipv6Addr::from(self.take::<16>()?)),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_le_bytes(self.take()?)))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("cluster", &self.cluster)
            .field("addresses", &self.addresses)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> impl Strategy<Value = Token> {
        let addresses = prop::collection::vec((any::<IpAddr>(), any::<u16>()), 1..=ADDRESSES_MAX);
        (any::<[u8; 16]>(), any::<[u8; 32]>(), any::<[u8; 16]>(), any::<u64>(), addresses).prop_map(
            |(cluster, authority, secret, expires, addresses)| Token {
                cluster: ClusterId(cluster),
                authority: Fingerprint(authority),
                expires,
                addresses: addresses.into_iter().map(SocketAddr::from).collect(),
                secret: Zeroizing::new(secret),
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_revealed_is_read(token in token()) {
            let text = token.reveal();
            prop_assert_eq!(Token::parse(&format!("  {text}\n")).unwrap(), token);
        }

        /// One wrong, missing or doubled character is told, never taken.
        #[test]
        fn a_typing_error_is_told(token in token(), at in any::<prop::sample::Index>(), other in "[A-Za-z0-9_.-]") {
            let text = token.reveal();
            let at = PREFIX.len() + at.index(text.len() - PREFIX.len());
            let (before, after) = (&text[..at], &text[at + 1..]);
            for wrong in [format!("{before}{other}{after}"), format!("{before}{after}"), format!("{before}{other}{}", &text[at..])] {
                if wrong != text {
                    prop_assert!(Token::parse(&wrong).is_err(), "{}", wrong);
                }
            }
            prop_assert!(Token::parse(before).is_err());
        }

        #[test]
        fn no_text_is_a_panic(text in ".*", body in "[A-Za-z0-9_-]{0,300}") {
            prop_assert!(Token::parse(&text).is_err());
            let whole = format!("{PREFIX}{body}");
            prop_assert!(Token::parse(&whole).is_err());
        }
    }

    #[test]
    fn errors_say_where() {
        assert_eq!(Token::parse("hello"), Err(TokenError::NotAToken));
        assert_eq!(Token::parse("rjt1_abc def"), Err(TokenError::Character { position: 9 }));
        assert_eq!(Token::parse("rjt1_"), Err(TokenError::Mistyped));
        let mut newer = vec![2; 90];
        let sum = checksum(&newer);
        newer.extend_from_slice(&sum);
        let text = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&newer));
        assert_eq!(Token::parse(&text), Err(TokenError::Version { found: 2, known: 1 }));
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = Token {
            cluster: ClusterId([1; 16]),
            authority: Fingerprint([2; 32]),
            expires: 5,
            addresses: Vec::new(),
            secret: Zeroizing::new([0xc3; 16]),
        };
        let shown = format!("{token:?}");
        assert!(!shown.contains("195") && !shown.contains("c3"), "{shown}");
    }
}
