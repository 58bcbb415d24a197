//! Single layers, honest and hostile.

use super::*;
use crate::disk_space::KeepFree;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

/// An archive of raw entries: (kind, path, link or contents).
fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, path, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_mtime(1_000);
        let is_file = *kind == EntryType::Regular;
        let body = if is_file { text.as_bytes() } else { b"" };
        header.set_size(body.len() as u64);
        // Set by hand: the builder's own methods refuse hostile names.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        if !is_file {
            let link = &mut header.as_old_mut().linkname;
            link[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, body).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpacked(entries: &[(EntryType, &str, &str)]) -> Result<tempfile::TempDir, UnpackError> {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("layer");
    fs::create_dir(&inner).unwrap();
    unpack(archive(entries).as_slice(), &inner, WriteSpace::all(&inner))?;
    Ok(outer)
}

const FILE: EntryType = EntryType::Regular;

#[test]
fn files_keep_mode_and_time() {
    let outer = unpacked(&[(FILE, "a/b/c", "text")]).unwrap();
    let path = outer.path().join("layer/a/b/c");
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    let facts = fs::metadata(&path).unwrap();
    assert_eq!(
        (facts.permissions().mode() & 0o7777, facts.mtime()),
        (0o4755, 1_000)
    );
}

#[test]
fn climbing_paths_are_refused() {
    for path in ["../evil", "a/../../evil", "/../evil"] {
        let error = unpacked(&[(FILE, path, "x")]).unwrap_err();
        assert!(
            matches!(error, UnpackError::UnsafePath { .. }),
            "{path}: {error}"
        );
    }
}

#[test]
fn links_do_not_lead_outside() {
    let outer = unpacked(&[
        (EntryType::Symlink, "up", "../.."),
        (FILE, "up/evil", "x"),
        (EntryType::Symlink, "root", "/"),
        (FILE, "root/etc/evil", "x"),
    ])
    .unwrap();
    assert!(!outer.path().join("evil").exists());
    assert!(!Path::new("/etc/evil").exists());
    assert!(
        outer.path().join("layer/evil").is_file(),
        "inside, as the container would see it"
    );
    assert!(outer.path().join("layer/etc/evil").is_file());
}

#[test]
fn a_file_through_a_link_replaces_the_link() {
    let outer = unpacked(&[
        (EntryType::Symlink, "passwd", "/etc/passwd"),
        (FILE, "passwd", "x"),
    ])
    .unwrap();
    assert_eq!(
        fs::read_to_string(outer.path().join("layer/passwd")).unwrap(),
        "x"
    );
}

#[test]
fn hard_links_stay_inside() {
    let error = unpacked(&[(EntryType::Link, "shadow", "../../etc/shadow")]).unwrap_err();
    assert!(matches!(error, UnpackError::Io { .. }), "{error}");
    let outer = unpacked(&[(FILE, "a", "x"), (EntryType::Link, "b", "a")]).unwrap();
    assert_eq!(
        fs::metadata(outer.path().join("layer/b")).unwrap().nlink(),
        2
    );
}

#[test]
fn whiteouts_become_overlayfs_s_own() {
    let outer = unpacked(&[(FILE, "d/.wh.gone", ""), (FILE, "e/.wh..wh..opq", "")]).unwrap();
    let gone = fs::metadata(outer.path().join("layer/d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0; 4];
    let path = outer.path().join("layer/e");
    let length = rustix::fs::getxattr(&path, "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
    assert!(
        unpacked(&[(FILE, ".wh...", "")]).is_err(),
        "hides the parent"
    );
}

#[test]
fn what_does_not_fit_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let full = |bytes, files| WriteSpace::new(directory.path(), KeepFree { bytes, files });
    let large = "x".repeat(2 << 20);
    let bytes = archive(&[(FILE, "a", "12345"), (FILE, "b", &large)]);
    let error = unpack(bytes.as_slice(), directory.path(), full(u64::MAX, 0)).unwrap_err();
    assert!(
        matches!(&error, UnpackError::OutOfSpace { path, unpacked: 5, source }
            if path == Path::new("b") && source.wanted == 2 << 20),
        "{error}"
    );
    assert!(error.to_string().contains("at least 2 MiB more"), "{error}");
    let left = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 1, "it was seen before it was begun");

    // Empty files fill a disk as well, if it has a limited number of inodes.
    if rustix::fs::statvfs(directory.path()).unwrap().f_files == 0 {
        return;
    }
    let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let entries: Vec<_> = names.iter().map(|name| (FILE, name.as_str(), "")).collect();
    let bytes = archive(&entries);
    let error = unpack(bytes.as_slice(), directory.path(), full(0, u64::MAX)).unwrap_err();
    assert!(matches!(error, UnpackError::OutOfSpace { .. }), "{error}");
    assert!(error.to_string().contains("64 files more"), "{error}");
}

#[test]
fn a_cut_off_archive_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = archive(&[(FILE, "a", "12345")]);
    let result = unpack(
        &bytes[..514],
        directory.path(),
        WriteSpace::all(directory.path()),
    );
    assert!(matches!(result, Err(UnpackError::Io { .. })), "{result:?}");
}
