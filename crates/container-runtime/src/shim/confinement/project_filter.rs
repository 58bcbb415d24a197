//! The seccomp filter that keeps files in their quota projects.
//!
//! A project quota limits a volume only as long as its files stay in the project, and the kernel lets the
//! owner of a file change the project. So the filter rejects two kinds of calls with the error of a file
//! system without projects: calls that set the project of a file, and the older call that sets the flags of
//! a directory, which can disable the inheritance of the project. The filter also covers programs of other
//! architectures that the kernel can run. All other calls are allowed.

use libc::sock_filter;

#[cfg(target_arch = "x86_64")]
use super::seccomp::X32_BIT;
use super::seccomp::{
    AUDIT_ARCH, OFFSET_ARCH, OFFSET_FIRST_ARGUMENT, OFFSET_NUMBER, jump, load, return_errno,
    statement,
};

/// The system call `file_setattr`, which has this number on all architectures.
const FILE_SETATTR: u32 = 469;
/// `ioctl` of 32-bit programs.
const IOCTL_32: u32 = 54;

/// The number of the system call on the architecture of this machine.
#[cfg(target_arch = "x86_64")]
const SETATTR: &[u32] = &[FILE_SETATTR, X32_BIT | FILE_SETATTR];
#[cfg(target_arch = "x86_64")]
const IOCTL: &[u32] = &[libc::SYS_ioctl as u32, X32_BIT | 514];
#[cfg(not(target_arch = "x86_64"))]
const SETATTR: &[u32] = &[FILE_SETATTR];
#[cfg(not(target_arch = "x86_64"))]
const IOCTL: &[u32] = &[libc::SYS_ioctl as u32];

/// `FS_IOC_FSSETXATTR`, `FS_IOC_SETFLAGS`, and `FS_IOC_SETFLAGS` of 32-bit programs.
const REQUESTS: [u32; 3] = [0x401c_5820, 0x4008_6602, 0x4004_6602];

/// The lower half of the second argument. The kernel ignores the upper half.
const OFFSET_REQUEST: u32 = OFFSET_FIRST_ARGUMENT + 8;

/// The BPF program of the filter.
pub(crate) fn program() -> Vec<sock_filter> {
    let native = calls(SETATTR, IOCTL);
    let mut code = vec![
        load(OFFSET_ARCH),
        jump(libc::BPF_JEQ, AUDIT_ARCH, 0, native.len() as u8),
    ];
    code.extend(native);
    code.extend(calls(&[FILE_SETATTR], &[IOCTL_32]));
    code
}

/// The filter for one architecture.
fn calls(setattr: &[u32], ioctl: &[u32]) -> Vec<sock_filter> {
    let allowed = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
    let refused_if = |value: u32| {
        [
            jump(libc::BPF_JEQ, value, 0, 1),
            return_errno(libc::EOPNOTSUPP),
        ]
    };
    let mut code = vec![load(OFFSET_NUMBER)];
    code.extend(setattr.iter().flat_map(|number| refused_if(*number)));
    for number in ioctl {
        let mut requests = vec![load(OFFSET_REQUEST)];
        requests.extend(REQUESTS.into_iter().flat_map(refused_if));
        requests.push(allowed);
        code.push(jump(libc::BPF_JEQ, *number, 0, requests.len() as u8));
        code.extend(requests);
    }
    code.push(allowed);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::confinement::seccomp::machine::run;

    const OTHER_ARCH: u32 = 0x4000_0003;

    fn says(arch: u32, number: u32, second: u64) -> u32 {
        run(&program(), arch, number, [3, second, 0, 0, 0, 0])
    }

    #[test]
    fn a_files_project_cannot_be_set_and_all_else_can() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP as u32;
        let local: Vec<_> = IOCTL.iter().map(|number| (AUDIT_ARCH, *number)).collect();
        for (arch, ioctl) in local.into_iter().chain([(OTHER_ARCH, IOCTL_32)]) {
            for request in REQUESTS {
                assert_eq!(says(arch, ioctl, request.into()), refused);
                // The kernel ignores the upper half.
                assert_eq!(says(arch, ioctl, u64::from(request) | 1 << 40), refused);
            }
            // FS_IOC_FSGETXATTR, FS_IOC_GETFLAGS, TCGETS.
            for request in [0x801c_581f, 0x8008_6601, 0x5401] {
                assert_eq!(says(arch, ioctl, request), libc::SECCOMP_RET_ALLOW);
            }
        }
        for number in SETATTR {
            assert_eq!(says(AUDIT_ARCH, *number, 0), refused);
        }
        assert_eq!(says(OTHER_ARCH, FILE_SETATTR, 0), refused);
        // The numbers differ on other architectures, and the arguments of other calls are no requests.
        let request = REQUESTS[0].into();
        let fchmod = libc::SYS_fchmod as u32;
        assert_eq!(says(AUDIT_ARCH, fchmod, request), libc::SECCOMP_RET_ALLOW);
        let native = libc::SYS_ioctl as u32;
        assert_eq!(says(OTHER_ARCH, native, request), libc::SECCOMP_RET_ALLOW);
        assert_eq!(says(AUDIT_ARCH, IOCTL_32, request), libc::SECCOMP_RET_ALLOW);
    }
}
