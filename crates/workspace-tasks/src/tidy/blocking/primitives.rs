//! Calls outside of the repository that wait for the disk or a process, and calls that run a closure on another
//! thread.

use super::index::Type;

/// Functions that wait; an entry that ends with `::` has all functions below it.
const WAITING: &[&str] = &[
    "std::fs::",
    "std::process::Child::wait",
    "std::process::Child::wait_with_output",
    "std::process::Command::output",
    "std::process::Command::status",
    "std::net::TcpStream::connect",
    "std::net::TcpStream::connect_timeout",
    "std::os::unix::net::UnixStream::connect",
    "std::path::Path::canonicalize",
    "std::path::Path::exists",
    "std::path::Path::is_dir",
    "std::path::Path::is_file",
    "std::path::Path::is_symlink",
    "std::path::Path::metadata",
    "std::path::Path::read_dir",
    "std::path::Path::read_link",
    "std::path::Path::symlink_metadata",
    "std::path::Path::try_exists",
    "std::thread::JoinHandle::join",
    "std::thread::sleep",
    "rustix::fs::chmodat",
    "rustix::fs::chownat",
    "rustix::fs::copy_file_range",
    "rustix::fs::fallocate",
    "rustix::fs::fdatasync",
    "rustix::fs::flock",
    "rustix::fs::fstatfs",
    "rustix::fs::fsync",
    "rustix::fs::linkat",
    "rustix::fs::mkdirat",
    "rustix::fs::open",
    "rustix::fs::openat",
    "rustix::fs::openat2",
    "rustix::fs::readlinkat",
    "rustix::fs::renameat",
    "rustix::fs::renameat_with",
    "rustix::fs::statat",
    "rustix::fs::statfs",
    "rustix::fs::statvfs",
    "rustix::fs::symlinkat",
    "rustix::fs::syncfs",
    "rustix::fs::unlinkat",
];

/// Values of the standard library that are built or read without a wait.
const QUICK: &[&str] = &[
    "std::fs::DirBuilder::new",
    "std::fs::DirEntry::file_name",
    "std::fs::DirEntry::path",
    "std::fs::File::as_fd",
    "std::fs::File::as_raw_fd",
    "std::fs::File::from",
    "std::fs::File::from_raw_fd",
    "std::fs::File::into",
    "std::fs::File::options",
    "std::fs::FileTimes::new",
    "std::fs::OpenOptions::new",
    "std::fs::Permissions::from_mode",
];

/// Types of `std::fs` whose methods all return at once.
const QUICK_TYPES: &[&str] = &["FileType", "Metadata", "Permissions", "FileTimes"];

/// Methods of builders in `std::fs` that wait; their other methods set an option.
const BUILDERS: &[(&str, &str)] = &[("OpenOptions", "open"), ("DirBuilder", "create")];

/// Functions that run their closures on another thread, or move the runtime's work to another thread first.
const OTHER_THREAD: &[&str] = &[
    "host_kernel::block_in_place",
    "host_kernel::blocking",
    "host_kernel::blocking::block_in_place",
    "host_kernel::blocking::blocking",
    "host_kernel::blocking::blocking_value",
    "host_kernel::timed_call::call_with_timeout",
    "host_kernel::timed_call::call_with_timeout_blocking",
    "std::thread::Builder::spawn",
    "std::thread::spawn",
    "tokio::task::block_in_place",
    "tokio::task::spawn_blocking",
];

/// Whether the function with this path waits for the disk or a process.
pub fn waits(path: &str) -> bool {
    let matches = WAITING
        .iter()
        .any(|waiting| path == *waiting || (waiting.ends_with("::") && path.starts_with(waiting)));
    if !matches || QUICK.contains(&path) {
        return false;
    }
    let mut names = path.rsplit("::");
    let (method, of) = (names.next().unwrap_or_default(), names.next());
    let of = of.unwrap_or_default();
    let is_setting = BUILDERS
        .iter()
        .any(|(builder, waiting)| of == *builder && method != *waiting);
    let is_variant = method.starts_with(char::is_uppercase);
    !is_setting && !is_variant && !QUICK_TYPES.contains(&of)
}

/// Whether the function with this path runs its closures on another thread.
pub fn runs_on_other_thread(path: &str) -> bool {
    OTHER_THREAD.contains(&path)
}

/// The result of a function outside of the repository, where the path says it.
pub fn result_of(path: &str) -> Option<Type> {
    let (of, method) = path.rsplit_once("::")?;
    let name = of.rsplit("::").next()?;
    match (of, method) {
        ("std::path::PathBuf" | "std::path::Path", "join" | "with_extension" | "to_path_buf") => {
            Some(Type::plain("std::path::PathBuf"))
        }
        ("std::thread", "spawn") | ("std::thread::Builder", "spawn") => {
            Some(Type::plain("std::thread::JoinHandle"))
        }
        ("std::process::Command", "spawn") => Some(Type::plain("std::process::Child")),
        ("std::thread::Builder", _) | ("std::process::Command", _) => Some(Type::plain(of)),
        ("std::fs::File", "options") => Some(Type::plain("std::fs::OpenOptions")),
        ("std::fs::OpenOptions", name) if name != "open" => Some(Type::plain(of)),
        ("std::fs::OpenOptions", "open") | ("std::fs::File", "open" | "create") => {
            Some(Type::plain("std::fs::File"))
        }
        (_, "new" | "default" | "from") if name.starts_with(char::is_uppercase) => {
            Some(Type::plain(of))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_wait_are_told_from_settings_and_values() {
        for path in [
            "std::fs::read",
            "std::fs::File::open",
            "std::fs::OpenOptions::open",
            "std::thread::sleep",
            "rustix::fs::fsync",
        ] {
            assert!(waits(path), "{path}");
        }
        for path in [
            "std::fs::OpenOptions::read",
            "std::fs::Metadata::len",
            "std::process::Command::arg",
            "rustix::fs::Mode::from_raw_mode",
            "tokio::fs::read",
            "my::std::fs::read",
        ] {
            assert!(!waits(path), "{path}");
        }
    }
}
