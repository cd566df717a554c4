//! The kernel programs. Each looks at one event, asks "is it ours?", and tells it; nothing is decided here.
//!
//! One file per hook in [`hooks`]; tiny siblings of one family share a file. Where a field lies and which parameter is
//! which comes from the running kernel's type information, through [`settings`], never from this source.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod emit;
mod filter;
mod hooks;
mod kernel;
mod page_cache;
mod settings;

/// The helpers the programs call are reserved for GPL-compatible programs.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier refuses programs that can get here.
    unsafe { core::hint::unreachable_unchecked() }
}
