//! The commands of a stream and their attributes.

use crate::path::StreamPath;
use crate::reader::StreamError;

const NANOSECONDS: u32 = 1_000_000_000;

/// The UUID of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

/// A timestamp of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    /// Seconds since 1970; negative before.
    pub(crate) seconds: i64,
    /// Below 1,000,000,000.
    pub(crate) nanoseconds: u32,
}

/// A command of a send stream of version 1 (`fs/btrfs/send.h` of Linux).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    /// The stream contains a whole snapshot.
    Subvolume {
        snapshot: Uuid,
    },
    /// The stream contains the difference to the snapshot `base`.
    Snapshot {
        snapshot: Uuid,
        base: Uuid,
    },
    /// Creates an empty file.
    MakeFile(StreamPath<'a>),
    /// Creates a directory.
    MakeDirectory(StreamPath<'a>),
    /// Creates a device node.
    MakeDevice(StreamPath<'a>),
    /// Creates a named pipe.
    MakePipe(StreamPath<'a>),
    MakeSocket(StreamPath<'a>),
    /// Creates a symbolic link with any target.
    MakeLink {
        path: StreamPath<'a>,
        target: &'a [u8],
    },
    /// Renames a file.
    Rename {
        path: StreamPath<'a>,
        to: StreamPath<'a>,
    },
    /// Adds a hard link to the file at `file`.
    Link {
        path: StreamPath<'a>,
        file: StreamPath<'a>,
    },
    /// Removes a name of a file.
    Unlink(StreamPath<'a>),
    /// Removes an empty directory.
    RemoveDirectory(StreamPath<'a>),
    /// Sets an extended attribute.
    SetAttribute {
        path: StreamPath<'a>,
        name: &'a [u8],
        value: &'a [u8],
    },
    /// Removes an extended attribute.
    RemoveAttribute {
        path: StreamPath<'a>,
        name: &'a [u8],
    },
    /// Writes into a file.
    Write {
        path: StreamPath<'a>,
        offset: u64,
        data: &'a [u8],
    },
    /// Copies a part of a file, from the snapshot with the UUID `from`.
    Clone {
        path: StreamPath<'a>,
        offset: u64,
        length: u64,
        from: Uuid,
        from_path: StreamPath<'a>,
        from_offset: u64,
    },
    /// Sets the size of a file.
    Truncate {
        path: StreamPath<'a>,
        size: u64,
    },
    /// Sets the permission bits.
    SetMode {
        path: StreamPath<'a>,
        mode: u32,
    },
    /// Sets user and group.
    SetOwner {
        path: StreamPath<'a>,
        user: u32,
        group: u32,
    },
    /// Sets the times of the last access and of the last modification.
    SetTimes {
        path: StreamPath<'a>,
        accessed: Time,
        modified: Time,
    },
    /// The end of the snapshot.
    End,
    /// An extent changed; only streams without data have this command.
    UpdateExtent,
}

/// The numbers of commands on the wire (`enum btrfs_send_cmd`).
pub(crate) mod kind {
    pub const SUBVOLUME: u16 = 1;
    pub const SNAPSHOT: u16 = 2;
    pub const MAKE_FILE: u16 = 3;
    pub const MAKE_DIRECTORY: u16 = 4;
    pub const MAKE_DEVICE: u16 = 5;
    pub const MAKE_PIPE: u16 = 6;
    pub const MAKE_SOCKET: u16 = 7;
    pub const MAKE_LINK: u16 = 8;
    pub const RENAME: u16 = 9;
    pub const LINK: u16 = 10;
    pub const UNLINK: u16 = 11;
    pub const REMOVE_DIRECTORY: u16 = 12;
    pub const SET_ATTRIBUTE: u16 = 13;
    pub const REMOVE_ATTRIBUTE: u16 = 14;
    pub const WRITE: u16 = 15;
    pub const CLONE: u16 = 16;
    pub const TRUNCATE: u16 = 17;
    pub const SET_MODE: u16 = 18;
    pub const SET_OWNER: u16 = 19;
    pub const SET_TIMES: u16 = 20;
    pub const END: u16 = 21;
    pub const UPDATE_EXTENT: u16 = 22;
}

/// The numbers of attributes on the wire (`BTRFS_SEND_A_*`).
pub(crate) mod attribute {
    pub const UUID: u16 = 1;
    pub const SIZE: u16 = 4;
    pub const MODE: u16 = 5;
    pub const USER: u16 = 6;
    pub const GROUP: u16 = 7;
    pub const MODIFIED: u16 = 10;
    pub const ACCESSED: u16 = 11;
    pub const ATTRIBUTE_NAME: u16 = 13;
    pub const ATTRIBUTE_VALUE: u16 = 14;
    pub const PATH: u16 = 15;
    pub const PATH_TO: u16 = 16;
    pub const PATH_LINK: u16 = 17;
    pub const OFFSET: u16 = 18;
    pub const DATA: u16 = 19;
    pub const CLONE_UUID: u16 = 20;
    pub const CLONE_PATH: u16 = 22;
    pub const CLONE_OFFSET: u16 = 23;
    pub const CLONE_LENGTH: u16 = 24;
    /// The highest number of version 1.
    pub const LAST: u16 = 24;
}

/// The attributes of one command, by number.
struct Attributes<'a> {
    command: u16,
    values: [Option<&'a [u8]>; attribute::LAST as usize + 1],
}

impl<'a> Attributes<'a> {
    fn split(command: u16, mut rest: &'a [u8]) -> Result<Self, StreamError> {
        let mut values = [None; attribute::LAST as usize + 1];
        while !rest.is_empty() {
            let head = rest.split_first_chunk::<4>();
            let ([a, b, c, d], after) = head.ok_or(StreamError::Length)?;
            let (number, length) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
            let value = after.split_at_checked(usize::from(length));
            let (value, after) = value.ok_or(StreamError::Length)?;
            let slot = values.get_mut(usize::from(number));
            let slot = slot.ok_or(StreamError::Attribute { command, number })?;
            if slot.replace(value).is_some() {
                return Err(StreamError::Attribute { command, number });
            }
            rest = after;
        }
        Ok(Self { command, values })
    }

    fn wrong(&self, number: u16) -> StreamError {
        let command = self.command;
        StreamError::Attribute { command, number }
    }

    fn bytes(&self, number: u16) -> Result<&'a [u8], StreamError> {
        self.values[usize::from(number)].ok_or_else(|| self.wrong(number))
    }

    fn path_in(&self, number: u16) -> Result<StreamPath<'a>, StreamError> {
        StreamPath::new(self.bytes(number)?).ok_or_else(|| self.wrong(number))
    }

    fn path(&self) -> Result<StreamPath<'a>, StreamError> {
        self.path_in(attribute::PATH)
    }

    /// Bytes of a name or a link's target: not empty, and without zero bytes.
    fn text(&self, number: u16) -> Result<&'a [u8], StreamError> {
        let bytes = self.bytes(number)?;
        match bytes.is_empty() || bytes.contains(&0) {
            false => Ok(bytes),
            true => Err(self.wrong(number)),
        }
    }

    fn array<const N: usize>(&self, number: u16) -> Result<[u8; N], StreamError> {
        let bytes = self.bytes(number)?;
        bytes.try_into().map_err(|_| self.wrong(number))
    }

    fn number(&self, number: u16) -> Result<u64, StreamError> {
        self.array(number).map(u64::from_le_bytes)
    }

    /// An offset in a file. The kernel uses signed offsets, so the high bit must be zero.
    fn position(&self, number: u16) -> Result<u64, StreamError> {
        let position = self.number(number)?;
        match i64::try_from(position) {
            Ok(_) => Ok(position),
            Err(_) => Err(self.wrong(number)),
        }
    }

    fn small(&self, number: u16) -> Result<u32, StreamError> {
        u32::try_from(self.number(number)?).map_err(|_| self.wrong(number))
    }

    fn uuid(&self, number: u16) -> Result<Uuid, StreamError> {
        self.array(number).map(Uuid)
    }

    fn time(&self, number: u16) -> Result<Time, StreamError> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.array::<12>(number)?;
        let time = Time {
            seconds: i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            nanoseconds: u32::from_le_bytes([i, j, k, l]),
        };
        match time.nanoseconds < NANOSECONDS {
            true => Ok(time),
            false => Err(self.wrong(number)),
        }
    }
}

/// Decodes the payload of a command.
pub(crate) fn decode(number: u16, payload: &[u8]) -> Result<Command<'_>, StreamError> {
    let attributes = Attributes::split(number, payload)?;
    Ok(match number {
        kind::SUBVOLUME => Command::Subvolume {
            snapshot: attributes.uuid(attribute::UUID)?,
        },
        kind::SNAPSHOT => Command::Snapshot {
            snapshot: attributes.uuid(attribute::UUID)?,
            base: attributes.uuid(attribute::CLONE_UUID)?,
        },
        kind::MAKE_FILE => Command::MakeFile(attributes.path()?),
        kind::MAKE_DIRECTORY => Command::MakeDirectory(attributes.path()?),
        kind::MAKE_DEVICE => Command::MakeDevice(attributes.path()?),
        kind::MAKE_PIPE => Command::MakePipe(attributes.path()?),
        kind::MAKE_SOCKET => Command::MakeSocket(attributes.path()?),
        kind::MAKE_LINK => Command::MakeLink {
            path: attributes.path()?,
            target: attributes.text(attribute::PATH_LINK)?,
        },
        kind::RENAME => Command::Rename {
            path: attributes.path()?,
            to: attributes.path_in(attribute::PATH_TO)?,
        },
        kind::LINK => Command::Link {
            path: attributes.path()?,
            file: attributes.path_in(attribute::PATH_LINK)?,
        },
        kind::UNLINK => Command::Unlink(attributes.path()?),
        kind::REMOVE_DIRECTORY => Command::RemoveDirectory(attributes.path()?),
        kind::SET_ATTRIBUTE => Command::SetAttribute {
            path: attributes.path()?,
            name: attributes.text(attribute::ATTRIBUTE_NAME)?,
            value: attributes.bytes(attribute::ATTRIBUTE_VALUE)?,
        },
        kind::REMOVE_ATTRIBUTE => Command::RemoveAttribute {
            path: attributes.path()?,
            name: attributes.text(attribute::ATTRIBUTE_NAME)?,
        },
        kind::WRITE => Command::Write {
            path: attributes.path()?,
            offset: attributes.position(attribute::OFFSET)?,
            data: attributes.bytes(attribute::DATA)?,
        },
        kind::CLONE => Command::Clone {
            path: attributes.path()?,
            offset: attributes.position(attribute::OFFSET)?,
            length: attributes.position(attribute::CLONE_LENGTH)?,
            from: attributes.uuid(attribute::CLONE_UUID)?,
            from_path: attributes.path_in(attribute::CLONE_PATH)?,
            from_offset: attributes.position(attribute::CLONE_OFFSET)?,
        },
        kind::TRUNCATE => Command::Truncate {
            path: attributes.path()?,
            size: attributes.position(attribute::SIZE)?,
        },
        kind::SET_MODE => Command::SetMode {
            path: attributes.path()?,
            mode: attributes.small(attribute::MODE)?,
        },
        kind::SET_OWNER => Command::SetOwner {
            path: attributes.path()?,
            user: attributes.small(attribute::USER)?,
            group: attributes.small(attribute::GROUP)?,
        },
        kind::SET_TIMES => Command::SetTimes {
            path: attributes.path()?,
            accessed: attributes.time(attribute::ACCESSED)?,
            modified: attributes.time(attribute::MODIFIED)?,
        },
        kind::END => Command::End,
        kind::UPDATE_EXTENT => Command::UpdateExtent,
        number => return Err(StreamError::Command(number)),
    })
}
