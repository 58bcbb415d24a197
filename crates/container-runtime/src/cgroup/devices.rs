//! The device filter of a control group: with version 2, a BPF program that the kernel runs at each access;
//! with version 1, a list.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

// The access of a process to a device; values of the kernel's `bpf.h` (`BPF_DEVCG_ACC_*`).
const MAKE_NODE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ANYTHING: u32 = MAKE_NODE | READ | WRITE;

/// The letters of [`Device::access`](crate::spec::Device::access).
const LETTERS: [(char, u32); 3] = [('r', READ), ('w', WRITE), ('m', MAKE_NODE)];

/// A kind of device, with its number in `bpf.h` (`BPF_DEVCG_DEV_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    Block = 1,
    Character = 2,
}

/// A class of devices that may be used. An absent number matches all numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    kind: DeviceKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

impl DeviceRule {
    /// A rule for one device; `access` is any combination of `r`, `w`, `m`.
    pub fn new(kind: DeviceKind, major: u32, minor: u32, access: &str) -> DeviceRule {
        let named = LETTERS
            .iter()
            .filter(|(letter, _)| access.contains(*letter));
        DeviceRule {
            kind,
            major: Some(major),
            minor: Some(minor),
            access: named.fold(0, |set, (_, bit)| set | bit),
        }
    }
}

/// The devices that a container may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeviceRules {
    /// All devices of the node.
    All,
    /// The default devices and the listed devices.
    Only(Vec<DeviceRule>),
}

const fn character(major: u32, minor: Option<u32>) -> DeviceRule {
    DeviceRule {
        kind: DeviceKind::Character,
        major: Some(major),
        minor,
        access: ANYTHING,
    }
}

const fn nodes(kind: DeviceKind) -> DeviceRule {
    DeviceRule {
        kind,
        major: None,
        minor: None,
        access: MAKE_NODE,
    }
}

/// Devices of every container, and the right to create device nodes, which alone gives no access.
const USUAL: [DeviceRule; 12] = [
    nodes(DeviceKind::Block),
    nodes(DeviceKind::Character),
    character(1, Some(3)),    // null
    character(1, Some(5)),    // zero
    character(1, Some(7)),    // full
    character(1, Some(8)),    // random
    character(1, Some(9)),    // urandom
    character(5, Some(0)),    // tty
    character(5, Some(1)),    // console
    character(5, Some(2)),    // ptmx
    character(136, None),     // pts
    character(10, Some(200)), // net/tun
];

/// An instruction of the kernel's BPF machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    operation: u8,
    /// Lower half: the register that is changed or compared. Upper half: the register that is read.
    registers: u8,
    offset: i16,
    value: i32,
}

// Operations; all operations except the jump use 32 bits.
const LOAD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const COPY: u8 = 0xbc;
const SET: u8 = 0xb4;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

// Registers. The kernel passes the request in the second register, and reads the result from the first.
const RESULT: u8 = 0;
const QUESTION: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const REST: u8 = 6;

fn load(register: u8, offset: i16) -> Instruction {
    Instruction {
        operation: LOAD,
        registers: QUESTION << 4 | register,
        offset,
        value: 0,
    }
}

fn with(operation: u8, register: u8, value: i32) -> Instruction {
    Instruction {
        operation,
        registers: register,
        offset: 0,
        value,
    }
}

fn copy(from: u8, to: u8) -> Instruction {
    with(COPY, from << 4 | to, 0)
}

fn verdict(is_allowed: bool) -> [Instruction; 2] {
    [with(SET, RESULT, i32::from(is_allowed)), with(EXIT, 0, 0)]
}

/// The program that allows the devices of the rules and the default devices; pure.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    // The fields of the request: access in the upper half and kind in the lower half of a word, then major,
    // then minor.
    let mut code = vec![
        load(KIND, 0),
        load(ACCESS, 0),
        with(AND, KIND, 0xffff),
        with(SHIFT_RIGHT, ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().chain(&USUAL) {
        let mut conditions = vec![with(JUMP_UNLESS_EQUAL, KIND, rule.kind as i32)];
        let numbers = [(MAJOR, rule.major), (MINOR, rule.minor)];
        let numbers = numbers.into_iter().filter_map(|(r, n)| Some((r, n?)));
        conditions.extend(numbers.map(|(register, n)| with(JUMP_UNLESS_EQUAL, register, n as i32)));
        // Checks that no access is requested that the rule does not allow.
        conditions.push(copy(ACCESS, REST));
        conditions.push(with(AND, REST, (ANYTHING & !rule.access) as i32));
        conditions.push(with(JUMP_UNLESS_EQUAL, REST, 0));
        conditions.extend(verdict(true));
        let length = conditions.len();
        for (at, instruction) in conditions.iter_mut().enumerate() {
            if instruction.operation == JUMP_UNLESS_EQUAL {
                // Jump to the next rule.
                instruction.offset = (length - at - 1) as i16;
            }
        }
        code.extend(conditions);
    }
    code.extend(verdict(false));
    code
}

/// Files and lines that apply the rules to a group of version 1; pure.
pub(super) fn list(rules: &DeviceRules) -> Vec<(&'static str, String)> {
    let DeviceRules::Only(rules) = rules else {
        // A new group has the rights of its parent.
        return Vec::new();
    };
    let mut lines = vec![("devices.deny", "a".to_owned())];
    lines.extend(rules.iter().chain(&USUAL).map(|rule| {
        let kind = match rule.kind {
            DeviceKind::Block => 'b',
            DeviceKind::Character => 'c',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let letters = LETTERS.iter().filter(|(_, bit)| rule.access & bit != 0);
        let access: String = letters.map(|(letter, _)| letter).collect();
        let (major, minor) = (number(rule.major), number(rule.minor));
        ("devices.allow", format!("{kind} {major}:{minor} {access}"))
    }));
    lines
}

/// Limits all processes of the version 2 group at `dir` to the devices that the rules allow.
pub(super) fn guard(dir: &Path, rules: &DeviceRules) -> io::Result<()> {
    let DeviceRules::Only(rules) = rules else {
        return Ok(());
    };
    let group = File::open(dir)?;
    // Older kernels count BPF programs as locked memory. This process starts no other program.
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the limit is valid during the call. A failure is ignored, because most kernels do not check
    // the limit.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
    load_program(&program(rules))
        .and_then(|program| attach(&program, &group))
        .map_err(|error| {
            let needs = "which needs a kernel with CONFIG_CGROUP_BPF and the right to use it";
            io::Error::new(
                error.kind(),
                format!("guard devices by a program, {needs}: {error}"),
            )
        })
}

// Values of the kernel's `bpf.h`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of parent groups apply, too.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The kernel accepts no program without a licence. This program calls no function of the kernel.
const LICENSE: &CStr = c"Apache-2.0";

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the missing fields are zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn load_program(code: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
    };
    // SAFETY: the attributes have the layout that the command expects, and their pointers are valid during
    // the call.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &attributes)? };
    // SAFETY: the kernel has just created this descriptor; `execve` closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach(program: &OwnedFd, group: &File) -> io::Result<()> {
    let attributes = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes have the layout that the command expects, and contain open descriptors.
    unsafe { bpf(BPF_PROG_ATTACH, &attributes) }.map(drop)
}

/// # Safety
/// `attributes` must be the first fields of the attributes of `command`, and its pointers valid.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the caller guarantees the layout; the size is the size of the attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets a program as the kernel would.
    fn passes(code: &[Instruction], kind: DeviceKind, numbers: (i32, i32), access: u32) -> bool {
        let question = [
            access << 16 | kind as u32,
            numbers.0 as u32,
            numbers.1 as u32,
        ];
        let mut registers = [0u32; 8];
        let mut at = 0;
        loop {
            let Instruction {
                operation,
                registers: names,
                offset,
                value,
            } = code[at];
            let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
            at += 1;
            match operation {
                LOAD => registers[to] = question[offset as usize / 4],
                AND => registers[to] &= value as u32,
                SHIFT_RIGHT => registers[to] >>= value,
                COPY => registers[to] = registers[from],
                SET => registers[to] = value as u32,
                JUMP_UNLESS_EQUAL if registers[to] != value as u32 => at += offset as usize,
                JUMP_UNLESS_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("no operation: {other:#x}"),
            }
        }
    }

    #[test]
    fn nothing_passes_but_the_usual_and_what_is_given() {
        // statefulset.md 12.16
        let code = program(&[DeviceRule::new(DeviceKind::Block, 7, 3, "r")]);
        let block = |numbers, access| passes(&code, DeviceKind::Block, numbers, access);
        let character = |numbers, access| passes(&code, DeviceKind::Character, numbers, access);
        assert!(block((7, 3), READ));
        assert!(!block((7, 3), WRITE));
        assert!(!block((7, 3), READ | WRITE));
        assert!(!block((7, 4), READ) && !block((8, 3), READ));
        assert!(!character((7, 3), READ));
        // Device nodes may be created, but not used.
        assert!(block((254, 0), MAKE_NODE) && character((1, 1), MAKE_NODE));
        assert!(!character((1, 1), READ));
        assert!(character((1, 3), READ | WRITE));
        assert!(character((136, 77), READ | WRITE));
    }

    #[test]
    fn the_list_of_version_1_begins_with_nothing() {
        // statefulset.md 12.16
        assert_eq!(list(&DeviceRules::All), []);
        let rules = vec![DeviceRule::new(DeviceKind::Block, 7, 3, "rw")];
        let lines = list(&DeviceRules::Only(rules));
        assert_eq!(lines[0], ("devices.deny", "a".to_owned()));
        let allowed: Vec<_> = lines[1..].iter().map(|(_, line)| line.as_str()).collect();
        assert!(lines[1..].iter().all(|(file, _)| *file == "devices.allow"));
        assert_eq!(allowed[..3], ["b 7:3 rw", "b *:* m", "c *:* m"]);
        assert!(allowed.contains(&"c 1:3 rwm") && allowed.contains(&"c 136:* rwm"));
    }
}
