//! The socket filter (classic BPF) that lets through only what speaks of one address: on a busy LAN nobody is woken for the rest.

use std::net::IpAddr;

use libc::{BPF_ABS, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

use super::ndp;

/// Where in an ARP frame the sender's protocol address is.
const ARP_SENDER: u32 = 28;
/// Where in an IPv6 frame the next header is, the ICMPv6 type, the target of an advertisement.
const NEXT_HEADER: u32 = 20;
const ICMPV6_TYPE: u32 = 54;
const TARGET: u32 = 62;
/// Longer ones are cut: nothing behind is looked at.
pub(in super::super) const FRAME_BYTES_MAX: usize = 2048;

/// Of the frames of the address's protocol those in which somebody claims it. A frame that is too short is dropped by the kernel.
pub(in super::super) fn claims_of(address: IpAddr) -> Vec<sock_filter> {
    let mut wanted: Vec<(u32, u32, u32)> = Vec::new();
    match address {
        IpAddr::V4(address) => wanted.push((BPF_W, ARP_SENDER, address.into())),
        IpAddr::V6(address) => {
            wanted.push((BPF_B, NEXT_HEADER, ndp::ICMPV6.into()));
            wanted.push((BPF_B, ICMPV6_TYPE, ndp::ADVERTISEMENT.into()));
            for (at, word) in (TARGET..).step_by(4).zip(address.octets().chunks_exact(4)) {
                wanted.push((BPF_W, at, word.iter().fold(0, |all, byte| all << 8 | u32::from(*byte))));
            }
        }
    }
    let mut program = Vec::new();
    let all = wanted.len();
    for (number, (size, at, value)) in wanted.into_iter().enumerate() {
        program.push(instruction(BPF_LD | BPF_ABS | size, 0, at));
        // Past the remaining pairs and the acceptance, to the refusal.
        let jump = 2 * (all - number - 1) + 1;
        program.push(instruction(BPF_JMP | BPF_JEQ | BPF_K, jump as u8, value));
    }
    program.push(instruction(BPF_RET | BPF_K, 0, FRAME_BYTES_MAX as u32));
    program.push(instruction(BPF_RET | BPF_K, 0, 0));
    program
}

fn instruction(code: u32, otherwise: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: otherwise, k }
}
