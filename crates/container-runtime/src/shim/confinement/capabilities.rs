//! The capabilities of a container; pure, except for the functions that drop them.

use std::io;

use crate::spec::Security;

/// All capabilities by number, as the kernel's `capability.h` lists them.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The default capabilities of a container, as in Docker.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities, one bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities(pub u64);

impl Capabilities {
    pub fn contains(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.0 & bit != 0)
    }
}

fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|candidate| *candidate == name)
        .map(|number| 1 << number)
}

/// The kernel has no capability with the name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {0:?}")]
pub(crate) struct UnknownCapability(String);

const ALL: u64 = (1 << NAMES.len()) - 1;

/// The set for a container: the default; or all, or none, if `ALL` is added or dropped; then the additions
/// by name, then the drops by name. A dropped name is thus always dropped, but `drop: [ALL]` keeps
/// capabilities that are added by name.
///
/// *Errors:* a name that is no capability.
pub(crate) fn capabilities(security: &Security) -> Result<Capabilities, UnknownCapability> {
    if security.privileged {
        return Ok(Capabilities(ALL));
    }
    let mut set = 0;
    for name in DEFAULT {
        set |= bit(name).unwrap_or(0);
    }
    if security.capabilities_add.iter().any(|name| is_all(name)) {
        set = ALL;
    }
    if security.capabilities_drop.iter().any(|name| is_all(name)) {
        set = 0;
    }
    set |= bits(&security.capabilities_add)?;
    set &= !bits(&security.capabilities_drop)?;
    Ok(Capabilities(set))
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// The capabilities of a list, without `ALL`.
fn bits(names: &[String]) -> Result<u64, UnknownCapability> {
    let mut bits = names
        .iter()
        .filter(|name| !is_all(name))
        .map(|name| bit(name).ok_or_else(|| UnknownCapability(name.clone())));
    bits.try_fold(0, |set, bit| Ok(set | bit?))
}

/// Limits the bounding set of this process to `set`: programs that it executes can have no other
/// capabilities.
pub(crate) fn limit_bounding(set: Capabilities) -> io::Result<()> {
    for number in 0..64u32 {
        if number < 63 && set.0 & (1 << number) != 0 {
            continue;
        }
        // SAFETY: takes two integers, touches no memory.
        let result =
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) };
        if result != 0 {
            let error = io::Error::last_os_error();
            // This number is the first that the kernel does not have, so the loop ends.
            return if error.raw_os_error() == Some(libc::EINVAL) {
                Ok(())
            } else {
                Err(error)
            };
        }
    }
    Ok(())
}

/// Sets the permitted and the effective set of this process, and empties the inheritable set. Capabilities
/// that the process does not have are left out.
pub(crate) fn set_effective(set: Capabilities) -> io::Result<()> {
    let set = set.0 & permitted()?;
    let (low, high) = (set as u32, (set >> 32) as u32);
    let header = Header {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let data = [
        Data {
            effective: low,
            permitted: low,
            inheritable: 0,
        },
        Data {
            effective: high,
            permitted: high,
            inheritable: 0,
        },
    ];
    // SAFETY: header and data have the layout of version 3, and are valid during the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn permitted() -> io::Result<u64> {
    let header = Header {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(), Data::default()];
    // SAFETY: header and data have the layout of version 3, and are valid during the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    match result {
        0 => Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32),
        _ => Err(io::Error::last_os_error()),
    }
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(add: &[&str], drop: &[&str]) -> Security {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Security {
            capabilities_add: owned(add),
            capabilities_drop: owned(drop),
            ..Security::default()
        }
    }

    #[test]
    fn default_set_is_the_customary_one() {
        assert_eq!(
            capabilities(&security(&[], &[])),
            Ok(Capabilities(0xa804_25fb))
        );
    }

    #[test]
    fn what_is_dropped_by_name_is_gone_and_both_spellings_are_known() {
        // statefulset.md 12.16
        let set = capabilities(&security(&["CAP_NET_ADMIN", "kill"], &["ALL"])).unwrap();
        assert_eq!(set, Capabilities(1 << 12 | 1 << 5));
        assert!(set.contains("NET_ADMIN") && !set.contains("CHOWN"));
        assert_eq!(
            capabilities(&security(&["all"], &[])),
            Ok(Capabilities(ALL))
        );
        let without = capabilities(&security(&["ALL"], &["SYS_ADMIN"])).unwrap();
        assert_eq!(without, Capabilities(ALL & !(1 << 21)));
        let both = capabilities(&security(&["KILL"], &["KILL"])).unwrap();
        assert!(!both.contains("KILL"));
        assert_eq!(
            capabilities(&security(&["ALL"], &["ALL"])),
            Ok(Capabilities(0))
        );
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(capabilities(&security(&["FLY"], &[])).is_err());
    }
}
