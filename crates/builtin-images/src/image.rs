//! The images `mainstay/hello` and `mainstay/debug`, built from the files of this program: the executable,
//! the ELF interpreter and the libraries that this process has mapped (if the program is dynamically linked),
//! and links in `/bin` with the names of the shell and its tools. A first start therefore needs no registry
//! and no other file.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::BuiltinImageError;

/// An image of this program.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// The full image name.
    pub reference: &'static str,
    /// The entry point; a pod's `command` replaces it.
    pub entrypoint: &'static [&'static str],
    /// The arguments of the entry point; a pod's `args` replaces only these.
    pub cmd: &'static [&'static str],
}

/// All built-in images; they share one layer.
pub const IMAGES: [BuiltIn; 2] = [
    BuiltIn {
        reference: "mainstay/hello",
        entrypoint: &[PROGRAM, "hello"],
        cmd: &[],
    },
    BuiltIn {
        reference: "mainstay/debug",
        entrypoint: &[],
        cmd: &["/bin/sh"],
    },
];

/// The path of the program in the images.
const PROGRAM: &str = "/mainstay";

/// The directory of the links to the program.
const LINKS: &str = "bin";

/// Files that programs expect in an image, with their contents.
const TEXTS: [(&str, &str); 2] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];

/// Bytes of the archive in addition to the contents of the files.
const HEADERS_MAX: u64 = 64 << 10;

/// Length of the part of an executable that is read: the program headers and the interpreter's name are near
/// its start.
const HEADERS_BYTES: u64 = 64 << 10;

/// The files of the image: the path in the image, and the path on this machine.
pub fn files() -> Result<Vec<(PathBuf, PathBuf)>, BuiltinImageError> {
    let program =
        std::env::current_exe().map_err(BuiltinImageError::at("find this program's file"))?;
    let maps = fs::read_to_string("/proc/self/maps")
        .map_err(BuiltinImageError::at("read /proc/self/maps"))?;
    let mut files = vec![(PathBuf::from(PROGRAM), program.clone())];
    for library in mapped_libraries(&maps) {
        if library != program {
            files.push((library.clone(), library));
        }
    }
    // The kernel uses the path in the program's header, which is often a symbolic link; the mapped file has
    // another path.
    if let Some(interpreter) =
        interpreter(&program).map_err(BuiltinImageError::at("read the ELF interpreter"))?
    {
        files.retain(|(inside, _)| *inside != interpreter);
        files.push((interpreter.clone(), interpreter));
    }
    Ok(files)
}

/// The layer as a tar archive without times: the same program produces the same bytes.
pub fn layer(files: &[(PathBuf, PathBuf)]) -> Result<Vec<u8>, BuiltinImageError> {
    // Allocated once: a buffer that grows would copy the large archive several times.
    let sizes = files
        .iter()
        .filter_map(|(_, outside)| fs::metadata(outside).ok());
    let bytes = sizes.map(|facts| facts.len()).sum::<u64>() + HEADERS_MAX;
    let buffer =
        Vec::with_capacity(usize::try_from(bytes).map_err(|_| BuiltinImageError::TooLarge)?);
    let mut archive = tar::Builder::new(buffer);
    let mut directories = BTreeSet::new();
    for (inside, _) in files {
        directories.extend(inside.ancestors().skip(1).filter_map(relative));
    }
    directories.extend(["data", "tmp", "etc", "proc", "sys", "dev", LINKS].map(PathBuf::from));
    for directory in &directories {
        let mode = match directory.to_str() {
            Some("tmp") => 0o1777,
            _ => 0o755,
        };
        let mut header = header(tar::EntryType::Directory, mode, 0);
        archive
            .append_data(&mut header, directory, io::empty())
            .map_err(BuiltinImageError::at("pack a directory"))?;
    }
    for (inside, outside) in files {
        let open = || BuiltinImageError::at(format!("read {}", outside.display()));
        let file = fs::File::open(outside).map_err(open())?;
        let mut header = header(
            tar::EntryType::Regular,
            0o755,
            file.metadata().map_err(open())?.len(),
        );
        let name = relative(inside).ok_or(BuiltinImageError::Relative)?;
        archive
            .append_data(&mut header, name, file)
            .map_err(BuiltinImageError::at("pack a file"))?;
    }
    for (name, text) in TEXTS {
        let mut header = header(tar::EntryType::Regular, 0o644, text.len() as u64);
        archive
            .append_data(&mut header, name, text.as_bytes())
            .map_err(BuiltinImageError::at("pack a file"))?;
    }
    for name in debug_tools::names() {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        archive
            .append_link(&mut header, format!("{LINKS}/{name}"), PROGRAM)
            .map_err(BuiltinImageError::at("pack a link"))?;
    }
    archive
        .into_inner()
        .map_err(BuiltinImageError::at("finish the archive"))
}

/// The identity of the program's file, without reading its content; another build has another identity.
pub fn fingerprint() -> Result<String, BuiltinImageError> {
    use std::os::unix::fs::MetadataExt;
    let program =
        std::env::current_exe().map_err(BuiltinImageError::at("find this program's file"))?;
    let facts = fs::metadata(&program).map_err(BuiltinImageError::at(
        "read the attributes of this program's file",
    ))?;
    Ok(format!(
        "{}-{}.{}-{}",
        facts.len(),
        facts.mtime(),
        facts.mtime_nsec(),
        facts.ino()
    ))
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header
}

fn relative(path: &Path) -> Option<PathBuf> {
    let path = path.strip_prefix("/").ok()?;
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

/// The files that a process has mapped as executable, sorted by path; `maps` is the text of
/// `/proc/self/maps`.
fn mapped_libraries(maps: &str) -> BTreeSet<PathBuf> {
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let permissions = words.nth(1)?;
            let path = words.nth(3)?;
            (permissions.contains('x') && path.starts_with('/')).then(|| PathBuf::from(path))
        })
        .filter(|path| path.to_string_lossy().contains(".so"))
        .collect()
}

/// The interpreter that a 64-bit little-endian ELF file names (ELF specification, PT_INTERP).
fn interpreter(program: &Path) -> io::Result<Option<PathBuf>> {
    const PT_INTERP: u32 = 3;
    let mut bytes = Vec::new();
    fs::File::open(program)?
        .take(HEADERS_BYTES)
        .read_to_end(&mut bytes)?;
    Ok((|| {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let kind = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let table = usize::try_from(word(0x20)?).ok()?;
        let (size, count) = (usize::from(half(0x36)?), usize::from(half(0x38)?));
        for index in 0..count {
            let entry = table.checked_add(index.checked_mul(size)?)?;
            if kind(entry)? == PT_INTERP {
                let start = usize::try_from(word(entry + 8)?).ok()?;
                let length = usize::try_from(word(entry + 0x20)?).ok()?;
                let path = bytes.get(start..start.checked_add(length)?)?;
                let path = std::str::from_utf8(path).ok()?;
                return Some(PathBuf::from(path.trim_end_matches('\0')));
            }
        }
        None
    })())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_the_map() {
        let maps = "55d0-55d1 r-xp 0000 fe:00 1 /usr/bin/x\n\
                    7f00-7f01 r--p 0000 fe:00 2 /lib/x86_64-linux-gnu/libm.so.6\n\
                    7f01-7f02 r-xp 0000 fe:00 2 /lib/x86_64-linux-gnu/libm.so.6\n\
                    7f03-7f04 rw-p 0000 00:00 0\n7f05-7f06 r-xp 0000 00:00 0 [vdso]\n";
        let libraries: Vec<_> = mapped_libraries(maps).into_iter().collect();
        assert_eq!(
            libraries,
            [PathBuf::from("/lib/x86_64-linux-gnu/libm.so.6")]
        );
    }

    #[test]
    fn the_image_holds_this_program() {
        let files = files().unwrap();
        let layer = layer(&files).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        for name in ["mainstay", "bin/sh", "bin/tar", "etc/passwd"] {
            assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
        }
        assert_eq!(
            layer,
            super::layer(&files).unwrap(),
            "the same files make the same layer"
        );
    }
}
