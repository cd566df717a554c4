//! Payload of a `VerifyReply`: what the secondary says of a part.

use alloc::vec::Vec;

use super::body::{decode_extents, encode_extents};
use super::cursor::{BodyError, Cursor, Put};
use crate::ids::Errno;
use crate::verify::Verdict;

/// Most bytes of details in a verdict.
pub const DETAILS_MAX: usize = 256 << 10;

/// The payload.
#[must_use]
pub fn encode_verdict(verdict: &Verdict) -> Vec<u8> {
    let mut body = Vec::new();
    match verdict {
        Verdict::Same => body.put_u8(0),
        Verdict::Extents(extents) => {
            body.put_u8(1);
            body.put(&encode_extents(extents));
        }
        Verdict::Details(details) => {
            body.put_u8(2);
            body.put(details.get(..DETAILS_MAX).unwrap_or(details));
        }
        Verdict::Absent => body.put_u8(3),
        Verdict::Unreadable(errno) => {
            body.put_u8(4);
            body.put_u32(u32::try_from(errno.0).unwrap_or(0));
        }
    }
    body
}

/// What a payload says.
///
/// # Errors
/// [`BodyError`].
pub fn decode_verdict(body: &[u8]) -> Result<Verdict, BodyError> {
    let (tag, rest) = body.split_first().ok_or(BodyError::Truncated)?;
    let mut cursor = Cursor::new(rest);
    let verdict = match tag {
        0 => Verdict::Same,
        1 => return Ok(Verdict::Extents(decode_extents(rest)?)),
        2 if rest.len() > DETAILS_MAX => return Err(BodyError::Limit("details")),
        2 => return Ok(Verdict::Details(rest.to_vec())),
        3 => Verdict::Absent,
        4 => Verdict::Unreadable(Errno(
            i32::try_from(cursor.u32()?).map_err(|_| BodyError::Value("error number"))?,
        )),
        _ => return Err(BodyError::Value("verdict")),
    };
    cursor.finish()?;
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::Extent;

    #[test]
    fn every_verdict_comes_back() {
        let all = [
            Verdict::Same,
            Verdict::Extents(Vec::from([Extent::at(4096, 8192), Extent::at(1 << 40, 1)])),
            Verdict::Details(Vec::new()),
            Verdict::Details(Vec::from([1, 2, 3])),
            Verdict::Absent,
            Verdict::Unreadable(Errno(5)),
        ];
        for verdict in all {
            assert_eq!(decode_verdict(&encode_verdict(&verdict)), Ok(verdict));
        }
    }

    #[test]
    fn what_is_no_verdict_is_refused() {
        assert_eq!(decode_verdict(&[]), Err(BodyError::Truncated));
        assert_eq!(decode_verdict(&[9]), Err(BodyError::Value("verdict")));
        assert_eq!(decode_verdict(&[0, 0]), Err(BodyError::Trailing(1)));
        assert_eq!(decode_verdict(&[4, 1]), Err(BodyError::Truncated));
        assert_eq!(decode_verdict(&[4, 255, 255, 255, 255]), Err(BodyError::Value("error number")));
        let mut long = Vec::from([2]);
        long.resize(DETAILS_MAX + 2, 0);
        assert_eq!(decode_verdict(&long), Err(BodyError::Limit("details")));
    }
}
