//! Netlink messages as bytes: headers, attributes, batches. Independent of the rules.

/// Length of a message header. The first field of the header is the length of the message.
const HEADER_BYTES: usize = 16;
/// Length of the family header between the message header and the attributes.
const FAMILY_HEADER_BYTES: usize = 4;
const NFNETLINK_V0: u8 = 0;
const SUBSYSTEM_NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// The family of messages for all families.
pub(crate) const FAMILY_UNSPECIFIED: u8 = 0;
const NLA_F_NESTED: u16 = 0x8000;

/// The address family of this program's tables.
pub(crate) const FAMILY_IPV4: u8 = 2;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;

/// Messages that the kernel applies as one transaction.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        let mut batch = Batch {
            bytes: Vec::with_capacity(4096),
            sequence: 0,
        };
        batch.header(BATCH_BEGIN, 0, FAMILY_UNSPECIFIED, SUBSYSTEM_NFTABLES);
        batch.finish(0);
        batch
    }

    /// Completes the batch and returns its bytes.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        let start = self.header(BATCH_END, 0, FAMILY_UNSPECIFIED, SUBSYSTEM_NFTABLES);
        self.finish(start);
        self.bytes
    }

    /// The bytes without an end message: the kernel checks such a batch, and then reverts it.
    pub(crate) fn into_trial(self) -> Vec<u8> {
        self.bytes
    }

    /// Adds an nftables message for IPv4; `fill` writes the attributes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.message_in(FAMILY_IPV4, kind, flags, fill);
    }

    /// Adds an nftables message for a family.
    pub(crate) fn message_in(
        &mut self,
        family: u8,
        kind: u16,
        flags: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.header(SUBSYSTEM_NFTABLES << 8 | kind, flags, family, 0);
        fill(&mut Attributes {
            bytes: &mut self.bytes,
        });
        self.finish(start);
    }

    fn header(&mut self, kind: u16, flags: u16, family: u8, resource: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, NFNETLINK_V0]);
        self.bytes.extend(resource.to_be_bytes());
        self.sequence += 1;
        start
    }

    fn finish(&mut self, start: usize) {
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The complete type of an nftables message.
pub(crate) fn nftables(kind: u16) -> u16 {
    SUBSYSTEM_NFTABLES << 8 | kind
}

/// A message that is not part of a batch. Its type contains the subsystem.
pub(crate) fn single(
    family: u8,
    kind: u16,
    flags: u16,
    fill: impl FnOnce(&mut Attributes<'_>),
) -> Vec<u8> {
    let mut batch = Batch {
        bytes: Vec::new(),
        sequence: 0,
    };
    let start = batch.header(kind, flags, family, 0);
    fill(&mut Attributes {
        bytes: &mut batch.bytes,
    });
    batch.finish(start);
    batch.bytes
}

/// Writes the attributes of a message, or nested attributes.
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// Adds an attribute with bytes.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend(value);
        self.close(start);
    }

    /// Adds attributes in the form in which they were received.
    pub(crate) fn raw(&mut self, attributes: &[u8]) {
        self.bytes.extend(attributes);
    }

    /// Adds a number in network byte order, as in all nftables messages.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Adds a text with a terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    /// Adds an attribute with nested attributes.
    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.open(kind | NLA_F_NESTED);
        fill(&mut Attributes { bytes: self.bytes });
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = self.bytes.len() - start;
        debug_assert!(
            length <= usize::from(u16::MAX),
            "attribute of {length} bytes"
        );
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The present length of the message.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A message of the kernel's response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KernelReply<'a> {
    /// Type of the message, including the subsystem.
    pub(crate) kind: u16,
    /// For an error: the error number, and the type of the rejected message.
    pub(crate) error: Option<(i32, u16)>,
    /// The family of the object.
    pub(crate) family: u8,
    pub(crate) attributes: &'a [u8],
}

/// Type of the message that acknowledges or rejects a request.
const NLMSG_ERROR: u16 = 2;
/// Type of the message at the end of a list.
pub(crate) const NLMSG_DONE: u16 = 3;

/// Splits received bytes into messages; an incomplete tail is dropped.
pub(crate) fn replies(mut bytes: &[u8]) -> Vec<KernelReply<'_>> {
    let mut replies = Vec::new();
    while let Some(header) = bytes.get(..HEADER_BYTES) {
        let length = usize::try_from(number(header, 0)).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(HEADER_BYTES..length) else {
            break;
        };
        let kind = short(header, 4);
        let error = (kind == NLMSG_ERROR && body.len() >= 4 + HEADER_BYTES)
            .then(|| (-number(body, 0).cast_signed(), short(body, 4 + 4) & 0xff));
        let object = kind >> 8 != 0;
        replies.push(KernelReply {
            kind,
            error,
            family: body.first().copied().unwrap_or_default(),
            attributes: body
                .get(FAMILY_HEADER_BYTES..)
                .filter(|_| object)
                .unwrap_or_default(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    replies
}

/// The value of an attribute.
pub(crate) fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let length = usize::from(short(attributes, 0));
        let value = attributes.get(4..length)?;
        if short(attributes, 2) & !NLA_F_NESTED == kind {
            return Some(value);
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    None
}

/// The text of an attribute, without its terminating zero.
pub(crate) fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let bytes = find(attributes, kind)?;
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).ok()
}

/// A number of an attribute, in network byte order.
pub(crate) fn big_number(attributes: &[u8], kind: u16) -> Option<u32> {
    find(attributes, kind)?
        .try_into()
        .ok()
        .map(u32::from_be_bytes)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

fn short(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::{Batch, replies};

    #[test]
    fn attributes_are_padded_and_carry_their_own_length() {
        let mut batch = Batch::new();
        batch.message(3, 0, |attributes| {
            attributes.nested(1, |inner| inner.text(2, "ab"));
        });
        let bytes = batch.into_bytes();
        let message = &bytes[20..];
        assert_eq!(message[..4], 32_u32.to_ne_bytes());
        assert_eq!(message[4..6], (10_u16 << 8 | 3).to_ne_bytes());
        assert_eq!(message[16..20], [2, 0, 0, 0]);
        assert_eq!(message[20..24], [12, 0, 1, 0x80], "nested attribute");
        assert_eq!(
            message[24..32],
            [7, 0, 2, 0, b'a', b'b', 0, 0],
            "text, zero, padding"
        );
    }

    #[test]
    fn errors_are_found_and_rubbish_is_survived() {
        let mut error = Vec::new();
        error.extend(36_u32.to_ne_bytes());
        error.extend(2_u16.to_ne_bytes());
        error.extend([0; 10]);
        error.extend((-17_i32).to_ne_bytes());
        error.extend([0; 4]);
        error.extend((10_u16 << 8 | 6).to_ne_bytes());
        error.extend([0; 10]);
        let parsed = replies(&error);
        assert_eq!(parsed[0].error, Some((17, 6)));
        for end in 0..error.len() {
            replies(&error[..end]);
        }
        assert!(replies(&[0; 64]).len() <= 64);
    }
}
