//! The binary format of a stream: a header, then commands with lengths and checksums.

use std::io::{self, Read};

use crate::checksum;
use crate::command::{self, Command};

/// The first bytes of every stream.
pub(crate) const MAGIC: &[u8; 13] = b"btrfs-stream\0";
/// The version of the protocol.
pub(crate) const VERSION: u32 = 1;
/// Length of a command's header: length, number, checksum.
pub(crate) const HEADER_BYTES: usize = 10;
/// The size of the kernel's buffer for a command of version 1, including the header.
const COMMAND_BYTES_MAX: usize = 64 << 10;

/// The reason why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The input failed, or ended before the command `End`.
    #[error("read the stream")]
    Io(#[from] io::Error),
    /// The input is not a send stream.
    #[error("no stream of btrfs")]
    Magic,
    /// Another version of the protocol.
    #[error("version {0} of the stream is unknown")]
    Version(u32),
    /// The checksum of a command is wrong.
    #[error("the stream was changed: a checksum is wrong")]
    Checksum,
    /// A length exceeds the command or the maximum.
    #[error("a length in the stream is wrong")]
    Length,
    /// A command that version 1 does not have.
    #[error("command {0} of the stream is unknown")]
    Command(u16),
    /// An attribute is missing, occurs twice, or is malformed.
    #[error("attribute {number} of command {command} in the stream is wrong")]
    Attribute {
        command: u16,
        /// The number of the attribute.
        number: u16,
    },
    /// The first command is no snapshot, or commands follow the end.
    #[error("commands of the stream are out of order")]
    Order,
}

/// The position in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Start,
    /// Before the first command, which must be a snapshot.
    Head,
    Body,
    End,
}

/// Reads the commands of one send stream and checks their lengths and checksums.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    payload: Vec<u8>,
    position: Position,
}

impl<R: Read> Reader<R> {
    /// A reader that expects the stream's header first.
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            payload: Vec::new(),
            position: Position::Start,
        }
    }

    /// The next command; `None` after the command `End` and at the end of the input.
    ///
    /// *Errors.* The stream is truncated, changed or malformed.
    pub(crate) fn next_command(&mut self) -> Result<Option<Command<'_>>, StreamError> {
        match self.position {
            Position::Start => {
                self.read_head()?;
                self.position = Position::Head;
            }
            Position::End => {
                let mut byte = [0];
                return match self.input.read(&mut byte)? {
                    0 => Ok(None),
                    _ => Err(StreamError::Order),
                };
            }
            Position::Head | Position::Body => {}
        }
        let number = self.read_frame()?;
        let command = command::decode(number, &self.payload)?;
        let is_head = matches!(
            command,
            Command::Subvolume { .. } | Command::Snapshot { .. }
        );
        self.position = match (self.position, is_head) {
            (Position::Body, false) if command == Command::End => Position::End,
            (Position::Head, true) | (Position::Body, false) => Position::Body,
            _ => return Err(StreamError::Order),
        };
        Ok(Some(command))
    }

    fn read_head(&mut self) -> Result<(), StreamError> {
        let mut magic = [0; MAGIC.len()];
        self.input.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(StreamError::Magic);
        }
        let mut version = [0; 4];
        self.input.read_exact(&mut version)?;
        match u32::from_le_bytes(version) {
            VERSION => Ok(()),
            version => Err(StreamError::Version(version)),
        }
    }

    /// Reads one command and returns its number.
    fn read_frame(&mut self) -> Result<u16, StreamError> {
        let mut header = [0; HEADER_BYTES];
        self.input.read_exact(&mut header)?;
        let [a, b, c, d, e, f, sum @ ..] = header;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d]));
        let length = length.ok().filter(|length| *length <= COMMAND_BYTES_MAX);
        let length = length.ok_or(StreamError::Length)?;
        self.payload.resize(length, 0);
        self.input.read_exact(&mut self.payload)?;
        header[6..].fill(0);
        let computed = checksum::extend(checksum::extend(0, &header), &self.payload);
        match computed == u32::from_le_bytes(sum) {
            true => Ok(u16::from_le_bytes([e, f])),
            false => Err(StreamError::Checksum),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::{Time, Uuid};
    use crate::decoders::stream as stream_of;
    use crate::path::StreamPath;
    use crate::written::{Written, stream};

    const ONE: Uuid = Uuid([1; 16]);

    fn path(bytes: &[u8]) -> StreamPath<'_> {
        StreamPath::new(bytes).unwrap()
    }

    fn every_command() -> Vec<Command<'static>> {
        let at = path(b"a/b");
        let time = |seconds| Time {
            seconds,
            nanoseconds: 999_999_999,
        };
        vec![
            Command::MakeFile(at),
            Command::MakeDirectory(at),
            Command::MakeDevice(at),
            Command::MakePipe(at),
            Command::MakeSocket(at),
            Command::MakeLink {
                path: at,
                target: b"/etc/..",
            },
            Command::Rename {
                path: at,
                to: path(b"c"),
            },
            Command::Link {
                path: at,
                file: path(b"c"),
            },
            Command::Unlink(at),
            Command::RemoveDirectory(at),
            Command::SetAttribute {
                path: path(b""),
                name: b"user.a",
                value: b"",
            },
            Command::RemoveAttribute {
                path: at,
                name: b"user.a",
            },
            Command::Write {
                path: at,
                offset: 1 << 40,
                data: &[7; 4 << 10],
            },
            Command::Clone {
                path: at,
                offset: 1,
                length: 2,
                from: ONE,
                from_path: path(b"c"),
                from_offset: 3,
            },
            Command::Truncate { path: at, size: 4 },
            Command::SetMode {
                path: at,
                mode: 0o4711,
            },
            Command::SetOwner {
                path: at,
                user: 1,
                group: u32::MAX,
            },
            Command::SetTimes {
                path: at,
                accessed: time(-1),
                modified: time(i64::MAX),
            },
            Command::UpdateExtent,
        ]
    }

    fn whole() -> Vec<u8> {
        stream(&Command::Subvolume { snapshot: ONE }, &every_command())
    }

    #[test]
    fn commands_are_read_as_they_were_written() {
        let bytes = whole();
        let mut reader = Reader::new(&bytes[..]);
        let head = reader.next_command().unwrap();
        assert_eq!(head, Some(Command::Subvolume { snapshot: ONE }));
        for expected in every_command() {
            assert_eq!(reader.next_command().unwrap(), Some(expected));
        }
        assert_eq!(reader.next_command().unwrap(), Some(Command::End));
        for _ in 0..2 {
            assert_eq!(reader.next_command().unwrap(), None);
        }
    }

    #[test]
    fn a_truncated_stream_is_refused_wherever_it_ends() {
        let bytes = whole();
        for length in 0..bytes.len() {
            // The data of the one large command are much alike.
            if length % 97 == 0 || bytes.len() - length < 2000 || length < 2000 {
                assert!(stream_of(&bytes[..length]).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn a_stream_has_one_snapshot_and_one_end() {
        let head = Command::Subvolume { snapshot: ONE };
        let again = stream(&head, std::slice::from_ref(&head));
        assert!(matches!(stream_of(&again), Err(StreamError::Order)));
        let no_head = stream(&Command::Unlink(path(b"a")), &[]);
        assert!(matches!(stream_of(&no_head), Err(StreamError::Order)));
        let mut more = stream(&head, &[]);
        more.push(0);
        assert!(matches!(stream_of(&more), Err(StreamError::Order)));
        let two_ends = stream(&head, &[Command::End]);
        assert!(matches!(stream_of(&two_ends), Err(StreamError::Order)));
    }

    #[test]
    fn heads_of_other_streams_are_refused() {
        let mut bytes = whole();
        bytes[13] = 2;
        assert!(matches!(stream_of(&bytes), Err(StreamError::Version(2))));
        bytes[0] = b'B';
        assert!(matches!(stream_of(&bytes), Err(StreamError::Magic)));
    }

    #[test]
    fn malformed_attributes_are_refused() {
        use crate::command::{attribute, kind};
        let read = |command: Written| {
            let mut bytes = stream(&Command::Subvolume { snapshot: ONE }, &[]);
            let end = bytes.len() - HEADER_BYTES;
            bytes.truncate(end);
            bytes.extend(command.into_bytes());
            stream_of(&bytes).unwrap_err()
        };
        let with_path = |path: &[u8]| Written::new(kind::MAKE_FILE).with(attribute::PATH, path);
        let refused = [
            with_path(b"../a"),
            with_path(b"a").with(attribute::PATH, b"b"),
            with_path(b"a").with(attribute::LAST + 1, b"b"),
            Written::new(kind::MAKE_FILE),
            Written::new(kind::TRUNCATE)
                .with(attribute::PATH, b"a")
                .with(attribute::SIZE, &[0; 4]),
            Written::new(kind::TRUNCATE)
                .with(attribute::PATH, b"a")
                .with(attribute::SIZE, &u64::MAX.to_le_bytes()),
            Written::new(kind::SET_OWNER)
                .with(attribute::PATH, b"a")
                .with(attribute::USER, &(1_u64 << 32).to_le_bytes())
                .with(attribute::GROUP, &[0; 8]),
            Written::new(kind::SET_TIMES)
                .with(attribute::PATH, b"a")
                .with(attribute::ACCESSED, &[0xff; 12])
                .with(attribute::MODIFIED, &[0; 12]),
            Written::new(kind::MAKE_LINK)
                .with(attribute::PATH, b"a")
                .with(attribute::PATH_LINK, b"b\0"),
        ];
        for command in refused {
            let error = read(command);
            assert!(matches!(error, StreamError::Attribute { .. }), "{error:?}");
        }
        let long = Written::new(kind::END).with_payload(&[0; COMMAND_BYTES_MAX + 1]);
        assert!(matches!(read(long), StreamError::Length));
        let short = Written::new(kind::UNLINK).with_payload(&[15, 0, 9, 0, b'a']);
        assert!(matches!(read(short), StreamError::Length));
        let unknown = Written::new(26);
        assert!(matches!(read(unknown), StreamError::Command(26)));
    }

    proptest! {
        #[test]
        fn changed_bits_are_noticed(at in 0_usize..10_000, bit in 0_u8..8) {
            let mut bytes = whole();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(stream_of(&bytes).is_err());
        }

        #[test]
        fn writes_come_back(
            names in prop::collection::vec("[a-z.]{1,9}x", 1..5),
            offset in 0_u64..1 << 62,
            data in prop::collection::vec(any::<u8>(), 0..3000),
            user: u32,
        ) {
            let name = names.join("/");
            let path = StreamPath::new(name.as_bytes()).unwrap();
            let commands = [
                Command::Write { path, offset, data: &data },
                Command::SetOwner { path, user, group: 0 },
            ];
            let head = Command::Snapshot { snapshot: ONE, base: Uuid([2; 16]) };
            let bytes = stream(&head, &commands);
            let mut reader = Reader::new(&bytes[..]);
            prop_assert_eq!(reader.next_command().unwrap(), Some(head));
            for command in commands {
                prop_assert_eq!(reader.next_command().unwrap(), Some(command));
            }
            prop_assert_eq!(reader.next_command().unwrap(), Some(Command::End));
        }

        #[test]
        fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut stream = MAGIC.to_vec();
            stream.extend(VERSION.to_le_bytes());
            stream.extend(bytes);
            prop_assert!(stream_of(&stream).is_err());
        }
    }
}
