//! Reading the kernel's memory.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use replicator_common::Hook;

use crate::settings::parameter;

/// The arguments of the event a program runs for. The verifier knows the type of each.
#[derive(Clone, Copy)]
pub struct Arguments {
    context: *mut c_void,
    hook: Hook,
}

impl Arguments {
    /// The arguments for a hook's program.
    #[inline(always)]
    pub fn new(context: &impl EbpfContext, hook: Hook) -> Arguments {
        Arguments { context: context.as_ptr(), hook }
    }

    /// The hook they were made for.
    #[inline(always)]
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// The `index`-th parameter that the program uses, as a number.
    #[inline(always)]
    pub fn number(&self, index: usize) -> u64 {
        // The verifier accepts only a constant offset from the context, so every place has a load of its own; it knows the
        // setting's value and keeps one. Assembly, because the compiler would join the loads into one with a computed offset.
        macro_rules! load {
            ($offset:literal) => {{
                let value: u64;
                // SAFETY: reads the context at the place of an argument; the verifier checks that there is one.
                unsafe {
                    asm!(
                        concat!("{value} = *(u64 *)({context} + ", $offset, ")"),
                        value = out(reg) value,
                        context = in(reg) self.context,
                    );
                }
                value
            }};
        }
        match parameter(self.hook, index) {
            0 => load!("0"),
            1 => load!("8"),
            2 => load!("16"),
            3 => load!("24"),
            4 => load!("32"),
            5 => load!("40"),
            6 => load!("48"),
            _ => 0,
        }
    }

    /// The same as a pointer; `None` for null.
    #[inline(always)]
    pub fn pointer(&self, index: usize) -> Option<Kernel> {
        Kernel::new(self.number(index))
    }
}

/// Something in the kernel's memory whose type the verifier knows. A read that goes wrong yields zero.
#[derive(Clone, Copy)]
pub struct Kernel(*const u8);

impl Kernel {
    #[inline(always)]
    fn new(address: u64) -> Option<Kernel> {
        if address == 0 { None } else { Some(Kernel(address as *const u8)) }
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier checks the place against the type; the kernel turns a fault into zeroes.
        unsafe { self.0.wrapping_add(offset as usize).cast::<T>().read_volatile() }
    }

    /// Follow the pointer at an offset; `None` for null.
    #[inline(always)]
    pub fn pointer(self, offset: u32) -> Option<Kernel> {
        Kernel::new(self.read::<u64>(offset))
    }

    /// A structure that lies within this one.
    #[inline(always)]
    pub fn within(self, offset: u32) -> Kernel {
        Kernel(self.0.wrapping_add(offset as usize))
    }

    /// The address, as a key.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    pub fn u8(self, offset: u32) -> u8 {
        self.read(offset)
    }

    #[inline(always)]
    pub fn u16(self, offset: u32) -> u16 {
        self.read(offset)
    }

    #[inline(always)]
    pub fn u32(self, offset: u32) -> u32 {
        self.read(offset)
    }

    #[inline(always)]
    pub fn u64(self, offset: u32) -> u64 {
        self.read(offset)
    }

    /// Something at an address whose type the verifier does not know: only for [`Kernel::copied`] and [`Kernel::read_copy`].
    #[inline(always)]
    pub fn untyped(address: u64) -> Kernel {
        Kernel(address as *const u8)
    }

    /// As [`Kernel::copied`]; `None` if it cannot be read.
    #[inline(always)]
    pub fn read_copy<T: Copy>(self, offset: u32) -> Option<T> {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(self.0.wrapping_add(offset as usize).cast::<T>()) }.ok()
    }

    /// A number that the kernel's type does not show at this place (beyond a structure's end, or in another member of a
    /// union); zero if it cannot be read.
    #[inline(always)]
    pub fn copied<T: Copy + Default>(self, offset: u32) -> T {
        self.read_copy(offset).unwrap_or_default()
    }
}
