//! Dropping from the compiled object what the kernel has no use for.

use anyhow::{Result, anyhow};
use object::build::elf::{Builder, SectionData};
use object::elf;

/// Sections that are not needed to load the programs: debug information, and line numbers for the verifier's messages.
const DROPPED: &[&[u8]] = &[b".debug_", b".rel.debug_", b".BTF.ext", b".rel.BTF.ext"];

/// The object without them. The types of the maps and programs (`.BTF`) stay.
///
/// # Errors
/// The input is no object of the kind that the BPF linker makes.
pub fn strip(input: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(input).map_err(|error| anyhow!("not an ELF object: {error}"))?;
    let mut has_section_names = false;
    for section in &mut builder.sections {
        if DROPPED.iter().any(|prefix| section.name.starts_with(prefix)) {
            section.delete = true;
        }
        has_section_names |= matches!(section.data, SectionData::SectionString);
    }
    // Symbols of the dropped sections, and relocations of dropped symbols.
    builder.delete_orphans();
    if !has_section_names {
        // LLVM keeps the names of sections and of symbols in one table; written anew there are two.
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut output = Vec::new();
    builder.write(&mut output).map_err(|error| anyhow!("cannot write the object: {error}"))?;
    Ok(output)
}
