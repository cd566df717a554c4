//! Types built by hand: what is found in them, and that no broken byte makes the reader panic.

use super::*;

const STRING_HEADER: u32 = 0;

/// A small set of types:
///
/// ```c
/// struct inner { int a; };                       // 2
/// struct outer { int b; union { int c; struct { int d; int e; }; }; int flag : 3; };   // 5
/// int function(struct outer *first, int second);  // 8
/// typedef void (*btf_trace_event)(void *, struct outer *);
/// enum kind { NONE, SOME = 7 };
/// ```
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Builder {
    fn new() -> Builder {
        Builder { types: Vec::new(), strings: vec![STRING_HEADER as u8], count: 0 }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn add(&mut self, name: &str, kind: u8, flag: bool, count: u32, value: u32, rest: &[u32]) -> u32 {
        let name = self.name(name);
        let info = u32::from(kind) << 24 | count | u32::from(flag) << 31;
        for word in [name, info, value].iter().chain(rest) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }

    fn finish(self) -> Vec<u8> {
        let mut data = Vec::new();
        data.extend_from_slice(&MAGIC.to_le_bytes());
        data.extend_from_slice(&[1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [HEADER_BYTES as u32, 0, types, types, strings] {
            data.extend_from_slice(&word.to_le_bytes());
        }
        data.extend_from_slice(&self.types);
        data.extend_from_slice(&self.strings);
        data
    }
}

fn sample() -> Vec<u8> {
    let mut builder = Builder::new();
    let int = builder.add("int", KIND_INT, false, 0, 4, &[32]);
    let (a, b, c, d, e, flag) = (
        builder.name("a"),
        builder.name("b"),
        builder.name("c"),
        builder.name("d"),
        builder.name("e"),
        builder.name("flag"),
    );
    builder.add("inner", KIND_STRUCT, false, 1, 4, &[a, int, 0]);
    let nameless = builder.add("", KIND_STRUCT, false, 2, 8, &[d, int, 0, e, int, 32]);
    let union = builder.add("", KIND_UNION, false, 2, 8, &[c, int, 0, 0, nameless, 0]);
    // With the flag set, a member's place also holds the width of a bit field.
    let outer =
        builder.add("outer", KIND_STRUCT, true, 3, 16, &[b, int, 0, 0, union, 32, flag, int, 3 << 24 | 97]);
    let pointer = builder.add("", KIND_POINTER, false, 0, outer, &[]);
    let (first, second) = (builder.name("first"), builder.name("second"));
    let prototype = builder.add("", KIND_PROTOTYPE, false, 2, int, &[first, pointer, second, int]);
    builder.add("function", KIND_FUNCTION, false, 0, prototype, &[]);
    let anything = builder.add("", KIND_POINTER, false, 0, 0, &[]);
    let event = builder.add("", KIND_PROTOTYPE, false, 2, 0, &[0, anything, 0, pointer]);
    let event = builder.add("", KIND_POINTER, false, 0, event, &[]);
    builder.add("btf_trace_event", KIND_TYPEDEF, false, 0, event, &[]);
    let (none, some) = (builder.name("NONE"), builder.name("SOME"));
    builder.add("kind", KIND_ENUM, false, 2, 4, &[none, 0, some, 7]);
    builder.finish()
}

#[test]
fn fields_also_of_nameless_members() {
    let btf = Btf::parse(sample(), None).expect("well-formed");
    let types = Types::kernel(&btf);
    assert_eq!(types.field("outer", "b"), Some(0));
    assert_eq!(types.field("outer", "c"), Some(4));
    assert_eq!(types.field("outer", "e"), Some(8));
    assert_eq!(types.field("outer", "flag"), None, "does not begin at a byte");
    assert_eq!(types.field("outer", "missing"), None);
    assert_eq!(types.field("nothing", "b"), None);
}

#[test]
fn parameters_and_enumerators() {
    let btf = Btf::parse(sample(), None).expect("well-formed");
    let types = Types::kernel(&btf);
    let parameters = types.parameters("function").expect("the function");
    let named: Vec<_> = parameters
        .iter()
        .map(|parameter| (parameter.name.as_str(), types.type_name(parameter.type_id)))
        .collect();
    assert_eq!(named, [("first", "struct outer *".to_owned()), ("second", "int".to_owned())]);
    let event = types.tracepoint("event").expect("the tracepoint");
    assert_eq!(event.len(), 1, "the tracepoint's own data is left out");
    assert_eq!(types.enumerator("kind", "SOME"), Some(7));
    assert_eq!(types.enumerator("kind", "OTHER"), None);
}

/// Everything that can be asked, for its panics.
fn ask(btf: &Btf) {
    let types = Types::kernel(btf);
    for (structure, field) in [("outer", "e"), ("outer", "missing"), ("inner", "a")] {
        let _ = types.field(structure, field);
    }
    for parameter in types.parameters("function").into_iter().chain(types.tracepoint("event")).flatten() {
        let _ = types.type_name(parameter.type_id);
    }
    let _ = types.enumerator("kind", "SOME");
    for id in 0..20 {
        let _ = types.type_name(TypeId(id));
    }
}

#[test]
fn no_byte_can_make_it_panic() {
    let whole = sample();
    for length in 0..whole.len() {
        if let Ok(btf) = Btf::parse(whole[..length].to_vec(), None) {
            ask(&btf);
        }
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 1, whole[at].wrapping_add(1)] {
            let mut broken = whole.clone();
            broken[at] = value;
            if let Ok(btf) = Btf::parse(broken, None) {
                ask(&btf);
            }
        }
    }
}

#[test]
fn a_loop_of_types_ends() {
    let mut builder = Builder::new();
    let name = builder.name("x");
    // A nameless struct that contains itself, a typedef of itself, a pointer to itself.
    builder.add("outer", KIND_STRUCT, false, 2, 8, &[0, 1, 0, name, 2, 0]);
    builder.add("btf_trace_event", KIND_TYPEDEF, false, 0, 2, &[]);
    builder.add("", KIND_POINTER, false, 0, 3, &[]);
    let btf = Btf::parse(builder.finish(), None).expect("well-formed");
    let types = Types::kernel(&btf);
    assert_eq!(types.field("outer", "missing"), None);
    assert_eq!(types.tracepoint("event"), None);
    assert!(types.type_name(TypeId(3)).len() < 1000);
}

#[test]
fn the_running_kernel() {
    let btf = match Btf::kernel() {
        Ok(btf) => btf,
        Err(error) => return println!("not run: {error}"),
    };
    let types = Types::kernel(&btf);
    assert_eq!(types.field("kiocb", "ki_filp"), Some(0));
    assert!(types.field("inode", "i_sb").is_some());
    // Within a nameless union of the kernel's.
    assert!(types.field("iov_iter", "count").is_some());
    // Within a nameless struct that is constant.
    assert!(types.field("vm_fault", "pgoff").is_some());
    let parameters = types.tracepoint("writeback_dirty_folio").expect("the tracepoint");
    assert_eq!(types.type_name(parameters[0].type_id), "struct folio *");
    let layout = crate::tracer::layout::layout(&types);
    assert_ne!(layout.folio_head_bit, replicator_common::Layout::MISSING);
}
