//! Tests of single layers, valid and malicious.

use super::*;
use crate::disk_space::KeepFree;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

/// An archive of raw entries: type, path, and link target or content.
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
        // The name is written directly, because the methods of the builder reject malicious names.
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
    above(entries, &inner, Context::unknown())?;
    Ok(outer)
}

fn above(
    entries: &[(EntryType, &str, &str)],
    directory: &Path,
    context: Context,
) -> Result<Unpacked, UnpackError> {
    let space = WriteSpace::all(directory);
    unpack(archive(entries).as_slice(), directory, space, context)
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

/// findings-2 I5
#[test]
fn climbing_paths_end_at_the_root() {
    for path in ["../evil", "a/../../evil", "/../evil", "../../../evil"] {
        let outer = unpacked(&[(FILE, path, "x")]).unwrap();
        assert!(!outer.path().join("evil").exists(), "{path}");
        assert!(outer.path().join("layer/evil").is_file(), "{path}");
    }
}

/// findings-2 I5
#[test]
fn the_missing_end_of_a_link_is_made_inside() {
    for (link, target, created) in [
        ("lib", "usr/lib", "usr/lib"),
        ("lib", "/usr/lib", "usr/lib"),
        ("lib", "../../usr/../lib64", "lib64"),
    ] {
        let file = format!("{link}/x/y");
        let entries = [(EntryType::Symlink, link, target), (FILE, &file, "x")];
        let outer = unpacked(&entries).unwrap();
        let layer = outer.path().join("layer");
        assert!(layer.join(created).join("x/y").is_file(), "{target}");
        assert!(layer.join(link).is_symlink(), "{target}");
    }
    let entries = [
        (EntryType::Symlink, "a", "b"),
        (EntryType::Symlink, "b", "a"),
        (FILE, "a/x", "x"),
    ];
    unpacked(&entries).unwrap_err();
}

/// findings-2 I3
#[test]
fn a_directory_without_an_entry_is_as_below() {
    let base = unpacked(&[
        (EntryType::Directory, "home", ""),
        (EntryType::Directory, "usr/bin", ""),
        (EntryType::Symlink, "bin", "usr/bin"),
        (FILE, "usr/bin/tool", "x"),
        (FILE, "gone/x", ""),
    ])
    .unwrap();
    let base = base.path().join("layer");
    let value = b"v".as_slice();
    rustix::fs::setxattr(base.join("home"), "user.a", value, XattrFlags::empty()).unwrap();
    let owner = (Some(1000), Some(1001));
    std::os::unix::fs::lchown(base.join("home"), owner.0, owner.1).unwrap();
    fs::set_permissions(base.join("home"), fs::Permissions::from_mode(0o1770)).unwrap();
    let entries = [
        (FILE, "home/user/file", "x"),
        (FILE, "bin/.wh.tool", ""),
        (FILE, "bin/new", "x"),
        (FILE, ".wh.gone", ""),
        (FILE, "gone/y", ""),
        (EntryType::Link, "linked", "bin/../usr/bin/tool"),
    ];
    let alone = tempfile::tempdir().unwrap();
    let ends = above(&entries[..5], alone.path(), Context::unknown()).unwrap();
    let below = || Below::new(vec![base.clone()]);
    let ends = LooseEnds::decode(&ends.loose_ends.encode());
    assert!(!ends.fit(&below()).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let context = Context::Available(below());
    let entries = [&entries[5..], &entries[..5]].concat();
    let unpacked = above(&entries, directory.path(), context).unwrap();
    assert_eq!(unpacked.loose_ends, LooseEnds::default());
    let facts = |path: &str| fs::symlink_metadata(directory.path().join(path)).unwrap();
    let home = facts("home");
    assert_eq!(
        (home.mode() & 0o7777, home.uid(), home.gid()),
        (0o1770, 1000, 1001)
    );
    assert_eq!(home.mtime(), 1000);
    let mut read = [0; 8];
    let path = directory.path().join("home");
    assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut read), Ok(1));
    assert_eq!(facts("home/user").mode() & 0o7777, 0o755);
    assert!(
        !directory.path().join("bin").exists(),
        "the link of the layer below stays"
    );
    assert!(facts("usr/bin/new").is_file());
    let linked = fs::read_to_string(directory.path().join("linked")).unwrap();
    assert_eq!(linked, "x", "a file of another layer is copied first");
    let tool = facts("usr/bin/tool").file_type();
    assert!(tool.is_char_device(), "the copy is deleted all the same");
    assert!(is_opaque(
        &rustix::fs::open(directory.path().join("gone"), OFlags::PATH, Mode::empty()).unwrap()
    ));
}

#[test]
fn loose_ends_matter_only_where_the_layers_below_differ() {
    let ends = |entries: &[_]| {
        let directory = tempfile::tempdir().unwrap();
        let unpacked = above(entries, directory.path(), Context::unknown());
        LooseEnds::decode(&unpacked.unwrap().loose_ends.encode())
    };
    let base = unpacked(&[
        (FILE, "plain/x", ""),
        (EntryType::Directory, "other", ""),
        (EntryType::Symlink, "link", "plain"),
    ])
    .unwrap();
    let base = Below::new(vec![base.path().join("layer")]);
    let directory = EntryType::Directory;
    for (entries, fits) in [
        ([(FILE, "plain/y", ""), (FILE, "new/y", "")], true),
        ([(FILE, "plain/y", ""), (FILE, "other/y", "")], false),
        ([(directory, "other", ""), (FILE, "other/y", "")], true),
        ([(FILE, "other/y", ""), (directory, "other", "")], true),
        ([(FILE, ".wh.other", ""), (FILE, "other/y", "")], true),
        ([(FILE, ".wh..wh..opq", ""), (FILE, "other/y", "")], true),
        ([(FILE, "link/y", ""), (FILE, "plain/y", "")], false),
        ([(directory, "link", ""), (FILE, "link/x/y", "")], true),
        ([(EntryType::Link, "l", "plain/x"), (FILE, "z", "")], false),
    ] {
        assert_eq!(ends(&entries).fit(&base).unwrap(), fits, "{entries:?}");
        assert!(!fits || ends(&entries).fit(&Below::default()).unwrap());
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
    let directory = tempfile::tempdir().unwrap();
    let entries = [(EntryType::Link, "shadow", "../../etc/shadow")];
    let context = Context::Available(Below::default());
    let error = above(&entries, directory.path(), context).unwrap_err();
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
    let whiteout = fs::metadata(outer.path().join("layer/d/gone")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
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
    let by_bytes = full(u64::MAX, 0);
    let error = unpack(
        bytes.as_slice(),
        directory.path(),
        by_bytes,
        Context::unknown(),
    );
    let error = error.unwrap_err();
    assert!(
        matches!(&error, UnpackError::OutOfSpace { path, unpacked: 5, source }
            if path == Path::new("b") && source.needed == 2 << 20),
        "{error}"
    );
    assert!(error.to_string().contains("at least 2 MiB more"), "{error}");
    let entries = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(entries, 1, "it was seen before it was begun");

    // Empty files fill a disk, too, if the number of inodes is limited.
    if rustix::fs::statvfs(directory.path()).unwrap().f_files == 0 {
        return;
    }
    let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let entries: Vec<_> = names.iter().map(|name| (FILE, name.as_str(), "")).collect();
    let bytes = archive(&entries);
    let by_files = full(0, u64::MAX);
    let error = unpack(
        bytes.as_slice(),
        directory.path(),
        by_files,
        Context::unknown(),
    );
    let error = error.unwrap_err();
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
        Context::unknown(),
    );
    assert!(matches!(result, Err(UnpackError::Io { .. })), "{result:?}");
}
