//! Writes streams, for tests.

use crate::checksum;
use crate::command::{Command, Time, attribute, kind};
use crate::reader::{MAGIC, VERSION};

/// A command in construction.
pub(crate) struct Written {
    number: u16,
    payload: Vec<u8>,
}

impl Written {
    pub(crate) fn new(number: u16) -> Self {
        Self {
            number,
            payload: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, number: u16, value: &[u8]) -> Self {
        self.payload.extend(number.to_le_bytes());
        let length = u16::try_from(value.len()).unwrap();
        self.payload.extend(length.to_le_bytes());
        self.payload.extend(value);
        self
    }

    pub(crate) fn with_payload(self, payload: &[u8]) -> Self {
        Self {
            payload: payload.to_vec(),
            ..self
        }
    }

    fn number(self, attribute: u16, value: u64) -> Self {
        self.with(attribute, &value.to_le_bytes())
    }

    fn time(self, attribute: u16, time: Time) -> Self {
        let mut bytes = time.seconds.to_le_bytes().to_vec();
        bytes.extend(time.nanoseconds.to_le_bytes());
        self.with(attribute, &bytes)
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = u32::try_from(self.payload.len())
            .unwrap()
            .to_le_bytes()
            .to_vec();
        bytes.extend(self.number.to_le_bytes());
        let sum = checksum::extend(0, &bytes);
        let sum = checksum::extend(checksum::extend(sum, &[0; 4]), &self.payload);
        bytes.extend(sum.to_le_bytes());
        bytes.extend(self.payload);
        bytes
    }
}

/// A stream with the commands, and the command `End`.
pub(crate) fn stream(head: &Command<'_>, commands: &[Command<'_>]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    for command in [head].into_iter().chain(commands).chain([&Command::End]) {
        bytes.extend(written(command).into_bytes());
    }
    bytes
}

fn written(command: &Command<'_>) -> Written {
    let at = |number, path: &crate::path::StreamPath<'_>| {
        Written::new(number).with(attribute::PATH, path.as_bytes())
    };
    match command {
        Command::Subvolume { snapshot } => {
            Written::new(kind::SUBVOLUME).with(attribute::UUID, &snapshot.0)
        }
        Command::Snapshot { snapshot, base } => Written::new(kind::SNAPSHOT)
            .with(attribute::UUID, &snapshot.0)
            .with(attribute::CLONE_UUID, &base.0),
        Command::MakeFile(path) => at(kind::MAKE_FILE, path),
        Command::MakeDirectory(path) => at(kind::MAKE_DIRECTORY, path),
        Command::MakeDevice(path) => at(kind::MAKE_DEVICE, path),
        Command::MakePipe(path) => at(kind::MAKE_PIPE, path),
        Command::MakeSocket(path) => at(kind::MAKE_SOCKET, path),
        Command::MakeLink { path, target } => {
            at(kind::MAKE_LINK, path).with(attribute::PATH_LINK, target)
        }
        Command::Rename { path, to } => {
            at(kind::RENAME, path).with(attribute::PATH_TO, to.as_bytes())
        }
        Command::Link { path, file } => {
            at(kind::LINK, path).with(attribute::PATH_LINK, file.as_bytes())
        }
        Command::Unlink(path) => at(kind::UNLINK, path),
        Command::RemoveDirectory(path) => at(kind::REMOVE_DIRECTORY, path),
        Command::SetAttribute { path, name, value } => at(kind::SET_ATTRIBUTE, path)
            .with(attribute::ATTRIBUTE_NAME, name)
            .with(attribute::ATTRIBUTE_VALUE, value),
        Command::RemoveAttribute { path, name } => {
            at(kind::REMOVE_ATTRIBUTE, path).with(attribute::ATTRIBUTE_NAME, name)
        }
        Command::Write { path, offset, data } => at(kind::WRITE, path)
            .number(attribute::OFFSET, *offset)
            .with(attribute::DATA, data),
        Command::Clone {
            from,
            from_path,
            from_offset,
            path,
            offset,
            length,
        } => at(kind::CLONE, path)
            .number(attribute::OFFSET, *offset)
            .number(attribute::CLONE_LENGTH, *length)
            .with(attribute::CLONE_UUID, &from.0)
            .with(attribute::CLONE_PATH, from_path.as_bytes())
            .number(attribute::CLONE_OFFSET, *from_offset),
        Command::Truncate { path, size } => at(kind::TRUNCATE, path).number(attribute::SIZE, *size),
        Command::SetMode { path, mode } => {
            at(kind::SET_MODE, path).number(attribute::MODE, u64::from(*mode))
        }
        Command::SetOwner { path, user, group } => at(kind::SET_OWNER, path)
            .number(attribute::USER, u64::from(*user))
            .number(attribute::GROUP, u64::from(*group)),
        Command::SetTimes {
            path,
            accessed,
            modified,
        } => at(kind::SET_TIMES, path)
            .time(attribute::ACCESSED, *accessed)
            .time(attribute::MODIFIED, *modified),
        Command::End => Written::new(kind::END),
        Command::UpdateExtent => Written::new(kind::UPDATE_EXTENT),
    }
}
