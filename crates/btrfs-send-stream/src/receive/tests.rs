use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use super::*;
use crate::written::stream;

const ONE: Uuid = Uuid([1; 16]);
const TWO: Uuid = Uuid([2; 16]);

fn path(text: &str) -> StreamPath<'_> {
    StreamPath::new(text.as_bytes()).unwrap()
}

fn write<'a>(at: &'a str, data: &'a str) -> Command<'a> {
    Command::Write {
        path: path(at),
        offset: 0,
        data: data.as_bytes(),
    }
}

fn apply(
    to: &Path,
    head: &Command<'_>,
    commands: &[Command<'_>],
    base: Option<&Base>,
) -> Result<Uuid, ReceiveError> {
    let bytes = stream(head, commands);
    receive(&bytes[..], &File::open(to).unwrap(), base)
}

fn whole(to: &Path, commands: &[Command<'_>]) -> Result<Uuid, ReceiveError> {
    apply(to, &Command::Subvolume { snapshot: ONE }, commands, None)
}

#[test]
fn a_tree_is_made_as_the_stream_says() {
    let to = tempfile::tempdir().unwrap();
    let moment = |seconds| Time {
        seconds,
        nanoseconds: 5,
    };
    let times = |at| Command::SetTimes {
        path: path(at),
        accessed: moment(10),
        modified: moment(20),
    };
    let received = whole(
        to.path(),
        &[
            Command::MakeDirectory(path("o257")),
            Command::Rename {
                path: path("o257"),
                to: path("dir"),
            },
            Command::MakeFile(path("dir/file")),
            write("dir/file", "0123456789"),
            Command::Write {
                path: path("dir/file"),
                offset: 12,
                data: b"ab",
            },
            Command::Truncate {
                path: path("dir/file"),
                size: 13,
            },
            Command::SetMode {
                path: path("dir/file"),
                mode: 0o104_640,
            },
            Command::Link {
                path: path("second"),
                file: path("dir/file"),
            },
            Command::MakeLink {
                path: path("link"),
                target: b"/etc/passwd",
            },
            times("link"),
            Command::MakePipe(path("pipe")),
            Command::MakeSocket(path("socket")),
            Command::MakeFile(path("copy")),
            Command::Clone {
                path: path("copy"),
                offset: 0,
                length: 4,
                from: ONE,
                from_path: path("second"),
                from_offset: 2,
            },
            Command::MakeFile(path("gone")),
            Command::Unlink(path("gone")),
            Command::MakeDirectory(path("gone")),
            Command::RemoveDirectory(path("gone")),
            times("dir/file"),
            times(""),
        ],
    );
    assert_eq!(received.unwrap(), ONE);
    let at = |name: &str| to.path().join(name);
    let facts = fs::metadata(at("second")).unwrap();
    assert_eq!(fs::read(at("dir/file")).unwrap(), b"0123456789\0\0a");
    assert_eq!((facts.mode() & 0o7777, facts.nlink()), (0o4640, 2));
    assert_eq!((facts.mtime(), facts.mtime_nsec()), (20, 5));
    assert_eq!(fs::read(at("copy")).unwrap(), b"2345");
    let link = fs::symlink_metadata(at("link")).unwrap();
    assert!(link.is_symlink() && link.mtime() == 20);
    assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
    assert!(fs::metadata(at("socket")).unwrap().file_type().is_socket());
    assert!(!at("gone").exists());
    assert_eq!(fs::metadata(to.path()).unwrap().mtime(), 20);
}

#[test]
fn a_difference_needs_its_base() {
    let to = tempfile::tempdir().unwrap();
    let former = tempfile::tempdir().unwrap();
    fs::write(former.path().join("old"), "kept here").unwrap();
    let base = |snapshot| Base {
        snapshot,
        directory: File::open(former.path()).unwrap(),
    };
    let head = Command::Snapshot {
        snapshot: TWO,
        base: ONE,
    };
    let commands = [
        Command::MakeFile(path("new")),
        Command::Clone {
            path: path("new"),
            offset: 0,
            length: 4,
            from: ONE,
            from_path: path("old"),
            from_offset: 0,
        },
    ];
    let into = |base: Option<&Base>| apply(to.path(), &head, &commands, base);
    assert!(matches!(into(None), Err(ReceiveError::OtherBase)));
    assert!(matches!(
        into(Some(&base(TWO))),
        Err(ReceiveError::OtherBase)
    ));
    assert_eq!(into(Some(&base(ONE))).unwrap(), TWO);
    assert_eq!(fs::read(to.path().join("new")).unwrap(), b"kept");
    let all = Command::Subvolume { snapshot: TWO };
    let refused = apply(to.path(), &all, &[], Some(&base(ONE)));
    assert!(matches!(refused, Err(ReceiveError::OtherBase)));
}

/// A stream of a node that was taken over.
#[test]
fn links_in_the_tree_lead_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "kept").unwrap();
    let target = outside.path().as_os_str().as_bytes();
    let link = |at| Command::MakeLink {
        path: path(at),
        target,
    };
    let owner = |at| Command::SetOwner {
        path: path(at),
        user: 4711,
        group: 4711,
    };
    let through: [Command<'_>; 12] = [
        write("link/file", "lost"),
        Command::MakeFile(path("link/new")),
        Command::MakeDirectory(path("link/new")),
        Command::Unlink(path("link/file")),
        Command::Truncate {
            path: path("link/file"),
            size: 0,
        },
        Command::SetMode {
            path: path("link/file"),
            mode: 0o777,
        },
        Command::SetMode {
            path: path("link"),
            mode: 0o777,
        },
        owner("link/file"),
        Command::Rename {
            path: path("link/file"),
            to: path("taken"),
        },
        Command::Link {
            path: path("taken"),
            file: path("link/file"),
        },
        Command::Clone {
            path: path("own"),
            offset: 0,
            length: 1,
            from: ONE,
            from_path: path("link/file"),
            from_offset: 0,
        },
        Command::SetAttribute {
            path: path("link/file"),
            name: b"user.a",
            value: b"b",
        },
    ];
    for command in through {
        let to = tempfile::tempdir().unwrap();
        let file = Command::MakeFile(path("own"));
        let done = whole(to.path(), &[file, link("link"), command.clone()]);
        assert!(done.is_err(), "{command:?}");
        let content = fs::read(outside.path().join("file")).unwrap();
        assert_eq!(content, b"kept", "{command:?}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_ne!(fs::metadata(outside.path()).unwrap().uid(), 4711);
    }
    // A last link is changed itself.
    let to = tempfile::tempdir().unwrap();
    whole(to.path(), &[link("link"), owner("link")]).unwrap();
    let changed = fs::symlink_metadata(to.path().join("link")).unwrap();
    assert_eq!(changed.uid(), 4711);
    assert_ne!(fs::metadata(outside.path()).unwrap().uid(), 4711);
}

#[test]
fn pipes_and_devices_are_not_opened() {
    let to = tempfile::tempdir().unwrap();
    let pipe = Command::MakePipe(path("pipe"));
    assert!(whole(to.path(), &[pipe, write("pipe", "a")]).is_err());
    let device = whole(to.path(), &[Command::MakeDevice(path("disk"))]);
    let Err(ReceiveError::Entry { source, .. }) = device else {
        panic!("{device:?}");
    };
    assert_eq!(source.kind(), io::ErrorKind::Unsupported);
    for command in [
        Command::MakeDirectory(path("")),
        Command::RemoveDirectory(path("")),
        write("", "a"),
    ] {
        assert!(whole(to.path(), &[command]).is_err());
    }
}

#[test]
fn a_file_that_took_the_place_of_another_is_not_written() {
    let to = tempfile::tempdir().unwrap();
    let make = |at| Command::MakeFile(path(at));
    let rename = |from, to| Command::Rename {
        path: path(from),
        to: path(to),
    };
    let commands = [
        make("a"),
        make("b"),
        write("a", "first"),
        rename("a", "c"),
        rename("b", "a"),
        write("a", "second"),
    ];
    whole(to.path(), &commands).unwrap();
    assert_eq!(fs::read(to.path().join("c")).unwrap(), b"first");
    assert_eq!(fs::read(to.path().join("a")).unwrap(), b"second");
}

#[test]
fn a_link_that_was_there_before_is_not_followed() {
    let to = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), to.path().join("link")).unwrap();
    assert!(whole(to.path(), &[Command::MakeFile(path("link/a"))]).is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}
