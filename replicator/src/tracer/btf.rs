//! Reader of the kernel's own type information (BTF): where a field lies, how a function's parameters are called.
//!
//! Format: Documentation/bpf/btf.rst of the kernel. The data comes from the kernel, but a module or a container may show us
//! anything, so every access is checked and a file that makes no sense is an error, never a panic.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Where the kernel shows its BTF.
const SYSFS: &str = "/sys/kernel/btf";

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;

const KIND_INT: u8 = 1;
const KIND_POINTER: u8 = 2;
const KIND_ARRAY: u8 = 3;
const KIND_STRUCT: u8 = 4;
const KIND_UNION: u8 = 5;
const KIND_ENUM: u8 = 6;
const KIND_FORWARD: u8 = 7;
const KIND_TYPEDEF: u8 = 8;
const KIND_VOLATILE: u8 = 9;
const KIND_CONST: u8 = 10;
const KIND_RESTRICT: u8 = 11;
const KIND_FUNCTION: u8 = 12;
const KIND_PROTOTYPE: u8 = 13;
const KIND_VARIABLE: u8 = 14;
const KIND_SECTION: u8 = 15;
const KIND_FLOAT: u8 = 16;
const KIND_DECLARATION_TAG: u8 = 17;
const KIND_TYPE_TAG: u8 = 18;
const KIND_ENUM64: u8 = 19;

/// Nesting of nameless structs and chains of typedefs that are followed; a loop in the data ends here.
const DEPTH_MAX: usize = 16;

/// Why type information could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel shows none (it is built without CONFIG_DEBUG_INFO_BTF), or it may not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The data makes no sense.
    #[error("malformed BTF: {0}")]
    Malformed(&'static str),
}

/// Number of a type. 0 is `void`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TypeId(pub u32);

/// What a name is looked up as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Named {
    Struct,
    Function,
    Typedef,
    Enum,
}

/// A parameter of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// Its name; empty in the prototype of a function pointer.
    pub name: String,
    /// Its type.
    pub type_id: TypeId,
}

/// Type information of the kernel, or of one of its modules on top of it.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    /// Offsets of the types in `data`, the first one is of type number `first`.
    types: Vec<u32>,
    strings: (usize, usize),
    first: u32,
    /// Where this one's strings begin in the numbering that goes on from the kernel's.
    strings_first: u32,
    names: HashMap<(Named, String), TypeId>,
}

/// One type's fixed part.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u8,
    flag: bool,
    count: usize,
    /// Size in bytes, or the type referred to.
    value: u32,
    /// Offset of what follows in `data`.
    rest: usize,
}

impl Btf {
    /// The running kernel's.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn kernel() -> Result<Btf, BtfError> {
        Btf::parse(read(&Path::new(SYSFS).join("vmlinux"))?, None)
    }

    /// A loaded module's.
    ///
    /// # Errors
    /// [`BtfError`]; `Read` with `NotFound` where the module is not loaded or has none.
    pub fn module(name: &str, kernel: &Btf) -> Result<Btf, BtfError> {
        Btf::parse(read(&Path::new(SYSFS).join(name))?, Some(kernel))
    }

    /// Read type information from bytes; a module's needs the kernel's for its numbering.
    ///
    /// # Errors
    /// [`BtfError::Malformed`].
    pub fn parse(data: Vec<u8>, kernel: Option<&Btf>) -> Result<Btf, BtfError> {
        let header = data.get(..HEADER_BYTES).ok_or(BtfError::Malformed("shorter than its header"))?;
        let word = |at: usize| read_u32(header, at).map(|value| value as usize);
        if header.get(..2) != Some(&MAGIC.to_le_bytes()[..]) {
            return Err(BtfError::Malformed("wrong magic number, or other byte order"));
        }
        let (Some(length), Some(types_at), Some(types_length), Some(strings_at), Some(strings_length)) =
            (word(4), word(8), word(12), word(16), word(20))
        else {
            return Err(BtfError::Malformed("shorter than its header"));
        };
        let section = |at: usize, size: usize| {
            let start = length.checked_add(at)?;
            let end = start.checked_add(size)?;
            (end <= data.len()).then_some((start, end))
        };
        let types = section(types_at, types_length).ok_or(BtfError::Malformed("types beyond the end"))?;
        let strings =
            section(strings_at, strings_length).ok_or(BtfError::Malformed("strings beyond the end"))?;
        let (first, strings_first) = match kernel {
            Some(kernel) => {
                (kernel.next(), u32::try_from(kernel.strings.1 - kernel.strings.0).unwrap_or(u32::MAX))
            }
            None => (1, 0),
        };
        let mut btf = Btf { data, types: Vec::new(), strings, first, strings_first, names: HashMap::new() };
        btf.index(types)?;
        Ok(btf)
    }

    /// Number of the type after the last one.
    fn next(&self) -> u32 {
        self.first.saturating_add(u32::try_from(self.types.len()).unwrap_or(u32::MAX))
    }

    /// Find where each type begins, and the names worth looking up.
    fn index(&mut self, (start, end): (usize, usize)) -> Result<(), BtfError> {
        let mut at = start;
        while at < end {
            let kind = self.type_at(at).ok_or(BtfError::Malformed("a type beyond the end"))?;
            let rest =
                rest_bytes(kind.kind, kind.count).ok_or(BtfError::Malformed("unknown kind of type"))?;
            let id = TypeId(self.next());
            let next = kind.rest.checked_add(rest).filter(|next| *next <= end);
            let next = next.ok_or(BtfError::Malformed("a type beyond the end"))?;
            self.types.push(u32::try_from(at).map_err(|_| BtfError::Malformed("larger than 4 GiB"))?);
            let named = match kind.kind {
                KIND_STRUCT => Some(Named::Struct),
                KIND_FUNCTION => Some(Named::Function),
                KIND_TYPEDEF => Some(Named::Typedef),
                KIND_ENUM | KIND_ENUM64 => Some(Named::Enum),
                _ => None,
            };
            if let (Some(named), Some(name)) = (named, self.string(kind.name))
                && !name.is_empty()
            {
                let name = name.to_owned();
                self.names.entry((named, name)).or_insert(id);
            }
            at = next;
        }
        Ok(())
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = read_u32(&self.data, at.checked_add(4)?)?;
        Some(Type {
            name: read_u32(&self.data, at)?,
            kind: (info >> 24 & 0x1f) as u8,
            flag: info >> 31 == 1,
            count: (info & 0xffff) as usize,
            value: read_u32(&self.data, at.checked_add(8)?)?,
            rest: at.checked_add(12)?,
        })
    }

    /// A string of this one's own section.
    fn string(&self, offset: u32) -> Option<&str> {
        let (start, end) = self.strings;
        let own = offset.checked_sub(self.strings_first)? as usize;
        let bytes = self.data.get(start.checked_add(own)?..end)?;
        let length = bytes.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(bytes.get(..length)?).ok()
    }
}

/// The kernel's type information, and where a hook lies in a module, the module's on top of it.
#[derive(Clone, Copy, Debug)]
pub struct Types<'a> {
    /// The kernel's own.
    pub kernel: &'a Btf,
    /// The module's.
    pub module: Option<&'a Btf>,
}

impl<'a> Types<'a> {
    /// Only the kernel's own.
    #[must_use]
    pub fn kernel(kernel: &'a Btf) -> Types<'a> {
        Types { kernel, module: None }
    }

    /// The type of that kind and name, the module's first.
    #[must_use]
    pub fn find(&self, named: Named, name: &str) -> Option<TypeId> {
        let key = (named, name.to_owned());
        self.module.and_then(|module| module.names.get(&key)).or_else(|| self.kernel.names.get(&key)).copied()
    }

    /// Offset in bytes of a field, also inside nameless structs and unions. `None` for a missing field or one that does not
    /// begin at a byte.
    #[must_use]
    pub fn field(&self, structure: &str, field: &str) -> Option<u32> {
        let id = self.find(Named::Struct, structure)?;
        let bits = self.field_bits(id, field, DEPTH_MAX)?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    fn field_bits(&self, id: TypeId, field: &str, depth: usize) -> Option<u32> {
        // The nameless struct of `vm_fault` is constant.
        let (btf, kind) = self.strip(id)?;
        if depth == 0 || (kind.kind != KIND_STRUCT && kind.kind != KIND_UNION) {
            return None;
        }
        for index in 0..kind.count {
            let at = kind.rest.checked_add(index.checked_mul(12)?)?;
            let name = read_u32(&btf.data, at)?;
            let type_id = TypeId(read_u32(&btf.data, at.checked_add(4)?)?);
            let place = read_u32(&btf.data, at.checked_add(8)?)?;
            let bits = if kind.flag { place & 0xff_ffff } else { place };
            let name = self.string(name)?;
            if name == field {
                return Some(bits);
            }
            if name.is_empty()
                && let Some(inner) = self.field_bits(type_id, field, depth - 1)
            {
                return bits.checked_add(inner);
            }
        }
        None
    }

    /// The parameters of a function.
    #[must_use]
    pub fn parameters(&self, function: &str) -> Option<Vec<Parameter>> {
        let id = self.find(Named::Function, function)?;
        let (_, kind) = self.resolve(id)?;
        self.prototype(TypeId(kind.value))
    }

    /// What a tracepoint hands to a program: names where the kernel keeps them, types always.
    #[must_use]
    pub fn tracepoint(&self, tracepoint: &str) -> Option<Vec<Parameter>> {
        let id = self.find(Named::Typedef, &format!("btf_trace_{tracepoint}"))?;
        let (_, pointer) = self.strip(id)?;
        if pointer.kind != KIND_POINTER {
            return None;
        }
        let mut parameters = self.prototype(TypeId(pointer.value))?;
        // The first one is the tracepoint's own data and not handed on.
        if parameters.is_empty() {
            return None;
        }
        parameters.remove(0);
        Some(parameters)
    }

    fn prototype(&self, id: TypeId) -> Option<Vec<Parameter>> {
        let (btf, kind) = self.resolve(id)?;
        if kind.kind != KIND_PROTOTYPE {
            return None;
        }
        (0..kind.count)
            .map(|index| {
                let at = kind.rest.checked_add(index.checked_mul(8)?)?;
                let name = self.string(read_u32(&btf.data, at)?)?.to_owned();
                let type_id = TypeId(read_u32(&btf.data, at.checked_add(4)?)?);
                Some(Parameter { name, type_id })
            })
            .collect()
    }

    /// The type as C writes it, as far as it tells parameters apart: "struct inode *", "loff_t", "unsigned int".
    #[must_use]
    pub fn type_name(&self, id: TypeId) -> String {
        self.type_name_at(id, DEPTH_MAX)
    }

    fn type_name_at(&self, id: TypeId, depth: usize) -> String {
        let Some((_, kind)) = self.resolve(id) else { return "void".to_owned() };
        let name = self.string(kind.name).unwrap_or_default();
        let inner = |prefix: &str, suffix: &str| {
            let inner =
                if depth == 0 { String::new() } else { self.type_name_at(TypeId(kind.value), depth - 1) };
            format!("{prefix}{inner}{suffix}")
        };
        match kind.kind {
            KIND_POINTER => inner("", " *"),
            KIND_CONST | KIND_VOLATILE | KIND_RESTRICT | KIND_TYPE_TAG => inner("", ""),
            KIND_STRUCT | KIND_FORWARD => format!("struct {name}"),
            KIND_UNION => format!("union {name}"),
            KIND_ENUM | KIND_ENUM64 => format!("enum {name}"),
            _ => name.to_owned(),
        }
    }

    /// The number behind an enumerator.
    #[must_use]
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        let (btf, kind) = self.resolve(self.find(Named::Enum, enumeration)?)?;
        let size = if kind.kind == KIND_ENUM { 8 } else { 12 };
        (0..kind.count).find_map(|index| {
            let at = kind.rest.checked_add(index.checked_mul(size)?)?;
            let found = self.string(read_u32(&btf.data, at)?)? == name;
            if found { read_u32(&btf.data, at.checked_add(4)?) } else { None }
        })
    }

    /// The type behind typedefs and qualifiers.
    fn strip(&self, id: TypeId) -> Option<(&'a Btf, Type)> {
        let mut current = self.resolve(id)?;
        for _ in 0..DEPTH_MAX {
            match current.1.kind {
                KIND_TYPEDEF | KIND_CONST | KIND_VOLATILE | KIND_RESTRICT | KIND_TYPE_TAG => {
                    current = self.resolve(TypeId(current.1.value))?;
                }
                _ => return Some(current),
            }
        }
        None
    }

    fn resolve(&self, id: TypeId) -> Option<(&'a Btf, Type)> {
        let btf = match self.module {
            Some(module) if id.0 >= module.first => module,
            _ => self.kernel,
        };
        let at = *btf.types.get(id.0.checked_sub(btf.first)? as usize)?;
        Some((btf, btf.type_at(at as usize)?))
    }

    fn string(&self, offset: u32) -> Option<&'a str> {
        match self.module {
            Some(module) if offset >= module.strings_first => module.string(offset),
            _ => self.kernel.string(offset),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BtfError> {
    fs::read(path).map_err(|source| BtfError::Read { path: path.to_owned(), source })
}

fn read_u32(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Bytes after a type's fixed part.
fn rest_bytes(kind: u8, count: usize) -> Option<usize> {
    Some(match kind {
        KIND_INT | KIND_VARIABLE | KIND_DECLARATION_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_SECTION | KIND_ENUM64 => count.checked_mul(12)?,
        KIND_ENUM | KIND_PROTOTYPE => count.checked_mul(8)?,
        KIND_POINTER | KIND_FORWARD | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT
        | KIND_FUNCTION | KIND_FLOAT | KIND_TYPE_TAG => 0,
        _ => return None,
    })
}
