//! ICMP echoes (RFC 792, RFC 4443), as bytes.

const QUESTION_V4: u8 = 8;
const ANSWER_V4: u8 = 0;
const QUESTION_V6: u8 = 128;
const ANSWER_V6: u8 = 129;

/// Type, code, checksum, identifier, sequence.
const HEADER_BYTES: usize = 8;
/// Random bytes in each question, which its answer must bring back: they are known only to who got the question.
pub(crate) const TOKEN_BYTES: usize = 16;

/// The question. The kernel replaces the identifier on ping sockets.
pub(crate) fn question(v4: bool, identifier: [u8; 2], sequence: u16, token: &[u8; TOKEN_BYTES]) -> Vec<u8> {
    let mut packet = vec![if v4 { QUESTION_V4 } else { QUESTION_V6 }, 0, 0, 0];
    packet.extend(identifier);
    packet.extend(sequence.to_be_bytes());
    packet.extend(token);
    if v4 {
        // For ICMPv6 the sum includes the addresses: the kernel makes it (raw(7)), as it does for ping sockets.
        let sum = checksum(&packet).to_be_bytes();
        packet.splice(2..4, sum);
    }
    packet
}

/// Whether a packet is the answer to the question with this token. `raw`: it comes from a raw socket.
pub(crate) fn is_answer(packet: &[u8], v4: bool, raw: bool, token: &[u8; TOKEN_BYTES]) -> bool {
    // A raw IPv4 socket hands over the IP header too; its length is in the low half of its first byte, in words.
    let header = match packet.first() {
        Some(first) if v4 && raw => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let Some(message) = packet.get(header..) else { return false };
    let wanted = if v4 { ANSWER_V4 } else { ANSWER_V6 };
    message.starts_with(&[wanted, 0]) && message.get(HEADER_BYTES..) == Some(token.as_slice())
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_everything_else() {
        let token = [7; TOKEN_BYTES];
        for (v4, raw) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut reply = question(v4, [7, 7], 1, &token);
            assert!(!is_answer(&reply, v4, false, &token), "the own echo");
            reply[0] = if v4 { ANSWER_V4 } else { ANSWER_V6 };
            if v4 && raw {
                let mut header = vec![0; 20];
                header[0] = 0x45;
                reply.splice(..0, header);
            }
            assert!(is_answer(&reply, v4, raw, &token));
            assert!(!is_answer(&reply, v4, raw, &[8; TOKEN_BYTES]), "to another echo");
            for length in 0..reply.len() {
                assert!(!is_answer(&reply[..length], v4, raw, &token), "cut off at {length}");
            }
        }
    }

    #[test]
    fn the_question_itself_which_a_raw_socket_hears_on_loopback_is_no_answer() {
        let token = [3; TOKEN_BYTES];
        let ip = |message: &[u8]| [&[0x45; 20], message].concat();
        let mut answer = question(true, [0, 1], 1, &token);
        assert!(!is_answer(&ip(&answer), true, true, &token));
        if let Some(kind) = answer.first_mut() {
            *kind = 0;
        }
        assert!(is_answer(&ip(&answer), true, true, &token));
        for length in 0..ip(&answer).len() {
            assert!(
                !is_answer(ip(&answer).get(..length).unwrap_or_default(), true, true, &token),
                "cut at {length}"
            );
        }
        if let Some(last) = answer.last_mut() {
            *last ^= 1;
        }
        assert!(!is_answer(&ip(&answer), true, true, &token), "the answer to another");
    }

    #[test]
    fn the_checksum_makes_the_sum_zero() {
        for byte in 0..=255 {
            let packet = question(true, [byte, byte], 1, &[byte; TOKEN_BYTES]);
            assert_eq!(checksum(&packet), 0);
        }
    }

    #[test]
    fn the_sum_is_that_of_the_rfc() {
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), !0xff00);
    }
}
